//! What is not the sandbox's: the system, the guards, the host's files, devices, and the kernel's own files.

use super::{ABSENT, ALIVE, CREATE, HERE, NOTHING, OWN_FILE, READ_ONLY, calls, native, script};
use crate::attempt::Arg::{Bytes, FileCanary, Int, Result, Text, Zeros};
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Way, Word};
use crate::target::Runtime::{Node, Python, Shell};

const fn files(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Filesystem, tries, control, ways, needs: Needs::Nothing }
}

const READ: i64 = (libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK) as i64;
const WRITE: i64 = (libc::O_WRONLY | libc::O_CLOEXEC) as i64;
const MODE: crate::attempt::Arg = Int(0o644);

/// A file of the system that every target has and nobody executes: who executes what another has open for
/// writing fails (execve(2), ETXTBSY).
const SYSTEM_FILE: crate::attempt::Arg = Text("/usr/lib/os-release");

/// Two `timespec` for utimensat(2): the time of access now, that of modification as it is.
const ACCESSED: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff,
    0x3f, 0, 0, 0, 0,
];

/// It can be read and looked at.
const READABLE: Control = Control::Steps(calls!(
    SYS_openat(HERE, SYSTEM_FILE, Int(READ), NOTHING);
    SYS_read(Result(0), Zeros(16), Int(16))
));

/// A file of one's own can be renamed.
const RENAME: Control = Control::Steps(calls!(
    SYS_openat(HERE, Text("/tmp/.clawkeep-drill"), Int(CREATE), Int(0o600));
    SYS_renameat(HERE, Text("/tmp/.clawkeep-drill"), HERE, Text("/tmp/.clawkeep-drill-2"));
    SYS_linkat(HERE, Text("/tmp/.clawkeep-drill-2"), HERE, Text("/tmp/.clawkeep-drill"), NOTHING);
    SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING);
    SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill-2"), NOTHING)
));

/// The files of /proc that programs need.
const PROC: Control = Control::Steps(Steps::Verb(&[Word::Text("read"), Word::Text("/proc/self/status")]));

/// The devices that programs need.
const DEVICES: Control = Control::Steps(calls!(
    SYS_openat(HERE, Text("/dev/null"), Int(WRITE), NOTHING);
    SYS_openat(HERE, Text("/dev/urandom"), Int(READ), NOTHING);
    SYS_read(Result(1), Zeros(8), Int(8))
));

/// Not there, hidden behind an empty file or directory, or not for the agent.
const MASKED: &[&str] = &["ENOENT", "EACCES", "EPERM", "empty"];

/// Not there, on a read-only mount, or not the agent's.
const NOT_WRITABLE: &[&str] = &["ENOENT", "EROFS", "EACCES", "EPERM"];

/// The ptrace check of the kernel (ptrace(2)) does not let us.
const NOT_OURS: &[&str] = &["EACCES"];

macro_rules! make {
    ($id:literal, $tries:literal, $path:literal) => {
        files(
            $id,
            $tries,
            OWN_FILE,
            &[native(
                calls!(SYS_openat(HERE, Text($path), Int(CREATE), MODE); SYS_unlinkat(HERE, Text($path), NOTHING)),
                READ_ONLY,
            )],
        )
    };
}

macro_rules! change {
    ($id:literal, $tries:literal, $control:expr, $($call:tt)+) => {
        files($id, $tries, $control, &[native(calls!($($call)+), READ_ONLY)])
    };
}

macro_rules! reads {
    ($id:literal, $tries:literal, $path:literal, $control:expr, $expect:expr) => {
        files(
            $id,
            $tries,
            $control,
            &[native(Steps::Verb(&[Word::Text("read"), Word::Text($path)]), $expect)],
        )
    };
}

macro_rules! host {
    ($id:literal, $tries:literal, $path:literal, $expect:expr) => {
        Attempt { needs: Needs::HostSystem, ..reads!($id, $tries, $path, READABLE, $expect) }
    };
}

macro_rules! writes {
    ($id:literal, $tries:literal, $path:literal, $control:expr, $expect:expr) => {
        files(
            $id,
            $tries,
            $control,
            &[native(calls!(SYS_openat(HERE, Text($path), Int(WRITE), NOTHING)), $expect)],
        )
    };
}

