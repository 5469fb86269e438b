//! The eyes of verification: each input of a plan, looked at afresh.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use clawkeep_guards::{Package, Publisher};
use clawkeep_isolation::{SandboxSpec, wrong_mounts};
use clawkeep_plan::{Digest, Fact, InputId, Inspect};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What identifies a file's content without reading it: any write changes the status-change time, which no
/// call can set (inode(7)).
type Identity = (u64, u64, u64, i64, i64, i64, i64);

/// Digests of large files by identity. Small, because only runtimes and entry points are pinned.
static KNOWN: Mutex<Option<HashMap<Identity, Digest>>> = Mutex::new(None);

/// Looks at one sandbox's inputs.
pub(crate) struct Inspector<'a> {
    /// The guards' mount, as it is inside.
    pub guards: BorrowedFd<'a>,
    /// The root directory, as it is inside.
    pub root: BorrowedFd<'a>,
    pub publisher: &'a Publisher,
    /// The owner that published files must have.
    pub owner: u32,
    /// Ports whose listeners init holds and the host side serves.
    pub listeners: &'a [u16],
    /// What the sandbox was made from.
    pub spec: &'a SandboxSpec,
}

impl Inspect for Inspector<'_> {
    fn inspect(&mut self, input: &InputId) -> Fact {
        match input {
            InputId::Guard(name) => Package::inspect_mounted(self.guards, name),
            InputId::Published(name) => self.publisher.inspect(name, self.owner),
            InputId::File(path) => pinned(self.root, path),
            InputId::Listener(port) if self.listeners.contains(port) => Fact::Present,
            InputId::Listener(_) => Fact::Missing,
            InputId::Mounts => match wrong_mounts(self.spec, self.root) {
                Ok(wrong) if wrong.is_empty() => Fact::Present,
                Ok(wrong) => Fact::Unfit(wrong.join(", ")),
                Err(error) => Fact::Unfit(error.to_string()),
            },
        }
    }
}

/// Open a path of the sandbox: below its root, through no link of any kind.
///
/// # Errors
/// Those of openat2(2).
pub fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = path.trim_start_matches('/');
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
}

fn pinned(root: BorrowedFd<'_>, path: &str) -> Fact {
    let unfit = |error: std::io::Error| Fact::Unfit(error.to_string());
    let file = match open_inside(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Fact::Missing,
        Err(error) => return unfit(error.into()),
    };
    let identity = |file: &File| -> std::io::Result<Option<Identity>> {
        let m = file.metadata()?;
        let identity = (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        Ok(m.is_file().then_some(identity))
    };
    let before = match identity(&file) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Fact::Unfit("is not a regular file".into()),
        Err(error) => return unfit(error),
    };
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = known().get_or_insert_default().get(&before) {
        return Fact::Bytes(*digest);
    }
    match (Digest::of_reader(&file), identity(&file)) {
        (Ok(digest), Ok(after)) => {
            // Remembered only if nobody wrote while it was read.
            if after == Some(before) {
                known().get_or_insert_default().insert(before, digest);
            }
            Fact::Bytes(digest)
        }
        (Err(error), _) | (_, Err(error)) => unfit(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_file_is_read_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let root = File::open(dir.path()).unwrap();
        let look = || pinned(std::os::fd::AsFd::as_fd(&root), "/node");
        std::fs::write(&path, "one").unwrap();
        assert_eq!(look(), Fact::Bytes(Digest::of(b"one")));
        assert_eq!(look(), Fact::Bytes(Digest::of(b"one")));
        // Same length, and its modification time put back: the status-change time tells.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(look(), Fact::Bytes(Digest::of(b"two")));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), Fact::Missing);
        std::os::unix::fs::symlink("/bin/true", &path).unwrap();
        assert!(matches!(look(), Fact::Unfit(_)));
    }
}
