//! Whole installations from layouts that are made here.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clawkeep_plan::Digest;
use proptest::prelude::*;
use serde_json::json;
use testkit::layout::Layout;

use super::*;
use crate::remove_unused;

/// A layout that is being written, and the directory of the images.
struct Lab {
    dir: tempfile::TempDir,
    layout: Layout,
}

/// A layer's archive: name, type, content or target.
type Item<'a> = (&'a str, tar::EntryType, &'a str);

fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in items {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_gnu_mut().unwrap().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6775);
        header.set_mtime(1_000_000_000);
        let link = kind.is_symlink() || kind.is_hard_link();
        if link {
            header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let content = if link { "" } else { content };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// In two frames with one between them that says nothing.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let compress =
        |part: &[u8]| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [compress(first), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), compress(second)].concat()
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("layout"));
        Self { dir, layout }
    }

    /// With one image of these layers, given with what their media type ends with.
    fn of(layers: &[(&str, Vec<u8>)]) -> Self {
        let lab = Self::new();
        lab.layout.index(&[lab.layout.image(architecture(), layers)]);
        lab
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    fn install(&self) -> Result<Installed, ImageError> {
        install(&self.images(), self.layout.path(), &|_| false, &mut |_| ())
    }

    /// What lies in the images' directory, but for the lock.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.images()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != ".install.lock").collect()
    }
}

use tar::EntryType::{Block, Directory, Link, Regular, Symlink};

fn two_layers() -> [Vec<u8>; 2] {
    let below = archive(&[
        ("./", Directory, ""),
        ("usr/bin/", Directory, ""),
        ("usr/bin/sh", Regular, "shell"),
        ("usr/bin/ash", Link, "usr/bin/sh"),
        ("bin", Symlink, "usr/bin"),
        ("usr/lib/os-release", Regular, "ID=busy\u{1b}box\nVERSION_ID=\"1.37\"\n"),
        ("gone/deep/f", Regular, "x"),
        ("opaque/old", Regular, "x"),
        ("opaque/kept/old", Regular, "x"),
        ("was-a-dir/f", Regular, "x"),
        ("dev/sda", Block, ""),
    ]);
    let above = archive(&[
        (".wh.gone", Regular, ""),
        ("opaque/new", Regular, "new"),
        ("opaque/kept/new", Regular, "new"),
        ("opaque/.wh..wh..opq", Regular, ""),
        ("was-a-dir", Regular, "now a file"),
        ("etc/passwd", Regular, "root"),
        (".wh..wh.plnk", Regular, ""),
    ]);
    [below, above]
}

#[test]
fn layers_are_laid_over_one_another_whatever_they_are_compressed_with() {
    let [below, above] = two_layers();
    for (how, compress) in
        [("", (|bytes: &[u8]| bytes.to_vec()) as fn(&[u8]) -> Vec<u8>), ("+gzip", gzip), ("+zstd", zstd)]
    {
        let lab = Lab::of(&[(how, compress(&below)), (how, compress(&above))]);
        let Installed { image, cached, _lock, .. } = lab.install().unwrap();
        assert!(!cached);
        let read = |path: &str| std::fs::read_to_string(image.tree().join(path)).unwrap_or_default();
        assert_eq!(
            (read("usr/bin/sh"), read("bin/ash"), read("was-a-dir")),
            ("shell".into(), "shell".into(), "now a file".into())
        );
        assert_eq!((read("opaque/new"), read("opaque/kept/new")), ("new".into(), "new".into()));
        for gone in ["gone", "opaque/old", "opaque/kept/old", ".wh.gone", "dev/sda", ".wh..wh.plnk"] {
            assert!(image.tree().join(gone).symlink_metadata().is_err(), "{gone}");
        }
        let found = image.tree().join("usr/bin/sh").metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime(), found.nlink()), (0o755, 1_000_000_000, 2));
        assert_eq!(image.tree().metadata().unwrap().mode() & 0o7777, 0o755);
        assert_eq!(image.title(), format!("image sha256:{}\u{2026} (busybox 1.37)", image.digest().short()));
        assert_eq!(lab.left(), [image.digest().to_string()]);
    }
}

#[test]
fn an_image_is_unpacked_once_and_removed_when_nobody_uses_it() {
    let [below, _] = two_layers();
    let lab = Lab::of(&[("", below)]);
    let first = lab.install().unwrap();
    let digest = first.image.digest();
    // Not while an onboarding has it in its hands.
    remove_unused(&lab.images(), &Default::default());
    assert_eq!(Image::find(&lab.images(), digest), Some(first.image.clone()));
    drop(first);
    assert!(lab.install().unwrap().cached);
    remove_unused(&lab.images(), &[digest].into());
    assert!(Image::find(&lab.images(), digest).is_some());
    remove_unused(&lab.images(), &Default::default());
    assert_eq!(lab.left(), [""; 0]);
    // Half of one is none, and is made whole.
    let image = lab.install().unwrap().image;
    std::fs::remove_file(image.record().0).unwrap();
    assert!(!lab.install().unwrap().cached);
}

