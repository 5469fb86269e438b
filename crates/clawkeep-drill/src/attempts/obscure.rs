//! More calls with a record: newer ones, and older ones that few remember.

use super::{ALIVE, CREATE, FILTERED, FORK, HERE, NOTHING, OWN_FILE, UNKNOWN, calls, native};
use crate::attempt::Arg::{Bytes, FileCanary, HostPid, Int, Own, Result, Text, Zeros};
use crate::attempt::{Attempt, Call, Control, Group, Needs, Steps, Way};

const fn kernel(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Kernel, tries, control, ways, needs: Needs::Nothing }
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

/// A call that the C library's bindings do not know everywhere: from 424 on it has the same number on every
/// architecture (the kernel's `scripts/syscall.tbl`).
macro_rules! numbered {
    ($id:literal, $tries:literal, $control:expr, $number:literal, $expect:expr, $($argument:expr),*) => {
        kernel(
            $id,
            $tries,
            $control,
            &[native(Steps::Calls(&[Call { number: $number, arguments: &[$($argument),*] }]), $expect)],
        )
    };
}

macro_rules! option {
    ($id:literal, $tries:literal, $option:expr, $($argument:expr),*) => {
        refused!($id, $tries, PRCTL, SYS_prctl(Int($option as i64), $($argument),*))
    };
}

