//! The lower tier: no namespaces, and the host's own network, processes and files around the agent.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::Duration;

use clawkeep_isolation::proto::{Ended, Kind, Order, Reply, Stdio};
use clawkeep_plan::{NAMESPACES, Tier};
use support::Sandbox;
use testkit::{Outcome, Reexec, free_port, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// The tier needs scopes for signals and abstract sockets.
fn can_be_had(test: &str) -> bool {
    let found = clawkeep_isolation::landlock_abi() >= 6;
    if !found {
        eprintln!("SKIPPED: {test} needs Landlock ABI 6");
    }
    found
}

/// A process of the host's, of the user that this test runs as.
fn stranger() -> Child {
    Command::new("sleep").arg("1000").env("SECRET", "environment").spawn().unwrap()
}

/// All that is tried from inside, each with its outcome: an error number's name, or what it came to.
const ATTEMPTS: &str = r#"
import ctypes, errno, os, resource, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
outside, pid, port, proxy, own = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:6])
def attempt(name, do):
    try:
        print(name, do() or "done")
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno))
def refused(name, do):
    """By whom depends on whose it is."""
    try:
        print(name, do() or "done")
    except OSError as error:
        print(name, "refused" if error.errno in (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EOPNOTSUPP) else error)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def tcp(*to):
    with socket.socket() as s:
        s.settimeout(30)
        s.connect(to)
def serve():
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", own)); server.listen()
        client.connect(("127.0.0.1", own))
        client.sendall(b"own"); return server.accept()[0].recv(3).decode()
def free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0)); server.listen()
def pair(kind):
    a, b = socket.socketpair(socket.AF_UNIX, kind); a.sendall(b"x"); b.recv(1)
def option(level, name, value):
    with socket.socket() as s: s.setsockopt(level, name, value)
def fast_open(send):
    with socket.socket() as s: send(s)
attempt("proxy", lambda: tcp("127.0.0.1", proxy))
attempt("serve", serve)
attempt("bind-free", free)
attempt("bind-other", lambda: socket.socket().bind(("127.0.0.1", port)))
attempt("other-port", lambda: tcp("127.0.0.1", port))
attempt("dns-tcp", lambda: tcp("192.0.2.1", 53))
attempt("fastopen-sendto", lambda: fast_open(lambda s: s.sendto(b"x", 0x20000000, ("127.0.0.1", port))))
attempt("fastopen-sendmsg", lambda: fast_open(lambda s: s.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port))))
attempt("fastopen-connect", lambda: option(socket.IPPROTO_TCP, 30, 1))
attempt("ulp", lambda: option(socket.IPPROTO_TCP, 31, b"smc"))
attempt("nodelay", lambda: option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
attempt("leave-loopback", lambda: option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"\0"))
attempt("leave-by-index", lambda: option(socket.SOL_SOCKET, 62, 0))
for name, family, kind, protocol in [
    ("udp", 2, 2, 0), ("icmp", 2, 2, 1), ("raw", 2, 3, 6), ("mptcp", 2, 1, 262), ("tcp6", 10, 1, 0),
    ("unix", 1, 1, 0), ("netlink", 16, 3, 0), ("packet", 17, 3, 0), ("vsock", 40, 1, 0),
]:
    attempt(name, lambda: socket.socket(family, kind, protocol) and None)
