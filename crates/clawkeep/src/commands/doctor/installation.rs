//! What of this installation a sandbox needs besides: a place for its state, a way to get OpenClaw, a start at boot.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawkeep_agents::Npm;
use clawkeep_doctor::{Check, State};
use rustix::fs::{Access, StatVfs, StatVfsMountFlags};

use crate::commands::service;
use crate::host::Host;
use crate::problem::Problem;

/// What OpenClaw needs while it is being installed, in bytes.
const ROOM: u64 = 1_400_000_000;

/// No clock that is right shows an earlier time (2026-01-01, UTC).
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// All of it. Looks only.
pub fn checks(host: &Host) -> Vec<Check> {
    let service =
        service::check(host).unwrap_or_else(|problem| Check { state: State::Warn, ..of(problem, "service") });
    vec![state(host), openclaw(), service, clock(SystemTime::now())]
}

fn of(problem: Problem, id: &'static str) -> Check {
    Check { id, state: State::Fail, found: problem.failure.message, fix: problem.failure.next }
}

/// The state directory, or where it would be made.
fn state(host: &Host) -> Check {
    const ID: &str = "state";
    if let Err(problem) = host.names() {
        return of(problem, ID);
    }
    let root = host.root();
    let Some(there) = root.ancestors().find(|path| path.exists()) else {
        return Check::fail(
            ID,
            format!("{} cannot be looked at", root.display()),
            "export CLAWKEEP_HOME=/a/directory",
        );
    };
    match rustix::fs::statvfs(there) {
        Ok(disk) => on(root, there, &disk),
        Err(error) => {
            Check::fail(ID, format!("{}: {error}", there.display()), format!("ls -ld {}", there.display()))
        }
    }
}

fn on(root: &Path, there: &Path, disk: &StatVfs) -> Check {
    const ID: &str = "state";
    const ELSEWHERE: &str = "export CLAWKEEP_HOME=/a/directory/elsewhere";
    let name = root.display();
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let room = format!("{:.1} GB free", free as f64 / 1e9);
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Check::fail(ID, format!("{name} is on a read-only file system"), ELSEWHERE);
    }
    if rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Check::fail(ID, format!("no permission to write {}", there.display()), ELSEWHERE);
    }
    if disk.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        let found = format!(
            "{name} is on a file system from which nothing can be executed (noexec): OpenClaw's Node.js would not start"
        );
        return Check::warn(ID, found, ELSEWHERE);
    }
    // File systems without a fixed number of files say that there may be none.
    if disk.f_files > 0 && disk.f_favail < 100_000 {
        let found = format!("{name}: {} more files can be made, OpenClaw has about 60,000", disk.f_favail);
        return Check::warn(ID, found, format!("df -i {}", there.display()));
    }
    if free < ROOM {
        let found = format!("{name}: {room}, OpenClaw needs 1.4 GB while it is installed");
        return Check::warn(ID, found, format!("df -h {}", there.display()));
    }
    Check::ok(ID, format!("{name}: {room}"))
}

/// npm, which fetches OpenClaw and the Node.js that it runs on.
fn openclaw() -> Check {
    const ID: &str = "openclaw";
    match Npm::on_path() {
        Ok(_) => Check::ok(ID, "npm is there to install it"),
        Err(error) => Check::warn(ID, error.to_string(), error.next_step()),
    }
}

/// Certificates are judged by the clock.
fn clock(now: SystemTime) -> Check {
    const ID: &str = "clock";
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since >= EPOCH => Check::ok(ID, "plausible"),
        _ => Check::warn(
            ID,
            "before 2026: no provider's certificate is valid yet",
            "sudo timedatectl set-ntp true",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> StatVfs {
        StatVfs {
            f_bsize: 4096,
            f_frsize: 4096,
            f_blocks: 10_000_000,
            f_bfree: 10_000_000,
            f_bavail: 10_000_000,
            f_files: 10_000_000,
            f_ffree: 9_000_000,
            f_favail: 9_000_000,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::empty(),
            f_namemax: 255,
        }
    }

    #[test]
    fn a_disk_that_does_not_do_is_told_with_its_reason() {
        let there = std::env::temp_dir();
        let judged = |change: fn(&mut StatVfs)| {
            let mut disk = disk();
            change(&mut disk);
            let check = on(Path::new("/h"), &there, &disk);
            format!("{:?} {}\n", check.state, check.found)
        };
        let all = [
            judged(|_| ()),
            judged(|disk| disk.f_bavail = 1000),
            judged(|disk| disk.f_favail = 10),
            judged(|disk| (disk.f_files, disk.f_favail) = (0, 0)),
            judged(|disk| disk.f_flag = StatVfsMountFlags::NOEXEC),
            judged(|disk| disk.f_flag = StatVfsMountFlags::RDONLY),
        ];
        insta::assert_snapshot!(all.concat(), @r"
        Ok /h: 41.0 GB free
        Warn /h: 0.0 GB free, OpenClaw needs 1.4 GB while it is installed
        Warn /h: 10 more files can be made, OpenClaw has about 60,000
        Ok /h: 41.0 GB free
        Warn /h is on a file system from which nothing can be executed (noexec): OpenClaw's Node.js would not start
        Fail /h is on a read-only file system
        ");
        assert_eq!(on(Path::new("/h"), Path::new("/no/such/place"), &disk()).state, State::Fail);
    }

    #[test]
    fn a_clock_that_was_never_set_is_told() {
        assert_eq!(clock(UNIX_EPOCH).state, State::Warn);
        assert_eq!(clock(UNIX_EPOCH - Duration::from_secs(1)).state, State::Warn);
        assert_eq!(clock(UNIX_EPOCH + EPOCH).state, State::Ok);
    }
}
