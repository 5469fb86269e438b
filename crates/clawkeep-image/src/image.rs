use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clawkeep_plan::Digest;
use clawkeep_store::staging;
use serde::{Deserialize, Serialize};

/// The record of a complete image, at its top.
pub(crate) const RECORD: &str = "image.json";

/// The unpacked tree, beside the record.
pub(crate) const ROOT: &str = "root";

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
}

impl Image {
    /// The complete image with this manifest, if it is below `root`.
    pub fn find(root: &Path, digest: Digest) -> Option<Self> {
        let dir = root.join(digest.to_string());
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nofollow).open(dir.join(RECORD)).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let whole = dir.join(ROOT).symlink_metadata().is_ok_and(|found| found.is_dir());
        let ours = record.schema == 1 && record.digest == digest;
        (ours && whole).then(|| Self { dir, record, record_digest: Digest::of(&bytes) })
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> Digest {
        self.record.digest
    }

    /// The directory with its tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.join(ROOT)
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
/// installs one: the next call does it.
pub fn remove_unused(root: &Path, used: &BTreeSet<Digest>) {
    let Ok(Some(_lock)) = staging::try_lock(root) else { return };
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
}
