//! Many connections at once, and the end of a proxy.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::world::{DEADLINE, Setup, World, matcher, read_exactly, read_to_end, status, text};
use crate::Limits;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Ten thousand heads that never end cost little, and end; who comes next is served.
#[tokio::test]
async fn ten_thousand_slow_heads_are_held_in_little_memory() {
    const MOST: usize = 10_000;
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = descriptors.maximum.unwrap_or(u64::MAX);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(hard.min(65_536)), maximum: Some(hard) },
    );
    // Both ends are this process's.
    let count = MOST.min(usize::try_from(hard.min(65_536)).unwrap().saturating_sub(200) / 2);
    let (listener, port) = World::origin().await;
    let limits = Limits { connections: MOST + 8, head: Duration::from_secs(25), ..Limits::default() };
    let setup = Setup { limits, ..Setup::default() };
    let mut world = World::with(matcher(&[format!("{{host: a.example, port: {port}}}")]), setup).await;
    world.http(listener, None, |_| async { text("hello") });
    let before = resident();
    let mut slow = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = world.connect().await;
        stream.write_all(b"GET http://a.example/ HTTP/1.1\r\nHost: a.exam").await.unwrap();
        slow.push(stream);
    }
    // One that is whole is served among them, which also shows that they have all been accepted.
    let get = format!(
        "GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n"
    );
    assert!(world.exchange(&get).await.ends_with("hello"));
    let each = resident().saturating_sub(before) / count;
    println!("{count} connections, {each} bytes each, both ends and the test's own");
    assert!(each < 32 << 10, "{each} bytes a connection");
    let ended = async {
        for stream in &mut slow {
            assert_eq!(status(&read_to_end(stream).await), 408);
        }
    };
    tokio::time::timeout(DEADLINE * 3, ended).await.expect("all are told that they are too slow");
    assert!(world.exchange(&get).await.ends_with("hello"));
}

#[tokio::test]
async fn a_proxy_that_ends_closes_everything_and_the_next_serves_the_same_listener() {
    let (origins, port) = World::origin().await;
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    kept.set_nonblocking(true).unwrap();
    let again = || TcpListener::from_std(kept.try_clone().unwrap()).unwrap();
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    world.address = kept.local_addr().unwrap();
    let running = world.serve(again(), Setup::default());
    let target = format!("a.example:{port}");
    let mut stream = world.tunnel(&target).await;
    stream.write_all(b"\0").await.unwrap();
    let (mut origin, _) = origins.accept().await.unwrap();
    assert_eq!(read_exactly(&mut origin, 1).await, "\0");
    running.abort();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(read_to_end(&mut origin).await, "");
    // What connects meanwhile waits.
    let mut waiting = TcpStream::connect(world.address).await.unwrap();
    waiting.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    world.serve(again(), Setup::default());
    assert!(read_exactly(&mut waiting, 12).await.ends_with("200"));
}
