//! Connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::machine;
use crate::report::Answer;
use crate::sys;

const PATIENCE: Duration = Duration::from_secs(10);

/// Send a request to a port on the loopback; the answer is the status in the first line of the reply.
pub fn http(port: u64, request: &str) -> Answer {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap_or(0)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&machine::bytes(request).unwrap_or_default())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    match ask() {
        Ok(line) => match line.split(' ').nth(1) {
            Some(status) => Answer::word(if status == "200" { "ok" } else { status }, line.trim()),
            None => Answer::word("closed", "the connection was closed without a reply"),
        },
        Err(error) => Answer::of(&error, "proxy"),
    }
}

/// A connection that stays at home.
pub fn loopback() -> Answer {
    // The listener's backlog takes it: nobody need accept.
    let connect = || -> std::io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        TcpStream::connect(listener.local_addr()?).map(drop)
    };
    match connect() {
        Ok(()) => Answer::done(),
        Err(error) => Answer::of(&error, "loopback"),
    }
}

/// A socket of every family that is not among these, of each type. The answer is EPERM if all are refused with it.
pub fn families(allowed: &[&str]) -> Answer {
    const EPERM: i32 = 1;
    for family in 0..64 {
        if allowed.contains(&family.to_string().as_str()) {
            continue;
        }
        for kind in 1..=6 {
            // SAFETY: no argument is a pointer.
            match unsafe { sys::syscall(SOCKET, [family, kind, 0, 0, 0, 0]) } {
                Ok(_) => return Answer::word("ok", format!("family {family}, type {kind}")),
                Err(error) if error.raw_os_error() == Some(EPERM) => {}
                Err(error) => return Answer::of(&error, format!("family {family}, type {kind}")),
            }
        }
    }
    Answer::errno(EPERM, "all of them")
}

/// Send a message to the routing socket and read the error in the acknowledgement (netlink(7), NLMSG_ERROR).
pub fn netlink(message: &str) -> Answer {
    const AF_NETLINK: i64 = 16;
    const SOCK_RAW: i64 = 3;
    const HEADER: usize = 16;
    let message = machine::bytes(message).unwrap_or_default();
    let mut reply = vec![0_u8; 4096];
    // SAFETY: the buffers are valid for the lengths that are given with them; no other argument is a pointer.
    let answered = unsafe {
        sys::syscall(SOCKET, [AF_NETLINK, SOCK_RAW, 0, 0, 0, 0]).and_then(|socket| {
            let (address, length) = (message.as_ptr() as i64, message.len() as i64);
            sys::syscall(SENDTO, [socket, address, length, 0, 0, 0])?;
            sys::syscall(RECVFROM, [socket, reply.as_mut_ptr() as i64, reply.len() as i64, 0, 0, 0])
        })
    };
    match (answered, reply.get(HEADER..HEADER + 4)) {
        (Err(error), _) => Answer::of(&error, "netlink"),
        (Ok(_), Some(&[a, b, c, d])) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Answer::done(),
            error => Answer::errno(-error, "the kernel's reply"),
        },
        (Ok(_), _) => Answer::word("error", "no reply"),
    }
}

#[cfg(target_arch = "x86_64")]
const SOCKET: i64 = 41;
#[cfg(target_arch = "x86_64")]
const SENDTO: i64 = 44;
#[cfg(target_arch = "x86_64")]
const RECVFROM: i64 = 45;
#[cfg(not(target_arch = "x86_64"))]
const SOCKET: i64 = 198;
#[cfg(not(target_arch = "x86_64"))]
const SENDTO: i64 = 206;
#[cfg(not(target_arch = "x86_64"))]
const RECVFROM: i64 = 207;

/// Ask the name server on the loopback; the answer is its response code (RFC 1035, 4.1.1), `ok` where it has records.
pub fn dns(name: &str, kind: u16, class: u16) -> Answer {
    const NAMES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    // Id, recursion desired, one question.
    let mut question = vec![0x64, 0x72, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend([kind.to_be_bytes(), class.to_be_bytes()].concat());
    let ask = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(("127.0.0.1", 53))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(&question)?;
        let mut reply = vec![0; 4096];
        let length = socket.recv(&mut reply)?;
        reply.truncate(length);
        Ok(reply)
    };
    match ask() {
        Ok(reply) => match reply[..] {
            [0x64, 0x72, _, code, _, _, _, answers, ..] if code & 0xf == 0 && answers > 0 => Answer::done(),
            [0x64, 0x72, _, code, ..] => {
                Answer::word(NAMES.get(usize::from(code & 0xf)).unwrap_or(&"error"), format!("code {}", code & 0xf))
            }
            _ => Answer::word("error", "no reply to this question"),
        },
        Err(error) => Answer::of(&error, "name server"),
    }
}
