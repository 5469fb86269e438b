//! What happens to the state directory, to the program and to the agent's files under a running installation:
//! recovery depends on none of them more than it must.

mod support;

use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clawkeep_daemon::api::{Request, SandboxStatus, Value};
use clawkeep_store::Home;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::{Installation, LONG, kill9, name};
use testkit::{Outcome, Reexec, Seed, wait_until};

/// A file system for a home, in the private mount namespace of the inner run.
struct Disk {
    place: tempfile::TempDir,
    image: Option<tempfile::NamedTempFile>,
}

impl Disk {
    fn in_memory(size: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=0700")).unwrap();
        mount("clawkeep-test", place.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Self { place, image: None }
    }

    /// A real one that becomes read-only at the first error, as most roots do.
    fn ext4() -> Self {
        let place = tempfile::tempdir().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        let disk = Self { place, image: Some(image) };
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard"]).arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> &Path {
        self.image.as_ref().unwrap().path()
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(self.image()).arg(self.path()));
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Nothing fits on it any more.
    fn fill(&self) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        for block in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// An error of the disk itself: the kernel takes no write from then on, not even to open files.
    fn fail(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|line| Path::new(line[1]) == self.path()).unwrap();
        let device = line[0].strip_prefix("/dev/").unwrap();
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "clawkeep-test").unwrap();
        assert!(std::fs::write(self.path().join("x"), "").is_err());
    }

    /// What an operator does then: repair it and mount it again.
    fn repair(&self) {
        unmount(self.path(), UnmountFlags::empty()).unwrap();
        // 1: errors were corrected (e2fsck(8)).
        let status = Command::new("e2fsck").args(["-f", "-y"]).arg(self.image()).output().unwrap().status;
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn verified(status: &SandboxStatus) {
    assert!(status.guards.len() >= 2, "{status:?}");
    assert!(status.guards.iter().all(|guard| guard.state == "verified"), "{:?}", status.guards);
}

fn gateway(status: &SandboxStatus) -> i32 {
    status.gateway.as_ref().unwrap().pid
}

/// The first process of the sandbox that this gateway runs in.
fn init_of(installation: &Installation, status: &SandboxStatus) -> i32 {
    installation.parent_of(gateway(status) as u32)
}

/// Kill the daemon and wait for the next one.
fn next_daemon(installation: &Installation) {
    let before = installation.daemon().daemon.pid;
    kill9(before as i32);
    // Nobody but its parent starts it.
    wait_until(LONG, "the next daemon", || {
        let client = clawkeep_daemon::connect(installation.home.root()).ok().flatten();
        let answer = client.and_then(|mut client| client.ask(&Request::Status, |_| {}).ok());
        matches!(answer, Some(Value::Status(status)) if status.daemon.pid != before).then_some(())
    });
}

/// End the daemon and its parent; the agents go on.
fn no_daemon(installation: &Installation) {
    installation.ask(&Request::Shutdown).unwrap();
    wait_until(LONG, "the daemon to be gone", || installation.home.lock_daemon().ok().map(drop));
    let lock = installation.home.root().join("run/parent.lock");
    wait_until(LONG, "its parent to be gone", || {
        let file = std::fs::File::open(&lock).unwrap();
        file.try_lock().ok()
    });
}

#[test]
fn a_full_disk_stops_no_recovery() {
    if Reexec::of("a_full_disk_stops_no_recovery").private_mounts().run() != Outcome::Inside {
        return;
    }
    let disk = Disk::in_memory("24m");
    let installation = Installation::at(&disk.home());
    let first = installation.create_fake("box", &[]);
    verified(&first);
    disk.fill();

    kill9(gateway(&first));
    let second = installation.ready_after("box", 1);
    verified(&second);
    let troubles = installation.daemon().daemon.troubles.join("\n");
    assert!(troubles.contains("no space left"), "{troubles}");
    let told = installation.clawkeep(&["status"]);
    assert!(told.status.success());
    assert!(String::from_utf8_lossy(&told.stdout).contains("degraded   no space left"), "{told:?}");

    // The whole sandbox is made anew.
    kill9(init_of(&installation, &second));
    let third = installation.ready_after("box", 2);
    verified(&third);

    // The next daemon adopts it.
    next_daemon(&installation);
    let adopted = installation.ready("box");
    assert_eq!(gateway(&adopted), gateway(&third));

    // And from nothing, as after a boot.
    let daemon = installation.daemon().daemon.pid;
    kill9(init_of(&installation, &adopted));
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    let cold = installation.ready("box");
    assert_ne!(gateway(&cold), gateway(&adopted));
    verified(&cold);

    // What cannot be written down is done and said; what makes room can be done.
    let refused = installation.ask(&Request::Stop { name: name("box") }).unwrap_err();
    assert_eq!(refused.code, "not-recorded", "{refused:?}");
    wait_until(LONG, "it to stop", || (installation.status("box").phase == "stopped").then_some(()));
    installation.ask(&Request::Start { name: name("box") }).unwrap();
    installation.ready("box");

    std::fs::remove_file(disk.filler()).unwrap();
    wait_until(LONG, "the disk to be well", || {
        // Something to write down.
        installation.ask(&Request::Recover { name: name("box") }).unwrap();
        installation.daemon().daemon.troubles.is_empty().then_some(())
    });
    let status = installation.ready("box");
    kill9(gateway(&status));
    installation.ready_after("box", status.gateway.unwrap().restarts + 1);
    assert!(installation.events("box").iter().any(|event| event.entry.kind == "launched"));
    disk.fill();
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    drop(installation);
}

#[test]
fn a_disk_that_becomes_read_only_stops_no_recovery() {
    if Reexec::of("a_disk_that_becomes_read_only_stops_no_recovery").private_mounts().run() != Outcome::Inside
    {
        return;
    }
    if !Path::new("/dev/loop-control").exists() || !Path::new("/sys/fs/ext4").exists() {
        eprintln!("SKIPPED: no loop devices, or no ext4");
        return;
    }
    let disk = Disk::ext4();
    let installation = Installation::at(&disk.home());
    let first = installation.create_fake("box", &[]);
    verified(&first);
    disk.fail();

    kill9(gateway(&first));
    let second = installation.ready_after("box", 1);
    verified(&second);
    let troubles = installation.daemon().daemon.troubles.join("\n");
    assert!(troubles.contains("read-only"), "{troubles}");

    // The next daemon serves from elsewhere, knows what should run, and adopts it.
    next_daemon(&installation);
    let adopted = installation.ready("box");
    assert_eq!(gateway(&adopted), gateway(&second));
    assert!(installation.daemon().daemon.troubles.len() > 1);
    // Its journal is in memory, and can be read all the same.
    let told = installation.clawkeep(&["events"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("degraded"), "{told:?}");
    assert!(installation.clawkeep(&["box", "why"]).status.success());
    kill9(gateway(&adopted));
    let third = installation.ready_after("box", 2);
    verified(&third);

    // After the repair everything is as it was, and can be changed again.
    no_daemon(&installation);
    kill9(init_of(&installation, &third));
    wait_until(LONG, "the disk to be free", || {
        unmount(disk.path(), UnmountFlags::empty()).is_ok().then(|| disk.mount())
    });
    disk.repair();
    verified(&installation.ready("box"));
    assert_eq!(installation.daemon().daemon.troubles, Vec::<String>::new());
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    let [_, elsewhere] = Home::sockets_of(installation.home.root());
    assert!(!elsewhere.parent().unwrap().exists(), "something was left below /run");
    no_daemon(&installation);
    drop(disk);
    drop(installation);
}

#[test]
fn a_newer_registry_is_refused_and_the_agents_go_on() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    no_daemon(&installation);
    // The user version is a big-endian word at byte 60 of the file (SQLite file format 1.3).
    let db = std::fs::OpenOptions::new().read(true).write(true).open(installation.home.db()).unwrap();
    let mut version = [0; 4];
    db.read_exact_at(&mut version, 60).unwrap();
    db.write_all_at(&9_u32.to_be_bytes(), 60).unwrap();
    let bytes = std::fs::read(installation.home.db()).unwrap();

    let refused = installation.ask(&Request::Status).unwrap_err();
    assert_eq!(refused.code, "registry-newer", "{refused:?}");
    assert!(
        refused.message.contains("written by a newer clawkeep (schema 9, this one knows 1)"),
        "{refused}"
    );
    assert_eq!(std::fs::read(installation.home.db()).unwrap(), bytes);
    assert!(testkit::processes::process(gateway(&before)).is_some(), "the gateway was ended");

    db.write_all_at(&version, 60).unwrap();
    assert_eq!(gateway(&installation.ready("box")), gateway(&before));
}

#[test]
fn a_damaged_registry_is_repaired_and_told() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    no_daemon(&installation);
    let mut bytes = std::fs::read(installation.home.db()).unwrap();
    // A record that is none any more; its pages are sound.
    let at = bytes.windows(9).position(|nine| nine == b"\"desired\"").unwrap();
    bytes[at] = b'x';
    std::fs::write(installation.home.db(), bytes).unwrap();

    let after = installation.ready("box");
    assert_eq!(gateway(&after), gateway(&before));
    let told = |kind: &str| installation.events_of_all().into_iter().find(|event| event.entry.kind == kind);
    let note = wait_until(LONG, "the note", || told("repaired"));
    assert!(note.entry.cause.contains("entered again from their record files: box"), "{note:?}");
    assert!(told("launched").is_some(), "the journal of before is lost");
}

