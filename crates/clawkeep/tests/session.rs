//! Sessions in a sandbox as a user has them: bytes, statuses, signals, a terminal, a daemon that dies meanwhile.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use support::{Installation, LONG, PROGRAM, kill9};
use testkit::wait_until;

fn installation() -> Installation {
    let installation = Installation::new();
    let made = installation.clawkeep(&[
        "onboard",
        "--non-interactive",
        "--name",
        "box",
        "--agent",
        "command",
        "--",
        "sleep",
        "100000",
    ]);
    assert!(made.status.success(), "{made:?}");
    installation
}

/// Started with pipes, and past its first line.
fn started(installation: &Installation, args: &[&str]) -> Child {
    let mut command = installation.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0_u8; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"started\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn bytes_and_statuses_pass_through_in_both_word_orders() {
    let installation = installation();
    let output = installation.clawkeep(&["box", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (output.stdout, output.stderr, output.status.code()),
        (b"out\n".to_vec(), b"err\n".to_vec(), Some(7))
    );
    let output = installation.clawkeep(&["exec", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
    let output = installation.clawkeep(&["exec", "box", "--", "no-such-program"]);
    assert_ne!(output.status.code(), Some(0));
    // A child of the command that holds the output open is not waited for.
    let output = installation.clawkeep(&["exec", "--", "sh", "-c", "sleep 1000 & echo done"]);
    assert_eq!((output.stdout, output.status.code()), (b"done\n".to_vec(), Some(0)));

    let bytes: Vec<u8> = (0..5_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let mut command = installation.command(&["box", "exec", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success() && output.stdout == bytes);

    // No descriptor of ours is inside: all three are pipes.
    let output = installation.clawkeep(&[
        "exec",
        "--",
        "sh",
        "-c",
        "ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("-> pipe:").count(), 3, "{text}");
    let mut shell = installation
        .command(&["box", "connect"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(b"id -u; exit 3\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!((output.stdout, output.status.code()), (b"998\n".to_vec(), Some(3)));
}

#[test]
fn a_signal_ends_the_command_inside_too() {
    let installation = installation();
    for (number, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child =
            started(&installation, &["box", "exec", "--", "sh", "-c", "echo started; exec sleep 4242"]);
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(status));
        wait_until(LONG, "the command's end", || {
            (installation.exec("box", "grep -l '42[4]2' /proc/[0-9]*/cmdline").1 != 0).then_some(())
        });
    }
}

#[test]
fn a_session_outlives_the_daemon_and_its_parent() {
    let installation = installation();
    for both in [false, true] {
        let mut child = started(
            &installation,
            &["box", "exec", "--", "sh", "-c", "echo started; read line; echo got $line; exit 4"],
        );
        let daemon = installation.daemon().daemon.pid.cast_signed();
        if both {
            kill9(installation.parent_of(daemon.cast_unsigned()));
        }
        kill9(daemon);
        wait_until(LONG, "another daemon", || {
            (installation.daemon().daemon.pid.cast_signed() != daemon).then_some(())
        });
        child.stdin.take().unwrap().write_all(b"this\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.stdout, output.status.code()), (b"got this\n".to_vec(), Some(4)));
    }
    // With the parent gone, the sandbox's dead are ours to bury, and until then they keep their namespaces.
    assert!(installation.clawkeep(&["box", "destroy", "--yes"]).status.success());
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

struct Tty {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: String,
}

impl Tty {
    fn new(installation: &Installation, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 31, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        // setsid(1) makes the terminal a controlling one, so that it can send signals.
        let fd = || Stdio::from(slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", PROGRAM])
            .args(args)
            .env("CLAWKEEP_HOME", installation.home.root())
            .env("TERM", "dumb")
            .stdin(fd())
            .stdout(fd())
            .stderr(fd())
            .spawn()
            .unwrap();
        Self { master: master.into(), slave, child, seen: String::new() }
    }

    /// Everything up to this, and what came with it.
    fn until(&mut self, what: &str) -> String {
        let mut block = [0_u8; 4096];
        while !self.seen.contains(what) {
            let read = self.master.read(&mut block).unwrap();
            self.seen += &String::from_utf8_lossy(&block[..read]);
        }
        std::mem::take(&mut self.seen)
    }

    fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(rustix::termios::LocalModes::ECHO)
    }
}

#[test]
fn a_shell_has_a_terminal_of_the_sandbox_and_ours_is_put_right() {
    let installation = installation();
    let mut tty = Tty::new(&installation, &["box", "connect"]);
    tty.until("$ ");
    assert!(tty.is_raw());
    tty.send("echo $(stty size) $TERM $(tty)\n");
    tty.until("31 101 dumb /dev/pts/");
    tcsetwinsize(&tty.slave, Winsize { ws_row: 44, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    tty.send("until [ \"$(stty size)\" = '44 111' ]; do :; done; echo re''sized\n");
    tty.until("resized");
    // Ctrl-C is the shell's, not ours.
    tty.send("sh -c 'trap \"echo inter\\\"\\\"rupted; exit\" INT; echo wai\"\"ting; while :; do sleep 0.1; done'\n");
    tty.until("waiting");
    tty.send("\u{3}");
    tty.until("interrupted");
    tty.send("exit 5\n");
    assert_eq!(tty.child.wait().unwrap().code(), Some(5));
    assert!(!tty.is_raw());

    let mut tty = Tty::new(&installation, &["box", "connect"]);
    tty.until("$ ");
    signal(&tty.child, Signal::TERM);
    assert_eq!(tty.child.wait().unwrap().code(), Some(143));
    assert!(!tty.is_raw());
}

#[test]
fn a_hidden_answer_is_not_shown_and_the_terminal_is_put_right_however_it_ends() {
    let installation = Installation::new();
    for (keys, status) in [("\u{3}", 130), ("\u{1c}", 131), ("\u{4}", 1), ("typed-4711\r", 0)] {
        let mut tty = Tty::new(&installation, &["credentials", "add", "T", "--host", "a.example"]);
        tty.until("(not shown)");
        wait_until(LONG, "what is typed to be hidden", || tty.is_raw().then_some(()));
        tty.send(keys);
        if status == 0 {
            let seen = tty.until("T is set");
            assert!(!seen.contains("4711"), "{seen}");
        }
        assert_eq!(tty.child.wait().unwrap().code(), Some(status), "{keys:?}");
        assert!(!tty.is_raw(), "{keys:?}");
    }
}

#[test]
fn every_command_does_what_it_says() {
    let installation = installation();
    let said = |args: &[&str], status: i32| {
        let output = installation.clawkeep(args);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        text
    };
    let pid = |installation: &Installation| installation.status("box").gateway.map(|gateway| gateway.pid);
    let first = pid(&installation);
    assert!(said(&["box"], 0).starts_with("box: ready, the default\n"));
    assert!(said(&["recover"], 0).contains("nothing to repair"));
    assert!(said(&["box", "connect", "--probe-only"], 0).contains("nothing to repair"));
    assert_eq!(pid(&installation), first);
    said(&["box", "gateway", "restart"], 0);
    assert_ne!(pid(&installation), first);
    assert!(said(&["box", "stop"], 0).contains("is stopped"));
    said(&["status"], 0);
    for args in [&["connect"][..], &["exec", "--", "true"], &["recover"], &["connect", "--probe-only"]] {
        assert!(said(args, 1).starts_with("error[stopped]: "));
    }
    said(&["start"], 0);
    let list: serde_json::Value = serde_json::from_str(&said(&["list", "--json"], 0)).unwrap();
    assert_eq!(
        (&list["schema"], &list["sandboxes"][0]["name"], &list["sandboxes"][0]["phase"]),
        (&1.into(), &"box".into(), &"ready".into())
    );
    assert!(said(&["other", "status"], 1).starts_with("error[no-such-sandbox]: "));
    assert!(said(&["other", "logs"], 1).contains("there is box"));
    assert!(said(&["destroy"], 2).starts_with("error[needs-yes]: "));
    said(&["destroy", "--yes"], 0);
    assert!(said(&["list"], 0).starts_with("no sandboxes"));
    assert!(!installation.files("box").exists());
}

/// An agent that says a line and never answers.
const DEAF: &[&str] = &[
    "onboard",
    "--non-interactive",
    "--name",
    "deaf",
    "--agent",
    "command",
    "--health-url",
    "tcp://127.0.0.1:9",
    "--",
];

fn deaf(installation: &Installation) -> Child {
    let args = [DEAF, &["sh", "-c", "printf 'hello\\033[2J\\n'; exec sleep 100000"]].concat();
    let child = installation.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(LONG, "the agent's first line", || installation.log("deaf").contains("hello").then_some(()));
    child
}

#[test]
fn a_cancelled_onboarding_leaves_nothing() {
    let installation = installation();
    for (number, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let child = deaf(&installation);
        assert_eq!(
            installation.clawkeep(&["status"]).status.code(),
            Some(1),
            "one that should run is not ready"
        );
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.starts_with("error[cancelled]: "), "{said}");
        assert!(!installation.home.sandboxes().join("deaf").exists());
        assert!(!installation.home.run().join("onboard-deaf.lock").exists());
        assert_eq!(installation.daemon().sandboxes.len(), 1);
    }
}

#[test]
fn a_killed_onboarding_is_started_over_and_a_finished_one_is_not_touched() {
    let installation = installation();
    let mut child = deaf(&installation);
    let again = [&DEAF[..6], &["--", "sleep", "100000"]].concat();
    let second = installation.clawkeep(&again);
    assert!(String::from_utf8_lossy(&second.stderr).starts_with("error[onboarding-runs]: "), "{second:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!installation.status("deaf").onboarded);
    let third = installation.clawkeep(&again);
    let said = String::from_utf8_lossy(&third.stdout).into_owned();
    assert!(
        third.status.success() && said.contains("starting over") && said.contains("back in"),
        "{third:?}"
    );
    let before = installation.status("deaf");
    let fourth = installation.clawkeep(&again);
    assert_eq!(fourth.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&fourth.stderr).starts_with("error[name-taken]: "));
    let fifth = installation
        .clawkeep(&[&again[..5], &["command", "--recreate-sandbox", "--", "sleep", "100000"]].concat());
    assert_eq!(fifth.status.code(), Some(2), "{fifth:?}");
    let after = installation.status("deaf");
    assert_eq!(after.gateway.map(|gateway| gateway.pid), before.gateway.map(|gateway| gateway.pid));
    let sixth = installation.command(&again).env("NEMOCLAW_RECREATE_SANDBOX", "1").output().unwrap();
    assert!(sixth.status.success(), "{sixth:?}");
    assert!(installation.status("deaf").onboarded);
}

#[test]
fn a_log_is_followed_and_its_bytes_are_kept_for_programs() {
    let installation = installation();
    let mut onboarding = deaf(&installation);
    let log = installation.clawkeep(&["deaf", "logs"]);
    assert!(log.stdout.ends_with(b"hello\x1b[2J\n"), "{log:?}");
    let since = installation.clawkeep(&["deaf", "logs", "--since", "5m"]);
    assert!(String::from_utf8_lossy(&since.stderr).starts_with("error[no-times]: "), "{since:?}");
    let mut follow = installation
        .command(&["deaf", "logs", "--follow", "--tail", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = vec![0_u8; 10];
    follow.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(seen, b"hello\x1b[2J\n");
    // Everything that it writes from now on: its next life begins with the same line.
    kill9(installation.status("deaf").gateway.unwrap().pid);
    let mut more = Vec::new();
    let mut byte = [0_u8];
    while !more.ends_with(b"hello\x1b[2J\n") {
        follow.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        more.push(byte[0]);
    }
    signal(&onboarding, Signal::INT);
    onboarding.wait().unwrap();
    signal(&follow, Signal::INT);
    assert_eq!(follow.wait().unwrap().code(), Some(130));
}
