use std::io;
use std::path::{Path, PathBuf};

use clawkeep_plan::Digest;
use clawkeep_store::staging::StagingError;

/// Why an image cannot be a sandbox's system. Nothing half-made is left, whatever the reason.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is neither a layout's directory nor a tar of one.
    #[error("{} is no OCI image layout: {problem}", .path.display())]
    NotALayout {
        /// What was given.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// It is for other machines.
    #[error("the image has no manifest for linux/{wanted}; it has {}", if .found.is_empty() { "none at all".to_owned() } else { .found.join(", ") })]
    NoManifest {
        /// This machine, as the specification calls it.
        wanted: &'static str,
        /// What it is for.
        found: Vec<String>,
    },
    /// It has several for this machine.
    #[error("the layout holds {} images for this machine: {}", .names.len(), .names.join(", "))]
    Ambiguous {
        /// Their names or digests.
        names: Vec<String>,
    },
    /// A blob that is named is not there.
    #[error("the image's blob sha256:{0} is missing")]
    BlobMissing(Digest),
    /// A blob is not what its digest says.
    #[error("the image's blob sha256:{digest} is damaged: {problem}")]
    BlobDamaged {
        /// As it is named.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// A document or layer cannot be read.
    #[error("the image's {what} cannot be read: {problem}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something that the specification allows and this version does not know.
    #[error("the image uses what this version does not know: {0}")]
    Unsupported(String),
    /// A layer's entry that must not be unpacked.
    #[error("the image's entry {entry:?} {why}")]
    UnsafeEntry {
        /// Its name.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than any image of a system has.
    #[error("the image is too large: it has more than {0}")]
    TooLarge(String),
    /// Nobody could work in it.
    #[error("the image has no /bin/sh, which a sandbox needs")]
    NoShell,
    /// The disk is full.
    #[error("not enough disk space in {}", .0.display())]
    DiskFull(PathBuf),
    /// A file may not be read or written.
    #[error("no permission: {0}")]
    NoPermission(String),
    /// Something else about files of ours or of the image.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The operator cancelled.
    #[error("the unpacking was cancelled")]
    Cancelled,
}

impl ImageError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotALayout { .. } => "image-not-a-layout",
            Self::NoManifest { .. } => "image-wrong-architecture",
            Self::Ambiguous { .. } => "image-ambiguous",
            Self::BlobMissing(_) => "image-blob-missing",
            Self::BlobDamaged { .. } => "image-digest-wrong",
            Self::Malformed { .. } => "image-malformed",
            Self::Unsupported(_) => "image-unsupported",
            Self::UnsafeEntry { .. } => "image-unsafe-entry",
            Self::TooLarge(_) => "image-too-large",
            Self::NoShell => "image-no-shell",
            Self::DiskFull(_) => "disk-full",
            Self::NoPermission(_) => "no-permission",
            Self::Io { .. } => "io",
            Self::Cancelled => "cancelled",
        }
    }

    /// What the operator can do next: one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::NotALayout { .. } => "make one: skopeo copy docker://IMAGE oci:DIR",
            Self::NoManifest { .. } => {
                "fetch the image for this machine: skopeo --override-arch ARCH copy docker://IMAGE oci:DIR"
            }
            Self::Ambiguous { .. } => "give a layout that holds one image: skopeo copy oci:DIR:TAG oci:NEW",
            Self::BlobMissing(_) | Self::BlobDamaged { .. } | Self::Malformed { .. } => {
                "fetch the image again"
            }
            Self::Unsupported(_) => "convert the image: skopeo copy --format oci oci:DIR oci:NEW",
            Self::UnsafeEntry { .. } | Self::TooLarge(_) => "do not use this image",
            Self::NoShell => "use an image with a shell, such as debian:stable-slim or busybox",
            Self::DiskFull(_) => "free some space, or set CLAWKEEP_HOME to a larger disk",
            Self::NoPermission(_) | Self::Io { .. } => "look at the path that is named",
            Self::Cancelled => "run the same command again",
        }
    }

    /// An I/O error sorted into the class that the operator can act on.
    pub(crate) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path.to_owned()),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoPermission(format!("{what} {}: {source}", path.display()))
            }
            _ => Self::Io { what: format!("{what} {}", path.display()), source },
        }
    }
}

impl From<StagingError> for ImageError {
    fn from(StagingError { what, path, source }: StagingError) -> Self {
        Self::io(what, &path, source)
    }
}
