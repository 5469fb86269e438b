use std::collections::BTreeMap;
use std::path::Path;

use clawkeep_plan::SandboxName;
use rusqlite::{Connection, OpenFlags, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Store, StoreError};

/// How many events are kept of a sandbox, and of those that belong to none. A few hundred more may be there
/// between two prunings.
pub const PER_SANDBOX: usize = 5_000;

/// Events of one sandbox between two prunings of them.
const PRUNE_EVERY: usize = 256;

/// The most events that are read in a damaged journal from either end.
const MAX_SALVAGED: usize = 50_000;

/// The most that an event's cause may be, in bytes; what is beyond is cut off.
pub const MAX_CAUSE: usize = 4 * 1024;

/// The most that an event's data may be, in bytes of JSON; more is replaced by a note of its size.
pub const MAX_DATA: usize = 32 * 1024;

/// The most events of a page.
pub const MAX_PAGE: usize = 500;

/// The most that a page's events are together, in bytes of JSON, but for one that is more by itself.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// Something that happened or was decided, to be written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The sandbox that it concerns, `None` for the host process itself.
    pub sandbox: Option<SandboxName>,
    /// What kind of event, a short fixed word: `launched`.
    pub kind: String,
    /// Why, for a person.
    pub cause: String,
    /// What a replay needs. Free of secrets.
    pub data: Value,
}

/// An entry in its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; later events have higher ones, and none is used twice.
    pub seq: u64,
    /// What was written down.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Which events are wanted: those next to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Span {
    /// The first ones after it.
    After(u64),
    /// The last ones before it.
    Before(u64),
}

/// Some of the events of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Whether there are more on that side of the number.
    pub more: bool,
    /// The highest number that was given so far in this journal, to whatever event.
    pub newest: u64,
    /// Whether the journal is in memory only ([`Store::in_memory`]); its numbers are its own.
    pub in_memory: bool,
    /// Whether all that was written down before can be read in this journal.
    pub complete: bool,
}

impl Store {
    /// Write one entry down; its number. On the disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&self, entry: &Entry) -> Result<u64, StoreError> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// Write entries down, all or none, with one wait for the disk; the number of the last (0 for none).
    ///
    /// # Errors
    /// The disk's.
    pub fn append_all(&self, entries: &[Entry]) -> Result<u64, StoreError> {
        let last = self.write(|db| {
            for entry in entries {
                insert(db, entry).map_err(|error| self.failed(error))?;
            }
            Ok(if entries.is_empty() { 0 } else { db.last_insert_rowid() })
        })?;
        let mut inner = self.lock();
        for entry in entries {
            *inner.appended.entry(entry.sandbox.clone()).or_default() += 1;
        }
        let due: Vec<_> =
            inner.appended.iter().filter(|(_, n)| **n >= PRUNE_EVERY).map(|(s, _)| s.clone()).collect();
        for sandbox in due {
            // The entries are on the disk, so a pruning that fails is no failure of theirs: it is due again
            // with the next one.
            if prune(&inner.db, sandbox.as_ref()).is_ok() {
                inner.appended.remove(&sandbox);
            }
        }
        Ok(last.cast_unsigned())
    }

