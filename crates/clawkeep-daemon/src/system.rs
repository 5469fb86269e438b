//! The system of a sandbox: this host's, or an image's, with what a launch verifies of it.

use clawkeep_image::{Depth, Image, remove_unused, repair};
use clawkeep_isolation::{Mount, System, read_only};
use clawkeep_plan::{Digest, PinnedFile, SandboxName};
use clawkeep_store::{Home, SandboxRecord, Store};

use crate::api::Failure;
use crate::config::Config;

/// Where a sandbox sees the record of its image: a launch without it, or with another one, is refused.
const IMAGE_RECORD: &str = "/opt/clawkeep/image.json";

/// A system, and what pins it.
pub struct Base {
    pub system: System,
    pub pin: Option<(Mount, PinnedFile)>,
}

/// What a sandbox without an image has, or this one. `ours` are the files that we write into it.
pub fn base(
    home: &Home,
    name: &SandboxName,
    image: Option<Digest>,
    ours: &[(String, String)],
) -> Result<Base, Failure> {
    let Some(digest) = image else { return Ok(Base { system: System::of_this_host(), pin: None }) };
    let image = find(home, digest, Some(name))?;
    let system = System::of_image(&image.tree(), ours).map_err(|error| {
        let what = format!("the image sha256:{} cannot be shown: {error}", digest.short());
        Failure::new("image-unfit", what, "clawkeep onboard --help".to_owned())
    })?;
    let (record, digest) = image.record();
    let pin = (read_only(record, IMAGE_RECORD), PinnedFile { path: IMAGE_RECORD.into(), digest });
    Ok(Base { system, pin: Some(pin) })
}

/// The image, which must be there whole.
pub fn find(home: &Home, digest: Digest, of: Option<&SandboxName>) -> Result<Image, Failure> {
    Image::find(&home.images(), digest).ok_or_else(|| {
        let what = format!("the image sha256:{digest} is not there, or not whole");
        let name = of.map(|name| format!(" --recreate-sandbox --name {name}")).unwrap_or_default();
        Failure::new("image-missing", what, format!("clawkeep onboard --from PATH{name}"))
    })
}

/// See that an image is as it was unpacked, and unpack it anew from its layout where it is not; then what was wrong is
/// told. Blocks.
///
/// # Errors
/// `image-damaged`: it is not, and its layout is gone; `image-missing`.
pub fn whole_image(
    home: &Home,
    digest: Digest,
    of: &SandboxName,
    depth: Depth,
) -> Result<Option<String>, Failure> {
    let image = find(home, digest, Some(of))?;
    let wrong = match image.check(depth) {
        Ok(wrong) if wrong.is_empty() => return Ok(None),
        Ok(wrong) => wrong.join(", "),
        Err(error) => error.to_string(),
    };
    let next = format!("clawkeep {of} rebuild --yes --from PATH");
    let damaged = |why: &str| {
        let what = format!("{} is damaged ({wrong}) and {why}", image.title());
        Failure::new("image-damaged", what, next.clone())
    };
    match repair(&home.images(), &image) {
        Ok(true) => Ok(Some(format!("{} was damaged ({wrong}) and is unpacked anew", image.title()))),
        Ok(false) => Err(damaged("the layout that it came from is not there any more")),
        Err(error) => Err(damaged(&format!("could not be unpacked anew: {error}"))),
    }
}

/// For a person.
pub fn title(home: &Home, image: Option<Digest>) -> String {
    match image {
        None => "this host's /usr".to_owned(),
        Some(digest) => Image::find(&home.images(), digest).map_or_else(
            || format!("image sha256:{}\u{2026}, which is missing", digest.short()),
            |image| image.title(),
        ),
    }
}

/// Remove the images that no sandbox has; `false` where that has to wait for somebody who unpacks one. Blocks. What the
/// registry cannot tell for sure is left as it is.
pub fn sweep_images(home: &Home, store: &Store) -> bool {
    let Ok(records) = store.list() else { return true };
    let image = |record: &SandboxRecord| Config::of(record).map(|config| config.isolation.image);
    if let Ok(images) = records.iter().map(image).collect::<Result<Vec<_>, _>>() {
        return remove_unused(&home.images(), &images.into_iter().flatten().collect());
    }
    true
}
