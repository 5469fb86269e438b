use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

/// Held by the one host process of a home. The kernel releases it when the process is gone, however it went.
///
/// flock(2) locks belong to the open file: a child that was forked without exec keeps this one for as long as
/// it keeps the descriptor. It is close-on-exec, so a child that execs gives it up.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("a clawkeep daemon is already running for this home{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning {
        /// The pid that it wrote down, for people; it proves nothing.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl DaemonLock {
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = open_lock_file(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = Read::take(&file, 16).read_to_string(&mut text);
                return Err(LockError::AlreadyRunning { pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // For people only, so a full disk is no reason to refuse.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// Hold this lock file, waiting for it; released on drop.
pub(crate) fn wait_for(path: &Path) -> io::Result<File> {
    let file = open_lock_file(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| openat(CWD, path, flags, Mode::RUSR | Mode::WUSR);
    match open(flags | OFlags::RDWR | OFlags::CREATE) {
        // A lock needs no writing: one that is there can be taken on a read-only disk too.
        Err(rustix::io::Errno::ROFS) => Ok(open(flags | OFlags::RDONLY)?.into()),
        opened => Ok(opened?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Home;

    #[test]
    fn one_holder_a_home_and_free_again_after_it() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let lock = home.lock_daemon().unwrap();
        let error = home.lock_daemon().unwrap_err();
        assert!(
            matches!(error, LockError::AlreadyRunning { pid: Some(pid) } if pid == std::process::id()),
            "{error}"
        );
        let other = Home::open(&temp.path().join("other")).unwrap();
        let _other = other.lock_daemon().unwrap();
        drop(lock);
        home.lock_daemon().unwrap();
    }

    #[test]
    fn is_not_inherited_over_exec() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let lock = home.lock_daemon().unwrap();
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        drop(lock);
        let taken = home.lock_daemon();
        child.kill().unwrap();
        child.wait().unwrap();
        taken.unwrap();
    }
}