    /// The last `n` events of a sandbox, oldest first; of all sandboxes and of none when `sandbox` is `None`.
    ///
    /// # Errors
    /// The disk's.
    pub fn tail(&self, sandbox: Option<&SandboxName>, n: usize) -> Result<Vec<Event>, StoreError> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let inner = self.lock();
        let mut events: Vec<Event> = match sandbox {
            Some(name) => query(
                &inner.db,
                "SELECT * FROM events WHERE sandbox = ?1 ORDER BY seq DESC LIMIT ?2",
                params![name.as_str(), n],
            ),
            None => query(&inner.db, "SELECT * FROM events ORDER BY seq DESC LIMIT ?1", params![n]),
        }
        .map_err(|error| self.failed(error))?;
        events.reverse();
        Ok(events)
    }

    /// Some of the events of a sandbox; of all sandboxes and of none when `sandbox` is `None`. At most `limit`
    /// and [`MAX_PAGE`].
    ///
    /// # Errors
    /// The disk's.
    pub fn page(&self, sandbox: Option<&SandboxName>, span: Span, limit: usize) -> Result<Page, StoreError> {
        let inner = self.lock();
        let page = page(&inner.db, sandbox, span, limit).map_err(|error| self.failed(error))?;
        let in_memory = inner.in_memory();
        Ok(Page { in_memory, complete: !in_memory, ..page })
    }

    /// At opening: events of sandboxes that are no more go, and of the others those that are too many.
    pub(crate) fn sweep_events(&self) -> Result<(), StoreError> {
        let sweep = |db: &Connection| {
            let mut names = db.prepare("SELECT DISTINCT sandbox FROM events")?;
            let names: Vec<Option<String>> =
                names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for name in names {
                let known = "SELECT count(*) FROM sandboxes WHERE name = ?1";
                if name.is_some() && db.query_row(known, [&name], |row| row.get::<_, u32>(0))? == 0 {
                    db.execute("DELETE FROM events WHERE sandbox = ?1", [&name])?;
                } else {
                    prune(db, name.and_then(|name| name.parse().ok()).as_ref())?;
                }
            }
            Ok(())
        };
        match sweep(&self.lock().db).map_err(|error| self.failed(error)) {
            // Nothing that must be done now: a full disk must not keep the registry from opening.
            Err(StoreError::Full(_)) => Ok(()),
            done => done,
        }
    }
}

/// The events that can still be read in a damaged database: those before the damage and those behind it.
/// Whatever is wrong with it, none is no error.
pub(crate) fn salvage(path: &Path) -> Vec<Event> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let Ok(db) = Connection::open_with_flags(path, flags) else { return Vec::new() };
    let mut events = BTreeMap::new();
    // The index may be what is damaged, so the table alone is read.
    for order in ["", "DESC"] {
        let sql = format!("SELECT * FROM events NOT INDEXED ORDER BY seq {order} LIMIT {MAX_SALVAGED}");
        let Ok(mut select) = db.prepare(&sql) else { continue };
        let Ok(rows) = select.query_map([], event) else { continue };
        // Up to the first that cannot be read.
        events.extend(rows.map_while(Result::ok).filter(sound).map(|event| (event.seq, event)));
    }
    events.into_values().collect()
}

/// What damage may have made of an event must not get into a new journal.
fn sound(event: &Event) -> bool {
    let Entry { kind, cause, data, .. } = &event.entry;
    let word = kind.len() <= 64 && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    word && cause.len() <= MAX_CAUSE
        && !data.is_null()
        && i64::try_from(event.seq).is_ok_and(|seq| seq < i64::MAX / 2)
}

/// Put events in with their own numbers, where none has it; how many.
pub(crate) fn put_back(db: &Connection, events: &[Event]) -> rusqlite::Result<usize> {
    let mut put = db.prepare_cached("INSERT OR IGNORE INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let mut count = 0;
    for Event { seq, entry } in events {
        count += put.execute(params![
            seq.cast_signed(),
            entry.at_ms.cast_signed(),
            entry.sandbox.as_ref().map(SandboxName::as_str),
            entry.kind,
            entry.cause,
            entry.data.to_string()
        ])?;
    }
    Ok(count)
}

/// Append all events of one database to another, in one transaction.
pub(crate) fn move_all(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let events = query(from, "SELECT * FROM events ORDER BY seq", [])?;
    let transaction = to.transaction()?;
    for event in events {
        insert(&transaction, &event.entry)?;
    }
    transaction.commit()
}

fn insert(db: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let cut = (0..=MAX_CAUSE.min(entry.cause.len())).rev().find(|at| entry.cause.is_char_boundary(*at));
    let mut data = entry.data.to_string();
    if data.len() > MAX_DATA {
        data = json!({"left_out_bytes": data.len()}).to_string();
    }
    db.prepare_cached("INSERT INTO events (at_ms, sandbox, kind, cause, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            i64::try_from(entry.at_ms).unwrap_or(i64::MAX),
            entry.sandbox.as_ref().map(SandboxName::as_str),
            entry.kind,
            &entry.cause[..cut.unwrap_or(0)],
            data
        ])?;
    Ok(())
}

fn prune(db: &Connection, sandbox: Option<&SandboxName>) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM events WHERE sandbox IS ?1 AND seq <=
         (SELECT seq FROM events WHERE sandbox IS ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![sandbox.map(SandboxName::as_str), PER_SANDBOX as i64])?;
    Ok(())
}

