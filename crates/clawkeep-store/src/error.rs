use std::io;
use std::path::{Path, PathBuf};

use clawkeep_plan::SandboxName;
use rusqlite::ErrorCode;

use crate::HomeError;

/// Why the registry or the journal did not do what was asked. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one of this name.
    #[error("there is already a sandbox {0}")]
    NameTaken(SandboxName),
    /// There is none of this name.
    #[error("there is no sandbox {0}")]
    NotFound(SandboxName),
    /// An update tried to change a name, slot, time of creation, or the default.
    #[error("the name, slot, creation time and default mark of sandbox {0} cannot be changed by an update")]
    IdentityChanged(SandboxName),
    /// Written by a later version of this program.
    #[error("{} was written by a newer clawkeep (schema {found}, this one knows {supported}): use that version", path.display())]
    Newer {
        /// The registry or record file.
        path: PathBuf,
        /// The schema it has.
        found: u32,
        /// The schema that this version writes.
        supported: u32,
    },
    /// No space or no quota left.
    #[error("no space left for {}", .0.display())]
    Full(PathBuf),
    /// On a file system that is mounted read-only.
    #[error("{} is on a read-only file system", .0.display())]
    ReadOnly(PathBuf),
    /// The database is damaged; opening the store again repairs it.
    #[error("{} is damaged: restart the daemon to repair it", .0.display())]
    Corrupt(PathBuf),
    /// Another process kept it locked for longer than we wait.
    #[error("{} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// A directory is not as it must be.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file operation failed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Anything else that SQLite says.
    #[error("database {}: {source}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(crate) fn db(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(path),
            Some(ErrorCode::ReadOnly) => Self::ReadOnly(path),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(path),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(path),
            _ => Self::Database { path, source },
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            _ => Self::Io { path, source },
        }
    }
}
