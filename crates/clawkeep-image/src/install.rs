use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clawkeep_plan::to_canonical_json;
use clawkeep_store::{atomic, staging};
use rustix::fs::Mode;

use crate::archive;
use crate::blob::Layout;
use crate::choose::{Chosen, architecture, choose};
use crate::entry::Budget;
use crate::error::ImageError;
use crate::files::{self, Depth};
use crate::image::{Image, RECORD, ROOT, Record, SOURCE};
use crate::layer::{Sum, apply};
use crate::start::Start;
use crate::tree::Tree;

/// What an installation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another installation is at work; this one waits for it.
    Waiting,
    /// Layers are verified and unpacked.
    Unpacking {
        /// Which, from 1.
        layer: usize,
        /// Of how many.
        of: usize,
        /// Written so far, of all layers.
        bytes: u64,
    },
    /// The disk takes it in.
    Syncing,
}

/// An image that is there, and stays at least for as long as this lives.
#[derive(Debug)]
pub struct Installed {
    /// The image.
    pub image: Image,
    /// Whether it was there before.
    pub cached: bool,
    /// How it says that it is started.
    pub start: Start,
    _lock: File,
}

/// The image for this machine in the layout at `source`, unpacked below `root` if it is not there. Blocks;
/// `progress` is called on this thread. `pause` waits at most for the time that it is given, and tells whether to
/// give up. Killed at any moment it leaves no image under a final name but a whole one.
///
/// # Errors
/// Why there is none; nothing is left of it then.
pub fn install(
    root: &Path,
    source: &Path,
    pause: &dyn Fn(Duration) -> bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Installed, ImageError> {
    let layout = Layout::open(source)?;
    let chosen = choose(&layout)?;
    let made = DirBuilder::new().recursive(true).mode(0o755).create(root);
    made.map_err(|error| ImageError::io("make", root, error))?;
    let lock =
        staging::lock(root, pause, &mut || progress(Progress::Waiting))?.ok_or(ImageError::Cancelled)?;
    let found = Image::find(root, chosen.digest);
    let mut name = chosen.name.clone();
    if let Some(image) = found {
        // To the last byte: who asks for it again may do so because it is damaged.
        if image.check(Depth::Contents).is_ok_and(|wrong| wrong.is_empty()) {
            return Ok(Installed { image, cached: true, start: chosen.start, _lock: lock });
        }
        // Those that have it already go by its record as it is.
        name = image.name().map(str::to_owned);
    }
    let source = std::path::absolute(source).unwrap_or_default();
    let image = unpack_whole(root, (&layout, &source), &chosen, name, pause, progress)?;
    Ok(Installed { image, cached: false, start: chosen.start, _lock: lock })
}

/// Unpack a damaged image anew, from the layout that it came from. Blocks. `Ok(false)` where that layout is not there
/// any more, or holds another image by now. It does not wait for somebody who unpacks one: a sandbox would wait with
/// it, or that somebody for the sandbox.
///
/// # Errors
/// Why it could not be; what was there is left. `Cancelled` if somebody else is unpacking.
pub fn repair(root: &Path, image: &Image) -> Result<bool, ImageError> {
    let Some(source) = image.source() else { return Ok(false) };
    let Ok(layout) = Layout::open(&source) else { return Ok(false) };
    let chosen = match choose(&layout) {
        Ok(chosen) if chosen.digest == image.digest() => chosen,
        Ok(_) | Err(_) => return Ok(false),
    };
    let _lock = staging::try_lock(root)?.ok_or(ImageError::Cancelled)?;
    let name = image.name().map(str::to_owned);
    let made = unpack_whole(root, (&layout, &source), &chosen, name, &|_| false, &mut |_| ())?;
    Ok(made.record().1 == image.record().1)
}

/// Under the lock: unpacked beside its place, and then put there.
fn unpack_whole(
    root: &Path,
    (layout, source): (&Layout, &Path),
    chosen: &Chosen,
    name: Option<String>,
    pause: &dyn Fn(Duration) -> bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    staging::sweep(root)?;
    let staged = staging::Staging::new(root, &chosen.digest.short())?;
    let tree = tree(&staged.dir(ROOT)?)?;
    let sum = unpack(layout, chosen, (&tree, staged.path()), pause, progress)?;
    if !tree.has("bin/sh") {
        return Err(ImageError::NoShell);
    }
    progress(Progress::Syncing);
    let listed = |error: io::Error| ImageError::io("list the files of", staged.path(), error);
    let top = atomic::open_dir(staged.path()).map_err(listed)?;
    let files = files::list(&top, tree.root()).map_err(listed)?;
    let record = Record {
        schema: 1,
        digest: chosen.digest,
        name,
        system: system(&tree),
        architecture: architecture().to_owned(),
        layers: chosen.manifest.layers.len() as u64,
        entries: sum.entries,
        bytes: sum.bytes,
        left_out: sum.left_out,
        files: Some(files),
    };
    let readable = Mode::from_raw_mode(0o644);
    atomic::write(&top, SOURCE, source.as_os_str().as_bytes(), readable).map_err(listed)?;
    let synced = |error: io::Error| ImageError::io("sync", staged.path(), error);
    // One call for the file system: tens of thousands of fsyncs take minutes.
    rustix::fs::syncfs(&top).map_err(|error| synced(error.into()))?;
    // Last, and on the disk before the name is: an image with a record is whole.
    atomic::write(&top, RECORD, to_canonical_json(&record).as_bytes(), readable).map_err(synced)?;
    staged.publish(root, &chosen.digest.to_string())?;
    let image = Image::find(root, chosen.digest);
    let gone = || ImageError::io("find", root, io::ErrorKind::NotFound.into());
    image.ok_or_else(gone)
}

fn tree(dir: &Path) -> Result<Tree, ImageError> {
    let failed = |error: io::Error| ImageError::io("open", dir, error);
    let opened = atomic::open_dir(dir).map_err(failed)?;
    rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(|error| failed(error.into()))?;
    Ok(Tree::new(opened))
}

fn unpack(
    layout: &Layout,
    chosen: &Chosen,
    (tree, into): (&Tree, &Path),
    pause: &dyn Fn(Duration) -> bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Sum, ImageError> {
    let layers = &chosen.manifest.layers;
    let (mut budget, mut sum, mut left) = (Budget::default(), Sum::default(), archive::MAX_BYTES);
    let mut told = Instant::now();
    for (layer, descriptor) in (1..).zip(layers) {
        let compression = descriptor.compression()?;
        let mut blob = layout.blob(descriptor)?;
        let label = descriptor.digest.to_string();
        let mut tick = |sum: &Sum| {
            if pause(Duration::ZERO) {
                return Err(ImageError::Cancelled);
            }
            if told.elapsed() > Duration::from_millis(200) {
                told = Instant::now();
                progress(Progress::Unpacking { layer, of: layers.len(), bytes: sum.bytes });
            }
            Ok(())
        };
        let content = archive::open(&mut blob, compression, &mut left);
        let applied = apply(tree, content, (&label, into), &mut budget, &mut sum, &mut tick);
        // A layer that cannot be unpacked because it is damaged is damaged, before anything else is said of it.
        match (applied, blob.finish()) {
            (Ok(()), finished) => finished?,
            (Err(ImageError::Malformed { .. }), Err(damaged)) => return Err(damaged),
            (Err(error), _) => return Err(error),
        }
    }
    Ok(sum)
}

/// What the image calls itself (os-release(5)): `debian 13`. Text of the image's, so it is tamed.
fn system(tree: &Tree) -> Option<String> {
    let text =
        tree.read("usr/lib/os-release", 16 * 1024).or_else(|| tree.read("etc/os-release", 16 * 1024))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let value: String = value.trim_matches('"').chars().filter(plain).take(32).collect();
        (!value.is_empty()).then_some(value)
    };
    let version = field("VERSION_ID").map(|version| format!(" {version}")).unwrap_or_default();
    Some(field("ID")? + &version)
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
