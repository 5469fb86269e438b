use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use clawkeep_plan::Fact;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, chownat, fchmod, fchown, fstat, fsync, openat,
    readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::look::{Look, MAX_FILE_BYTES, MODE, fact, is_plain, look, random_name};

/// How often a rename is tried again while somebody in the sandbox swaps what stands under the name.
const ATTEMPTS: usize = 64;

/// Publishes files in a directory that hostile processes write to: a sandbox's `/tmp`.
#[derive(Debug)]
pub struct Publisher {
    dir: OwnedFd,
    uid: u32,
    gid: u32,
}

/// What stood under the name when a file was published. Whatever it was, afterwards the right file stands
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The right file: nothing was written.
    Intact,
    /// Nothing.
    Missing,
    /// A file with other bytes.
    Altered,
    /// A file with another mode than 0444.
    WrongMode,
    /// A file of another owner or group.
    WrongOwner,
    /// A file that has another name as well.
    HardLink,
    /// A symbolic link. It was replaced; what it pointed to was not looked at.
    Symlink,
    /// A directory. It was moved to `NAME.displaced-RANDOM`, with all that is in it.
    Directory,
    /// A pipe, socket or device. It was not opened.
    Special,
}

/// Why a file could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory is none, or others can write to it and it is not sticky.
    #[error("cannot publish into this directory: {0}")]
    Directory(&'static str),
    /// Not a plain file name.
    #[error("{0:?} is not a plain file name")]
    Name(String),
    /// More than [`MAX_FILE_BYTES`].
    #[error("/tmp/{0} would be larger than {MAX_FILE_BYTES} bytes")]
    TooLarge(String),
    /// Somebody in the sandbox kept replacing it faster than it could be put back.
    #[error("/tmp/{0} is being replaced over and over by a process in the sandbox")]
    Contended(String),
    /// A directory stands under the name and cannot be moved away.
    #[error("/tmp/{name} is a directory that cannot be moved away: {source}")]
    InTheWay {
        /// The name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system refused a step.
    #[error("/tmp/{name}: cannot {step}: {source}")]
    Io {
        /// The name.
        name: String,
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Publisher {
    /// A publisher for this directory. The files will belong to `uid` and `gid` (as this process sees them).
    ///
    /// # Errors
    /// [`PublishError::Directory`] for what is no directory, or one in which others could remove the files.
    pub fn new(dir: OwnedFd, uid: u32, gid: u32) -> Result<Self, PublishError> {
        let stat = fstat(&dir).map_err(|_| PublishError::Directory("it cannot be looked at"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(PublishError::Directory("it is no directory"));
        }
        if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
            return Err(PublishError::Directory("others can write to it and it is not sticky"));
        }
        Ok(Self { dir, uid, gid })
    }

    /// Makes sure that this file stands under this name: these bytes, mode 0444, owner as given to
    /// [`new`](Self::new). Nothing that stands there is followed, opened for writing or deleted; a file in
    /// the way is replaced, a directory moved aside. A file that is right already is not touched.
    ///
    /// # Errors
    /// [`PublishError`]; no temporary file of ours is left.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<Published, PublishError> {
        if !is_plain(name) {
            return Err(PublishError::Name(name.to_owned()));
        }
        if bytes.len() > MAX_FILE_BYTES {
            return Err(PublishError::TooLarge(name.to_owned()));
        }
        let found = self.find(name, bytes).map_err(|source| failed(name, "look at it")(source))?;
        if found == Published::Intact {
            return Ok(found);
        }
        let random = random_name().map_err(failed(name, "find a random name"))?;
        let temporary = Temporary { publisher: self, file: format!(".clawkeep-{random}") };
        self.write(name, &temporary.file, bytes)?;
        self.put_in_place(name, &temporary.file, &random)?;
        Ok(found)
    }

    /// Makes sure that a symbolic link to `target`, an absolute path inside, stands under this name, with the owner as
    /// given to [`new`](Self::new). What stands in the way is treated as by [`publish`](Self::publish); where another
    /// link stood, that is [`Published::Symlink`].
    ///
    /// # Errors
    /// [`PublishError`]; no temporary link of ours is left.
    pub fn publish_link(&self, name: &str, target: &Path) -> Result<Published, PublishError> {
        if !is_plain(name) {
            return Err(PublishError::Name(name.to_owned()));
        }
        let found = self.find_link(name, target).map_err(failed(name, "look at it"))?;
        if found == Published::Intact {
            return Ok(found);
        }
        let random = random_name().map_err(failed(name, "find a random name"))?;
        let temporary = Temporary { publisher: self, file: format!(".clawkeep-{random}") };
        symlinkat(target, &self.dir, &temporary.file).map_err(failed(name, "make a temporary link"))?;
        // A link in such a directory is followed only if it has the directory's owner (proc_sys_fs(5),
        // protected_symlinks).
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        chownat(&self.dir, &temporary.file, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(name, "change the owner"))?;
        self.put_in_place(name, &temporary.file, &random)?;
        Ok(found)
    }

    fn find_link(&self, name: &str, want: &Path) -> io::Result<Published> {
        let stat = match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Published::Missing),
            Err(error) => return Err(error.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => match readlinkat(&self.dir, name, Vec::new()) {
                // Replaced in between: it is looked at again with the next event.
                Err(_) => Published::Symlink,
                Ok(target) if target.as_bytes() != want.as_os_str().as_bytes() => Published::Symlink,
                Ok(_) if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) => Published::WrongOwner,
                Ok(_) => Published::Intact,
            },
            FileType::Directory => Published::Directory,
            FileType::RegularFile => Published::Altered,
            _ => Published::Special,
        })
    }

    /// Looks at a published file now, without following, opening or trusting anything.
    pub fn inspect(&self, name: &str, want_uid: u32) -> Fact {
        if !is_plain(name) {
            return Fact::Unfit("is not a plain file name".to_owned());
        }
        fact(look(self.dir.as_fd(), name), want_uid)
    }

    fn find(&self, name: &str, want: &[u8]) -> io::Result<Published> {
        Ok(match look(self.dir.as_fd(), name)? {
            Look::Missing => Published::Missing,
            Look::Other(FileType::Symlink) => Published::Symlink,
            Look::Other(FileType::Directory) => Published::Directory,
            Look::Other(_) => Published::Special,
            Look::Regular(file) if !file.single => Published::HardLink,
            Look::Regular(file) if (file.uid, file.gid) != (self.uid, self.gid) => Published::WrongOwner,
            Look::Regular(file) if file.mode != MODE => Published::WrongMode,
            Look::Regular(file) if file.bytes.as_deref() == Ok(want) => Published::Intact,
            Look::Regular(_) => Published::Altered,
        })
    }

    /// Writes the whole file under a name that nobody knows.
    fn write(&self, name: &str, temporary: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.dir, temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed(name, "create a temporary file"))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(failed(name, "write"))?;
        let stat = fstat(&file).map_err(failed(name, "look at the temporary file"))?;
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            fchown(&file, Some(uid), Some(gid)).map_err(failed(name, "change the owner"))?;
        }
        // After the owner: changing that may clear bits.
        fchmod(&file, Mode::from_raw_mode(MODE)).map_err(failed(name, "change the mode"))?;
        fsync(&file).map_err(failed(name, "sync"))
    }

    /// Renames the temporary file over the name.
    fn put_in_place(&self, name: &str, temporary: &str, random: &str) -> Result<(), PublishError> {
        for _ in 0..ATTEMPTS {
            match renameat(&self.dir, temporary, &self.dir, name) {
                Ok(()) => return Ok(()),
                Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(failed(name, "rename")(error)),
            }
            match renameat_with(&self.dir, temporary, &self.dir, name, RenameFlags::EXCHANGE) {
                Ok(()) => return self.move_aside(name, temporary, random),
                // It is gone again: the next plain rename will do.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    return Err(PublishError::InTheWay { name: name.to_owned(), source: error.into() });
                }
            }
        }
        Err(PublishError::Contended(name.to_owned()))
    }

    /// Gives what was exchanged a name that says what happened. It is usually a directory; it can be anything,
    /// where somebody was fast.
    fn move_aside(&self, name: &str, temporary: &str, random: &str) -> Result<(), PublishError> {
        let stat = match statat(&self.dir, temporary, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(name, "look at what was moved away")(error)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return unlinkat(&self.dir, temporary, AtFlags::empty())
                .map_err(failed(name, "remove what was moved away"));
        }
        let aside = format!("{name}.displaced-{random}");
        renameat_with(&self.dir, temporary, &self.dir, aside, RenameFlags::NOREPLACE)
            .map_err(failed(name, "name the directory that was moved away"))
    }
}

