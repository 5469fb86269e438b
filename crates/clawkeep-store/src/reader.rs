use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use crate::journal::query;
use crate::{Event, SCHEMA, StoreError};

/// How long a read waits for another process that holds the database.
const BUSY: Duration = Duration::from_secs(5);

/// Reads the journal of a home and changes nothing: beside a host process that runs, after one that died, and
/// where the disk cannot be written any more.
#[derive(Debug)]
pub struct JournalReader {
    db: Connection,
    path: PathBuf,
    complete: bool,
}

impl JournalReader {
    /// The journal of the home at this path; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later version wrote it, [`StoreError::Corrupt`], or the disk's.
    pub fn open(root: &Path) -> Result<Option<Self>, StoreError> {
        let path = root.join("clawkeep.db");
        match std::fs::symlink_metadata(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io(&path, error)),
            Ok(_) => {}
        }
        match Self::connect(&path, "") {
            // What was written last and what keeps readers and writers apart are in two more files, which
            // cannot be made here.
            Err(StoreError::ReadOnly(_) | StoreError::Database { .. }) => {
                Self::connect(&path, "&immutable=1")
            }
            opened => opened,
        }
    }

    fn connect(path: &Path, how: &str) -> Result<Option<Self>, StoreError> {
        let failed = |error| StoreError::db(path, error);
        // A URI's own characters must not be taken from the path (RFC 3986, section 2.1).
        let mut uri = String::from("file:");
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    uri.push(char::from(*byte));
                }
                byte => uri += &format!("%{byte:02x}"),
            }
        }
        uri += &format!("?mode=ro{how}");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let db = Connection::open_with_flags(&uri, flags).map_err(failed)?;
        db.busy_timeout(BUSY).map_err(failed)?;
        let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if version > SCHEMA {
            return Err(StoreError::Newer { path: path.to_owned(), found: version, supported: SCHEMA });
        }
        // Nothing was written yet.
        if version == 0 {
            return Ok(None);
        }
        db.query_row("SELECT count(*) FROM events WHERE seq < 0", [], |_| Ok(())).map_err(failed)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let unread = !how.is_empty() && std::fs::metadata(log).is_ok_and(|log| log.len() > 0);
        Ok(Some(Self { db, path: path.to_owned(), complete: !unread }))
    }

    /// Whether all that was written can be read. Not so on a disk that cannot be written, after a host process
    /// that died there: what it wrote last is missing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The sandbox that is meant when none is named.
    ///
    /// # Errors
    /// The disk's.
    pub fn default_sandbox(&self) -> Result<Option<SandboxName>, StoreError> {
        let name: Option<String> = self
            .db
            .query_row("SELECT name FROM sandboxes WHERE is_default = 1", [], |row| row.get(0))
            .optional()
            .map_err(|error| self.failed(error))?;
        Ok(name.and_then(|name| name.parse().ok()))
    }

    /// The last `n` events of a sandbox, oldest first; of all sandboxes and of none when `sandbox` is `None`.
    ///
    /// # Errors
    /// The disk's.
    pub fn tail(&self, sandbox: Option<&SandboxName>, n: usize) -> Result<Vec<Event>, StoreError> {
        let sql = "SELECT * FROM events WHERE ?1 IS NULL OR sandbox = ?1 ORDER BY seq DESC LIMIT ?2";
        let mut events = self.events(sql, sandbox, i64::try_from(n).unwrap_or(i64::MAX), None)?;
        events.reverse();
        Ok(events)
    }

    /// Those after number `seq`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The disk's.
    pub fn since(
        &self,
        sandbox: Option<&SandboxName>,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let sql =
            "SELECT * FROM events WHERE (?1 IS NULL OR sandbox = ?1) AND seq > ?3 ORDER BY seq LIMIT ?2";
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        self.events(sql, sandbox, i64::try_from(limit).unwrap_or(i64::MAX), Some(seq))
    }

    fn events(
        &self,
        sql: &str,
        sandbox: Option<&SandboxName>,
        limit: i64,
        seq: Option<i64>,
    ) -> Result<Vec<Event>, StoreError> {
        let name = sandbox.map(SandboxName::as_str);
        match seq {
            Some(seq) => query(&self.db, sql, params![name, limit, seq]),
            None => query(&self.db, sql, params![name, limit]),
        }
        .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        // A value of another type than it must have: somebody else wrote it.
        match error {
            rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::Utf8Error(..) => {
                StoreError::Corrupt(self.path.clone())
            }
            error if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                StoreError::ReadOnly(self.path.clone())
            }
            error => StoreError::db(&self.path, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use testkit::{Outcome, Reexec};

    use super::*;
    use crate::journal::tests::entry;
    use crate::record::tests::new;
    use crate::{Home, Store};

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn reads_beside_a_writer_and_makes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        // What a URI would take for its own.
        let root = temp.path().join("ho?me #%41");
        assert!(JournalReader::open(&root).unwrap().is_none());
        assert!(!root.exists());
        let home = Home::open(&root).unwrap();
        let store = Store::open(&home).unwrap().store;
        let reader = JournalReader::open(&root).unwrap().unwrap();
        assert_eq!(reader.default_sandbox().unwrap(), None);
        let (a, b) = (store.insert(new("a")).unwrap().name, store.insert(new("b")).unwrap().name);
        for n in 0..6 {
            store.append(&entry(Some(if n % 2 == 0 { "a" } else { "b" }), n)).unwrap();
        }
        assert_eq!(reader.default_sandbox().unwrap(), Some(a.clone()));
        assert_eq!(numbers(&reader.tail(Some(&a), 2).unwrap()), [3, 5]);
        assert_eq!(numbers(&reader.tail(None, 3).unwrap()), [4, 5, 6]);
        assert_eq!(numbers(&reader.since(None, 4, 9).unwrap()), [5, 6]);
        assert_eq!(numbers(&reader.since(Some(&b), 2, 1).unwrap()), [4]);
        assert_eq!(reader.tail(Some(&b), 1).unwrap(), store.tail(Some(&b), 1).unwrap());
        assert!(reader.is_complete());
    }

    #[test]
    fn a_newer_one_and_a_damaged_one_are_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(temp.path()).unwrap();
        drop(Store::open(&home).unwrap());
        let db = Connection::open(home.db()).unwrap();
        db.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        drop(db);
        assert!(matches!(JournalReader::open(temp.path()), Err(StoreError::Newer { .. })));
        let noise = vec![7; 8192];
        std::fs::write(home.db(), &noise).unwrap();
        assert!(matches!(JournalReader::open(temp.path()), Err(StoreError::Corrupt(_))));
        assert_eq!(std::fs::read(home.db()).unwrap(), noise);
    }

    #[test]
    fn reads_from_a_disk_that_cannot_be_written() {
        if Reexec::of("reader::tests::reads_from_a_disk_that_cannot_be_written").private_mounts().run()
            != Outcome::Inside
        {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (root, dead) = (temp.path().join("state"), temp.path().join("dead"));
        let home = Home::open(&root).unwrap();
        let store = Store::open(&home).unwrap().store;
        store.append(&entry(None, 0)).unwrap();
        // A copy made under way is what a crash leaves: a database and its log.
        std::fs::create_dir(&dead).unwrap();
        for name in ["clawkeep.db", "clawkeep.db-wal"] {
            std::fs::copy(root.join(name), dead.join(name)).unwrap();
        }
        drop(store);
        for (root, complete) in [(&root, true), (&dead, false)] {
            let mount = |options: &str| {
                let mut command = std::process::Command::new("mount");
                command.args(["-o", options]).arg(root).arg(root);
                assert!(command.status().unwrap().success(), "mount -o {options}");
            };
            mount("bind");
            mount("remount,ro,bind");
            let reader = JournalReader::open(root).unwrap();
            // Where only the log has the tables, there is nothing to read yet.
            let Some(reader) = reader else {
                assert!(!complete);
                continue;
            };
            assert_eq!(reader.is_complete(), complete);
            assert_eq!(reader.tail(None, 9).unwrap().len(), usize::from(complete));
        }
    }
}
