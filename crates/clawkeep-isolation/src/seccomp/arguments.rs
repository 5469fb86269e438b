//! System calls whose arguments decide, each with what is allowed. Everything else about them is refused as if
//! they were in `table::REFUSED`. Arguments that the kernel takes as 32 bits are compared as 32 bits.

use std::collections::BTreeMap;

use clawkeep_plan::NetlinkRule;

use super::profile::Profile;
use seccompiler::SeccompCmpArgLen::{self, Dword, Qword};
use seccompiler::SeccompCmpOp::{self, Eq, MaskedEq, Ne};
use seccompiler::{BackendError, SeccompCondition, SeccompRule};

use super::beside;
use super::table::{Call, FCHMODAT2};

/// What seccompiler makes a program of: of each call, the rules of which one must hold; none: any arguments.
pub type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The calls of this file, by name.
pub const BY_ARGUMENTS: &[Call] = &[
    ("SYS_clone", libc::SYS_clone),
    ("SYS_socket", libc::SYS_socket),
    ("SYS_socketpair", libc::SYS_socketpair),
    ("SYS_setsockopt", libc::SYS_setsockopt),
    ("SYS_personality", libc::SYS_personality),
    ("SYS_ioctl", libc::SYS_ioctl),
    ("SYS_prctl", libc::SYS_prctl),
    ("SYS_prlimit64", libc::SYS_prlimit64),
    ("SYS_seccomp", libc::SYS_seccomp),
    ("SYS_openat", libc::SYS_openat),
    ("SYS_mknodat", libc::SYS_mknodat),
    ("SYS_fchmod", libc::SYS_fchmod),
    ("SYS_fchmodat", libc::SYS_fchmodat),
    FCHMODAT2,
    #[cfg(target_arch = "x86_64")]
    ("SYS_open", libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    ("SYS_creat", libc::SYS_creat),
    #[cfg(target_arch = "x86_64")]
    ("SYS_mknod", libc::SYS_mknod),
    #[cfg(target_arch = "x86_64")]
    ("SYS_chmod", libc::SYS_chmod),
];

/// The bits of a mode that make a program run as its owner or group, whoever starts it (inode(7)). Inside that is nobody,
/// but a directory that is shared for writing is also on the host, where no mount says nosuid.
pub const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

/// Calls that set a mode, and which argument it is. Directories are not told from files: who wants new files in a
/// directory to have its group (git init --shared) does without, as under systemd's RestrictSUIDSGID.
pub const SETS_MODE: &[(i64, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2.1, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
];

/// Calls that make a file with a mode. mkdir(2) is none of them: the kernel takes the bits off.
pub const MAKES: &[(i64, u8)] = &[
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
];

/// Calls that open a file and make it with some flags, which argument those are, and which the mode is. openat2(2) has
/// its mode in memory where no filter sees it. systemd answers ENOSYS for that; here OpenClaw would not start.
pub const OPENS: &[(i64, u8, u8)] = &[
    (libc::SYS_openat, 2, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, 2),
];

/// With one of these flags the kernel looks at the mode (open(2)); of O_TMPFILE, the bit that is not O_DIRECTORY's.
pub const MAKING: i32 = libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Namespace flags of clone(2); CLONE_NEWTIME has no place in clone's flags (it is part of the exit signal).
pub const NAMESPACE_FLAGS: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Families of sockets that programs use. Left out are raw packets, vsock, the kernel's ciphers (alg), Bluetooth and
/// two dozen more, each a part of the kernel that nothing here needs.
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

/// The low bits of a socket's type; the others are flags (socket(2)).
pub(super) const SOCKET_TYPE: u64 = 0xf;

/// Options of SOL_SOCKET that load a program into the kernel (socket(7), the kernel's asm-generic/socket.h): packet
/// captures need them, on sockets that are not to be had here.
pub const PROGRAM_OPTIONS: [i32; 4] = [
    libc::SO_ATTACH_FILTER,
    libc::SO_ATTACH_BPF,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::SO_ATTACH_REUSEPORT_EBPF,
];

/// Options by which a TCP or UDP socket becomes part of another protocol, whose code is the kernel's and has a record:
/// upper layers (TLS, SMC, ESP-in-TCP: CVE-2023-0461, CVE-2026-46300), ESP-in-UDP (CVE-2026-43284). OpenSSL and nginx,
/// who may ask for TLS in the kernel, do without.
pub const LAYER_OPTIONS: [(i32, i32); 2] =
    [(libc::IPPROTO_TCP, libc::TCP_ULP), (libc::IPPROTO_UDP, UDP_ENCAP)];

/// udp(7) leaves it to the kernel's uapi/linux/udp.h.
const UDP_ENCAP: i32 = 100;

/// Of the terminal calls (type `T`) those that reach others or load kernel code: typing into the terminal of
/// whoever looks on, pasting into a console, taking the console's output, hanging up, setting up a serial port,
/// and changing the line discipline (which loads modules with a record of holes).
pub const TERMINAL_REFUSED: [u64; 6] =
    [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCCONS, libc::TIOCVHANGUP, libc::TIOCSSERIAL, libc::TIOCSETD];

/// The types of ioctl(2) numbers that are allowed whole: terminals and descriptors (`T`: isatty, FIONBIO, FIOCLEX,
/// FIONREAD), sockets (SIOC...: interfaces are read; to change one takes a capability).
const IOCTL_TYPES: [u64; 2] = [0x5400, 0x8900];

/// Single ioctl(2) numbers on files and devices. Everything else that a file system understands by itself (volumes,
/// encryption, defragmentation) is out of reach; devices are few, and behind Landlock.
pub const IOCTLS: [u64; 9] = [
    0x4004_9409, // FICLONE: cp, Node's fs.copyFile
    0x4020_940d, // FICLONERANGE: the same of a part
    0xc018_9436, // FIDEDUPERANGE: duperemove, container tools
    0x8008_6601, // FS_IOC_GETFLAGS: lsattr, tar
    0x4008_6602, // FS_IOC_SETFLAGS: chattr; what protects takes a capability
    0x801c_581f, // FS_IOC_FSGETXATTR: lsattr -p, xfsprogs' libraries
    0xc020_660b, // FS_IOC_FIEMAP: cp --sparse of older coreutils, filefrag
    0x0000_0002, // FIGETBSZ: filefrag
    0x8004_5200, // RNDGETENTCNT: libsodium
];

/// What a process may ask of prctl(2) about itself. Left out: PR_SET_MM (rewrites its own image), PR_SET_SECUREBITS,
/// PR_SCHED_CORE (takes processors from others), MPX, and what only other architectures have.
pub const PRCTLS: &[i32] = &[
    // Names, signals and children: every runtime.
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_PDEATHSIG,
    libc::PR_GET_PDEATHSIG,
    libc::PR_SET_CHILD_SUBREAPER,
    libc::PR_GET_CHILD_SUBREAPER,
    // To have and to give up rights: ssh-agent, Chromium, bubblewrap, libcap. The strict mode and filters of
    // PR_SET_SECCOMP only restrict.
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_SECCOMP,
    libc::PR_GET_SECCOMP,
    libc::PR_SET_KEEPCAPS,
    libc::PR_GET_KEEPCAPS,
    libc::PR_GET_SECUREBITS,
    libc::PR_CAPBSET_READ,
    libc::PR_CAPBSET_DROP,
    libc::PR_CAP_AMBIENT,
    // Crash handlers allow their own helper to look; ptrace(2) is refused all the same.
    libc::PR_SET_PTRACER,
    // Timers and memory: event loops, allocators (names and huge pages), V8.
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_VMA,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_SET_MDWE,
    libc::PR_GET_MDWE,
    // Speculation: Chromium, the JVM (PR_GET_ and PR_SET_SPECULATION_CTRL).
    52,
    53,
    // Pointer authentication, tagged addresses and vector length of aarch64: glibc, Android's allocator.
    50,
    51,
    54,
    55,
    56,
    60,
    61,
    63,
    64,
];

pub(super) fn when(
    conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)],
) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().map(|(index, length, operator, value)| {
        SeccompCondition::new(*index, length.clone(), operator.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// A signed argument, as the kernel's 32 bits.
pub(super) fn bits(value: i32) -> u64 {
    value.cast_unsigned().into()
}

/// One of these values.
pub(super) fn one_of(
    index: u8,
    values: impl IntoIterator<Item = u64>,
) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| when(&[(index, Dword, Eq, value)])).collect()
}

/// What is allowed of each.
pub fn allowed(profile: Profile) -> Result<Rules, BackendError> {
    let mut rules = everywhere()?;
    match profile {
        Profile::Namespaces(netlink) => rules.extend(in_namespaces(netlink)?),
        Profile::Landlock { own_ids } => rules.extend(beside::allowed(own_ids)?),
    }
    // Otherwise init sets modes, and looks at them itself: see `files.rs`.
    if profile != (Profile::Landlock { own_ids: false }) {
        for (call, mode) in SETS_MODE {
            rules.insert(*call, vec![without_set_ids(*mode)?]);
        }
    }
    Ok(rules)
}

/// Where there is nothing around but what is the sandbox's own.
fn in_namespaces(netlink: NetlinkRule) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();

    // Unix sockets of all types; TCP and UDP. Not raw, not SCTP, not MPTCP, no ping.
    let mut socket = one_of(0, [bits(libc::AF_UNIX)])?;
    for family in FAMILIES {
        for (kind, protocol) in
            [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)]
        {
            for protocol in [0, protocol] {
                socket.push(when(&[
                    (0, Dword, Eq, bits(family)),
                    (1, Dword, MaskedEq(SOCKET_TYPE), bits(kind)),
                    (2, Dword, Eq, bits(protocol)),
                ])?);
            }
        }
    }
    // getifaddrs(3) asks here. Without a capability the kernel answers questions (RTM_GET...) and refuses changes
    // (rtnetlink(7)); the groups that can be joined tell of an empty network namespace.
    if netlink == NetlinkRule::RouteOnly {
        socket.push(when(&[
            (0, Dword, Eq, bits(libc::AF_NETLINK)),
            (2, Dword, Eq, bits(libc::NETLINK_ROUTE)),
        ])?);
    }
    rules.insert(libc::SYS_socket, socket);
    rules.insert(libc::SYS_socketpair, one_of(0, [bits(libc::AF_UNIX)])?);
    let mut harmless = vec![(1, Dword, Eq, bits(libc::SOL_SOCKET))];
    harmless.extend(PROGRAM_OPTIONS.map(|option| (2, Dword, Ne, bits(option))));
    let mut other_level = vec![(1, Dword, Ne, bits(libc::SOL_SOCKET))];
    let mut setsockopt = vec![when(&harmless)?];
    for (level, option) in LAYER_OPTIONS {
        other_level.push((1, Dword, Ne, bits(level)));
        setsockopt.push(when(&[(1, Dword, Eq, bits(level)), (2, Dword, Ne, bits(option))])?);
    }
    setsockopt.push(when(&other_level)?);
    rules.insert(libc::SYS_setsockopt, setsockopt);

    // Its own limits: init's are out of reach, where it has the agent's uid (glibc asks for its own with 0). That
    // for core dumps can be read only; see `pretended`.
    let core = u64::from(libc::RLIMIT_CORE);
    rules.insert(
        libc::SYS_prlimit64,
        vec![
            when(&[(0, Dword, Eq, 0), (1, Dword, Ne, core)])?,
            when(&[(0, Dword, Eq, 0), (1, Dword, Eq, core), (2, Qword, Eq, 0)])?,
        ],
    );
    Ok(rules)
}

