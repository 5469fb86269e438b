//! A whole machine's boot in a second and a half: systemd as PID 1 in a container of systemd-nspawn(1), on the
//! host's /usr, with a root file system, a /run and a network of its own (loopback only). What survives a
//! power cut of the container is what is in its root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clawkeep_daemon::Client;
use clawkeep_daemon::api::{Request, SandboxStatus, Status, Value};
use rustix::process::Signal;
use testkit::processes::{Handle, Processes};
use testkit::{Leftovers, wait_until};

use crate::support::{LONG, PROGRAM};

/// Where the program is in the container, and the bundle with the fake gateway.
pub const INSIDE: &str = "/usr/local/bin/clawkeep";
pub const BUNDLE: &str = "/opt/fake";

/// The user's systemd needs a session's variables and nothing else.
const PAM: &str =
    "account required pam_permit.so\nsession required pam_permit.so\nsession optional pam_systemd.so\n";

/// The state directory of root in the container.
const STATE: &str = "var/lib/clawkeep";

pub struct Container {
    root: tempfile::TempDir,
    cgroups: Vec<PathBuf>,
    machine: Option<Machine>,
    leftovers: Option<Leftovers>,
}

struct Machine {
    nspawn: Child,
    /// The container's PID 1, seen from here.
    first: Handle,
}

impl Container {
    /// Not booted yet. `None`, said loudly, where this host cannot have one.
    pub fn new() -> Option<Self> {
        let why = if !rustix::process::geteuid().is_root() {
            Some("a container with a systemd of its own needs root")
        } else if !Command::new("systemd-nspawn")
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success())
        {
            Some("systemd-nspawn is not there: apt-get install systemd-container")
        } else {
            None
        };
        if let Some(why) = why {
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let leftovers = Leftovers::before();
        let root = tempfile::tempdir().unwrap();
        let container = Self { root, cgroups: cgroups(), machine: None, leftovers: Some(leftovers) };
        container.fill();
        Some(container)
    }

    /// Just enough of a root for systemd to come up: everything else it makes itself.
    fn fill(&self) {
        fs::set_permissions(self.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for dir in [
            "usr",
            "etc/systemd/system/clawkeep.service.d",
            "var/lib",
            "var/tmp",
            "root",
            "opt/fake",
            "opt/bin",
            "home/ann",
        ] {
            fs::create_dir_all(self.path(dir)).unwrap();
        }
        for top in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{top}"), self.path(top)).unwrap();
        }
        for (file, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"),
            ("etc/group", "root:x:0:\nann:x:1000:\n"),
            ("etc/machine-id", ""),
            ("etc/hostname", "boots\n"),
            ("etc/os-release", "ID=linux\n"),
        ] {
            fs::write(self.path(file), text).unwrap();
        }
        // A user's own systemd is started as a login is.
        fs::create_dir(self.path("etc/pam.d")).unwrap();
        fs::write(self.path("etc/pam.d/systemd-user"), PAM).unwrap();
        chown(self.path("home/ann"), Some(1000), Some(1000)).unwrap();
        fs::copy("/etc/ld.so.cache", self.path("etc/ld.so.cache")).unwrap();
        fs::copy(PROGRAM, self.path("opt/bin/clawkeep")).unwrap();
        fs::copy(testkit::fake::gateway(), self.path("opt/fake/fake-gateway")).unwrap();
    }

    /// A path of the container's, seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    /// The sandbox's home, seen from here.
    pub fn files(&self, sandbox: &str) -> PathBuf {
        self.path(STATE).join("sandboxes").join(sandbox).join("home")
    }

