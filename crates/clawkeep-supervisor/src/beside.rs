//! The places of a sandbox of the lower tier, which lie on the host as they are: made anew, and opened for its user
//! where that is another one.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use clawkeep_isolation::{IdMap, LOG, SandboxSpec};
use clawkeep_store::remove_tree;

use crate::blueprint::Blueprint;

/// Mode of its `/tmp`: its user may make files, and remove none of those that are published for it.
const TMP_MODE: u32 = 0o1770;

/// Others may pass through, and neither look nor write.
const PASSAGE: u32 = 0o711;

/// Nothing of the sandbox runs: a new `/tmp`, empty, and a way to everything that it is shown.
pub fn prepare(blueprint: &Blueprint, spec: &SandboxSpec) -> io::Result<()> {
    let tmp = spec.on_the_host("/tmp").ok_or(io::ErrorKind::InvalidInput)?;
    if fs::symlink_metadata(&tmp).is_ok() {
        remove_tree(&tmp)?;
    }
    DirBuilder::new().mode(0o700).create(&tmp)?;
    let ((owner, _), (_, group)) = (spec.ids.host_root(), spec.ids.host_agent());
    chown(&tmp, Some(owner), Some(group))?;
    fs::set_permissions(&tmp, Permissions::from_mode(TMP_MODE))?;
    // A rule of Landlock's is about a file that is there.
    let log = blueprint.run.join(LOG);
    DirBuilder::new().recursive(true).mode(0o700).create(&blueprint.run)?;
    fs::OpenOptions::new().create(true).append(true).mode(0o644).open(&log).map(drop)?;
    if matches!(spec.ids, IdMap::Single { .. }) {
        return Ok(());
    }
    // Everything of ours is below the directory that the guards are kept in.
    let ours = blueprint.guards_root.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for mount in &spec.mounts {
        for above in mount.source.ancestors().skip(1) {
            open_way(above, ours).map_err(|error| {
                let what =
                    format!("{} cannot be reached by the sandbox's user: {error}", mount.source.display());
                io::Error::new(error.kind(), what)
            })?;
        }
    }
    Ok(())
}

/// See that others may pass through a directory: ours is opened for that, anybody else's must be open.
fn open_way(directory: &Path, ours: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.mode();
    if mode & 0o001 != 0 {
        return Ok(());
    }
    if directory.starts_with(ours) {
        return fs::set_permissions(directory, Permissions::from_mode(PASSAGE));
    }
    let what = format!("others may not pass through {}", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}
