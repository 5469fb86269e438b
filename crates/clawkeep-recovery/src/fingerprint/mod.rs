//! Crash fingerprints: from the evidence of an end to a known cause. Pure.
//!
//! What stands in a log was written by whoever runs in the sandbox and proves nothing. So a cause that is read
//! in a log is [`Confidence::Likely`] at most, and only where the way the process ended agrees; it is
//! [`Confidence::Certain`] only where the kernel or the host says so too. The work is bounded by the part of the
//! log that is looked at: plain comparisons, no expressions.

mod cause;
mod lines;
mod signs;

pub use cause::{Cause, Remedy};
use serde::{Deserialize, Serialize};

use crate::Blame;

/// How a process ended (waitpid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitHow {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

/// What is known of an end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// How it ended; `None` where it runs and does not answer.
    pub exit: Option<ExitHow>,
    /// Processes of the sandbox that the kernel killed for memory since the launch, by the sandbox's cgroup.
    pub oom_kills: u64,
    /// What the launch wrote into its log, or the end of that; the last 64 KiB are looked at. Hostile.
    pub log_tail: &'a [u8],
    /// System calls that were denied since the launch.
    pub denied_syscalls: &'a [String],
    /// Hosts that the proxy refused since the launch.
    pub denied_hosts: &'a [String],
    /// Whether this launch was ready before.
    pub ready_before: bool,
    /// How long it ran, in milliseconds.
    pub ran_ms: u64,
    /// Bytes free where the agent's home lies.
    pub disk_free: Option<u64>,
}

/// How sure a diagnosis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// A guess; nothing is done because of it.
    Weak,
    /// The log says so and the end agrees, or the way it ended says so alone.
    Likely,
    /// The kernel or the host says so.
    Certain,
}

/// What lies behind an end, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Why.
    pub cause: Cause,
    /// How sure that is.
    pub confidence: Confidence,
    /// What the repair should begin with; `unknown` for a guess.
    pub blame: Blame,
    /// What decided, a few short lines: printable, without secrets. Of an unknown cause the end of the log.
    pub evidence: Vec<String>,
}

/// The most lines of evidence.
pub const MAX_EVIDENCE: usize = 12;

/// The most of each, in bytes; three more where something was cut off.
const EVIDENCE_LINE: usize = 300;

/// Of denied system calls so many are named.
const DENIED_CALLS: usize = 6;

/// Less than this counts as a full disk, in bytes: what is written at once need not be one block.
const DISK_FULL: u64 = 16 << 20;

/// A program that cannot be executed is found out within this time, in milliseconds.
const EXEC_WITHIN: u64 = 10_000;

const SIGKILL: i32 = 9;
const SIGXFSZ: i32 = 25;
const SIGSYS: i32 = 31;

/// Find the cause. Never fails: what is not known is [`Cause::Unknown`], with the end of the log.
pub fn diagnose(evidence: &Evidence<'_>) -> Diagnosis {
    let lines = lines::tail(evidence.log_tail);
    let mut found = from_facts(evidence);
    found.extend(signs::find(&lines, evidence.exit).into_iter().map(|sign| {
        let confidence = if sign.agrees { Confidence::Likely } else { Confidence::Weak };
        Candidate { cause: sign.cause, confidence, lines: sign.lines }
    }));
    if let Some((line, host)) = signs::denied_host(&lines, evidence.denied_hosts) {
        let failed = matches!(evidence.exit, Some(ExitHow::Exited(code)) if code != 0);
        let confidence = if failed { Confidence::Likely } else { Confidence::Weak };
        let host = format!("the proxy refused {}", lines::plain(&host, 100));
        found.push(Candidate { cause: Cause::DeniedHost, confidence, lines: vec![line, host] });
    }
    if let Some(line) = signs::denied_call(&lines, evidence.denied_syscalls) {
        let failed = matches!(evidence.exit, Some(ExitHow::Exited(code)) if code != 0);
        let confidence = if failed { Confidence::Likely } else { Confidence::Weak };
        found.push(Candidate { cause: Cause::DeniedSyscall, confidence, lines: vec![line] });
    }
    for candidate in found.iter_mut().filter(|candidate| candidate.cause == Cause::OutOfDisk) {
        candidate.look_at_disk(evidence.disk_free);
    }
    let order = |cause| Cause::ALL.iter().position(|known| *known == cause);
    let best = found.into_iter().min_by_key(|it| (std::cmp::Reverse(it.confidence), order(it.cause)));
    match best {
        Some(Candidate { cause, confidence, lines }) => {
            let sure = confidence > Confidence::Weak;
            let blame = if sure { cause.blame() } else { Blame::Unknown };
            told(cause, confidence, blame, evidence, lines)
        }
        None => {
            let last = lines.len().saturating_sub(MAX_EVIDENCE - 1);
            let lines = lines[last..].iter().map(|line| lines::clip(line, EVIDENCE_LINE)).collect();
            told(Cause::Unknown, Confidence::Weak, Blame::Unknown, evidence, lines)
        }
    }
}

