//! What is allowed by its arguments in the lower tier, beside the host's processes and on its network.

use seccompiler::BackendError;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};

use super::arguments::{PROGRAM_OPTIONS, Rules, SOCKET_TYPE, bits, one_of, when};
use super::table::Call;

/// Sends that make a connection by themselves, and which argument their flags are (tcp(7), TCP Fast Open): there is no
/// connect(2) that Landlock would look at.
pub const SENDS: [(i64, u8); 3] = [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)];

/// Options of a TCP socket that make it another kind, which Landlock does not know for one (the kernel's net/smc), or
/// that put off its connect(2).
pub const TCP_REFUSED: [i32; 2] = [libc::TCP_ULP, libc::TCP_FASTOPEN_CONNECT];

/// Calls about a process that is given by its pid in this argument, 0 being oneself.
pub const ABOUT_A_PID: [(i64, u8); 4] = [
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
];

/// Those with the kind of what is given in front, and the kind that is a process (setpriority(2), ioprio_set(2)).
pub const ABOUT_A_KIND: [(i64, u64); 2] = [(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];

/// The calls of this file, by name, but for those that have rules in every profile.
pub const BY_ARGUMENTS: &[Call] = &[
    ("SYS_sendto", libc::SYS_sendto),
    ("SYS_sendmsg", libc::SYS_sendmsg),
    ("SYS_sendmmsg", libc::SYS_sendmmsg),
    ("SYS_setrlimit", libc::SYS_setrlimit),
    ("SYS_sched_setaffinity", libc::SYS_sched_setaffinity),
    ("SYS_sched_setscheduler", libc::SYS_sched_setscheduler),
    ("SYS_sched_setparam", libc::SYS_sched_setparam),
    ("SYS_sched_setattr", libc::SYS_sched_setattr),
    ("SYS_setpriority", libc::SYS_setpriority),
    ("SYS_ioprio_set", libc::SYS_ioprio_set),
];

/// The rules of this tier; more of them where the host's user is the agent's.
pub fn allowed(own_ids: bool) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();

    // A pair of datagram sockets could be led anywhere by connect(2) and sendto(2); streams stay connected.
    let pair = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].map(|kind| {
        when(&[(0, Dword, Eq, bits(libc::AF_UNIX)), (1, Dword, MaskedEq(SOCKET_TYPE), bits(kind))])
    });
    rules.insert(libc::SYS_socketpair, pair.into_iter().collect::<Result<_, _>>()?);

    for (call, flags) in SENDS {
        let fast_open = u64::from(libc::MSG_FASTOPEN.cast_unsigned());
        rules.insert(call, vec![when(&[(flags, Dword, MaskedEq(fast_open), 0)])?]);
    }

    let (general, tcp) = (bits(libc::SOL_SOCKET), bits(libc::IPPROTO_TCP));
    let none_of = |level, options: &[i32]| {
        let mut conditions = vec![(1, Dword, Eq, level)];
        conditions.extend(options.iter().map(|option| (2, Dword, Ne, bits(*option))));
        when(&conditions)
    };
    rules.insert(
        libc::SYS_setsockopt,
        vec![
            when(&[(1, Dword, Ne, general), (1, Dword, Ne, tcp)])?,
            none_of(general, &PROGRAM_OPTIONS)?,
            none_of(tcp, &TCP_REFUSED)?,
        ],
    );

    // One's own limits, but for two: that of core dumps (see `arguments::pretended`) and that by which a process is
    // known to be of its sandbox (see `mark.rs`).
    let (core, mark) = (u64::from(libc::RLIMIT_CORE), u64::from(libc::RLIMIT_LOCKS));
    rules.insert(
        libc::SYS_prlimit64,
        vec![
            when(&[(0, Dword, Eq, 0), (1, Dword, Ne, core), (1, Dword, Ne, mark)])?,
            when(&[(0, Dword, Eq, 0), (2, Qword, Eq, 0)])?,
        ],
    );
    rules.insert(libc::SYS_setrlimit, vec![when(&[(0, Dword, Ne, mark)])?]);

    // How others of the same user are scheduled is not the agent's affair.
    if !own_ids {
        for (call, pid) in ABOUT_A_PID {
            rules.insert(call, one_of(pid, [0])?);
        }
        for (call, process) in ABOUT_A_KIND {
            rules.insert(call, vec![when(&[(0, Dword, Eq, process), (1, Dword, Eq, 0)])?]);
        }
    }
    Ok(rules)
}
