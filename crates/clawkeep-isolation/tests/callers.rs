//! Which program of a sandbox is at the other end of a connection.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use clawkeep_egress::{Callers, SockDiag};
use clawkeep_isolation::proto::{Kind, Order, Reply, Stdio};
use support::Sandbox;

/// What the host side needs: the proxy's listener, and who tells callers.
fn reach(sandbox: &mut Sandbox) -> (TcpListener, SockDiag) {
    let (Reply::Hello { .. }, mut fds) = sandbox.ask(Order::Hello, &[]) else { panic!() };
    let listener = TcpListener::from(fds.remove(1));
    listener.set_nonblocking(false).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let proc = rustix::fs::openat(&fds[0], "proc", flags, rustix::fs::Mode::empty()).unwrap();
    let (Reply::Done, mut fds) = sandbox.ask(Order::Diagnostics, &[]) else { panic!() };
    (listener, SockDiag::new(fds.pop().unwrap(), &proc).unwrap())
}

fn tell(callers: &SockDiag, (stream, client): &(TcpStream, SocketAddr)) -> Option<String> {
    callers.executable(*client, stream.local_addr().unwrap())
}

fn start(sandbox: &mut Sandbox, id: &str, argv: &[&str]) {
    let _: Vec<OwnedFd> = sandbox.spawn(id, Kind::Gateway, Stdio::Log, argv, &[]);
}

#[test]
fn a_connection_is_its_programs_and_of_nobody_once_it_is_shared() {
    let mut sandbox = Sandbox::new();
    let (listener, callers) = reach(&mut sandbox);
    let bash = "exec 5<>/dev/tcp/127.0.0.1/3128; read -u 5 line; sleep 1000 & echo shared >&5; wait";
    start(&mut sandbox, "bash", &["/bin/bash", "-c", bash]);
    let mut connection = listener.accept().unwrap();
    let found = tell(&callers, &connection).expect("bash holds it alone");
    assert!(found.ends_with("/bash"), "{found}");
    // Its child gets the socket and becomes another program.
    connection.0.write_all(b"go\n").unwrap();
    connection.0.read_exact(&mut [0; 7]).unwrap();
    testkit::wait_until(Duration::from_secs(60), "two programs with one socket", || {
        tell(&callers, &connection).is_none().then_some(())
    });
}

#[test]
fn programs_that_fork_or_hide_themselves() {
    let mut sandbox = Sandbox::new();
    if !support::has_python("programs_that_fork_or_hide_themselves") {
        return;
    }
    let (listener, callers) = reach(&mut sandbox);
    let script = r#"
import ctypes, os, shutil, socket, sys
def connect():
    s = socket.create_connection(("127.0.0.1", 3128))
    return s
fork = connect()
if os.fork() == 0:
    fork.recv(1)
    os._exit(0)
fork.send(b"f")
mapped = socket.socket(socket.AF_INET6)
mapped.connect(("::ffff:127.0.0.1", 3128))
mapped.send(b"m")
mapped.recv(1)
hidden = connect()
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
hidden.send(b"h")
hidden.recv(1)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
shutil.copy("/bin/sleep", "/tmp/sleep")
gone = connect()
os.set_inheritable(gone.fileno(), True)
pid = os.spawnv(os.P_NOWAIT, "/tmp/sleep", ["sleep", "1000"])
os.unlink("/tmp/sleep")
gone.send(b"g")
gone.close()
os.wait()
"#;
    start(&mut sandbox, "python", &["/usr/bin/python3", "-c", script]);
    let next = || {
        let mut connection = listener.accept().unwrap();
        connection.0.read_exact(&mut [0]).unwrap();
        connection
    };
    let fork = next();
    let python = tell(&callers, &fork).expect("two processes, one program");
    assert!(python.starts_with("/usr/bin/python3"), "{python}");
    let mut mapped = next();
    assert_eq!(tell(&callers, &mapped).as_ref(), Some(&python), "IPv6 that speaks to IPv4");
    mapped.0.write_all(b"x").unwrap();
    let mut hidden = next();
    // Only root may look at what hides itself; the user that it runs as may not, and then it cannot be told.
    let told = tell(&callers, &hidden);
    let root = rustix::process::geteuid().is_root();
    assert_eq!(told.as_ref(), root.then_some(&python));
    hidden.0.write_all(b"x").unwrap();
    let gone = next();
    testkit::wait_until(Duration::from_secs(60), "a program that is nowhere any more", || {
        tell(&callers, &gone).is_none().then_some(())
    });
}

#[test]
fn to_tell_takes_microseconds() {
    let mut sandbox = Sandbox::new();
    if !support::has_python("to_tell_takes_microseconds") {
        return;
    }
    let (listener, callers) = reach(&mut sandbox);
    for other in ["one", "two", "three"] {
        start(&mut sandbox, other, &["/bin/sleep", "1000"]);
    }
    // As many descriptors as a gateway has; and each connection is closed before the next.
    let script = r#"
import os, socket
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
while True:
    with socket.create_connection(("127.0.0.1", 3128)) as s:
        s.recv(1)
"#;
    start(&mut sandbox, "python", &["/usr/bin/python3", "-c", script]);
    let mut took = Vec::new();
    for _ in 0..500 {
        let connection = listener.accept().unwrap();
        let begun = Instant::now();
        let told = tell(&callers, &connection);
        took.push(begun.elapsed());
        assert!(told.is_some_and(|program| program.starts_with("/usr/bin/python3")));
    }
    took.sort_unstable();
    eprintln!("to tell a caller: median {:?}, 99 in 100 within {:?}", took[250], took[495]);
    // Some ten microseconds; what is bounded here is a search of the host.
    assert!(took[250] < Duration::from_millis(5), "{:?}", took[250]);
}