macro_rules! device {
    ($id:literal, $tries:literal, $path:literal) => {
        files(
            $id,
            $tries,
            DEVICES,
            &[native(calls!(SYS_openat(HERE, Text($path), Int(READ), NOTHING)), ABSENT)],
        )
    };
}

macro_rules! process {
    ($id:literal, $tries:literal, $file:literal) => {
        files(
            $id,
            $tries,
            PROC,
            &[native(Steps::Verb(&[Word::Text("siblings"), Word::Text($file)]), NOT_OURS)],
        )
    };
}

macro_rules! init {
    ($id:literal, $tries:literal, $verb:literal, $file:literal) => {
        files($id, $tries, PROC, &[native(Steps::Verb(&[Word::Text($verb), Word::Text($file)]), NOT_OURS)])
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    // The system.
    files(
        "write-system",
        "a new program in /usr/bin",
        OWN_FILE,
        &[
            native(
                calls!(
                    SYS_openat(HERE, Text("/usr/bin/.clawkeep-drill"), Int(CREATE), MODE);
                    SYS_unlinkat(HERE, Text("/usr/bin/.clawkeep-drill"), NOTHING)
                ),
                READ_ONLY,
            ),
            script(Shell, ": >/usr/bin/.clawkeep-drill && rm -f /usr/bin/.clawkeep-drill", READ_ONLY),
            script(Python, "create('/usr/bin/.clawkeep-drill')", READ_ONLY),
            script(Node, "create('/usr/bin/.clawkeep-drill')", READ_ONLY),
        ],
    ),
    make!("write-root", "a new file in the root", "/.clawkeep-drill"),
    make!("write-etc", "a new file in /etc", "/etc/.clawkeep-drill"),
    make!("write-run", "a new file in /run", "/run/.clawkeep-drill"),
    make!("write-dev", "a new file in /dev", "/dev/.clawkeep-drill"),
    make!("write-home", "a new file in /home", "/home/.clawkeep-drill"),
    Attempt {
        id: "write-guards",
        group: Group::Filesystem,
        tries: "a guard of one's own in the package",
        control: OWN_FILE,
        ways: &[native(
            calls!(SYS_openat(HERE, Text("/opt/clawkeep/guards/.clawkeep-drill"), Int(CREATE), MODE)),
            &["EROFS"],
        )],
        needs: Needs::Guards,
    },
    Attempt {
        id: "overwrite-trust",
        group: Group::Filesystem,
        tries: "another authority for every program to trust",
        control: READABLE,
        ways: &[native(
            calls!(SYS_openat(HERE, Text("/opt/clawkeep/ca.pem"), Int(WRITE), NOTHING)),
            READ_ONLY,
        )],
        needs: Needs::Proxy,
    },
    make!("preload-file", "a library for every program (/etc/ld.so.preload)", "/etc/ld.so.preload"),
    change!(
        "overwrite-file",
        "to write to a file of the system",
        READABLE,
        SYS_openat(HERE, SYSTEM_FILE, Int(WRITE), NOTHING)
    ),
    Attempt {
        id: "truncate-file",
        group: Group::Filesystem,
        tries: "to truncate it without opening it",
        control: OWN_FILE,
        ways: &[native(calls!(SYS_truncate(SYSTEM_FILE, NOTHING)), READ_ONLY)],
        // Where it is allowed, the file is lost.
        needs: Needs::ReadOnlySystem,
    },
    change!("chmod-file", "to change its mode", OWN_FILE, SYS_fchmodat(HERE, SYSTEM_FILE, Int(0o644))),
    change!(
        "chown-file",
        "to change its owner",
        OWN_FILE,
        SYS_fchownat(HERE, SYSTEM_FILE, Int(0), Int(0), NOTHING)
    ),
    change!(
        "touch-file",
        "to change its times",
        OWN_FILE,
        SYS_utimensat(HERE, SYSTEM_FILE, Bytes(ACCESSED), NOTHING)
    ),
    change!(
        "attribute-file",
        "to take an extended attribute from it",
        OWN_FILE,
        SYS_removexattr(SYSTEM_FILE, Text("user.clawkeep-drill"))
    ),
    files(
        "rename-out",
        "to move a file of the system to /tmp",
        RENAME,
        &[native(
            // To where something is, so that nothing is moved where it is allowed.
            calls!(SYS_renameat2(HERE, SYSTEM_FILE, HERE, Text("/tmp"), Int(libc::RENAME_NOREPLACE as i64))),
            &["EXDEV"],
        )],
    ),
    files(
        "link-out",
        "a hard link from /tmp to a file of the system",
        RENAME,
        &[native(
            calls!(
                SYS_linkat(HERE, SYSTEM_FILE, HERE, Text("/tmp/.clawkeep-drill"), NOTHING);
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING)
            ),
            &["EXDEV"],
        )],
    ),
    files(
        "move-mount-point",
        "to move the directory on which /tmp is mounted",
        RENAME,
        &[native(
            calls!(SYS_renameat2(HERE, Text("/tmp"), HERE, Text("/run"), Int(libc::RENAME_NOREPLACE as i64))),
            &["EROFS"],
        )],
    ),
    // The host's files.
    files(
        "host-file-read",
        "a file of the host by its path there",
        READABLE,
        &[native(calls!(SYS_openat(HERE, FileCanary, Int(READ), NOTHING)), ABSENT)],
    ),
    files(
        "host-file-write",
        "to change a file of the host by its path there",
        OWN_FILE,
        &[
            native(
                calls!(SYS_openat(HERE, FileCanary, Int(WRITE), NOTHING); SYS_write(Result(0), Text("x"), Int(1))),
                ABSENT,
            ),
            script(Shell, "printf x >>\"$FILE\"", ABSENT),
            script(Python, "open(FILE, 'r+').write('x')", ABSENT),
            script(Node, "fs.writeFileSync(FILE, 'x', {flag: 'r+'})", ABSENT),
        ],
    ),
    files(
        "host-file-by-link",
        "the same over a symbolic link in a directory of one's own",
        OWN_FILE,
        &[script(
            Shell,
            "link=$TMP/.clawkeep-drill-link; ln -sfn \"$FILE\" \"$link\"; trap 'rm -f \"$link\"' EXIT; printf x >>\"$link\"",
            // In a sticky directory a link may also be refused for its owner (protected_symlinks, proc_sys_fs(5)).
            &["ENOENT", "EACCES"],
        )],
    ),
    files(
        "host-file-rename",
        "to take a file of the host away, by its path there",
        RENAME,
        &[native(
            calls!(
                SYS_renameat(HERE, FileCanary, HERE, Text("/tmp/.clawkeep-drill-stolen"));
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill-stolen"), NOTHING)
            ),
            ABSENT,
        )],
    ),
    files(
        "host-file-link",
        "a name of one's own for a file of the host",
        RENAME,
        &[native(
            calls!(
                SYS_linkat(HERE, FileCanary, HERE, Text("/tmp/.clawkeep-drill-stolen"), NOTHING);
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill-stolen"), NOTHING)
            ),
            ABSENT,
        )],
    ),
    files(
        "host-file-remove",
        "to remove a file of the host",
        RENAME,
        &[native(calls!(SYS_unlinkat(HERE, FileCanary, NOTHING)), ABSENT)],
    ),
    files(
        "host-file-truncate",
        "to truncate a file of the host without opening it",
        OWN_FILE,
        &[native(calls!(SYS_truncate(FileCanary, NOTHING)), ABSENT)],
    ),
    files(
        "host-file-mode",
        "another mode of a file of the host",
        OWN_FILE,
        &[native(calls!(SYS_fchmodat(HERE, FileCanary, Int(0o666))), ABSENT)],
    ),
    files(
        "host-file-times",
        "other times of a file of the host",
        OWN_FILE,
        &[native(calls!(SYS_utimensat(HERE, FileCanary, Bytes(ACCESSED), NOTHING)), ABSENT)],
    ),
    files(
        "host-file-attribute",
        "an extended attribute of a file of the host",
        OWN_FILE,
        &[native(
            calls!(SYS_setxattr(FileCanary, Text("user.clawkeep-drill"), Text("x"), Int(1), NOTHING)),
            ABSENT,
        )],
    ),
    files(
        "host-file-exists",
        "whether a file of the host is there",
        READABLE,
        &[native(calls!(SYS_newfstatat(HERE, FileCanary, Zeros(256), NOTHING)), ABSENT)],
    ),
    files(
        "host-file-watch",
        "to watch a file of the host",
        Control::Steps(calls!(
            SYS_inotify_init1(NOTHING);
            SYS_inotify_add_watch(Result(0), Text("/tmp"), Int(libc::IN_CREATE as i64))
        )),
        &[native(
            calls!(
                SYS_inotify_init1(NOTHING);
                SYS_inotify_add_watch(Result(0), FileCanary, Int(libc::IN_MODIFY as i64))
            ),
            ABSENT,
        )],
    ),
    // Devices and masks that others were made to trust (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).
    files(
        "replace-null",
        "another name for /dev/null, which masks others",
        DEVICES,
        &[native(
            calls!(
                SYS_linkat(HERE, Text("/dev/null"), HERE, Text("/dev/.clawkeep-drill"), NOTHING);
                SYS_unlinkat(HERE, Text("/dev/.clawkeep-drill"), NOTHING)
            ),
            // Between two mounts; not an owner (protected_hardlinks, proc_sys_fs(5)).
            &["EXDEV", "EROFS", "EACCES", "EPERM"],
        )],
    ),
    files(
        "link-over-console",
        "a link in the place of the console",
        DEVICES,
        &[native(
            calls!(
                SYS_symlinkat(Text("/proc/sysrq-trigger"), HERE, Text("/dev/.clawkeep-drill"));
                SYS_unlinkat(HERE, Text("/dev/.clawkeep-drill"), NOTHING)
            ),
            READ_ONLY,
        )],
    ),
    writes!(
        "own-label",
        "the label of the next program, where others write for us",
        "/proc/self/attr/exec",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "own-label-smack",
        "the same of another security module",
        "/proc/self/attr/smack/current",
        PROC,
        NOT_WRITABLE
    ),
    host!("shadow", "the host's password hashes", "/etc/shadow", ABSENT),
    host!("root-home", "root's files", "/root/.bashrc", &["ENOENT", "EACCES"]),
    host!("host-state", "the package database of the host", "/var/lib/dpkg/status", ABSENT),
    host!("host-boot", "the host's kernel configuration", "/boot/grub/grub.cfg", ABSENT),
    host!("tls-keys", "the host's private keys", "/etc/ssl/private/ssl-cert-snakeoil.key", ABSENT),
    reads!("init-socket", "the control socket of this sandbox", "/run/init.sock", READABLE, ABSENT),
    files(
        "climb-out",
        "out of the root by .. from a descriptor",
        ALIVE,
        &[native(Steps::Verb(&[Word::Text("climb")]), &["same-root"])],
    ),
    files(
        "leaked-descriptor",
        "a descriptor that was left open",
        ALIVE,
        &[native(Steps::Verb(&[Word::Text("descriptors")]), &["only-stdio"])],
    ),
    // Other processes' files.
    process!("sibling-memory", "the memory of the agent's main process", "mem"),
    process!("sibling-environment", "its environment", "environ"),
    process!("sibling-root", "its root directory", "root"),
    process!("sibling-descriptors", "its standard output", "fd/1"),
    init!("init-environment", "the environment of the first process", "read-of-init", "environ"),
    init!("init-memory", "its memory", "read-of-init", "mem"),
    init!("init-root", "the host through its root directory", "read-of-init", "root/etc/hostname"),
    init!("init-directory", "the host through its working directory", "read-of-init", "cwd/etc/hostname"),
    init!("init-program", "to overwrite the program of the first process", "write-of-init", "exe"),
    writes!("own-program", "to overwrite one's own running program", "/proc/self/exe", PROC, &["ETXTBSY"]),
    // Devices.
    device!("dev-mem", "the machine's memory", "/dev/mem"),
    device!("dev-kmsg", "the kernel's log as a device", "/dev/kmsg"),
    device!("dev-kvm", "virtual machines", "/dev/kvm"),
    device!("dev-fuse", "a file system of one's own", "/dev/fuse"),
    device!("dev-tun", "a network interface of one's own", "/dev/net/tun"),
    device!("dev-loop", "loop devices", "/dev/loop-control"),
    device!("dev-uinput", "to type on the host's console", "/dev/uinput"),
    device!("dev-disk", "the host's disk", "/dev/sda"),
    device!("dev-vhost", "the kernel's virtio", "/dev/vhost-net"),
    device!("dev-console", "the host's console", "/dev/console"),
    files(
        "mknod-device",
        "a device node of one's own making",
        OWN_FILE,
        &[native(
            calls!(
                SYS_mknodat(HERE, Text("/tmp/.clawkeep-drill"), Int((libc::S_IFCHR | 0o666) as i64), Int(0x101));
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING)
            ),
            &["EACCES", "EPERM"],
        )],
    ),
    files(
        "device-control",
        "to feed the kernel's random numbers (RNDADDTOENTCNT)",
        DEVICES,
        &[native(
            calls!(SYS_openat(HERE, Text("/dev/urandom"), Int(READ), NOTHING); SYS_ioctl(Result(0), Int(0x4004_5201), Zeros(4))),
            &["EPERM"],
        )],
    ),
    // The kernel's files.
    writes!(
        "core-pattern",
        "a program for the kernel to run (core_pattern)",
        "/proc/sys/kernel/core_pattern",
        PROC,
        NOT_WRITABLE
    ),
    writes!("sysctl-namespaces", "more namespaces", "/proc/sys/user/max_user_namespaces", PROC, NOT_WRITABLE),
    writes!("sysctl-network", "routing for others", "/proc/sys/net/ipv4/ip_forward", PROC, NOT_WRITABLE),
    writes!("sysctl-modprobe", "another modprobe", "/proc/sys/kernel/modprobe", PROC, NOT_WRITABLE),
    writes!("sysrq", "the magic keys", "/proc/sysrq-trigger", PROC, NOT_WRITABLE),
    writes!(
        "binfmt",
        "a handler for every program (binfmt_misc)",
        "/proc/sys/fs/binfmt_misc/register",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "release-agent",
        "a program for the kernel to run (release_agent)",
        "/sys/fs/cgroup/release_agent",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "uevent-helper",
        "a program for the kernel to run (uevent_helper)",
        "/sys/kernel/uevent_helper",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "sysctl-shared-memory",
        "more shared memory than there is",
        "/proc/sys/kernel/shmmax",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "sysctl-ptrace",
        "ptrace for everybody (yama)",
        "/proc/sys/kernel/yama/ptrace_scope",
        PROC,
        NOT_WRITABLE
    ),
    writes!("drop-caches", "to drop everybody's caches", "/proc/sys/vm/drop_caches", PROC, NOT_WRITABLE),
    writes!(
        "security-modules",
        "a profile for AppArmor",
        "/sys/kernel/security/apparmor/.load",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "devices-of-group",
        "every device, by the control group",
        "/sys/fs/cgroup/devices/devices.allow",
        PROC,
        NOT_WRITABLE
    ),
    writes!(
        "own-group",
        "another control group for oneself",
        "/sys/fs/cgroup/cgroup.procs",
        PROC,
        NOT_WRITABLE
    ),
    writes!("trace-kernel", "the kernel's trace", "/sys/kernel/tracing/trace_marker", PROC, NOT_WRITABLE),
    reads!(
        "kernel-symbols-debug",
        "the kernel's debugging files",
        "/sys/kernel/debug/kprobes/list",
        PROC,
        MASKED
    ),
    reads!("firmware", "the firmware's tables", "/sys/firmware/acpi/tables/DSDT", PROC, MASKED),
    reads!(
        "power",
        "the machine's power, by which others' secrets were read",
        "/sys/class/powercap/intel-rapl:0/energy_uj",
        PROC,
        MASKED
    ),
    reads!("kernel-memory", "the kernel's memory (kcore)", "/proc/kcore", PROC, MASKED),
    reads!("kernel-keys", "everybody's keys", "/proc/keys", PROC, MASKED),
    reads!("kernel-timers", "every timer of the host", "/proc/timer_list", PROC, MASKED),
    Attempt {
        // Who reads it takes it from others.
        needs: Needs::OwnProcesses,
        ..reads!("kernel-messages", "the kernel's log as a file", "/proc/kmsg", PROC, MASKED)
    },
    reads!(
        "kernel-scheduler",
        "every process of the host, by the scheduler",
        "/sys/kernel/debug/sched/debug",
        PROC,
        MASKED
    ),
    reads!("kernel-slabs", "the kernel's allocations", "/proc/slabinfo", PROC, MASKED),
    reads!("sys", "the host's devices by /sys", "/sys/class/dmi/id/product_uuid", PROC, MASKED),
];
