//! Which system calls an agent may make, and who needs them. What is on no list does not exist for it (ENOSYS),
//! so that programs fall back as on an older kernel; what is refused answers EPERM and is recorded. Those whose
//! arguments decide are in `arguments.rs`.

/// A system call, by the name of its constant and its number.
pub type Call = (&'static str, libc::c_long);

macro_rules! calls {
    ($($call:ident)*) => { &[$((stringify!($call), libc::$call)),*] };
}

/// Calls that the C library's bindings do not know on every architecture. From 424 on all architectures have the
/// same numbers (the kernel's `scripts/syscall.tbl`).
pub(super) const FCHMODAT2: Call = ("SYS_fchmodat2", 452);
const MAP_SHADOW_STACK: Call = ("SYS_map_shadow_stack", 453);
const MSEAL: Call = ("SYS_mseal", 462);
const OPEN_TREE_ATTR: Call = ("SYS_open_tree_attr", 467);

/// Allowed on every architecture, whatever the arguments.
pub const ALLOWED: &[&[Call]] = &[
    // Files, by every program. What may be reached is decided by mounts, ownership and Landlock. What makes files
    // and sets their modes is in `arguments.rs`: openat, named pipes (mknodat), chmod in all spellings.
    calls! {
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_lseek SYS_close
        SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_readlinkat SYS_getdents64
        SYS_getcwd SYS_chdir SYS_fchdir SYS_mkdirat SYS_unlinkat SYS_symlinkat SYS_linkat SYS_renameat
        SYS_ftruncate SYS_truncate SYS_fchown SYS_fchownat SYS_utimensat SYS_umask
        SYS_fcntl SYS_dup SYS_dup3 SYS_pipe2
    },
    // The same in newer spellings: glibc (faccessat2 for access, close_range for spawn), Go, Rust and Node programs
    // that open beneath a directory (openat2: OpenClaw takes its lock so, and does not start without), mv (renameat2),
    // systemd's and Python's tools (preadv2).
    calls! {
        SYS_openat2 SYS_faccessat2 SYS_close_range SYS_renameat2 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
    },
    // Data that must be on the disk, or ahead of it: SQLite, PostgreSQL, git, RocksDB.
    calls! {
        SYS_fsync SYS_fdatasync SYS_sync SYS_syncfs SYS_sync_file_range SYS_fadvise64 SYS_readahead
        SYS_fallocate SYS_flock
    },
    // Copies without a detour: cp, Node's fs.copyFile, nginx, Go's io.Copy.
    calls! { SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee },
    // Memory in the shape of a file: V8, Chromium, systemd's tools.
    calls! { SYS_memfd_create },
    // Watching files: Node's fs.watch, tail -f.
    calls! { SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch },
    // Extended attributes: cp -a, tar, npm's extraction. Of the namespaces only user.* is to be written.
    calls! {
        SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_setxattr
        SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    },
    // Memory. mmap and mprotect with PROT_EXEC are needed by every just-in-time compiler (Node).
    calls! { SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_mincore SYS_msync },
    // Keys and passwords that must not be swapped out: GnuPG, ssh, libsodium. RLIMIT_MEMLOCK holds.
    calls! { SYS_mlock SYS_mlock2 SYS_munlock SYS_mlockall SYS_munlockall },
    // Protection of one's own memory: V8 (pkeys), glibc and Chromium (mseal), glibc (shadow stacks).
    calls! { SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect },
    &[MSEAL, MAP_SHADOW_STACK],
    // Allocators and runtimes that ask where memory is: jemalloc, .NET, Go (membarrier).
    calls! { SYS_membarrier SYS_get_mempolicy SYS_getcpu },
    // Processes and threads, in a process-id namespace of their own; clone(2) is in `arguments.rs`. execveat is
    // fexecve(3)'s: what a memory file executes is as confined as any other program.
    calls! {
        SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_getpid SYS_getppid SYS_gettid
        SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_set_tid_address SYS_set_robust_list
        SYS_get_robust_list SYS_rseq
    },
    // Who one is: every program asks. To become somebody else fails without a capability, and programs that
    // only drop what they have (sudo's relatives, Chromium's zygote) go on.
    calls! {
        SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid
        SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid
        SYS_setfsgid SYS_capget SYS_capset
    },
    // Signals to processes of the same namespace: shells, Python's and Go's process handles.
    calls! { SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_open SYS_pidfd_send_signal },
    // What one has used and may use: shells (ulimit), every runtime. Of another process: see `arguments.rs`.
    calls! {
        SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_times SYS_uname SYS_sysinfo SYS_getrandom SYS_getpriority
        SYS_setpriority SYS_ioprio_get SYS_ioprio_set
    },
    // To restrict oneself further: sandboxing tools, Chromium; seccomp(2) itself is in `arguments.rs`.
    calls! { SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self },
    // Scheduling, as runtimes ask for it (Go, Node's os.availableParallelism, nice).
    calls! {
        SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getscheduler
        SYS_sched_setscheduler SYS_sched_getparam SYS_sched_setparam SYS_sched_getattr SYS_sched_setattr
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval
    },
    // Signal handling: every C library.
    calls! {
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend
        SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_signalfd4
        SYS_restart_syscall
    },
    // Waiting: locks (glibc, Wine's futex_waitv), event loops (libuv, Go, Python's asyncio).
    calls! {
        SYS_futex SYS_futex_waitv SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
        SYS_epoll_pwait2 SYS_eventfd2
    },
    // Time and timers.
    calls! {
        SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_timer_create SYS_timer_settime
        SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_getitimer SYS_setitimer SYS_nanosleep
        SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday
    },
    // Sockets that are there already; socket(2) and setsockopt(2) are in `arguments.rs`. Where they lead is
    // decided by the empty network namespace.
    calls! {
        SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_getsockopt
        SYS_shutdown SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg
    },
    // System V memory, semaphores and queues of its own IPC namespace: PostgreSQL, Chromium (X11).
    calls! {
        SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget
        SYS_msgsnd SYS_msgrcv SYS_msgctl
    },
];

/// The older spellings that only x86-64 has (static programs, older C libraries, Go before 1.x), and the
/// thread pointer of every C library (arch_prctl).
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_HERE: &[Call] = calls! {
    SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents SYS_mkdir SYS_rmdir SYS_unlink
    SYS_symlink SYS_link SYS_rename SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat
    SYS_dup2 SYS_pipe SYS_inotify_init SYS_fork SYS_vfork SYS_getpgrp SYS_poll SYS_select SYS_epoll_create
    SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_alarm SYS_pause SYS_time SYS_arch_prctl
};

/// The other architectures have no older spellings.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_HERE: &[Call] = &[];

/// Known and refused with EPERM: a program that asks should hear "not permitted", not "unknown", and whoever looks
/// after the sandbox should hear that it asked.
pub const REFUSED: &[&[Call]] = &[
    // Namespaces and mounts: the walls themselves.
    calls! {
        SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_fsopen SYS_fsconfig SYS_fsmount
        SYS_fspick SYS_open_tree SYS_move_mount SYS_mount_setattr SYS_swapon SYS_swapoff SYS_quotactl
        SYS_quotactl_fd
    },
    &[OPEN_TREE_ATTR],
    // Files by number instead of by path: around every mount.
    calls! { SYS_open_by_handle_at SYS_name_to_handle_at },
    // Other processes' memory and descriptors.
    calls! {
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_pidfd_getfd SYS_kcmp
    },
    // Kernel surface with a long record of holes and no use here.
    calls! {
        SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
        SYS_fanotify_init SYS_fanotify_mark SYS_lookup_dcookie SYS_vhangup SYS_acct
    },
    // The kernel itself, and the clock and name of the host.
    calls! {
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_kexec_file_load SYS_reboot
        SYS_syslog SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_clock_adjtime
        SYS_adjtimex
    },
    // Keyrings are not namespaced by user in every way: one sandbox could see another's.
    calls! { SYS_keyctl SYS_add_key SYS_request_key },
];

/// Ports and segments of x86-64, around the kernel (Wine and DOS emulators ask).
#[cfg(target_arch = "x86_64")]
pub const REFUSED_HERE: &[Call] = calls! { SYS_iopl SYS_ioperm SYS_modify_ldt };

/// The other architectures have none of their own.
#[cfg(not(target_arch = "x86_64"))]
pub const REFUSED_HERE: &[Call] = &[];

/// Refused besides in the lower tier, where the host's own network and processes are around the agent. That these are
/// on the list of what is allowed as well does not matter: the refusal comes first.
const BESIDE: &[&[Call]] = &[
    // Every socket is made by init, which answers this call: see `notify.rs`.
    calls! { SYS_socket },
    // The host's shared memory, semaphores and queues: there is no IPC namespace.
    calls! {
        SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget
        SYS_msgsnd SYS_msgrcv SYS_msgctl
    },
];

/// The same, and where the host's user is the agent's too what Landlock leaves to the owner of a file wherever it lies
/// (landlock(7), "Current limitations"): its mode, owner, times and extended attributes.
const BESIDE_ONES_OWN: &[&[Call]] = &[
    BESIDE[0],
    BESIDE[1],
    calls! {
        SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_setxattr SYS_lsetxattr SYS_fsetxattr
        SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    },
    &[FCHMODAT2],
    OLDER_OF_FILES,
];

/// The older spellings of those.
#[cfg(target_arch = "x86_64")]
const OLDER_OF_FILES: &[Call] = calls! { SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat };
#[cfg(not(target_arch = "x86_64"))]
const OLDER_OF_FILES: &[Call] = &[];

/// What the lower tier refuses besides, with ids of the agent's own or without.
pub fn refused_beside(own_ids: bool) -> &'static [&'static [Call]] {
    if own_ids { BESIDE } else { BESIDE_ONES_OWN }
}

