//! What is known of an end: its evidence gathered, its cause named.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use clawkeep_isolation::LOG;
use clawkeep_isolation::proto::{Ended, Order};
use clawkeep_recovery::{Diagnosis, Evidence, ExitHow, diagnose};

use super::{Hooks, Supervisor};

/// The most of a log's end that is read, in bytes.
const TAIL: u64 = 64 << 10;

impl<H: Hooks> Supervisor<H> {
    /// How long the log is now.
    pub(super) fn log_length(&self) -> u64 {
        std::fs::metadata(self.blueprint.run.join(LOG)).map_or(0, |log| log.len())
    }

    /// What the present launch has written, or the end of it.
    fn log_tail(&self) -> Vec<u8> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut log = File::open(self.blueprint.run.join(LOG))?;
            let length = log.metadata()?.len();
            // A shorter one was cut to its newer half.
            let from = if length < self.log_from { 0 } else { self.log_from };
            log.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL))))?;
            let mut bytes = Vec::new();
            log.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // Without a log the rest of the evidence has to do.
        read().unwrap_or_default()
    }

    /// Why the present launch ended.
    pub(super) async fn diagnosis(&self, how: Ended) -> Diagnosis {
        let exit = match how {
            Ended::Exited(code) => ExitHow::Exited(code),
            Ended::Signalled(signal) => ExitHow::Signalled(signal),
        };
        if let (ExitHow::Exited(_), Some(sandbox)) = (exit, &self.sandbox) {
            // Its last words come by another way than its end: once init has answered it has passed them on.
            let _ = sandbox.client.ask(Order::Hello, &[]).await;
        }
        let gateway = self.gateway.as_ref();
        let disk = rustix::fs::statvfs(&self.blueprint.home).ok();
        diagnose(&Evidence {
            exit: Some(exit),
            // Of whatever process of the sandbox; of which one, the way in which it ended tells.
            oom_kills: self.oom_kills_now().saturating_sub(self.oom_kills),
            log_tail: &self.log_tail(),
            denied_syscalls: &self.denied.agent.iter().cloned().collect::<Vec<_>>(),
            denied_hosts: &self.hooks.denied_hosts(Duration::from_millis(self.age())),
            ready_before: gateway.is_some_and(|gateway| gateway.adopted || gateway.ready_at.is_some()),
            ran_ms: gateway.map_or(0, |_| self.age()),
            disk_free: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        })
    }
}
