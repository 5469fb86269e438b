use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags};

/// Message types (linux/sock_diag.h, linux/netlink.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;

/// Lengths of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg` (linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ANSWER: usize = 72;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// States in which a socket is somebody's connection (net/tcp_states.h): all but those in which it belongs to no
/// descriptor any more (TIME_WAIT, CLOSE, NEW_SYN_RECV) or is no connection (LISTEN).
const CONNECTED: [u8; 7] = [1, 2, 4, 5, 8, 9, 11];

/// The kernel's table of the sockets of one network namespace.
pub struct Diagnostics {
    socket: OwnedFd,
    sequence: u32,
}

impl Diagnostics {
    /// Ask by this socket. It is tied to the kernel: what anybody else would send to it is refused (netlink(7)).
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The TCP socket with exactly these addresses, its own and its peer's, if it is there and somebody's: its
    /// number in `/proc/PID/fd`.
    pub fn find(&mut self, own: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, own, peer);
        rustix::net::send(&self.socket, &request, SendFlags::empty())?;
        let mut bytes = [0; 1024];
        loop {
            // The kernel answers within the call that asks: there is nothing to wait for.
            let (read, _) = match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            match answer(&bytes[..read], self.sequence, own, peer) {
                Answer::Stale => {}
                Answer::None => return Ok(None),
                Answer::Inode(inode) => return Ok(Some(inode)),
            }
        }
    }
}

enum Answer {
    /// To an earlier question.
    Stale,
    /// There is no such socket, or it is nobody's.
    None,
    Inode(u32),
}

/// Numbers of netlink are in the machine's order, ports and addresses in the network's.
fn request(sequence: u32, own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if own.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    // No extensions; all states.
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for address in [own.ip(), peer.ip()] {
        let mut field = [0; 16];
        match address {
            IpAddr::V4(v4) => field[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => field.copy_from_slice(&v6.octets()),
        }
        bytes.extend(field);
    }
    // Any interface, any cookie.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn answer(bytes: &[u8], sequence: u32, own: SocketAddr, peer: SocketAddr) -> Answer {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Answer::None };
    if number(header, 8) != sequence {
        return Answer::Stale;
    }
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind == NLMSG_ERROR || kind != SOCK_DIAG_BY_FAMILY || rest.len() < ANSWER {
        return Answer::None;
    }
    let (family, state) = (rest[0], rest[1]);
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes([rest[port], rest[port + 1]]);
        let mut octets = [0; 16];
        octets.copy_from_slice(&rest[address..address + 16]);
        let ip = if family == AF_INET {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        } else {
            // A socket of IPv6 that speaks to IPv4.
            IpAddr::from(octets).to_canonical()
        };
        SocketAddr::new(ip, port)
    };
    // Where there is no connection with these addresses, the kernel looks for a listener with the first.
    let exact = (end(4, 8), end(6, 24)) == (own, peer);
    let inode = number(rest, 68);
    if !exact || !CONNECTED.contains(&state) || inode == 0 {
        return Answer::None;
    }
    Answer::Inode(inode)
}

/// The 32 bits at this place, which is within.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};

    use super::*;

    fn diagnostics() -> Diagnostics {
        let protocol = Some(netlink::SOCK_DIAG);
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        Diagnostics::new(socket.unwrap()).unwrap()
    }

    fn inode(stream: &TcpStream) -> u32 {
        let fd = std::os::fd::AsFd::as_fd(stream).try_clone_to_owned().unwrap();
        std::fs::File::from(fd).metadata().unwrap().ino() as u32
    }

    #[test]
    fn finds_the_one_socket_with_these_addresses_and_no_other() {
        let mut diagnostics = diagnostics();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(diagnostics.find(own, peer).unwrap(), Some(inode(&client)));
        // The other end has the same two addresses, the other way round.
        let (server, _) = listener.accept().unwrap();
        assert_eq!(diagnostics.find(peer, own).unwrap(), Some(inode(&server)));
        assert_eq!(diagnostics.find(own, "127.0.0.2:1".parse().unwrap()).unwrap(), None);
        // No connection, but a listener with the first address: that is somebody else.
        assert_eq!(diagnostics.find(peer, "127.0.0.1:1".parse().unwrap()).unwrap(), None);
        drop(server);
        drop(client);
        assert_eq!(diagnostics.find(own, peer).unwrap(), None, "nobody's any more");
    }

    #[test]
    fn a_socket_of_ipv6_that_speaks_to_ipv4_is_found_by_what_its_peer_sees() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mapped = format!("[::ffff:127.0.0.1]:{}", listener.local_addr().unwrap().port());
        let Ok(client) = TcpStream::connect(mapped) else {
            return eprintln!("SKIPPED: this host has no IPv6");
        };
        let (server, seen) = listener.accept().unwrap();
        let found = diagnostics().find(seen, server.local_addr().unwrap()).unwrap();
        assert_eq!(found, Some(inode(&client)));
    }

    proptest! {
        #[test]
        fn an_answer_of_any_bytes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let (own, peer) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
            let sequence = bytes.get(8..12).map_or(0, |at| number(at, 0));
            let _ = answer(&bytes, sequence, own, peer);
        }
    }
}
