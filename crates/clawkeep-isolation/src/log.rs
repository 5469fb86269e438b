//! The gateway's log: appended across restarts, bounded, always the same file, so that a mount of it inside
//! stays valid.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A log file that cuts itself to its newer half when it grows over its limit.
#[derive(Debug)]
pub struct BoundedLog {
    file: File,
    size: u64,
    limit: u64,
}

impl BoundedLog {
    /// Go on with this file, whatever is in it.
    pub fn new(file: File, limit: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, limit: limit.max(4096) })
    }

    /// Append. A log that cannot be written (full disk) must not stop the agent: the bytes are dropped.
    pub fn append(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit as usize / 2)..];
        if self.size + bytes.len() as u64 > self.limit && self.cut().is_err() {
            return;
        }
        if self.file.write_all_at(bytes, self.size).is_ok() {
            self.size += bytes.len() as u64;
        }
    }

    /// Keep the newest half of the limit, from the start of a line.
    fn cut(&mut self) -> io::Result<()> {
        let mut from = self.size.saturating_sub(self.limit / 2);
        let mut block = vec![0_u8; 64 * 1024];
        let read = self.file.read_at(&mut block, from)?;
        if let Some(end) = block[..read].iter().position(|b| *b == b'\n') {
            from += end as u64 + 1;
        }
        let mut to = 0;
        while from < self.size {
            let read = self.file.read_at(&mut block, from)?;
            if read == 0 {
                break;
            }
            self.file.write_all_at(&block[..read], to)?;
            from += read as u64;
            to += read as u64;
        }
        self.file.set_len(to)?;
        self.size = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_limit_and_keeps_the_newest_whole_lines() {
        let file = tempfile::tempfile().unwrap();
        let mut log = BoundedLog::new(file.try_clone().unwrap(), 10_000).unwrap();
        for n in 0..5_000 {
            log.append(format!("line {n}\n").as_bytes());
            assert!(file.metadata().unwrap().len() <= 10_000);
        }
        let mut text = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut text, 0).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with("line 4999\n"), "{text}");
        assert!(text.starts_with("line "), "{text}");
        assert!(text.len() > 4_000);
    }

    #[test]
    fn goes_on_with_an_old_file_and_takes_one_huge_write() {
        let file = tempfile::tempfile().unwrap();
        BoundedLog::new(file.try_clone().unwrap(), 10_000).unwrap().append(b"before\n");
        let mut log = BoundedLog::new(file.try_clone().unwrap(), 10_000).unwrap();
        log.append(b"after\n");
        let mut text = vec![0; 13];
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(text, b"before\nafter\n");
        log.append(&vec![b'x'; 1_000_000]);
        assert!(file.metadata().unwrap().len() <= 10_000);
    }
}
