//! The seccomp program (seccomp(2)) around everything that runs in a sandbox: an allowlist of system calls, with
//! an answer for each kind of call that is not on it.
//!
//! - Unknown calls do not exist (ENOSYS).
//! - Refused calls answer EPERM and are recorded: the kernel asks init (seccomp_unotify(2)), which answers so and
//!   nothing else. Where init has gone, the kernel answers ENOSYS by itself.
//! - Foreign architectures and the x32 calls of x86-64 end the process.
//!
//! It is one program, so that each call has one answer: between two programs the kernel would take the error of
//! the one over the question of the other.

mod arguments;
#[cfg(test)]
mod machine;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;

use clawkeep_plan::{Digest, NetlinkRule};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

use self::arguments::Rules;
use self::table::{ALLOWED, ALLOWED_HERE, Call, REFUSED, REFUSED_HERE};
use crate::sys;

/// The program of one profile, ready to be installed.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Refused calls answer EPERM by themselves, unrecorded.
    plain: BpfProgram,
    /// Refused calls are put to a listener.
    recorded: BpfProgram,
}

/// The program could not be built: a mistake in the tables, or an architecture without a filter.
#[derive(Debug, thiserror::Error)]
#[error("the seccomp program could not be built: {0}")]
pub struct SeccompError(#[from] BackendError);

/// The name of a call that the program can refuse, by its number; `None` for any other.
pub fn refused_call(number: i64) -> Option<&'static str> {
    let by_arguments = [arguments::BY_ARGUMENTS, REFUSED_HERE];
    let mut calls = REFUSED.iter().chain(&by_arguments).copied().flatten();
    let (name, _) = calls.find(|(_, known)| *known == number)?;
    name.strip_prefix("SYS_")
}

impl Programs {
    /// The program for this rule about netlink sockets.
    ///
    /// # Errors
    /// [`SeccompError`] on an architecture that the filter compiler does not know.
    pub fn new(netlink: NetlinkRule) -> Result<Self, SeccompError> {
        let plain = build(netlink)?;
        let mut recorded = plain.clone();
        // The compiler has no word for the question, so it is put in the place of the error.
        let refusal = u32::from(refusal());
        for instruction in recorded.iter_mut().filter(|it| it.code == RETURN && it.k == refusal) {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
        Ok(Self { plain, recorded })
    }

    /// How many programs [`Programs::install`] adds.
    pub const COUNT: u32 = 1;

    /// Names what is allowed, refused and unknown, in plans and receipts; the same whether refusals are recorded or
    /// not.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for instruction in &self.plain {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        Digest::of(&bytes)
    }

    /// Put the calling thread, and all that it starts, under the program; for ever. It must have no_new_privs. Gives
    /// the listener that refused calls are put to, closed at exec; `None` where the kernel gives none because an
    /// outer program has one already (EBUSY): then they are refused unrecorded.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> io::Result<Option<OwnedFd>> {
        match sys::install_listened_filter(&self.recorded) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                sys::install_filter(&self.plain).map(|()| None)
            }
            installed => installed.map(Some),
        }
    }
}

/// `BPF_RET | BPF_K` and `BPF_JMP | BPF_JA` (the kernel's uapi/linux/bpf_common.h).
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;

/// What a compiled program begins with: load the architecture, go on if it is ours, else end the process.
const PROLOGUE: usize = 3;

fn refusal() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM as u32)
}

/// Stands for "see what the next part says"; no program that is installed has it.
fn next_part() -> SeccompAction {
    SeccompAction::Trace(u32::from(u16::MAX))
}

/// Calls that are listed, whatever their arguments.
fn listed<'a>(calls: impl IntoIterator<Item = &'a [Call]>) -> Rules {
    calls.into_iter().flatten().map(|(_, number)| (*number, Vec::new())).collect()
}

/// All parts, one after the other. A call that a part does not list is one for the next.
fn build(netlink: NetlinkRule) -> Result<BpfProgram, SeccompError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let allow = SeccompAction::Allow;
    let parts = [
        // Rules, the answer where one holds, and where none does.
        (arguments::pretended()?, SeccompAction::Errno(0), next_part()),
        (arguments::allowed(netlink)?, allow.clone(), refusal()),
        (listed(REFUSED.iter().copied().chain([REFUSED_HERE])), refusal(), next_part()),
        (listed(ALLOWED.iter().copied().chain([ALLOWED_HERE])), allow, next_part()),
    ];
    let mut program = BpfProgram::new();
    for (rules, holds, otherwise) in parts {
        let compiled: BpfProgram = SeccompFilter::new(rules, otherwise, holds, arch)?.try_into()?;
        if program.is_empty() {
            program.extend_from_slice(&compiled[..PROLOGUE]);
            program.extend(foreign_calls());
        }
        // Without the answer at its end, which is for what is not listed.
        let mut part = compiled[PROLOGUE..compiled.len() - 1].to_vec();
        let (length, next) = (part.len(), u32::from(next_part()));
        for (at, instruction) in part.iter_mut().enumerate() {
            if instruction.code == RETURN && instruction.k == next {
                let over = u32::try_from(length - at - 1).unwrap_or(u32::MAX);
                *instruction = sock_filter { code: JUMP, jt: 0, jf: 0, k: over };
            }
        }
        program.extend(part);
    }
    program.push(answer(u32::from(SeccompAction::Errno(libc::ENOSYS as u32))));
    match program.len() {
        length if length > libc::BPF_MAXINSNS as usize => Err(BackendError::FilterTooLarge(length).into()),
        _ => Ok(program),
    }
}

fn answer(k: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k }
}

/// The x32 calls have the architecture of x86-64 and a bit in their numbers (syscall(2)): they would be looked up
/// under numbers that nobody listed. -1 is no call, and unknown.
#[cfg(target_arch = "x86_64")]
fn foreign_calls() -> Vec<sock_filter> {
    const X32: u32 = 0x4000_0000;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let compare = |operator: u32, k, jt, jf| sock_filter {
        code: (libc::BPF_JMP | operator | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    vec![
        sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        compare(libc::BPF_JGE, X32, 0, 2),
        compare(libc::BPF_JEQ, u32::MAX, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

/// The other architectures have no second set of calls under their own name.
#[cfg(not(target_arch = "x86_64"))]
fn foreign_calls() -> Vec<sock_filter> {
    Vec::new()
}
