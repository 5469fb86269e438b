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
mod beside;
#[cfg(test)]
mod machine;
mod profile;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use clawkeep_plan::Digest;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

use self::arguments::Rules;
pub use self::profile::Profile;
use self::table::{ALLOWED, ALLOWED_HERE, Call, REFUSED, REFUSED_HERE, refused_beside};
use crate::sys;

/// The program of one profile, ready to be installed.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Refused calls answer EPERM by themselves, unrecorded.
    plain: BpfProgram,
    /// Refused calls are put to a listener.
    recorded: BpfProgram,
    digest: Digest,
}

/// The program could not be built: a mistake in the tables, or an architecture without a filter.
#[derive(Debug, thiserror::Error)]
#[error("the seccomp program could not be built: {0}")]
pub struct SeccompError(#[from] BackendError);

/// The name of a call that the program can refuse, by its number; `None` for any other.
pub fn refused_call(number: i64) -> Option<&'static str> {
    let by_arguments = [arguments::BY_ARGUMENTS, beside::BY_ARGUMENTS, REFUSED_HERE];
    let beside = refused_beside(false);
    let mut calls = REFUSED.iter().chain(&by_arguments).chain(beside).copied().flatten();
    let (name, _) = calls.find(|(_, known)| *known == number)?;
    name.strip_prefix("SYS_")
}

impl Programs {
    /// The program of this profile. It is built once a process: that takes longer than a fork.
    ///
    /// # Errors
    /// [`SeccompError`] on an architecture that the filter compiler does not know.
    pub fn of(profile: impl Into<Profile>) -> Result<&'static Self, SeccompError> {
        static KNOWN: [OnceLock<Programs>; Profile::ALL.len()] =
            [const { OnceLock::new() }; Profile::ALL.len()];
        let profile = profile.into();
        let known = &KNOWN[profile.index()];
        if let Some(programs) = known.get() {
            return Ok(programs);
        }
        let built = Self::new(profile)?;
        Ok(known.get_or_init(|| built))
    }

    fn new(profile: Profile) -> Result<Self, SeccompError> {
        let plain = build(profile)?;
        let mut recorded = plain.clone();
        // The compiler has no word for the question, so it is put in the place of the error.
        let refusal = u32::from(refusal());
        for instruction in recorded.iter_mut().filter(|it| it.code == RETURN && it.k == refusal) {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
        let digest = digest(&plain);
        Ok(Self { plain, recorded, digest })
    }

    /// How many programs [`Programs::install`] adds.
    pub const COUNT: u32 = 1;

    /// Names what is allowed, refused and unknown, in plans and receipts; the same whether refusals are recorded or
    /// not.
    pub fn digest(&self) -> Digest {
        self.digest
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

fn digest(program: &BpfProgram) -> Digest {
    let mut bytes = Vec::new();
    for instruction in program {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    Digest::of(&bytes)
}

/// Instructions of classic BPF (the kernel's uapi/linux/bpf_common.h).
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;

/// What a compiled program begins with: load the architecture, go on if it is ours, else end the process.
const PROLOGUE: usize = 3;

fn refusal() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM as u32)
}

/// Stands for "see what the next part says"; no program that is installed has it.
fn next_part() -> SeccompAction {
    SeccompAction::Trace(u32::from(u16::MAX))
}

/// All parts, one after the other. A call that a part does not decide is one for the next.
fn build(profile: Profile) -> Result<BpfProgram, SeccompError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let pretended = compile(arguments::pretended()?, SeccompAction::Errno(0), next_part(), arch)?;
    let mut program = pretended[..PROLOGUE].to_vec();
    program.extend(foreign_calls());
    program.extend(part(&pretended));
    program.extend(part(&compile(arguments::allowed(profile)?, SeccompAction::Allow, refusal(), arch)?));
    let beside = match profile {
        Profile::Namespaces(_) => &[],
        Profile::Landlock { own_ids } => refused_beside(own_ids),
    };
    program.extend(listed(REFUSED.iter().chain(beside).copied().chain([REFUSED_HERE]), refusal()));
    program.extend(listed(ALLOWED.iter().copied().chain([ALLOWED_HERE]), SeccompAction::Allow));
    program.push(answer(SeccompAction::Errno(libc::ENOSYS as u32)));
    match program.len() {
        length if length > libc::BPF_MAXINSNS as usize => Err(BackendError::FilterTooLarge(length).into()),
        _ => Ok(program),
    }
}

/// A program of its own for these calls: the one answer where a rule holds, the other where none does.
fn compile(
    rules: Rules,
    holds: SeccompAction,
    otherwise: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, holds, arch)?.try_into()
}

/// The middle of such a program: without the look at the architecture, and without the answer at its end, which is
/// for calls that it has no rules for.
fn part(compiled: &[sock_filter]) -> BpfProgram {
    let mut part = compiled[PROLOGUE..compiled.len() - 1].to_vec();
    let (length, next) = (part.len(), u32::from(next_part()));
    for (at, instruction) in part.iter_mut().enumerate() {
        if instruction.code == RETURN && instruction.k == next {
            let over = u32::try_from(length - at - 1).unwrap_or(u32::MAX);
            *instruction = sock_filter { code: JUMP, jt: 0, jf: 0, k: over };
        }
    }
    part
}

/// One answer to all of these calls, whatever their arguments. Not by the compiler, which compares with each number
/// alone: neighbours share two comparisons, and the kernel, which runs the program once for every number there is
/// when it is installed, takes a third of the time for that.
fn listed<'a>(calls: impl IntoIterator<Item = &'a [Call]>, said: SeccompAction) -> BpfProgram {
    let mut numbers: Vec<u32> = calls.into_iter().flatten().map(|(_, number)| *number as u32).collect();
    numbers.sort_unstable();
    let mut part = vec![load_number()];
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        let (first, last) = (run[0], run[run.len() - 1]);
        part.push(compare(libc::BPF_JGE, first, 0, 2));
        part.push(compare(libc::BPF_JGT, last, 1, 0));
        part.push(answer(said.clone()));
    }
    part
}

fn load_number() -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 }
}

/// Compare, and pass over so many instructions where it is so, or where it is not.
fn compare(operator: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | operator | libc::BPF_K) as u16, jt, jf, k }
}

fn answer(said: SeccompAction) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: said.into() }
}

/// The x32 calls have the architecture of x86-64 and a bit in their numbers (syscall(2)): they would be looked up
/// under numbers that nobody listed. -1 is no call, and unknown.
#[cfg(target_arch = "x86_64")]
fn foreign_calls() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    vec![
        load_number(),
        compare(libc::BPF_JGE, X32, 0, 2),
        compare(libc::BPF_JEQ, u32::MAX, 1, 0),
        answer(SeccompAction::KillProcess),
    ]
}

/// The other architectures have no second set of calls under their own name.
#[cfg(not(target_arch = "x86_64"))]
fn foreign_calls() -> BpfProgram {
    Vec::new()
}
