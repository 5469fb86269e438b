//! Calls with a record: namespaces, mounts, other processes, and parts of the kernel that no agent needs. Each
//! is made with arguments that would do nothing where it is allowed.

use super::{ALIVE, FILTERED, FORK, HERE, NOTHING, OWN_FILE, UNKNOWN, calls, native};
use crate::attempt::Arg::{Bytes, HostPid, Init, Int, Own, Result, Sibling, Text, Zeros};
use crate::attempt::{Attempt, Call, Control, Group, Needs, Steps, Way, Word};

const fn kernel(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Kernel, tries, control, ways, needs: Needs::Nothing }
}

const fn x86(id: &'static str, tries: &'static str, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Kernel, tries, control: ALIVE, ways, needs: Needs::X86 }
}

macro_rules! refused {
    ($id:literal, $tries:literal, $control:expr, $($call:tt)+) => {
        kernel($id, $tries, $control, &[native(calls!($($call)+), FILTERED)])
    };
}

macro_rules! unknown {
    ($id:literal, $tries:literal, $control:expr, $($call:tt)+) => {
        kernel($id, $tries, $control, &[native(calls!($($call)+), UNKNOWN)])
    };
}

const NEWUSER: i64 = libc::CLONE_NEWUSER as i64;

/// A directory that is no mount point: what may mount is told so, and changes nothing.
const NO_MOUNT: crate::attempt::Arg = Text("/proc/self");

/// `perf_event_attr` of the processor's clock, without the kernel (exclude_kernel).
const PERF_CLOCK: &[u8] = &[
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0x20,
];

/// QCMD(Q_SYNC, USRQUOTA) of quotactl(2).
const QUOTA_SYNC: i64 = 0x8000_0100;

/// Calls of another architecture end whoever makes them.
const KILLED: &[&str] = &["SIGSYS"];

/// modify_ldt(2), which reads nothing here; its number on x86-64.
const X86_MODIFY_LDT: Call = Call { number: 154, arguments: &[NOTHING, NOTHING, NOTHING] };
/// iopl(2) with the level that every process has; its number on x86-64.
const X86_IOPL: Call = Call { number: 172, arguments: &[NOTHING] };

/// `struct clone_args` with CLONE_NEWUSER and SIGCHLD as exit signal.
const CLONE_ARGS: &[u8] = &[
    0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0,
    0, 0, 0, 0, 0, 0,
];

/// A `sock_fprog` of no instructions would do nothing; the pointer in it is null.
const LISTENER: i64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as i64;

