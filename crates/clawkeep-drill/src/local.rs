use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::target::{Program, Said, Target, TargetError, Traits};

/// How long an attempt may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of what it writes is looked at, in bytes.
const MOST: u64 = 1 << 20;

/// A target that is entered by a command: another sandbox's, or none at all.
#[derive(Debug, Clone)]
pub struct Local {
    /// What to put before a program's own command line; nothing: it runs as a child of this process.
    pub enter: Vec<String>,
    /// Where the static program is in there.
    pub payload: String,
    /// What can be expected of it.
    pub traits: Traits,
}

impl Target for Local {
    fn traits(&self) -> Traits {
        self.traits
    }

    fn run(&mut self, program: &Program) -> Result<Said, TargetError> {
        let argv: Vec<String> = self.enter.iter().cloned().chain(program.argv(&self.payload)).collect();
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.process_group(0).spawn() {
            Ok(child) => child,
            // An interpreter that is not there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Said { status: 127, ..Said::default() });
            }
            Err(error) => return Err(TargetError(format!("cannot start {}: {error}", argv[0]))),
        };
        let out = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut output = Vec::new();
            // What could be read of it counts.
            let _ = out.map(|out| out.take(MOST).read_to_end(&mut output));
            output
        });
        let timed_out = !ends_in_time(&child).map_err(|error| TargetError(error.to_string()))?;
        if let Some(group) = Pid::from_raw(child.id().cast_signed()).filter(|_| timed_out) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait().map_err(|error| TargetError(error.to_string()))?;
        let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(0);
        Ok(Said { output: reader.join().unwrap_or_default(), status, timed_out })
    }
}

fn ends_in_time(child: &Child) -> rustix::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience))).map(|ready| ready > 0)
}
