//! Documents of a sandbox that were healthy once: what recovery goes back to.
//!
//! Each is one file whose name says all about it, `KIND.healthy.SEQ.MS.DIGEST`, in `snapshots/` of the
//! sandbox's directory on the host, where the sandbox cannot reach. There is no index that could disagree with
//! the files: the highest number is the newest, and a file counts only when its bytes have its digest.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clawkeep_plan::Digest;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use serde_json::{Value, json};

use crate::{HomeError, SandboxDirs, atomic, home, unix_ms};

/// How many healthy documents of a kind are kept, all different.
pub const KEPT_HEALTHY: usize = 5;

/// How many failed documents of a kind are kept, all different.
pub const KEPT_ASIDE: usize = 10;

/// The most that a document may be, in bytes.
pub const MAX_SNAPSHOT: usize = 4 * 1024 * 1024;

/// The most that a mark may be, in bytes of JSON.
pub const MAX_MARK: usize = 64 * 1024;

/// The most that is kept of the reason why a document was put aside, in bytes.
const MAX_WHY: usize = 16 * 1024;

const HEALTHY: &str = "healthy";
const ASIDE: &str = "aside";
const WHY: &str = "why";

/// The snapshots of one sandbox. All calls block; what they report as done survives a power cut.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

/// A document that was healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// The digest of the bytes, verified.
    pub digest: Digest,
    /// The document.
    pub bytes: Vec<u8>,
    /// Unix time in milliseconds at which it became the last healthy one.
    pub since_ms: u64,
    /// Newer ones that were passed over because they are torn or altered. Tell the operator.
    pub damaged: Vec<PathBuf>,
}

/// Why a snapshot was not kept or read. What was kept before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a word for a kind of document.
    #[error("{0:?} cannot name a kind of snapshot: use lowercase letters, digits and '-', at most 32")]
    BadKind(String),
    /// A document over [`MAX_SNAPSHOT`] or a mark over [`MAX_MARK`].
    #[error("a {kind} of {size} bytes is too large to keep: at most {most}")]
    TooLarge {
        /// The kind of document.
        kind: String,
        /// Its size in bytes.
        size: usize,
        /// The most that is kept.
        most: usize,
    },
    /// A mark that is there and is not what was written.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The directory is not as it must be.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file operation failed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// What the name of a document's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    seq: u64,
    since_ms: u64,
    digest: Digest,
    name: String,
}

impl Snapshots {
    /// The snapshots of the sandbox with these directories. Touches nothing: the directory is made by the
    /// first write, and reading where there is none finds nothing.
    pub fn of(sandbox: &SandboxDirs) -> Self {
        Self { root: sandbox.root().join("snapshots") }
    }