const EVENTS: Control = Control::Steps(calls!(SYS_epoll_create1(NOTHING)));
const FILES: Control = Control::Steps(calls!(SYS_statfs(Text("/"), Zeros(256))));
const CLOCK: Control = Control::Steps(calls!(SYS_clock_gettime(NOTHING, Zeros(16))));
const MEMORY: Control = Control::Steps(calls!(
    SYS_mmap(NOTHING, Int(4096), Int(3), Int((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64), Int(-1), NOTHING);
    SYS_munmap(Result(0), Int(4096))
));
const SIGNALS: Control = Control::Steps(calls!(SYS_kill(Own, NOTHING)));

pub const ATTEMPTS: &[Attempt] = &[
    // Namespaces.
    refused!("unshare-user", "a user namespace of one's own", FORK, SYS_unshare(Int(NEWUSER))),
    refused!(
        "unshare-net",
        "a network namespace of one's own",
        FORK,
        SYS_unshare(Int(libc::CLONE_NEWNET as i64))
    ),
    refused!(
        "unshare-mount",
        "a mount namespace of one's own",
        FORK,
        SYS_unshare(Int(libc::CLONE_NEWNS as i64))
    ),
    refused!(
        "clone-user",
        "a process in a user namespace",
        FORK,
        SYS_clone(Int(NEWUSER | libc::SIGCHLD as i64), NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    refused!(
        "clone-pid",
        "a process in a process-id namespace",
        FORK,
        SYS_clone(Int((libc::CLONE_NEWPID | libc::SIGCHLD) as i64), NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    unknown!(
        "clone3-user",
        "the same by clone3, whose flags no filter sees",
        FORK,
        SYS_clone3(Bytes(CLONE_ARGS), Int(64))
    ),
    refused!(
        "setns-own",
        "to join a namespace by its descriptor",
        FORK,
        SYS_openat(HERE, Text("/proc/self/ns/uts"), NOTHING);
        SYS_setns(Result(0), NOTHING)
    ),
    kernel(
        "setns-init",
        "the namespaces of the first process",
        Control::Steps(calls!(SYS_openat(HERE, Text("/proc/self/ns/net"), NOTHING))),
        &[native(
            calls!(SYS_openat(HERE, Text("/proc/1/ns/net"), NOTHING); SYS_setns(Result(0), NOTHING)),
            &["EACCES"],
        )],
    ),
    // Mounts.
    refused!(
        "mount",
        "to mount",
        FILES,
        SYS_mount(Text("none"), Text("/"), Text("no-such-type"), NOTHING, NOTHING)
    ),
    refused!(
        "remount-root",
        "to make the root writable",
        FILES,
        SYS_mount(Text("none"), NO_MOUNT, NOTHING, Int((libc::MS_REMOUNT | libc::MS_BIND) as i64), NOTHING)
    ),
    refused!("umount", "to unmount", FILES, SYS_umount2(NO_MOUNT, Int(libc::MNT_DETACH as i64))),
    refused!("pivot-root", "another root", FILES, SYS_pivot_root(NO_MOUNT, NO_MOUNT)),
    refused!("chroot", "to change the root, and climb out of it", FILES, SYS_chroot(Text("/"))),
    refused!("fsopen", "a new file system by descriptor", FILES, SYS_fsopen(Text("no-such-type"), NOTHING)),
    refused!("open-tree", "a copy of a mount", FILES, SYS_open_tree(HERE, Text("/"), Int(1))),
    refused!("move-mount", "to move a mount", FILES, SYS_move_mount(HERE, NO_MOUNT, HERE, NO_MOUNT, NOTHING)),
    refused!(
        "mount-setattr",
        "to take read-only from a mount",
        FILES,
        SYS_mount_setattr(HERE, NO_MOUNT, NOTHING, Zeros(32), Int(32))
    ),
    refused!(
        "open-by-handle",
        "a file by its handle, past every path",
        OWN_FILE,
        SYS_open_by_handle_at(HERE, Bytes(&[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), NOTHING)
    ),
    // Other processes.
    refused!(
        "ptrace-sibling",
        "to trace the agent's main process",
        SIGNALS,
        SYS_ptrace(Int(libc::PTRACE_SEIZE as i64), Sibling, NOTHING, NOTHING)
    ),
    refused!(
        "ptrace-init",
        "to trace the first process",
        SIGNALS,
        SYS_ptrace(Int(libc::PTRACE_SEIZE as i64), Init, NOTHING, NOTHING)
    ),
    refused!("ptrace-self", "to be traced", SIGNALS, SYS_ptrace(NOTHING, NOTHING, NOTHING, NOTHING)),
    refused!(
        "read-memory",
        "to read another process's memory",
        MEMORY,
        SYS_process_vm_readv(Sibling, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    refused!(
        "write-memory",
        "to write another process's memory",
        MEMORY,
        SYS_process_vm_writev(Sibling, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    refused!(
        "steal-descriptor",
        "to take a descriptor out of another process",
        SIGNALS,
        SYS_pidfd_open(Own, NOTHING);
        SYS_pidfd_getfd(Result(0), NOTHING, NOTHING)
    ),
    refused!(
        "kcmp",
        "to compare kernel objects of two processes",
        SIGNALS,
        SYS_kcmp(Own, Own, NOTHING, NOTHING, NOTHING)
    ),
    kernel(
        "signal-host",
        "to signal a process of the host",
        SIGNALS,
        &[native(calls!(SYS_kill(HostPid, NOTHING)), &["ESRCH"])],
    ),
    kernel(
        "pidfd-host",
        "a handle on a process of the host",
        Control::Steps(
            calls!(SYS_pidfd_open(Own, NOTHING); SYS_pidfd_send_signal(Result(0), NOTHING, NOTHING, NOTHING)),
        ),
        &[native(
            calls!(SYS_pidfd_open(HostPid, NOTHING); SYS_pidfd_send_signal(Result(0), NOTHING, NOTHING, NOTHING)),
            &["ESRCH"],
        )],
    ),
    // Parts of the kernel with a record.
    refused!("bpf", "to load a BPF program", EVENTS, SYS_bpf(NOTHING, Zeros(128), Int(128))),
    refused!(
        "perf-event",
        "performance events",
        EVENTS,
        SYS_perf_event_open(Bytes(PERF_CLOCK), NOTHING, Int(-1), Int(-1), NOTHING)
    ),
    refused!("userfaultfd", "to handle page faults", MEMORY, SYS_userfaultfd(Int(1))),
    refused!(
        "io-uring",
        "calls by io_uring, past every filter",
        EVENTS,
        SYS_io_uring_setup(Int(1), Zeros(256))
    ),
    refused!(
        "io-uring-register",
        "to register with a ring",
        EVENTS,
        SYS_io_uring_register(Int(-1), NOTHING, NOTHING, NOTHING)
    ),
    refused!("fanotify", "to watch everybody's files", EVENTS, SYS_fanotify_init(NOTHING, NOTHING)),
    refused!("keyctl", "a keyring", ALIVE, SYS_keyctl(NOTHING, Int(-3), NOTHING, NOTHING, NOTHING)),
    refused!(
        "add-key",
        "a key of one's own in a keyring",
        ALIVE,
        SYS_add_key(Text("user"), Text("clawkeep-drill"), Text("x"), Int(1), Int(-1))
    ),
    refused!(
        "request-key",
        "a key, which makes the kernel start a program on the host",
        ALIVE,
        SYS_request_key(Text("user"), Text("clawkeep-drill"), NOTHING, NOTHING)
    ),
    unknown!("memfd-secret", "memory that the kernel cannot see", MEMORY, SYS_memfd_secret(NOTHING)),
    unknown!(
        "move-pages",
        "to move another process's pages",
        MEMORY,
        SYS_move_pages(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    kernel(
        "call-of-the-future",
        "a call that no kernel has yet",
        ALIVE,
        &[native(Steps::Calls(&[Call { number: 1000, arguments: &[] }]), UNKNOWN)],
    ),
    // The kernel itself.
    refused!("load-module", "to load a kernel module", FILES, SYS_init_module(NOTHING, NOTHING, Text(""))),
    refused!(
        "load-module-file",
        "to load one from a file",
        FILES,
        SYS_finit_module(Int(-1), Text(""), NOTHING)
    ),
    refused!(
        "unload-module",
        "to unload a kernel module",
        FILES,
        SYS_delete_module(Text("no_such_module"), Int(libc::O_NONBLOCK as i64))
    ),
    refused!("kexec", "another kernel", FILES, SYS_kexec_load(NOTHING, Int(17), NOTHING, Int(-1))),
    refused!("reboot", "to reboot", ALIVE, SYS_reboot(NOTHING, NOTHING, NOTHING, NOTHING)),
    refused!("kernel-log", "the kernel's log", ALIVE, SYS_syslog(Int(10), NOTHING, NOTHING)),
    refused!("host-name", "another host name", ALIVE, SYS_sethostname(NOTHING, Int(-1))),
    refused!("set-clock", "to set the clock", CLOCK, SYS_settimeofday(NOTHING, NOTHING)),
    refused!("swap", "swap space on a file", FILES, SYS_swapon(NO_MOUNT, NOTHING)),
    refused!("quota", "somebody's quota", FILES, SYS_quotactl(Int(QUOTA_SYNC), NOTHING, NOTHING, NOTHING)),
    refused!("accounting", "accounting of processes into a file", FILES, SYS_acct(NO_MOUNT)),
    // The filter itself.
    refused!(
        "seccomp-listener",
        "a seccomp listener of one's own",
        ALIVE,
        SYS_seccomp(Int(1), Int(LISTENER), Zeros(16))
    ),
    refused!(
        "personality",
        "a personality without address randomisation",
        Control::Steps(calls!(SYS_personality(Int(0xffff_ffff)))),
        SYS_personality(Int(libc::ADDR_NO_RANDOMIZE as i64))
    ),
    kernel(
        "memfd-exec",
        "a program in memory, to run without the walls",
        Control::Steps(Steps::Verb(&[Word::Text("memfd"), Word::Text("nothing")])),
        &[native(
            Steps::Verb(&[
                Word::Text("memfd"),
                Word::Text("calls"),
                Word::Text("call"),
                Word::Number(libc::SYS_unshare),
                Word::Text("i268435456"),
            ]),
            FILTERED,
        )],
    ),
    refused!(
        "rewrite-own-map",
        "another program's name for one's own process (PR_SET_MM)",
        Control::Steps(calls!(SYS_prctl(
            Int(libc::PR_GET_DUMPABLE as i64),
            NOTHING,
            NOTHING,
            NOTHING,
            NOTHING
        ))),
        SYS_prctl(
            Int(libc::PR_SET_MM as i64),
            Int(libc::PR_SET_MM_EXE_FILE as i64),
            Int(-1),
            NOTHING,
            NOTHING
        )
    ),
    unknown!(
        "memory-policy",
        "to place memory on the host's nodes",
        MEMORY,
        SYS_mbind(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    x86("modify-ldt", "segments of one's own", &[native(Steps::Calls(&[X86_MODIFY_LDT]), FILTERED)]),
    x86("port-access", "the machine's ports", &[native(Steps::Calls(&[X86_IOPL]), FILTERED)]),
    x86("int80", "a call by the 32-bit entry", &[native(Steps::Verb(&[Word::Text("int80")]), KILLED)]),
    x86("x32", "a call of the x32 architecture", &[native(Steps::Verb(&[Word::Text("x32")]), KILLED)]),
];
