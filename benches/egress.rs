//! The proxy beside no proxy and beside tinyproxy, in one run, as a table: `cargo bench -p clawkeep --bench egress`.
//! Client, origin and proxy are processes of their own on the loopback; what is between them is all that differs.
//! `CLAWKEEP_BENCH_N` makes it shorter.

#[path = "egress/origin.rs"]
mod origin;
#[path = "egress/peers.rs"]
mod peers;
#[path = "table.rs"]
mod table;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use origin::{BULK, HOST, Origin};
use peers::{Peer, peers};
use rustls::StreamOwned;
use table::{machine, row};

fn main() {
    if peers::serve_if_told() {
        return;
    }
    let n = std::env::var("CLAWKEEP_BENCH_N").ok().map_or(2_000, |n| n.parse().expect("a number"));
    let origin = Origin::start();
    let (present, missing) = peers(&origin);
    println!("{}\n", machine());
    println!("| figure | n | p50 | p99 | max |\n|---|---|---|---|---|");
    for (figure, measure) in FIGURES {
        // In turns, so that what else the machine does meets all of them. The first of each finds cold caches.
        let mut times = vec![Vec::with_capacity(n); present.len()];
        let mut rounds: Vec<_> = present.iter().map(|peer| measure(peer, &origin)).collect();
        for round in 0..=n {
            for (times, one) in times.iter_mut().zip(&mut rounds) {
                let Some(one) = one else { continue };
                let took = one();
                if round > 0 {
                    times.push(took);
                }
            }
        }
        drop(rounds);
        for (peer, times) in present.iter().zip(&mut times).filter(|(_, times)| !times.is_empty()) {
            row(&format!("{figure}: {}", peer.name), times);
        }
    }
    println!("\n| figure | rate | of one processor's time in the proxy |\n|---|---|---|");
    for peer in &present {
        bulk(peer, &origin);
    }
    for parallel in [8, 64] {
        for peer in &present {
            connections(peer, &origin, parallel, n * 4);
        }
    }
    for peer in missing {
        println!("\nMISSING: {peer}");
    }
}

/// What is measured again and again; nothing where a peer has no such thing.
type Round<'a> = Option<Box<dyn FnMut() -> Duration + 'a>>;

/// A figure's name, and what makes its rounds.
type Figure = (&'static str, for<'a> fn(&'a Peer, &'a Origin) -> Round<'a>);

const FIGURES: [Figure; 5] = [
    ("new connection, plain GET", plain_get),
    ("new connection, CONNECT agreed to", connect_only),
    ("keep-alive GET in a TLS tunnel, passed through", kept_in_passed),
    ("keep-alive GET in a TLS tunnel, each request decided on", kept_in_inspected),
    ("keep-alive GET of an http URL", kept_plain),
];

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn plain_get<'a>(peer: &'a Peer, origin: &'a Origin) -> Round<'a> {
    Some(Box::new(move || timed(|| get_once(peer, origin.plain))))
}

fn get_once(peer: &Peer, port: u16) {
    let mut stream = dial(peer.address(port));
    stream.write_all(get(&peer.prefix(port), port, "close").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"hello"), "{}", String::from_utf8_lossy(&answer));
}

fn connect_only<'a>(peer: &'a Peer, origin: &'a Origin) -> Round<'a> {
    Some(Box::new(move || timed(|| drop(tunnel(peer, origin.plain)))))
}

fn kept_in_passed<'a>(peer: &'a Peer, origin: &'a Origin) -> Round<'a> {
    let stream = tunnel(peer, origin.tls);
    Some(kept(StreamOwned::new(origin.client(origin.roots()), stream), "", origin.tls))
}

fn kept_in_inspected<'a>(peer: &'a Peer, origin: &'a Origin) -> Round<'a> {
    let roots = peer.inspecting_roots(origin)?;
    let stream = tunnel(peer, origin.inspected);
    Some(kept(StreamOwned::new(origin.client(roots), stream), "", origin.inspected))
}

fn kept_plain<'a>(peer: &'a Peer, origin: &'a Origin) -> Round<'a> {
    let port = origin.plain;
    if !peer.keeps_alive() {
        return None;
    }
    Some(kept(dial(peer.address(port)), &peer.prefix(port), port))
}

fn kept<'a>(
    mut stream: impl Read + Write + 'a,
    prefix: &str,
    port: u16,
) -> Box<dyn FnMut() -> Duration + 'a> {
    let request = get(prefix, port, "keep-alive");
    Box::new(move || {
        timed(|| {
            stream.write_all(request.as_bytes()).unwrap();
            read_answer(&mut stream);
        })
    })
}

fn get(prefix: &str, port: u16, connection: &str) -> String {
    format!("GET {prefix}/hello HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: {connection}\r\n\r\n")
}

fn read_answer(stream: &mut impl Read) {
    let mut answer = Vec::new();
    let mut block = [0; 1024];
    while !answer.ends_with(b"hello") {
        let bytes = stream.read(&mut block).unwrap();
        assert!(bytes > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&block[..bytes]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection to the origin's port, through the peer where there is one.
fn tunnel(peer: &Peer, port: u16) -> TcpStream {
    let mut stream = dial(peer.address(port));
    if peer.is_proxy() {
        let host = peer.host();
        let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer[9..].starts_with(b"200"), "{}", String::from_utf8_lossy(&answer));
    }
    stream
}

/// Much in one tunnel, as the origin can send it.
fn bulk(peer: &Peer, origin: &Origin) {
    let mut stream = tunnel(peer, origin.raw);
    // No greeting of any protocol that is looked into.
    stream.write_all(b"\0").unwrap();
    let (spent, started) = (peer.processor_time(), Instant::now());
    let (mut read, mut block) = (0, vec![0; 1 << 20]);
    while read < BULK {
        let bytes = stream.read(&mut block).unwrap();
        assert!(bytes > 0, "the bulk ended early");
        read += bytes;
    }
    let took = started.elapsed();
    let rate = |time: Duration| BULK as f64 / time.as_secs_f64() / f64::from(1 << 30);
    let proxy = match (spent, peer.processor_time()) {
        (Some(before), Some(after)) if after > before => format!("{:.2} GiB/s", rate(after - before)),
        _ => String::new(),
    };
    println!("| 512 MiB in a tunnel: {} | {:.2} GiB/s | {proxy} |", peer.name, rate(took));
}

/// New connections, each with one GET, so many at once.
fn connections(peer: &Peer, origin: &Origin, parallel: usize, total: usize) {
    let left = Arc::new(AtomicUsize::new(total));
    let (spent, started) = (peer.processor_time(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    get_once(peer, origin.plain);
                }
            });
        }
    });
    let rate = |time: Duration| total as f64 / time.as_secs_f64();
    let took = started.elapsed();
    let proxy = match (spent, peer.processor_time()) {
        (Some(before), Some(after)) if after > before => format!("{:.0}/s", rate(after - before)),
        _ => String::new(),
    };
    println!("| new connections, {parallel} at once: {} | {:.0}/s | {proxy} |", peer.name, rate(took));
}
