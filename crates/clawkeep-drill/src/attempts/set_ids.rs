//! Programs that would run as the agent's user whoever starts them: harmless inside, but not on the host, where a
//! directory lies that is shared for writing. Files without a name, so that nothing is left.

use super::{HERE, NOTHING, OWN_FILE, calls, native, script};
use crate::attempt::Arg::{Int, Result, Text};
use crate::attempt::{Attempt, Call, Group, Needs, Steps, Way};
use crate::target::Runtime::{Node, Python, Shell};

const NAMELESS: i64 = (libc::O_TMPFILE | libc::O_WRONLY | libc::O_CLOEXEC) as i64;
/// The bindings do not know it on every architecture, where it has the same number (the kernel's `syscall.tbl`).
const FCHMODAT2: libc::c_long = 452;

const REFUSED: &[&str] = &["EPERM"];

const fn attempt(id: &'static str, tries: &'static str, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Privilege, tries, control: OWN_FILE, ways, needs: Needs::Nothing }
}

macro_rules! nameless {
    ($($call:tt)+) => {
        native(calls!(SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o700)); $($call)+), REFUSED)
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    attempt(
        "set-uid",
        "a program of one's own that runs as the agent's user, whoever starts it",
        &[
            nameless!(SYS_fchmod(Result(0), Int(0o4755))),
            script(
                Shell,
                "cp /bin/true \"$TMP/.clawkeep-drill\" && trap 'rm -f \"$TMP/.clawkeep-drill\"' EXIT && chmod u+s \"$TMP/.clawkeep-drill\"",
                REFUSED,
            ),
            script(Python, "os.chmod(os.open(TMP, os.O_TMPFILE | os.O_WRONLY, 0o700), 0o4755)", REFUSED),
            script(
                Node,
                "[fs.openSync(TMP + '/.clawkeep-drill', 'wx', 0o4755), fs.unlinkSync(TMP + '/.clawkeep-drill')]",
                REFUSED,
            ),
        ],
    ),
    attempt("set-gid", "the same of the agent's group", &[nameless!(SYS_fchmod(Result(0), Int(0o2755)))]),
    attempt(
        "set-uid-newer",
        "the same by the newer call (fchmodat2)",
        &[native(
            Steps::Calls(&[
                Call {
                    number: libc::SYS_openat,
                    arguments: &[HERE, Text("/tmp"), Int(NAMELESS), Int(0o700)],
                },
                Call {
                    number: FCHMODAT2,
                    arguments: &[Result(0), Text(""), Int(0o6755), Int(libc::AT_EMPTY_PATH as i64)],
                },
            ]),
            REFUSED,
        )],
    ),
    attempt(
        "set-uid-created",
        "the same in the mode of a new file",
        &[
            native(calls!(SYS_openat(HERE, Text("/tmp"), Int(NAMELESS), Int(0o4755))), REFUSED),
            script(Python, "os.open(TMP, os.O_TMPFILE | os.O_WRONLY, 0o4755)", REFUSED),
        ],
    ),
    attempt(
        "set-uid-node",
        "the same in the mode of a node (mknod)",
        &[native(
            calls!(
                SYS_mknodat(HERE, Text("/tmp/.clawkeep-drill"), Int((libc::S_IFREG | 0o4755) as i64), NOTHING);
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING)
            ),
            REFUSED,
        )],
    ),
];
