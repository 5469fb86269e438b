//! A sandbox, for real, as root or as whoever runs the tests.

mod support;

use std::os::fd::AsFd;

use clawkeep_isolation::proto::{Ended, Event, Kind, Order, Reply, Stdio};
use clawkeep_isolation::{IdMap, create, find};
use clawkeep_plan::{Receipt, ReceiptError};
use support::Sandbox;

#[test]
fn a_command_runs_as_the_sandbox_user_in_a_small_world() {
    let mut sandbox = Sandbox::new();
    let (output, how) =
        sandbox.sh("id -u; id -un; hostname; pwd; ls /; ls /dev; cat /proc/1/comm; ls /sandbox");
    assert_eq!(how, Ended::Exited(0), "{output}");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..4], ["998", "sandbox", "box", "/"]);
    assert!(output.contains("clawkeep-init"), "{output}");
    for absent in ["root\n", "boot\n", "mnt\n", "work\n", "vda"] {
        assert!(!output.contains(absent), "{absent} in {output}");
    }
}

#[test]
fn only_home_and_tmp_can_be_written() {
    let mut sandbox = Sandbox::new();
    let (output, how) =
        sandbox.sh("set -e; echo a > /sandbox/f; echo b > /tmp/f; cat /sandbox/f /tmp/f; echo c > /dev/null");
    assert_eq!((output.as_str(), how), ("a\nb\n", Ended::Exited(0)));
    for path in [
        "/f",
        "/usr/f",
        "/etc/f",
        "/etc/passwd",
        "/run/f",
        "/dev/f",
        "/proc/sys/kernel/hostname",
        "/bin/sh",
        "/var/f",
    ] {
        let (output, how) = sandbox.sh(&format!("echo x > {path}"));
        assert_ne!(how, Ended::Exited(0), "{path} was written: {output}");
    }
    assert!(sandbox.dir.path().join("home/f").exists());
}

#[test]
fn nothing_leaves_by_the_network() {
    let mut sandbox = Sandbox::new();
    let script = r#"
import socket, sys
def attempt(name, family, kind, proto, address):
    try:
        s = socket.socket(family, kind, proto)
        s.settimeout(2)
        s.connect(address)
        print("OPEN", name)
    except OSError as e:
        print("closed", name, e.errno)
attempt("tcp", socket.AF_INET, socket.SOCK_STREAM, 0, ("192.0.2.1", 80))
attempt("udp", socket.AF_INET, socket.SOCK_DGRAM, 0, ("192.0.2.1", 53))
attempt("tcp6", socket.AF_INET6, socket.SOCK_STREAM, 0, ("2001:db8::1", 80))
attempt("metadata", socket.AF_INET, socket.SOCK_STREAM, 0, ("169.254.169.254", 80))
attempt("raw", socket.AF_INET, socket.SOCK_RAW, 1, ("127.0.0.1", 0))
attempt("mptcp", socket.AF_INET, socket.SOCK_STREAM, 262, ("127.0.0.1", 3128))
attempt("packet", 17, socket.SOCK_RAW, 0, ("lo", 0))
attempt("vsock", 40, socket.SOCK_STREAM, 0, (2, 1))
s = socket.create_connection(("127.0.0.1", 3128), 5)
print("proxy port answers")
print(sorted(name for _, name in socket.if_nameindex()))
"#;
    let Some(output) = sandbox.python("nothing_leaves_by_the_network", script) else { return };
    assert!(!output.contains("OPEN"), "{output}");
    assert_eq!(output.matches("closed").count(), 8, "{output}");
    assert!(output.contains("proxy port answers"), "{output}");
    assert!(output.ends_with("['lo']\n"), "getifaddrs works and shows the loopback only: {output}");
}