/// A page of a journal in this database, with all of it.
pub(crate) fn page(
    db: &Connection,
    sandbox: Option<&SandboxName>,
    span: Span,
    limit: usize,
) -> rusqlite::Result<Page> {
    // The highest of all ever, whichever are left; and looked up before those that it is compared with.
    let newest = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'";
    let newest = db.query_row(newest, [], |row| row.get::<_, i64>(0))?.cast_unsigned();
    let (side, seq, order) = match span {
        Span::After(seq) => (">", seq, "ASC"),
        Span::Before(seq) => ("<", seq, "DESC"),
    };
    let whose = if sandbox.is_some() { "sandbox = ?1" } else { "?1 IS NULL" };
    let sql = format!("SELECT * FROM events WHERE {whose} AND seq {side} ?2 ORDER BY seq {order} LIMIT ?3");
    let limit = limit.min(MAX_PAGE);
    let mut select = db.prepare_cached(&sql)?;
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    let rows = select.query_map(params![sandbox.map(SandboxName::as_str), seq, limit as i64 + 1], event)?;
    let (mut events, mut more, mut bytes) = (Vec::new(), false, 0);
    for row in rows {
        let event = row?;
        bytes += serde_json::to_string(&event).map_or(0, |text| text.len());
        if events.len() == limit || (bytes > MAX_PAGE_BYTES && !events.is_empty()) {
            more = true;
            break;
        }
        events.push(event);
    }
    if order == "DESC" {
        events.reverse();
    }
    Ok(Page { events, more, newest, in_memory: false, complete: true })
}

