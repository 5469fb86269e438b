//! A sandbox's audit log: what the proxy decided, a line of JSON each, in two files of a bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The name of the newest part, in the sandbox's directory.
pub const AUDIT: &str = "audit.jsonl";

/// The name of the part before it.
const BEFORE: &str = "audit.1.jsonl";

/// The most that each of the two parts holds, in bytes.
const PART: u64 = 8 << 20;

/// The log, open for more.
pub struct AuditLog {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl AuditLog {
    /// The log in this directory of the host's, which no sandbox can write to.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        // The daemon's user alone: the hosts that an agent speaks to are nobody else's business.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(AUDIT))?;
        let size = file.metadata()?.len();
        Ok(Self { dir, file, size })
    }

    /// Append whole lines.
    ///
    /// # Errors
    /// The disk's. What was not written is lost; the next lines are tried again.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size + lines.len() as u64 > PART && self.size > 0 {
            std::fs::rename(self.dir.join(AUDIT), self.dir.join(BEFORE))?;
            *self = Self::open(self.dir.clone())?;
        }
        // A line that a full disk cut off must not run into the next one.
        let written = self.file.write_all(lines);
        if written.is_err() {
            self.file.set_len(self.size)?;
        } else {
            self.size += lines.len() as u64;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_lines_within_its_bound_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let line = |number: u64| format!("{{\"n\":{number:>1000}}}\n");
        let mut log = AuditLog::open(temp.path().to_owned()).unwrap();
        let all = 3 * PART / 1000;
        for number in 0..all {
            log.append(line(number).as_bytes()).unwrap();
            // A daemon that starts anew goes on where the last one was.
            if number % 5000 == 0 {
                log = AuditLog::open(temp.path().to_owned()).unwrap();
            }
        }
        let read = |name: &str| std::fs::read_to_string(temp.path().join(name)).unwrap();
        let text = read(BEFORE) + &read(AUDIT);
        assert!(text.len() as u64 <= 2 * PART && text.len() as u64 > PART);
        assert!(text.ends_with(&line(all - 1)));
        let kept = text.lines().count() as u64;
        assert_eq!(text, (all - kept..all).map(line).collect::<String>(), "whole lines in their order");
        let mode = std::fs::metadata(temp.path().join(AUDIT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