#[test]
fn a_damaged_image_is_unpacked_anew_and_is_the_same_one() {
    let [below, above] = two_layers();
    let lab = Lab::of(&[("+gzip", gzip(&below)), ("", above)]);
    let image = lab.install().unwrap().image;
    for depth in [Depth::Stamps, Depth::Contents] {
        assert_eq!(image.check(depth).unwrap(), [""; 0]);
    }
    let damage = || {
        std::fs::write(image.tree().join("usr/bin/sh"), "hostile").unwrap();
        // It has two names.
        assert_eq!(image.check(Depth::Stamps).unwrap(), ["/usr/bin/ash", "/usr/bin/sh"]);
    };
    damage();
    assert!(repair(&lab.images(), &image).unwrap());
    assert_eq!(image.check(Depth::Contents).unwrap(), [""; 0]);
    assert_eq!(Image::find(&lab.images(), image.digest()), Some(image.clone()));
    // An onboarding that would have taken it as it is makes it whole as well.
    damage();
    let again = lab.install().unwrap();
    assert!(!again.cached && again.image == image && image.check(Depth::Stamps).unwrap().is_empty());
    drop(again);
    // Not from a layout that is gone, or holds something else: what is there stays as it is.
    damage();
    lab.layout.index(&[lab.layout.image(architecture(), &[("", below)])]);
    assert!(!repair(&lab.images(), &image).unwrap());
    std::fs::remove_dir_all(lab.layout.path()).unwrap();
    assert!(!repair(&lab.images(), &image).unwrap());
    assert!(!image.check(Depth::Stamps).unwrap().is_empty());
    assert_eq!(lab.left(), [image.digest().to_string()]);
}

#[test]
fn a_program_is_looked_for_as_it_is_inside() {
    let items = [
        ("usr/bin/sh", Regular, "x"),
        ("opt/app/tool", Regular, "x"),
        ("opt/bin", Symlink, "/opt/app"),
        ("bin", Symlink, "usr/bin"),
        ("out", Symlink, "/../../../../../../etc"),
        ("srv/", Directory, ""),
        ("tmp/inner/", Directory, ""),
    ];
    let lab = Lab::of(&[("", archive(&items))]);
    let image = lab.install().unwrap().image;
    let found = |word: &str| image.program(word, "relative::/opt/bin:/bin");
    assert_eq!(found("tool").as_deref(), Some("/opt/bin/tool"));
    assert_eq!(found("sh").as_deref(), Some("/bin/sh"));
    assert_eq!(found("/bin/sh").as_deref(), Some("/bin/sh"));
    for none in ["", "missing", "./tool", "/opt/app", "/missing", "/out/passwd", "/out/hostname"] {
        assert_eq!(found(none), None, "{none}");
    }
    for (dir, shown) in [
        ("/srv", true),
        ("/opt/bin", true),
        ("/tmp", true),
        ("/tmp/inner", false),
        ("/out", false),
        ("/usr/bin/sh", false),
    ] {
        assert_eq!(image.shows_directory(dir), shown, "{dir}");
    }
}

#[test]
fn a_tar_of_a_layout_is_as_good() {
    let [below, above] = two_layers();
    let lab = Lab::of(&[("+gzip", gzip(&below)), ("", above)]);
    let wanted = lab.install().unwrap().image.digest();
    let file = lab.dir.path().join("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&file).unwrap());
    builder.append_dir_all(".", lab.layout.path()).unwrap();
    builder.finish().unwrap();
    let images = lab.dir.path().join("from-tar");
    let from_tar = install(&images, &file, &|_| false, &mut |_| ()).unwrap();
    assert_eq!(from_tar.image.digest(), wanted);
    // Cut short it is none.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let error = install(&lab.dir.path().join("none"), &file, &|_| false, &mut |_| ()).unwrap_err();
    assert!(["image-not-a-layout", "image-blob-missing"].contains(&error.code()), "{error}");
}

#[test]
fn the_manifest_for_this_machine_is_found_in_nested_indexes() {
    let [below, above] = two_layers();
    let lab = Lab::new();
    let mut other = lab.layout.image("s390x", &[("", above)]);
    other["platform"] = json!({"architecture": "s390x", "os": "linux"});
    lab.layout.index(std::slice::from_ref(&other));
    let error = lab.install().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the image has no manifest for linux/{}; it has linux/s390x", architecture())
    );
    let ours = lab.layout.image(architecture(), &[("", below.clone())]);
    let index = json!({"schemaVersion": 2, "manifests": [other, ours]}).to_string();
    let nested = lab.layout.blob(INDEX, index.as_bytes());
    lab.layout.index(std::slice::from_ref(&nested));
    lab.install().unwrap();
    let second = lab.layout.image(architecture(), &[("", below), ("", archive(&[]))]);
    lab.layout.index(&[nested, second]);
    assert_eq!(lab.install().unwrap_err().code(), "image-ambiguous");
}

