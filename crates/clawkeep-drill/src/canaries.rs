//! Things on the host that nothing inside a sandbox may reach. Whether one was reached is seen out here,
//! whatever the attempt says.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Length of the address of the abstract socket (unix(7)): family, NUL, name.
pub(crate) const ABSTRACT_LEN: i64 = 2 + 1 + (ABSTRACT_PREFIX.len() + 16) as i64;

const ABSTRACT_PREFIX: &str = "clawkeep-drill-";

/// Bytes of the token.
pub(crate) const TOKEN_LEN: i64 = 32;

/// Who connected and does not say its token by then is somebody else.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where the canaries are, and what tells them that it was the drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bait {
    pub tcp: u16,
    pub udp: u16,
    pub abstract_name: String,
    pub file: String,
    pub token: String,
    /// This process, and when it started: field 22 of its stat (proc_pid_stat(5)).
    pub host_process: (u32, u64),
}

/// A listener, a UDP socket, an abstract Unix socket and a file of the host. The file goes with this.
#[derive(Debug)]
pub struct Canaries {
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    file: PathBuf,
    bait: Bait,
}

impl Canaries {
    /// Set them up; the file is made in this directory, which must not be visible in the target.
    ///
    /// # Errors
    /// What the system said, or that one of them cannot even be reached from here.
    pub fn set(dir: &Path) -> io::Result<Self> {
        let mut random = [0_u8; 24];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (token, name) = hex.split_at(TOKEN_LEN as usize);
        let abstract_name = format!("{ABSTRACT_PREFIX}{name}");
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        unix.set_nonblocking(true)?;
        let file = dir.join(format!(".drill-{name}"));
        let text =
            file.to_str().ok_or_else(|| io::Error::other("the state directory's path is not UTF-8"))?;
        let bait = Bait {
            tcp: tcp.local_addr()?.port(),
            udp: udp.local_addr()?.port(),
            abstract_name,
            file: text.to_owned(),
            token: token.to_owned(),
            host_process: (std::process::id(), started()?),
        };
        std::fs::File::options().write(true).create_new(true).open(&file)?;
        std::fs::write(&file, &bait.token)?;
        let canaries = Self { tcp, udp, unix, file, bait };
        canaries.sing()?;
        Ok(canaries)
    }

    /// Reach each of them from here, where it must be possible: one that cannot be reached proves nothing.
    fn sing(&self) -> io::Result<()> {
        use std::io::Write as _;
        let token = self.bait.token.as_bytes();
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.bait.tcp))?.write_all(token)?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        sender.send_to(token, (Ipv4Addr::LOCALHOST, self.bait.udp))?;
        let address = SocketAddr::from_abstract_name(&self.bait.abstract_name)?;
        UnixStream::connect_addr(&address)?.write_all(token)?;
        std::fs::write(&self.file, "changed")?;
        let hits = self.hits();
        std::fs::write(&self.file, &self.bait.token)?;
        if hits.len() == 4 { Ok(()) } else { Err(io::Error::other(format!("only {hits:?} can be reached"))) }
    }

    pub(crate) fn bait(&self) -> &Bait {
        &self.bait
    }

    /// Which were reached since the last look.
    pub(crate) fn hits(&self) -> Vec<&'static str> {
        let mut hits = Vec::new();
        let ours = |from: &mut dyn Read| {
            let mut said = [0; TOKEN_LEN as usize];
            from.read_exact(&mut said).is_ok() && said == self.bait.token.as_bytes()
        };
        while let Ok((mut stream, _)) = self.tcp.accept() {
            let _ = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
            if ours(&mut stream) {
                hits.push("the host's TCP listener");
            }
        }
        let mut datagram = [0; 64];
        loop {
            match self.udp.recv(&mut datagram) {
                Ok(read) if datagram[..read] == *self.bait.token.as_bytes() => {
                    hits.push("the host's UDP socket");
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        while let Ok((mut stream, _)) = self.unix.accept() {
            let _ = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
            if ours(&mut stream) {
                hits.push("the host's abstract socket");
            }
        }
        if std::fs::read(&self.file).ok().as_deref() != Some(self.bait.token.as_bytes()) {
            hits.push("the host's file");
            // For the next attempt.
            let _ = std::fs::write(&self.file, &self.bait.token);
        }
        hits
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn started() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::other("/proc/self/stat has no start time"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn tells_who_reached_it_from_who_just_came_by() {
        let dir = tempfile::tempdir().unwrap();
        let canaries = Canaries::set(dir.path()).unwrap();
        assert_eq!(canaries.hits(), Vec::<&str>::new());
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, canaries.bait.tcp)).unwrap());
        assert_eq!(canaries.hits(), Vec::<&str>::new());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, canaries.bait.tcp)).unwrap();
        stream.write_all(canaries.bait.token.as_bytes()).unwrap();
        std::fs::write(&canaries.file, "x").unwrap();
        assert_eq!(canaries.hits(), ["the host's TCP listener", "the host's file"]);
        let file = canaries.file.clone();
        drop(canaries);
        assert!(!file.exists());
    }
}
