//! What becomes of system calls that an agent may not make, for real: they fail, and init tells of each once.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use clawkeep_isolation::proto::{Ended, Event, Kind, Order, Reply, Stdio};
use clawkeep_isolation::{find, refused_call};
use clawkeep_plan::Receipt;
use support::Sandbox;

const MINUTE: Duration = Duration::from_secs(60);

/// `call(NUMBER, ...)` gives the name of the error, or `ok`.
const CALL: &str = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*[ctypes.c_long(argument) for argument in arguments])
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
"#;

/// The names of what was told, sorted.
fn told(sandbox: &mut Sandbox) -> Vec<&'static str> {
    sandbox.ask(Order::Hello, &[]);
    let mut names = Vec::new();
    while let Some(event) = sandbox.events.pop_front() {
        if let Event::Denied { call, .. } = event {
            names.push(refused_call(call).expect("it has a name"));
        }
    }
    names.sort_unstable();
    names
}

#[test]
fn refused_calls_fail_and_are_told_once_each_and_unknown_ones_are_not_told() {
    let mut sandbox = Sandbox::new();
    let (clone, io_uring, ptrace) = (libc::SYS_clone, libc::SYS_io_uring_setup, libc::SYS_ptrace);
    let (unshare, keyctl, mount) = (libc::SYS_unshare, libc::SYS_keyctl, libc::SYS_mount);
    let (clone3, getpid) = (libc::SYS_clone3, libc::SYS_getpid);
    let script = format!(
        r#"{CALL}
for round in range(3):
    print(call({io_uring}, 8, 0), call({ptrace}, 0), call({unshare}, 0x10000000), call({keyctl}, 0, -3, 0),
          call({mount}, 0, 0, 0, 0, 0), call({clone}, 0x10000000 | 17, 0, 0, 0, 0), call(467, -100, 0, 0, 0, 0),
          call({clone3}, 0, 0), call(457, 0), call(458, 0), call(470, 0), call({getpid}))
"#
    );
    let Some(output) = sandbox.python("refused_calls_fail_and_are_told_once_each", &script) else { return };
    let line = "EPERM EPERM EPERM EPERM EPERM EPERM EPERM ENOSYS ENOSYS ENOSYS ENOSYS ok\n";
    assert_eq!(output, line.repeat(3));
    let names = ["clone", "io_uring_setup", "keyctl", "mount", "open_tree_attr", "ptrace", "unshare"];
    assert_eq!(told(&mut sandbox), names);
    // Another process is told of for itself.
    let script = format!("{CALL}\nprint(call({ptrace}, 0))");
    assert_eq!(sandbox.python("", &script).as_deref(), Some("EPERM\n"));
    assert_eq!(told(&mut sandbox), ["ptrace"]);
}

#[test]
fn arguments_decide_and_what_programs_need_goes_on() {
    let mut sandbox = Sandbox::new();
    let (socket, prctl, ioctl) = (libc::SYS_socket, libc::SYS_prctl, libc::SYS_ioctl);
    let (personality, seccomp, setsockopt) = (libc::SYS_personality, libc::SYS_seccomp, libc::SYS_setsockopt);
    let script = format!(
        r#"{CALL}
import fcntl, pty, resource, socket as s, struct, termios
tcp = s.socket()
primary, secondary = pty.openpty()
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
libc.prctl(38, 1, 0, 0, 0)
print("sockets", call({socket}, 2, 3, 6), call({socket}, 2, 1, 132), call({socket}, 2, 5, 0), call({socket}, 2, 1, 262),
      call({socket}, 2, 2, 1), call({socket}, 17, 3, 0), call({socket}, 38, 5, 0), call({socket}, 40, 1, 0),
      call({socket}, 16, 3, 9), "|", call({socket}, 2, 1, 6), call({socket}, 10, 2 | 0o2000000, 0), call({socket}, 1, 5, 0),
      call({socket}, 16, 3, 0))
print("options", call({setsockopt}, tcp.fileno(), 1, 26, ctypes.addressof(program), 16), "|",
      call({setsockopt}, tcp.fileno(), 1, 9, ctypes.addressof(ctypes.c_int(1)), 4))
print("terminal", call({ioctl}, secondary, 0x5412, ctypes.addressof(allow)), call({ioctl}, secondary, 0x541c, 0),
      call({ioctl}, secondary, 0x5423, ctypes.addressof(ctypes.c_int(13))), call({ioctl}, secondary, 0x541d, 0), "|",
      os.isatty(secondary), termios.tcgetattr(secondary) is not None, call({ioctl}, secondary, 0x5421, ctypes.addressof(ctypes.c_int(0))))
print("prctl", call({prctl}, 35, 1, 0, 0, 0), call({prctl}, 28, 0, 0, 0, 0), "|", call({prctl}, 15, ctypes.addressof(allow), 0, 0, 0),
      call({prctl}, 4, 1, 0, 0, 0))
print("personality", call({personality}, 0x40000), "|", call({personality}, 0xffffffff))
print("filters", call({seccomp}, 1, 8, ctypes.addressof(program)), "|", call({seccomp}, 1, 0, ctypes.addressof(program)))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print("core", resource.getrlimit(resource.RLIMIT_CORE))
"#
    );
    let Some(output) = sandbox.python("arguments_decide_and_what_programs_need_goes_on", &script) else {
        return;
    };
    let wanted = "\
sockets EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM | ok ok ok ok
options EPERM | ok
terminal EPERM EPERM EPERM EPERM | True True ok
prctl EPERM EPERM | ok ok
personality EPERM | ok
filters EPERM | ok
core (1, 1)
";
    assert_eq!(output, wanted);
    assert_eq!(told(&mut sandbox), ["ioctl", "personality", "prctl", "seccomp", "setsockopt", "socket"]);
}

