use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::StoreError;
use crate::registry;
use crate::store::SCHEMA;

/// How long a call waits for another process that holds the database.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE sandboxes (
        name TEXT PRIMARY KEY,
        slot INTEGER NOT NULL UNIQUE,
        is_default INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX one_default ON sandboxes (is_default) WHERE is_default = 1;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        sandbox TEXT,
        kind TEXT NOT NULL,
        cause TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_sandbox ON events (sandbox, seq);
";

/// Open the database at this path, made when it is missing; see that it is whole and ours before anything is
/// written to it. `Corrupt` when it is not.
pub(crate) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::db(path, error);
    create_private(path).map_err(|error| StoreError::io(path, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY).map_err(failed)?;
    // One process at a time, so the log's index is on the heap. Mapped from a file, it would end the process by
    // SIGBUS at the first touch after the disk has become read-only.
    db.execute_batch("PRAGMA locking_mode = EXCLUSIVE").map_err(failed)?;
    // Until its version is known the file stays as it is: no checkpoint either when we let go of it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > SCHEMA {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, supported: SCHEMA });
    }
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    let tables: u32 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    // Tables without a version: somebody else's database.
    if verdict != "ok" || (version == 0 && tables > 0) {
        return Err(StoreError::Corrupt(path.to_owned()));
    }
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 4194304;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )
    .map_err(failed)?;
    if version == 0 {
        let create = db.transaction().map_err(failed)?;
        create.execute_batch(TABLES).map_err(failed)?;
        create.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
        create.commit().map_err(failed)?;
    }
    // Whole pages can still hold what is no record.
    registry::list(&db, path)?;
    Ok(db)
}

/// A database that is nowhere but in memory; `path` is where it would be.
pub(crate) fn in_memory(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::db(path, error);
    let db = Connection::open_in_memory().map_err(failed)?;
    db.execute_batch(TABLES).map_err(failed)?;
    Ok(db)
}

/// SQLite would make the file readable by others; its companions copy its mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(())
}
