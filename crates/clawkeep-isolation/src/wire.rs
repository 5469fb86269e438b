//! One message, one packet: JSON with file descriptors over a Unix `SOCK_SEQPACKET` socket (unix(7)). Spoken
//! only between our own processes; no process of an agent ever holds an end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// Largest message, in bytes.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// Most descriptors in one message.
pub const MAX_FDS: usize = 16;

/// Send one message with descriptors.
///
/// # Errors
/// Those of sendmsg(2); `InvalidInput` for one that is too large.
pub fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large for the control socket"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(fits, "the space is made for MAX_FDS");
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop).map_err(Into::into),
        }
    }
}

/// Receive one message with its descriptors; `None` at the end of the connection.
///
/// # Errors
/// Those of recvmsg(2), `WouldBlock` included; `InvalidData` for what is no such message.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // How long it is comes first: nearly all are short, and each page that is touched for one is paid for.
    let length = loop {
        match recv(&socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?.1,
        }
    };
    let mut bytes = vec![0_u8; length.clamp(1, MAX_MESSAGE)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "control message cut short"));
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn carries_messages_and_descriptors_and_tells_the_end() {
        let (a, b) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&a, &"hello", &[write.as_fd()]).unwrap();
        drop(write);
        let (text, fds) = receive::<String>(&b).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("hello", 1));
        rustix::io::write(&fds[0], b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0_u8; 8]).unwrap(), 1);
        drop(a);
        assert!(receive::<String>(&b).unwrap().is_none());
    }

    #[test]
    fn refuses_what_is_too_large_and_what_is_no_message() {
        let (a, b) = pair();
        assert_eq!(send(&a, &"x".repeat(MAX_MESSAGE), &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        rustix::io::write(&a, b"not json").unwrap();
        assert!(receive::<String>(&b).is_err());
    }
}
