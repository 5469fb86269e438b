use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{Home, RepairNote, StoreError, lock, repair, schema};

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
}

/// What [`Store::open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The store, ready for use.
    pub store: Store,
    /// What had to be mended, `None` when all was well. Tell the operator.
    pub repaired: Option<RepairNote>,
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
        let path = home.db();
        let lock_path = home.run().join("store.lock");
        let _turn = lock::wait_for(&lock_path).map_err(|error| StoreError::io(&lock_path, error))?;
        let mut damaged = repair::set_aside_orphans(&path)?;
        let db = match schema::open(&path) {
            Err(StoreError::Corrupt(_)) => {
                damaged = Some(repair::set_aside(&path)?);
                schema::open(&path)?
            }
            opened => opened?,
        };
        let inner = Mutex::new(Inner { db, appended: HashMap::new() });
        let store = Self { home: home.clone(), path, inner };
        let repaired = repair::reconcile(&store, damaged)?;
        store.sweep_events()?;
        Ok(Opened { store, repaired })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in an update's closure rolled its transaction back, so what is behind the lock is sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, error: rusqlite::Error) -> StoreError {
        StoreError::db(&self.path, error)
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
