use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

/// How many of the last bytes are remembered, to find the place again in a log that was cut.
const REMEMBERED: usize = 512;

/// Largest log that is read at once, in bytes; more of one is given piece by piece.
const PIECE: u64 = 64 << 20;

/// Reads a log that grows and that is cut to its newer half when it is big: by its place, and after a cut by
/// what was read last.
pub struct Follower {
    path: PathBuf,
    at: u64,
    last: Vec<u8>,
}

impl Follower {
    /// From its beginning. It need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, at: 0, last: Vec::new() }
    }

    /// What is new.
    ///
    /// # Errors
    /// What the system said, but for a log that is not there: that is an empty one.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
        }
        if found.len() < self.at {
            let all = read(&file, 0, found.len())?;
            let seen = find_last(&all, &self.last).map_or(0, |at| at + self.last.len());
            self.at = 0;
            return Ok(self.took(&all, seen));
        }
        let new = read(&file, self.at, found.len())?;
        Ok(self.took(&new, 0))
    }

    /// These bytes were read from our place on; the first of them are known.
    fn took(&mut self, bytes: &[u8], known: usize) -> Vec<u8> {
        self.at += bytes.len() as u64;
        self.last.extend(&bytes[known..]);
        self.last.drain(..self.last.len().saturating_sub(REMEMBERED));
        bytes[known..].to_vec()
    }
}

fn read(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from((to - from).min(PIECE)).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn find_last(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return None;
    }
    text.windows(what.len()).rposition(|window| window == what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn goes_on_after_growth_and_after_a_cut_without_saying_anything_twice() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut log = Follower::new(path.clone());
        assert_eq!(log.more().unwrap(), b"");
        let line = |n: i32| format!("this is line {n}\n");
        let text = |lines: std::ops::Range<i32>| lines.map(line).collect::<String>();
        std::fs::write(&path, text(0..100)).unwrap();
        assert_eq!(log.more().unwrap(), text(0..100).as_bytes());
        assert_eq!(log.more().unwrap(), b"");
        std::fs::write(&path, text(0..102)).unwrap();
        assert_eq!(log.more().unwrap(), text(100..102).as_bytes());
        // Cut to its newer half, and written on.
        std::fs::write(&path, text(50..104)).unwrap();
        assert_eq!(log.more().unwrap(), text(102..104).as_bytes());
        // Replaced by another one.
        std::fs::write(&path, "other\n").unwrap();
        assert_eq!(log.more().unwrap(), b"other\n");
        std::fs::write(&path, "other\nmore\n").unwrap();
        assert_eq!(log.more().unwrap(), b"more\n");
    }

    #[test]
    fn is_led_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        symlink("/etc/passwd", &path).unwrap();
        assert!(Follower::new(path.clone()).more().is_err());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(Follower::new(path).more().is_err());
    }
}
