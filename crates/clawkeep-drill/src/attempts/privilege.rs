//! More rights than the agent's user has.

use super::{ALIVE, HERE, NOTHING, OWN_FILE, calls, native, script};
use crate::attempt::Arg::{Bytes, Init, Int, Result, Text, Zeros};
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Way, Word};
use crate::target::Runtime::{Python, Shell};

const fn privilege(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Privilege, tries, control, ways, needs: Needs::Nothing }
}

/// The user may become itself.
const IDENTITY: Control = Control::Steps(calls!(SYS_setresuid(Int(-1), Int(-1), Int(-1)); SYS_getuid()));

/// A terminal of one's own works.
const TERMINAL: Control = Control::Steps(calls!(
    SYS_openat(HERE, Text("/dev/ptmx"), Int(TERMINAL_FLAGS), NOTHING);
    SYS_ioctl(Result(0), Int(libc::TIOCSPTLCK as i64), Zeros(4));
    SYS_ioctl(Result(0), Int(libc::TIOCGPTPEER as i64), Int(TERMINAL_FLAGS));
    SYS_ioctl(Result(2), Int(libc::TIOCGWINSZ as i64), Zeros(8))
));
const TERMINAL_FLAGS: i64 = (libc::O_RDWR | libc::O_NOCTTY) as i64;

const NOT_PERMITTED: &[&str] = &["EPERM"];

