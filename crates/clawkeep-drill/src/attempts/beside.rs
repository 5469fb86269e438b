//! What the lower tier answers, where that is otherwise.

use super::{ALIVE, FILTERED, HERE, NOTHING, OWN_FILE, calls, native};
use crate::attempt::Arg::{FileCanary, Int, Text};
use crate::attempt::{Control, Steps, Word};
use crate::walls::Beside::{self, Answers, AnswersOf, Otherwise, Unwalled, UnwalledOfOnesOwn};

/// Landlock's answer for files and ports.
const LANDLOCKED: &[&str] = &["EACCES"];

/// The same, or the host has no such file, which is not hidden there.
const LANDLOCKED_OR_NONE: &[&str] = &["EACCES", "ENOENT"];

/// Between directories of which one may not be written; the kernel says the one or the other (landlock(7), REFER).
const NOT_ACROSS: &[&str] = &["EXDEV", "EACCES"];

/// Landlock's answer for signals, as for processes of others.
const NOT_SIGNALLED: &[&str] = &["EPERM"];

/// There is no such family.
const NO_FAMILY: &[&str] = &["EAFNOSUPPORT"];

/// A program that looks names up finds no way to a name server.
const NO_NAMES: &[&str] = &["gaierror", "EAI_AGAIN", "ENOTFOUND"];

/// Of what init sets for the agent it sets nothing of the host's; where the user is the agent's own, it is no owner.
const NOT_THE_OWNER: &[&str] = &["EPERM"];

/// A call that is refused by what it is, whatever descriptor it is about: here the program's own.
macro_rules! terminal {
    ($request:expr) => {
        Otherwise(ALIVE, &[native(calls!(SYS_ioctl(NOTHING, Int($request as i64), Text("x"))), FILTERED)])
    };
}

const SHARED_USER: &str = "without namespaces an ordinary user's agent has that user's";

