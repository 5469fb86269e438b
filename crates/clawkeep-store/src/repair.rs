use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clawkeep_plan::SandboxName;

use crate::{SandboxRecord, Store, StoreError, atomic, journal, mirror, registry, unix_ms};

/// What [`Store::open`] had to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairNote {
    /// Where the damaged database was moved to. `None` when it was whole, or gone.
    pub damaged: Option<PathBuf>,
    /// Events of the journal that could still be read in it and were kept.
    pub events: usize,
    /// Sandboxes that were entered again from their record files.
    pub recovered: Vec<SandboxName>,
    /// Sandboxes whose record files could not be used either. Their directories are untouched.
    pub lost: Vec<Lost>,
}

/// A sandbox that is not in the registry, and whose record file is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its name.
    pub name: SandboxName,
    /// What is wrong with the file, for a person.
    pub why: String,
}

impl fmt::Display for RepairNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.damaged {
            Some(path) => write!(
                f,
                "the registry was damaged and a new one was made, with {} events of the old journal (the old one: {})",
                self.events,
                path.display()
            )?,
            None => f.write_str("the registry lacked sandboxes that are there")?,
        }
        let names: Vec<&str> = self.recovered.iter().map(SandboxName::as_str).collect();
        if !names.is_empty() {
            write!(f, "; entered again from their record files: {}", names.join(", "))?;
        }
        for lost in &self.lost {
            write!(f, "; sandbox {} cannot be entered again: {}", lost.name, lost.why)?;
        }
        Ok(())
    }
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Move the database and its companions to `<name>.corrupt-<time>`, which is returned.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let time = unix_ms();
    let aside = (time..)
        .map(|time| companion(path, &format!(".corrupt-{time}")))
        .find(|aside| !aside.exists())
        .expect("a free name");
    // The log first: a new database must never find an old log beside it, SQLite would play it back.
    for suffix in ["-wal", "-shm", ""] {
        let from = companion(path, suffix);
        match std::fs::rename(&from, companion(&aside, suffix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(|error| StoreError::io(&from, error))?,
        }
    }
    let dir = path.parent().unwrap_or(path);
    let synced = atomic::open_dir(dir).and_then(|dir| Ok(rustix::fs::fsync(dir)?));
    synced.map_err(|error| StoreError::io(dir, error))?;
    Ok(aside)
}

/// A log without its database belongs to one that was deleted: out of the way with it.
pub(crate) fn set_aside_orphans(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let exists = |path: &Path| std::fs::symlink_metadata(path).is_ok();
    if !exists(path) && (exists(&companion(path, "-wal")) || exists(&companion(path, "-shm"))) {
        return set_aside(path).map(Some);
    }
    Ok(None)
}

/// Bring the registry and the record files together. The registry wins where both know a sandbox; what only a
/// file knows is entered again.
pub(crate) fn reconcile(store: &Store, damaged: Option<PathBuf>) -> Result<Option<RepairNote>, StoreError> {
    let mut note = RepairNote { damaged, events: 0, recovered: Vec::new(), lost: Vec::new() };
    let saved = note.damaged.as_deref().map(journal::salvage).unwrap_or_default();
    store.write(|db| {
        note.events = journal::put_back(db, &saved).map_err(|error| store.failed(error))?;
        let records = registry::list(db, &store.path)?;
        let mut known: BTreeMap<SandboxName, SandboxRecord> =
            records.into_iter().map(|record| (record.name.clone(), record)).collect();
        let mut found = Vec::new();
        for name in directories(store)? {
            if let Ok(dir) = atomic::open_dir(store.home.sandbox(&name).root()) {
                let _ = atomic::sweep_all(&dir);
            }
            match (mirror::read(&store.home, &name), known.contains_key(&name)) {
                (Ok(Some(record)), false) => found.push(record),
                (Err(newer @ StoreError::Newer { .. }), false) => return Err(newer),
                // A crash came before anything was entered; what is not empty stays.
                (Ok(None), false) => drop(std::fs::remove_dir(store.home.sandbox(&name).root())),
                (Err(error), false) => note.lost.push(Lost { name, why: error.to_string() }),
                _ => {}
            }
        }
        found.sort_by_key(|record| record.created_at);
        for mut record in found {
            if known.values().any(|other| other.slot == record.slot) {
                let why = format!("its slot {} belongs to another sandbox", record.slot);
                note.lost.push(Lost { name: record.name, why });
                continue;
            }
            record.default &= !known.values().any(|other| other.default);
            registry::put(db, &store.path, &record)?;
            note.recovered.push(record.name.clone());
            known.insert(record.name.clone(), record);
        }
        if let Some(first) = known.values().min_by_key(|record| record.created_at).cloned()
            && !known.values().any(|record| record.default)
        {
            let record = SandboxRecord { default: true, ..first };
            registry::put(db, &store.path, &record)?;
            known.insert(record.name.clone(), record);
        }
        for record in known.values() {
            if mirror::read(&store.home, &record.name).ok().flatten().as_ref() != Some(record) {
                // A full disk must not keep the registry from opening; the next update writes it.
                let _ = mirror::write(&store.home, record);
            }
        }
        Ok(())
    })?;
    let nothing = note.damaged.is_none() && note.recovered.is_empty() && note.lost.is_empty();
    Ok((!nothing).then_some(note))
}

/// The sandboxes that have a directory.
fn directories(store: &Store) -> Result<Vec<SandboxName>, StoreError> {
    let path = store.home.sandboxes();
    let failed = |error| StoreError::io(&path, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    names.sort();
    Ok(names)
}
