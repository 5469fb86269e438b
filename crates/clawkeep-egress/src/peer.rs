//! Whose is a connection on the loopback that a whole host shares? A proxy that others could reach too serves its own
//! sandbox's user alone.

use std::net::SocketAddr;

/// The user that the other end of a connection belongs to, by the table of TCP sockets of this network namespace
/// (proc_pid_net(5), `/proc/net/tcp`); `None` when it is not there any more. Blocks for as long as the kernel takes to
/// write the table.
pub(crate) fn owner(peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").ok()?;
    owner_in(&table, peer, here)
}

/// The same in the text of such a table: the row whose local address is the peer's, and whose remote one is ours.
fn owner_in(table: &str, peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    let (peer, here) = (written(peer)?, written(here)?);
    let row = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let (local, remote) = (columns.nth(1)?, columns.next()?);
        // Then the state, queues, timers and retransmissions; the uid is the eighth.
        (local == peer && remote == here).then(|| columns.nth(4)?.parse().ok()).flatten()
    };
    table.lines().find_map(row)
}

/// An address as the table has it: the address as a number of this machine, then the port, both in hexadecimal.
fn written(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_connections_owner_is_found_and_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let stream = TcpStream::connect(here).unwrap();
        let peer = stream.local_addr().unwrap();
        let us = std::fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(owner(peer, here), Some(us));
        assert_eq!(owner(here, here), None);
        assert_eq!(owner("[::1]:1".parse().unwrap(), here), None);
    }

    #[test]
    fn a_row_is_read_by_its_columns() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:D431 0100007F:0C38 01 00000000:00000000 00:00000000 00000000  1000        0 11 1\n\
             1: 0100007F:D432\n";
        let here = "127.0.0.1:3128".parse().unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(owner_in(table, "127.0.0.1:54321".parse().unwrap(), here), Some(1000));
        }
        assert_eq!(owner_in(table, "127.0.0.1:54322".parse().unwrap(), here), None);
        assert_eq!(owner_in("", here, here), None);
    }
}
