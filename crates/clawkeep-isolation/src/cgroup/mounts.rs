//! Where the hierarchies are mounted (proc_pid_mountinfo(5)) and where we are in each (cgroups(7)).

use std::path::{Path, PathBuf};

use crate::mountinfo::{self, Mounted};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The controllers of a v1 hierarchy; `None` is v2.
    pub controllers: Option<Vec<String>>,
    /// The group that is mounted, as a path from the root of our cgroup namespace.
    pub root: String,
    /// Where.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Whether it is a v1 hierarchy of this controller.
    pub fn is_v1_of(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_some_and(|all| all.iter().any(|have| have == controller))
    }
}

/// All that are mounted, in the order of the file.
pub fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo::table(mountinfo).filter_map(|mount| hierarchy(mount.ok()?)).collect()
}

fn hierarchy(mount: Mounted) -> Option<Hierarchy> {
    let controllers = match mount.kind.as_str() {
        "cgroup2" => None,
        "cgroup" => Some(mount.super_options),
        _ => return None,
    };
    Some(Hierarchy { controllers, root: mount.root, mount: mount.point.into() })
}

/// The path of our own group in a hierarchy, from the root of our cgroup namespace: of v2, or of the v1
/// hierarchy of this controller.
pub fn own_path<'a>(self_cgroup: &'a str, controller: Option<&str>) -> Option<&'a str> {
    self_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let here = match controller {
            None => number == "0" && controllers.is_empty(),
            Some(name) => controllers.split(',').any(|have| have == name),
        };
        here.then_some(path)
    })
}

/// The directory of our own group below a mount.
pub fn own_dir(hierarchy: &Hierarchy, own: &str) -> Option<PathBuf> {
    let below = Path::new(own).strip_prefix(&hierarchy.root).ok()?;
    // A path out of our namespace begins with `..` and leads nowhere that we can name.
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    plain.then(|| hierarchy.mount.join(below))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn finds_both_kinds_wherever_they_are_mounted() {
        let all = hierarchies(HYBRID);
        assert_eq!(all.len(), 4);
        assert!(all[0].is_v1_of("cpu") && all[0].is_v1_of("cpuacct") && !all[0].is_v1_of("memory"));
        assert!(all[1].is_v1_of("memory"));
        assert_eq!((&all[3].controllers, all[3].mount.as_path()), (&None, Path::new("/sys/fs/cgroup/a b")));
    }

    #[test]
    fn finds_our_own_group() {
        let own = "4:memory:/process_api/x\n1:cpu,cpuacct:/\n9:name=systemd:/s\n0::/user.slice/a:b\n";
        assert_eq!(own_path(own, None), Some("/user.slice/a:b"));
        assert_eq!(own_path(own, Some("cpu")), Some("/"));
        assert_eq!(own_path(own, Some("memory")), Some("/process_api/x"));
        assert_eq!(own_path(own, Some("pids")), None);
        let mut mount = Hierarchy { controllers: None, root: "/".into(), mount: "/c".into() };
        assert_eq!(own_dir(&mount, "/a/b"), Some("/c/a/b".into()));
        // A namespace above which we are; a container that sees the whole path of its own group.
        assert_eq!(own_dir(&mount, "/../b"), None);
        mount.root = "/docker/x".into();
        assert_eq!(own_dir(&mount, "/docker/x"), Some("/c".into()));
        assert_eq!(own_dir(&mount, "/docker/xy"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z0-9 \\\\:,/=\n-]{0,300}") {
            let _ = (hierarchies(&text), own_path(&text, None), own_path(&text, Some("cpu")));
        }
    }
}
