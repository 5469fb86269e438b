use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Tier};

/// The kinds of namespaces that a sandbox has of its own, by their names in `/proc/self/ns` (namespaces(7)).
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The isolation in force on a process, read back by the process itself when everything was applied and before
/// it became the agent. Nothing in it is a copy of what was asked for, but where it is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedLevel {
    /// Which walls were put up. What follows proves it.
    pub tier: Tier,
    /// The Landlock domain.
    pub landlock: LandlockLevel,
    /// The seccomp filters.
    pub seccomp: SeccompLevel,
    /// `NoNewPrivs` of `/proc/self/status`.
    pub no_new_privs: bool,
    /// The capability sets.
    pub caps: Capabilities,
    /// Who it is.
    pub ids: Ids,
    /// Inode of each namespace, by its name in `/proc/self/ns`.
    pub namespaces: BTreeMap<String, u64>,
    /// What it sees mounted.
    pub mounts: MountsLevel,
    /// Whether others may look into it (PR_GET_DUMPABLE). The kernel sets this anew at exec; until then the
    /// process holds descriptors and memory of ours.
    pub dumpable: bool,
    /// Largest core dump in bytes, the hard limit; `None` is no limit (getrlimit(2)). 1 is none, and none for a crash
    /// handler of the host's either (core(5)); 0 where the host has set that.
    pub core_bytes: Option<u64>,
    /// Descriptors that stay open over exec.
    pub descriptors: Vec<i32>,
}

/// A Landlock domain (landlock(7)). The kernel has no call that tells a process its domain: `abi`, `status` and
/// the rights are what the calls that made it returned, `tried` is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockLevel {
    /// The ABI whose rights were asked for.
    pub asked: u32,
    /// The ABI whose rights are in force, in full; 0 for none.
    pub abi: u32,
    /// How much of what was asked for is in force.
    pub status: Restriction,
    /// What the domain restricts.
    #[serde(flatten)]
    pub handled: Handled,
    /// Whether an attempt that only the domain refuses was refused with its error number.
    pub tried: bool,
}

/// What a Landlock ruleset restricts, as the bit masks of `struct landlock_ruleset_attr` (landlock(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// `handled_access_fs`.
    pub fs: u64,
    /// `handled_access_net`.
    pub net: u64,
    /// `scoped`.
    pub scopes: u64,
}

/// How much of a ruleset the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restriction {
    /// All of it.
    Full,
    /// Some of it.
    Partial,
    /// Nothing.
    None,
}

/// The seccomp filters (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompLevel {
    /// `Seccomp` of `/proc/self/status`: 2 is filtered.
    pub mode: u32,
    /// `Seccomp_filters` there; those that were inherited count as well.
    pub filters: u32,
    /// Digest of the program that the process installed.
    pub digest: Digest,
    /// Whether what it refuses is recorded: not where an outer program has the kernel's one listener already.
    pub recorded: bool,
}

