//! What the store does when it is killed in the middle, when its file is damaged, and when the disk refuses.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clawkeep_plan::SandboxName;
use clawkeep_store::{
    Desired, Entry, Home, HomeError, JournalWriter, NewSandbox, SandboxRecord, Secret, SecretError, Secrets,
    Store, StoreError,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::json;
use testkit::{Outcome, Reexec, Seed};

const SOON: Duration = Duration::from_secs(60);

fn new(name: &str) -> NewSandbox {
    NewSandbox {
        name: name.parse().unwrap(),
        desired: Desired::Running,
        adapter: json!({"n": 0, "twin": 0}),
        route: json!({}),
        isolation: json!({}),
        policy: serde_json::Value::Null,
        dashboard_port: None,
        onboarding: false,
    }
}

fn entry(name: &str) -> Entry {
    Entry {
        at_ms: 1,
        sandbox: Some(name.parse().unwrap()),
        kind: "k".into(),
        cause: "c".repeat(900),
        data: json!({}),
    }
}

fn name(text: &str) -> SandboxName {
    text.parse().unwrap()
}

fn home() -> (tempfile::TempDir, Home) {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::open(&temp.path().join("home")).unwrap();
    (temp, home)
}

fn aside(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.root()).unwrap().map(|entry| entry.unwrap().path());
    let companions = ["-wal", "-shm"];
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let main = |path: &PathBuf| !companions.iter().any(|suffix| text(path).ends_with(suffix));
    entries.filter(|path| text(path).contains(".corrupt-") && main(path)).collect()
}

/// Counts what the record says it is at; both of its numbers are changed together.
fn count(record: &SandboxRecord) -> u64 {
    assert_eq!(record.adapter["n"], record.adapter["twin"]);
    record.adapter["n"].as_u64().unwrap()
}

