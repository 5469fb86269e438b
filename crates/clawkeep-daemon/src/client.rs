//! The asking side of [`crate::api`]: blocking, small, for the command line.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::api::{Answer, Failure, Request, Value};

/// Largest line of the protocol, in bytes.
pub(crate) const MAX_LINE: usize = 4 << 20;

/// A connection to the daemon, for one request.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Client {
    /// Connect to the daemon of this state directory; `None` when none listens.
    ///
    /// # Errors
    /// What the system said, when it is not simply absent.
    pub fn connect(socket: &Path) -> io::Result<Option<Self>> {
        let (Some(directory), Some(name)) = (socket.parent(), socket.file_name().and_then(|n| n.to_str()))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let absent = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        let attempt = || -> io::Result<OwnedFd> {
            let directory = std::fs::File::open(directory)?;
            // By the directory's descriptor: `sockaddr_un` is too short for deep state directories.
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
            let fd = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::connect(&fd, &address)?;
            Ok(fd)
        };
        match attempt() {
            Ok(socket) => Ok(Some(Self { socket, bytes: Vec::new(), fds: VecDeque::new() })),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Send the request.
    ///
    /// # Errors
    /// What the system said.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        // It may hold a secret.
        let mut line = zeroize::Zeroizing::new(serde_json::to_vec(request)?);
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut sent =
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
        while sent < line.len() {
            sent += rustix::net::send(&self.socket, &line[sent..], SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// The next line of the answer; `None` when the daemon went away before the end.
    ///
    /// # Errors
    /// What the system said, and a line that is no answer.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot tell the end from an error")]
    pub fn next(&mut self) -> io::Result<Option<Answer>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.bytes.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless line from the daemon"));
            }
            let mut block = [0_u8; 32 * 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut block)];
            let received = match rustix::net::recvmsg(
                &self.socket,
                &mut slices,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                result => result?,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.fds.extend(rights);
                }
            }
            if received.bytes == 0 {
                return Ok(None);
            }
            self.bytes.extend(&block[..received.bytes]);
        }
    }

    /// Wait no longer than this for each piece of the answer.
    ///
    /// # Errors
    /// What the system said.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.socket, direction, Some(patience))?;
        }
        Ok(())
    }

    /// The daemon's pid, as the kernel noted it when it began to listen.
    pub fn daemon_pid(&self) -> Option<i32> {
        socket_peercred(&self.socket).ok().map(|peer| peer.pid.as_raw_nonzero().get())
    }

    /// A descriptor that came with an answer, oldest first.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// The socket, to watch for its end.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Ask, hear of each step, and give the outcome.
    ///
    /// # Errors
    /// The daemon's failure, or that it went away (code `daemon-gone`): asking again is safe then. Code
    /// `daemon-silent` when the patience is over ([`Client::set_patience`]).
    pub fn ask(&mut self, request: &Request, mut step: impl FnMut(Answer)) -> Result<Value, Failure> {
        let gone = |detail: String| {
            Failure::new(
                "daemon-gone",
                format!("the daemon went away before it answered{detail}"),
                "clawkeep status".to_owned(),
            )
        };
        let failed = |error: io::Error| match error.kind() {
            // Only with a patience (socket(7), SO_RCVTIMEO).
            io::ErrorKind::WouldBlock => {
                Failure::new("daemon-silent", "the daemon does not answer", "clawkeep status".to_owned())
            }
            _ => gone(format!(": {error}")),
        };
        self.send(request, &[]).map_err(failed)?;
        loop {
            match self.next().map_err(failed)? {
                Some(Answer::Done(value)) => return Ok(value),
                Some(Answer::Failed(failure)) => return Err(failure),
                Some(other) => step(other),
                None => return Err(gone(String::new())),
            }
        }
    }
}
