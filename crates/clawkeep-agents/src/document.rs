//! One small file in the sandbox's home: the agent's configuration. The directory belongs to the agent: nothing
//! in it is followed or trusted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// Who the agent's files belong to, as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Host uid of the sandbox's user.
    pub uid: u32,
    /// Host gid of the sandbox's user.
    pub gid: u32,
}

/// A path below the sandbox's home: plain names, at most [`Document::MAX_STEPS`] of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Document {
    dirs: Vec<String>,
    file: String,
}

/// Why a text is no [`Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path below /sandbox of at most 8 plain names, each of at most 200 bytes: .config/agent/config.json"
)]
pub struct DocumentError;

/// What is where a document should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A regular file that is not too large, with these bytes.
    Bytes(Vec<u8>),
    /// Something that cannot be the document, for this reason.
    Unfit(&'static str),
    /// No file and no link to one: a directory, or a named pipe, which keeps whoever opens it waiting.
    NoFile,
}

impl Document {
    /// How deep a document may lie.
    pub const MAX_STEPS: usize = 8;

    /// The path as the sandbox sees it.
    pub fn shown(&self) -> String {
        format!("/sandbox/{self}")
    }

    /// Look at it through the home's descriptor.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn read(&self, home: BorrowedFd<'_>) -> io::Result<Found> {
        let mut at: Option<OwnedFd> = None;
        for dir in &self.dirs {
            match open_dir(at.as_ref().map_or(home, AsFd::as_fd), dir) {
                Ok(next) => at = Some(next),
                Err(Errno::NOENT) => return Ok(Found::Missing),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Ok(Found::Unfit("is below something that is no directory"));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        // Not blocking: a FIFO in its place must not hold us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file =
            match rustix::fs::openat(at.as_ref().map_or(home, AsFd::as_fd), &self.file, flags, Mode::empty())
            {
                Ok(fd) => File::from(fd),
                Err(Errno::NOENT) => return Ok(Found::Missing),
                Err(Errno::LOOP) => return Ok(Found::Unfit("is a symlink")),
                // A socket.
                Err(Errno::NXIO) => return Ok(Found::NoFile),
                Err(errno) => return Err(errno.into()),
            };
        if !file.metadata()?.is_file() {
            return Ok(Found::NoFile);
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            Found::Unfit("is too large")
        } else {
            Found::Bytes(bytes)
        })
    }

    /// Put these bytes in its place, whole or not at all, also when the power goes. What is in the way and is
    /// no such thing (a symlink for a directory, a directory for the file) is moved aside, never followed,
    /// never deleted.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn put(&self, home: BorrowedFd<'_>, owner: Owner, bytes: &[u8]) -> io::Result<()> {
        let mut at: Option<OwnedFd> = None;
        for dir in &self.dirs {
            let base = at.as_ref().map_or(home, AsFd::as_fd);
            at = Some(match open_dir(base, dir) {
                Ok(next) => next,
                Err(Errno::NOENT) => make_dir(base, dir, owner)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    displace(base, dir)?;
                    make_dir(base, dir, owner)?
                }
                Err(errno) => return Err(errno.into()),
            });
        }
        let dir = at.as_ref().map_or(home, AsFd::as_fd);
        let name = self.file.as_str();
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                displace(dir, name)?
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        // One fixed name: a crash between write and rename leaves one file, which the next write removes.
        let temp = format!(".{name}.clawkeep");
        match rustix::fs::unlinkat(dir, temp.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => displace(dir, &temp)?,
            Err(errno) => return Err(errno.into()),
        }
        let mut file = create_file(dir, &temp, owner)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(dir, temp.as_str(), dir, name)?;
        rustix::fs::fsync(dir)?;
        Ok(())
    }
}

/// A new file of the agent's, mode 0600.
pub(crate) fn create_file(dir: BorrowedFd<'_>, name: &str, owner: Owner) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    own(fd.as_fd(), owner, 0o600)?;
    Ok(File::from(fd))
}

pub(crate) fn open_dir(base: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(base, name, flags, Mode::empty())
}

/// A directory of the agent's, mode 0700, opened; one that is there already is taken.
pub(crate) fn make_dir(base: BorrowedFd<'_>, name: &str, owner: Owner) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(base, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let dir = open_dir(base, name)?;
    own(dir.as_fd(), owner, 0o700)?;
    rustix::fs::fsync(base)?;
    Ok(dir)
}

