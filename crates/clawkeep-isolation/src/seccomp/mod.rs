//! The seccomp programs (seccomp(2)) around everything that runs in a sandbox: an allowlist, and over it a
//! second program that answers EPERM to what is known and refused. The kernel takes the stricter answer of
//! the two; between two error numbers, that of the one installed last. Foreign architectures are killed by
//! both, and the x32 calls of x86-64 are on no list.

mod table;

use std::collections::BTreeMap;

use clawkeep_plan::{Digest, NetlinkRule};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use table::{ALLOWED, ALLOWED_HERE, REFUSED};

const ENOSYS: u32 = libc::ENOSYS as u32;
const EPERM: u32 = libc::EPERM as u32;

/// Namespace flags of clone(2); CLONE_NEWTIME has no place in clone's flags (it is part of the exit signal).
const NAMESPACE_FLAGS: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The programs of one profile, ready to be installed.
#[derive(Debug, Clone)]
pub struct Programs {
    allowlist: BpfProgram,
    refusals: BpfProgram,
}

/// The programs could not be built: a mistake in the tables, or an architecture without a filter.
#[derive(Debug, thiserror::Error)]
#[error("the seccomp programs could not be built or installed: {0}")]
pub struct SeccompError(String);

fn error(cause: impl std::fmt::Display) -> SeccompError {
    SeccompError(cause.to_string())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn when(conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)]) -> Result<SeccompRule, SeccompError> {
    let conditions = conditions
        .iter()
        .map(|(index, length, operator, value)| {
            SeccompCondition::new(*index, length.clone(), operator.clone(), *value).map_err(error)
        })
        .collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(conditions).map_err(error)
}

fn masked(mask: i32) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(mask as u32 as u64)
}

impl Programs {
    /// The programs for this rule about netlink sockets.
    ///
    /// # Errors
    /// [`SeccompError`] on an architecture that the filter compiler does not know.
    pub fn new(netlink: NetlinkRule) -> Result<Self, SeccompError> {
        let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(error)?;
        let compile = |rules: Rules, otherwise, then| -> Result<BpfProgram, SeccompError> {
            SeccompFilter::new(rules, otherwise, then, arch).map_err(error)?.try_into().map_err(error)
        };
        Ok(Self {
            allowlist: compile(allowed()?, SeccompAction::Errno(ENOSYS), SeccompAction::Allow)?,
            refusals: compile(refused(netlink)?, SeccompAction::Allow, SeccompAction::Errno(EPERM))?,
        })
    }

    /// How many programs [`Programs::install`] adds.
    pub const COUNT: u32 = 2;

    /// Names these exact programs in plans and receipts.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for instruction in self.allowlist.iter().chain(&self.refusals) {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        Digest::of(&bytes)
    }

    /// Put the calling thread, and all that it starts, under the programs; for ever. Sets no_new_privs.
    ///
    /// # Errors
    /// [`SeccompError`] when the kernel refuses one.
    pub fn install(&self) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&self.allowlist).map_err(error)?;
        seccompiler::apply_filter(&self.refusals).map_err(error)
    }
}

fn allowed() -> Result<Rules, SeccompError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::Eq;
    let mut rules: Rules =
        ALLOWED.iter().copied().flatten().chain(ALLOWED_HERE).map(|call| (*call, vec![])).collect();

    // Threads and processes, but no new namespaces. clone3(2) hides its flags in memory where no filter can
    // see them: it is on no list, and the C library falls back to clone on ENOSYS.
    let namespaces = NAMESPACE_FLAGS.iter().fold(0, |all, flag| all | flag);
    rules.insert(libc::SYS_clone, vec![when(&[(0, Qword, masked(namespaces), 0)])?]);

    // Stream and datagram sockets of the families that programs use, TCP and UDP only: no raw, packet, vsock,
    // alg, SCTP or MPTCP. Netlink for route queries; the strict profile refuses it in the second program.
    let mut socket = vec![when(&[(0, Dword, Eq, libc::AF_UNIX as u64)])?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            socket.push(when(&[(0, Dword, Eq, family as u64), (2, Dword, Eq, protocol as u64)])?);
        }
    }
    socket
        .push(when(&[(0, Dword, Eq, libc::AF_NETLINK as u64), (2, Dword, Eq, libc::NETLINK_ROUTE as u64)])?);
    rules.insert(libc::SYS_socket, socket);
    rules.insert(libc::SYS_socketpair, vec![when(&[(0, Dword, Eq, libc::AF_UNIX as u64)])?]);

    // The default personality and the question for it; the others switch off protections.
    rules.insert(
        libc::SYS_personality,
        vec![when(&[(0, Dword, Eq, 0)])?, when(&[(0, Dword, Eq, 0xffff_ffff)])?],
    );
    // Device control is decided by which devices are there; typing into a terminal's input queue is not.
    rules.insert(libc::SYS_ioctl, vec![]);
    // A process may restrict itself further (browsers do); see `refused` for the listener.
    rules.insert(libc::SYS_seccomp, vec![]);
    Ok(rules)
}

