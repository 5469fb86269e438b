//! Which socket answers on a port inside? One question to the kernel (sock_diag(7)): the tables in /proc cost a walk
//! over the sockets of the whole host, some milliseconds where it has memory for many.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags};

use crate::identity::Listener;

/// A type and a flag of messages, a family, a protocol and a state of sockets (linux/sock_diag.h, linux/netlink.h,
/// net/tcp_states.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const LISTEN: u8 = 10;

/// Lengths of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg` (linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ANSWER: usize = 72;

/// Asks in the network namespace that the socket was made in.
pub(crate) struct Listening(Mutex<(OwnedFd, u32)>);

impl Listening {
    /// Ask by this netlink socket of sock_diag, which nobody else may read from.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // From then on the kernel alone is heard (netlink(7)).
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(Mutex::new((socket, 0))))
    }

    /// The TCP socket that a connection to this port of 127.0.0.1 would come to. `None` where there is none, or where
    /// it cannot be told.
    pub fn find(&self, port: u16) -> Option<Listener> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.1 = asked.1.wrapping_add(1);
        let (socket, sequence) = &*asked;
        rustix::net::send(socket, &request(*sequence, port), SendFlags::empty()).ok()?;
        let mut bytes = [0; 1024];
        loop {
            // The kernel answers within the call that asks: there is nothing to wait for.
            match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
                // One to an earlier question is passed over.
                Ok((read, _)) if number(&bytes[..read], 8) == Some(*sequence) => {
                    return answer(&bytes[..read], port);
                }
                Ok(_) => {}
            }
        }
    }
}

/// Numbers of netlink are in the machine's order, ports and addresses in the network's.
fn request(sequence: u32, port: u16) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(8, &sequence.to_ne_bytes());
    // No extensions; all states. From nobody to this port of the loopback, by any interface, with any cookie.
    put(HEADER, &[AF_INET, IPPROTO_TCP, 0, 0]);
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &port.to_be_bytes());
    put(HEADER + 12, &[127, 0, 0, 1]);
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

fn answer(bytes: &[u8], port: u16) -> Option<Listener> {
    let (header, found) = bytes.split_at_checked(HEADER)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind != SOCK_DIAG_BY_FAMILY || found.len() < ANSWER {
        return None;
    }
    let listens = found[1] == LISTEN && [found[4], found[5]] == port.to_be_bytes();
    let inode = number(found, 68).filter(|inode| listens && *inode != 0)?;
    Some(Listener { inode: inode.into(), uid: number(found, 64)? })
}

/// The 32 bits at this place.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};

    use super::*;
    use crate::identity;

    fn listening() -> Listening {
        let protocol = Some(netlink::SOCK_DIAG);
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
        Listening::new(socket.unwrap()).unwrap()
    }

    #[test]
    fn finds_the_socket_that_the_table_names_and_no_connection() {
        let (listening, proc) = (listening(), std::fs::File::open("/proc").unwrap());
        let own = std::process::id() as i32;
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("SKIPPED: {address}: this host has no IPv6");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let found = listening.find(port).unwrap();
            assert_eq!(identity::listeners(proc.as_fd(), own, port), [found], "{address}");
            assert_eq!(listening.find(client.local_addr().unwrap().port()), None, "a connection's own end");
            drop(listener);
            assert_eq!(listening.find(port), None, "{address}");
        }
        // What listens elsewhere on the loopback answers nobody here.
        let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
        assert_eq!(listening.find(elsewhere.local_addr().unwrap().port()), None);
    }

    proptest! {
        #[test]
        fn an_answer_of_any_bytes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = answer(&bytes, 1);
        }
    }
}