#[test]
fn a_home_has_one_daemon_and_two_homes_know_nothing_of_each_other() {
    let one = Installation::new();
    let status = one.create_fake("box", &[]);
    let daemon = one.daemon().daemon.pid;
    let second = Command::new(support::PROGRAM)
        .args(["daemon", "--home"])
        .arg(one.home.root())
        .arg("--serve")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&format!("already running for this home (pid {daemon})")), "{said}");
    assert_eq!(one.daemon().daemon.pid, daemon);

    let two = Installation::new();
    let other = two.create_fake("box", &[]);
    assert_ne!(two.daemon().daemon.pid, daemon);
    kill9(gateway(&other));
    two.ready_after("box", 1);
    two.ask(&Request::Destroy { name: name("box") }).unwrap();
    assert_eq!(gateway(&one.status("box")), gateway(&status));
}

#[test]
fn the_programs_own_file_is_not_needed_any_more() {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("clawkeep");
    std::fs::copy(support::PROGRAM, &program).unwrap();
    let installation = Installation::of(&program);
    let first = installation.create_fake("box", &[]);
    std::fs::remove_file(&program).unwrap();

    kill9(init_of(&installation, &first));
    let second = installation.ready_after("box", 1);
    verified(&second);
    next_daemon(&installation);
    let adopted = installation.ready("box");
    assert_eq!(gateway(&adopted), gateway(&second));
    // Of a daemon that was itself started without the file.
    kill9(init_of(&installation, &adopted));
    verified(&installation.ready_after("box", 2));

    // An upgrade: the next daemon is of the new file.
    std::fs::copy(support::PROGRAM, &program).unwrap();
    next_daemon(&installation);
    let pid = installation.daemon().daemon.pid;
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), program);
    assert_eq!(installation.ready("box").phase, "ready");
}