    /// Keep this as the last healthy document of its kind, together with the [`KEPT_HEALTHY`]` - 1` different
    /// ones before it. Nothing is written when it is the last healthy one already.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn put_healthy(&self, kind: &str, bytes: &[u8]) -> Result<Digest, SnapshotError> {
        check(kind, bytes.len(), MAX_SNAPSHOT)?;
        let digest = Digest::of(bytes);
        let dir = self.ready()?;
        let older = self.entries(&dir, kind, HEALTHY)?;
        if older.first().is_some_and(|newest| newest.digest == digest && intact(&dir, newest).is_some()) {
            return Ok(digest);
        }
        self.write(&dir, &name(kind, HEALTHY, next(&older), digest), bytes)?;
        // The new one is on the disk: now those go that it replaces, that are damaged, and that are too many.
        let mut kept = vec![digest];
        for entry in older {
            // One that cannot be read now may be whole all the same.
            let damaged = read(&dir, &entry.name).is_ok_and(|bytes| Digest::of(&bytes) != entry.digest);
            if damaged || kept.contains(&entry.digest) || kept.len() >= KEPT_HEALTHY {
                Self::remove(&dir, &entry.name);
            } else {
                kept.push(entry.digest);
            }
        }
        Ok(digest)
    }

    /// The last healthy document of its kind, `None` when there is none that is whole.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn healthy(&self, kind: &str) -> Result<Option<Healthy>, SnapshotError> {
        Ok(self.all_healthy(kind)?.into_iter().next())
    }

    /// All healthy documents of a kind that are whole, the last one first.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn all_healthy(&self, kind: &str) -> Result<Vec<Healthy>, SnapshotError> {
        check(kind, 0, MAX_SNAPSHOT)?;
        let Some(dir) = self.dir()? else { return Ok(Vec::new()) };
        let (mut found, mut damaged): (Vec<Healthy>, _) = (Vec::new(), Vec::new());
        for entry in self.entries(&dir, kind, HEALTHY)? {
            // A crash came before the older one of the same was removed.
            if found.iter().any(|newer| newer.digest == entry.digest) {
                continue;
            }
            match intact(&dir, &entry) {
                Some(bytes) => found.push(Healthy {
                    digest: entry.digest,
                    bytes,
                    since_ms: entry.since_ms,
                    damaged: damaged.clone(),
                }),
                None => damaged.push(self.root.join(&entry.name)),
            }
        }
        Ok(found)
    }

    /// Keep a document that failed, and why (without secrets), for the operator to look at; where it lies. One
    /// that was put aside already stays as it is, with its first reason.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn put_aside(&self, kind: &str, bytes: &[u8], why: &str) -> Result<PathBuf, SnapshotError> {
        check(kind, bytes.len(), MAX_SNAPSHOT)?;
        let digest = Digest::of(bytes);
        let dir = self.ready()?;
        let older = self.entries(&dir, kind, ASIDE)?;
        let same = older.iter().find(|entry| entry.digest == digest && intact(&dir, entry).is_some());
        if let Some(same) = same {
            return Ok(self.root.join(&same.name));
        }
        let name = name(kind, ASIDE, next(&older), digest);
        // The reason first: a document never lies there without one.
        let cut = (0..=MAX_WHY.min(why.len())).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        self.write(&dir, &format!("{name}.{WHY}"), &why.as_bytes()[..cut])?;
        self.write(&dir, &name, bytes)?;
        for entry in older.iter().skip(KEPT_ASIDE - 1) {
            Self::remove(&dir, &entry.name);
            Self::remove(&dir, &format!("{}.{WHY}", entry.name));
        }
        Ok(self.root.join(name))
    }

    /// Keep a small value under this word, over an older one.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn set_mark(&self, kind: &str, value: &Value) -> Result<(), SnapshotError> {
        let text = value.to_string();
        check(kind, text.len(), MAX_MARK)?;
        let dir = self.ready()?;
        let file = json!({"digest": Digest::of(text.as_bytes()), "value": text});
        self.write(&dir, &mark_name(kind), file.to_string().as_bytes())
    }

    /// The value under this word, `None` when there is none.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when it is not what was written; setting it again mends that.
    pub fn mark(&self, kind: &str) -> Result<Option<Value>, SnapshotError> {
        check(kind, 0, MAX_MARK)?;
        let Some(dir) = self.dir()? else { return Ok(None) };
        let name = mark_name(kind);
        let path = self.root.join(&name);
        let bytes = match read(&dir, &name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SnapshotError::Io { path, source }),
        };
        let value = || {
            let file: Value = serde_json::from_slice(&bytes).ok()?;
            let text = file.get("value")?.as_str()?;
            let digest: Digest = file.get("digest")?.as_str()?.parse().ok()?;
            (digest == Digest::of(text.as_bytes())).then(|| serde_json::from_str(text).ok())?
        };
        value().ok_or_else(|| SnapshotError::Damaged(path.clone())).map(Some)
    }

    /// The directory, made when it is missing, without what crashed writes left in it.
    fn ready(&self) -> Result<OwnedFd, SnapshotError> {
        home::own_dir(&self.root)?;
        let dir = atomic::open_dir(&self.root).map_err(|source| self.failed(source))?;
        let _ = atomic::sweep(&dir);
        Ok(dir)
    }

    fn dir(&self) -> Result<Option<OwnedFd>, SnapshotError> {
        match atomic::open_dir(&self.root) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The documents of one kind and fate, the newest first.
    fn entries(&self, dir: &OwnedFd, kind: &str, fate: &str) -> Result<Vec<Entry>, SnapshotError> {
        let mut entries = Vec::new();
        for found in Dir::read_from(dir).map_err(|error| self.failed(error.into()))? {
            let found = found.map_err(|error| self.failed(error.into()))?;
            entries.extend(found.file_name().to_str().ok().and_then(|name| parse(name, kind, fate)));
        }
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.seq, entry.since_ms, entry.digest)));
        Ok(entries)
    }

    fn write(&self, dir: &OwnedFd, name: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        atomic::write(dir, name, bytes, Mode::RUSR | Mode::WUSR)
            .map_err(|source| SnapshotError::Io { path: self.root.join(name), source })
    }

    /// Without a sync, and what fails is no failure of the write before it: what stays, or comes back after a
    /// power cut, is removed by the next write.
    fn remove(dir: &OwnedFd, name: &str) {
        let _ = unlinkat(dir, name, AtFlags::empty());
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.root.clone(), source }
    }
}

