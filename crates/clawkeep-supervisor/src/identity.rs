//! Who listens? An answer on the gateway's port counts only if the gateway gives it: a process of somebody's
//! session may have taken the port.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, Mode, OFlags};

/// The most that is read of one file of /proc, in bytes.
const MAX_TABLE: u64 = 4 << 20;

/// 127.0.0.1 and any address, as `/proc/net/tcp` has them.
const ANSWERING: [&str; 2] = ["0100007F", "00000000"];

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    pub inode: u64,
    /// Whose it is.
    pub uid: u32,
}

/// The same as [`listeners`], in our own network namespace.
pub(crate) fn on_this_host(port: u16) -> Vec<Listener> {
    rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_or_else(
        |_| Vec::new(),
        |proc| listeners(proc.as_fd(), rustix::process::getpid().as_raw_nonzero().get(), port),
    )
}

/// The sockets that answer on this TCP port of 127.0.0.1, in the network namespace of this process
/// (proc_pid_net(5)). Empty when it cannot be told. A socket of IPv6 answers there only where none of IPv4 does.
pub(crate) fn listeners(proc: BorrowedFd<'_>, pid: i32, port: u16) -> Vec<Listener> {
    let table = |name: &str| read(proc, &format!("{pid}/net/{name}")).unwrap_or_default();
    let found = rows(&table("tcp"), port, |address| ANSWERING.contains(&address));
    if found.is_empty() { rows(&table("tcp6"), port, |_| true) } else { found }
}

/// Whether this process holds one of these sockets; `None` when it cannot be told.
pub(crate) fn holds(proc: BorrowedFd<'_>, pid: i32, sockets: &[Listener]) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fds = rustix::fs::openat(proc, format!("{pid}/fd"), flags, Mode::empty()).ok()?;
    for entry in Dir::read_from(&fds).ok()?.flatten() {
        let Ok(link) = rustix::fs::readlinkat(&fds, entry.file_name(), Vec::new()) else { continue };
        let inode = link
            .to_str()
            .ok()
            .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if inode.is_some_and(|inode: u64| sockets.iter().any(|socket| socket.inode == inode)) {
            return Some(true);
        }
    }
    Some(false)
}

/// The session that a process belongs to: field 6 of its stat.
pub(crate) fn session(proc: BorrowedFd<'_>, pid: i32) -> Option<i32> {
    let stat = read(proc, &format!("{pid}/stat"))?;
    let after_name = stat.rfind(')')? + 1;
    stat[after_name..].split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Every process of the sandbox.
pub(crate) fn processes(proc: BorrowedFd<'_>) -> Vec<i32> {
    let Ok(entries) = Dir::read_from(proc) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect()
}

fn read(proc: BorrowedFd<'_>, path: &str) -> Option<String> {
    use std::io::Read;
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // For each read of a table of sockets the kernel walks those of the whole host: few reads, then.
    let mut bytes = Vec::with_capacity(8 << 10);
    std::fs::File::from(file).take(MAX_TABLE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// In `/proc/net/tcp`: local address and port in hexadecimal, state 0A for listening, uid in column eight, inode in
/// column ten.
fn rows(table: &str, port: u16, answers: impl Fn(&str) -> bool) -> Vec<Listener> {
    let row = |line: &str| {
        let columns: Vec<_> = line.split_ascii_whitespace().collect();
        let (address, local) = columns.get(1)?.rsplit_once(':')?;
        let here =
            u16::from_str_radix(local, 16).ok()? == port && *columns.get(3)? == "0A" && answers(address);
        let listener =
            || Some(Listener { uid: columns.get(7)?.parse().ok()?, inode: columns.get(9)?.parse().ok()? });
        here.then(listener).flatten()
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_its_own_listener_and_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proc = std::fs::File::open("/proc").unwrap();
        let own = std::process::id() as i32;
        let found = listeners(proc.as_fd(), own, port);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].uid, rustix::process::getuid().as_raw());
        assert_eq!(on_this_host(port), found);
        assert_eq!(holds(proc.as_fd(), own, &found), Some(true));
        assert_eq!(holds(proc.as_fd(), own, &[Listener { inode: 1, uid: 0 }]), Some(false));
        assert!(processes(proc.as_fd()).contains(&own));
        // 0 where the session was begun outside of this pid namespace, as in a container.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(session(proc.as_fd(), own), Some(fields[3].parse().unwrap()));
        let mut child = std::process::Command::new("setsid").args(["sleep", "60"]).spawn().unwrap();
        let pid = child.id() as i32;
        testkit::wait_until(std::time::Duration::from_secs(30), "its own session", || {
            (session(proc.as_fd(), pid) == Some(pid)).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // Another address of the loopback answers somebody else; IPv6 answers here where IPv4 does not.
        let elsewhere = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        assert_eq!(listeners(proc.as_fd(), own, port), found);
        drop((listener, elsewhere));
        assert!(listeners(proc.as_fd(), own, port).is_empty());
        if let Ok(dual) = std::net::TcpListener::bind("[::]:0") {
            let port = dual.local_addr().unwrap().port();
            let found = listeners(proc.as_fd(), own, port);
            assert_eq!((found.len(), holds(proc.as_fd(), own, &found)), (1, Some(true)));
        }
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_a_panic(table in "\\PC{0,400}", port: u16) {
            let _ = rows(&table, port, |_| true);
        }
    }
}
