//! `clawkeep daemon`: what the command line starts in the background. Not for people, so not in the help, and
//! without the parser, so that it stays small.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clawkeep_daemon::api::Request;
use clawkeep_daemon::{Role, connect, daemon_main, parent_main};

/// `daemon --home DIR` and one of `--parent`, `--serve`, `--service`, `--stop`.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(2).collect();
    let [option, home, role] = &args[..] else { return usage() };
    if option != "--home" {
        return usage();
    }
    let home = PathBuf::from(home);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("clawkeep: cannot find this program's own file: {error}");
            return ExitCode::FAILURE;
        }
    };
    match role.to_str() {
        Some("--parent") => parent_main(&home, &program),
        Some("--serve") => daemon_main(&home, Role::OnDemand),
        Some("--service") => daemon_main(&home, Role::Service),
        Some("--stop") => stop(&home),
        _ => usage(),
    }
}

/// End the daemon of this home, and so its parent. The sandboxes go on.
fn stop(home: &std::path::Path) -> ExitCode {
    match connect(home) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(mut client)) => match client.ask(&Request::Shutdown, |_| ()) {
            // It may be gone before its answer is through: that is what was asked for.
            Ok(_) => ExitCode::SUCCESS,
            Err(failure) if failure.code == "daemon-gone" => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("clawkeep: {failure}");
                ExitCode::FAILURE
            }
        },
        Err(failure) => {
            eprintln!("clawkeep: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: clawkeep daemon --home DIR --parent|--serve|--service|--stop");
    ExitCode::from(2)
}
