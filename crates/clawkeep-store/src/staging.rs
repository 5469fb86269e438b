use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::InstallError;
use crate::Cancel;

const PREFIX: &str = ".staging-";

/// Take the lock that makes one installer at a time. `waiting` is called once when another one has it.
pub(super) fn lock(root: &Path, cancel: &Cancel, waiting: &mut dyn FnMut()) -> Result<File, InstallError> {
    let path = root.join(".install.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(|e| InstallError::io("open", &path, e))?;
    let mut first = true;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(InstallError::io("lock", &path, error.into())),
        }
        if std::mem::take(&mut first) {
            waiting();
        }
        // The kernel tells nobody when a flock falls free, and a blocking call could not be cancelled.
        if cancel.wait(Duration::from_millis(200)) {
            return Err(InstallError::Cancelled);
        }
    }
}

/// Remove what dead installers left. The caller holds the lock, which a dead installer's npm would hold too:
/// so nobody is writing there.
pub(super) fn sweep(root: &Path) -> Result<(), InstallError> {
    let entries = fs::read_dir(root).map_err(|e| InstallError::io("read", root, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| InstallError::io("read", root, e))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(|e| InstallError::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// A directory in which a bundle is put together. It is removed when dropped, unless it became a bundle.
pub(super) struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    /// Make one for this release. Its name is free: whoever holds the lock has swept.
    pub(super) fn new(root: &Path, version: &str) -> Result<Self, InstallError> {
        let path = root.join(format!("{PREFIX}{version}-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| InstallError::io("make", &path, e))?;
        Ok(Self { path, published: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Make a directory below, and its parents.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf, InstallError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|e| InstallError::io("make", &path, e))?;
        Ok(path)
    }

    /// Give the finished directory its final name, durably. Everything in it must have been synced.
    pub(super) fn publish(mut self, root: &Path, name: &str) -> Result<PathBuf, InstallError> {
        let target = root.join(name);
        if target.symlink_metadata().is_ok() {
            // The caller looked for a complete bundle of this name and found none: this is a damaged one.
            let aside = root.join(format!("{PREFIX}damaged-{}", std::process::id()));
            fs::rename(&target, &aside).map_err(|e| InstallError::io("move away", &target, e))?;
            let removed = if aside.is_dir() { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
            removed.map_err(|e| InstallError::io("remove", &aside, e))?;
        }
        fs::rename(&self.path, &target).map_err(|e| InstallError::io("rename to", &target, e))?;
        self.published = true;
        let synced = File::open(root).and_then(|dir| dir.sync_all());
        synced.map_err(|e| InstallError::io("sync", root, e))?;
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
