//! Files that are whole at every moment: after a crash there is the old content or the new, never a mixture.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};

/// What the names of unfinished files contain; they begin with a dot.
const TEMPORARY: &str = ".tmp-";

/// No write takes this long: an unfinished file of this age is a crash's.
const STALE: Duration = Duration::from_secs(60);

/// Open a directory to work below it. The last part of the path may not be a symlink.
///
/// # Errors
/// Those of openat(2).
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Make `name` in `dir` hold exactly these bytes with this mode: a temporary file is written, synced, renamed
/// over it, and the directory synced. What was there is replaced, a symlink too; it is never followed. On an
/// error the old file is untouched and the temporary one gone.
///
/// # Errors
/// Those of the system calls; `InvalidInput` when `name` is not a plain file name.
pub fn write(dir: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name"));
    }
    let dir = dir.as_fd();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".{name}{TEMPORARY}{}-{count}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || fs::openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR);
    let file = create().or_else(|error| {
        // Left by a crashed process that had our pid.
        if error != rustix::io::Errno::EXIST {
            return Err(error);
        }
        fs::unlinkat(dir, &temporary, AtFlags::empty())?;
        create()
    })?;
    let mut file = File::from(file);
    let written = file
        .write_all(bytes)
        .and_then(|()| Ok(fs::fchmod(&file, mode)?))
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(fs::renameat(dir, &temporary, dir, name)?));
    if let Err(error) = written {
        let _ = fs::unlinkat(dir, &temporary, AtFlags::empty());
        return Err(error);
    }
    sync_dir(dir)
}

/// Remove `name` from `dir` for good; whether it was there.
///
/// # Errors
/// Those of the system calls.
pub fn remove(dir: impl AsFd, name: &str) -> io::Result<bool> {
    match fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Ok(()) => sync_dir(dir).map(|()| true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Remove what crashed writes left in `dir`: temporary files of [`write()`] older than a minute.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(dir: impl AsFd) -> io::Result<()> {
    sweep_older(dir, STALE)
}

/// As [`sweep`], of any age: where nobody else can be writing.
pub(crate) fn sweep_all(dir: impl AsFd) -> io::Result<()> {
    sweep_older(dir, Duration::ZERO)
}

fn sweep_older(dir: impl AsFd, than: Duration) -> io::Result<()> {
    let dir = dir.as_fd();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with('.') || !name.contains(TEMPORARY) {
            continue;
        }
        let Ok(stat) = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let modified = Duration::from_secs(stat.st_mtime.try_into().unwrap_or(0));
        if SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + modified).is_ok_and(|age| age >= than)
            || than.is_zero()
        {
            let _ = fs::unlinkat(dir, name, AtFlags::empty());
        }
    }
    Ok(())
}

/// Have the names in the directory at this path on the disk. The path may go through symlinks.
///
/// # Errors
/// Those of open(2) and fsync(2).
pub fn sync_at(path: &Path) -> io::Result<()> {
    sync_dir(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn sync_dir(dir: impl AsFd) -> io::Result<()> {
    Ok(fs::fsync(dir)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_with_the_mode_and_leaves_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_dir(temp.path()).unwrap();
        write(&dir, "a", b"one", Mode::from(0o444)).unwrap();
        write(&dir, "a", b"two", Mode::from(0o600)).unwrap();
        assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"two");
        assert_eq!(std::fs::metadata(temp.path().join("a")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(temp.path()), ["a"]);
        assert!(remove(&dir, "a").unwrap());
        assert!(!remove(&dir, "a").unwrap());
        assert_eq!(names(temp.path()), Vec::<String>::new());
    }

    #[test]
    fn never_follows_a_symlink_and_never_removes_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_dir(temp.path()).unwrap();
        std::fs::write(temp.path().join("victim"), "keep").unwrap();
        symlink("victim", temp.path().join("link")).unwrap();
        write(&dir, "link", b"new", Mode::from(0o600)).unwrap();
        assert_eq!(std::fs::read(temp.path().join("victim")).unwrap(), b"keep");
        assert!(std::fs::symlink_metadata(temp.path().join("link")).unwrap().is_file());
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        assert!(write(&dir, "dir", b"new", Mode::from(0o600)).is_err());
        assert_eq!(names(temp.path()), ["dir", "link", "victim"]);
        symlink(temp.path(), temp.path().join("there")).unwrap();
        assert!(open_dir(&temp.path().join("there")).is_err());
        for bad in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(write(&dir, bad, b"", Mode::empty()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn sweeps_old_temporaries_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_dir(temp.path()).unwrap();
        for name in [".a.tmp-1-0", ".b.tmp-1-0", "a.tmp-1-0", ".hidden"] {
            let file = File::create(temp.path().join(name)).unwrap();
            if name != ".b.tmp-1-0" {
                file.set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
            }
        }
        sweep(&dir).unwrap();
        assert_eq!(names(temp.path()), [".b.tmp-1-0", ".hidden", "a.tmp-1-0"]);
    }

    proptest! {
        #[test]
        fn holds_exactly_the_last_bytes(contents in proptest::collection::vec(any::<Vec<u8>>(), 1..5)) {
            let temp = tempfile::tempdir().unwrap();
            let dir = open_dir(temp.path()).unwrap();
            for content in &contents {
                write(&dir, "f", content, Mode::from(0o600)).unwrap();
            }
            prop_assert_eq!(&std::fs::read(temp.path().join("f")).unwrap(), contents.last().unwrap());
        }
    }
}
