use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{Home, HomeError, RepairNote, StoreError, journal, lock, repair, schema};

/// The schema of the database and of the record files that this version writes.
pub const SCHEMA: u32 = 1;

/// The registry and the journal of one home, in one SQLite database. Every change that a call has reported as
/// done survives a power cut (WAL, synchronous=FULL). Share it behind an `Arc`; calls take turns.
///
/// Each record is also kept as `sandboxes/NAME/record.json`, from which a lost registry is made again.
#[derive(Debug)]
pub struct Store {
    pub(crate) home: Home,
    pub(crate) path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) db: Connection,
    /// Events appended since the last pruning, by sandbox.
    pub(crate) appended: HashMap<Option<SandboxName>, usize>,
    /// Why the database is in memory only, if it is.
    memory: Option<io::ErrorKind>,
}

/// What [`Store::open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The store, ready for use.
    pub store: Store,
    /// What had to be mended, `None` when all was well. Tell the operator.
    pub repaired: Option<RepairNote>,
}

impl Inner {
    pub(crate) fn in_memory(&self) -> bool {
        self.memory.is_some()
    }
}

impl Store {
    /// Open the store of this home, made when it is missing. A damaged database is moved aside and the
    /// registry made again from the record files; so is a missing one. One process opens at a time; the host
    /// process should hold [`Home::lock_daemon`], for a repair takes the file from whoever has it open.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later version wrote it, and nothing is changed then; others of
    /// [`StoreError`] when the disk does not do its work.
    pub fn open(home: &Home) -> Result<Opened, StoreError> {
        let (db, damaged, _turn) = open_db(home)?;
        let store = Self::of(home, db, None);
        let repaired = repair::reconcile(&store, damaged)?;
        store.sweep_events()?;
        Ok(Opened { store, repaired })
    }

    /// As [`Store::open`], but on a disk that takes nothing (`trouble`, from [`Home::open_as_it_is`]) the
    /// registry is put together in memory from the record files, where the database cannot be opened: what
    /// should run is known, nothing about it can be changed, and events are kept until [`Store::mend`] brings
    /// them to the disk.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_as_it_is(home: &Home, trouble: Option<&HomeError>) -> Result<Opened, StoreError> {
        let why = match trouble {
            Some(HomeError::ReadOnly(_)) => io::ErrorKind::ReadOnlyFilesystem,
            Some(_) => io::ErrorKind::StorageFull,
            None => return Self::open(home),
        };
        match Self::open(home) {
            Err(error @ (StoreError::Newer { .. } | StoreError::Busy(_))) => Err(error),
            Err(_) => {
                let db = schema::in_memory(&home.db())?;
                let store = Self::of(home, db, Some(why));
                repair::reconcile(&store, None)?;
                Ok(Opened { store, repaired: None })
            }
            opened => opened,
        }
    }

    fn of(home: &Home, db: Connection, memory: Option<io::ErrorKind>) -> Self {
        let inner = Mutex::new(Inner { db, appended: HashMap::new(), memory });
        Self { home: home.clone(), path: home.db(), inner }
    }

    /// Whether it is in memory only, as [`Store::open_as_it_is`] tells.
    pub fn in_memory(&self) -> bool {
        self.lock().in_memory()
    }

    /// Open the database on the disk, if it is in memory only, and bring the events there.
    ///
    /// # Errors
    /// As [`Store::open`]; everything is as before then.
    pub fn mend(&self) -> Result<Option<RepairNote>, StoreError> {
        let mut inner = self.lock();
        let Some(why) = inner.memory else { return Ok(None) };
        let (mut db, damaged, _turn) = open_db(&self.home).map_err(|error| match error {
            // Whatever SQLite calls it.
            StoreError::Database { path, .. } => StoreError::io(&path, why.into()),
            other => other,
        })?;
        journal::move_all(&inner.db, &mut db).map_err(|error| self.failed(error))?;
        inner.db = db;
        inner.memory = None;
        drop(inner);
        repair::reconcile(self, damaged)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in an update's closure rolled its transaction back, so what is behind the lock is sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, error: rusqlite::Error) -> StoreError {
        StoreError::db(&self.path, error)
    }

    /// As [`Store::write`], for what must be on the disk.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.mend()?;
        self.write(change)
    }

    /// Run `change` in one transaction that has the write lock from its beginning.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut inner = self.lock();
        let transaction = inner
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.failed(error))?;
        let result = change(&transaction)?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(result)
    }
}

/// The database of this home, where the damaged one lies that was there, and the turn to open it.
fn open_db(home: &Home) -> Result<(Connection, Option<PathBuf>, File), StoreError> {
    let path = home.db();
    let lock_path = home.root().join("run/store.lock");
    let turn = lock::wait_for(&lock_path).map_err(|error| StoreError::io(&lock_path, error))?;
    let mut damaged = repair::set_aside_orphans(&path)?;
    let db = match schema::open(&path) {
        Err(StoreError::Corrupt(_)) => {
            damaged = Some(repair::set_aside(&path)?);
            schema::open(&path)?
        }
        opened => opened?,
    };
    Ok((db, damaged, turn))
}
