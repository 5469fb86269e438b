//! The file system that a sandbox sees: a small tmpfs with mounts on it, read-only where nothing must be
//! written, and nothing else of the host. Built with the descriptor-based mount calls (mount_setattr(2),
//! open_tree(2), move_mount(2)), so that no path is looked up twice.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::spec::{Mount, MountAccess, SandboxSpec};
use crate::stage::{Failure, at};
use crate::sys;
use crate::{idmap, proc};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Device nodes of the host that are visible inside.
pub const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// A private copy of something on the host, with its flags set, not yet visible anywhere.
pub struct Source {
    mount: Mount,
    tree: OwnedFd,
    directory: bool,
}

/// Take copies of all that the spec mounts but of what is there already, and of the device nodes. To be called in
/// the new mount namespace while the host's tree is still there, with ids that may look at the paths.
pub fn take_sources(spec: &SandboxSpec, mut there: Vec<Source>) -> Result<Vec<Source>, Failure> {
    let devices = DEVICES.iter().map(|name| Mount {
        source: Path::new("/dev").join(name),
        target: format!("/dev/{name}"),
        access: MountAccess::Device,
    });
    let wanted = spec.mounts.iter().cloned().chain(devices);
    let missing = wanted.filter(|mount| there.iter().all(|source| source.mount != *mount));
    let taken: Vec<_> = missing.map(take).collect::<Result<_, _>>()?;
    there.extend(taken);
    Ok(there)
}

/// Those that only the host's root can take: what is shared with ids mapped.
pub fn take_shared(spec: &SandboxSpec) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for mount in &spec.mounts {
        if let MountAccess::Shared { uid, gid } = mount.access {
            let source = take(mount.clone())?;
            let step = || format!("map the owner of {}", mount.source.display());
            let map = idmap::user_namespace((uid, gid), spec.ids.host_agent()).map_err(at(step()))?;
            sys::map_mount(source.tree.as_fd(), map.as_fd()).map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => at(step())(io::Error::other(
                    "its file system does not take id-mapped mounts: share it read-only",
                )),
                _ => at(step())(error),
            })?;
            sources.push(source);
        }
    }
    Ok(sources)
}

fn take(mount: Mount) -> Result<Source, Failure> {
    let step = || format!("look at {}", mount.source.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // What is mounted below comes along; but for what is shared, whose ids are mapped one file system at a time.
    let deep = match mount.access {
        MountAccess::Shared { .. } if rustix::process::geteuid().is_root() => OpenTreeFlags::empty(),
        _ => OpenTreeFlags::AT_RECURSIVE,
    };
    let tree = match mount.access {
        MountAccess::Shown | MountAccess::Shared { .. } => {
            let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let path = OFlags::PATH | OFlags::CLOEXEC;
            let found = rustix::fs::openat2(CWD, &mount.source, path, Mode::empty(), how);
            let found = found.map_err(|error| match error {
                Errno::LOOP => at(step())(io::Error::other("there is a symbolic link in its path now")),
                error => at(step())(error),
            })?;
            open_tree(&found, "", flags | deep | OpenTreeFlags::AT_EMPTY_PATH)
        }
        MountAccess::ReadOnly | MountAccess::ReadWrite | MountAccess::Device => {
            open_tree(CWD, &mount.source, flags | deep)
        }
    };
    let tree = tree.map_err(at(step()))?;
    let set = match mount.access {
        MountAccess::ReadOnly | MountAccess::Shown => RDONLY | NOSUID | NODEV,
        MountAccess::ReadWrite | MountAccess::Shared { .. } => NOSUID | NODEV,
        MountAccess::Device => NOSUID | NOEXEC,
    };
    sys::set_mount_attributes(tree.as_fd(), set, !deep.is_empty())
        .map_err(at(format!("seal {}", mount.source.display())))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree).map_err(at(step()))?.st_mode);
    Ok(Source { directory: kind.is_dir(), mount, tree })
}

/// A new file system of a type, mounted nowhere yet.
pub fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    let step = || format!("make a {kind}");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(at(step()))?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value).map_err(at(step()))?;
    }
    fsconfig_create(context.as_fd()).map_err(at(step()))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at(step()))
}

