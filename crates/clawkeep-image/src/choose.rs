//! Which of the images in a layout is meant: the one for this machine.

use clawkeep_plan::Digest;

use crate::blob::Layout;
use crate::document::{Descriptor, Index, Manifest, Platform, parse};
use crate::error::ImageError;
use crate::start::Start;

/// Indexes in indexes.
const MAX_DEPTH: usize = 4;

/// Documents looked at in one layout.
const MAX_LOOKS: usize = 256;

/// Layers of one image; overlayfs takes no more either.
const MAX_LAYERS: usize = 500;

/// The chosen image.
#[derive(Debug)]
pub struct Chosen {
    /// Digest of its manifest, which covers every byte of it.
    pub digest: Digest,
    /// Its name in the layout, if it has one.
    pub name: Option<String>,
    pub manifest: Manifest,
    /// How it says that it is started.
    pub start: Start,
}

/// This machine's architecture by the specification's name, which is Go's.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Search<'a> {
    layout: &'a Layout,
    looks: usize,
    found: Vec<Chosen>,
    others: Vec<String>,
}

/// The one image for this machine.
///
/// # Errors
/// When there is none, or several; and what is wrong with the documents.
pub fn choose(layout: &Layout) -> Result<Chosen, ImageError> {
    let index: Index = parse("index.json", &layout.index()?)?;
    let mut search = Search { layout, looks: 0, found: Vec::new(), others: Vec::new() };
    search.index(index, None, 0)?;
    let Search { mut found, mut others, .. } = search;
    others.sort();
    others.dedup();
    match (found.pop(), found.is_empty()) {
        (Some(chosen), true) => Ok(chosen),
        (None, _) => Err(ImageError::NoManifest { wanted: architecture(), found: others }),
        (Some(last), false) => {
            found.push(last);
            let shown = |chosen: &Chosen| chosen.name.clone().unwrap_or_else(|| chosen.digest.to_string());
            Err(ImageError::Ambiguous { names: found.iter().map(shown).collect() })
        }
    }
}

impl Search<'_> {
    fn index(&mut self, index: Index, name: Option<&str>, depth: usize) -> Result<(), ImageError> {
        if depth > MAX_DEPTH {
            return Err(ImageError::TooLarge(format!("{MAX_DEPTH} indexes in one another")));
        }
        for descriptor in index.manifests {
            let name = named(&descriptor).or(name);
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                return Err(ImageError::TooLarge(format!("{MAX_LOOKS} manifests")));
            }
            match &descriptor.platform {
                Some(platform) if !is_ours(platform) => self.others.push(platform.shown()),
                _ if descriptor.is_index() => {
                    let bytes = self.layout.document(&descriptor)?;
                    self.index(parse("nested index", &bytes)?, name, depth + 1)?;
                }
                _ if descriptor.is_manifest() => self.manifest(&descriptor, name)?,
                // Signatures and the like lie beside images.
                _ => {}
            }
        }
        Ok(())
    }

    fn manifest(&mut self, descriptor: &Descriptor, name: Option<&str>) -> Result<(), ImageError> {
        let manifest: Manifest = parse("manifest", &self.layout.document(descriptor)?)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(ImageError::TooLarge(format!("{MAX_LAYERS} layers")));
        }
        // The configuration tells for what machine it is where the index does not, and more reliably.
        let config = self.layout.document(&manifest.config)?;
        let platform: Platform = parse("configuration", &config)?;
        if !is_ours(&platform) {
            self.others.push(platform.shown());
        } else if !self.found.iter().any(|found| found.digest == descriptor.digest) {
            let (name, start) = (name.map(str::to_owned), Start::of(&config)?);
            self.found.push(Chosen { digest: descriptor.digest, name, manifest, start });
        }
        Ok(())
    }
}

fn is_ours(platform: &Platform) -> bool {
    platform.os == "linux" && platform.architecture == architecture()
}

fn named(descriptor: &Descriptor) -> Option<&str> {
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
        .iter()
        .find_map(|key| descriptor.annotations.get(*key))
        .map(String::as_str)
}
