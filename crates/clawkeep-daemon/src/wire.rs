//! The answering side of the protocol: lines with descriptors over one asker's connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::api::{Answer, Request};
use crate::client::MAX_LINE;
use crate::redaction::redaction;

/// One asker.
pub struct Asker(UnixStream);

impl Asker {
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The request, with its descriptors; `None` when the asker said nothing.
    pub async fn request(&self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        // A request may hold a secret.
        let (mut bytes, mut fds) = (Zeroizing::new(Vec::new()), Vec::new());
        loop {
            if let Some(end) = bytes.iter().position(|b| *b == b'\n') {
                return Ok(Some((serde_json::from_slice(&bytes[..end])?, fds)));
            }
            if bytes.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless request"));
            }
            self.0.readable().await?;
            match self.0.try_io(Interest::READABLE, || self.receive(&mut bytes, &mut fds)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut block = [0_u8; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut block)];
        let received =
            rustix::net::recvmsg(self.0.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        bytes.extend(&block[..received.bytes]);
        Ok(received.bytes)
    }

    /// One line of the answer, without secrets.
    pub async fn answer(&self, mut answer: Answer, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        redaction().answer(&mut answer);
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        let (mut sent, mut fd) = (0, fd);
        while sent < line.len() {
            self.0.writable().await?;
            let result = self.0.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = fd.as_slice();
                if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let slices = [IoSlice::new(&line[sent..])];
                Ok(rustix::net::sendmsg(self.0.as_fd(), &slices, &mut control, SendFlags::NOSIGNAL)?)
            });
            match result {
                Ok(written) => {
                    sent += written;
                    fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wait until the asker has gone away. Askers say nothing after their request.
    pub async fn gone(&self) {
        loop {
            if self.0.readable().await.is_err() {
                return;
            }
            match self.0.try_read(&mut [0_u8; 256]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