/// `struct __user_cap_header_struct`, version 3, this process.
const CAP_HEADER: &[u8] = &[0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];
/// CAP_SYS_ADMIN (21) effective and permitted.
const CAP_ADMIN: &[u8] = &[0, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

macro_rules! refused {
    ($id:literal, $tries:literal, $control:expr, $($call:tt)+) => {
        privilege($id, $tries, $control, &[native(calls!($($call)+), NOT_PERMITTED)])
    };
}

macro_rules! seen {
    ($id:literal, $tries:literal, $($word:literal)+, $expect:literal) => {
        privilege($id, $tries, ALIVE, &[native(Steps::Verb(&[$(Word::Text($word)),+]), &[$expect])])
    };
}

macro_rules! terminal {
    ($id:literal, $tries:literal, $request:expr) => {
        privilege(
            $id,
            $tries,
            TERMINAL,
            &[native(
                calls!(
                    SYS_openat(HERE, Text("/dev/ptmx"), Int(TERMINAL_FLAGS), NOTHING);
                    SYS_ioctl(Result(0), Int(libc::TIOCSPTLCK as i64), Zeros(4));
                    SYS_ioctl(Result(0), Int(libc::TIOCGPTPEER as i64), Int(TERMINAL_FLAGS));
                    SYS_setsid();
                    SYS_ioctl(Result(2), Int(libc::TIOCSCTTY as i64), NOTHING);
                    SYS_ioctl(Result(2), Int($request as i64), Text("x"))
                ),
                NOT_PERMITTED,
            )],
        )
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    privilege(
        "setuid-root",
        "to become root",
        IDENTITY,
        &[
            // An id that the user namespace does not map is invalid (user_namespaces(7)).
            native(calls!(SYS_setresuid(NOTHING, NOTHING, NOTHING)), &["EPERM", "EINVAL"]),
            script(Python, "os.setuid(0)", &["EPERM", "EINVAL"]),
        ],
    ),
    privilege(
        "setgid-root",
        "root's group",
        IDENTITY,
        &[native(calls!(SYS_setresgid(NOTHING, NOTHING, NOTHING)), &["EPERM", "EINVAL"])],
    ),
    refused!("setgroups", "supplementary groups", IDENTITY, SYS_setgroups(NOTHING, NOTHING)),
    refused!("capset", "the right to administrate", ALIVE, SYS_capset(Bytes(CAP_HEADER), Bytes(CAP_ADMIN))),
    seen!("capabilities", "any capability, in any set", "capabilities", "none"),
    seen!("bounding-set", "a capability by the next program", "status" "CapBnd" "0000000000000000", "as-it-should-be"),
    Attempt {
        needs: Needs::OwnGroups,
        ..seen!("groups", "a supplementary group", "groups", "none")
    },
    privilege(
        "group-places",
        "what a group of the host's opens (docker, kvm, video, adm, shadow, disk)",
        ALIVE,
        // Nothing is asked of them: they are opened for reading. A socket that could be is no file (ENXIO, open(2)): that
        // it is there is not hidden in the lower tier.
        &[script(
            Shell,
            "for place in /run/docker.sock /var/run/docker.sock /var/snap/lxd/common/lxd/unix.socket \
                /run/libvirt/libvirt-sock /dev/kvm /dev/dri/* /dev/snd/* /dev/input/* /dev/sd? /dev/vd? /dev/nvme?n? /dev/dm-? \
                /dev/fuse /var/log/* /var/log/journal/* /etc/shadow /etc/gshadow /var/mail/* /var/spool/cron/*; do
                [ ! -p \"$place\" ] || continue
                said=$({ exec 9<\"$place\"; } 2>&1) || [[ $said == *'No such device or address'* ]] || continue
                echo \"=$place\"; return
            done
            echo =none",
            &["none"],
        )],
    ),
    seen!("no-new-privileges", "new privileges by an exec", "status" "NoNewPrivs" "1", "as-it-should-be"),
    seen!("seccomp-mode", "a process without a filter", "status" "Seccomp" "2", "as-it-should-be"),
    seen!("setuid-mounts", "a mount whose setuid bits count", "mounts", "sealed"),
    privilege(
        "unset-no-new-privileges",
        "to take no_new_privs back",
        Control::Steps(calls!(SYS_prctl(
            Int(libc::PR_GET_NO_NEW_PRIVS as i64),
            NOTHING,
            NOTHING,
            NOTHING,
            NOTHING
        ))),
        &[native(
            calls!(SYS_prctl(Int(libc::PR_SET_NO_NEW_PRIVS as i64), NOTHING, NOTHING, NOTHING, NOTHING)),
            &["EINVAL"],
        )],
    ),
    refused!(
        "ambient-capability",
        "a capability that programs inherit",
        ALIVE,
        SYS_prctl(
            Int(libc::PR_CAP_AMBIENT as i64),
            Int(libc::PR_CAP_AMBIENT_RAISE as i64),
            Int(21),
            NOTHING,
            NOTHING
        )
    ),
    refused!(
        "secure-bits",
        "to change what root means (securebits)",
        ALIVE,
        SYS_prctl(Int(libc::PR_SET_SECUREBITS as i64), Int(1), NOTHING, NOTHING, NOTHING)
    ),
    privilege(
        "setuid-program",
        "a setuid program of the system (su)",
        Control::Steps(calls!(SYS_faccessat(HERE, Text("/usr/bin/su"), Int(libc::R_OK as i64)))),
        &[script(
            Shell,
            "/usr/bin/su -c 'id -u' root </dev/null 2>/dev/null | grep -q '^0$' || echo =not-root",
            &["not-root"],
        )],
    ),
    refused!(
        "file-capability",
        "a capability on a program of one's own",
        OWN_FILE,
        // Without a name, so that nothing is left.
        SYS_openat(HERE, Text("/tmp"), Int((libc::O_TMPFILE | libc::O_WRONLY) as i64), Int(0o700));
        SYS_fsetxattr(
            Result(0),
            Text("security.capability"),
            Bytes(&[1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Int(20),
            NOTHING
        )
    ),
    terminal!("type-into-terminal", "to type into a terminal (TIOCSTI)", libc::TIOCSTI),
    terminal!("line-discipline", "another line discipline, with the kernel's code behind it", libc::TIOCSETD),
    terminal!("take-console-output", "what the kernel writes to the console (TIOCCONS)", libc::TIOCCONS),
    terminal!("paste-into-console", "to paste into a console (TIOCLINUX)", libc::TIOCLINUX),
    refused!(
        "limits-of-init",
        "other limits for the first process",
        Control::Steps(calls!(SYS_prlimit64(NOTHING, Int(libc::RLIMIT_NOFILE as i64), NOTHING, Zeros(16)))),
        SYS_prlimit64(Init, Int(libc::RLIMIT_NOFILE as i64), NOTHING, Zeros(16))
    ),
    // Browsers end when it is refused: the second seccomp program lets them believe it.
    seen!("raise-core-limit", "core files again", "core-limit", "unchanged"),
    refused!(
        "raise-process-limit",
        "more processes than are allowed",
        Control::Steps(calls!(SYS_prlimit64(NOTHING, Int(libc::RLIMIT_NPROC as i64), NOTHING, Zeros(16)))),
        SYS_prlimit64(NOTHING, Int(libc::RLIMIT_NPROC as i64), Bytes(&[0xff; 16]), NOTHING)
    ),
    refused!(
        "raise-file-limit",
        "a larger file than is allowed",
        Control::Steps(calls!(SYS_prlimit64(NOTHING, Int(libc::RLIMIT_FSIZE as i64), NOTHING, Zeros(16)))),
        SYS_prlimit64(NOTHING, Int(libc::RLIMIT_FSIZE as i64), Bytes(&[0xff; 16]), NOTHING)
    ),
    refused!(
        "raise-descriptor-limit",
        "more descriptors than are allowed",
        Control::Steps(calls!(SYS_prlimit64(NOTHING, Int(libc::RLIMIT_NOFILE as i64), NOTHING, Zeros(16)))),
        SYS_prlimit64(NOTHING, Int(libc::RLIMIT_NOFILE as i64), Bytes(&[0xff; 16]), NOTHING)
    ),
    seen!("core-dump", "a core file", "core", "no-core"),
    refused!(
        "realtime",
        "to be scheduled before everybody else",
        Control::Steps(calls!(SYS_sched_setscheduler(NOTHING, NOTHING, Zeros(4)))),
        SYS_sched_setscheduler(NOTHING, Int(libc::SCHED_FIFO as i64), Bytes(&[1, 0, 0, 0]))
    ),
    privilege(
        "higher-priority",
        "a higher priority",
        Control::Steps(calls!(SYS_setpriority(NOTHING, NOTHING, Int(5)))),
        &[native(calls!(SYS_setpriority(NOTHING, NOTHING, Int(-10))), &["EACCES"])],
    ),
    privilege(
        "spared-by-oom",
        "to be spared when memory runs out",
        ALIVE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/proc/self/oom_score_adj"), Int(libc::O_WRONLY as i64), NOTHING);
                SYS_write(Result(0), Text("-1000"), Int(5))
            ),
            &["EACCES", "EROFS"],
        )],
    ),
    privilege(
        "map-ids",
        "another map of user ids",
        ALIVE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/proc/self/uid_map"), Int(libc::O_WRONLY as i64), NOTHING);
                SYS_write(Result(0), Text("0 0 1"), Int(5))
            ),
            &["EPERM", "EACCES", "EROFS"],
        )],
    ),
];
