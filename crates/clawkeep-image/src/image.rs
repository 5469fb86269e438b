use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::files::Depth;
use clawkeep_plan::Digest;
use clawkeep_store::staging;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

/// The record of a complete image, at its top.
pub(crate) const RECORD: &str = "image.json";

/// The unpacked tree, beside the record.
pub(crate) const ROOT: &str = "root";

/// What of an image a sandbox does not show: it has these itself.
const NOT_SHOWN: &[&str] =
    &["/dev", "/proc", "/run", "/sandbox", "/sys", "/tmp", "/opt/clawkeep", "/var/run", "/var/tmp"];

/// The path of the layout that it came from, beside the record: not part of what it is.
pub(crate) const SOURCE: &str = "source";

/// More than any record has, in bytes.
const MAX_RECORD: u64 = 64 * 1024;

/// An unpacked image: a directory that is never changed after it got its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    dir: PathBuf,
    record: Record,
    record_digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub schema: u32,
    /// Of the image's manifest, which covers every byte of it.
    pub digest: Digest,
    /// Its name in the layout that it came from.
    pub name: Option<String>,
    /// What it calls itself.
    pub system: Option<String>,
    pub architecture: String,
    pub layers: u64,
    pub entries: u64,
    pub bytes: u64,
    pub left_out: u64,
    /// Of the list of its files; those of before this was made have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Digest>,
}

impl Image {
    /// The complete image with this manifest, if it is below `root`.
    pub fn find(root: &Path, digest: Digest) -> Option<Self> {
        let dir = root.join(digest.to_string());
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nofollow).open(dir.join(RECORD)).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let whole = dir.join(ROOT).symlink_metadata().is_ok_and(|found| found.is_dir());
        let ours = record.schema == 1 && record.digest == digest;
        (ours && whole).then(|| Self { dir, record, record_digest: Digest::of(&bytes) })
    }

    /// Its name in the layout that it came from.
    pub(crate) fn name(&self) -> Option<&str> {
        self.record.name.as_deref()
    }

    /// The layout that it came from.
    pub(crate) fn source(&self) -> Option<PathBuf> {
        let path = fs::read(self.dir.join(SOURCE)).ok()?;
        Some(PathBuf::from(OsString::from_vec(path))).filter(|path| path.is_absolute())
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> Digest {
        self.record.digest
    }

    /// The directory with its tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.join(ROOT)
    }

    /// What in its tree is not as it was unpacked, by name, at most a few; nothing where it is whole, or was unpacked by
    /// a version that made no list.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn check(&self, depth: Depth) -> std::io::Result<Vec<String>> {
        match self.record.files {
            Some(files) => crate::files::check(&self.dir, &self.tree(), files, depth),
            None => Ok(Vec::new()),
        }
    }

    /// Where a program of this name is in it: an absolute path, or one that is looked for in the directories of `path`,
    /// separated by colons. Links lead where they lead inside.
    pub fn program(&self, word: &str, path: &str) -> Option<String> {
        let is_there = |path: &str| path.starts_with('/') && self.is(path, |kind| kind.is_file());
        if word.contains('/') {
            return is_there(word).then(|| word.to_owned());
        }
        path.split(':').map(|dir| format!("{dir}/{word}")).find(|path| !word.is_empty() && is_there(path))
    }

    /// Whether it has this directory, and a sandbox shows it: some places are the sandbox's own.
    pub fn shows_directory(&self, path: &str) -> bool {
        let below = |top: &&&str| path.strip_prefix(**top).is_some_and(|rest| rest.starts_with('/'));
        let is_ours = ["/sandbox", "/tmp"].contains(&path);
        is_ours || (!NOT_SHOWN.iter().any(|top| below(&top)) && self.is(path, |kind| kind.is_dir()))
    }

    fn is(&self, path: &str, of_kind: impl Fn(FileType) -> bool) -> bool {
        let look = || -> rustix::io::Result<bool> {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::open(self.tree(), flags | OFlags::DIRECTORY, Mode::empty())?;
            let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let found = rustix::fs::openat2(root, path, flags, Mode::empty(), how)?;
            Ok(of_kind(FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode)))
        };
        look().unwrap_or(false)
    }

    /// The file that says what it is, and the digest of that file. It is written last: without it there is no
    /// image.
    pub fn record(&self) -> (PathBuf, Digest) {
        (self.dir.join(RECORD), self.record_digest)
    }

    /// The sum of its files' sizes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// For a person: `image sha256:1f2e3d4c… (debian 13)`.
    pub fn title(&self) -> String {
        let system = self.record.system.as_ref().map(|system| format!(" ({system})")).unwrap_or_default();
        format!("image sha256:{}\u{2026}{system}", self.record.digest.short())
    }
}

/// Remove every image below `root` that is not in `used`, and what was left half-made. Does nothing while somebody
/// installs one, and gives `false`: the next call does it.
pub fn remove_unused(root: &Path, used: &BTreeSet<Digest>) -> bool {
    let _lock = match staging::try_lock(root) {
        Ok(Some(lock)) => lock,
        Ok(None) => return false,
        // There are none.
        Err(_) => return true,
    };
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let unused = match name.to_str().and_then(|name| name.parse::<Digest>().ok()) {
            Some(digest) => !used.contains(&digest),
            None => false,
        };
        if unused {
            // The record first: half of an image must not be found.
            let _ = fs::remove_file(entry.path().join(RECORD));
            // What cannot be removed now is removed with the next call.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let _ = staging::sweep(root);
    true
}
