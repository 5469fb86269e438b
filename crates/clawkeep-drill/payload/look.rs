//! What can be seen from in here, which is evidence as good as any call.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use crate::report::Answer;
use crate::sys;

const O_NONBLOCK: i32 = 0o4000;

/// `none` where every set of capabilities is empty (proc_pid_status(5)), but for the bounding set, which gives none.
pub fn capabilities() -> Answer {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_set = |line: &&str| line.starts_with("Cap") && !line.starts_with("CapBnd");
    let sets: Vec<&str> = status.lines().filter(is_set).collect();
    let held: Vec<&str> = sets
        .iter()
        .copied()
        .filter(|line| {
            line.split_whitespace().nth(1).is_none_or(|set| set.bytes().any(|digit| digit != b'0'))
        })
        .collect();
    match (sets.len(), &held[..]) {
        (4, []) => Answer::word("none", ""),
        _ => Answer::word("ok", held.join(" ")),
    }
}

/// Whether a line of /proc/self/status has this value.
pub fn status(key: &str, wanted: &str) -> Answer {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    match found {
        Some(found) if found == wanted => Answer::word("as-it-should-be", found),
        found => Answer::word("ok", format!("{key} is {found:?}")),
    }
}

/// `none` where there is no supplementary group.
pub fn groups() -> Answer {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("Groups:")).map(str::trim) {
        Some("") => Answer::word("none", ""),
        found => Answer::word("ok", format!("{found:?}")),
    }
}

/// `sealed` where every mount is nosuid (proc_pid_mountinfo(5)).
pub fn mounts() -> Answer {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let loose = table.lines().find(|line| {
        line.split(' ').nth(5).is_none_or(|options| !options.split(',').any(|option| option == "nosuid"))
    });
    match loose {
        _ if table.is_empty() => Answer::word("error", "no mountinfo"),
        None => Answer::word("sealed", ""),
        Some(line) => Answer::word("ok", line.split(' ').nth(4).unwrap_or_default()),
    }
}

/// `only-stdio` where nothing but standard input, output and error is open.
pub fn descriptors() -> Answer {
    let ours = sys::OUTPUT.load(std::sync::atomic::Ordering::Relaxed);
    let open: Vec<String> = (3..4096)
        .filter(|fd| *fd != ours)
        .filter_map(|fd| Some((fd, fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)))
        .map(|(fd, target)| format!("{fd} is {}", target.display()))
        .collect();
    if open.is_empty() { Answer::word("only-stdio", "") } else { Answer::word("ok", open.join(", ")) }
}

/// Out of the root by `..` of a directory's descriptor: `same-root` where there is nothing above it.
pub fn climb() -> Answer {
    let key = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let above = "/".to_owned() + &"../".repeat(64);
    let by_descriptor = match File::open("/") {
        Ok(root) => key(&format!("/proc/self/fd/{}/../../..", std::os::fd::AsRawFd::as_raw_fd(&root))),
        Err(error) => Err(error),
    };
    match (key("/"), key(&above), by_descriptor, fs::read_link("/proc/self/cwd")) {
        (Ok(root), Ok(above), Ok(by), Ok(cwd)) if root == above && root == by && cwd.is_absolute() => {
            // A directory outside of the root is shown with this in front (proc_pid_cwd(5)).
            if cwd.starts_with("/(unreachable)") {
                return Answer::word("ok", "the working directory is outside");
            }
            Answer::word("same-root", "")
        }
        found => Answer::word("ok", format!("{found:?}")),
    }
}

/// Raise the limit of core files as far as it goes: `unchanged` where none can be written all the same.
pub fn core_limit() -> Answer {
    const RLIMIT_CORE: i64 = 4;
    let mut limits = [u64::MAX; 2];
    // SAFETY: two numbers are what the call reads.
    let raised = unsafe { sys::syscall(PRLIMIT64, [0, RLIMIT_CORE, limits.as_ptr() as i64, 0, 0, 0]) };
    // SAFETY: two numbers are what the call writes.
    let read = unsafe { sys::syscall(PRLIMIT64, [0, RLIMIT_CORE, 0, limits.as_mut_ptr() as i64, 0, 0]) };
    match (raised, read) {
        (_, Err(error)) => Answer::of(&error, "prlimit64"),
        // 1 byte holds no core, and keeps the kernel from starting a program to take it (core(5)).
        (_, Ok(_)) if limits[1] <= 1 => Answer::word("unchanged", ""),
        (Err(error), _) => Answer::of(&error, "prlimit64"),
        (Ok(_), _) => Answer::word("ok", format!("{} bytes", limits[1])),
    }
}

#[cfg(target_arch = "x86_64")]
const PRLIMIT64: i64 = 302;
#[cfg(not(target_arch = "x86_64"))]
const PRLIMIT64: i64 = 261;

/// Read some of a file: `ok` with its beginning, `empty`, or the error.
pub fn read(path: &str) -> Answer {
    let mut text = Vec::new();
    // What has nothing to say yet must not keep us waiting.
    let open = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    match open.and_then(|file| file.take(4096).read_to_end(&mut text)) {
        Err(error) => Answer::of(&error, path),
        Ok(0) => Answer::word("empty", path),
        Ok(_) => Answer::word("ok", String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned()),
    }
}

/// Open a file for writing, and write nothing.
pub fn write(path: &str) -> Answer {
    match File::options().write(true).custom_flags(O_NONBLOCK).open(path) {
        Ok(_) => Answer::word("ok", path),
        Err(error) => Answer::of(&error, path),
    }
}

/// The first process of the sandbox: the one among those that we come from which says so, else process 1.
pub fn init() -> i32 {
    let mut pid = std::process::id().cast_signed();
    while pid > 1 {
        pid = parent(pid).unwrap_or(1);
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "clawkeep-init") {
            return pid;
        }
    }
    1
}

/// Open this file of every other process of this user: `ok` where one can be.
pub fn siblings(file: &str) -> Answer {
    let mut refused = None;
    for pid in sibling_pids() {
        let path = format!("/proc/{pid}/{file}");
        match File::open(&path) {
            Ok(_) => return Answer::word("ok", path),
            // It has ended meanwhile (its directory may still be there: ESRCH).
            Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => {}
            Err(error) => refused = Some(Answer::of(&error, path)),
        }
    }
    refused.unwrap_or_else(|| Answer::word("absent", "no other process runs here"))
}

/// Processes of this user but the first one, us, and those that we come from.
pub fn sibling_pids() -> Vec<i32> {
    let mut ours = vec![1];
    let mut pid = std::process::id().cast_signed();
    while pid > 1 {
        ours.push(pid);
        pid = parent(pid).unwrap_or(1);
    }
    let Ok(us) = fs::metadata("/proc/self") else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| !ours.contains(pid))
        .filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == us.uid()))
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 4)?.parse().ok()
}

/// A field of a process's stat, counted as in proc_pid_stat(5), from the third on: the name may hold anything.
pub fn stat_field(pid: i32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3).map(str::to_owned)
}
