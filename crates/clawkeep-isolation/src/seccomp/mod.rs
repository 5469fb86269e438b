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

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use clawkeep_plan::Digest;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};
use serde::{Deserialize, Serialize};

use self::arguments::Rules;
pub use self::profile::Profile;
use self::table::{ALLOWED, ALLOWED_HERE, Call, REFUSED, REFUSED_HERE, refused_beside};
use crate::sys;

/// The program of one profile, ready to be installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Sent", into = "Sent")]
pub struct Programs {
    /// Refused calls answer EPERM by themselves, unrecorded.
    plain: BpfProgram,
    /// Refused calls are put to a listener.
    recorded: BpfProgram,
    digest: Digest,
}

/// A program as the host side sends it to a sandbox's setup: its instructions, each as one number.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    plain: Vec<u64>,
    digest: Digest,
}

impl From<Programs> for Sent {
    fn from(programs: Programs) -> Self {
        let number = |it: &sock_filter| {
            u64::from(it.code) << 48 | u64::from(it.jt) << 40 | u64::from(it.jf) << 32 | u64::from(it.k)
        };
        Self { plain: programs.plain.iter().map(number).collect(), digest: programs.digest }
    }
}

impl From<Sent> for Programs {
    fn from(sent: Sent) -> Self {
        let instruction = |number: u64| sock_filter {
            code: (number >> 48) as u16,
            jt: (number >> 40) as u8,
            jf: (number >> 32) as u8,
            k: number as u32,
        };
        Self::of_plain(sent.plain.into_iter().map(instruction).collect(), sent.digest)
    }
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
        let digest = digest(&plain);
        Ok(Self::of_plain(plain, digest))
    }

    fn of_plain(plain: BpfProgram, digest: Digest) -> Self {
        let mut recorded = plain.clone();
        // The compiler has no word for the question, so it is put in the place of the error.
        let refusal = u32::from(refusal());
        for instruction in recorded.iter_mut().filter(|it| it.code == RETURN && it.k == refusal) {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
        Self { plain, recorded, digest }
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
    let refused = REFUSED.iter().chain(beside).copied().chain([REFUSED_HERE]);
    let allowed = ALLOWED.iter().copied().chain([ALLOWED_HERE]);
    program.extend(listed(refused, allowed));
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

/// The answer to each call whatever its arguments: refused, else allowed, else unknown. Not by the compiler, which
/// compares with one number after the other: the kernel runs the program once for every number there is when it is
/// installed, so the way to an answer is made short.
fn listed<'a>(
    refused: impl Iterator<Item = &'a [Call]>,
    allowed: impl Iterator<Item = &'a [Call]>,
) -> BpfProgram {
    let said = |calls: &'a [Call], said: SeccompAction| {
        let said = u32::from(said);
        calls.iter().map(move |(_, number)| (*number as u32, said))
    };
    let mut answers: BTreeMap<u32, u32> =
        allowed.flat_map(|calls| said(calls, SeccompAction::Allow)).collect();
    answers.extend(refused.flat_map(|calls| said(calls, refusal())));
    let unknown = u32::from(SeccompAction::Errno(libc::ENOSYS as u32));
    // What is said from this number on.
    let mut steps = vec![(0, unknown)];
    for (number, said) in answers {
        match steps.last_mut() {
            Some(last) if last.0 == number => last.1 = said,
            _ => steps.push((number, said)),
        }
        steps.push((number + 1, unknown));
    }
    steps.dedup_by_key(|(_, said)| *said);
    let mut part = vec![load_number()];
    part.extend(tree(&steps));
    part
}

/// The last of these steps that is not above the number, found by halves.
fn tree(steps: &[(u32, u32)]) -> BpfProgram {
    if let [(_, said)] = steps {
        return vec![sock_filter { code: RETURN, jt: 0, jf: 0, k: *said }];
    }
    let (low, high) = steps.split_at(steps.len() / 2);
    let (from, low, high) = (high[0].0, tree(low), tree(high));
    let mut part = match u8::try_from(low.len()) {
        Ok(over) => vec![compare(libc::BPF_JGE, from, over, 0)],
        // Farther than a comparison reaches.
        Err(_) => {
            let over = u32::try_from(low.len()).unwrap_or(u32::MAX);
            vec![compare(libc::BPF_JGE, from, 0, 1), sock_filter { code: JUMP, jt: 0, jf: 0, k: over }]
        }
    };
    part.extend(low);
    part.extend(high);
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
