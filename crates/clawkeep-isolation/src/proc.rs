//! The `/proc` of a sandbox: of its own process-id namespace, without what it would tell of the kernel and of the
//! host, and read-only. Other processes are not hidden (`hidepid`): who may be looked at follows ptrace(2), and
//! between the Landlock domains of a gateway and of a person's shell nothing may, so that the shell would not even
//! list the gateway. There is nothing but the sandbox to be seen, and init is not dumpable.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::rootfs::open_below;
use crate::stage::{Failure, at};
use crate::sys;

/// What the kernel tells to all, of everybody: an ordinary user may read most of it, and the rest is behind the
/// rights of the host's root alone. Not by `subset=pid`: programs need meminfo, stat, cpuinfo and the like. What a
/// kernel does not have needs no mask.
const MASKED_FILES: &[&str] = &[
    "config.gz",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
];
const MASKED_DIRECTORIES: &[&str] = &["acpi", "asound", "bus", "driver", "fs", "irq", "scsi"];

/// What is masked of this kernel's, and with which flags each mask is there at least.
pub fn masks() -> impl Iterator<Item = (String, &'static [&'static str])> {
    const FILE: &[&str] = &["ro", "nosuid", "noexec"];
    const DIRECTORY: &[&str] = &["ro", "nosuid", "nodev", "noexec"];
    let files = MASKED_FILES.iter().map(|name| (format!("/proc/{name}"), FILE));
    let directories = MASKED_DIRECTORIES.iter().map(|name| (format!("/proc/{name}"), DIRECTORY));
    files.chain(directories).filter(|(path, _)| std::path::Path::new(path).symlink_metadata().is_ok())
}

/// Lay something empty over what is masked, in a /proc that is mounted on the root: `/dev/null`, which is in its place
/// already, and a directory in which nothing is ever put.
pub fn mask(root: &OwnedFd, nothing: OwnedFd) -> Result<(), Failure> {
    let proc = open_below(root, "proc", OFlags::PATH | OFlags::DIRECTORY).map_err(at("mask /proc"))?;
    let null = copy(root, "dev/null")?;
    sys::set_mount_attributes(null.as_fd(), libc::MOUNT_ATTR_RDONLY, false).map_err(at("mask /proc"))?;
    cover(&proc, null, MASKED_FILES)?;
    let closed =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    sys::set_mount_attributes(nothing.as_fd(), closed, false).map_err(at("mask /proc"))?;
    cover(&proc, nothing, MASKED_DIRECTORIES)
}

/// Put the mount over the first of the names that there is, and copies of it over the others.
fn cover(proc: &OwnedFd, mount: OwnedFd, names: &[&str]) -> Result<(), Failure> {
    let (mut mount, mut last) = (Some(mount), "");
    for name in names {
        let next = match mount.take() {
            Some(mount) => mount,
            // Only what is attached can be copied, on kernels before 6.15. The copy has the same flags.
            None => copy(proc, last)?,
        };
        match move_mount(next.as_fd(), "", proc, *name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
            Ok(()) => last = name,
            // This kernel has none: for the one after it.
            Err(Errno::NOENT) => mount = Some(next),
            Err(error) => return Err(at(format!("mask /proc/{name}"))(error)),
        }
    }
    Ok(())
}

/// A copy of what is mounted at a place, or of a directory there, mounted nowhere yet.
pub fn copy(root: &OwnedFd, path: &str) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(root, path, flags).map_err(at(format!("copy /{path}")))
}

/// Nothing in it is anybody's to set from here on: not the kernel's switches, and no process's.
pub fn seal() -> Result<(), Failure> {
    let proc = rustix::fs::openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let proc = proc.map_err(at("seal /proc"))?;
    let closed =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    sys::set_mount_attributes(proc.as_fd(), closed, false).map_err(at("seal /proc"))
}
