//! The mounts of a sandbox: a brief of the table for the receipt, and what of it is not as specified.

use std::io;

use clawkeep_plan::{Digest, MountsLevel};

use crate::mountinfo::{Mounted, table};
use crate::spec::{MountAccess, SandboxSpec};

/// The flags that walls are made of; the others (access times, size) keep nobody out.
const FLAGS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// What `rootfs.rs` mounts by itself: where, which type, with which flags at least.
const OWN: &[(&str, &str, &[&str])] = &[
    ("/", "tmpfs", &["ro", "nosuid", "nodev"]),
    ("/proc", "proc", &["ro", "nosuid", "nodev", "noexec"]),
    ("/tmp", "tmpfs", &["nosuid", "nodev"]),
    ("/run", "tmpfs", &["nosuid", "nodev", "noexec"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec"]),
    ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec"]),
];

/// The flags that a mount of the specification has at least, and so has everything that is mounted in it.
fn flags(access: MountAccess) -> &'static [&'static str] {
    match access {
        MountAccess::ReadOnly | MountAccess::Shown => &["ro", "nosuid", "nodev"],
        MountAccess::ReadWrite | MountAccess::Shared { .. } => &["nosuid", "nodev"],
        MountAccess::Device => &["nosuid", "noexec"],
    }
}

/// All mounts, or why the table is none.
fn read(mountinfo: &str) -> io::Result<Vec<Mounted>> {
    let bad = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a mount: {line:?}"));
    table(mountinfo).collect::<Result<_, _>>().map_err(bad)
}

/// The table in brief. Two processes that see the same mounts give the same.
pub fn brief(mountinfo: &str) -> io::Result<MountsLevel> {
    let mut lines: Vec<String> = read(mountinfo)?
        .iter()
        .map(|mount| {
            let flags: Vec<_> = FLAGS.into_iter().filter(|flag| mount.is(flag)).collect();
            // Not what of its file system is mounted: that is told by where it lies now, and may be moved or
            // removed on the host. No name has a NUL in it.
            [mount.point.as_str(), &mount.kind, &flags.join(",")].join("\0") + "\0"
        })
        .collect();
    lines.sort_unstable();
    let count = u32::try_from(lines.len()).map_err(io::Error::other)?;
    Ok(MountsLevel { count, digest: Digest::of(lines.concat().as_bytes()) })
}

/// What of the table is not as specified, each for a person: a mount that nobody asked for, one that is missing,
/// one with a flag less. What the host has mounted in a directory that is shown comes along, with its flags.
pub fn astray(mountinfo: &str, spec: &SandboxSpec) -> io::Result<Vec<String>> {
    let mounts = read(mountinfo)?;
    let devices =
        crate::rootfs::DEVICES.iter().map(|name| (format!("/dev/{name}"), flags(MountAccess::Device)));
    let specified = spec.mounts.iter().map(|mount| (mount.target.clone(), flags(mount.access)));
    let asked: Vec<_> = specified.chain(devices).chain(crate::proc::masks()).collect();
    let mut found = Vec::new();
    for mount in &mounts {
        let own = OWN.iter().find(|(point, ..)| mount.point == *point);
        // The innermost one that it is in.
        let within = asked.iter().filter(|(target, _)| is_below(&mount.point, target));
        let within = within.max_by_key(|(target, _)| target.len());
        let needed = match (own, within) {
            (Some((point, kind, _)), _) if mount.kind != *kind => {
                found.push(format!("{point} is of type {}, not {kind}", mount.kind));
                continue;
            }
            (Some((.., flags)), _) => *flags,
            (None, Some((_, flags))) => *flags,
            (None, None) => {
                found.push(format!("{} ({}) was not asked for", mount.point, mount.kind));
                continue;
            }
        };
        let lacking: Vec<_> = needed.iter().filter(|flag| !mount.is(flag)).copied().collect();
        if !lacking.is_empty() {
            found.push(format!("{} is not {}", mount.point, lacking.join(", ")));
        }
    }
    let there = |point: &str| mounts.iter().filter(|mount| mount.point == point).count();
    for (point, ..) in OWN {
        match there(point) {
            1 => {}
            0 => found.push(format!("{point} is not mounted")),
            _ => found.push(format!("{point} is mounted over")),
        }
    }
    let missing = asked.iter().filter(|(target, _)| there(target.trim_end_matches('/')) == 0);
    found.extend(missing.map(|(target, _)| format!("{target} is not mounted")));
    Ok(found)
}

/// Whether a path is this directory or in it.
fn is_below(path: &str, directory: &str) -> bool {
    std::path::Path::new(path).starts_with(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{IdMap, Mount};

    fn spec() -> SandboxSpec {
        let mount = |target: &str, access| Mount { source: "/x".into(), target: target.into(), access };
        SandboxSpec {
            name: "box".into(),
            tier: clawkeep_plan::Tier::Namespaces,
            ids: IdMap::Single { uid: 1, gid: 1 },
            mounts: vec![
                mount("/usr", MountAccess::ReadOnly),
                mount("/sandbox", MountAccess::ReadWrite),
                mount("/tmp/gateway.log", MountAccess::ReadOnly),
            ],
            symlinks: vec![],
            files: vec![],
            listeners: vec![],
            datagrams: vec![],
            own_ports: vec![],
            tmp_bytes: 0,
            log_bytes: 0,
            limits: Default::default(),
        }
    }

    const GOOD: &str = "\
50 49 0:40 / / ro,nosuid,nodev,relatime - tmpfs none rw,size=1024k
51 50 0:41 / /proc ro,nosuid,nodev,noexec,relatime - proc none rw
52 50 0:42 / /tmp rw,nosuid,nodev,relatime - tmpfs none rw
53 50 0:43 / /run rw,nosuid,nodev,noexec,relatime - tmpfs none rw
54 50 0:44 / /dev/pts rw,nosuid,noexec,relatime - devpts none rw
55 50 0:45 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs none rw
56 50 0:46 /usr /usr ro,nosuid,nodev,relatime - ext4 /dev/vda rw
57 56 0:47 / /usr/share/more ro,nosuid,nodev,relatime - ext4 /dev/vdb rw
58 50 0:46 /s /sandbox rw,nosuid,nodev,relatime - ext4 /dev/vda rw
59 52 0:46 /l /tmp/gateway.log ro,nosuid,nodev,relatime - ext4 /dev/vda rw
";

    fn good() -> String {
        let devices = crate::rootfs::DEVICES.iter().zip(60..);
        let line =
            |(name, id)| format!("{id} 50 0:6 /{name} /dev/{name} rw,nosuid,noexec - devtmpfs none rw\n");
        let masks = crate::proc::masks().zip(80..);
        let mask = |((path, _), id)| format!("{id} 51 0:7 / {path} ro,nosuid,nodev,noexec - tmpfs none ro\n");
        devices.map(line).chain(masks.map(mask)).fold(GOOD.to_owned(), |all, line| all + &line)
    }

    #[test]
    fn what_is_not_as_specified_is_named() {
        assert_eq!(astray(&good(), &spec()).unwrap(), Vec::<String>::new());
        for (from, to, named) in [
            ("/usr ro,nosuid", "/usr rw,nosuid", "/usr is not ro"),
            (
                "/usr/share/more ro,nosuid,nodev",
                "/usr/share/more rw",
                "/usr/share/more is not ro, nosuid, nodev",
            ),
            ("/ / ro,", "/ / rw,", "/ is not ro"),
            ("/sandbox rw,nosuid,nodev", "/sandbox rw,nodev", "/sandbox is not nosuid"),
            ("/tmp/gateway.log ro", "/tmp/gateway.log rw", "/tmp/gateway.log is not ro"),
            ("/proc ro,nosuid,nodev,noexec", "/proc rw,nosuid,nodev", "/proc is not ro, noexec"),
            ("/dev/null rw,nosuid", "/dev/null rw", "/dev/null is not nosuid"),
            ("- proc none rw", "- tmpfs none rw", "/proc is of type tmpfs, not proc"),
            ("/more ro", "/more\\040x ro", ""),
            (
                "50 0:46 /usr /usr",
                "50 0:46 /usr /user",
                "/user (ext4) was not asked for; /usr is not mounted",
            ),
            (
                "57 56 0:47 / /usr/share/more",
                "57 56 0:47 / /tmp",
                "/tmp is of type ext4, not tmpfs; /tmp is mounted over",
            ),
            ("57 56 0:47 / /usr/share/more", "57 56 0:47 / /home", "/home (ext4) was not asked for"),
            ("/run rw", "/run2 rw", "/run2 (tmpfs) was not asked for; /run is not mounted"),
        ] {
            let table = good().replacen(from, to, 1);
            assert_ne!(table, good(), "{from}");
            assert_eq!(astray(&table, &spec()).unwrap().join("; "), named);
        }
        assert!(astray("nonsense", &spec()).is_err());
    }

    #[test]
    fn the_brief_is_of_what_keeps_somebody_out_whatever_the_order() {
        let all = brief(&good()).unwrap();
        assert_eq!(all.count as usize, 16 + crate::proc::masks().count());
        let reversed: String = good().lines().rev().map(|line| format!("{line}\n")).collect();
        assert_eq!(brief(&reversed).unwrap(), all);
        for (from, to) in [("relatime", "noatime"), (" /l ", " /l//deleted "), ("/ / ro", "/ / ro,ro")] {
            assert_eq!(brief(&good().replace(from, to)).unwrap(), all);
        }
        for (from, to) in [("/usr ro,", "/usr rw,"), ("- proc", "- tmpfs"), ("/run ", "/run1 ")] {
            assert_ne!(brief(&good().replacen(from, to, 1)).unwrap().digest, all.digest, "{from}");
        }
        assert!(brief("nonsense").is_err());
    }
}
