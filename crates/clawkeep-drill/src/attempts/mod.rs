//! The attempts. Expectations are exact: an answer that is a refusal but another one than these means that
//! another wall has answered than the one that is meant to, and is told as such.

mod beside;
mod egress;
mod filesystem;
mod kernel;
mod lifecycle;
mod names;
mod obscure;
mod privilege;
mod proxy;
mod set_ids;

use crate::attempt::{Arg, Attack, Attempt, Control, Steps, Way};
use crate::target::Runtime;

pub(crate) use beside::BESIDE;

/// Every attempt that is made from inside, in the order in which they are made; the recovery adds its own.
pub(crate) fn attempts() -> impl Iterator<Item = &'static Attempt> {
    [
        egress::ATTEMPTS,
        proxy::ATTEMPTS,
        names::ATTEMPTS,
        kernel::ATTEMPTS,
        obscure::ATTEMPTS,
        filesystem::ATTEMPTS,
        privilege::ATTEMPTS,
        lifecycle::ATTEMPTS,
        set_ids::ATTEMPTS,
    ]
    .into_iter()
    .flatten()
}

/// The payload's arguments to kill everything that it may: its own process too, so there is no answer.
pub(crate) const KILL_EVERYTHING: &[&str] = &["control", "nothing", "attack", "kill-everything"];

/// `AT_FDCWD`.
const HERE: Arg = Arg::Int(libc::AT_FDCWD as i64);

const NOTHING: Arg = Arg::Int(0);

/// System calls: `calls!(SYS_close(Int(3)); SYS_sync())`.
macro_rules! calls {
    ($($number:ident($($argument:expr),*));+) => {
        crate::attempt::Steps::Calls(&[
            $(crate::attempt::Call { number: libc::$number, arguments: &[$($argument),*] }),+
        ])
    };
}
use calls;

/// An attack by the static program.
const fn native(steps: Steps, expect: &'static [&'static str]) -> Way {
    Way { attack: Attack::Steps(steps), expect }
}

/// An attack by a script.
const fn script(runtime: Runtime, text: &'static str, expect: &'static [&'static str]) -> Way {
    Way { attack: Attack::Script(runtime, text), expect }
}

/// The program runs and can tell of it.
const ALIVE: Control = Control::Steps(calls!(SYS_getpid()));

/// Processes can be made.
const FORK: Control =
    Control::Steps(calls!(SYS_clone(Arg::Int(libc::SIGCHLD as i64), NOTHING, NOTHING, NOTHING, NOTHING)));

/// A file can be made and taken away where that is allowed.
const OWN_FILE: Control = Control::Steps(calls!(
    SYS_openat(HERE, Arg::Text("/tmp/.clawkeep-drill"), Arg::Int(CREATE), Arg::Int(0o600));
    SYS_fchmod(Arg::Result(0), Arg::Int(0o644));
    SYS_ftruncate(Arg::Result(0), Arg::Int(1));
    SYS_unlinkat(HERE, Arg::Text("/tmp/.clawkeep-drill"), NOTHING)
));

/// Flags to make a file that must not be there, for writing.
const CREATE: i64 = (libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC) as i64;

/// Refused by the second seccomp program: known, and not permitted.
const FILTERED: &[&str] = &["EPERM"];

/// On no list of the first seccomp program: for the agent there is no such call.
const UNKNOWN: &[&str] = &["ENOSYS"];

/// Nothing of this name is there.
const ABSENT: &[&str] = &["ENOENT"];

/// Behind a read-only mount, or not the agent's.
const READ_ONLY: &[&str] = &["EROFS", "EACCES"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::attempt::Group;

    #[test]
    fn there_are_enough_in_every_group_and_each_has_a_name_of_its_own() {
        let all: Vec<_> = attempts().collect();
        let ids: BTreeSet<_> = all.iter().map(|attempt| attempt.id).collect();
        assert_eq!(ids.len(), all.len(), "an id is used twice");
        assert!(all.len() >= 100, "{}", all.len());
        let plain = |id: &str| id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        for attempt in &all {
            assert!(plain(attempt.id), "{}", attempt.id);
            assert!(!attempt.tries.is_empty() && !attempt.tries.contains('\n') && attempt.tries.len() < 80);
            assert!(!attempt.ways.is_empty());
            assert!(attempt.ways.iter().all(|way| !way.expect.is_empty() && !way.expect.contains(&"ok")));
        }
        for group in [Group::Egress, Group::Kernel, Group::Filesystem, Group::Privilege, Group::Lifecycle] {
            assert!(all.iter().filter(|attempt| attempt.group == group).count() >= 5, "{}", group.name());
        }
    }
}