#[test]
fn a_gateway_leaves_a_receipt_of_what_is_in_force() {
    let mut sandbox = Sandbox::new();
    let script = "echo out; echo err >&2; echo '{\"kind\":\"guard\"' >&3; exec sleep 1000";
    sandbox.spawn("g1", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", script], &[]);
    let text = loop {
        if let Event::Receipt { id, text } = sandbox.next_event()
            && id == "g1"
            && text.contains("guard")
        {
            break text;
        }
    };
    assert_eq!(Receipt::parse(text.as_bytes()), Err(ReceiptError::Malformed(2)), "half a guard line is none");
    let isolation =
        Receipt::parse(text.lines().next().map(|l| format!("{l}\n")).unwrap().as_bytes()).unwrap().isolation;
    let expected = sandbox.expected();
    assert_eq!(isolation.level.shortfalls(&expected), Vec::<String>::new());
    assert_eq!(isolation.level.landlock.abi, clawkeep_isolation::landlock_abi());
    let (reply, _) = sandbox.ask(Order::KillAll { spare_sessions: true }, &[]);
    assert!(matches!(reply, Reply::Killed { left: 0 }), "{reply:?}");
    assert_eq!(sandbox.ended("g1"), Ended::Signalled(9));
    assert_eq!(sandbox.log(), "out\nerr\n");
}

#[test]
fn a_program_that_is_not_there_is_told_on_the_receipt() {
    let mut sandbox = Sandbox::new();
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/no/such/program"], &[]);
    assert_eq!(sandbox.ended("g"), Ended::Exited(127));
    let (Reply::Hello { children, .. }, _) = sandbox.ask(Order::Hello, &[]) else { panic!() };
    let error = Receipt::parse(children[0].receipt.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the launch failed at execve /no/such/program: No such file or directory (os error 2)"
    );
}

#[test]
fn killing_spares_open_shells_and_takes_orphans() {
    let mut sandbox = Sandbox::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    sandbox.spawn("shell", Kind::Session, Stdio::Given, &["/bin/sleep", "1000"], &fds);
    let script = "for i in 1 2 3; do (trap '' TERM HUP; setsid sleep 1000 &) ; done; sleep 1000";
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", script], &[]);
    // The shell, the gateway's shell and sleep, three orphans.
    let count = |sandbox: &mut Sandbox| {
        let (output, _) = sandbox.sh("cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$'");
        output.trim().parse::<u32>().unwrap()
    };
    while count(&mut sandbox) < 5 {}
    let (reply, _) = sandbox.ask(Order::KillAll { spare_sessions: true }, &[]);
    assert!(matches!(reply, Reply::Killed { left: 0 }), "{reply:?}");
    assert_eq!(count(&mut sandbox), 1);
    let (reply, _) = sandbox.ask(Order::KillAll { spare_sessions: false }, &[]);
    assert!(matches!(reply, Reply::Killed { left: 0 }), "{reply:?}");
    assert_eq!(count(&mut sandbox), 0);
}

#[test]
fn init_is_found_again_and_knows_its_children() {
    let mut sandbox = Sandbox::new();
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sleep", "1000"], &[]);
    let run = sandbox.dir.path().join("run");
    let again = find(&run).unwrap().expect("still serves");
    assert_eq!(again.pid, sandbox.handle.pid);
    sandbox.handle = again;
    let (Reply::Hello { children, listeners, datagrams, .. }, fds) = sandbox.ask(Order::Hello, &[]) else {
        panic!()
    };
    assert_eq!((children.len(), children[0].id.as_str(), children[0].ended), (1, "g", None));
    assert_eq!((listeners.as_slice(), datagrams.as_slice()), ([3128, 53].as_slice(), [53].as_slice()));
    assert_eq!(fds.len(), 4, "the root, the listeners and the datagram socket");
}

#[test]
fn a_terminal_is_the_sandboxs_own() {
    let mut sandbox = Sandbox::new();
    let fds = sandbox.spawn(
        "t",
        Kind::Session,
        Stdio::Terminal { rows: 33, columns: 77 },
        &["/bin/sh", "-c", "tty; stty size; test -t 0 && : < /dev/tty && echo controlling"],
        &[],
    );
    assert_eq!(sandbox.ended("t"), Ended::Exited(0));
    let mut output = [0_u8; 4096];
    let read = rustix::io::read(&fds[1], &mut output).unwrap();
    let output = String::from_utf8_lossy(&output[..read]).replace('\r', "");
    assert!(output.starts_with("/dev/pts/0\n33 77\n"), "{output}");
}

#[test]
fn a_sandbox_dies_whole_and_leaves_nothing() {
    let mark = format!("9876{}", std::process::id());
    let alive = |mark: &str| {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line == format!("/bin/sleep\0{mark}\0").as_bytes())
        })
    };
    let mut sandbox = Sandbox::new();
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sleep", &mark], &[]);
    let minute = std::time::Duration::from_secs(60);
    testkit::wait_until(minute, "the gateway to run", || alive(&mark).then_some(()));
    let run = sandbox.dir.path().join("run");
    drop(sandbox);
    assert!(!run.exists());
    testkit::wait_until(minute, "the gateway to be gone", || (!alive(&mark)).then_some(()));
}

#[test]
fn a_setup_that_fails_says_where_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = support::spec(dir.path(), IdMap::for_current_user(7));
    spec.mounts.push(clawkeep_isolation::read_only("/no/such/dir", "/opt/x"));
    let run = dir.path().join("run");
    let program = support::program();
    let error = create(program, &run, &spec).unwrap_err().to_string();
    assert_eq!(
        error,
        "the sandbox could not be set up: look at /no/such/dir: No such file or directory (os error 2)"
    );
    assert!(find(&run).unwrap().is_none());
}

#[test]
fn an_unreachable_sandbox_is_ended_before_a_second_one_is_made() {
    let sandbox = Sandbox::new();
    let run = sandbox.dir.path().join("run");
    // As if its name had been lost.
    std::fs::remove_file(run.join("init.sock")).unwrap();
    assert!(find(&run).unwrap().is_none());
    let program = support::program();
    let spec = support::spec(sandbox.dir.path(), IdMap::for_current_user(7));
    create(program, &run, &spec).unwrap();
    let second = find(&run).unwrap().expect("the new one serves");
    assert_ne!(second.pid, sandbox.handle.pid);
    assert_eq!(
        clawkeep_isolation::start_time(sandbox.handle.pid).filter(|_| is_alive(sandbox.handle.pid)),
        None
    );
    clawkeep_isolation::destroy(&second).unwrap();
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn counts_that_are_shared_with_the_host_cannot_be_used_up() {
    let mut sandbox = Sandbox::new();
    let script = r#"
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
n = 0
while libc.inotify_init1(0) >= 0:
    n += 1
print("inotify", n <= 32)
limits = (ctypes.c_ulong * 2)(8, 8)
print("prlimit of init", libc.prlimit(1, 7, limits, None), ctypes.get_errno())
print("own prlimit", libc.prlimit(0, 7, limits, None))
print("processes", resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 4096)
"#;
    let Some(output) = sandbox.python("counts_that_are_shared_with_the_host_cannot_be_used_up", script)
    else {
        return;
    };
    assert_eq!(output, "inotify True\nprlimit of init -1 1\nown prlimit 0\nprocesses True\n");
}
