//! The setup process on its own, for this crate's tests and benchmarks. The product has it inside `clawkeep`.

fn main() -> std::process::ExitCode {
    clawkeep_isolation::sandbox_init_main()
}