fn own(fd: BorrowedFd<'_>, owner: Owner, mode: u32) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

/// Move something aside, under the first of a few names that is free.
///
/// # Errors
/// When all are taken, or the system refuses.
pub(crate) fn displace(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    for number in 1..=100 {
        let aside = format!("{name}.displaced-{number}");
        match rustix::fs::renameat_with(dir, name, dir, aside, rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{name}: a hundred displaced ones are there already"),
    ))
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dirs.iter().try_for_each(|dir| write!(f, "{dir}/"))?;
        f.write_str(&self.file)
    }
}

impl std::str::FromStr for Document {
    type Err = DocumentError;

    fn from_str(text: &str) -> Result<Self, DocumentError> {
        let text = text.strip_prefix("/sandbox/").unwrap_or(text);
        let mut steps: Vec<String> = text.split('/').map(str::to_owned).collect();
        let plain = |step: &String| {
            !matches!(step.as_str(), "" | "." | "..")
                && step.len() <= 200
                && !step.bytes().any(|byte| byte.is_ascii_control())
        };
        if steps.len() > Self::MAX_STEPS || !steps.iter().all(plain) {
            return Err(DocumentError);
        }
        let file = steps.pop().ok_or(DocumentError)?;
        Ok(Self { dirs: steps, file })
    }
}

impl TryFrom<String> for Document {
    type Error = DocumentError;

    fn try_from(text: String) -> Result<Self, DocumentError> {
        text.parse()
    }
}

impl From<Document> for String {
    fn from(document: Document) -> Self {
        document.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn own() -> Owner {
        Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn what_is_put_is_read_and_what_is_in_the_way_moves_aside() {
        let lab = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let home = open(lab.path());
        let document: Document = "/sandbox/.agent/conf/a.json".parse().unwrap();
        assert_eq!(document.shown(), "/sandbox/.agent/conf/a.json");
        assert_eq!(document.read(home.as_fd()).unwrap(), Found::Missing);
        let at = lab.path().join(".agent/conf/a.json");
        for hostile in 0..6 {
            match hostile {
                0 => {}
                1 => fs::create_dir_all(at.join("full")).unwrap(),
                2 => symlink(outside.path().join("a.json"), &at).unwrap(),
                3 => rustix::fs::mkfifoat(rustix::fs::CWD, &at, Mode::RUSR).unwrap(),
                4 => {
                    fs::rename(lab.path().join(".agent"), lab.path().join("away")).unwrap();
                    symlink(outside.path(), lab.path().join(".agent")).unwrap();
                }
                _ => fs::create_dir(at.with_file_name(".a.json.clawkeep")).unwrap(),
            }
            let found = document.read(home.as_fd()).unwrap();
            match hostile {
                1 | 3 => assert_eq!(found, Found::NoFile, "{hostile}"),
                2 | 4 => assert!(matches!(found, Found::Unfit(_)), "{hostile}"),
                _ => {}
            }
            document.put(home.as_fd(), own(), b"{}").unwrap();
            assert_eq!(document.read(home.as_fd()).unwrap(), Found::Bytes(b"{}".to_vec()), "{hostile}");
            assert_eq!(fs::symlink_metadata(&at).unwrap().permissions().mode() & 0o7777, 0o600);
            if hostile != 5 {
                fs::remove_file(&at).unwrap();
            }
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was followed");
        assert!(lab.path().join(".agent.displaced-1").is_symlink(), "nothing was deleted");
    }

    #[test]
    fn too_large_is_unfit() {
        let lab = tempfile::tempdir().unwrap();
        let document: Document = "a".parse().unwrap();
        fs::write(lab.path().join("a"), vec![b'x'; MAX_DOCUMENT_BYTES as usize + 1]).unwrap();
        assert_eq!(document.read(open(lab.path()).as_fd()).unwrap(), Found::Unfit("is too large"));
    }

    #[test]
    fn only_plain_paths_below_the_home_are_documents() {
        for bad in ["", "/", "..", "a/../b", "/etc/passwd", "a//b", "a/", "a\n", "1/2/3/4/5/6/7/8/9"] {
            assert_eq!(bad.parse::<Document>(), Err(DocumentError), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_reads_back_as_it_was(text in "\\PC{0,40}") {
            if let Ok(document) = text.parse::<Document>() {
                prop_assert_eq!(document.to_string().parse::<Document>().unwrap(), document);
            }
        }
    }
}
