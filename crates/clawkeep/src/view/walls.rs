//! What is enforced around an agent, in one line.

use clawkeep_isolation::Hierarchy;
use clawkeep_plan::{Capabilities, EnforcedLevel, IdRange, Tier};

/// `Landlock ABI 7 · seccomp 2 filters, 9f3c1a2b… · 7 namespaces · no capabilities · ...`
pub fn brief(level: &EnforcedLevel, limits: Hierarchy) -> String {
    let EnforcedLevel { landlock, seccomp, ids, .. } = level;
    let uid = ids.uid[1];
    // Without a namespace an id is what it is.
    let outside = outside(&ids.uid_map, uid).filter(|id| *id != uid);
    let outside = outside.map_or_else(String::new, |id| format!(", {id} on the host"));
    let s = if seccomp.filters == 1 { "" } else { "s" };
    let mut words = vec![
        format!("Landlock ABI {}", landlock.abi),
        format!("seccomp {} filter{s}, {}\u{2026}", seccomp.filters, seccomp.digest.short()),
        match level.tier {
            Tier::Namespaces => format!("{} namespaces", level.namespaces.len()),
            Tier::Landlock => "TCP to the proxy and its own port alone \u{b7} NO namespaces".to_owned(),
        },
        match held(level) {
            0 => "no capabilities".to_owned(),
            left => format!("capabilities {left:#x}"),
        },
    ];
    words.extend((!seccomp.recorded).then(|| "refused system calls NOT RECORDED".to_owned()));
    words.extend(level.no_new_privs.then(|| "no new privileges".to_owned()));
    words.push(format!("user {uid}{outside}"));
    if !ids.groups.is_empty() {
        words.push(format!("{} groups of yours, which only root can drop", ids.groups.len()));
    }
    words.extend((level.tier == Tier::Namespaces).then(|| format!("{} mounts", level.mounts.count)));
    words.push(limits.to_string());
    words.join(" \u{b7} ")
}

/// Capabilities of this process. What its bounding set holds in the lower tier it cannot gain, with no new privileges.
fn held(level: &EnforcedLevel) -> u64 {
    let bounding = if level.tier == Tier::Landlock && level.no_new_privs { 0 } else { level.caps.bounding };
    Capabilities { bounding, ..level.caps }.any()
}

/// The id around the user namespace that this one inside is.
fn outside(map: &[IdRange], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    })
}

#[cfg(test)]
pub mod tests {
    use clawkeep_plan::{
        Digest, Handled, Ids, LandlockLevel, MountsLevel, NAMESPACES, Restriction, SeccompLevel,
    };

    use super::*;

    /// Of a sandbox that root made.
    pub fn level() -> EnforcedLevel {
        let map = vec![IdRange { inside: 0, outside: 1_900_000_000, count: 65_536 }];
        EnforcedLevel {
            tier: Tier::Namespaces,
            landlock: LandlockLevel {
                asked: 7,
                abi: 7,
                status: Restriction::Full,
                handled: Handled { fs: 0xffff, net: 0, scopes: 1 },
                tried: true,
            },
            seccomp: SeccompLevel { mode: 2, filters: 2, digest: Digest::of(b"seccomp"), recorded: true },
            no_new_privs: true,
            caps: Capabilities { inheritable: 0, permitted: 0, effective: 0, bounding: 0, ambient: 0 },
            ids: Ids { uid: [998; 4], gid: [998; 4], groups: vec![], uid_map: map.clone(), gid_map: map },
            namespaces: NAMESPACES.map(|kind| (kind.to_owned(), 4_026_532_000)).into(),
            mounts: MountsLevel { count: 32, digest: Digest::of(b"mounts") },
            dumpable: false,
            core_bytes: Some(1),
            descriptors: vec![0, 1, 2, 3],
        }
    }

    #[test]
    fn an_ordinary_users_groups_and_what_is_not_recorded_are_told() {
        let mut level = level();
        level.ids.uid_map = vec![IdRange { inside: 998, outside: 1000, count: 1 }];
        level.ids.groups = vec![27, 65_534];
        level.seccomp = SeccompLevel { filters: 1, recorded: false, ..level.seccomp };
        insta::assert_snapshot!(brief(&level, Hierarchy::None), @"Landlock ABI 7 · seccomp 1 filter, b10f708e… · 7 namespaces · no capabilities · refused system calls NOT RECORDED · no new privileges · user 998, 1000 on the host · 2 groups of yours, which only root can drop · 32 mounts · no cgroup");
    }

    #[test]
    fn the_lower_tier_is_said_aloud() {
        let mut level = level();
        let map = IdRange { inside: 0, outside: 0, count: u32::MAX };
        level.tier = Tier::Landlock;
        level.ids = Ids { uid: [1000; 4], gid: [1000; 4], uid_map: vec![map], ..level.ids };
        level.seccomp.filters = 1;
        level.caps.bounding = 0x1ff_ffff_ffff;
        insta::assert_snapshot!(brief(&level, Hierarchy::None), @"Landlock ABI 7 · seccomp 1 filter, b10f708e… · TCP to the proxy and its own port alone · NO namespaces · no capabilities · no new privileges · user 1000 · no cgroup");
        level.caps.effective = 1;
        assert!(brief(&level, Hierarchy::None).contains("capabilities 0x1"));
    }

    #[test]
    fn an_id_is_looked_up_in_every_line_of_the_map() {
        let map = [
            IdRange { inside: 0, outside: 100, count: 2 },
            IdRange { inside: 10, outside: u32::MAX, count: 9 },
        ];
        let found: Vec<_> = [0, 1, 2, 9, 10, 11, u32::MAX].map(|id| outside(&map, id)).into();
        assert_eq!(found, [Some(100), Some(101), None, None, Some(u32::MAX), None, None]);
    }
}