fn check(kind: &str, size: usize, most: usize) -> Result<(), SnapshotError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if kind.is_empty() || kind.len() > 32 || !kind.bytes().all(good) {
        return Err(SnapshotError::BadKind(kind.chars().take(80).collect()));
    }
    if size > most {
        return Err(SnapshotError::TooLarge { kind: kind.to_owned(), size, most });
    }
    Ok(())
}

fn name(kind: &str, fate: &str, seq: u64, digest: Digest) -> String {
    format!("{kind}.{fate}.{seq:012}.{}.{digest}", unix_ms())
}

fn mark_name(kind: &str) -> String {
    format!("{kind}.mark.json")
}

/// The order is by this number: clocks jump.
fn next(older: &[Entry]) -> u64 {
    older.first().map_or(1, |newest| newest.seq.saturating_add(1))
}

fn parse(name: &str, kind: &str, fate: &str) -> Option<Entry> {
    let rest = name.strip_prefix(kind)?.strip_prefix('.')?.strip_prefix(fate)?.strip_prefix('.')?;
    let mut parts = rest.splitn(3, '.');
    let seq = parts.next()?.parse().ok()?;
    let since_ms = parts.next()?.parse().ok()?;
    let digest = parts.next()?.parse().ok()?;
    Some(Entry { seq, since_ms, digest, name: name.to_owned() })
}

/// The bytes of a document, `None` when they are not what its name says.
fn intact(dir: &OwnedFd, entry: &Entry) -> Option<Vec<u8>> {
    read(dir, &entry.name).ok().filter(|bytes| Digest::of(bytes) == entry.digest)
}