/// Not a test by itself: the process that [`killed_at_any_moment`] kills. Says each update that is done.
#[test]
fn child_that_updates() {
    let Some(path) = std::env::var_os("CLAWKEEP_TEST_UPDATES") else { return };
    let home = Home::open(Path::new(&path)).unwrap();
    let store = Store::open(&home).unwrap().store;
    let (box_, mut out) = (name("box"), std::io::stdout());
    loop {
        let record = store
            .update(&box_, |record| {
                let next = count(record) + 1;
                record.adapter =
                    json!({"n": next, "twin": next, "filler": "x".repeat((next % 5000) as usize)});
            })
            .unwrap();
        // On a line of its own whatever the harness printed before.
        writeln!(out, "\ndone {}", count(&record)).unwrap();
        store.append(&entry("box")).unwrap();
        if store.insert(new("other")).is_err() {
            store.remove(&name("other")).unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment() {
    let mut rng = Seed::from_env_or_random().rng();
    let (_temp, home) = home();
    Store::open(&home).unwrap().store.insert(new("box")).unwrap();
    for round in 0..30 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_updates", "--exact", "--nocapture"])
            .env("CLAWKEEP_TEST_UPDATES", home.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let done = |line: String| line.strip_prefix("done ").and_then(|n| n.parse::<u64>().ok());
        let wait_for = usize::try_from(rng.within(0..12)).unwrap();
        let mut acknowledged = lines.by_ref().filter_map(done).nth(wait_for).expect("the child works");
        testkit::pause(Duration::from_micros(rng.within(0..4_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(done).last().unwrap_or(acknowledged);

        // Every third time the database is lost as well, and the record file has to do.
        let lost = round % 3 == 2;
        if lost {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", home.db().display()));
            }
        }
        let opened = Store::open(&home).unwrap();
        let repaired = opened.repaired.clone();
        assert_eq!(aside(&home), Vec::<PathBuf>::new());
        let record = opened.store.get(&name("box")).unwrap();
        assert!(count(&record) >= acknowledged, "round {round}: {} < {acknowledged}", count(&record));
        assert!(count(&record) <= acknowledged + 1);
        assert!(record.default);
        if lost {
            assert!(repaired.is_some_and(|note| note.recovered.contains(&name("box"))));
        }
        for record in opened.store.list().unwrap() {
            let file = home.sandbox(&record.name).root().join("record.json");
            let file: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            assert_eq!(file, json!({"schema": 1, "record": record}));
        }
        for event in opened.store.tail(None, usize::MAX).unwrap() {
            assert_eq!(event.entry.cause.len(), 900);
        }
    }
}

#[test]
fn a_newer_registry_is_refused_and_left_alone() {
    let (_temp, home) = home();
    let store = Store::open(&home).unwrap().store;
    store.insert(new("box")).unwrap();
    drop(store);
    // The user version is a big-endian word at byte 60 of the file (SQLite file format 1.3).
    let db = std::fs::OpenOptions::new().read(true).write(true).open(home.db()).unwrap();
    db.write_all_at(&7_u32.to_be_bytes(), 60).unwrap();
    let before = std::fs::read(home.db()).unwrap();
    let error = Store::open(&home).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains("schema 7, this one knows 1"));
    assert_eq!(std::fs::read(home.db()).unwrap(), before);
    assert_eq!(aside(&home), Vec::<PathBuf>::new());

    // So is a record file of a newer version, when the registry is gone.
    std::fs::remove_file(home.db()).unwrap();
    let record = home.sandbox(&name("box")).root().join("record.json");
    let text = std::fs::read_to_string(&record).unwrap().replace("\"schema\": 1", "\"schema\": 8");
    std::fs::write(&record, &text).unwrap();
    assert!(matches!(Store::open(&home), Err(StoreError::Newer { found: 8, .. })));
    assert_eq!(std::fs::read_to_string(&record).unwrap(), text);
}

/// Something that happens to a database, and its name.
type Damage = (&'static str, fn(&Path));

#[test]
fn a_damaged_registry_is_made_again_from_the_record_files() {
    let damage: [Damage; 5] = [
        ("no database", |path| {
            std::fs::write(path, "not a database, but long enough for one".repeat(200)).unwrap()
        }),
        ("torn", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(5_000).unwrap();
        }),
        ("bad page", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&[0xa5; 3_000], 4096 + 8).unwrap();
        }),
        ("bad record", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let at = bytes.windows(9).position(|nine| nine == b"\"desired\"").unwrap();
            bytes[at] = b'x';
            std::fs::write(path, bytes).unwrap();
        }),
        ("another program's", |path| {
            std::fs::remove_file(path).unwrap();
            let other = rusqlite::Connection::open(path).unwrap();
            other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
        }),
    ];
    for (what, damage) in damage {
        let (_temp, home) = home();
        let store = Store::open(&home).unwrap().store;
        for text in ["a", "b", "c"] {
            store.insert(new(text)).unwrap();
        }
        store.set_default(&name("b")).unwrap();
        store.update(&name("c"), |record| record.desired = Desired::Stopped).unwrap();
        for n in 0..200 {
            store.append(&Entry { at_ms: n, ..entry("a") }).unwrap();
        }
        let before = store.list().unwrap();
        let events = store.tail(None, usize::MAX).unwrap();
        drop(store);
        damage(&home.db());
        let damaged = std::fs::read(home.db()).unwrap();

        let opened = Store::open(&home).unwrap();
        let note = opened.repaired.unwrap_or_else(|| panic!("{what}: no note"));
        assert_eq!(opened.store.list().unwrap(), before, "{what}");
        assert_eq!(note.recovered.len(), 3, "{what}");
        assert_eq!(note.lost, []);
        assert_eq!(aside(&home), [note.damaged.clone().unwrap()], "{what}");
        assert_eq!(std::fs::read(note.damaged.unwrap()).unwrap(), damaged);
        // Of the journal there is what can still be read, in its place, and it goes on behind it.
        let kept = opened.store.tail(None, usize::MAX).unwrap();
        assert_eq!(kept.len(), note.events);
        assert!(kept.iter().all(|event| events.contains(event)), "{what}");
        if what == "bad record" {
            assert_eq!(kept, events);
        }
        let last = kept.last().map_or(0, |event| event.seq);
        assert_eq!(opened.store.append(&entry("a")).unwrap(), last + 1, "{what}");
        drop(opened.store);
        assert_eq!(Store::open(&home).unwrap().repaired, None);
    }
}

#[test]
fn what_cannot_be_recovered_is_named() {
    let (_temp, home) = home();
    let store = Store::open(&home).unwrap().store;
    for text in ["a", "b", "c"] {
        store.insert(new(text)).unwrap();
    }
    store.set_default(&name("c")).unwrap();
    drop(store);
    std::fs::write(home.db(), "x".repeat(5_000)).unwrap();
    let file = |text: &str| home.sandbox(&name(text)).root().join("record.json");
    // One copied over from another sandbox, one that takes another's slot, one that is no record.
    std::fs::copy(file("b"), file("a")).unwrap();
    let stolen = std::fs::read_to_string(file("c")).unwrap().replace("\"slot\": 2", "\"slot\": 1");
    std::fs::write(file("c"), stolen).unwrap();
    home.sandbox(&name("d")).create().unwrap();
    std::os::unix::fs::symlink("/etc/hostname", file("d")).unwrap();
    std::fs::create_dir(home.sandboxes().join("Not a name")).unwrap();

    let opened = Store::open(&home).unwrap();
    let note = opened.repaired.unwrap();
    assert_eq!(note.recovered, [name("b")]);
    assert_eq!(note.lost.iter().map(|lost| lost.name.as_str()).collect::<Vec<_>>(), ["a", "d", "c"]);
    let text = note.to_string();
    assert!(text.contains("the record of another sandbox") && text.contains("slot 1"), "{text}");
    assert_eq!(opened.store.default().unwrap().unwrap().name, name("b"));
}

/// A tmpfs in the private mount namespace of the inner run, gone with its mount point when this is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=0700")).unwrap();
        let flags = MountFlags::empty();
        mount("clawkeep-test", place.path(), "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    if Reexec::of("a_full_disk_refuses_and_recovers").private_mounts().run() != Outcome::Inside {
        return;
    }
    let temp = Disk::of("3m");
    let home = Home::open(&temp.path().join("home")).unwrap();
    let store = Arc::new(Store::open(&home).unwrap().store);
    let record = store.insert(new("box")).unwrap();
    let secrets = Secrets::new(&home);
    secrets.put(&record.name, "K", &Secret::new("old")).unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let tell = Box::new(move |text: &str| tell.lock().unwrap().push(text.to_owned()));
    let writer = JournalWriter::start_with(Arc::clone(&store), 1_000, tell, Box::new(|_| ())).unwrap();
    writer.record(entry("box"));
    assert!(writer.flush(SOON));

    let filler = temp.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}

    let error = store.update(&record.name, |record| record.onboarding = true).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    let error = store.insert(new("other")).unwrap_err();
    assert!(matches!(error, StoreError::Full(_) | StoreError::Home(HomeError::Full(_))), "{error}");
    let error = secrets.put(&record.name, "K", &Secret::new("new")).unwrap_err();
    assert!(
        matches!(&error, SecretError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    );
    assert!(matches!(Home::open(home.root()), Err(HomeError::Full(_))));
    let (tight, trouble) = Home::open_as_it_is(home.root()).unwrap();
    assert!(matches!(trouble, Some(HomeError::Full(_))));
    assert_eq!(tight, home);
    for _ in 0..900 {
        writer.record(entry("box"));
    }
    assert!(writer.flush(SOON));
    let notes = std::mem::take(&mut *told.lock().unwrap());
    assert!(notes.len() == 1 && notes[0].contains("no space left"), "{notes:?}");
    let health = writer.health();
    assert!(health.failed > 0 && health.written + health.failed == 901, "{health:?}");
    assert!(health.error.is_some_and(|error| error.contains("no space left")));
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&record));
    assert_eq!(secrets.get(&record.name, "K").unwrap().unwrap().expose(), b"old");
    let left = std::fs::read_dir(home.sandbox(&record.name).root()).unwrap().count();
    assert_eq!(left, 1, "an unfinished file was left");

    // The next process finds all of it, on a disk as full as before.
    drop(writer);
    drop(Arc::try_unwrap(store).unwrap());
    while file.write_all(&[0; 4096]).is_ok() {}
    let opened = Store::open_as_it_is(&tight, trouble.as_ref()).unwrap();
    assert_eq!((opened.repaired, opened.store.list().unwrap()), (None, vec![record.clone()]));
    assert_eq!(opened.store.tail(None, 9).unwrap().len(), 1);
    let store = Arc::new(opened.store);
    let error = store.update(&record.name, |record| record.onboarding = true).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    told.lock().unwrap().clear();
    let tell = Arc::clone(&told);
    let tell = Box::new(move |text: &str| tell.lock().unwrap().push(text.to_owned()));
    let writer = JournalWriter::start_with(Arc::clone(&store), 1_000, tell, Box::new(|_| ())).unwrap();
    for _ in 0..900 {
        writer.record(entry("box"));
    }
    assert!(writer.flush(SOON));

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    writer.record(entry("box"));
    assert!(writer.flush(SOON));
    assert_eq!(writer.health().error, None);
    assert_eq!(told.lock().unwrap().len(), 2, "one notice of the loss, one of its end");
    store.update(&record.name, |record| record.onboarding = true).unwrap();
    store.insert(new("other")).unwrap();
    drop((writer, store));
    let opened = Store::open(&home).unwrap();
    assert_eq!(opened.repaired, None);
    assert_eq!(opened.store.list().unwrap().len(), 2);
}