    /// Switch it on, and wait until its systemd takes orders.
    pub fn boot(&mut self) {
        assert!(self.machine.is_none(), "it runs already");
        // Into a group of its own first: nspawn makes its groups below the one that it is started in.
        let mut script = String::new();
        for group in &self.cgroups {
            fs::create_dir_all(group).unwrap();
            script += &format!("echo $$ > '{}/cgroup.procs'\n", group.display());
        }
        script += "exec systemd-nspawn \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-ec", &script, "sh", "--quiet", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--private-users=no", "--private-network", "--capability=all", "--console=read-only"]);
        command.args(["--link-journal=no", "--bind-ro=/usr", "--directory"]).arg(self.root.path());
        // /usr is the host's: the program is laid over an empty directory of it.
        let bin = self.path("opt/bin");
        command.arg(format!("--bind-ro={}:/usr/local/bin", bin.display()));
        let log = fs::File::create(self.path("nspawn.log")).unwrap();
        // Its system call filter refuses what our sandboxes are made with.
        command.env("SYSTEMD_SECCOMP", "0").env("SYSTEMD_NSPAWN_LOCK", "0");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut nspawn = command.spawn().unwrap();
        let pid = nspawn.id().cast_signed();
        let first = wait_until(LONG, "the container's systemd", || {
            if let Some(status) = nspawn.try_wait().unwrap() {
                panic!("nspawn ended ({status}): {}", self.log());
            }
            let child = Processes::snapshot().children(pid).find(|p| p.command == "systemd").cloned()?;
            let private = format!("/proc/{}/root/run/systemd/private", child.pid);
            fs::symlink_metadata(private).ok()?;
            Handle::of(child.pid)
        });
        self.machine = Some(Machine { nspawn, first });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("nspawn.log")).unwrap_or_default()
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("it is booted")
    }

    /// Run a command in it, as root, as if at its console.
    pub fn run(&self, argv: &[&str]) -> Output {
        let first = self.machine().first.process.pid.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &first, "--all", "--wd=/", "--"]).args(argv);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin").env("HOME", "/root");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same as the user ann.
    pub fn run_as_ann(&self, argv: &[&str]) -> Output {
        let ann = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "HOME=/home/ann"];
        self.run(&[&ann[..], &["XDG_RUNTIME_DIR=/run/user/1000"], argv].concat())
    }

    /// The same as root, which must succeed; what it printed.
    #[track_caller]
    pub fn must(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{argv:?}: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// As the operator would: an orderly reboot. Gives when everything has ended.
    pub fn shut_down_for_reboot(&mut self) {
        // The connection may be gone before it is answered.
        self.run(&["systemctl", "reboot"]);
        self.ended("the container to go down");
    }

    fn ended(&mut self, what: &str) {
        wait_until(LONG, what, || {
            self.machine.as_mut().and_then(|machine| machine.nspawn.try_wait().unwrap())
        });
        self.machine = None;
    }

    /// As a power cut: everything in it is gone in one moment, nothing is told.
    pub fn cut_power(&mut self) {
        let first = &self.machine().first;
        assert!(first.kill() && first.ends_within(LONG));
        self.ended("nspawn to end");
    }

    /// Ask the daemon over its socket: no command is run, nothing is started by it.
    pub fn ask(&self, request: &Request) -> Option<Value> {
        Client::connect(&self.path(STATE).join("run/daemon.sock")).unwrap()?.ask(request, |_| ()).ok()
    }

    /// What the daemon says, once there is one.
    pub fn daemon(&self) -> Status {
        wait_until(LONG, "a daemon in the container", || match self.ask(&Request::Status)? {
            Value::Status(status) => Some(*status),
            other => panic!("{other:?}"),
        })
    }

    /// The sandbox once it is ready and its receipt is in.
    pub fn ready(&self, sandbox: &str) -> SandboxStatus {
        wait_until(LONG, "the sandbox to be ready", || {
            let found = self.daemon().sandboxes.into_iter().find(|found| found.name.as_str() == sandbox)?;
            (found.phase == "ready" && found.receipt.is_some()).then_some(found)
        })
    }

    /// The daemon's processes, seen from here.
    pub fn daemons(&self) -> Vec<Handle> {
        let processes = Processes::snapshot();
        let ours = processes.descendants().filter(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            line.starts_with(format!("{INSIDE}\0daemon\0").as_bytes())
        });
        ours.filter_map(|process| Handle::of(process.pid)).collect()
    }
}

/// The groups of this host's hierarchies that systemd in a container makes groups in: v2's, and the one that
/// v1 has for systemd itself.
fn cgroups() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let name = format!("clawkeep-boot-{}", std::process::id());
    let all = [base.to_owned(), base.join("unified"), base.join("systemd")];
    all.into_iter().filter(|dir| dir.join("cgroup.procs").exists()).map(|dir| dir.join(&name)).collect()
}

fn remove_group(dir: &Path) -> bool {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in dirs {
        remove_group(&entry.path());
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if self.machine.is_some() {
                let journal = self.run(&["journalctl", "--no-pager", "-n", "60", "-u", "clawkeep"]);
                eprintln!("--- journal\n{}", String::from_utf8_lossy(&journal.stdout));
            }
            eprintln!("--- nspawn\n{}", self.log());
        }
        if let Some(mut machine) = self.machine.take() {
            machine.first.kill();
            machine.first.ends_within(LONG);
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&machine.nspawn),
                Signal::KILL,
            );
            let _ = machine.nspawn.wait();
        }
        for group in &self.cgroups {
            // Busy until its last process is buried.
            wait_until(LONG, "the container's control groups to be empty", || {
                remove_group(group).then_some(())
            });
        }
        if !std::thread::panicking() {
            self.leftovers.take().unwrap().assert_none_new(LONG);
        }
    }
}
