//! The setup process on its own, for this crate's tests and benchmarks. The product has it inside `clawkeep`.

fn main() -> std::process::ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(clawkeep_isolation::TRIAL_COMMAND.as_ref()) {
        return clawkeep_isolation::sandbox_trial_main();
    }
    clawkeep_isolation::sandbox_init_main()
}
