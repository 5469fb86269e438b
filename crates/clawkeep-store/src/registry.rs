use std::path::Path;

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{NewSandbox, SandboxRecord, Store, StoreError, mirror, unix_ms};

impl Store {
    /// Enter a new sandbox. It gets the lowest free slot; the first one of all becomes the default.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], or the disk's.
    pub fn insert(&self, new: NewSandbox) -> Result<SandboxRecord, StoreError> {
        self.change(|db| {
            let records = list(db, &self.path)?;
            if records.iter().any(|record| record.name == new.name) {
                return Err(StoreError::NameTaken(new.name));
            }
            let taken = |slot: &u32| records.iter().any(|record| record.slot == *slot);
            let slot = (0..).find(|slot| !taken(slot)).expect("fewer sandboxes than numbers");
            let record = SandboxRecord {
                name: new.name,
                slot,
                created_at: unix_ms(),
                desired: new.desired,
                adapter: new.adapter,
                route: new.route,
                isolation: new.isolation,
                policy: new.policy,
                dashboard_port: new.dashboard_port,
                default: !records.iter().any(|record| record.default),
                onboarding: new.onboarding,
            };
            put(db, &self.path, &record)?;
            mirror::write(&self.home, &record)?;
            Ok(record)
        })
    }

    /// The sandbox of this name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the disk's.
    pub fn get(&self, name: &SandboxName) -> Result<SandboxRecord, StoreError> {
        get(&self.lock().db, &self.path, name)
    }

    /// All sandboxes, by name.
    ///
    /// # Errors
    /// The disk's.
    pub fn list(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        list(&self.lock().db, &self.path)
    }