fn refused(netlink: NetlinkRule) -> Result<Rules, SeccompError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, Ne};
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, vec![])).collect();

    let mut clone = Vec::new();
    for flag in NAMESPACE_FLAGS {
        clone.push(when(&[(0, Qword, masked(*flag), *flag as u32 as u64)])?);
    }
    rules.insert(libc::SYS_clone, clone);

    let mut socket = vec![when(&[
        (0, Dword, Ne, libc::AF_UNIX as u64),
        (0, Dword, Ne, libc::AF_INET as u64),
        (0, Dword, Ne, libc::AF_INET6 as u64),
        (0, Dword, Ne, libc::AF_NETLINK as u64),
    ])?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        socket.push(when(&[
            (0, Dword, Eq, family as u64),
            (2, Dword, Ne, 0),
            (2, Dword, Ne, libc::IPPROTO_TCP as u64),
            (2, Dword, Ne, libc::IPPROTO_UDP as u64),
        ])?);
    }
    socket.push(match netlink {
        NetlinkRule::RouteOnly => {
            when(&[(0, Dword, Eq, libc::AF_NETLINK as u64), (2, Dword, Ne, libc::NETLINK_ROUTE as u64)])?
        }
        NetlinkRule::Refused => when(&[(0, Dword, Eq, libc::AF_NETLINK as u64)])?,
    });
    rules.insert(libc::SYS_socket, socket);
    rules.insert(libc::SYS_socketpair, vec![when(&[(0, Dword, Ne, libc::AF_UNIX as u64)])?]);
    rules.insert(libc::SYS_personality, vec![when(&[(0, Dword, Ne, 0), (0, Dword, Ne, 0xffff_ffff)])?]);
    // TIOCSTI types into the terminal of whoever looks on; TIOCLINUX pastes into a console.
    rules.insert(
        libc::SYS_ioctl,
        vec![when(&[(1, Dword, Eq, libc::TIOCSTI)])?, when(&[(1, Dword, Eq, libc::TIOCLINUX)])?],
    );
    // Limits of another process: init's, where it has the agent's uid (glibc asks for its own with 0).
    rules.insert(libc::SYS_prlimit64, vec![when(&[(0, Dword, Ne, 0)])?]);
    // A listener would let one process answer the system calls of another.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as i32;
    rules.insert(libc::SYS_seccomp, vec![when(&[(1, Dword, masked(listener), listener as u64)])?]);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_profiles_differ_and_each_builds_the_same_twice() {
        let digest = |rule| Programs::new(rule).unwrap().digest();
        assert_eq!(digest(NetlinkRule::RouteOnly), digest(NetlinkRule::RouteOnly));
        assert_ne!(digest(NetlinkRule::RouteOnly), digest(NetlinkRule::Refused));
    }

    #[test]
    fn no_call_is_both_allowed_unconditionally_and_refused() {
        let allowed: Vec<_> = ALLOWED.iter().copied().flatten().chain(ALLOWED_HERE).collect();
        for call in REFUSED {
            assert!(!allowed.contains(&call), "system call {call}");
        }
        let mut unique = allowed.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), allowed.len(), "a call is listed twice");
    }
}
