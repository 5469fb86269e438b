//! Bytes both ways between two sockets, untouched.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::meter::Meter;

/// What is read at once as long as little moves. Held only while it is being passed on.
const BLOCK: usize = 16 << 10;

/// After so many bytes one way, the kernel passes the rest on by itself, through a pipe.
const BULK: u64 = 1 << 20;

/// The size that such a pipe is asked to have, in bytes; a smaller one only costs speed, and a larger one is memory
/// that a reader who stops can fill.
const PIPE: usize = 256 << 10;

/// Pass everything on until both sides have ended, one fails, or nothing moves for `idle` (seen after twice that at
/// the latest). `early` is what the client has sent already.
pub(crate) async fn relay(
    client: &TcpStream,
    origin: &TcpStream,
    early: &[u8],
    idle: Duration,
    meter: &Meter,
) -> io::Result<()> {
    let both = async {
        write_all(origin, early).await?;
        let there = one_way(client, origin, |bytes| meter.add_sent(bytes));
        let back = one_way(origin, client, |bytes| meter.add_received(bytes));
        tokio::try_join!(there, back).map(|_| ())
    };
    let quiet = async {
        let mut moved = meter.total();
        loop {
            tokio::time::sleep(idle).await;
            let now = meter.total();
            if now == moved {
                return;
            }
            moved = now;
        }
    };
    tokio::select! {
        done = both => done,
        () = quiet => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, count: impl Fn(usize)) -> io::Result<()> {
    let mut moved = 0_u64;
    while moved < BULK {
        from.readable().await?;
        let mut block = Vec::with_capacity(BLOCK);
        match from.try_read_buf(&mut block) {
            Ok(0) => return end(to),
            Ok(bytes) => {
                write_all(to, &block).await?;
                count(bytes);
                moved += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let pipe = Pipe::new()?;
    loop {
        let mut inside = pipe.fill(from).await?;
        if inside == 0 {
            return end(to);
        }
        while inside > 0 {
            let bytes = pipe.drain(to, inside).await?;
            count(bytes);
            inside -= bytes;
        }
    }
}

/// Say that no more comes.
fn end(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, Shutdown::Write) {
        // It has gone already, and the other way finds out.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // Mostly there is room, and then nothing has to be waited for.
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The kernel's own buffer between two sockets (splice(2)). It is filled only when it is empty, so that "not now"
/// always speaks of the socket.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
        let size = rustix::pipe::fcntl_getpipe_size(&write)?;
        Ok(Self { read, write, size })
    }

    async fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let splice = || Ok(rustix::pipe::splice(from, None, &self.write, None, self.size, flags)?);
        from.async_io(Interest::READABLE, splice).await
    }

    async fn drain(&self, to: &TcpStream, bytes: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let splice = || Ok(rustix::pipe::splice(&self.read, None, to, None, bytes, flags)?);
        match to.async_io(Interest::WRITABLE, splice).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            bytes => Ok(bytes),
        }
    }
}
