use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::processes::{self, Processes};
use crate::wait_until;

/// How the names of our control groups begin.
const CGROUP_PREFIX: &str = "clawkeep";

/// How deep below /sys/fs/cgroup our control groups are looked for.
const CGROUP_DEPTH: usize = 8;

/// What there was before a test, to find afterwards what it left behind: processes, mounts, namespaces,
/// control groups. Each test needs a process of its own (nextest): what is found is told from other tests'
/// doings by descent from the calling process.
#[derive(Debug)]
pub struct Leftovers {
    processes: Processes,
    mounts: BTreeMap<String, String>,
    namespaces: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Look around. Call it before the test starts anything.
    ///
    /// # Panics
    /// When /proc cannot be read.
    pub fn before() -> Self {
        let processes = Processes::snapshot();
        Self { mounts: mounts(), namespaces: namespaces(&processes), cgroups: cgroups(), processes }
    }

    /// What is there now and was not before, one line each. Control groups count that are empty, or hold a
    /// process of ours; what another test's processes are in is not ours.
    ///
    /// # Panics
    /// When /proc cannot be read.
    pub fn new_ones(&self) -> Vec<String> {
        let mut found: Vec<String> =
            Processes::leaked_since(&self.processes).iter().map(ToString::to_string).collect();
        let now = Processes::snapshot();
        let mounts = mounts();
        let new = mounts.iter().filter(|(id, _)| !self.mounts.contains_key(*id));
        found.extend(new.map(|(id, what)| format!("mount {id} ({what})")));
        let namespaces = namespaces(&now);
        found.extend(namespaces.difference(&self.namespaces).map(|ns| format!("namespace {ns}")));
        let ours: BTreeSet<i32> = now.descendants().map(|process| process.pid).collect();
        for path in cgroups().difference(&self.cgroups) {
            let members = members(path);
            // Empty for a while: a sandbox of another test, whose gateway is not running.
            let idle = || members.is_empty() && init_holds(path);
            if members.iter().any(|pid| ours.contains(pid)) || members.is_empty() && !idle() {
                found.push(format!("control group {}", path.display()));
            }
        }
        found
    }

    /// Wait until nothing is left behind.
    ///
    /// # Panics
    /// When something still is after `within`; the message lists all of it.
    #[track_caller]
    pub fn assert_none_new(&self, within: Duration) {
        let started = std::time::Instant::now();
        let left = wait_until(within + Duration::from_secs(60), "a look at what is left behind", || {
            // The dead that came to us because whoever would have buried them was killed.
            while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {}
            let left = self.new_ones();
            (left.is_empty() || started.elapsed() >= within).then_some(left)
        });
        let list = left.iter().fold(String::new(), |mut list, what| {
            let _ = write!(list, "\n  {what}");
            list
        });
        assert!(left.is_empty(), "left behind after {within:?}:{list}");
    }
}

/// Mounts of our mount namespace by their id (proc_pid_mountinfo(5)), with their place and type.
fn mounts() -> BTreeMap<String, String> {
    let table = std::fs::read("/proc/self/mountinfo").expect("read mountinfo");
    let table = String::from_utf8_lossy(&table);
    let entry = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let id = fields.next()?.to_owned();
        let place = fields.nth(3)?;
        Some((id, format!("{} on {place}", after.split(' ').next()?)))
    };
    table.lines().filter_map(entry).collect()
}

fn namespaces(processes: &Processes) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    processes::namespaces_of(processes::own_pid(), &mut found);
    for process in processes.descendants() {
        processes::namespaces_of(process.pid, &mut found);
    }
    found
}

fn cgroups() -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(CGROUP_PREFIX) {
                found.insert(entry.path());
            }
            if depth > 0 {
                walk(&entry.path(), depth - 1, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH, &mut found);
    found
}

/// Whether some sandbox's init has a file of this group open: it is what the next process joins by.
fn init_holds(cgroup: &Path) -> bool {
    let Some(name) = cgroup.file_name().and_then(|name| name.to_str()) else { return false };
    let holds = |process: &Path| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm == "clawkeep-init\n")
            && std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|file| file.iter().any(|part| part == name))
            })
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| holds(&entry.path()))
}

/// The processes in a control group and in those below it.
fn members(cgroup: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()));
        }
    }
    pids
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_a_process_with_its_namespaces_and_sees_them_go() {
        let before = Leftovers::before();
        let mut child = Command::new("unshare")
            .args(["--user", "--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let found = wait_until(Duration::from_secs(20), "the child and its namespaces", || {
            if child.try_wait().unwrap().is_some() {
                return Some(Vec::new());
            }
            let found = before.new_ones();
            found.iter().any(|what| what.starts_with("namespace net:[")).then_some(found)
        });
        if found.is_empty() {
            eprintln!("SKIPPED: the part with namespaces needs `unshare --user --net`");
            return;
        }
        assert!(found.iter().any(|what| what.starts_with(&format!("process {}", child.id()))), "{found:?}");
        let panic = std::panic::catch_unwind(|| before.assert_none_new(Duration::ZERO)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("left behind after 0ns:\n  process "));
        drop(child.stdin.take());
        child.wait().unwrap();
        before.assert_none_new(Duration::from_secs(20));
    }

    #[test]
    fn finds_a_namespace_that_only_an_open_file_holds() {
        let before = Leftovers::before();
        let mut child =
            Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        let path = format!("/proc/{}/ns/user", child.id());
        let held = wait_until(Duration::from_secs(20), "a user namespace", || {
            if child.try_wait().unwrap().is_some() {
                return Some(None);
            }
            (std::fs::read_link(&path).ok()? != own).then(|| Some(std::fs::File::open(&path).unwrap()))
        });
        drop(child.stdin.take());
        child.wait().unwrap();
        let Some(held) = held else {
            eprintln!("SKIPPED: needs `unshare --user`");
            return;
        };
        let found = before.new_ones();
        assert!(matches!(&found[..], [one] if one.starts_with("namespace user:[")), "{found:?}");
        drop(held);
        before.assert_none_new(Duration::from_secs(20));
    }
    #[test]
    fn finds_an_empty_control_group() {
        let before = Leftovers::before();
        let name = format!("{CGROUP_PREFIX}-leftovers-test-{}", std::process::id());
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"];
        let made = places.map(|place| Path::new(place).join(&name)).into_iter().find(|path| {
            path.parent().is_some_and(|dir| dir.join("cgroup.procs").exists())
                && std::fs::create_dir(path).is_ok()
        });
        let Some(made) = made else {
            eprintln!("SKIPPED: needs the right to make a control group");
            return;
        };
        let found = before.new_ones();
        std::fs::remove_dir(&made).unwrap();
        assert!(found.contains(&format!("control group {}", made.display())), "{found:?}");
        before.assert_none_new(Duration::from_secs(20));
    }

    #[test]
    fn finds_a_mount() {
        let test = "leftovers::tests::finds_a_mount";
        if crate::Reexec::of(test).private_mounts().run() != crate::Outcome::Inside {
            return;
        }
        let before = Leftovers::before();
        let place = std::env::temp_dir();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("leftover", &place, "tmpfs", flags, None).unwrap();
        let found = before.new_ones();
        assert!(matches!(&found[..], [one] if one.contains("tmpfs on ")), "{found:?}");
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
        before.assert_none_new(Duration::from_secs(20));
    }
}
