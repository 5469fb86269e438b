//! Files that nobody but us could have made or seen.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::Secret;

/// Why such a file was not read.
#[derive(Debug)]
pub(crate) enum PrivateError {
    /// Others could have made or seen it, or it is no file.
    Exposed,
    /// It has more than the most bytes.
    TooLarge,
    /// The system said no.
    Io(io::Error),
}

/// The bytes of this file, `None` when there is none. One buffer of the right size, so that no copy of them is
/// left behind in memory.
pub(crate) fn read(dir: impl AsFd, name: &str, most: usize) -> Result<Option<Secret>, PrivateError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(PrivateError::Exposed),
        Err(error) => return Err(PrivateError::Io(error.into())),
    };
    let found = file.metadata().map_err(PrivateError::Io)?;
    let us = rustix::process::geteuid().as_raw();
    if !found.is_file() || found.uid() != us || found.mode() & 0o077 != 0 || found.nlink() != 1 {
        return Err(PrivateError::Exposed);
    }
    let size = usize::try_from(found.len()).unwrap_or(usize::MAX);
    if size > most {
        return Err(PrivateError::TooLarge);
    }
    let mut bytes = Zeroizing::new(vec![0_u8; size]);
    file.read_exact(&mut bytes).map_err(PrivateError::Io)?;
    Ok(Some(Secret::from(bytes)))
}
