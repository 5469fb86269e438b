use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use clawkeep_plan::{Digest, PinnedFile};
use serde::{Deserialize, Serialize};

use super::manifest::{self, Is};
use super::{InstallError, Release};
use crate::Cancel;

/// The record of a complete bundle, at its top.
pub(super) const RECORD: &str = "bundle.json";
/// The list of everything in it, beside the record.
pub(super) const MANIFEST: &str = "manifest.jsonl";
/// Below the bundle: the runtime and the agent's entry point.
pub(super) const NODE: &str = "bin/node";
pub(super) const ENTRY: &str = "app/node_modules/openclaw/openclaw.mjs";

/// An installed agent with its runtime: a directory that is never changed after it got its name, to be mounted
/// read-only into sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    dir: PathBuf,
    record: Record,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub schema: u32,
    pub agent: String,
    pub version: String,
    pub node_version: String,
    pub arch: String,
    /// Digest of the manifest's bytes.
    pub digest: Digest,
    pub files: u64,
    pub bytes: u64,
    pub node: Digest,
    pub entry: Digest,
}

/// A bundle that is not as its record says.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The record or the manifest cannot be read.
    #[error("bundle {dir}: {problem}", dir = .dir.display())]
    Unreadable {
        /// The bundle.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Entries that are missing, altered or added.
    #[error("bundle {dir} was altered: {} ({count} in all)", .examples.join(", "), dir = .dir.display())]
    Altered {
        /// The bundle.
        dir: PathBuf,
        /// How many entries.
        count: usize,
        /// The first few, by path.
        examples: Vec<String>,
    },
}

impl Bundle {
    /// The complete bundle of this release for this machine, if there is one. Looks at the record and at the
    /// presence of the two files that a launch needs; [`Self::pinned_files`] are verified at each launch and
    /// [`Self::verify_full`] looks at everything.
    pub fn find(root: &Path, release: &Release) -> Option<Self> {
        let node = release.node_here()?;
        let prefix = format!("openclaw-{}-node-{}-", release.version, node.version);
        let mut names: Vec<_> = fs::read_dir(root)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        names.sort();
        names.into_iter().find_map(|name| {
            let bundle = Self::open(&root.join(&name)).ok()?;
            let record = &bundle.record;
            let ours = record.version == release.version
                && record.node_version == node.version
                && record.arch == std::env::consts::ARCH
                && name == bundle.name();
            let whole = [NODE, ENTRY]
                .iter()
                .all(|f| bundle.dir.join(f).symlink_metadata().is_ok_and(|m| m.is_file()));
            (ours && whole).then_some(bundle)
        })
    }

    /// The bundle in this directory.
    ///
    /// # Errors
    /// [`BundleError::Unreadable`] when it has no record that this version understands.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let unreadable = |problem: String| BundleError::Unreadable { dir: dir.to_owned(), problem };
        let mut bytes = Vec::new();
        let file = File::open(dir.join(RECORD)).map_err(|e| unreadable(e.to_string()))?;
        file.take(64 * 1024).read_to_end(&mut bytes).map_err(|e| unreadable(e.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if record.schema != 1 {
            return Err(unreadable(format!("schema {} is not known", record.schema)));
        }
        Ok(Self { dir: dir.to_owned(), record })
    }

    pub(super) fn name_for(record: &Record) -> String {
        format!("openclaw-{}-node-{}-{}", record.version, record.node_version, record.digest.short())
    }

    /// Its name below the bundles' directory: `openclaw-2026.9.6-node-24.21.0-1f2e3d4c`.
    pub fn name(&self) -> String {
        Self::name_for(&self.record)
    }

    /// Its directory on the host, to be mounted at [`crate::AGENT_MOUNT`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The agent's version.
    pub fn version(&self) -> &str {
        &self.record.version
    }

    /// The version of its Node.js.
    pub fn node_version(&self) -> &str {
        &self.record.node_version
    }

    /// The digest of its manifest, which covers every byte, mode and name in it.
    pub fn digest(&self) -> Digest {
        self.record.digest
    }

    /// The sum of its files' sizes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// The files whose bytes each launch verifies: the runtime and the entry point.
    pub fn pinned_files(&self) -> Vec<PinnedFile> {
        [(NODE, self.record.node), (ENTRY, self.record.entry)]
            .into_iter()
            .map(|(path, digest)| PinnedFile {
                path: self.dir.join(path).to_string_lossy().into_owned(),
                digest,
            })
            .collect()
    }

    /// Look at everything: each file's bytes and mode, each link, nothing missing and nothing added. Takes
    /// about a second for a gigabyte.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify_full(&self) -> Result<(), BundleError> {
        let unreadable = |problem: String| BundleError::Unreadable { dir: self.dir.clone(), problem };
        let bytes = fs::read(self.dir.join(MANIFEST)).map_err(|e| unreadable(format!("{MANIFEST}: {e}")))?;
        if Digest::of(&bytes) != self.record.digest {
            return Err(unreadable(format!("{MANIFEST} is not the one of the record")));
        }
        let want = manifest::parse(&bytes).map_err(|e| unreadable(format!("{MANIFEST}: {e}")))?;
        let (have, _) =
            manifest::walk(&self.dir, &[RECORD, MANIFEST], false, &Cancel::default(), &mut |_| ())
                .map_err(|e: InstallError| unreadable(e.to_string()))?;
        let index = |entries: Vec<manifest::Entry>| -> BTreeMap<String, Is> {
            entries.into_iter().map(|entry| (entry.path, entry.is)).collect()
        };
        let (want, mut have) = (index(want), index(have));
        let mut wrong: Vec<String> = want
            .into_iter()
            .filter(|(path, is)| have.remove(path).as_ref() != Some(is))
            .map(|(p, _)| p)
            .collect();
        wrong.extend(have.into_keys());
        if wrong.is_empty() {
            return Ok(());
        }
        let count = wrong.len();
        wrong.truncate(5);
        Err(BundleError::Altered { dir: self.dir.clone(), count, examples: wrong })
    }
}
