//! What a process can say about its own isolation, read back from the kernel when everything is applied.

use std::collections::BTreeMap;
use std::io;

use clawkeep_plan::{EnforcedLevel, Ids, LandlockLevel, NAMESPACES, SeccompLevel, Tier};
use rustix::process::{DumpableBehavior, Resource};

use crate::procself::{Status, namespace};
use crate::seccomp::Programs;
use crate::{mounts, sys};

/// What this process, behind the walls of this tier, reads about itself now. The Landlock domain cannot be read back:
/// see [`LandlockLevel`]. `status` is its own as [`text`] gives it, `descriptors` what exec does not close.
pub fn level(
    tier: Tier,
    landlock: LandlockLevel,
    (programs, recorded): (&Programs, bool),
    status: &Status<'_>,
    descriptors: Vec<i32>,
) -> io::Result<EnforcedLevel> {
    Ok(EnforcedLevel {
        tier,
        landlock,
        seccomp: SeccompLevel {
            mode: status.number("Seccomp")?,
            filters: status.number("Seccomp_filters")?,
            digest: programs.digest(),
            recorded,
        },
        no_new_privs: status.number("NoNewPrivs")? == 1,
        caps: status.capabilities()?,
        ids: Ids {
            uid: status.ids("Uid")?,
            gid: status.ids("Gid")?,
            groups: status.numbers("Groups")?,
            uid_map: id_map("uid_map")?,
            gid_map: id_map("gid_map")?,
        },
        namespaces: namespaces()?,
        mounts: mounts::brief(&text("mountinfo")?)?,
        dumpable: rustix::process::dumpable_behavior()? != DumpableBehavior::NotDumpable,
        core_bytes: rustix::process::getrlimit(Resource::Core).maximum,
        descriptors,
    })
}

/// The namespaces of this process, by their kinds.
pub fn namespaces() -> io::Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    // By name: the directory itself cannot be listed by a process that is not dumpable.
    for kind in NAMESPACES {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        if let Some(inode) = namespace(&link.to_string_lossy(), kind) {
            found.insert(kind.to_owned(), inode);
        }
    }
    Ok(found)
}

/// A map of the user namespace that this process is in: `uid_map` or `gid_map`.
pub fn id_map(file: &str) -> io::Result<Vec<clawkeep_plan::IdRange>> {
    crate::procself::id_map(&text(file)?)
}

/// Every descriptor of this process, and whether exec closes it. They are looked for among the slots of its table:
/// /proc/self/fd is closed to a process that is not dumpable.
pub fn open_descriptors(status: &Status<'_>) -> io::Result<Vec<(i32, bool)>> {
    Ok(sys::open_descriptors(status.number("FDSize")?))
}

/// The numbers of those that exec does not close.
pub fn kept_over_exec(open: &[(i32, bool)]) -> Vec<i32> {
    open.iter().filter(|(_, closes)| !closes).map(|(number, _)| *number).collect()
}

/// A file of `/proc/self`. Names of files in it may be any bytes.
pub fn text(file: &str) -> io::Result<String> {
    let bytes = std::fs::read(format!("/proc/self/{file}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use clawkeep_plan::{Handled, NetlinkRule, Restriction, Tier};

    use super::*;

    #[test]
    fn reads_its_own_state() {
        let handled = Handled { fs: 0, net: 0, scopes: 0 };
        let landlock = LandlockLevel { asked: 0, abi: 0, status: Restriction::None, handled, tried: false };
        let programs = Programs::of(NetlinkRule::RouteOnly).unwrap();
        let status = text("status").unwrap();
        let status = Status(&status);
        let kept = kept_over_exec(&open_descriptors(&status).unwrap());
        let level = level(Tier::Namespaces, landlock, (programs, true), &status, kept).unwrap();
        assert_eq!(level.namespaces.len(), NAMESPACES.len());
        assert_eq!(level.namespaces, namespaces().unwrap());
        assert_eq!(level.ids.uid[1], rustix::process::geteuid().as_raw());
        assert!(!level.no_new_privs && level.dumpable && level.mounts.count > 0);
        assert!(!level.ids.uid_map.is_empty());
        assert!(level.descriptors.starts_with(&[0, 1, 2]), "{:?}", level.descriptors);
    }
}