/// Machine code that makes a call by another door than the one that is watched, and the same by that one.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_doors_of_other_architectures_end_the_process() {
    let mut sandbox = Sandbox::new();
    let script = |code: &str| {
        format!(
            r"
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write({code})
print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() != 0, flush=True)
"
        )
    };
    // mov eax, getpid; syscall; ret
    let Some(output) = sandbox.python(
        "the_doors_of_other_architectures_end_the_process",
        &script(r"b'\xb8\x27\0\0\0\x0f\x05\xc3'"),
    ) else {
        return;
    };
    assert_eq!(output, "True\n");
    let mut run = |code| sandbox.run(&["/usr/bin/python3", "-c", &script(code)]);
    // The same with the bit of x32 in the number.
    assert_eq!(run(r"b'\xb8\x27\0\0\x40\x0f\x05\xc3'"), (String::new(), Ended::Signalled(libc::SIGSYS)));
    // mov eax, getpid of i386; int 0x80; ret. A kernel without that door faults instead.
    let (output, how) = run(r"b'\xb8\x14\0\0\0\xcd\x80\xc3'");
    assert!(matches!(how, Ended::Signalled(libc::SIGSYS | libc::SIGSEGV)), "{output}{how:?}");
    assert_eq!(output, "");
}

/// `processes` that make refused calls as fast as they get answers.
fn flood(sandbox: &mut Sandbox, processes: u32) {
    let ptrace = libc::SYS_ptrace;
    let script = format!(
        "{CALL}\nfor _ in range({processes} - 1):\n  if os.fork() == 0: break\nopen(f'/sandbox/{{os.getpid()}}', 'w')\nwhile True: call({ptrace}, 0)"
    );
    sandbox.spawn("flood", Kind::Gateway, Stdio::Log, &["/usr/bin/python3", "-c", &script], &[]);
    let home = sandbox.dir.path().join("home");
    testkit::wait_until(MINUTE, "the flood to begin", || {
        (std::fs::read_dir(&home).unwrap().count() as u32 >= processes).then_some(())
    });
}

#[test]
fn refused_calls_are_answered_at_a_bounded_rate() {
    let mut sandbox = Sandbox::new();
    let script = format!(
        r#"{CALL}
import time
began, calls = time.monotonic(), 0
while time.monotonic() < began + 2:
    call({}, 0)
    calls += 1
print(calls, int((time.monotonic() - began) * 1000))
"#,
        libc::SYS_ptrace
    );
    let Some(output) = sandbox.python("refused_calls_are_answered_at_a_bounded_rate", &script) else {
        return;
    };
    let (calls, ms) = output.trim().split_once(' ').unwrap();
    let (calls, ms) = (calls.parse::<u64>().unwrap(), ms.parse::<u64>().unwrap());
    // 256 at once, then 2 a millisecond.
    assert!((257..=256 + 2 * ms + 40).contains(&calls), "{calls} in {ms} ms");
}

