use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use clawkeep_plan::{Digest, to_canonical_json};
use serde::{Deserialize, Serialize};

use super::InstallError;
use crate::Cancel;

/// One entry of a bundle, by its path below the bundle's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub path: String,
    pub is: Is,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Is {
    Directory,
    File { mode: u32, size: u64, sha256: Digest },
    Symlink(String),
}

/// What a manifest says in sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub files: u64,
    pub bytes: u64,
}

/// Every entry below `dir` but those in `except` at its top, sorted by path. With `normalise` modes are set
/// first: readable by all, writable by the owner alone, no set-id bits; so that the agent's unprivileged uid
/// can read and no one can alter.
pub(super) fn walk(
    dir: &Path,
    except: &[&str],
    normalise: bool,
    cancel: &Cancel,
    tick: &mut dyn FnMut(Sum),
) -> Result<(Vec<Entry>, Sum), InstallError> {
    let (mut entries, mut sum) = (Vec::new(), Sum::default());
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).map_err(|e| InstallError::io("read", &at, e))? {
            let path = entry.map_err(|e| InstallError::io("read", &at, e))?.path();
            if cancel.is_cancelled() {
                return Err(InstallError::Cancelled);
            }
            let below = path.strip_prefix(dir).unwrap_or(&path);
            let Some(name) = below.to_str().filter(|name| !name.contains('\n')) else {
                return Err(InstallError::BadTree(format!(
                    "a file name is not plain text: {}",
                    path.display()
                )));
            };
            if except.contains(&name) {
                continue;
            }
            let is = look(&path, below, normalise)?;
            match &is {
                Is::Directory => pending.push(path.clone()),
                Is::File { size, .. } => {
                    sum.files += 1;
                    sum.bytes += size;
                    tick(sum);
                }
                Is::Symlink(_) => {}
            }
            entries.push(Entry { path: name.to_owned(), is });
        }
    }
    entries.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    Ok((entries, sum))
}

fn look(path: &Path, below: &Path, normalise: bool) -> Result<Is, InstallError> {
    let io = |error| InstallError::io("read", path, error);
    let kind = path.symlink_metadata().map_err(io)?;
    let fix = |mode: u32, file: &File| match normalise && kind.mode() & 0o7777 != mode {
        true => file.set_permissions(Permissions::from_mode(mode)).map_err(io),
        false => Ok(()),
    };
    if kind.is_dir() {
        fix(0o755, &open(path).map_err(io)?)?;
        return Ok(Is::Directory);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(io)?;
        let inside = stays_inside(below, &target);
        let text = target.to_str().filter(|_| inside).map(str::to_owned);
        return text.map(Is::Symlink).ok_or_else(|| {
            InstallError::BadTree(format!("{} is a symlink out of the bundle", below.display()))
        });
    }
    if !kind.is_file() {
        return Err(InstallError::BadTree(format!("{} is no file, directory or symlink", below.display())));
    }
    let file = open(path).map_err(io)?;
    let mode = if kind.mode() & 0o111 != 0 { 0o755 } else { 0o644 };
    fix(mode, &file)?;
    let mode = file.metadata().map_err(io)?.mode() & 0o7777;
    Ok(Is::File { mode, size: kind.len(), sha256: Digest::of_reader(file).map_err(io)? })
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Does a link at this place (below the bundle) with this target point to a place in the bundle?
fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    target.components().all(|part| match part {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir => depth.checked_sub(1).map(|up| depth = up).is_some(),
        Component::RootDir | Component::Prefix(_) => false,
    })
}

/// The manifest's bytes: one canonical JSON entry a line. Their digest names the bundle.
pub(super) fn render(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 160);
    for entry in entries {
        bytes.extend_from_slice(to_canonical_json(entry).as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// Read a manifest back.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice).collect()
}

/// Write a file that must be whole after a crash: its bytes are on the disk when this returns.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), InstallError> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()
    };
    write().map_err(|e| InstallError::io("write", path, e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn walked(dir: &Path, normalise: bool) -> Result<(Vec<Entry>, Sum), InstallError> {
        walk(dir, &["skip"], normalise, &Cancel::default(), &mut |_| ())
    }

    #[test]
    fn modes_are_tamed_and_the_manifest_survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("d")).unwrap();
        for (name, mode) in [("d/run", 0o6775), ("d/data", 0o666), ("quiet", 0o400), ("skip", 0o600)] {
            fs::write(root.join(name), name).unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(root.join("d"), Permissions::from_mode(0o2770)).unwrap();
        symlink("../quiet", root.join("d/link")).unwrap();
        let (entries, sum) = walked(root, true).unwrap();
        let modes: Vec<_> = entries
            .iter()
            .map(|e| match &e.is {
                Is::File { mode, .. } => (e.path.as_str(), *mode),
                Is::Directory => (e.path.as_str(), 1),
                Is::Symlink(_) => (e.path.as_str(), 2),
            })
            .collect();
        assert_eq!(modes, [("d", 1), ("d/data", 0o644), ("d/link", 2), ("d/run", 0o755), ("quiet", 0o644)]);
        assert_eq!((sum.files, root.join("d").metadata().unwrap().mode() & 0o7777), (3, 0o755));
        assert_eq!(parse(&render(&entries)).unwrap(), entries);
        // A second look, without touching anything, sees the same.
        assert_eq!(walked(root, false).unwrap().0, entries);
    }

    #[test]
    fn what_no_bundle_may_hold_is_refused() {
        for target in ["/etc/passwd", "../x", "d/../../x"] {
            let dir = tempfile::tempdir().unwrap();
            symlink(target, dir.path().join("link")).unwrap();
            assert_eq!(walked(dir.path(), true).unwrap_err().code(), "bad-tree", "{target}");
        }
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), 0o600.into()).unwrap();
        assert_eq!(walked(dir.path(), true).unwrap_err().code(), "bad-tree");
    }

    #[test]
    fn a_raised_flag_ends_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "a").unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        let error = walk(dir.path(), &[], true, &cancel, &mut |_| ()).unwrap_err();
        assert_eq!(error.code(), "cancelled");
    }
}