#[test]
fn what_is_damaged_or_missing_is_named_and_leaves_nothing() {
    let [below, _] = two_layers();
    let digest = Digest::of(&gzip(&below));
    type Edit = fn(&Path);
    let edits: [(&str, Edit); 4] = [
        ("image-blob-missing", |blob| std::fs::remove_file(blob).unwrap()),
        ("image-digest-wrong", |blob| std::fs::write(blob, "short").unwrap()),
        ("image-digest-wrong", |blob| {
            let mut bytes = std::fs::read(blob).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(blob, bytes).unwrap();
        }),
        ("image-digest-wrong", |blob| {
            let bytes = std::fs::read(blob).unwrap();
            std::fs::write(blob, vec![7; bytes.len()]).unwrap();
        }),
    ];
    for (code, edit) in edits {
        let lab = Lab::of(&[("+gzip", gzip(&below))]);
        edit(&lab.layout.path().join(format!("blobs/sha256/{digest}")));
        let error = lab.install().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
        assert_eq!(lab.left(), [""; 0], "{code}");
    }
    let lab = Lab::of(&[("+gzip", b"no gzip".to_vec())]);
    assert_eq!(lab.install().unwrap_err().code(), "image-malformed");
    let lab = Lab::of(&[("+lzma", below)]);
    assert_eq!(lab.install().unwrap_err().code(), "image-unsupported");
    let none = tempfile::tempdir().unwrap();
    let error = install(&none.path().join("images"), none.path(), &|_| false, &mut |_| ()).unwrap_err();
    assert_eq!(error.code(), "image-not-a-layout");
    let cancelled = Lab::of(&[("", two_layers()[0].clone())]);
    let error = install(&cancelled.images(), cancelled.layout.path(), &|_| true, &mut |_| ()).unwrap_err();
    assert_eq!((error.code(), cancelled.left()), ("cancelled", vec![]));
}

#[test]
fn an_entry_that_leads_out_is_refused_by_its_name() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    let cases: [&[Item<'_>]; 9] = [
        &[("/etc/x", Regular, "x")],
        &[("a/../../x", Regular, "x")],
        &[("link", Symlink, out), ("link/x", Regular, "x")],
        &[("link", Symlink, ".."), ("link/x", Regular, "x")],
        &[("link", Symlink, out), ("link/.wh..wh..opq", Regular, "")],
        &[("link", Symlink, out), ("link/.wh.secret", Regular, "")],
        &[("hard", Link, "../secret")],
        &[("link", Symlink, out), ("hard", Link, "link/secret")],
        &[("f", Regular, "x"), ("f/below", Regular, "x")],
    ];
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    for items in cases {
        let lab = Lab::of(&[("", archive(items))]);
        let error = lab.install().unwrap_err();
        let culprit = items.last().unwrap().0.replace(".wh..wh..opq", "").replace("//", "/");
        assert_eq!(error.code(), "image-unsafe-entry", "{items:?}: {error}");
        assert!(error.to_string().contains(culprit.trim_end_matches('/')), "{items:?}: {error}");
        assert_eq!(lab.left(), [""; 0], "{items:?}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{items:?}");
    }
}

/// Names that get in one another's way, made of a few steps.
fn any_name() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        4 => prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned),
        1 => prop_oneof![Just(".."), Just("."), Just(""), Just(".wh.a"), Just(".wh..wh..opq"), Just(".wh.b")]
            .prop_map(str::to_owned),
    ];
    proptest::collection::vec(step, 1..5).prop_map(|steps| steps.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_an_archive_says_nothing_outside_is_touched(
        items in proptest::collection::vec((any_name(), 0..5_usize, any_name()), 1..12),
    ) {
        let outside = tempfile::tempdir().unwrap();
        let into = outside.path().join("tree");
        std::fs::create_dir(&into).unwrap();
        std::fs::write(outside.path().join("a"), "outside").unwrap();
        let up = ["..", outside.path().to_str().unwrap()];
        let kinds = [Regular, Directory, Symlink, Link, Block];
        let mut items: Vec<_> = items
            .iter()
            .map(|(name, kind, other)| match kinds[*kind] {
                Regular => (name.as_str(), Regular, "content"),
                Symlink if other.len() % 2 == 0 => (name.as_str(), Symlink, up[other.len() / 2 % 2]),
                kind @ (Symlink | Link) => (name.as_str(), kind, other.as_str()),
                kind => (name.as_str(), kind, ""),
            })
            .collect();
        // One bad entry ends it: each is given its chance.
        while !items.is_empty() {
            let tree = tree(&into).unwrap();
            let content = archive(&items);
            let mut sum = Sum::default();
            let done = apply(&tree, &content[..], ("x", &into), &mut Budget::default(), &mut sum, &mut |_| Ok(()));
            if let Err(error) = &done {
                prop_assert!(matches!(error, ImageError::UnsafeEntry { .. }), "{error}");
            }
            items.remove(0);
        }
        let mut left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        prop_assert_eq!(left, ["a", "tree"]);
        prop_assert_eq!(std::fs::read_to_string(outside.path().join("a")).unwrap(), "outside");
    }
}
