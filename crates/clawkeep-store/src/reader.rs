use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use crate::{Page, SCHEMA, Span, StoreError, journal};

/// How long a read waits for a process that holds the database. Not long: it has it for as long as it runs, and
/// can be asked.
const BUSY: Duration = Duration::from_millis(100);

/// Reads the journal of a home and changes nothing in it: where no host process runs, after one that died, and where
/// the disk cannot be written any more. Keep it no longer than for a read: no host process can start meanwhile.
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
    /// [`StoreError::Busy`] when a host process has it, [`StoreError::Newer`] when a later version wrote it,
    /// [`StoreError::Corrupt`], or the disk's.
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

    /// As [`Store::page`](crate::Store::page). Not `complete` on a disk that cannot be written, after a host
    /// process that died there: what it wrote last is missing.
    ///
    /// # Errors
    /// The disk's.
    pub fn page(&self, sandbox: Option<&SandboxName>, span: Span, limit: usize) -> Result<Page, StoreError> {
        let page = journal::page(&self.db, sandbox, span, limit).map_err(|error| self.failed(error))?;
        Ok(Page { complete: self.complete, ..page })
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

    fn names(root: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn reads_what_nobody_has_open_and_is_told_when_somebody_has() {
        let temp = tempfile::tempdir().unwrap();
        // What a URI would take for its own.
        let root = temp.path().join("ho?me #%41");
        assert!(JournalReader::open(&root).unwrap().is_none());
        assert!(!root.exists());
        let home = Home::open(&root).unwrap();
        assert!(JournalReader::open(&root).unwrap().is_none());
        assert!(!home.db().exists());
        let store = Store::open(&home).unwrap().store;
        let name = store.insert(new("a")).unwrap().name;
        for n in 0..4 {
            store.append(&entry((n % 2 == 0).then_some("a"), n)).unwrap();
        }
        let page = |sandbox| store.page(sandbox, Span::After(0), 9).unwrap();
        let (all, of_a, there) = (page(None), page(Some(&name)), names(&root));
        assert!(matches!(JournalReader::open(&root), Err(StoreError::Busy(_))));
        assert_eq!(names(&root), there);
        store.append(&entry(None, 4)).expect("the writer does not notice");
        drop(store);

        let bytes = std::fs::read(home.db()).unwrap();
        let reader = JournalReader::open(&root).unwrap().unwrap();
        assert_eq!(reader.default_sandbox().unwrap(), Some(name.clone()));
        assert_eq!(reader.page(Some(&name), Span::After(0), 9).unwrap(), Page { newest: 5, ..of_a });
        let read = reader.page(None, Span::Before(5), 9).unwrap();
        assert_eq!(read, Page { newest: 5, ..all });
        drop(reader);
        assert_eq!(std::fs::read(home.db()).unwrap(), bytes);
        assert_eq!(Store::open(&home).unwrap().repaired, None);
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
            let page = reader.page(None, Span::After(0), 9).unwrap();
            assert_eq!(page.complete, complete);
            assert_eq!(page.events.len(), usize::from(complete));
        }
    }
}
