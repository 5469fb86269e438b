use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use clawkeep_plan::{Digest, Fact};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// The most that is read of one file, in bytes. Guards are far smaller; more is somebody else's.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// The mode of every guard file.
pub(crate) const MODE: u32 = 0o444;

/// What stands under a name, as seen without following or opening anything but a regular file.
#[derive(Debug)]
pub(crate) enum Look {
    Missing,
    Regular(Regular),
    Other(FileType),
}

#[derive(Debug)]
pub(crate) struct Regular {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, with set-id and sticky.
    pub mode: u32,
    /// Whether it has this name only.
    pub single: bool,
    /// Nothing when it could not be read or is larger than [`MAX_FILE_BYTES`].
    pub bytes: Result<Vec<u8>, String>,
}

/// Looks at a name in a directory. One inode is held for the whole look, so type, owner, mode and bytes
/// belong together.
pub(crate) fn look(dir: BorrowedFd<'_>, name: &str) -> io::Result<Look> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = match openat(dir, name, flags, Mode::empty()) {
        Ok(held) => held,
        Err(Errno::NOENT) => return Ok(Look::Missing),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&held)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Ok(Look::Other(kind));
    }
    let bytes = if u64::try_from(stat.st_size).is_ok_and(|size| size <= MAX_FILE_BYTES as u64) {
        read(held.as_raw_fd()).map_err(|error| format!("cannot be read: {error}"))
    } else {
        Err(format!("is larger than {MAX_FILE_BYTES} bytes"))
    };
    Ok(Look::Regular(Regular {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        single: stat.st_nlink == 1,
        bytes,
    }))
}

/// Reads the file behind a path descriptor. Through `/proc`, because a path descriptor cannot be read and
/// the name may by now stand for something else.
fn read(held: i32) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(CWD, format!("/proc/self/fd/{held}"), flags, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// The same, judged: a regular file of this owner, mode 0444, one name, with these bytes.
pub(crate) fn fact(look: io::Result<Look>, want_uid: u32) -> Fact {
    let file = match look {
        Ok(Look::Regular(file)) => file,
        Ok(Look::Missing) => return Fact::Missing,
        Ok(Look::Other(kind)) => return Fact::Unfit(format!("is {}, not a regular file", describe(kind))),
        Err(error) => return Fact::Unfit(format!("cannot be looked at: {error}")),
    };
    if file.uid != want_uid {
        return Fact::Unfit(format!("belongs to uid {}, not {want_uid}", file.uid));
    }
    if file.mode != MODE {
        return Fact::Unfit(format!("has mode {:04o}, not {MODE:04o}", file.mode));
    }
    if !file.single {
        return Fact::Unfit("has another name as well (hard link)".to_owned());
    }
    match file.bytes {
        Ok(bytes) => Fact::Bytes(Digest::of(&bytes)),
        Err(why) => Fact::Unfit(why),
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Unknown => "of an unknown type",
    }
}

/// Whether a name is a plain file name: one path component, printable ASCII without white space.
pub(crate) fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 200
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// Sixteen digits that nobody in the sandbox can guess.
pub(crate) fn random_name() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_told_from_paths() {
        assert!(is_plain("nemoclaw-proxy-env.sh"));
        for bad in ["", ".", "..", "a/b", "/a", "a\0", "a b", "a\n", "é", &"a".repeat(201)] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_name_is_one_component(name in "\\PC{0,40}") {
            if is_plain(&name) {
                prop_assert_eq!(std::path::Path::new(&name).file_name().unwrap(), name.as_str());
            }
        }
    }
}
