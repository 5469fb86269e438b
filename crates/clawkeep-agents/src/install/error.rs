use std::io;
use std::path::{Path, PathBuf};

use clawkeep_store::staging::StagingError;

/// Why an installation failed. Nothing half-made is left, whatever the reason.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no npm on the PATH.
    #[error("npm was not found on the PATH")]
    NpmMissing,
    /// No runtime for this machine.
    #[error("no Node.js runtime for {arch} is known for openclaw {version}")]
    UnsupportedMachine {
        /// The machine's architecture.
        arch: &'static str,
        /// The release.
        version: &'static str,
    },
    /// The registry cannot be reached.
    #[error("npm cannot reach its registry ({code})")]
    Offline {
        /// npm's or the system's code: `ENOTFOUND`.
        code: String,
    },
    /// The disk is full, or has too little room to begin.
    #[error("not enough disk space in {}{}", .at.display(), .missing.map_or(String::new(), |m| format!(": {} MB more are needed", m.div_ceil(1_000_000))))]
    DiskFull {
        /// Where the bundles lie.
        at: PathBuf,
        /// Bytes that are missing, where that is known before the start.
        missing: Option<u64>,
    },
    /// A file or directory may not be written or read.
    #[error("no permission: {what}")]
    NoPermission {
        /// Which, and what the system said.
        what: String,
    },
    /// Something other than the pinned version was installed.
    #[error("{package}: version {found} was installed where {wanted} is pinned")]
    WrongVersion {
        /// The npm package.
        package: String,
        /// What is there, `none` if nothing is.
        found: String,
        /// What is pinned.
        wanted: String,
    },
    /// The bytes that the registry served are not those that are pinned.
    #[error("{package}: what the registry served is not what is pinned (integrity mismatch)")]
    IntegrityMismatch {
        /// The npm package, as far as it is known.
        package: String,
    },
    /// The installed runtime does not start on this machine.
    #[error("node {version} does not start on this machine: {problem}")]
    NodeUnfit {
        /// The pinned version.
        version: String,
        /// What it said.
        problem: String,
    },
    /// The installed tree holds what a bundle must not hold.
    #[error("the installed tree is unfit for a bundle: {0}")]
    BadTree(String),
    /// npm failed for another reason.
    #[error("npm failed ({status}): {tail}")]
    NpmFailed {
        /// How it ended.
        status: String,
        /// The end of its error output, secrets removed.
        tail: String,
    },
    /// The operator cancelled.
    #[error("the installation was cancelled")]
    Cancelled,
    /// Something else about our own files.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl InstallError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NpmMissing => "npm-missing",
            Self::UnsupportedMachine { .. } => "unsupported-machine",
            Self::Offline { .. } => "offline",
            Self::DiskFull { .. } => "disk-full",
            Self::NoPermission { .. } => "no-permission",
            Self::WrongVersion { .. } => "wrong-version",
            Self::IntegrityMismatch { .. } => "integrity-mismatch",
            Self::NodeUnfit { .. } => "node-unfit",
            Self::BadTree(_) => "bad-tree",
            Self::NpmFailed { .. } => "npm-failed",
            Self::Cancelled => "cancelled",
            Self::Io { .. } => "io",
        }
    }

    /// What the operator can do next: one sentence.
    pub fn next_step(&self) -> String {
        match self {
            Self::NpmMissing => "install npm: `apt-get install npm` (Debian, Ubuntu), `dnf install npm` (Fedora), \
                 or Node.js 20 or later with npm, then run the same command again"
                .into(),
            Self::UnsupportedMachine { .. } => {
                "use a machine with an x86_64 or aarch64 processor, or `--agent command` with an agent of your own".into()
            }
            Self::Offline { .. } => "check the network, and npm's proxy and registry settings (`npm ping`), \
                 then run the same command again: what was fetched is kept"
                .into(),
            Self::DiskFull { at, .. } => {
                format!("free some space below {}, or set CLAWKEEP_HOME to a larger disk", at.display())
            }
            Self::NoPermission { .. } => {
                "run as the owner of that directory, or set CLAWKEEP_HOME to one that you may write".into()
            }
            Self::IntegrityMismatch { .. } => "do not use this registry or mirror until it is explained; \
                 see `npm config get registry`"
                .into(),
            Self::NodeUnfit { .. } => "the runtime needs glibc 2.28 or later (not musl): use such a system".into(),
            Self::WrongVersion { .. } | Self::BadTree(_) => {
                "run the same command again; if it stays so, look at npm's settings (`npm config list`)".into()
            }
            Self::NpmFailed { .. } => "run the same command again; if it fails again, update npm".into(),
            Self::Cancelled => "run the same command again: what was fetched is kept".into(),
            Self::Io { .. } => "look at the path that is named, then run the same command again".into(),
        }
    }

    /// An I/O error of our own, sorted into the class that the operator can act on.
    pub(super) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { at: path.to_owned(), missing: None }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoPermission { what: format!("{what} {}: {source}", path.display()) }
            }
            _ => Self::Io { what: format!("{what} {}", path.display()), source },
        }
    }
}

impl From<StagingError> for InstallError {
    fn from(StagingError { what, path, source }: StagingError) -> Self {
        Self::io(what, &path, source)
    }
}