#[test]
fn a_flood_of_refused_calls_costs_those_who_flood() {
    let mut sandbox = Sandbox::new();
    flood(&mut sandbox, 4);
    // It goes on serving, and a session's calls have their turn between those of the flood.
    let script = format!("{CALL}\nprint([call({}, 0) for _ in range(20)].count('EPERM'))", libc::SYS_unshare);
    for _ in 0..5 {
        assert_eq!(sandbox.python("", &script).as_deref(), Some("20\n"));
    }
    // They wait for answers, and die all the same.
    let (reply, _) = sandbox.ask(Order::KillAll { spare_sessions: false }, &[]);
    assert!(matches!(reply, Reply::Killed { left: 0 }), "{reply:?}");
    assert_eq!(told(&mut sandbox).into_iter().collect::<BTreeSet<_>>(), ["ptrace", "unshare"].into());
}

/// How many seccomp listeners init holds.
fn listeners(init: i32) -> Option<usize> {
    let links = std::fs::read_dir(format!("/proc/{init}/fd")).ok()?.flatten();
    let is_one = |link: std::path::PathBuf| link.to_string_lossy().contains("seccomp");
    Some(links.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(is_one)).count())
}

#[test]
fn a_listener_lasts_as_long_as_anything_that_it_is_for() {
    let mut sandbox = Sandbox::new();
    let init = sandbox.handle.pid;
    if listeners(init).is_none() {
        eprintln!(
            "SKIPPED: a_listener_lasts_as_long_as_anything_that_it_is_for must read init's descriptors (as root)"
        );
        return;
    }
    let unshare = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))";
    // What a session leaves behind is refused the same, and told of under the session's name.
    let script = format!(
        "(until [ -e /tmp/go ]; do sleep 0.05; done; python3 -c '{unshare}' > /tmp/said) > /dev/null 2>&1 &"
    );
    let (_, how) = sandbox.sh(&script);
    assert_eq!(how, Ended::Exited(0));
    testkit::wait_until(MINUTE, "one listener", || (listeners(init) == Some(1)).then_some(()));
    let (said, _) = sandbox.sh("touch /tmp/go; until [ -s /tmp/said ]; do sleep 0.05; done; cat /tmp/said");
    assert_eq!(said, "-1\n");
    assert_eq!(told(&mut sandbox), ["unshare"]);
    testkit::wait_until(MINUTE, "no listener", || (listeners(init) == Some(0)).then_some(()));
}

#[test]
fn a_later_daemon_learns_what_was_refused_before() {
    let mut sandbox = Sandbox::new();
    let script = "exec 2> /dev/null; unshare -n true; unshare -m true; exec sleep 1000";
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", script], &[]);
    while sandbox.denied("g").is_empty() {}
    sandbox.handle = find(&sandbox.dir.path().join("run")).unwrap().expect("still serves");
    let (Reply::Hello { children, .. }, _) = sandbox.ask(Order::Hello, &[]) else { panic!() };
    assert_eq!(children[0].denied, [libc::SYS_unshare]);
    let isolation = Receipt::parse(children[0].receipt.as_bytes()).unwrap().isolation;
    assert!(isolation.level.seccomp.recorded);
    assert_eq!(isolation.level.descriptors, [0, 1, 2, 3]);
}

#[test]
fn under_an_outer_listener_calls_are_refused_unrecorded_and_the_receipt_says_so() {
    if !support::has_python("under_an_outer_listener_calls_are_refused_unrecorded_and_the_receipt_says_so") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hold = dir.path().join("hold");
    rustix::fs::mknodat(rustix::fs::CWD, &hold, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // As a container engine can do it: the kernel has its one listener already, for as long as somebody holds it.
    let script = format!(
        r#"
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
libc.prctl(38, 1, 0, 0, 0)
assert libc.syscall({}, 1, 8, ctypes.byref(program)) >= 0
if os.fork() == 0:
    os.close(0)
    open("{}").read()
    os._exit(0)"#,
        libc::SYS_seccomp,
        hold.display()
    );
    let program = support::setup_after(dir.path(), &script);
    let mut sandbox = Sandbox::by(&program, dir, |_| {});
    let script = "exec 2>&1; unshare -n true; exec sleep 1000";
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", script], &[]);
    let isolation = testkit::wait_until(MINUTE, "the receipt", || {
        let (Reply::Hello { children, .. }, _) = sandbox.ask(Order::Hello, &[]) else { panic!() };
        Receipt::parse(children[0].receipt.as_bytes()).ok()
    })
    .isolation;
    assert!(!isolation.level.seccomp.recorded);
    testkit::wait_until(MINUTE, "the refusal", || {
        sandbox.log().contains("Operation not permitted").then_some(())
    });
    assert!(sandbox.denied("g").is_empty());
    drop(std::fs::File::options().write(true).open(sandbox.dir.path().join("hold")).unwrap());
}
