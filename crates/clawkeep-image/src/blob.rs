//! Where an image's bytes come from: a layout's directory or a tar of one. Every blob is compared with its
//! digest and size while it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clawkeep_plan::Digest;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::document::{Descriptor, MAX_BYTES, parse};
use crate::error::ImageError;
use crate::way::Way;

/// Entries of a tar that is an image.
const MAX_ENTRIES: usize = 10_000;

/// An image layout (`image-layout.md`).
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(OwnedFd),
    /// The files in it: where each begins, and its length.
    Archive(File, HashMap<Vec<u8>, (u64, u64)>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// The layout at this path.
    ///
    /// # Errors
    /// [`ImageError::NotALayout`], and what the system says.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |error: io::Error| ImageError::io("open", path, error);
        let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let file = File::from(file);
        let kind = file.metadata().map_err(failed)?;
        let place = if kind.is_dir() {
            Place::Directory(file.into())
        } else if kind.is_file() {
            let files = list(&file).map_err(|error| not_a_layout(path, error.to_string()))?;
            Place::Archive(file, files)
        } else {
            return Err(not_a_layout(path, "it is neither a directory nor a file".to_owned()));
        };
        let layout = Self { path: path.to_owned(), place };
        let marker: Marker = parse("oci-layout", &layout.small("oci-layout")?)
            .map_err(|error| not_a_layout(path, error.to_string()))?;
        if marker.image_layout_version != "1.0.0" {
            return Err(ImageError::Unsupported(format!(
                "a layout of version {:?}",
                marker.image_layout_version
            )));
        }
        Ok(layout)
    }

    /// The bytes of `index.json`.
    pub fn index(&self) -> Result<Vec<u8>, ImageError> {
        self.small("index.json")
    }

    /// The whole of a document.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_BYTES {
            return Err(ImageError::TooLarge(format!("{MAX_BYTES} bytes in one document")));
        }
        let mut blob = self.blob(descriptor)?;
        let mut bytes = Vec::new();
        let read = (&mut blob).take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| ImageError::io("read", &self.path, error))?;
        blob.finish()?;
        Ok(bytes)
    }

    /// A blob, to be read and then to be [finished](Blob::finish).
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        let name = format!("blobs/sha256/{}", descriptor.digest);
        let (file, from, length) = self.file(&name)?.ok_or(ImageError::BlobMissing(descriptor.digest))?;
        if length != descriptor.size {
            let problem = format!("it has {length} bytes instead of {}", descriptor.size);
            return Err(ImageError::BlobDamaged { digest: descriptor.digest, problem });
        }
        Ok(Blob {
            path: self.path.clone(),
            digest: descriptor.digest,
            file,
            at: from,
            end: from + length,
            hasher: Sha256::new(),
        })
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let missing = || not_a_layout(&self.path, format!("it has no {name}"));
        let (file, from, length) = self.file(name)?.ok_or_else(missing)?;
        if length > MAX_BYTES {
            return Err(ImageError::TooLarge(format!("{MAX_BYTES} bytes in {name}")));
        }
        let mut bytes = vec![0; length as usize];
        let read = file.read_exact_at(&mut bytes, from);
        read.map_err(|error| ImageError::io("read", &self.path.join(name), error))?;
        Ok(bytes)
    }

    /// A file of the layout: open, where it begins, its length.
    fn file(&self, name: &str) -> Result<Option<(File, u64, u64)>, ImageError> {
        let failed = |error: io::Error| ImageError::io("read", &self.path.join(name), error);
        match &self.place {
            Place::Directory(dir) => {
                // A layout whose blobs are links (as some caches have them) would lead anywhere.
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = match rustix::fs::openat2(dir, name, flags, Mode::empty(), how) {
                    Ok(file) => File::from(file),
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(error) => return Err(failed(error.into())),
                };
                let kind = file.metadata().map_err(failed)?;
                Ok(kind.is_file().then_some((file, 0, kind.len())))
            }
            Place::Archive(file, files) => match files.get(name.as_bytes()) {
                Some((from, length)) => Ok(Some((file.try_clone().map_err(failed)?, *from, *length))),
                None => Ok(None),
            },
        }
    }
}

fn not_a_layout(path: &Path, problem: String) -> ImageError {
    ImageError::NotALayout { path: path.to_owned(), problem }
}

/// Where the files of an archive lie in it.
fn list(file: &File) -> io::Result<HashMap<Vec<u8>, (u64, u64)>> {
    let length = file.metadata()?.len();
    let mut files = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()?.raw(true) {
        let entry = entry?;
        if files.len() == MAX_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} entries")));
        }
        if entry.header().entry_type().is_file()
            && let Ok(Some(way)) = Way::parse(&entry.path_bytes())
        {
            let (from, size) = (entry.raw_file_position(), entry.size());
            if from.checked_add(size).is_none_or(|end| end > length) {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            files.insert(way.shown().into_bytes(), (from, size));
        }
    }
    Ok(files)
}

/// A blob that is being read.
#[derive(Debug)]
pub struct Blob {
    path: PathBuf,
    digest: Digest,
    file: File,
    at: u64,
    end: u64,
    hasher: Sha256,
}

impl Blob {
    /// Read what is left of it, and compare the whole with its digest.
    ///
    /// # Errors
    /// [`ImageError::BlobDamaged`].
    pub fn finish(mut self) -> Result<(), ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| ImageError::io("read", &self.path, error))?;
        let found: [u8; 32] = self.hasher.finalize().into();
        let wanted = self.digest.to_string();
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        if found == wanted {
            return Ok(());
        }
        let problem = format!("its bytes have the digest sha256:{found}");
        Err(ImageError::BlobDamaged { digest: self.digest, problem })
    }
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut into[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hasher.update(&into[..read]);
        self.at += read as u64;
        Ok(read)
    }
}