/// Rounds in which the daemon is killed at a system call of its own.
const KILLS: u64 = 16;

/// The calls with which it changes something.
const CALLS: [&str; 10] = [
    "mkdir",
    "openat",
    "fsync",
    "fdatasync",
    "pwrite64",
    "renameat",
    "rename",
    "unlinkat",
    "fchmod",
    "clone3",
];

#[test]
fn a_daemon_killed_in_a_creation_or_a_removal_leaves_nothing_half() {
    if !testkit::powercut::can_trace() {
        eprintln!("SKIPPED: strace(1) is missing or may not trace");
        return;
    }
    let mut rng = Seed::from_env_or_random().rng();
    let installation = Installation::new();
    let create = installation.fake("box", &[], true, Default::default());
    let mut died = 0;
    for round in 0..KILLS {
        let call = *rng.pick(&CALLS);
        let when = rng.within(1..8);
        no_daemon(&installation);
        let mut doomed = Command::new(support::PROGRAM)
            .args(["daemon", "--home"])
            .arg(installation.home.root())
            .arg("--serve")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut client = wait_until(LONG, "the daemon", || {
            clawkeep_daemon::connect(installation.home.root()).ok().flatten()
        });
        let mut tracer = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={when}"), "-p", &doomed.id().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(tracer.stderr.take().unwrap()).lines();
        let attached = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("attached")));
        assert!(attached.is_some(), "strace(1) did not attach");
        // It must not wait for us to read.
        let said = std::thread::spawn(move || said.count());
        let answer = client.ask(&create, |_| {});
        let created = answer.is_ok();
        let destroy = || {
            let mut client = clawkeep_daemon::connect(installation.home.root()).ok().flatten()?;
            client.ask(&Request::Destroy { name: name("box") }, |_| {}).ok()
        };
        let destroyed = created && destroy().is_some();
        died += u64::from(!destroyed);
        let what = format!("round {round}: {call} {when}, created {created}, destroyed {destroyed}");
        // It has its lock for as long as it lives; nothing else of it is needed.
        if let Some(mut client) = clawkeep_daemon::connect(installation.home.root()).ok().flatten() {
            let _ = client.ask(&Request::Shutdown, |_| {});
        }
        wait_until(LONG, &format!("{what}: the daemon to be gone"), || {
            installation.home.lock_daemon().ok().map(drop)
        });

        // What `onboard` does with what it finds.
        let found = installation.daemon().sandboxes;
        assert!(!destroyed || found.is_empty(), "{what}: {found:?}");
        if let Some(status) = found.first() {
            assert!(!status.onboarded, "{what}");
            installation
                .ask(&Request::Destroy { name: name("box") })
                .unwrap_or_else(|e| panic!("{what}: {e:?}"));
        }
        assert!(installation.daemon().sandboxes.is_empty(), "{what}");
        let left = || {
            let dirs = [installation.home.sandboxes(), installation.home.secrets()];
            let entries = dirs.into_iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
            // The mark of a sealed directory is nobody's.
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| !path.ends_with(".sealed"))
                .collect::<Vec<_>>()
        };
        let deadline = std::time::Instant::now() + LONG;
        while !left().is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "{what}: left behind: {:?} {}",
                left(),
                String::from_utf8_lossy(
                    &Command::new("find")
                        .arg(installation.home.sandboxes())
                        .args(["-ls"])
                        .output()
                        .unwrap()
                        .stdout
                )
            );
            testkit::pause(std::time::Duration::from_millis(20));
        }
        doomed.wait().unwrap();
        tracer.wait().unwrap();
        said.join().unwrap();
    }
    eprintln!("{died} of {KILLS} daemons died");
    assert!(died > 0);
    verified(&installation.create_fake("box", &[]));
}

#[test]
fn an_agent_whose_program_is_gone_waits_and_comes_back_with_it() {
    let installation = Installation::new();
    let first = installation.create_fake("box", &[]);
    let program = installation.fake_bundle().join("fake-gateway");
    let away = program.with_extension("away");
    std::fs::rename(&program, &away).unwrap();
    kill9(gateway(&first));
    wait_until(LONG, "the lack to be told", || {
        let status = installation.status("box");
        let incident = status.last_incident.map(|incident| incident.what).unwrap_or_default();
        let held = status.held.map(|held| held.reason).unwrap_or_default();
        let told = [incident, held].iter().any(|told| told.contains("fake-gateway"));
        (told && status.phase != "ready").then_some(())
    });
    std::fs::rename(&away, &program).unwrap();
    let status = installation.ready_after("box", 1);
    verified(&status);
}