    /// Change a record. `change` runs under the store's lock: it must not call the store.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::IdentityChanged`] when what must not change was changed; or the
    /// disk's.
    pub fn update(
        &self,
        name: &SandboxName,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<SandboxRecord, StoreError> {
        self.change(|db| {
            let before = get(db, &self.path, name)?;
            let mut record = before.clone();
            change(&mut record);
            let identity = |r: &SandboxRecord| (r.name.clone(), r.slot, r.created_at, r.default);
            if identity(&before) != identity(&record) {
                return Err(StoreError::IdentityChanged(name.clone()));
            }
            put(db, &self.path, &record)?;
            mirror::write(&self.home, &record)?;
            Ok(record)
        })
    }

    /// Forget a sandbox, its record file and its events; its directories are the caller's. When it was the
    /// default, the oldest of the others becomes it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the disk's.
    pub fn remove(&self, name: &SandboxName) -> Result<SandboxRecord, StoreError> {
        self.change(|db| {
            let record = get(db, &self.path, name)?;
            // The file first: a crash between the two leaves a whole sandbox, never half of one that returns.
            mirror::remove(&self.home, name)?;
            let failed = |error| self.failed(error);
            db.execute("DELETE FROM sandboxes WHERE name = ?1", [name.as_str()]).map_err(failed)?;
            db.execute("DELETE FROM events WHERE sandbox = ?1", [name.as_str()]).map_err(failed)?;
            if record.default {
                let heir = list(db, &self.path)?.into_iter().min_by_key(|other| other.created_at);
                if let Some(heir) = heir {
                    self.mark(db, heir, true)?;
                }
            }
            Ok(record)
        })
    }

    /// Make this sandbox the one that commands without a name mean.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the disk's.
    pub fn set_default(&self, name: &SandboxName) -> Result<(), StoreError> {
        self.change(|db| {
            let record = get(db, &self.path, name)?;
            if record.default {
                return Ok(());
            }
            for old in list(db, &self.path)?.into_iter().filter(|old| old.default) {
                self.mark(db, old, false)?;
            }
            self.mark(db, record, true)
        })
    }

    /// The sandbox that commands without a name mean; `None` when there are none.
    ///
    /// # Errors
    /// The disk's.
    pub fn default(&self) -> Result<Option<SandboxRecord>, StoreError> {
        Ok(self.list()?.into_iter().find(|record| record.default))
    }

    fn mark(&self, db: &Transaction<'_>, mut record: SandboxRecord, default: bool) -> Result<(), StoreError> {
        record.default = default;
        put(db, &self.path, &record)?;
        mirror::write(&self.home, &record)
    }
}

/// Write one row, over an older one of the name.
pub(crate) fn put(db: &Connection, path: &Path, record: &SandboxRecord) -> Result<(), StoreError> {
    let text = serde_json::to_string(record).expect("a record is JSON");
    db.prepare_cached(
        "INSERT INTO sandboxes (name, slot, is_default, record) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET is_default = ?3, record = ?4",
    )
    .and_then(|mut put| put.execute(params![record.name.as_str(), record.slot, record.default, text]))
    .map_err(|error| StoreError::db(path, error))?;
    Ok(())
}

fn get(db: &Connection, path: &Path, name: &SandboxName) -> Result<SandboxRecord, StoreError> {
    let text: Option<String> = db
        .prepare_cached("SELECT record FROM sandboxes WHERE name = ?1")
        .and_then(|mut get| get.query_row([name.as_str()], |row| row.get(0)).optional())
        .map_err(|error| StoreError::db(path, error))?;
    let text = text.ok_or_else(|| StoreError::NotFound(name.clone()))?;
    serde_json::from_str(&text).map_err(|_| StoreError::Corrupt(path.to_owned()))
}

pub(crate) fn list(db: &Connection, path: &Path) -> Result<Vec<SandboxRecord>, StoreError> {
    let rows: Vec<(String, u32, bool, String)> = db
        .prepare_cached("SELECT name, slot, is_default, record FROM sandboxes ORDER BY name")
        .and_then(|mut list| {
            list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?.collect()
        })
        .map_err(|error| StoreError::db(path, error))?;
    let corrupt = || StoreError::Corrupt(path.to_owned());
    rows.into_iter()
        .map(|(name, slot, default, text)| {
            let record: SandboxRecord = serde_json::from_str(&text).map_err(|_| corrupt())?;
            let agrees = record.name.as_str() == name && record.slot == slot && record.default == default;
            if agrees { Ok(record) } else { Err(corrupt()) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::record::tests::{any_value, new};
    use crate::{Desired, Home};

    fn store() -> (tempfile::TempDir, Home, Store) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let opened = Store::open(&home).unwrap();
        assert_eq!(opened.repaired, None);
        (temp, home, opened.store)
    }

    fn name(text: &str) -> SandboxName {
        text.parse().unwrap()
    }

    #[test]
    fn keeps_what_was_entered_over_a_new_opening() {
        let (_temp, home, store) = store();
        let one = store.insert(new("one")).unwrap();
        assert_eq!((one.slot, one.default, one.onboarding), (0, true, true));
        assert!(one.created_at > 1_600_000_000_000);
        let updated = store
            .update(&one.name, |record| {
                record.desired = Desired::Stopped;
                record.adapter = json!({"n": 1});
            })
            .unwrap();
        assert_eq!(store.get(&one.name).unwrap(), updated);
        assert!(matches!(store.insert(new("one")), Err(StoreError::NameTaken(n)) if n == one.name));
        drop(store);
        let opened = Store::open(&home).unwrap();
        assert_eq!(opened.repaired, None);
        assert_eq!(opened.store.list().unwrap(), std::slice::from_ref(&updated));
        assert_eq!(mirror::read(&home, &one.name).unwrap(), Some(updated));
    }

    #[test]
    fn gives_the_lowest_free_slot() {
        let (_temp, _home, store) = store();
        for (index, text) in ["a", "b", "c"].iter().enumerate() {
            assert_eq!(store.insert(new(text)).unwrap().slot as usize, index);
        }
        store.remove(&name("b")).unwrap();
        assert_eq!(store.insert(new("d")).unwrap().slot, 1);
        assert_eq!(store.insert(new("e")).unwrap().slot, 3);
    }

    #[test]
    fn there_is_one_default_as_long_as_there_is_a_sandbox() {
        let (_temp, home, store) = store();
        assert_eq!(store.default().unwrap(), None);
        for text in ["a", "b", "c"] {
            store.insert(new(text)).unwrap();
        }
        store.set_default(&name("c")).unwrap();
        store.set_default(&name("c")).unwrap();
        let marked: Vec<_> = store.list().unwrap().into_iter().filter(|record| record.default).collect();
        assert_eq!(marked.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(!mirror::read(&home, &name("a")).unwrap().unwrap().default);
        store.remove(&name("c")).unwrap();
        assert_eq!(store.default().unwrap().unwrap().name, name("a"));
        store.remove(&name("a")).unwrap();
        store.remove(&name("b")).unwrap();
        assert_eq!(store.default().unwrap(), None);
        assert!(matches!(store.set_default(&name("a")), Err(StoreError::NotFound(_))));
    }

    #[test]
    fn what_fails_changes_nothing() {
        let (_temp, home, store) = store();
        let record = store.insert(new("a")).unwrap();
        let changes: [fn(&mut SandboxRecord); 4] =
            [|r| r.name = "b".parse().unwrap(), |r| r.slot = 9, |r| r.created_at = 1, |r| r.default = false];
        for change in changes {
            let error = store.update(&record.name, change).unwrap_err();
            assert!(matches!(error, StoreError::IdentityChanged(_)), "{error}");
        }
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            store.update(&record.name, |r| {
                r.onboarding = false;
                panic!("a mistake of the caller");
            })
        }));
        assert!(panicked.is_err());
        for missing in [store.get(&name("x")), store.update(&name("x"), |_| {}), store.remove(&name("x"))] {
            assert!(matches!(missing, Err(StoreError::NotFound(n)) if n == name("x")));
        }
        assert_eq!(store.get(&record.name).unwrap(), record);
        assert_eq!(mirror::read(&home, &record.name).unwrap(), Some(record.clone()));
        store.remove(&record.name).unwrap();
        assert_eq!(mirror::read(&home, &record.name).unwrap(), None);
        assert_eq!(store.list().unwrap(), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn opaque_values_come_back_as_they_were(adapter in any_value(), route in any_value()) {
            let (_temp, home, store) = store();
            let entered = NewSandbox { adapter: adapter.clone(), route: route.clone(), ..new("a") };
            let record = store.insert(entered).unwrap();
            prop_assert_eq!((&record.adapter, &record.route), (&adapter, &route));
            prop_assert_eq!(&store.get(&record.name).unwrap(), &record);
            prop_assert_eq!(mirror::read(&home, &record.name).unwrap(), Some(record));
        }
    }
}
