//! The sockets of the lower tier, where the network is the host's. An agent makes none: the seccomp program puts every
//! socket(2) to init, which makes it, keeps it on the loopback device for ever, and hands it over. Where on the
//! loopback it may be led is Landlock's affair. So no address is read that the agent could change in the meantime,
//! and no call of the agent's goes through.

use std::os::fd::{AsFd, OwnedFd};

use clawkeep_plan::Tier;
use rustix::fs::fchown;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Gid, Uid};

use crate::spec::{IdMap, SandboxSpec};
use crate::sys::{self, Question};

/// Bits of a socket's type that are flags (socket(2)).
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Who gets sockets from init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// Nobody: what is put to init is refused.
    None,
    /// Everybody in the sandbox, as the property of these ids where init is somebody else: the proxy looks whose a
    /// socket is that calls.
    OnLoopback(Option<(u32, u32)>),
}

/// What a question is answered with.
#[derive(Debug)]
pub enum Answer {
    /// That it is refused, which is told to whoever looks after the sandbox.
    Refused,
    /// That it has been done.
    Done,
    /// That there is no such thing, or none at the moment, by this error number.
    Lacking(i32),
    /// This socket.
    Socket {
        /// On the loopback.
        socket: OwnedFd,
        /// Whether exec closes it.
        closes: bool,
    },
}

impl Sockets {
    /// As a sandbox of this specification needs it.
    pub fn of(spec: &SandboxSpec) -> Self {
        match (spec.tier, spec.ids) {
            (Tier::Namespaces, _) => Self::None,
            (Tier::Landlock, IdMap::Range { .. }) => Self::OnLoopback(Some(spec.agent())),
            (Tier::Landlock, IdMap::Single { .. }) => Self::OnLoopback(None),
        }
    }

    /// Decide by the call's own arguments alone.
    pub fn answer(self, question: &Question) -> Answer {
        let Self::OnLoopback(owner) = self else { return Answer::Refused };
        if question.call != libc::SYS_socket {
            return Answer::Refused;
        }
        // The kernel takes these as 32 bits.
        let [family, kind, protocol, ..] = question.arguments.map(|argument| argument as u32 as i32);
        match (family, kind & !FLAGS, protocol) {
            (libc::AF_INET, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => match on_loopback(kind, owner) {
                Ok(socket) => Answer::Socket { socket, closes: kind & libc::SOCK_CLOEXEC != 0 },
                Err(errno) => Answer::Lacking(errno.raw_os_error()),
            },
            // As where IPv6 is switched off. A socket of it could leave its device again, by a link-local address.
            (libc::AF_INET6, ..) => Answer::Lacking(libc::EAFNOSUPPORT),
            _ => Answer::Refused,
        }
    }
}

fn on_loopback(kind: i32, owner: Option<(u32, u32)>) -> Result<OwnedFd, rustix::io::Errno> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, kind & libc::SOCK_NONBLOCK != 0);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sys::keep_on_loopback(socket.as_fd()).map_err(|_| rustix::io::Errno::ACCESS)?;
    if let Some((uid, gid)) = owner {
        fchown(&socket, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

    use super::*;

    fn asked(family: i32, kind: i32, protocol: i32) -> Question {
        let [family, kind, protocol] = [family, kind, protocol].map(|value| u64::from(value.cast_unsigned()));
        Question { id: 1, call: libc::SYS_socket, caller: 1, arguments: [family, kind, protocol, 0, 0, 0] }
    }

    #[test]
    fn a_tcp_socket_of_the_loopback_is_given_and_nothing_else() {
        let sockets = Sockets::OnLoopback(None);
        let plain = asked(libc::AF_INET, libc::SOCK_STREAM, 0);
        assert!(matches!(Sockets::None.answer(&plain), Answer::Refused));
        let Answer::Socket { socket, closes: false } = sockets.answer(&plain) else { panic!("no socket") };
        // It cannot leave its device again, but for whoever may do anything with the network.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        rustix::net::connect(&socket, &to).unwrap();
        let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let Answer::Socket { socket, closes: true } =
            sockets.answer(&asked(libc::AF_INET, flags, libc::IPPROTO_TCP))
        else {
            panic!("no socket")
        };
        assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(matches!(
            sockets.answer(&asked(libc::AF_INET6, libc::SOCK_STREAM, 0)),
            Answer::Lacking(libc::EAFNOSUPPORT)
        ));
        for (family, kind, protocol) in [
            (libc::AF_INET, libc::SOCK_DGRAM, 0),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
            (libc::AF_UNIX, libc::SOCK_STREAM, 0),
            (libc::AF_NETLINK, libc::SOCK_RAW, 0),
            (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            (43, libc::SOCK_STREAM, 0),
        ] {
            let answer = sockets.answer(&asked(family, kind, protocol));
            assert!(matches!(answer, Answer::Refused), "{family} {kind} {protocol}: {answer:?}");
        }
        let other = Question { call: libc::SYS_bpf, ..plain };
        assert!(matches!(sockets.answer(&other), Answer::Refused));
    }
}