struct Candidate {
    cause: Cause,
    confidence: Confidence,
    lines: Vec<String>,
}

impl Candidate {
    fn new(cause: Cause, confidence: Confidence) -> Self {
        Self { cause, confidence, lines: Vec::new() }
    }

    /// The kernel's words for a full disk are said of other things too: the host knows better.
    fn look_at_disk(&mut self, free: Option<u64>) {
        let Some(free) = free else { return };
        self.lines.push(format!("{free} bytes free on the disk"));
        if free >= DISK_FULL {
            self.cause = Cause::OutOfInodes;
        } else if self.confidence == Confidence::Likely {
            self.confidence = Confidence::Certain;
        }
    }
}

/// What can be told without the log.
fn from_facts(evidence: &Evidence<'_>) -> Vec<Candidate> {
    use Confidence::{Certain, Likely, Weak};
    let mut found = Vec::new();
    let mut add = |cause, confidence| found.push(Candidate::new(cause, confidence));
    let fails = evidence.exit.is_some_and(|exit| exit != ExitHow::Exited(0));
    if evidence.oom_kills > 0 {
        match evidence.exit {
            Some(ExitHow::Signalled(SIGKILL)) => add(Cause::OutOfMemory, Certain),
            // One of its processes was killed, and it fell with it.
            Some(_) if fails => add(Cause::OutOfMemory, Likely),
            _ => add(Cause::OutOfMemory, Weak),
        }
    }
    let denied = !evidence.denied_syscalls.is_empty();
    match evidence.exit {
        None => add(Cause::Unresponsive, Weak),
        Some(ExitHow::Signalled(SIGSYS)) => {
            add(Cause::DeniedSyscall, if denied { Certain } else { Likely });
        }
        Some(ExitHow::Signalled(SIGXFSZ)) => add(Cause::FileSizeLimit, Likely),
        // SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV.
        Some(ExitHow::Signalled(4..=8 | 11)) => add(Cause::NativeCrash, Likely),
        Some(ExitHow::Signalled(_)) => add(Cause::Killed, Likely),
        Some(ExitHow::Exited(126 | 127)) if !evidence.ready_before && evidence.ran_ms < EXEC_WITHIN => {
            add(Cause::ExecFailed, Likely);
        }
        Some(ExitHow::Exited(_)) => {}
    }
    if fails && evidence.disk_free.is_some_and(|free| free < DISK_FULL) {
        add(Cause::OutOfDisk, Weak);
    }
    found
}

fn told(
    cause: Cause,
    confidence: Confidence,
    blame: Blame,
    evidence: &Evidence<'_>,
    lines: Vec<String>,
) -> Diagnosis {
    let mut said = vec![match evidence.exit {
        Some(ExitHow::Exited(code)) => format!("exit status {code}"),
        Some(ExitHow::Signalled(signal)) => format!("signal {signal}"),
        None => "no end".to_owned(),
    }];
    if evidence.oom_kills > 0 {
        said.push(format!("{} killed for memory", evidence.oom_kills));
    }
    if !evidence.denied_syscalls.is_empty() {
        let calls = evidence.denied_syscalls.iter().take(DENIED_CALLS).map(|call| lines::plain(call, 40));
        let calls = calls.collect::<Vec<_>>().join(", ");
        let more = match evidence.denied_syscalls.len().saturating_sub(DENIED_CALLS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        said.push(format!("denied: {calls}{more}"));
    }
    said.extend(lines);
    said.truncate(MAX_EVIDENCE);
    Diagnosis { cause, confidence, blame, evidence: said }
}