/// On no list on purpose, so unknown (ENOSYS): what asks for these has another way. Any other call is unknown as
/// well, but those were looked at.
#[cfg(test)]
pub const UNKNOWN: &[Call] = &[
    // Its flags lie in memory where no filter sees them. The C libraries fall back to clone(2).
    ("SYS_clone3", libc::SYS_clone3),
    // Pages of a pipe that are the caller's own memory: the tool of more exploits than programs.
    ("SYS_vmsplice", libc::SYS_vmsplice),
    // Asynchronous I/O of databases, which do without.
    ("SYS_io_setup", libc::SYS_io_setup),
    ("SYS_io_submit", libc::SYS_io_submit),
    // POSIX message queues: charged to the host's user, and hardly used.
    ("SYS_mq_open", libc::SYS_mq_open),
    // Memory that not even the kernel maps, outside of most limits.
    ("SYS_memfd_secret", libc::SYS_memfd_secret),
    // Placing pages on processors' memory: the host's business.
    ("SYS_mbind", libc::SYS_mbind),
    ("SYS_set_mempolicy", libc::SYS_set_mempolicy),
    ("SYS_move_pages", libc::SYS_move_pages),
    ("SYS_migrate_pages", libc::SYS_migrate_pages),
    ("SYS_process_mrelease", libc::SYS_process_mrelease),
    // Which pages of a file others have read lately.
    ("SYS_cachestat", 451),
    // The parts of futex(2) as calls of their own: nobody needs them yet.
    ("SYS_futex_wake", 454),
    ("SYS_futex_wait", 455),
    ("SYS_futex_requeue", 456),
    // Mounts by number. The tools that ask read /proc/self/mountinfo instead.
    ("SYS_statmount", 457),
    ("SYS_listmount", 458),
    // Labels of security modules: /proc/self/attr is what is there otherwise.
    ("SYS_lsm_get_self_attr", 459),
    ("SYS_lsm_set_self_attr", 460),
    ("SYS_lsm_list_modules", 461),
    // Attributes by directory and name: the older calls do it.
    ("SYS_setxattrat", 463),
    ("SYS_getxattrat", 464),
    ("SYS_listxattrat", 465),
    ("SYS_removexattrat", 466),
    ("SYS_file_getattr", 468),
    ("SYS_file_setattr", 469),
    ("SYS_listns", 470),
];