#[test]
fn a_read_only_disk_is_named() {
    if Reexec::of("a_read_only_disk_is_named").private_mounts().run() != Outcome::Inside {
        return;
    }
    let temp = Disk::of("4m");
    let path = temp.path().join("home");
    let home = Home::open(&path).unwrap();
    let store = Store::open(&home).unwrap().store;
    let record = store.insert(new("box")).unwrap();
    drop(store);
    drop(home.lock_daemon().unwrap());
    mount_remount(temp.path(), MountFlags::RDONLY, c"").unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::ReadOnly(_))));
    assert!(matches!(Home::open(&temp.path().join("none")), Err(HomeError::ReadOnly(_))));
    assert!(matches!(Store::open(&home), Err(StoreError::ReadOnly(_))));

    // What is there serves all the same: the registry from memory, the lock without a write.
    let (as_it_is, trouble) = Home::open_as_it_is(&path).unwrap();
    assert!(matches!(trouble, Some(HomeError::ReadOnly(_))));
    assert_eq!(as_it_is.root(), home.root());
    assert!(Home::sockets_of(&path).contains(&as_it_is.socket()) && !as_it_is.run().starts_with(&path));
    std::fs::remove_dir(as_it_is.run()).unwrap();
    let _lock = as_it_is.lock_daemon().unwrap();
    assert!(home.lock_daemon().is_err());
    let store = Store::open_as_it_is(&as_it_is, trouble.as_ref()).unwrap().store;
    assert!(store.in_memory());
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&record));
    store.append(&entry("box")).unwrap();
    assert!(matches!(store.mend(), Err(StoreError::ReadOnly(_))));
    let refused = store.update(&record.name, |record| record.onboarding = true).unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused}");

    mount_remount(temp.path(), MountFlags::empty(), c"").unwrap();
    store.update(&record.name, |record| record.onboarding = true).unwrap();
    assert!(!store.in_memory());
    assert_eq!(store.tail(None, 9).unwrap().len(), 1);
    drop(store);
    let store = Store::open(&home).unwrap().store;
    assert!(store.get(&record.name).unwrap().onboarding);
    assert_eq!(store.tail(None, 9).unwrap().len(), 1);
}