/// Capability sets as bit masks (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapEff`.
    pub effective: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapAmb`.
    pub ambient: u64,
}

impl Capabilities {
    /// All sets in one.
    pub fn any(self) -> u64 {
        self.inheritable | self.permitted | self.effective | self.bounding | self.ambient
    }
}

/// Users and groups, as seen in the sandbox (credentials(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Real, effective, saved and file system uid.
    pub uid: [u32; 4],
    /// The same of the gid.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `/proc/self/uid_map`.
    pub uid_map: Vec<IdRange>,
    /// `/proc/self/gid_map`.
    pub gid_map: Vec<IdRange>,
}

/// A line of an id map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id in the user namespace around it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A table of mounts (proc_pid_mountinfo(5)), brief.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountsLevel {
    /// How many.
    pub count: u32,
    /// Digest of their places, types and flags, sorted.
    pub digest: Digest,
}

/// What the host side knows of the walls that it ordered, independently of what the process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Which walls were ordered.
    pub tier: Tier,
    /// The highest Landlock ABI that this kernel and this program both know.
    pub landlock_abi: u32,
    /// What a domain of that ABI restricts.
    pub handled: Handled,
    /// Digest of the seccomp programs.
    pub seccomp: Digest,
    /// How many programs that are.
    pub seccomp_filters: u32,
    /// Uid and gid of the agent, as it sees itself.
    pub ids: (u32, u32),
    /// Its user namespace's maps.
    pub uid_map: Vec<IdRange>,
    /// Of the groups.
    pub gid_map: Vec<IdRange>,
    /// Whether the caller's supplementary groups stay: an ordinary user cannot drop them (user_namespaces(7)).
    pub keeps_groups: bool,
    /// Whether the bounding set stays: in the host's own user namespace an ordinary user cannot shrink it. With
    /// no_new_privs nothing can be gained by it (capabilities(7)).
    pub keeps_bounding: bool,
    /// The host side's own namespaces.
    pub host_namespaces: BTreeMap<String, u64>,
    /// The mounts of the sandbox's first process, read from outside.
    pub mounts: MountsLevel,
    /// What of those mounts is not as specified, each for a person.
    pub wrong_mounts: Vec<String>,
    /// Descriptors that the program is given.
    pub descriptors: Vec<i32>,
}

impl EnforcedLevel {
    /// Every layer that falls short of what is expected, each for a person. Empty: none.
    pub fn shortfalls(&self, expected: &Expected) -> Vec<String> {
        let mut found = Vec::new();
        let mut need = |ok: bool, what: &dyn Fn() -> String| {
            if !ok {
                found.push(what());
            }
        };
        let landlock = self.landlock;
        need(self.tier == expected.tier, &|| {
            format!("the walls are those of the {} tier, not of {}", self.tier.word(), expected.tier.word())
        });
        need(landlock.status == Restriction::Full, &|| {
            format!("Landlock is not enforced in full ({:?})", landlock.status).to_lowercase()
        });
        need(landlock.abi == expected.landlock_abi && landlock.asked == expected.landlock_abi, &|| {
            format!("Landlock ABI {} of {}", landlock.abi, expected.landlock_abi)
        });
        need(landlock.handled == expected.handled, &|| {
            format!("Landlock restricts {:x?}, not {:x?}", landlock.handled, expected.handled)
        });
        need(landlock.tried, &|| "the Landlock domain refuses nothing".into());
        need(self.seccomp.digest == expected.seccomp, &|| "another seccomp program".into());
        need(self.seccomp.mode == 2 && self.seccomp.filters >= expected.seccomp_filters, &|| {
            format!("seccomp mode {} with {} filters", self.seccomp.mode, self.seccomp.filters)
        });
        need(self.no_new_privs, &|| "no_new_privs is off".into());
        let bounding = if expected.keeps_bounding { 0 } else { self.caps.bounding };
        let left = Capabilities { bounding, ..self.caps }.any();
        need(left == 0, &|| format!("capabilities left: {left:#x}"));
        let ids = &self.ids;
        need(ids.uid == [expected.ids.0; 4] && ids.gid == [expected.ids.1; 4], &|| {
            format!("runs with uids {:?} and gids {:?}", ids.uid, ids.gid)
        });
        need(ids.groups.is_empty() || expected.keeps_groups, &|| format!("groups left: {:?}", ids.groups));
        need(ids.uid_map == expected.uid_map, &|| format!("another map of uids: {:?}", ids.uid_map));
        need(ids.gid_map == expected.gid_map, &|| format!("another map of gids: {:?}", ids.gid_map));
        for kind in NAMESPACES.iter().filter(|_| expected.tier == Tier::Namespaces) {
            match (self.namespaces.get(*kind), expected.host_namespaces.get(*kind)) {
                (Some(inside), Some(host)) if inside != host => {}
                (Some(_), Some(_)) => need(false, &|| format!("shares the {kind} namespace of the host")),
                (None, _) => need(false, &|| format!("no {kind} namespace reported")),
                (_, None) => need(false, &|| format!("the host's {kind} namespace is not known")),
            }
        }
        // The host's own table of mounts is nobody's wall, and changes with what the host does.
        need(expected.tier == Tier::Landlock || self.mounts == expected.mounts, &|| {
            let (seen, there) = (self.mounts.count, expected.mounts.count);
            format!("sees other mounts ({seen}) than its sandbox has ({there})")
        });
        for wrong in &expected.wrong_mounts {
            need(false, &|| format!("mounts: {wrong}"));
        }
        need(!self.dumpable, &|| "others could look into it before it became the agent".into());
        need(self.core_bytes.is_some_and(|most| most <= 1), &|| "core dumps are on".into());
        need(self.descriptors == expected.descriptors, &|| {
            format!("descriptors {:?} instead of {:?}", self.descriptors, expected.descriptors)
        });
        found
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn inodes(first: u64) -> BTreeMap<String, u64> {
        NAMESPACES.iter().zip(first..).map(|(kind, inode)| ((*kind).to_owned(), inode)).collect()
    }

    pub(crate) fn expected() -> Expected {
        Expected {
            tier: Tier::Namespaces,
            landlock_abi: 7,
            handled: Handled { fs: 0xffff, net: 0, scopes: 1 },
            seccomp: Digest::of(b"filter"),
            seccomp_filters: 2,
            ids: (998, 998),
            uid_map: vec![IdRange { inside: 0, outside: 1_900_000_000, count: 65_536 }],
            gid_map: vec![IdRange { inside: 0, outside: 1_900_000_000, count: 65_536 }],
            keeps_groups: false,
            keeps_bounding: false,
            host_namespaces: inodes(4_026_531_835),
            mounts: MountsLevel { count: 30, digest: Digest::of(b"mounts") },
            wrong_mounts: vec![],
            descriptors: vec![0, 1, 2, 3],
        }
    }

    /// The level that falls short of nothing.
    pub(crate) fn level() -> EnforcedLevel {
        let Expected { landlock_abi, handled, uid_map, gid_map, mounts, .. } = expected();
        EnforcedLevel {
            tier: Tier::Namespaces,
            landlock: LandlockLevel {
                asked: landlock_abi,
                abi: landlock_abi,
                status: Restriction::Full,
                handled,
                tried: true,
            },
            seccomp: SeccompLevel { mode: 2, filters: 2, digest: Digest::of(b"filter"), recorded: true },
            no_new_privs: true,
            caps: Capabilities { inheritable: 0, permitted: 0, effective: 0, bounding: 0, ambient: 0 },
            ids: Ids { uid: [998; 4], gid: [998; 4], groups: vec![], uid_map, gid_map },
            namespaces: inodes(4_026_532_000),
            mounts,
            dumpable: false,
            core_bytes: Some(1),
            descriptors: vec![0, 1, 2, 3],
        }
    }

    #[test]
    fn every_layer_that_falls_short_is_named() {
        assert_eq!(level().shortfalls(&expected()), Vec::<String>::new());
        type Weaken = fn(&mut EnforcedLevel);
        let weaken: [(Weaken, &str); 25] = [
            (|l| l.tier = Tier::Landlock, "the walls are those of the landlock tier, not of namespaces"),
            (|l| l.landlock.status = Restriction::Partial, "landlock is not enforced in full (partial)"),
            (|l| l.landlock.abi = 6, "Landlock ABI 6 of 7"),
            (|l| l.landlock.asked = 6, "Landlock ABI 7 of 7"),
            (|l| l.landlock.handled.fs = 1, "Landlock restricts"),
            (|l| l.landlock.handled.scopes = 0, "Landlock restricts"),
            (|l| l.landlock.tried = false, "the Landlock domain refuses nothing"),
            (|l| l.seccomp.digest = Digest::of(b"none"), "another seccomp program"),
            (|l| l.seccomp.filters = 1, "seccomp mode 2 with 1 filters"),
            (|l| l.seccomp.mode = 0, "seccomp mode 0 with 2 filters"),
            (|l| l.no_new_privs = false, "no_new_privs is off"),
            (|l| l.caps.bounding = 1 << 21, "capabilities left: 0x200000"),
            (|l| l.ids.uid[2] = 0, "runs with uids [998, 998, 0, 998]"),
            (|l| l.ids.gid[0] = 0, "runs with uids [998, 998, 998, 998] and gids [0,"),
            (|l| l.ids.groups.push(27), "groups left: [27]"),
            (|l| l.ids.uid_map[0].outside = 0, "another map of uids"),
            (|l| l.ids.gid_map.clear(), "another map of gids: []"),
            (|l| l.namespaces.remove("net").map_or((), drop), "no net namespace reported"),
            (
                |l| l.namespaces.insert("pid".into(), 4_026_531_839).map_or((), drop),
                "shares the pid namespace",
            ),
            (|l| l.mounts.count = 31, "sees other mounts (31) than its sandbox has (30)"),
            (|l| l.mounts.digest = Digest::of(b"x"), "sees other mounts (30) than its sandbox has (30)"),
            (|l| l.dumpable = true, "others could look into it"),
            (|l| l.core_bytes = None, "core dumps are on"),
            (|l| l.descriptors.push(7), "descriptors [0, 1, 2, 3, 7] instead of [0, 1, 2, 3]"),
            (|l| l.descriptors = vec![], "descriptors [] instead of"),
        ];
        for (weaken, named) in weaken {
            let mut level = level();
            weaken(&mut level);
            let found = level.shortfalls(&expected());
            assert!(found.len() == 1 && found[0].starts_with(named), "{named}: {found:?}");
        }
    }

    #[test]
    fn what_the_host_side_finds_wrong_is_named_whatever_the_process_says() {
        let mut hosts = expected();
        hosts.wrong_mounts = vec!["/usr is not read-only".into()];
        hosts.host_namespaces.remove("net");
        let found = level().shortfalls(&hosts);
        assert_eq!(found, ["the host's net namespace is not known", "mounts: /usr is not read-only"]);
        let mut kept = expected();
        kept.keeps_groups = true;
        let mut ours = level();
        ours.ids.groups.push(27);
        assert_eq!(ours.shortfalls(&kept), Vec::<String>::new());
    }

    #[test]
    fn the_lower_tier_is_accepted_where_it_was_ordered_and_nowhere_else() {
        let mut ordered = expected();
        ordered.tier = Tier::Landlock;
        ordered.keeps_bounding = true;
        let mut lower = level();
        lower.tier = Tier::Landlock;
        lower.caps.bounding = 1 << 21;
        lower.namespaces = ordered.host_namespaces.clone();
        lower.mounts.count = 7;
        assert_eq!(lower.shortfalls(&ordered), Vec::<String>::new());
        let found = lower.shortfalls(&expected());
        assert_eq!(found.len(), 3 + NAMESPACES.len(), "{found:?}");
        assert_eq!(found[0], "the walls are those of the landlock tier, not of namespaces");
        let mut weaker = lower.clone();
        weaker.caps.effective = 1;
        assert_eq!(weaker.shortfalls(&ordered), ["capabilities left: 0x1"]);
        assert_eq!(
            level().shortfalls(&ordered),
            ["the walls are those of the namespaces tier, not of landlock"]
        );
    }

    #[test]
    fn a_level_is_read_as_it_was_written_and_small() {
        let json = serde_json::to_string(&level()).unwrap();
        assert_eq!(serde_json::from_str::<EnforcedLevel>(&json).unwrap(), level());
        assert!(json.len() < 2048, "{} bytes", json.len());
    }
}
