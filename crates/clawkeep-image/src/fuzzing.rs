//! What an image's maker writes, for the fuzzer in `fuzz/`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::archive;
use crate::document::{Compression, Index, Manifest, Platform, parse};
use crate::entry::{Budget, Kind, each};
use crate::error::ImageError;
use crate::way::Way;

/// A layer, as it is and as compressed bytes.
///
/// # Panics
/// When an entry leads out.
pub fn layer(bytes: &[u8]) {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut left = 1 << 24;
        entries(archive::open(bytes, compression, &mut left));
    }
}

fn entries(content: impl Read) {
    let broken = |error: io::Error| archive::problem("x", error);
    let mut budget = Budget::default();
    // What is wrong with it is told; what matters is what comes before.
    let _ = each(content, &mut budget, &broken, &mut |entry, content| {
        leads_down(&entry.way);
        assert_eq!(entry.mode & !0o777, 0);
        match &entry.kind {
            Kind::HardLink(to) => leads_down(to),
            Kind::Symlink(target) => assert!(!target.is_empty() && !target.contains(&0)),
            Kind::File(size) => {
                let read = io::copy(content, &mut io::sink()).map_err(broken)?;
                assert!(read <= *size);
            }
            Kind::Directory | Kind::Special => {}
        }
        Ok::<(), ImageError>(())
    });
}

fn leads_down(way: &Way) {
    let (above, name) = way.split();
    let path = Path::new(above).join(name);
    assert!(path.components().count() > 0);
    assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    assert!(!OsStr::as_bytes(name).contains(&b'/') && !OsStr::as_bytes(name).contains(&0));
}

/// The documents.
pub fn layout(bytes: &[u8]) {
    let _ = parse::<Index>("index", bytes);
    let _ = parse::<Platform>("configuration", bytes);
    if let Ok(manifest) = parse::<Manifest>("manifest", bytes) {
        for layer in &manifest.layers {
            let _ = (layer.compression(), layer.is_index(), layer.is_manifest());
        }
    }
}
