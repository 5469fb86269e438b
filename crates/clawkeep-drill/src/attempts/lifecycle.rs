//! Taking all there is, and ending what must not end.

use super::{ALIVE, FORK, HERE, NOTHING, OWN_FILE, calls, native};
use crate::attempt::Arg::{Bytes, Int, Result, Text, TooLarge};
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Word};

const fn lifecycle(
    id: &'static str,
    tries: &'static str,
    needs: Needs,
    control: Control,
    ways: &'static [crate::attempt::Way],
) -> Attempt {
    Attempt { id, group: Group::Lifecycle, tries, control, ways, needs }
}

/// Flags to open a file without a name, which is gone with its descriptor.
const NAMELESS: i64 = (libc::O_TMPFILE | libc::O_WRONLY) as i64;

/// A small one.
const LITTLE_FILE: Control = Control::Steps(calls!(
    SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o600));
    SYS_ftruncate(Result(0), Int(1 << 16))
));

pub const ATTEMPTS: &[Attempt] = &[
    lifecycle(
        "fork-bomb",
        "more processes than the sandbox may have",
        Needs::ProcessLimit,
        FORK,
        &[native(Steps::Verb(&[Word::Text("forks"), Word::TooManyProcesses]), &["EAGAIN"])],
    ),
    lifecycle(
        "eat-memory",
        "more memory than the sandbox may have",
        Needs::MemoryLimit,
        Control::Steps(Steps::Verb(&[Word::Text("eat"), Word::Text("8")])),
        &[native(Steps::Verb(&[Word::Text("eat"), Word::TooMuchMemory]), &["SIGKILL"])],
    ),
    lifecycle(
        "fill-shared-memory",
        "to fill the host's memory by /dev/shm",
        Needs::OwnProcesses,
        Control::Steps(Steps::Verb(&[
            Word::Text("fill"),
            Word::Text("/dev/shm/.clawkeep-drill"),
            Word::Text("1"),
        ])),
        &[native(
            Steps::Verb(&[Word::Text("fill"), Word::Text("/dev/shm/.clawkeep-drill"), Word::Text("256")]),
            &["ENOSPC"],
        )],
    ),
    lifecycle(
        "endless-file",
        "a file larger than any may be",
        Needs::FileLimit,
        LITTLE_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o600));
                SYS_ftruncate(Result(0), TooLarge)
            ),
            &["SIGXFSZ", "EFBIG"],
        )],
    ),
    lifecycle(
        "written-file",
        "a byte behind the end of the largest file that may be",
        Needs::FileLimit,
        LITTLE_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o600));
                SYS_pwrite64(Result(0), Text("x"), Int(1), TooLarge)
            ),
            &["SIGXFSZ", "EFBIG"],
        )],
    ),
    lifecycle(
        "reserved-file",
        "room on the disk for a file larger than any may be",
        Needs::FileLimit,
        LITTLE_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o600));
                SYS_fallocate(Result(0), NOTHING, NOTHING, TooLarge)
            ),
            &["SIGXFSZ", "EFBIG"],
        )],
    ),
    lifecycle(
        "fill-tmp",
        "a /tmp without an end, in the host's memory",
        Needs::OwnProcesses,
        OWN_FILE,
        // Asked and not tried: it may be larger than a drill should fill. Half of the memory, and 2 GiB at most.
        &[native(
            Steps::Verb(&[
                Word::Text("bounded"),
                Word::Text("/tmp"),
                Word::Text("2048"),
                Word::Text("262144"),
            ]),
            &["bounded"],
        )],
    ),
    lifecycle(
        "flood-of-files",
        "more files than the host's memory should hold",
        Needs::OwnProcesses,
        Control::Steps(Steps::Verb(&[
            Word::Text("files"),
            Word::Text("/dev/shm/.clawkeep-drill"),
            Word::Text("16"),
        ])),
        &[native(
            Steps::Verb(&[Word::Text("files"), Word::Text("/dev/shm/.clawkeep-drill"), Word::Text("20000")]),
            &["ENOSPC"],
        )],
    ),
    lifecycle(
        "flood-of-attributes",
        "extended attributes without an end",
        Needs::OwnProcesses,
        OWN_FILE,
        &[native(
            Steps::Verb(&[
                Word::Text("attributes"),
                Word::Text("/dev/shm/.clawkeep-drill-attributes"),
                Word::Text("8192"),
            ]),
            &["ENOSPC", "EOPNOTSUPP"],
        )],
    ),
    lifecycle(
        "flood-of-descriptors",
        "open descriptors without an end",
        Needs::Nothing,
        ALIVE,
        &[native(
            Steps::Verb(&[
                Word::Text("repeat"),
                Word::Text("2000000"),
                Word::Text("call"),
                Word::Number(libc::SYS_dup),
                Word::Text("i0"),
            ]),
            &["EMFILE"],
        )],
    ),
    lifecycle(
        "fixed-file",
        "a file that nobody can remove (FS_IMMUTABLE_FL)",
        Needs::Nothing,
        LITTLE_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o600));
                SYS_ioctl(Result(0), Int(0x4008_6602), Bytes(&[0x10, 0, 0, 0, 0, 0, 0, 0]))
            ),
            // A file system may have no such flags.
            &["EPERM", "ENOTTY", "EOPNOTSUPP"],
        )],
    ),
    lifecycle(
        "inotify-flood",
        "all of the user's inotify instances",
        Needs::OwnProcesses,
        Control::Steps(calls!(SYS_inotify_init1(NOTHING))),
        &[native(
            Steps::Verb(&[
                Word::Text("repeat"),
                Word::Text("4096"),
                Word::Text("call"),
                Word::Number(libc::SYS_inotify_init1),
                Word::Text("i0"),
            ]),
            &["EMFILE"],
        )],
    ),
    lifecycle(
        "stop-itself",
        "to stop, so that nothing can end it",
        Needs::Nothing,
        ALIVE,
        &[native(Steps::Verb(&[Word::Text("stop")]), &["SIGKILL"])],
    ),
    lifecycle(
        "kill-init",
        "to kill the sandbox's first process",
        Needs::OwnProcesses,
        FORK,
        // Where it has the agent's uid the signal is taken and ignored (pid_namespaces(7)).
        &[native(Steps::Verb(&[Word::Text("kill-init")]), &["EPERM", "survived"])],
    ),
];
