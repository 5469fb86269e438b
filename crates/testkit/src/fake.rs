//! The fake gateway from the outside: where its binary is, and what it reports about its launches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use clawkeep_plan::LoadedGuard;
use serde::{Deserialize, Serialize};

/// One start of the fake gateway: a line of its report file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Its pid, as it sees itself.
    pub pid: u32,
    /// Its start time, field 22 of its stat.
    pub start_time: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// When its own code began, on the host's CLOCK_MONOTONIC (clock_gettime(2)), in nanoseconds.
    pub began_ns: u64,
    /// Whether no other start of the same report lived then, in whatever sandbox: whether it got the exclusive
    /// lock (flock(2)) that each start holds for its life on the report's name with `.alive` for its ending.
    pub alone: bool,
    /// What it was called with.
    pub argv: Vec<String>,
    /// Its environment as it was given, before the guards took their variables out of it.
    pub env: BTreeMap<String, String>,
    /// Guards in the order in which they loaded.
    pub guards: Vec<LoadedGuard>,
    /// Whether every one of them was written to a receipt pipe.
    pub receipt: bool,
}

/// CLOCK_MONOTONIC (clock_gettime(2)) in nanoseconds, by which [`Launch::began_ns`] is told.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The launches in a report file, oldest first. No file: none. A last line without its end does not count.
///
/// # Panics
/// When the file cannot be read or holds a line that is no launch.
pub fn launches(report: &Path) -> Vec<Launch> {
    let text = match std::fs::read_to_string(report) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("cannot read {}: {error}", report.display()),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of the fake's report")).collect()
}

/// The newest launch in a report file, without a look at the others.
///
/// # Panics
/// As [`launches`].
pub fn last_launch(report: &Path) -> Option<Launch> {
    use std::os::unix::fs::FileExt as _;
    let file = match std::fs::File::open(report) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        file => file.expect("open the fake's report"),
    };
    let size = file.metadata().expect("the size of the fake's report").len();
    let from = size.saturating_sub(MAX_LINE);
    let mut tail = vec![0; usize::try_from(size - from).expect("at most MAX_LINE")];
    file.read_exact_at(&mut tail, from).expect("read the fake's report");
    let whole = &tail[..tail.iter().rposition(|byte| *byte == b'\n')?];
    let start = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    Some(serde_json::from_slice(&whole[start..]).expect("a line of the fake's report"))
}

/// More than a line of a report holds, in bytes.
const MAX_LINE: u64 = 256 * 1024;

/// The fake gateway's binary. Builds it where it is missing or older than its source: Cargo does not build
/// another package's binaries for a test.
///
/// # Panics
/// When it cannot be built.
pub fn gateway() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let profile = test.ancestors().find(|dir| dir.ends_with("deps")).and_then(Path::parent);
        let profile = profile.expect("a test lies in target/<profile>/deps").to_owned();
        let binary = profile.join("fake-gateway");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        if modified(&binary).is_none_or(|built| newest(&sources.join("src")) > built) {
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--package", "testkit", "--bin", "fake-gateway"]);
            build.arg("--manifest-path").arg(sources.join("Cargo.toml"));
            build.arg("--target-dir").arg(profile.parent().expect("a target directory"));
            if profile.ends_with("release") {
                build.arg("--release");
            }
            let status = build.status().expect("start cargo");
            assert!(status.success(), "cargo could not build fake-gateway: {status}");
        }
        binary
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).expect("read the sources").flatten();
    let times = entries.map(|entry| match entry.path() {
        path if path.is_dir() => newest(&path),
        path => modified(&path).unwrap_or(SystemTime::UNIX_EPOCH),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_lines_only() {
        let launch = Launch {
            pid: 7,
            start_time: 9,
            at_ms: 1,
            began_ns: 2,
            alone: true,
            argv: vec!["a".into()],
            env: BTreeMap::from([("A".into(), "b".into())]),
            guards: Vec::new(),
            receipt: false,
        };
        let line = serde_json::to_string(&launch).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        assert_eq!((launches(&path), last_launch(&path)), (vec![], None));
        std::fs::write(&path, &line[..9]).unwrap();
        assert_eq!((launches(&path), last_launch(&path)), (vec![], None));
        std::fs::write(&path, format!("{line}\n{}", &line[..9])).unwrap();
        assert_eq!(launches(&path), vec![launch.clone()]);
        assert_eq!(last_launch(&path), Some(launch.clone()));
        let second = Launch { pid: 8, ..launch };
        let next = serde_json::to_string(&second).unwrap();
        std::fs::write(&path, format!("{line}\n{next}\n")).unwrap();
        assert_eq!(last_launch(&path), Some(second));
    }

    #[test]
    fn builds_a_binary_that_needs_only_what_every_host_has() {
        let listed = Command::new("ldd").arg(gateway()).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        for line in listed.lines() {
            let known = ["linux-vdso", "libgcc_s.so.1", "libc.so.6", "/ld-linux"];
            assert!(known.iter().any(|known| line.contains(known)), "{line}");
        }
    }
}