pub(crate) const BESIDE: &[(&str, Beside)] = &[
    // The network is the host's; a socket of TCP is on its loopback, and the rest is refused.
    ("tcp-direct", Answers(LANDLOCKED)),
    ("tcp-host-loopback", Answers(LANDLOCKED)),
    ("udp-dns", Answers(FILTERED)),
    ("udp-host-loopback", Answers(FILTERED)),
    ("name-lookup", Answers(NO_NAMES)),
    ("ipv6-global", Answers(NO_FAMILY)),
    ("ipv6-mapped", Answers(NO_FAMILY)),
    ("ipv6-nat64", Answers(NO_FAMILY)),
    ("ipv6-6to4", Answers(NO_FAMILY)),
    ("ipv6-link-local", Answers(NO_FAMILY)),
    ("metadata-service", Answers(LANDLOCKED)),
    ("private-network", Answers(LANDLOCKED)),
    ("abstract-host-socket", Answers(FILTERED)),
    ("docker-socket", Answers(FILTERED)),
    ("containerd-socket", Answers(FILTERED)),
    ("podman-socket", Answers(FILTERED)),
    ("dbus-socket", Answers(FILTERED)),
    ("systemd-socket", Answers(FILTERED)),
    ("ssh-agent-socket", Answers(FILTERED)),
    ("snapd-socket", Answers(FILTERED)),
    // Of the other families init gives none: its answer for IPv6 is another one.
    (
        "socket-families",
        Otherwise(
            Control::Steps(super::egress::TCP),
            &[native(Steps::Verb(&[Word::Text("families"), Word::Text("2"), Word::Text("10")]), FILTERED)],
        ),
    ),
    // Other processes.
    ("signal-host", Answers(NOT_SIGNALLED)),
    ("pidfd-host", Answers(NOT_SIGNALLED)),
    // The host's files, at their places.
    (
        "rename-out",
        Otherwise(
            OWN_FILE,
            &[native(
                calls!(SYS_renameat2(
                    HERE,
                    FileCanary,
                    HERE,
                    Text("/tmp/.clawkeep-drill-stolen"),
                    Int(libc::RENAME_NOREPLACE as i64)
                )),
                NOT_ACROSS,
            )],
        ),
    ),
    // Who does not own a file makes no name for it (protected_hardlinks, proc_sys_fs(5)).
    ("link-out", Answers(&["EPERM", "EXDEV"])),
    (
        "move-mount-point",
        Otherwise(
            OWN_FILE,
            &[native(
                calls!(SYS_renameat2(
                    HERE,
                    Text("/tmp"),
                    HERE,
                    Text("/sandbox/.clawkeep-drill-moved"),
                    Int(libc::RENAME_NOREPLACE as i64)
                )),
                NOT_ACROSS,
            )],
        ),
    ),
    ("chmod-file", Answers(NOT_THE_OWNER)),
    ("chown-file", Answers(NOT_THE_OWNER)),
    ("touch-file", Answers(NOT_THE_OWNER)),
    ("attribute-file", AnswersOf(&["EACCES", "EPERM"], &["EOPNOTSUPP"])),
    ("write-guards", Answers(LANDLOCKED)),
    ("host-file-read", Answers(LANDLOCKED)),
    ("host-file-write", Answers(LANDLOCKED)),
    ("host-file-by-link", Answers(LANDLOCKED)),
    ("host-file-rename", Answers(NOT_ACROSS)),
    ("host-file-link", Answers(NOT_ACROSS)),
    ("host-file-remove", Answers(LANDLOCKED)),
    ("host-file-truncate", Answers(LANDLOCKED)),
    // Nobody but its owner sets these; where that is the agent's user too, init sets them and looks where it lies.
    ("host-file-mode", AnswersOf(LANDLOCKED, NOT_THE_OWNER)),
    ("host-file-times", AnswersOf(LANDLOCKED, NOT_THE_OWNER)),
    ("host-file-attribute", AnswersOf(LANDLOCKED, &["EOPNOTSUPP"])),
    (
        "host-file-exists",
        Unwalled("without namespaces the existence, size and times of files are not hidden"),
    ),
    (
        "host-file-watch",
        UnwalledOfOnesOwn(LANDLOCKED, "without namespaces what the user may read can be watched for changes"),
    ),
    ("see-host-process", Unwalled("without namespaces which processes run on the host is not hidden")),
    ("open-beyond", Answers(LANDLOCKED)),
    ("execute-host-file", Answers(LANDLOCKED)),
    ("another-domain", Answers(LANDLOCKED)),
    ("hang-up", Answers(FILTERED)),
    ("fill-tmp", Unwalled("without namespaces the disk is not limited but for the size of one file")),
    ("flood-of-files", Unwalled("without namespaces the disk is not limited but for the size of one file")),
    (
        "flood-of-attributes",
        Otherwise(
            OWN_FILE,
            &[native(
                Steps::Verb(&[
                    Word::Text("attributes"),
                    Word::Text("/tmp/.clawkeep-drill-attributes"),
                    Word::Text("65536"),
                ]),
                &["ENOSPC", "EDQUOT", "EOPNOTSUPP"],
            )],
        ),
    ),
    ("shadow", Answers(LANDLOCKED_OR_NONE)),
    ("host-state", Answers(LANDLOCKED_OR_NONE)),
    ("host-boot", Answers(LANDLOCKED_OR_NONE)),
    ("tls-keys", Answers(LANDLOCKED_OR_NONE)),
    ("init-socket", Answers(LANDLOCKED)),
    (
        "climb-out",
        Unwalled("without namespaces its root is the host's; what it may open there is tried by path"),
    ),
    // Devices.
    ("dev-mem", Answers(LANDLOCKED_OR_NONE)),
    ("dev-kmsg", Answers(LANDLOCKED_OR_NONE)),
    ("dev-kvm", Answers(LANDLOCKED_OR_NONE)),
    ("dev-fuse", Answers(LANDLOCKED_OR_NONE)),
    ("dev-tun", Answers(LANDLOCKED_OR_NONE)),
    ("dev-loop", Answers(LANDLOCKED_OR_NONE)),
    ("dev-uinput", Answers(LANDLOCKED_OR_NONE)),
    ("dev-disk", Answers(LANDLOCKED_OR_NONE)),
    ("dev-vhost", Answers(LANDLOCKED_OR_NONE)),
    ("dev-console", Answers(LANDLOCKED_OR_NONE)),
    (
        "kernel-keys",
        Unwalled("without namespaces /proc shows what the host tells everybody: of keys, a user's own"),
    ),
    ("kernel-messages", Answers(LANDLOCKED_OR_NONE)),
    // Rights.
    (
        "bounding-set",
        UnwalledOfOnesOwn(
            &["as-it-should-be"],
            "without namespaces an ordinary user cannot empty the bounding set; no exec gives rights all the same",
        ),
    ),
    ("groups", UnwalledOfOnesOwn(&["none"], SHARED_USER)),
    (
        "setuid-mounts",
        Unwalled("without namespaces the mounts are the host's; what holds is that no exec gives rights"),
    ),
    ("file-capability", AnswersOf(&["EPERM"], &["EOPNOTSUPP"])),
    ("type-into-terminal", terminal!(libc::TIOCSTI)),
    ("line-discipline", terminal!(libc::TIOCSETD)),
    ("take-console-output", terminal!(libc::TIOCCONS)),
    ("paste-into-console", terminal!(libc::TIOCLINUX)),
    // Taking everything.
    (
        "fill-shared-memory",
        Otherwise(
            OWN_FILE,
            &[native(
                Steps::Verb(&[Word::Text("fill"), Word::Text("/dev/shm/.clawkeep-drill"), Word::Text("1")]),
                LANDLOCKED,
            )],
        ),
    ),
    ("inotify-flood", UnwalledOfOnesOwn(&["EMFILE"], SHARED_USER)),
    ("kill-init", Answers(NOT_SIGNALLED)),
];