const FILES: Control = Control::Steps(calls!(SYS_statfs(Text("/"), Zeros(256))));
const EVENTS: Control = Control::Steps(calls!(SYS_epoll_create1(NOTHING)));
const CLOCK: Control = Control::Steps(calls!(SYS_clock_gettime(NOTHING, Zeros(16))));
const MEMORY: Control = Control::Steps(calls!(
    SYS_mmap(NOTHING, Int(4096), Int(3), Int((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64), Int(-1), NOTHING);
    SYS_munmap(Result(0), Int(4096))
));
const PRCTL: Control =
    Control::Steps(calls!(SYS_prctl(Int(libc::PR_GET_DUMPABLE as i64), NOTHING, NOTHING, NOTHING, NOTHING)));
const ATTRIBUTES: Control = Control::Steps(calls!(SYS_listxattr(Text("/"), NOTHING, NOTHING)));

/// prctl(2): processors shared with others by a cookie of theirs.
const PR_SCHED_CORE: i32 = 62;
/// prctl(2): pages merged with those of others that are alike, which tells by its time what others have.
const PR_SET_MEMORY_MERGE: i32 = 67;
/// prctl(2): calls put to a handler of one's own.
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
/// prctl(2): reclaim as a file system's own thread does.
const PR_SET_IO_FLUSHER: i32 = 57;
/// prctl(2): performance events of this process off; all that perf_event_open(2) is not.
const PR_TASK_PERF_EVENTS_DISABLE: i32 = 31;

/// EXT4_IOC_SWAP_BOOT: the boot loader's blocks for one's own.
const EXT4_SWAP_BOOT: i64 = 0x6611;
/// EXT4_IOC_MOVE_EXT: another file's blocks.
const EXT4_MOVE_EXTENT: i64 = 0xc028_660f;
/// BTRFS_IOC_SUBVOL_CREATE.
const BTRFS_SUBVOLUME: i64 = 0x5000_940e;
/// BTRFS_IOC_TREE_SEARCH: every file's metadata, past every path.
const BTRFS_SEARCH: i64 = 0xd000_9411;
/// FS_IOC_ADD_ENCRYPTION_KEY: a key in a keyring of the file system's.
const ENCRYPTION_KEY: i64 = 0xc050_6617;
/// FIFREEZE: no writing for anybody on the file system.
const FREEZE: i64 = 0xc004_5877;
/// FITRIM: discard what the file system does not use.
const TRIM: i64 = 0xc018_5879;

/// A file system's own call, on one that has none of them.
macro_rules! control_of_files {
    ($id:literal, $tries:literal, $number:expr) => {
        refused!(
            $id,
            $tries,
            OWN_FILE,
            SYS_openat(HERE, Text("/proc/self"), Int(libc::O_DIRECTORY as i64), NOTHING);
            SYS_ioctl(Result(0), Int($number), Zeros(4096))
        )
    };
}

/// `landlock_ruleset_attr` that handles abstract sockets alone, so says nothing of files.
const LANDLOCK_LAYER: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

pub const ATTEMPTS: &[Attempt] = &[
    // Namespaces and mounts, by the calls beside the well-known ones.
    refused!("unshare-time", "a clock of one's own (a time namespace)", FORK, SYS_unshare(Int(0x80))),
    refused!(
        "unshare-cgroup",
        "a cgroup namespace of one's own",
        FORK,
        SYS_unshare(Int(libc::CLONE_NEWCGROUP as i64))
    ),
    unknown!(
        "clone-into-cgroup",
        "a process in another control group (CLONE_INTO_CGROUP)",
        FORK,
        // `struct clone_args` with that flag, SIGCHLD, and standard input for the group.
        SYS_clone3(
            Bytes(&[
                0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 17, 0, 0, 0, 0, 0, 0, 0
            ]),
            Int(88)
        )
    ),
    refused!(
        "fsconfig",
        "a file system's parameters, once a way to root (CVE-2022-0185)",
        FILES,
        SYS_fsconfig(Int(-1), NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    refused!("fsmount", "a mount of a new file system", FILES, SYS_fsmount(Int(-1), NOTHING, NOTHING)),
    refused!(
        "fspick",
        "another's file system, to set it up anew",
        FILES,
        SYS_fspick(HERE, Text("/"), NOTHING)
    ),
    numbered!(
        "open-tree-attr",
        "a copy of a mount with other flags",
        FILES,
        467,
        FILTERED,
        HERE,
        Text("/"),
        Int(1),
        Zeros(32),
        Int(32)
    ),
    numbered!(
        "mount-list",
        "every mount, by number",
        FILES,
        458,
        UNKNOWN,
        Zeros(32),
        Zeros(64),
        Int(8),
        NOTHING
    ),
    numbered!(
        "mount-status",
        "what is mounted where, by number",
        FILES,
        457,
        UNKNOWN,
        Zeros(32),
        Zeros(512),
        Int(512),
        NOTHING
    ),
    numbered!(
        "namespace-list",
        "every namespace, by number",
        FILES,
        470,
        UNKNOWN,
        Zeros(32),
        Zeros(64),
        Int(8),
        NOTHING
    ),
    refused!(
        "remount-guards",
        "the guards, writable",
        FILES,
        SYS_mount(
            Text("none"),
            Text("/opt/clawkeep/guards"),
            NOTHING,
            Int((libc::MS_REMOUNT | libc::MS_BIND) as i64),
            NOTHING
        )
    ),
    refused!(
        "unmount-guards",
        "no guards at their place",
        FILES,
        SYS_umount2(Text("/opt/clawkeep/guards"), Int(libc::MNT_DETACH as i64))
    ),
    refused!(
        "cover-guards",
        "a directory of one's own over the guards",
        FILES,
        SYS_mount(Text("/tmp"), Text("/opt/clawkeep/guards"), NOTHING, Int(libc::MS_BIND as i64), NOTHING)
    ),
    refused!(
        "file-handle",
        "a file's handle, to guess others by (the way of shocker)",
        OWN_FILE,
        SYS_name_to_handle_at(HERE, Text("/tmp"), Bytes(&[128, 0, 0, 0, 0, 0, 0, 0]), Zeros(8), NOTHING)
    ),
    // Other processes.
    refused!(
        "advise-others",
        "what another process's memory is for",
        MEMORY,
        SYS_pidfd_open(Own, NOTHING);
        SYS_process_madvise(Result(0), NOTHING, NOTHING, Int(libc::MADV_COLD as i64), NOTHING)
    ),
    unknown!(
        "release-others",
        "another process's memory, at once",
        MEMORY,
        SYS_process_mrelease(Int(-1), NOTHING)
    ),
    unknown!(
        "migrate-pages",
        "another process's pages to another node",
        MEMORY,
        SYS_migrate_pages(Own, NOTHING, NOTHING, NOTHING)
    ),
    kernel(
        "see-host-process",
        "whether a process runs on the host",
        ALIVE,
        &[native(calls!(SYS_getpriority(NOTHING, HostPid)), &["ESRCH"])],
    ),
    // prctl(2).
    option!(
        "core-cookie",
        "a core of the processor with others (PR_SCHED_CORE)",
        PR_SCHED_CORE,
        Int(1),
        NOTHING,
        NOTHING,
        NOTHING
    ),
    option!(
        "merged-pages",
        "pages merged with those of others (PR_SET_MEMORY_MERGE)",
        PR_SET_MEMORY_MERGE,
        Int(1),
        NOTHING,
        NOTHING,
        NOTHING
    ),
    option!(
        "own-dispatch",
        "calls past the filter by a handler of one's own",
        PR_SET_SYSCALL_USER_DISPATCH,
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING
    ),
    option!(
        "io-flusher",
        "memory before everybody else (PR_SET_IO_FLUSHER)",
        PR_SET_IO_FLUSHER,
        Int(1),
        NOTHING,
        NOTHING,
        NOTHING
    ),
    option!(
        "perf-by-option",
        "performance events, by prctl(2)",
        PR_TASK_PERF_EVENTS_DISABLE,
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING
    ),
    // Rings, queues and pipes.
    refused!(
        "io-uring-enter",
        "calls by a ring that somebody else has set up",
        EVENTS,
        SYS_io_uring_enter(Int(-1), NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    unknown!("asynchronous-io", "the older asynchronous calls", EVENTS, SYS_io_setup(Int(1), Zeros(8))),
    unknown!(
        "asynchronous-wait",
        "to wait for those",
        EVENTS,
        SYS_io_getevents(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    ),
    unknown!(
        "gift-pages",
        "one's own pages into a pipe (vmsplice)",
        MEMORY,
        SYS_vmsplice(Int(-1), NOTHING, NOTHING, NOTHING)
    ),
    unknown!(
        "message-queue",
        "a message queue, charged to the host's user",
        EVENTS,
        SYS_mq_open(
            Text("clawkeep-drill"),
            Int((libc::O_CREAT | libc::O_RDWR) as i64),
            Int(0o600),
            Zeros(64)
        )
    ),
    numbered!(
        "page-cache",
        "which pages of a file others have read",
        FILES,
        451,
        UNKNOWN,
        NOTHING,
        Zeros(16),
        Zeros(40),
        NOTHING
    ),
    // Security modules.
    numbered!(
        "list-modules",
        "which security modules there are",
        ALIVE,
        461,
        UNKNOWN,
        Zeros(64),
        Zeros(4),
        NOTHING
    ),
    numbered!(
        "read-label",
        "one's label of a security module",
        ALIVE,
        459,
        UNKNOWN,
        Int(100),
        Zeros(256),
        Zeros(4),
        NOTHING
    ),
    numbered!(
        "write-label",
        "another label of a security module",
        ALIVE,
        460,
        UNKNOWN,
        Int(100),
        Zeros(32),
        Int(32),
        NOTHING
    ),
    kernel(
        "another-domain",
        "another Landlock domain, which says nothing of files",
        OWN_FILE,
        &[native(
            calls!(
                SYS_landlock_create_ruleset(Bytes(LANDLOCK_LAYER), Int(24), NOTHING);
                SYS_landlock_restrict_self(Result(0), NOTHING);
                SYS_openat(HERE, FileCanary, Int(libc::O_RDONLY as i64), NOTHING)
            ),
            &["ENOENT"],
        )],
    ),
    // Attributes of files, by the newer calls.
    numbered!(
        "set-attributes",
        "flags of a file (file_setattr)",
        ATTRIBUTES,
        469,
        UNKNOWN,
        HERE,
        Text("/proc/self"),
        Zeros(24),
        Int(24),
        NOTHING
    ),
    numbered!(
        "set-attribute-at",
        "an extended attribute (setxattrat)",
        ATTRIBUTES,
        463,
        UNKNOWN,
        HERE,
        Text("/proc/self"),
        NOTHING,
        Text("user.clawkeep-drill"),
        Zeros(16),
        Int(16)
    ),
    // File systems' own calls.
    control_of_files!("swap-boot", "the boot loader's blocks (ext4)", EXT4_SWAP_BOOT),
    control_of_files!("move-extents", "another file's blocks (ext4)", EXT4_MOVE_EXTENT),
    control_of_files!("make-subvolume", "a volume of one's own (btrfs)", BTRFS_SUBVOLUME),
    control_of_files!("search-tree", "every file's metadata (btrfs)", BTRFS_SEARCH),
    control_of_files!("encryption-key", "a key of the file system's", ENCRYPTION_KEY),
    control_of_files!("freeze", "no writing for anybody on the file system", FREEZE),
    control_of_files!("discard", "to discard the file system's free blocks", TRIM),
    // The kernel itself, by the calls beside the well-known ones.
    refused!(
        "kexec-file",
        "another kernel, from a file",
        FILES,
        SYS_kexec_file_load(Int(-1), Int(-1), NOTHING, NOTHING, NOTHING)
    ),
    refused!("domain-name", "another domain's name", ALIVE, SYS_setdomainname(NOTHING, Int(-1))),
    refused!(
        "set-real-clock",
        "to set the clock, by the newer call",
        CLOCK,
        SYS_clock_settime(NOTHING, NOTHING)
    ),
    refused!("adjust-clock", "to have the clock run faster", CLOCK, SYS_clock_adjtime(NOTHING, NOTHING)),
    refused!("swap-off", "no swap space", FILES, SYS_swapoff(Text("/proc/self"))),
    refused!(
        "quota-by-descriptor",
        "somebody's quota, by descriptor",
        FILES,
        SYS_quotactl_fd(Int(-1), NOTHING, NOTHING, NOTHING)
    ),
    refused!(
        "watch-by-mount",
        "to watch a whole mount (fanotify)",
        EVENTS,
        SYS_fanotify_mark(Int(-1), NOTHING, NOTHING, HERE, NOTHING)
    ),
    Attempt {
        // Where it works it is the terminal of whoever drills.
        needs: Needs::OwnProcesses,
        ..refused!("hang-up", "to hang a terminal up (vhangup)", ALIVE, SYS_vhangup())
    },
    refused!(
        "profiler-cookie",
        "a file's name by a profiler's cookie",
        FILES,
        SYS_lookup_dcookie(NOTHING, Zeros(64), Int(64))
    ),
    // The host's file by an open directory, in the ways of newer calls.
    kernel(
        "open-beyond",
        "a file of the host by openat2(2) from the root",
        FILES,
        &[native(calls!(SYS_openat2(HERE, FileCanary, Zeros(24), Int(24))), &["ENOENT"])],
    ),
    kernel(
        "execute-host-file",
        "to execute a file of the host",
        FORK,
        &[native(calls!(SYS_execveat(HERE, FileCanary, NOTHING, NOTHING, NOTHING)), &["ENOENT"])],
    ),
    kernel(
        "link-by-descriptor",
        "a name for a file that has none, in the system",
        OWN_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp"), Int((libc::O_TMPFILE | libc::O_WRONLY) as i64), Int(0o600));
                SYS_linkat(Result(0), Text(""), HERE, Text("/usr/bin/.clawkeep-drill"), Int(libc::AT_EMPTY_PATH as i64));
                SYS_unlinkat(HERE, Text("/usr/bin/.clawkeep-drill"), NOTHING)
            ),
            // Before Linux 6.10 the empty path named nothing without a capability (linkat(2)).
            &["EROFS", "EACCES", "ENOENT"],
        )],
    ),
    kernel(
        "mknod-disk",
        "a disk's node of one's own making",
        OWN_FILE,
        &[native(
            calls!(
                SYS_openat(HERE, Text("/tmp/.clawkeep-drill"), Int(CREATE), Int(0o600));
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING);
                SYS_mknodat(HERE, Text("/tmp/.clawkeep-drill"), Int((libc::S_IFBLK | 0o666) as i64), Int(0x800));
                SYS_unlinkat(HERE, Text("/tmp/.clawkeep-drill"), NOTHING)
            ),
            &["EACCES", "EPERM"],
        )],
    ),
];
