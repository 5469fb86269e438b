//! The directory that an image is unpacked into. Everything is done relative to its descriptor, and on the way
//! down no link is ever followed (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS): whatever an archive says,
//! nothing outside is touched.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::entry::{Entry, Kind};
use crate::way::Way;

/// Why an entry cannot be made.
#[derive(Debug)]
pub enum Refused {
    /// It is unsafe: to be put behind its name.
    Unsafe(&'static str),
    /// Its content could not be read.
    Content(io::Error),
    /// The system says so.
    Io(io::Error),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::LOOP => Self::Unsafe("lies behind a symbolic link"),
            Errno::NOTDIR => Self::Unsafe("lies below something that is no directory"),
            Errno::XDEV => Self::Unsafe("leads out of the image"),
            errno => Self::Io(errno.into()),
        }
    }
}

/// An image's root while it is unpacked. Nobody else may write in it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Tree {
    /// Its directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The tree in this directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Make an entry, in place of what is there. `content` is a file's. Special files are not made: whether it
    /// was made.
    pub fn make(&self, entry: &Entry, content: &mut dyn Read) -> Result<bool, Refused> {
        if entry.kind == Kind::Special {
            return Ok(false);
        }
        let (above, name) = (self.directory(entry.way.above().as_ref())?, entry.way.split().1);
        match &entry.kind {
            Kind::Special => {}
            Kind::Directory => {
                if !is_directory(&above, name)? {
                    remove(&above, name)?;
                    rustix::fs::mkdirat(&above, name, Mode::RWXU)?;
                }
                let dir = open_directory(&above, name)?;
                // Writable by its owner alone, who must be able to remove it again.
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode & 0o755 | 0o700))?;
            }
            Kind::File(size) => {
                remove(&above, name)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(&above, name, flags, Mode::RUSR | Mode::WUSR)?);
                copy(content, *size, &mut file)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o755 | 0o400))?;
                let tv_sec = i64::try_from(entry.modified).unwrap_or(0);
                let time = Timespec { tv_sec, tv_nsec: 0 };
                rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            }
            Kind::Symlink(target) => {
                remove(&above, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &above, name)?;
            }
            Kind::HardLink(to) => {
                const NOTHING: Refused = Refused::Unsafe("is a hard link to nothing");
                if *to == entry.way {
                    return Err(NOTHING);
                }
                let from = self.existing(to.above().as_ref()).map_err(|refused| match refused {
                    Refused::Io(error) if error.kind() == io::ErrorKind::NotFound => NOTHING,
                    refused => refused,
                })?;
                let of = to.split().1;
                match kind(&from, of)? {
                    Some(FileType::RegularFile | FileType::Symlink) => {}
                    Some(_) => return Err(Refused::Unsafe("is a hard link to a directory")),
                    None => return Err(NOTHING),
                }
                remove(&above, name)?;
                match rustix::fs::linkat(&from, of, &above, name, AtFlags::empty()) {
                    // What stood in its place was a directory with the target in it.
                    Err(Errno::NOENT) => return Err(NOTHING),
                    done => done?,
                }
            }
        }
        Ok(true)
    }

    /// Remove what lower layers have at this place, and keep what `is_new`.
    pub fn white_out(&self, way: &Way, is_new: &dyn Fn(&Way) -> bool) -> Result<(), Refused> {
        match self.existing(way.above().as_ref()) {
            Ok(above) => remove_old(&above, way, is_new),
            Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Likewise all that is in this directory; `None` is the root.
    pub fn white_out_all(&self, way: Option<&Way>, is_new: &dyn Fn(&Way) -> bool) -> Result<(), Refused> {
        let dir = match self.existing(way) {
            Ok(dir) => open_directory(&dir, OsStr::new("."))?,
            Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in names(&dir)? {
            let below = match way {
                Some(way) => way.join(&name),
                None => match Way::parse(name.as_bytes()) {
                    Ok(Some(way)) => way,
                    // Not one of ours, all of which were parsed.
                    Ok(None) | Err(_) => continue,
                },
            };
            remove_old(&dir, &below, is_new)?;
        }
        Ok(())
    }

    /// The content of a small file, through no link; `None` where there is none.
    pub fn read(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), BELOW).ok()?);
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Whether there is something at this path, as it is seen inside: links lead no further than the tree.
    pub fn has(&self, path: &str) -> bool {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how).is_ok()
    }

    fn existing(&self, way: Option<&Way>) -> Result<OwnedFd, Refused> {
        let Some(way) = way else { return self.root.try_clone().map_err(Refused::Io) };
        let (above, name) = way.split();
        let path = std::path::Path::new(above).join(name);
        Ok(open_below(&self.root, path.as_os_str())?)
    }

    /// A directory of the tree, made where it is missing, as tools leave parents out.
    fn directory(&self, way: Option<&Way>) -> Result<OwnedFd, Refused> {
        match self.existing(way) {
            Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let mut at = self.root.try_clone().map_err(Refused::Io)?;
        let (above, name) = way.map_or_else(Default::default, Way::split);
        for step in std::path::Path::new(above).iter().chain([name]) {
            match rustix::fs::mkdirat(&at, step, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = open_below(&at, step)?;
        }
        Ok(at)
    }
}

fn open_below(dir: impl AsFd, path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), BELOW)
}

/// To be read, or to have its mode set.
fn open_directory(above: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(above, name, flags, Mode::empty(), BELOW)
}

fn kind(above: impl AsFd, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_directory(above: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    Ok(kind(above, name)? == Some(FileType::Directory))
}

fn names(dir: &OwnedFd) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Remove whatever is there, whole.
fn remove(above: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let above = above.as_fd();
    if !is_directory(above, name)? {
        return match rustix::fs::unlinkat(above, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        };
    }
    let dir = open_directory(above, name)?;
    for name in names(&dir)? {
        remove(&dir, &name)?;
    }
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)
}

fn remove_old(above: &OwnedFd, way: &Way, is_new: &dyn Fn(&Way) -> bool) -> Result<(), Refused> {
    let name = way.split().1;
    if is_directory(above, name)? {
        let dir = open_directory(above, name)?;
        for name in names(&dir)? {
            remove_old(&dir, &way.join(&name), is_new)?;
        }
        if !is_new(way) {
            match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
                // Something new is in it.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                done => done?,
            }
        }
    } else if !is_new(way) {
        remove(above, name)?;
    }
    Ok(())
}

/// Exactly so many bytes.
fn copy(content: &mut dyn Read, size: u64, file: &mut File) -> Result<(), Refused> {
    let mut block = vec![0_u8; 128 * 1024];
    let mut left = size;
    while left > 0 {
        let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = match content.read(&mut block[..most]) {
            Ok(0) => return Err(Refused::Content(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refused::Content(error)),
        };
        io::Write::write_all(file, &block[..read]).map_err(Refused::Io)?;
        left -= read as u64;
    }
    Ok(())
}