attempt("pair", lambda: pair(socket.SOCK_STREAM))
attempt("pair-datagram", lambda: pair(socket.SOCK_DGRAM))
attempt("read-outside", lambda: open(outside).read())
attempt("write-outside", lambda: open(outside, "a") and None)
attempt("create-outside", lambda: open(outside + ".new", "w") and None)
refused("link-outside", lambda: os.link(outside, "/proc/self/cwd/linked"))
refused("link-by-handle", lambda: os.link("/proc/self/fd/%d" % os.open(outside, os.O_PATH), "l", follow_symlinks=True))
attempt("unlink-outside", lambda: os.unlink(outside))
attempt("list-root", lambda: os.listdir("/") and None)
attempt("list-outside", lambda: os.listdir(os.path.dirname(outside)) and None)
attempt("chmod-outside", lambda: os.chmod(outside, 0o666))
attempt("times-outside", lambda: os.utime(outside, (1, 1)))
refused("attribute-outside", lambda: os.setxattr(outside, "user.x", b"x"))
attempt("chmod-own", lambda: open("mode", "w").close() or os.chmod("mode", 0o750) or oct(os.stat("mode").st_mode))
attempt("fchmod-own", lambda: os.chmod(os.open("mode", os.O_RDONLY), 0o640) or oct(os.stat("mode").st_mode))
attempt("chmod-at", lambda: os.chmod("mode", 0o600, dir_fd=os.open(".", os.O_RDONLY)) or oct(os.stat("mode").st_mode))
attempt("times-own", lambda: os.utime("mode", (1, 2)) or os.stat("mode").st_mtime)
attempt("times-now", lambda: os.utime("mode") or os.stat("mode").st_mtime > 2)
attempt("times-open", lambda: os.utime(os.open("mode", os.O_RDONLY), (3, 4)) or os.stat("mode").st_mtime)
attempt("chmod-none", lambda: os.chmod("missing", 0o600))
attempt("owner-own", lambda: os.chown("mode", os.getuid(), -1))
attempt("owner-other", lambda: os.chown("mode", 1, -1))
attempt("owner-outside", lambda: os.chown(outside, -1, 1))
attempt("copy", lambda: os.system("cp -p mode copy && cp -a mode again") and "failed")
attempt("chmod-link", lambda: os.symlink(outside, "link") or os.chmod("link", 0o666))
attempt("chmod-up", lambda: os.chmod("../secret", 0o666))
attempt("chmod-nowhere", lambda: call(90, ctypes.c_void_p(8), 0o600))
attempt("chmod-endless", lambda: call(90, b"a" * 5000, 0o600))
attempt("chmod-nothing", lambda: call(90, b"", 0o600))
attempt("fchmod-closed", lambda: call(91, 999, 0o600))
attempt("signal", lambda: os.kill(pid, signal.SIGKILL))
attempt("environment", lambda: open(f"/proc/{pid}/environ").read())
attempt("memory", lambda: open(f"/proc/{pid}/mem", "rb") and None)
attempt("descriptors", lambda: os.readlink(f"/proc/{pid}/fd/0"))
attempt("root-of", lambda: os.listdir(f"/proc/{pid}/root") and None)
attempt("ptrace", lambda: call(101, 16, pid, 0, 0))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 5))
attempt("affinity", lambda: os.sched_setaffinity(pid, {0}))
attempt("limits-of", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, 10)) and None)
attempt("mark", lambda: call(160, 10, ctypes.byref((ctypes.c_ulong * 2)(1, 1))))
attempt("mark-64", lambda: call(302, 0, 10, ctypes.byref((ctypes.c_ulong * 2)(1, 1)), 0))
attempt("shared-memory", lambda: call(29, 0, 4096, 0o1600))
attempt("terminal", lambda: open("/dev/ptmx") and None)
attempt("shm", lambda: open("/dev/shm/x", "w") and None)
attempt("home", lambda: open("file", "w").write("x") and open("file").read())
attempt("passwd", lambda: open("/etc/passwd").read() and None)
attempt("shadow", lambda: open("/etc/shadow").read() and None)
attempt("own-environment", lambda: open("/proc/self/environ").read() and None)
attempt("meminfo", lambda: open("/proc/meminfo").read() and None)
"#;

const OUTCOMES: &str = "\
proxy done
serve own
bind-free done
bind-other EACCES
other-port EACCES
dns-tcp EACCES
fastopen-sendto EPERM
fastopen-sendmsg EPERM
fastopen-connect EPERM
ulp EPERM
nodelay done
leave-loopback EPERM
leave-by-index EPERM
udp EPERM
icmp EPERM
raw EPERM
mptcp EPERM
tcp6 EAFNOSUPPORT
unix EPERM
netlink EPERM
packet EPERM
vsock EPERM
pair done
pair-datagram EPERM
read-outside EACCES
write-outside EACCES
create-outside EACCES
link-outside refused
link-by-handle refused
unlink-outside EACCES
list-root EACCES
list-outside EACCES
chmod-outside EPERM
times-outside EPERM
attribute-outside refused
chmod-own 0o100750
fchmod-own 0o100640
chmod-at 0o100600
times-own 2.0
times-now True
times-open 4.0
chmod-none ENOENT
owner-own done
owner-other EPERM
owner-outside EPERM
copy done
chmod-link EPERM
chmod-up EPERM
chmod-nowhere EFAULT
chmod-endless ENAMETOOLONG
chmod-nothing ENOENT
fchmod-closed EBADF
signal EPERM
environment EACCES
memory EACCES
descriptors EACCES
root-of EACCES
ptrace EPERM
priority EPERM
affinity EPERM
limits-of EPERM
mark EPERM
mark-64 EPERM
shared-memory EPERM
terminal EACCES
shm EACCES
home x
passwd done
shadow EACCES
own-environment done
meminfo done
";

