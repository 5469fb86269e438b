use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use clawkeep_plan::Fact;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fstat, fsync, mkdirat,
    openat, renameat, renameat_with, statat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use crate::guard::set_digest;
use crate::look::{MODE, fact, look, random_name};
use crate::{Guard, all};

const DIR_MODE: u32 = 0o555;
const UNFINISHED: &str = ".tmp-";

/// The installed guards: one directory on the host that holds every embedded guard and is named by the
/// digest of the set. It is what a sandbox gets mounted at [`GUARDS_MOUNT`](crate::GUARDS_MOUNT).
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    dir: OwnedFd,
}

/// Why the guards could not be installed or opened.
#[derive(Debug, thiserror::Error)]
#[error("guards: cannot {step} {}: {source}", .path.display())]
pub struct InstallError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Puts step and path to an error.
fn at(step: &'static str, path: &Path) -> impl Fn(Errno) -> InstallError {
    let path = path.to_owned();
    move |errno| InstallError { step, path: path.clone(), source: errno.into() }
}

impl Package {
    /// Installs every embedded guard below this directory, or finds them there intact.
    ///
    /// Safe against a crash at any point (the set is written, synced, and then appears under its name at
    /// once) and against other installers. A set that was altered is moved aside to a name with
    /// `.displaced-`, and stays there: sandboxes that run may have it mounted.
    ///
    /// # Errors
    /// When the file system refuses a step; the error names it.
    pub fn install(guards_root: &Path) -> Result<Self, InstallError> {
        fs::create_dir_all(guards_root).map_err(|source| InstallError {
            step: "create",
            path: guards_root.to_owned(),
            source,
        })?;
        let name = set_digest().to_string();
        let path = Self::place(guards_root);
        if let Some(package) = Self::open_intact(&path) {
            return Ok(package);
        }
        let root = open_dir(guards_root)?;
        // One installer at a time; the lock ends with the descriptor.
        retry_on_intr(|| flock(&root, FlockOperation::LockExclusive)).map_err(at("lock", guards_root))?;
        if let Some(package) = Self::open_intact(&path) {
            return Ok(package);
        }
        clear_unfinished(guards_root);
        let fresh = format!("{UNFINISHED}{}", random(guards_root)?);
        let written = write_set(root.as_fd(), &fresh, &guards_root.join(&fresh))
            .and_then(|()| put_in_place(root.as_fd(), &fresh, &name).map_err(at("rename", &path)))
            .and_then(|()| fsync(&root).map_err(at("sync", guards_root)));
        if let Err(error) = written {
            clear_unfinished(guards_root);
            return Err(error);
        }
        Self::open(&path)
    }

    /// Where the set of this version is, or will be, below this directory.
    pub fn place(guards_root: &Path) -> PathBuf {
        guards_root.join(set_digest().to_string())
    }

    /// Opens an installed set. It may be altered: ask [`inspect`](Self::inspect).
    ///
    /// # Errors
    /// When it is no directory or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, InstallError> {
        Ok(Self { path: path.to_owned(), dir: open_dir(path)? })
    }

    fn open_intact(path: &Path) -> Option<Self> {
        let package = Self::open(path).ok()?;
        let intact = |guard: &Guard| package.inspect(guard.name) == Fact::Bytes(guard.digest());
        all().iter().all(intact).then_some(package)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself, for mounting what was inspected and nothing else.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Looks at one guard now: a regular file, ours, mode 0444, one name, in a directory that is ours, that
    /// nobody can write and that still stands at [`path`](Self::path). Its bytes are read through the
    /// descriptor that was checked.
    pub fn inspect(&self, name: &str) -> Fact {
        let Some(guard) = all().iter().find(|guard| guard.name == name) else {
            return Fact::Unfit("is no guard of this version".to_owned());
        };
        match self.problem() {
            Ok(None) => fact(look(self.dir.as_fd(), &guard.file_name()), geteuid().as_raw()),
            Ok(Some(problem)) => Fact::Unfit(problem),
            Err(Errno::NOENT) => Fact::Missing,
            Err(error) => Fact::Unfit(format!("its directory cannot be looked at: {error}")),
        }
    }

    /// Looks at one guard now in a directory that is held, wherever it is mounted: the same questions as
    /// [`inspect`](Self::inspect), but for the directory's own. What a sandbox sees is verified through its
    /// own mount: the directory of that name on the host may be another one by now.
    pub fn inspect_mounted(dir: BorrowedFd<'_>, name: &str) -> Fact {
        match all().iter().find(|guard| guard.name == name) {
            Some(guard) => fact(look(dir, &guard.file_name()), geteuid().as_raw()),
            None => Fact::Unfit("is no guard of this version".to_owned()),
        }
    }

    /// What is wrong with the directory.
    fn problem(&self) -> Result<Option<String>, Errno> {
        let held = fstat(&self.dir)?;
        let named = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)?;
        let euid = geteuid().as_raw();
        Ok(if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino) {
            Some("its directory was replaced".to_owned())
        } else if held.st_uid != euid {
            Some(format!("its directory belongs to uid {}, not {euid}", held.st_uid))
        } else if held.st_mode & 0o7777 != DIR_MODE {
            Some(format!("its directory has mode {:04o}, not {DIR_MODE:04o}", held.st_mode & 0o7777))
        } else {
            None
        })
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, InstallError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(at("open", path))
}

fn random(path: &Path) -> Result<String, InstallError> {
    random_name().map_err(|source| InstallError {
        step: "find a random name in",
        path: path.to_owned(),
        source,
    })
}

/// Writes the set into a new directory, everything synced.
fn write_set(root: BorrowedFd<'_>, fresh: &str, path: &Path) -> Result<(), InstallError> {
    mkdirat(root, fresh, Mode::RWXU).map_err(at("create", path))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(root, fresh, flags, Mode::empty()).map_err(at("open", path))?;
    for guard in all() {
        let file_path = path.join(guard.file_name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&dir, guard.file_name(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("create", &file_path))?;
        let mut file = File::from(fd);
        file.write_all(guard.source).map_err(|source| InstallError {
            step: "write",
            path: file_path.clone(),
            source,
        })?;
        fchmod(&file, Mode::from_raw_mode(MODE)).map_err(at("set the mode of", &file_path))?;
        fsync(&file).map_err(at("sync", &file_path))?;
    }
    fchmod(&dir, Mode::from_raw_mode(DIR_MODE)).map_err(at("set the mode of", path))?;
    fsync(&dir).map_err(at("sync", path))
}

/// Renames the new directory to its name; what stands there is exchanged and moved aside.
fn put_in_place(root: BorrowedFd<'_>, fresh: &str, name: &str) -> Result<(), Errno> {
    match renameat_with(root, fresh, root, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {
            let aside = format!("{name}.displaced-{}", fresh.trim_start_matches(UNFINISHED));
            renameat_with(root, fresh, root, name, RenameFlags::EXCHANGE)?;
            renameat(root, fresh, root, aside)
        }
        result => result,
    }
}

/// Removes what an installer that died has left. Called under the lock. What cannot be removed stays: it is
/// in nobody's way.
fn clear_unfinished(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        let path = entry.path();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(dir) = openat(CWD, &path, flags, Mode::empty())
            && fstat(&dir).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        {
            // Its final mode may already be set, and forbids removal.
            let _ = fchmod(&dir, Mode::RWXU);
            let _ = fs::remove_dir_all(&path);
        }
    }
}