#[test]
fn an_ordinary_user_is_told_what_it_may_not_write() {
    if Reexec::of("an_ordinary_user_is_told_what_it_may_not_write").user(65534).run() != Outcome::Inside {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("home");
    Home::open(&path).unwrap();
    std::fs::set_permissions(path.join("run"), std::fs::Permissions::from_mode(0o500)).unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::NotWritable(_))));
    assert!(matches!(Home::open(Path::new("/clawkeep-home")), Err(HomeError::NotWritable(_))));
    assert!(matches!(Home::open(Path::new("/")), Err(HomeError::Foreign { owner: 0, us: 65534, .. })));
    std::fs::set_permissions(path.join("run"), std::fs::Permissions::from_mode(0o700)).unwrap();
    Store::open(&Home::open(&path).unwrap()).unwrap().store.insert(new("box")).unwrap();
}

#[test]
fn a_store_has_one_process() {
    let (_temp, home) = home();
    let one = Store::open(&home).unwrap().store;
    one.insert(new("a")).unwrap();
    assert!(matches!(Store::open(&home), Err(StoreError::Busy(_))));
    assert_eq!(aside(&home), Vec::<PathBuf>::new());
    one.update(&name("a"), |record| record.onboarding = true).unwrap();
    drop(one);
    assert!(Store::open(&home).unwrap().store.get(&name("a")).unwrap().onboarding);
}