fn holds(test: &str) {
    if !can_be_had(test) || !support::has_python(test) {
        return;
    }
    let own = free_port();
    let mut sandbox = Sandbox::beside(vec![own]);
    let level = sandbox.gateway_level();
    assert_eq!(level.shortfalls(&sandbox.expected()), Vec::<String>::new());
    assert_eq!((level.tier, level.caps.effective, level.no_new_privs), (Tier::Landlock, 0, true));
    assert_eq!((level.landlock.handled.net, level.landlock.handled.scopes), (3, 3));
    assert_eq!(level.namespaces.len(), NAMESPACES.len(), "the host's are told as well");

    let home = sandbox.dir.path().join("home").display().to_string();
    let outside = sandbox.dir.path().join("secret");
    std::fs::write(&outside, "secret").unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut stranger = stranger();
    let numbers = [
        stranger.id().to_string(),
        listener.local_addr().unwrap().port().to_string(),
        sandbox.spec.listeners[0].to_string(),
        own.to_string(),
    ];
    let [pid, port, proxy, own] = numbers.each_ref().map(String::as_str);
    let script = format!("cd {home} && exec /usr/bin/python3 -c '{ATTEMPTS}' \"$@\"");
    let outside_text = outside.display().to_string();
    let argv = ["/bin/sh", "-c", &script, "sh", &outside_text, pid, port, proxy, own];
    let (output, how) = sandbox.run(&argv);
    stranger.kill().unwrap();
    assert_eq!(stranger.wait().unwrap().code(), None);
    assert_eq!((output.as_str(), how), (OUTCOMES, Ended::Exited(0)));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret");
}

#[test]
fn an_ordinary_users_agent_reaches_its_proxy_and_its_own_and_nothing_of_the_hosts() {
    let test = "an_ordinary_users_agent_reaches_its_proxy_and_its_own_and_nothing_of_the_hosts";
    if Reexec::of(test).user(12_345).run() == Outcome::Inside {
        holds(test);
    }
}

#[test]
fn an_agent_of_roots_is_another_user_and_reaches_no_more() {
    let test = "an_agent_of_roots_is_another_user_and_reaches_no_more";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    holds(test);
}

#[test]
fn all_that_came_of_it_is_killed_whatever_it_did_to_get_away() {
    let test = "all_that_came_of_it_is_killed_whatever_it_did_to_get_away";
    if !can_be_had(test) {
        return;
    }
    let mut sandbox = Sandbox::beside(vec![]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    let away = "for i in 1 2 3; do (setsid setsid sh -c 'sleep 1000 & exec sleep 1000' &) ; done; \
        echo away; exec sleep 1000";
    sandbox.spawn("shell", Kind::Session, Stdio::Given, &["/bin/sleep", "1000"], &fds);
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", away], &[]);
    wait_until(LONG, "it to have got away", || sandbox.log().contains("away").then_some(()));
    let marked = |sandbox: &Sandbox| {
        let mark = std::fs::read_to_string(sandbox.dir.path().join("run/init.mark")).unwrap();
        let limits = |entry: std::fs::DirEntry| {
            let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            // One that has ended and that nobody has waited for yet is none.
            text("stat").filter(|stat| !stat.contains(") Z ")).and_then(|_| text("limits"))
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(limits);
        all.filter(|limits| limits.contains(&format!(" {} ", mark.split(' ').next().unwrap()))).count()
    };
    wait_until(LONG, "all of it to be there", || (marked(&sandbox) == 8).then_some(()));
    match sandbox.ask(Order::KillAll { spare_sessions: true }, &[]).0 {
        Reply::Killed { left: 0 } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(marked(&sandbox), 1, "the session is spared");
    let again = sandbox.sh("setsid setsid sleep 1000 >/dev/null 2>&1 & :");
    assert_eq!(again.1, Ended::Exited(0));
    clawkeep_isolation::destroy(&sandbox.handle).unwrap();
    assert_eq!(marked(&sandbox), 0);
}

#[test]
fn what_a_killed_init_left_behind_ends_before_there_is_another() {
    let test = "what_a_killed_init_left_behind_ends_before_there_is_another";
    if !can_be_had(test) {
        return;
    }
    let mut sandbox = Sandbox::beside(vec![]);
    let ready = sandbox.dir.path().join("home/ready");
    let (_, how) = sandbox.sh(&format!(
        "(setsid setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' >/dev/null 2>&1 &)",
        ready.display()
    ));
    assert_eq!(how, Ended::Exited(0));
    let pid = wait_until(LONG, "it to be there", || std::fs::read_to_string(&ready).ok());
    let there = || std::path::Path::new(&format!("/proc/{}", pid.trim())).exists();
    rustix::process::pidfd_send_signal(&sandbox.handle.pidfd, rustix::process::Signal::KILL).unwrap();
    let run = sandbox.dir.path().join("run");
    wait_until(LONG, "init to be gone", || clawkeep_isolation::find(&run).unwrap().is_none().then_some(()));
    assert!(there(), "nothing ends it by itself");
    sandbox.spec.listeners = vec![free_port()];
    clawkeep_isolation::create(support::program(), &run, &sandbox.spec).unwrap();
    let ended =
        || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| s.contains(") Z "));
    assert!(!there() || ended());
    sandbox.handle = clawkeep_isolation::find(&run).unwrap().unwrap();
    assert_eq!(sandbox.sh("echo well").0, "well\n");
}
