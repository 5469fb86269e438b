//! Directories and files of the operator's that a sandbox sees beside its system: which may be shown, where, and to
//! whom they belong inside.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use clawkeep_isolation::{IdMap, Mount, MountAccess, System};

use crate::api::{Failure, HostMount};

/// What a sandbox must not see any of: through them it would reach the host.
const NEVER: &[&str] = &["/proc", "/sys", "/dev", "/run", "/var/run", "/boot"];

/// Sockets of the host's services that are not below those, from a home or below one.
const SOCKETS: &[&str] = &[
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
    ".colima/default/docker.sock",
    ".rd/docker.sock",
    ".gnupg/S.gpg-agent",
];

/// Places that are a sandbox's own.
const OURS: &[&str] = &[
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt/clawkeep",
    "/proc",
    "/run",
    "/sandbox",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/run",
    "/var/tmp",
];

const HELP: &str = "clawkeep onboard --help";

/// As they go into the specification, in the order in which they were asked for.
///
/// # Errors
/// `bad-mount`: which may not be shown, and why.
pub fn resolve(
    wanted: &[HostMount],
    state: &Path,
    system: &System,
    ids: IdMap,
) -> Result<Vec<Mount>, Failure> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in wanted {
        let bad = |why: String| {
            let what = format!("{} cannot be mounted at {}: {why}", mount.source.display(), mount.target);
            Failure::new("bad-mount", what, HELP.to_owned())
        };
        source(&mount.source, state).map_err(bad)?;
        target(&mount.target, system, &mounts).map_err(bad)?;
        let access = match mount.writable {
            false => MountAccess::Shown,
            true => shared(&mount.source, ids).map_err(bad)?,
        };
        mounts.push(Mount { source: mount.source.clone(), target: mount.target.clone(), access });
    }
    Ok(mounts)
}

/// One is in the other, or they are the same.
fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn source(path: &Path, state: &Path) -> Result<(), String> {
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    if real != path {
        return Err(format!("it is a link to {}", real.display()));
    }
    if path == Path::new("/") {
        return Err("that is the whole host".into());
    }
    if let Some(never) = NEVER.iter().find(|never| overlap(path, Path::new(never))) {
        return Err(format!("{never} leads out of the sandbox"));
    }
    let state = state.canonicalize().map_err(|error| error.to_string())?;
    if overlap(path, &state) {
        return Err(format!("clawkeep's own state is in {}", state.display()));
    }
    let kind = fs::symlink_metadata(path).map_err(|error| error.to_string())?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        return Err(
            "it is neither a directory nor a file; a socket or device leads out of the sandbox".into()
        );
    }
    if kind.is_dir()
        && let Some(socket) = socket_in(path)
    {
        return Err(format!("the socket {socket} in it leads out of the sandbox"));
    }
    Ok(())
}

/// A socket right in a directory, or one that is known to lie deeper.
fn socket_in(dir: &Path) -> Option<String> {
    let is_socket = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let known = SOCKETS.iter().map(|name| dir.join(name));
    let here = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    known.chain(here).find(|path| is_socket(path)).map(|path| path.display().to_string())
}

fn target(text: &str, system: &System, others: &[Mount]) -> Result<(), String> {
    let path = Path::new(text);
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let canonical =
        text.starts_with('/') && !text.ends_with('/') && !text.contains("//") && !text.contains("/./");
    if !plain || !canonical || text.chars().any(char::is_control) {
        return Err("a place inside is an absolute path without \"..\"".into());
    }
    if let Some(ours) = OURS.iter().find(|ours| overlap(path, Path::new(ours))) {
        return Err(format!("{ours} is the sandbox's own"));
    }
    let shown = system.mounts.iter().map(|mount| mount.target.as_str());
    let linked = system.symlinks.iter().map(|(at, _)| at.as_str());
    if let Some(taken) = shown.chain(linked).find(|taken| overlap(path, Path::new(taken))) {
        return Err(format!("{taken} is there already, of the system"));
    }
    match others.iter().find(|other| overlap(path, Path::new(&other.target))) {
        Some(other) => Err(format!("{} is mounted at {}", other.source.display(), other.target)),
        None => Ok(()),
    }
}

/// What the agent writes is its owner's on the host.
fn shared(path: &Path, ids: IdMap) -> Result<MountAccess, String> {
    let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let (uid, gid) = (found.uid(), found.gid());
    match ids {
        // A file of root's making with a set-id bit would be everybody's way to root.
        IdMap::Range { .. } if uid == 0 || gid == 0 => {
            Err("it belongs to root, and nothing of root's is shared for writing: chown it to a user".into())
        }
        IdMap::Single { uid: own, .. } if uid != own => {
            Err(format!("it belongs to uid {uid}; for writing only what is yours can be shared"))
        }
        IdMap::Range { .. } | IdMap::Single { .. } => Ok(MountAccess::Shared { uid, gid }),
    }
}

/// For a person: `/srv/data at /data, read-only`.
pub fn shown(mount: &Mount) -> String {
    let how = match mount.access {
        MountAccess::Shared { .. } => "writable",
        _ => "read-only",
    };
    format!("{} at {}, {how}", mount.source.display(), mount.target)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
