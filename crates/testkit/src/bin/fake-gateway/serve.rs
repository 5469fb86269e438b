use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::gateway::{Gateway, Hello, Mode};
use crate::orders::{self, What};

/// The most that a request's head may be, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serve until something ends the process.
pub fn run(gateway: &Arc<Gateway>) -> ExitCode {
    let mut unanswered = Vec::new();
    loop {
        let listener = gateway.listener().filter(|_| gateway.mode() != Mode::Hung);
        let mut fds = vec![PollFd::new(&gateway.woken, PollFlags::IN)];
        fds.extend(listener.iter().map(|listener| PollFd::new(listener.as_ref(), PollFlags::IN)));
        if let Err(error) = poll(&mut fds, None)
            && error != rustix::io::Errno::INTR
        {
            eprintln!("fake-gateway: poll: {error}");
            return ExitCode::FAILURE;
        }
        if !fds[0].revents().is_empty() {
            let _ = rustix::io::read(&gateway.woken, &mut [0_u8; 64]);
            continue;
        }
        let Some(Ok((stream, _))) = listener.map(|listener| listener.accept()) else { continue };
        if gateway.mode() == Mode::Mute {
            unanswered.push(stream);
            continue;
        }
        let gateway = Arc::clone(gateway);
        std::thread::spawn(move || answer(&gateway, stream));
    }
}

fn answer(gateway: &Gateway, mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let Some(head) = read_head(&mut stream) else { return };
    testkit::pause(gateway.slowness());
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, target) {
        ("GET", "/") if wants_websocket(&head) => say_hello(gateway, &mut stream),
        ("GET" | "HEAD", "/healthz") => reply(&mut stream, 200, &json!({"ok": true, "status": "live"})),
        ("GET" | "HEAD", "/readyz") => {
            let ready = gateway.is_ready();
            reply(&mut stream, if ready { 200 } else { 503 }, &json!({"ready": ready}));
        }
        ("GET" | "HEAD", "/health") => {
            reply(&mut stream, gateway.options.health_status, &json!({"ok": true}));
        }
        ("POST", target) if target.starts_with("/fake/") => match orders::parse(&target["/fake/".len()..]) {
            Ok(orders) => obey(gateway, &mut stream, &orders),
            Err(wrong) => reply(&mut stream, 400, &json!({"error": wrong})),
        },
        // As OpenClaw: the Control UI answers whatever it does not know.
        _ => send(&mut stream, 200, "text/html", "<!doctype html><title>fake</title>\n"),
    }
}

/// A key, and what it is answered with: those of RFC 6455 1.3, and no others.
const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(have, value)| (have, value.trim()))
        .find(|(have, _)| have.eq_ignore_ascii_case(name))
        .map(|h| h.1)
}

fn wants_websocket(head: &str) -> bool {
    header(head, "upgrade").is_some_and(|what| what.eq_ignore_ascii_case("websocket"))
        && header(head, "sec-websocket-key") == Some(KEY.0)
}

/// As OpenClaw: the first message of every WebSocket is a challenge. Then wait for the client to leave.
fn say_hello(gateway: &Gateway, stream: &mut TcpStream) {
    if gateway.hello() == Hello::Refused {
        return reply(stream, 503, &json!({"ok": false}));
    }
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        KEY.1
    );
    let said = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}}).to_string();
    // One text frame of less than 126 bytes (RFC 6455 5.2).
    let length = u8::try_from(said.len()).expect("a short hello");
    let frame = [&[0x81, length], said.as_bytes()].concat();
    let hello = if gateway.hello() == Hello::Unsaid { &[][..] } else { &frame };
    let _ = stream.write_all(&[head.as_bytes(), hello].concat());
    let _ = stream.set_read_timeout(None);
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// Carry out the orders. The answer goes out before one that may end the process, or take long.
fn obey(gateway: &Gateway, stream: &mut TcpStream, orders: &[orders::Order]) {
    let late = |what: &What| {
        matches!(what, What::Crash(_) | What::Exit(_) | What::Flood(_) | What::EatMemory(_) | What::Spin)
    };
    let first_late = orders.iter().position(|order| late(&order.what)).unwrap_or(orders.len());
    let (early, late) = orders.split_at(first_late);
    let left: Vec<u32> = early.iter().filter_map(|order| gateway.perform(&order.what)).collect();
    let start_time = testkit::processes::start_time(std::process::id().cast_signed());
    reply(stream, 200, &json!({"ok": true, "left": left, "start_time": start_time}));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    for order in late {
        gateway.perform(&order.what);
    }
}

/// The request's head, and its body read away, so that closing resets nothing.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    let mut block = [0_u8; 1024];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse::<usize>().ok())
                .unwrap_or(0);
            let missing = (end + 4).saturating_add(length).saturating_sub(read.len()).min(1 << 20);
            let _ = std::io::copy(&mut stream.take(missing as u64), &mut std::io::sink());
            return Some(head);
        }
        if read.len() > MAX_HEAD {
            return None;
        }
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return None,
            Ok(n) => read.extend_from_slice(&block[..n]),
        }
    }
}

fn reply(stream: &mut TcpStream, status: u16, body: &serde_json::Value) {
    send(stream, status, "application/json", &body.to_string());
}

fn send(stream: &mut TcpStream, status: u16, kind: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} fake\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice());
}