pub(crate) fn query(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Event>> {
    db.prepare_cached(sql)?.query_map(params, event)?.collect()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let sandbox: Option<String> = row.get("sandbox")?;
    let data: String = row.get("data")?;
    let entry = Entry {
        at_ms: row.get::<_, i64>("at_ms")?.cast_unsigned(),
        sandbox: sandbox.and_then(|name| name.parse().ok()),
        kind: row.get("kind")?,
        cause: row.get("cause")?,
        data: serde_json::from_str(&data).unwrap_or(Value::Null),
    };
    Ok(Event { seq: row.get::<_, i64>("seq")?.cast_unsigned(), entry })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Home;
    use crate::record::tests::new;

    pub(crate) fn entry(sandbox: Option<&str>, n: usize) -> Entry {
        Entry {
            at_ms: 1_000 + n as u64,
            sandbox: sandbox.map(|name| name.parse().unwrap()),
            kind: "launched".into(),
            cause: format!("cause {n}"),
            data: json!({"n": n}),
        }
    }

    fn store() -> (tempfile::TempDir, Home, Store) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let store = Store::open(&home).unwrap().store;
        store.insert(new("a")).unwrap();
        (temp, home, store)
    }

    #[test]
    fn gives_events_back_in_order_and_by_sandbox() {
        let (_temp, _home, store) = store();
        let a: SandboxName = "a".parse().unwrap();
        for n in 0..6 {
            let seq = store.append(&entry((n % 2 == 0).then_some("a"), n)).unwrap();
            assert_eq!(seq, n as u64 + 1);
        }
        let seqs = |events: Vec<Event>| events.iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(seqs(store.tail(Some(&a), 2).unwrap()), [3, 5]);
        assert_eq!(seqs(store.tail(None, 3).unwrap()), [4, 5, 6]);
        assert_eq!(store.tail(Some(&a), 1).unwrap()[0].entry, entry(Some("a"), 4));
        assert_eq!(store.append_all(&[]).unwrap(), 0);
        let json = serde_json::to_value(&store.tail(None, 1).unwrap()[0]).unwrap();
        assert_eq!(
            json,
            json!({"seq": 6, "at_ms": 1005, "sandbox": null, "kind": "launched", "cause": "cause 5", "data": {"n": 5}})
        );
    }

    #[test]
    fn gives_pages_from_either_end() {
        let (_temp, _home, store) = store();
        let a: SandboxName = "a".parse().unwrap();
        for n in 0..6 {
            store.append(&entry((n % 2 == 0).then_some("a"), n)).unwrap();
        }
        let page = |sandbox, span, limit| {
            let page = store.page(sandbox, span, limit).unwrap();
            assert_eq!((page.newest, page.in_memory, page.complete), (6, false, true));
            (page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), page.more)
        };
        assert_eq!(page(None, Span::After(0), 2), (vec![1, 2], true));
        assert_eq!(page(None, Span::After(4), 2), (vec![5, 6], false));
        assert_eq!(page(Some(&a), Span::After(1), 9), (vec![3, 5], false));
        assert_eq!(page(None, Span::After(u64::MAX), 2), (vec![], false));
        assert_eq!(page(None, Span::Before(u64::MAX), 2), (vec![5, 6], true));
        assert_eq!(page(Some(&a), Span::Before(5), 2), (vec![1, 3], false));
        assert_eq!(page(None, Span::Before(3), 0), (vec![], true));
        assert_eq!(page(None, Span::Before(1), 2), (vec![], false));
        // A number that was given once is not the newest's again.
        store.remove(&a).unwrap();
        assert_eq!(page(None, Span::Before(u64::MAX), 9), (vec![2, 4, 6], false));
    }

    #[test]
    fn a_page_is_bounded() {
        let (_temp, _home, store) = store();
        let small: Vec<_> = (0..MAX_PAGE + 1).map(|n| entry(None, n)).collect();
        store.append_all(&small).unwrap();
        let page = store.page(None, Span::After(0), usize::MAX).unwrap();
        assert_eq!((page.events.len(), page.more), (MAX_PAGE, true));
        let big =
            Entry { data: json!("x".repeat(MAX_DATA - 2)), cause: "\n".repeat(MAX_CAUSE), ..entry(None, 0) };
        store.append_all(&vec![big; 40]).unwrap();
        let (mut before, mut read) = (u64::MAX, Vec::new());
        loop {
            let page = store.page(None, Span::Before(before), usize::MAX).unwrap();
            let bytes = serde_json::to_string(&page).unwrap().len();
            assert!(bytes < MAX_PAGE_BYTES + MAX_PAGE + 200, "{bytes}");
            before = page.events[0].seq;
            read.splice(0..0, page.events);
            if !page.more {
                break;
            }
        }
        assert_eq!(read, store.tail(None, usize::MAX).unwrap());
    }

    #[test]
    fn keeps_a_bounded_number_of_each() {
        let (_temp, home, store) = store();
        let a: SandboxName = "a".parse().unwrap();
        store.append(&entry(None, 0)).unwrap();
        let many: Vec<_> = (0..PER_SANDBOX + 700).map(|n| entry(Some("a"), n)).collect();
        for batch in many.chunks(100) {
            store.append_all(batch).unwrap();
            assert!(
                store.tail(Some(&a), usize::MAX).unwrap().len() < PER_SANDBOX + PRUNE_EVERY + batch.len()
            );
        }
        let last = store.tail(None, 1).unwrap()[0].seq;
        drop(store);
        let store = Store::open(&home).unwrap().store;
        let kept = store.tail(Some(&a), usize::MAX).unwrap();
        assert_eq!(kept.len(), PER_SANDBOX);
        assert_eq!(kept[0].entry, entry(Some("a"), 700));
        assert_eq!(store.page(None, Span::After(0), 1).unwrap().events[0].entry, entry(None, 0));
        store.remove(&a).unwrap();
        assert_eq!(store.tail(None, usize::MAX).unwrap().len(), 1);
        assert_eq!(store.append(&entry(Some("a"), 0)).unwrap(), last + 1);
        drop(store);
        let store = Store::open(&home).unwrap().store;
        assert_eq!(store.tail(Some(&a), 9).unwrap(), []);
    }

    #[test]
    fn cuts_what_is_too_long() {
        let (_temp, _home, store) = store();
        let long =
            Entry { cause: "é".repeat(MAX_CAUSE), data: json!("x".repeat(MAX_DATA)), ..entry(None, 0) };
        store.append(&long).unwrap();
        let event = store.tail(None, 1).unwrap().remove(0);
        assert_eq!(event.entry.cause, "é".repeat(MAX_CAUSE / 2));
        assert_eq!(event.entry.data, json!({"left_out_bytes": MAX_DATA + 2}));
    }
}