/// A temporary name of ours, gone in the end. It is usually gone by then; it is still there after an error,
/// and when somebody has linked it to the final name: rename(2) of two names of one file does nothing.
struct Temporary<'a> {
    publisher: &'a Publisher,
    file: String,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(&self.publisher.dir, &self.file, AtFlags::empty());
    }
}

/// Puts name and step to an error.
fn failed<E: Into<io::Error>>(name: &str, step: &'static str) -> impl FnOnce(E) -> PublishError {
    let name = name.to_owned();
    move |source| PublishError::Io { name, step, source: source.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::process::{getegid, geteuid};

    use super::*;

    /// What a process with our own uid can do between the writing and the renaming.
    #[test]
    fn a_temporary_file_that_was_linked_to_the_name_is_gone_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let publisher = Publisher::new(fd, geteuid().as_raw(), getegid().as_raw()).unwrap();
        let temporary = Temporary { publisher: &publisher, file: ".clawkeep-0".to_owned() };
        publisher.write("name", &temporary.file, b"right").unwrap();
        fs::hard_link(dir.path().join(&temporary.file), dir.path().join("name")).unwrap();
        publisher.put_in_place("name", &temporary.file, "0").unwrap();
        drop(temporary);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(publisher.publish("name", b"right").unwrap(), Published::Intact);
    }
}
