//! The program is a shell script that runs this test binary again, as the parent or as a fake daemon.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use testkit::wait_until;

use super::*;

const LONG: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    home: Home,
}

impl Lab {
    fn new(serve: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        let lab = Self { dir, home };
        lab.set(serve);
        lab
    }

    /// What the daemon does: shell commands; `serve` is the fake one.
    fn set(&self, serve: &str) {
        let test = |name: &str| {
            let binary = std::env::current_exe().unwrap();
            format!("exec '{}' --exact launch::tests::{name} --ignored --nocapture", binary.display())
        };
        let text = format!(
            "#!/bin/sh\nexport LAB='{}'\nenv > \"$LAB/env\"\npwd > \"$LAB/cwd\"\necho \"$*\" >> \"$LAB/calls\"\n\
             serve() {{ {}; }}\ncase \"$4\" in\n--parent) {};;\n*) echo $$ >> \"$LAB/daemons\"\n{serve}\n;;\nesac\n",
            self.dir.path().display(),
            test("helper_daemon"),
            test("helper_parent"),
        );
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Renamed into place, so that no fork of another test holds it open for writing.
        std::fs::rename(new, self.program()).unwrap();
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    fn ensure(&self) -> Result<Client, Failure> {
        ensure(&self.home, &self.program())
    }

    fn read(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn daemons(&self) -> Vec<i32> {
        self.read("daemons").iter().map(|pid| pid.parse().unwrap()).collect()
    }

    /// The parent's pid; taken from the newest daemon, which may have been adopted since.
    fn parent(&self) -> i32 {
        let daemon = *self.daemons().last().unwrap();
        testkit::processes::process(daemon).unwrap().parent
    }

    fn connected(&self) -> Client {
        wait_until(LONG, "the daemon's socket", || Client::connect(&self.home.socket()).unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.run().join(LOG)).unwrap_or_default()
    }
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn gone(pid: i32) {
    wait_until(LONG, "a process to be gone", || match testkit::processes::process(pid) {
        None => Some(()),
        // The test is nobody's parent but the first parent's, which it reaps only when it ends.
        Some(process) => (process.state == 'Z').then_some(()),
    });
}

#[test]
#[ignore = "a helper process of other tests"]
fn helper_parent() {
    let Some(lab) = std::env::var_os("LAB").map(PathBuf::from) else { return };
    let program = lab.join("program");
    let parent = Parent::prepare(&lab.join("home"), &program).unwrap();
    let status = parent.run().unwrap();
    std::process::exit(status.into());
}

#[test]
#[ignore = "a helper process of other tests"]
fn helper_daemon() {
    let Some(lab) = std::env::var_os("LAB").map(PathBuf::from) else { return };
    let home = Home::open(&lab.join("home")).unwrap();
    let Ok(_lock) = home.lock_daemon() else { std::process::exit(ALREADY_RUNNING.into()) };
    let _ = std::fs::remove_file(home.socket());
    let listener = UnixListener::bind(home.socket()).unwrap();
    loop {
        drop(listener.accept().unwrap());
    }
}

#[test]
fn many_callers_get_one_daemon_which_knows_nothing_of_them() {
    let left = testkit::Leftovers::before();
    let lab = Lab::new("serve");
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..6).map(|_| scope.spawn(|| lab.ensure().map(drop))).collect();
        for caller in callers {
            caller.join().unwrap().unwrap();
        }
    });
    let alive = |pid: &i32| testkit::processes::process(*pid).is_some_and(|process| process.state != 'Z');
    wait_until(LONG, "one daemon", || {
        (lab.daemons().iter().filter(|pid| alive(pid)).count() == 1).then_some(())
    });
    // One that is late would find the way free after the end of the first, and begin anew.
    wait_until(LONG, "the other callers' parents to give up", || {
        let all = testkit::processes::Processes::snapshot();
        let own = std::process::id().cast_signed();
        (all.children(own).filter(|process| process.state != 'Z').count() == 1).then_some(())
    });
    assert_eq!(lab.read("cwd"), ["/"]);
    let own = ["LAB", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in lab.read("env") {
        let name = line.split('=').next().unwrap();
        let set = MEMORY.iter().any(|(set, value)| line == format!("{set}={value}"));
        assert!(ENVIRONMENT.contains(&name) || own.contains(&name) || set, "{line}");
    }
    let parent = lab.parent();
    assert_eq!(rustix::process::getsid(Pid::from_raw(parent)).unwrap().as_raw_nonzero().get(), parent);
    let mode = std::fs::metadata(lab.home.run().join(LOG)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // A parent that was started beside it and has not looked yet would take its place.
    let me = std::process::id().cast_signed();
    wait_until(LONG, "one parent", || {
        let processes = testkit::Processes::snapshot();
        (processes.children(me).filter(|process| process.state != 'Z').count() == 1).then_some(())
    });
    // SIGTERM to the parent ends both.
    let daemon = *lab.daemons().iter().find(|pid| alive(pid)).unwrap();
    kill(parent, Signal::TERM);
    gone(daemon);
    gone(parent);
    let _ = reap(None);
    left.assert_none_new(LONG);
}

#[test]
fn a_killed_daemon_is_back_and_a_killed_pair_too() {
    let left = testkit::Leftovers::before();
    let lab = Lab::new("serve");
    lab.ensure().unwrap();
    let (first, parent) = (lab.daemons()[0], lab.parent());
    for deaths in 1..=2 {
        kill(*lab.daemons().last().unwrap(), Signal::KILL);
        wait_until(LONG, "the next daemon", || (lab.daemons().len() == deaths + 1).then_some(()));
        lab.connected();
    }
    assert!(testkit::processes::process(first).is_none(), "not reaped");
    assert!(lab.log().contains("the daemon ended by a signal"), "{}", lab.log());
    // A parent that dies takes nothing with it; the next caller finds the daemon.
    kill(parent, Signal::KILL);
    gone(parent);
    lab.ensure().unwrap();
    assert_eq!(lab.daemons().len(), 3);
    // And both.
    let orphan = lab.daemons()[2];
    kill(orphan, Signal::KILL);
    // Its threads close the socket a moment after its leader looks dead.
    wait_until(LONG, "the socket's end", || {
        Client::connect(&lab.home.socket()).unwrap().is_none().then_some(())
    });
    lab.ensure().unwrap();
    assert_eq!(lab.daemons().len(), 4);
    let parent = lab.parent();
    kill(parent, Signal::TERM);
    gone(parent);
    gone(lab.daemons()[3]);
    let _ = reap(None);
    left.assert_none_new(LONG);
}

#[test]
fn a_daemon_that_cannot_start_is_explained_and_nobody_goes_on_trying() {
    let left = testkit::Leftovers::before();
    let lab = Lab::new("echo 'no: \u{1b}[31mthe disk is full' >&2; exit 1");
    let failure = lab.ensure().unwrap_err();
    assert_eq!(failure.code, "daemon-start");
    assert!(failure.message.contains("no: [31mthe disk is full"), "{failure}");
    assert_eq!(lab.daemons().len(), 3);
    assert!(failure.next.unwrap().starts_with("tail "));
    // As soon as it can, it does.
    lab.set("serve");
    lab.ensure().unwrap();
    let parent = lab.parent();
    kill(parent, Signal::TERM);
    gone(parent);
    gone(*lab.daemons().last().unwrap());
    std::fs::remove_file(lab.program()).unwrap();
    let failure = lab.ensure().unwrap_err();
    assert!(failure.message.starts_with("cannot start "), "{failure}");
    let _ = reap(None);
    left.assert_none_new(LONG);
}

#[test]
fn an_ordered_end_is_the_end() {
    let left = testkit::Leftovers::before();
    let lab = Lab::new("echo ended; exit 0");
    let log = open_log(&lab.home.run()).unwrap();
    let mut parent = command(&lab.program(), lab.home.root(), "--parent", log).unwrap().spawn().unwrap();
    assert!(parent.wait().unwrap().success());
    assert_eq!(lab.daemons().len(), 1);
    left.assert_none_new(LONG);
}

#[test]
fn orphans_of_the_daemon_are_adopted_and_reaped() {
    let left = testkit::Leftovers::before();
    let lab = Lab::new("(cat \"$LAB/fifo\" > /dev/null & echo $! > \"$LAB/orphan\"); serve");
    let fifo = lab.dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    lab.ensure().unwrap();
    let orphan: i32 = lab.read("orphan")[0].parse().unwrap();
    let parent = lab.parent();
    assert_eq!(testkit::processes::process(orphan).unwrap().parent, parent);
    drop(File::options().write(true).open(&fifo).unwrap());
    wait_until(LONG, "the orphan's end", || testkit::processes::process(orphan).is_none().then_some(()));
    kill(parent, Signal::TERM);
    gone(parent);
    let _ = reap(None);
    left.assert_none_new(LONG);
}

#[test]
fn a_big_log_is_put_aside() {
    let lab = Lab::new("exit 0");
    let run = lab.home.run();
    open_log(&run).unwrap().set_len(MAX_LOG + 1).unwrap();
    open_log(&run).unwrap().write_all(b"new\n").unwrap();
    assert_eq!(lab.log(), "new\n");
    assert_eq!(std::fs::metadata(run.join("daemon.log.1")).unwrap().len(), MAX_LOG + 1);
    assert_eq!(last_lines(&run.join(LOG), 0), "new");
    assert_eq!(last_lines(&run.join(LOG), 99), "new");
    std::fs::remove_file(run.join(LOG)).unwrap();
    std::os::unix::fs::symlink("/dev/full", run.join(LOG)).unwrap();
    assert!(open_log(&run).is_err());
}
