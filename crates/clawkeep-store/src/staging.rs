//! Directories that get their name when they are whole: put together beside their place by one installer at a
//! time, and renamed into it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = ".staging-";

/// How often a lock is tried that another installer has.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct StagingError {
    /// What was being done, as a word before the path.
    pub what: &'static str,
    /// With what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    move |source| StagingError { what, path: path.to_owned(), source }
}

/// Take the lock that makes one installer at a time. `waiting` is called once when another one has it. `pause`
/// waits at most for the time that it is given and tells whether to give up: then there is no lock.
///
/// # Errors
/// What the system said.
pub fn lock(
    root: &Path,
    pause: &dyn Fn(Duration) -> bool,
    waiting: &mut dyn FnMut(),
) -> Result<Option<File>, StagingError> {
    let mut first = true;
    loop {
        if let Some(lock) = try_lock(root)? {
            return Ok(Some(lock));
        }
        if std::mem::take(&mut first) {
            waiting();
        }
        // The kernel tells nobody when a flock falls free, and a blocking call could not be cancelled.
        if pause(TRY_AGAIN) {
            return Ok(None);
        }
    }
}

/// The same, unless another installer has it.
///
/// # Errors
/// What the system said.
pub fn try_lock(root: &Path) -> Result<Option<File>, StagingError> {
    let path = root.join(".install.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(at("open", &path))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(at("lock", &path)(error.into())),
        }
    }
}

/// Remove what dead installers left. The caller holds the lock, which a dead installer's npm would hold too:
/// so nobody is writing there.
///
/// # Errors
/// What the system said.
pub fn sweep(root: &Path) -> Result<(), StagingError> {
    let entries = fs::read_dir(root).map_err(at("read", root))?;
    for entry in entries {
        let entry = entry.map_err(at("read", root))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

/// A directory in which something is put together. It is removed when dropped, unless it got its name.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    /// Make one; `label` tells people what it is for. Its name is free: whoever holds the lock has swept.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(root: &Path, label: &str) -> Result<Self, StagingError> {
        let path = root.join(format!("{PREFIX}{label}-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(at("make", &path))?;
        Ok(Self { path, published: false })
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Make a directory below, and its parents.
    ///
    /// # Errors
    /// What the system said.
    pub fn dir(&self, name: &str) -> Result<PathBuf, StagingError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(at("make", &path))?;
        Ok(path)
    }

    /// Give the finished directory its final name, durably. Everything in it must have been synced.
    ///
    /// # Errors
    /// What the system said.
    pub fn publish(mut self, root: &Path, name: &str) -> Result<PathBuf, StagingError> {
        let target = root.join(name);
        if target.symlink_metadata().is_ok() {
            // The caller looked for a complete one of this name and found nothing whole: this is damaged.
            let aside = root.join(format!("{PREFIX}damaged-{}", std::process::id()));
            fs::rename(&target, &aside).map_err(at("move away", &target))?;
            let removed = if aside.is_dir() { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
            removed.map_err(at("remove", &aside))?;
        }
        fs::rename(&self.path, &target).map_err(at("rename to", &target))?;
        self.published = true;
        let synced = File::open(root).and_then(|dir| dir.sync_all());
        synced.map_err(at("sync", root))?;
        Ok(target)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
