//! A command in a sandbox: started by the daemon, its input and output carried by this process.

mod pump;

use std::io;
use std::os::fd::AsFd;

use clawkeep_daemon::api::{Answer, Failure, Request, Value};
use clawkeep_plan::SandboxName;

use crate::host::{Host, unexpected};
use crate::problem::{Outcome, Problem};
use crate::terminal;
use pump::{Inside, Pump};

/// How often a session is taken up again over a daemon that dies.
const ATTEMPTS: u32 = 20;

/// Run this in the sandbox (nothing: a login shell) and give its exit status.
///
/// Our own standard input and output are never handed inside, though that would spare the copying. Whoever
/// holds a descriptor of the user's terminal can type into it, read what is typed, and leave it in any mode;
/// one of a file can be reopened through /proc with other rights. Inside there are only pipes, or a terminal of
/// the sandbox's own.
///
/// # Errors
/// When it could not be started, or its end is not known.
pub fn run(host: &Host, name: &SandboxName, argv: Vec<String>) -> Outcome {
    let size = terminal::is_interactive()
        .then(|| terminal::size().map_or((24, 80), |size| (size.ws_row, size.ws_col)));
    let term = std::env::var("TERM").ok();
    let request = Request::Exec { name: name.clone(), argv, terminal: size, term };
    let mut client = host.client()?;
    let mut inside = None;
    let mut fds = Vec::new();
    if size.is_none() {
        let (pipes, theirs) = Inside::pipes().map_err(|error| own("make pipes", &error))?;
        inside = Some(pipes);
        fds = theirs;
    }
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.send(&request, &borrowed).map_err(|error| gone(&error.to_string()))?;
    drop(borrowed);
    // The other ends live inside now; ours would hide the end of its output.
    drop(fds);
    let (mut session, mut pump, mut raw) = (None, None, None);
    if let Some(pipes) = inside {
        pump = Some(Pump::start(pipes).map_err(|error| own("carry its output", &error))?);
    }
    let mut attempts = 0;
    let outcome = loop {
        match client.next() {
            Ok(Some(Answer::Session { id })) => {
                session = Some(id);
                if let (Some(master), None) = (client.take_fd(), &pump) {
                    raw = Some(terminal::raw().map_err(|error| own("set the terminal", &error))?);
                    let inside = Inside::terminal(master);
                    pump =
                        Some(inside.and_then(Pump::start).map_err(|error| own("carry its output", &error))?);
                }
            }
            Ok(Some(Answer::Phase(_))) => {}
            Ok(Some(Answer::Done(Value::Ended { status }))) => break Ok(status),
            Ok(Some(Answer::Done(_))) => break Err(unexpected()),
            Ok(Some(Answer::Failed(failure))) => break Err(failure.into()),
            Ok(None) | Err(_) => {
                // The session lives on in the sandbox, and the next daemon knows it.
                let Some(session) = session.clone().filter(|_| attempts < ATTEMPTS) else {
                    break Err(gone("before the command began"));
                };
                attempts += 1;
                client = host.client()?;
                let attach = Request::Attach { name: name.clone(), session };
                // If this fails, so does the next read, and it is tried again.
                let _ = client.send(&attach, &[]);
            }
        }
    };
    if let Some(pump) = pump {
        pump.finish();
    }
    drop(raw);
    // As a shell has it: the lowest eight bits.
    outcome.map(|status| (status & 0xff) as u8)
}

fn own(what: &str, error: &io::Error) -> Problem {
    Problem::new("system", format!("cannot {what}: {error}"), "ulimit -n")
}

fn gone(detail: &str) -> Problem {
    Failure::new("daemon-gone", format!("the daemon went away: {detail}"), "clawkeep status".to_owned())
        .into()
}