fn read(dir: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = std::fs::File::from(openat(dir, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SNAPSHOT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a failed document was put aside for, `None` when nothing is written there.
pub fn why_aside(path: &Path) -> Option<String> {
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    let dir = atomic::open_dir(parent).ok()?;
    read(&dir, &format!("{name}.{WHY}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::Home;

    fn snapshots() -> (tempfile::TempDir, Snapshots) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let dirs = home.sandbox(&"box".parse().unwrap());
        dirs.create().unwrap();
        let snapshots = Snapshots::of(&dirs);
        (temp, snapshots)
    }

    fn files(snapshots: &Snapshots, part: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&snapshots.root).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains(part)).collect();
        files.sort();
        files
    }

    #[test]
    fn keeps_the_last_healthy_ones_and_writes_the_same_once() {
        let (_temp, snapshots) = snapshots();
        assert_eq!(snapshots.healthy("config").unwrap(), None);
        assert_eq!(snapshots.mark("version").unwrap(), None);
        let digest = snapshots.put_healthy("config", b"one").unwrap();
        let first = snapshots.healthy("config").unwrap().unwrap();
        assert_eq!((first.digest, &first.bytes[..]), (digest, &b"one"[..]));
        assert!(first.since_ms > 1_600_000_000_000);
        let before = files(&snapshots, "healthy");
        snapshots.put_healthy("config", b"one").unwrap();
        assert_eq!(files(&snapshots, "healthy"), before);
        assert_eq!(std::fs::metadata(&before[0]).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(&snapshots.root).unwrap().mode() & 0o7777, 0o700);
        for text in ["two", "three", "one", "four", "five", "six"] {
            snapshots.put_healthy("config", text.as_bytes()).unwrap();
        }
        snapshots.put_healthy("other", b"another kind").unwrap();
        let all = snapshots.all_healthy("config").unwrap();
        let texts: Vec<_> = all.iter().map(|healthy| std::str::from_utf8(&healthy.bytes).unwrap()).collect();
        assert_eq!(texts, ["six", "five", "four", "one", "three"]);
        assert_eq!(files(&snapshots, "config.healthy").len(), KEPT_HEALTHY);
    }

    #[test]
    fn the_order_survives_a_clock_that_is_set_back() {
        let (_temp, snapshots) = snapshots();
        snapshots.put_healthy("config", b"one").unwrap();
        let one = files(&snapshots, "healthy").remove(0);
        let future = format!("config.{HEALTHY}.{:012}.{}.{}", 1, u64::MAX, Digest::of(b"one"));
        std::fs::rename(one, snapshots.root.join(future)).unwrap();
        snapshots.put_healthy("config", b"two").unwrap();
        let all = snapshots.all_healthy("config").unwrap();
        assert_eq!(all.iter().map(|healthy| &healthy.bytes[..]).collect::<Vec<_>>(), [b"two", b"one"]);
        assert!(all[0].since_ms < all[1].since_ms);
    }

    #[test]
    fn a_damaged_one_is_passed_over_and_mended() {
        let (_temp, snapshots) = snapshots();
        snapshots.put_healthy("config", b"one").unwrap();
        snapshots.put_healthy("config", b"two").unwrap();
        let newest = files(&snapshots, "healthy").pop().unwrap();
        for damage in [&b"tw"[..], b"", b"twx", &[0; 3]] {
            std::fs::write(&newest, damage).unwrap();
            let found = snapshots.healthy("config").unwrap().unwrap();
            assert_eq!((&found.bytes[..], &found.damaged[..]), (&b"one"[..], &[newest.clone()][..]));
        }
        snapshots.put_healthy("config", b"two").unwrap();
        let found = snapshots.healthy("config").unwrap().unwrap();
        assert_eq!((&found.bytes[..], &found.damaged[..]), (&b"two"[..], &[][..]));
        // A symlink, a directory and a name that is none of ours are no documents.
        std::fs::remove_file(files(&snapshots, "healthy").pop().unwrap()).unwrap();
        let link = snapshots.root.join(name("config", HEALTHY, 90, Digest::of(b"one")));
        std::os::unix::fs::symlink(&files(&snapshots, "healthy")[0], &link).unwrap();
        std::fs::create_dir(snapshots.root.join(name("config", HEALTHY, 91, Digest::of(b"")))).unwrap();
        std::fs::write(snapshots.root.join("config.healthy.92.1.abc"), "").unwrap();
        assert_eq!(snapshots.healthy("config").unwrap().unwrap().damaged.len(), 2);
        assert_eq!(snapshots.healthy("config").unwrap().unwrap().bytes, b"one");
    }

    #[test]
    fn what_failed_is_kept_with_its_reason_and_bounded() {
        let (_temp, snapshots) = snapshots();
        let first = snapshots.put_aside("config", b"bad", "the gateway exited with 1").unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), b"bad");
        assert_eq!(why_aside(&first).unwrap(), "the gateway exited with 1");
        assert_eq!(snapshots.put_aside("config", b"bad", "another reason").unwrap(), first);
        assert_eq!(why_aside(&first).unwrap(), "the gateway exited with 1");
        let mut paths = vec![first];
        for n in 0..KEPT_ASIDE {
            let why = "é".repeat(MAX_WHY);
            paths.push(snapshots.put_aside("config", format!("bad {n}").as_bytes(), &why).unwrap());
        }
        let gone = paths.remove(0);
        assert!(!gone.exists() && why_aside(&gone).is_none());
        assert_eq!(files(&snapshots, "aside").len(), KEPT_ASIDE * 2);
        for path in paths {
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            assert_eq!(why_aside(&path).unwrap().len(), MAX_WHY);
        }
        assert_eq!(snapshots.healthy("config").unwrap(), None);
    }

    #[test]
    fn marks_are_replaced_and_damage_is_named() {
        let (_temp, snapshots) = snapshots();
        snapshots.set_mark("agent-version", &json!("2026.1.4")).unwrap();
        snapshots.set_mark("agent-version", &json!({"version": "2026.1.5"})).unwrap();
        assert_eq!(snapshots.mark("agent-version").unwrap(), Some(json!({"version": "2026.1.5"})));
        let path = snapshots.root.join("agent-version.mark.json");
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [text.replace("1.5", "1.6"), text[..text.len() / 2].to_owned(), String::new()] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(snapshots.mark("agent-version"), Err(SnapshotError::Damaged(p)) if p == path));
        }
        snapshots.set_mark("agent-version", &json!(null)).unwrap();
        assert_eq!(snapshots.mark("agent-version").unwrap(), Some(Value::Null));
    }

    #[test]
    fn bounds_kinds_and_sizes() {
        let (_temp, snapshots) = snapshots();
        for bad in ["", "a.b", "../x", "A", "a b", &"x".repeat(33)] {
            assert!(matches!(snapshots.put_healthy(bad, b""), Err(SnapshotError::BadKind(_))), "{bad:?}");
            assert!(matches!(snapshots.healthy(bad), Err(SnapshotError::BadKind(_))));
            assert!(matches!(snapshots.mark(bad), Err(SnapshotError::BadKind(_))));
        }
        let large = vec![b'x'; MAX_SNAPSHOT + 1];
        let error = snapshots.put_healthy("config", &large).unwrap_err();
        assert_eq!(error.to_string(), "a config of 4194305 bytes is too large to keep: at most 4194304");
        assert!(matches!(snapshots.put_aside("config", &large, ""), Err(SnapshotError::TooLarge { .. })));
        let value = json!("x".repeat(MAX_MARK));
        assert!(matches!(snapshots.set_mark("a", &value), Err(SnapshotError::TooLarge { .. })));
        assert!(!snapshots.root.exists());
        snapshots.put_healthy("config", &large[1..]).unwrap();
        assert_eq!(snapshots.healthy("config").unwrap().unwrap().bytes.len(), MAX_SNAPSHOT);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn holds_what_a_list_of_the_last_different_ones_holds(
            puts in proptest::collection::vec((0_u8..8, any::<bool>()), 0..24),
        ) {
            let (_temp, snapshots) = snapshots();
            // Oldest first; a document that is put again moves to the end.
            let mut model: VecDeque<u8> = VecDeque::new();
            for (content, damage) in puts {
                snapshots.put_healthy("config", &[content; 9]).unwrap();
                model.retain(|kept| *kept != content);
                model.push_back(content);
                if model.len() > KEPT_HEALTHY {
                    model.pop_front();
                }
                if damage {
                    let newest = files(&snapshots, "healthy").pop().unwrap();
                    std::fs::write(newest, [content; 8]).unwrap();
                    model.pop_back();
                }
                let all = snapshots.all_healthy("config").unwrap();
                let found: Vec<u8> = all.iter().map(|healthy| healthy.bytes[0]).rev().collect();
                prop_assert_eq!(&found, model.make_contiguous());
                prop_assert_eq!(all.iter().all(|healthy| healthy.damaged.len() == usize::from(damage)), true);
            }
        }
    }
}