fn without_set_ids(mode: u8) -> Result<SeccompRule, BackendError> {
    when(&[(mode, Dword, MaskedEq(SET_IDS.into()), 0)])
}

/// The same in every profile.
fn everywhere() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();

    // Files, but none that makes whoever starts it somebody else.
    for (call, flags, mode) in OPENS {
        let makes_none = when(&[(*flags, Dword, MaskedEq(bits(MAKING)), 0)])?;
        rules.insert(*call, vec![makes_none, without_set_ids(*mode)?]);
    }
    for (call, mode) in MAKES {
        rules.insert(*call, vec![without_set_ids(*mode)?]);
    }

    // Threads and processes, but no new namespaces.
    rules.insert(libc::SYS_clone, vec![when(&[(0, Qword, MaskedEq(bits(NAMESPACE_FLAGS)), 0)])?]);

    // The default personality and the question for it; the others switch off protections.
    rules.insert(libc::SYS_personality, one_of(0, [0, 0xffff_ffff])?);

    let mut ioctl = one_of(1, IOCTLS)?;
    for kind in IOCTL_TYPES {
        let mut conditions = vec![(1, Dword, MaskedEq(0xff00), kind)];
        conditions.extend(TERMINAL_REFUSED.map(|number| (1, Dword, Ne, number)));
        ioctl.push(when(&conditions)?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);

    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS.iter().map(|option| bits(*option)))?);

    // A process may restrict itself further (browsers do). A listener would let one process answer the system
    // calls of another.
    let listener = u64::from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32);
    let filter = (0, Dword, Eq, u64::from(libc::SECCOMP_SET_MODE_FILTER));
    let mut seccomp = one_of(
        0,
        [libc::SECCOMP_SET_MODE_STRICT, libc::SECCOMP_GET_ACTION_AVAIL, libc::SECCOMP_GET_NOTIF_SIZES]
            .map(u64::from),
    )?;
    seccomp.push(when(&[filter, (1, Dword, MaskedEq(listener), 0)])?);
    rules.insert(libc::SYS_seccomp, seccomp);
    Ok(rules)
}

/// Answered as if it had been done. The limit for core dumps is 1 and stays: with 0 the kernel would hand the dump
/// to the host's crash handler, with everything that an agent can put into it (core(5)). Programs that keep
/// secrets set 0 and do not go on without (gpg-agent, ssh-agent); with 1 they have what they want.
pub fn pretended() -> Result<Rules, BackendError> {
    let core = u64::from(libc::RLIMIT_CORE);
    Ok(Rules::from([
        (libc::SYS_setrlimit, one_of(0, [core])?),
        (
            libc::SYS_prlimit64,
            vec![when(&[(0, Dword, Eq, 0), (1, Dword, Eq, core), (2, Qword, Ne, 0), (3, Qword, Eq, 0)])?],
        ),
    ]))
}
