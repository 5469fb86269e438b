//! Taking all there is, and ending what must not end.

use super::{ALIVE, FORK, HERE, NOTHING, calls, native};
use crate::attempt::Arg::{Int, Result, Text, TooLarge};
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
        Control::Steps(calls!(
            SYS_openat(HERE, Text("/dev/shm"), Int((libc::O_TMPFILE | libc::O_WRONLY) as i64), Int(0o600));
            SYS_ftruncate(Result(0), Int(1 << 16))
        )),
        &[native(
            calls!(
                SYS_openat(HERE, Text("/dev/shm"), Int((libc::O_TMPFILE | libc::O_WRONLY) as i64), Int(0o600));
                SYS_ftruncate(Result(0), TooLarge)
            ),
            &["SIGXFSZ", "EFBIG"],
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
                Word::Text("128"),
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