/// Build the root, make it ours, let go of the host's. `tmp` is the file system for `/tmp` where it was made
/// beforehand by somebody with more rights.
pub fn enter(
    spec: &SandboxSpec,
    sources: Vec<Source>,
    tmp: Option<OwnedFd>,
    tmp_bytes: u64,
) -> Result<(), Failure> {
    let strict = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let closed = strict | MountAttrFlags::MOUNT_ATTR_NOEXEC;

    let root = new_mount("tmpfs", &[("mode", "0755"), ("size", "1m"), ("nr_inodes", "4096")], strict)?;
    // A place that exists on every host and is not needed any more: all sources were taken before.
    move_mount(root.as_fd(), "", CWD, "/usr", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("mount the root"))?;

    let mut places = Places { root: &root, above: None };
    for dir in ["proc", "dev", "tmp", "run", "var", "etc", "home", "sandbox"] {
        make_dir(&root, dir)?;
    }
    places.attach(&new_mount("proc", &[], closed)?, "proc", true)?;
    let tmp = match tmp {
        Some(tmp) => tmp,
        None => new_mount(
            "tmpfs",
            &[("mode", "1777"), ("size", &tmp_bytes.to_string()), ("nr_inodes", crate::stage::TMP_INODES)],
            strict,
        )?,
    };
    places.attach(&tmp, "tmp", true)?;
    // The last moment that it can be seen: a directory in which nothing is and, behind a mount, never will be.
    let nothing = proc::copy(&root, "run")?;
    places.attach(&new_mount("tmpfs", &[("mode", "0755"), ("size", "4m")], closed)?, "run", true)?;
    let pts = new_mount(
        "devpts",
        &[("ptmxmode", "0666"), ("mode", "0620")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    places.attach(&pts, "dev/pts", true)?;
    let shared_memory = [("mode", "1777"), ("size", "64m"), ("nr_inodes", "16384")];
    places.attach(&new_mount("tmpfs", &shared_memory, closed)?, "dev/shm", true)?;
    for Source { mount, tree, directory } in sources {
        places.attach(&tree, mount.target.trim_start_matches('/'), directory)?;
    }
    let fixed = [
        ("dev/ptmx", "pts/ptmx"),
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("var/tmp", "/tmp"),
        ("var/run", "/run"),
    ];
    let asked = spec.symlinks.iter().map(|(path, target)| (path.trim_start_matches('/'), target.as_str()));
    for (path, target) in fixed.into_iter().chain(asked) {
        rustix::fs::symlinkat(target, &root, path).map_err(at(format!("link /{path}")))?;
    }
    for (path, content) in &spec.files {
        places.write(path.trim_start_matches('/'), content)?;
    }
    proc::mask(&root, nothing)?;

    // The root itself last, and alone: what is mounted on it keeps its own flags. Devices on it work because
    // each is a mount of its own.
    sys::set_mount_attributes(root.as_fd(), RDONLY | NOSUID | NODEV, false).map_err(at("seal the root"))?;
    rustix::process::fchdir(&root).map_err(at("enter the root"))?;
    rustix::process::pivot_root(".", ".").map_err(at("make it the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("let go of the host's root"))?;
    rustix::process::chdir("/").map_err(at("enter the root"))
}

/// Where mounts and files go below the root: a place that is missing is made, with the directories above it.
struct Places<'a> {
    root: &'a OwnedFd,
    /// The directory that the last place was in: the next one often is too.
    above: Option<(String, OwnedFd)>,
}

impl Places<'_> {
    /// Put a mount on a place.
    fn attach(&mut self, mount: &OwnedFd, path: &str, directory: bool) -> Result<(), Failure> {
        let step = || format!("mount /{path}");
        let (above, name) = self.above(path)?;
        let kind = if directory { FileType::Directory } else { FileType::RegularFile };
        let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        match empty(above, name, kind) {
            // Nobody else is here: it is what was just made, and no link.
            Ok(()) => move_mount(mount.as_fd(), "", above, name, from).map_err(at(step()))?,
            Err(Errno::EXIST) => {
                let place = open_below(above, name, OFlags::PATH).map_err(at(step()))?;
                let flags = from | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                move_mount(mount.as_fd(), "", place.as_fd(), "", flags).map_err(at(step()))?;
            }
            Err(error) => return Err(at(format!("make /{path}"))(error)),
        }
        // What it lies on now is not what is seen there from now on.
        self.above.take_if(|(above, _)| Path::new(above.as_str()).starts_with(path));
        Ok(())
    }

    /// Write a file, which may lie there already.
    fn write(&mut self, path: &str, content: &str) -> Result<(), Failure> {
        let step = || format!("write /{path}");
        let (above, name) = self.above(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(above, name, flags, Mode::from_raw_mode(0o444)) {
            Err(Errno::EXIST) => open_below(above, name, OFlags::WRONLY | OFlags::TRUNC),
            made => made,
        };
        let file = file.map_err(at(step()))?;
        let mut rest = content.as_bytes();
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(at(step()))?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// The directory that a place is in, and its name there.
    fn above<'p>(&mut self, path: &'p str) -> Result<(&OwnedFd, &'p str), Failure> {
        let Some((above, name)) = path.rsplit_once('/') else { return Ok((self.root, path)) };
        let known = self.above.take_if(|(known, _)| known == above);
        let (_, directory) = self.above.insert(match known {
            Some(known) => known,
            None => {
                let found = directories(self.root, above).map_err(at(format!("make /{above}")))?;
                (above.to_owned(), found)
            }
        });
        Ok((directory, name))
    }
}

/// Open what is below the root, through no link: an image or a directory of somebody else's is mounted there, and
/// a link in it would lead back to the host's tree.
pub fn open_below(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
}

fn make_dir(root: &OwnedFd, path: &str) -> Result<(), Failure> {
    match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(at(format!("make /{path}"))(error)),
    }
}

/// A directory below the root, made with those above it where they are missing.
fn directories(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_below(root, path, flags) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
    let above = directories(root, above)?;
    empty(&above, name, FileType::Directory)?;
    open_below(&above, name, flags)
}

/// Make a directory, or a file that nobody writes to.
fn empty(above: &OwnedFd, name: &str, kind: FileType) -> Result<(), Errno> {
    match kind {
        FileType::Directory => rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755)),
        kind => rustix::fs::mknodat(above, name, kind, Mode::from_raw_mode(0o444), 0),
    }
}
