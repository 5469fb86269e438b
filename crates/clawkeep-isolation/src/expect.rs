//! What the host side knows of a sandbox's walls by itself, for the receipts of what runs in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use clawkeep_plan::{Digest, Expected, IdRange, MountsLevel, RECEIPT_FD, Tier};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::seccomp::Programs;
use crate::spec::{AGENT_ID, ID_RANGE, IdMap, SandboxSpec};
use crate::{mounts, readback, seal, sys};

/// What a process in a sandbox of this specification must say of itself. `seccomp` is the digest of the programs
/// that it is to run under ([`Programs::digest`]), `reports` whether it is given its receipt pipe, `root` the
/// sandbox's root directory; what its first process sees mounted is read through that, now.
///
/// # Errors
/// When /proc does not tell; then no receipt can be accepted.
pub fn expected(
    spec: &SandboxSpec,
    seccomp: Digest,
    reports: bool,
    root: BorrowedFd<'_>,
) -> io::Result<Expected> {
    let asked = seal::asked(sys::landlock_abi(), spec.tier);
    let (uid_map, gid_map) = match spec.tier {
        Tier::Namespaces => {
            (vec![id_range(spec.ids, |(uid, _)| uid)], vec![id_range(spec.ids, |(_, gid)| gid)])
        }
        Tier::Landlock => (readback::id_map("uid_map")?, readback::id_map("gid_map")?),
    };
    let (mounts, wrong_mounts) = match spec.tier {
        Tier::Namespaces => {
            let mountinfo = mountinfo(root)?;
            (mounts::brief(&mountinfo)?, mounts::astray(&mountinfo, spec)?)
        }
        // None of its own.
        Tier::Landlock => (MountsLevel { count: 0, digest: Digest::of(b"") }, Vec::new()),
    };
    let is_single = matches!(spec.ids, IdMap::Single { .. });
    Ok(Expected {
        tier: spec.tier,
        landlock_abi: asked.abi,
        handled: asked.handled(),
        seccomp,
        seccomp_filters: Programs::COUNT,
        ids: spec.agent(),
        uid_map,
        gid_map,
        keeps_groups: is_single,
        keeps_bounding: is_single && spec.tier == Tier::Landlock,
        host_namespaces: readback::namespaces()?,
        mounts,
        wrong_mounts,
        descriptors: (0..3).chain(reports.then_some(RECEIPT_FD)).collect(),
    })
}

/// What the sandbox has mounted otherwise than this specification says, each for a person; looked at now, as above.
///
/// # Errors
/// When /proc does not tell.
pub fn wrong_mounts(spec: &SandboxSpec, root: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    mounts::astray(&mountinfo(root)?, spec)
}

/// The mounts of process 1, by the sandbox's own /proc: the host's may hide the processes of others, and so those of
/// our own that are not dumpable (proc(5), `hidepid`).
fn mountinfo(root: BorrowedFd<'_>) -> io::Result<String> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(root, "proc/1/mountinfo", flags, Mode::empty(), how)?;
    if rustix::fs::fstatfs(&file)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the sandbox's /proc is none"));
    }
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    // Names of files in it may be any bytes.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The one line of the map that was asked for.
fn id_range(ids: IdMap, of: impl Fn((u32, u32)) -> u32) -> IdRange {
    match ids {
        IdMap::Range { base } => IdRange { inside: 0, outside: base, count: ID_RANGE },
        IdMap::Single { uid, gid } => IdRange { inside: AGENT_ID, outside: of((uid, gid)), count: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_map_is_the_one_that_is_written() {
        for ids in [IdMap::Range { base: 7_000_000 }, IdMap::Single { uid: 1000, gid: 100 }] {
            let (uids, gids) = ids.lines();
            assert_eq!(crate::procself::id_map(&uids).unwrap(), [id_range(ids, |(uid, _)| uid)]);
            assert_eq!(crate::procself::id_map(&gids).unwrap(), [id_range(ids, |(_, gid)| gid)]);
        }
    }
}
