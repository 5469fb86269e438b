use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::limits::Hierarchy as Kind;
use super::mounts::{self, Hierarchy};
use super::{Controller, Limits, Seat, Version, v1, v2};

/// Where on this host we can make control groups, and for which controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub(super) seats: Vec<Seat>,
    /// Controllers that we cannot have, and why.
    pub(super) lacks: Vec<(Controller, String)>,
}

impl Host {
    /// Look at this host; changes nothing.
    pub fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// The same from the two files of /proc.
    fn of(mountinfo: &str, self_cgroup: &str) -> Self {
        let all = mounts::hierarchies(mountinfo);
        let mut host = Self { seats: Vec::new(), lacks: Vec::new() };
        for controller in Controller::ALL {
            match seat(&all, self_cgroup, controller) {
                Ok(seat) => host.seats.push(seat),
                Err(why) => host.lacks.push((controller, why)),
            }
        }
        host
    }

    /// Which interface the limits will be kept by.
    pub fn hierarchy(&self) -> Kind {
        match self.seats.iter().map(|seat| seat.version).min_by_key(|version| *version == Version::V2) {
            Some(Version::V1) => Kind::V1Hybrid,
            Some(Version::V2) => Kind::V2,
            None => Kind::None,
        }
    }

    /// The controllers by which limits can be kept, by their names.
    pub fn controllers(&self) -> Vec<&'static str> {
        self.seats.iter().map(|seat| seat.controller.name()).collect()
    }

    /// What cannot be limited for the lack of a controller, and why.
    pub fn lacks(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.lacks.iter().map(|(controller, why)| (controller.name(), why.as_str()))
    }

    /// The first of these limits that cannot be kept here, and why. The number of processes and the size of
    /// files need no control group: they are limits of every process as well (setrlimit(2)).
    pub fn refusal(&self, limits: &Limits) -> Option<String> {
        let wanted = [(Controller::Memory, limits.memory_bytes), (Controller::Cpu, limits.cpu_milli)];
        wanted.iter().filter(|(_, asked)| asked.is_some()).find_map(|(controller, _)| {
            Some(format!("the limit of {} cannot be enforced: {}", controller.name(), self.why(*controller)?))
        })
    }

    pub(super) fn why(&self, controller: Controller) -> Option<&str> {
        self.lacks.iter().find(|(lacked, _)| *lacked == controller).map(|(_, why)| why.as_str())
    }

    /// Memory of the host in bytes, or of the part of it that we are confined to.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let info = rustix::system::sysinfo();
        let all = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let seat = self.seats.iter().find(|seat| seat.controller == Controller::Memory);
        seat.and_then(Seat::limit).map_or(all, |confined| confined.min(all))
    }
}

/// The topmost directory in which groups with this controller can be made by us.
fn seat(all: &[Hierarchy], self_cgroup: &str, controller: Controller) -> Result<Seat, String> {
    let name = controller.name();
    let of_v1 = all.iter().find(|hierarchy| hierarchy.is_v1_of(name));
    let of_v2 = || all.iter().find(|hierarchy| hierarchy.controllers.is_none());
    let (version, hierarchy) = match (of_v1, of_v2()) {
        (Some(hierarchy), _) => (Version::V1, hierarchy),
        (None, Some(hierarchy)) => (Version::V2, hierarchy),
        (None, None) => return Err("no cgroup file system is mounted".into()),
    };
    let key = (version == Version::V1).then_some(name);
    let own = mounts::own_path(self_cgroup, key).and_then(|own| mounts::own_dir(hierarchy, own));
    let join = if version == Version::V1 { v1::JOIN } else { v2::JOIN };
    let dir = own
        .and_then(|own| topmost(&own, &hierarchy.mount, join))
        .ok_or("no control group is delegated to us: run as root, or in a systemd user service")?;
    if version == Version::V2 && !v2::is_passed_on(&dir, controller) {
        if !v2::is_available(&dir, controller) {
            return Err(format!("the kernel's {name} controller is not available in {}", dir.display()));
        }
        if v2::holds_processes(&dir) {
            return Err(format!("{} holds processes itself and passes no controller on", dir.display()));
        }
    }
    Ok(Seat { controller, version, dir })
}

/// From our own group upwards as far as groups can be made and processes moved: for root that is the root of
/// the mount; for others the top of what is delegated to them.
fn topmost(own: &Path, mount: &Path, join: &str) -> Option<PathBuf> {
    let ours = |dir: &Path| {
        access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
            && access(dir.join(join), Access::WRITE_OK).is_ok()
    };
    own.ancestors()
        .take_while(|dir| dir.starts_with(mount))
        .take_while(|dir| ours(dir))
        .last()
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory tree with the files that are looked at; no kernel is behind it.
    fn fake(dirs: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (dir, files) in dirs {
            let dir = root.path().join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            for (file, text) in *files {
                std::fs::write(dir.join(file), text).unwrap();
            }
        }
        root
    }

    fn v2_mount(root: &Path) -> String {
        format!("41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n", root.display())
    }

    const ROOT: &[(&str, &str)] = &[
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", "memory pids\n"),
        ("cgroup.procs", "1\n"),
    ];

    #[test]
    fn a_fake_v2_host_gives_its_top_whatever_group_we_are_in() {
        let fake = fake(&[("", ROOT), ("system.slice", &[("cgroup.procs", "")])]);
        let host = Host::of(&v2_mount(fake.path()), "0::/system.slice\n");
        assert_eq!(host.hierarchy(), Kind::V2);
        assert_eq!(host.controllers(), ["memory", "pids", "cpu"]);
        assert!(host.seats.iter().all(|seat| seat.dir == fake.path()), "{host:?}");
        let limits = Limits { memory_bytes: Some(1), cpu_milli: Some(1), ..Limits::default() };
        assert_eq!(host.refusal(&limits), None);
    }

    #[test]
    fn a_fake_v2_container_whose_group_holds_processes_says_so() {
        let typed = [ROOT, &[("cgroup.type", "domain\n")]].concat();
        let fake = fake(&[("", &typed)]);
        let host = Host::of(&v2_mount(fake.path()), "0::/\n");
        // What was passed on before can be used.
        assert_eq!(host.controllers(), ["memory", "pids"]);
        let limits = Limits { cpu_milli: Some(1500), ..Limits::default() };
        let refusal = host.refusal(&limits).unwrap();
        assert!(refusal.starts_with("the limit of cpu cannot be enforced: "), "{refusal}");
        assert!(refusal.ends_with("holds processes itself and passes no controller on"), "{refusal}");
        assert_eq!(host.refusal(&Limits::default()), None);
    }

    #[test]
    fn a_fake_host_without_the_controllers_has_none() {
        let fake = fake(&[("", &[("cgroup.procs", ""), ("cgroup.controllers", "\n")])]);
        let host = Host::of(&v2_mount(fake.path()), "0::/\n");
        assert_eq!(host.hierarchy(), Kind::None);
        let whys: Vec<_> = host.lacks().collect();
        assert!(whys.len() == 3 && whys[0].1.contains("memory controller is not available"), "{whys:?}");
        let nothing = Host::of("", "");
        assert_eq!(nothing.lacks().next(), Some(("memory", "no cgroup file system is mounted")));
        let limits = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
        assert!(nothing.refusal(&limits).unwrap().contains("no cgroup file system"));
        assert_eq!(nothing.refusal(&Limits { pids: Some(100), ..Limits::default() }), None);
    }

    #[test]
    fn a_group_that_is_not_there_or_not_ours_is_no_place() {
        let fake = fake(&[("", ROOT)]);
        for own in ["0::/../elsewhere\n", "0::/gone\n", "4:memory:/\n", ""] {
            let host = Host::of(&v2_mount(fake.path()), own);
            assert_eq!(host.hierarchy(), Kind::None, "{own:?}: {host:?}");
        }
    }

    #[test]
    fn a_user_gets_the_top_of_what_is_delegated() {
        use std::os::unix::fs::PermissionsExt as _;
        if testkit::Reexec::of("cgroup::host::tests::a_user_gets_the_top_of_what_is_delegated")
            .user(65534)
            .run()
            != testkit::Outcome::Inside
        {
            return;
        }
        let files: &[(&str, &str)] = &[("cgroup.procs", ""), ("cgroup.controllers", "memory pids\n")];
        let fake = fake(&[("", ROOT), ("user", files), ("user/app", files), ("user/app/service", files)]);
        // The root of it is not ours.
        std::fs::set_permissions(fake.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let host = Host::of(&v2_mount(fake.path()), "0::/user/app/service\n");
        std::fs::set_permissions(fake.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(host.controllers(), ["memory", "pids"]);
        assert!(host.seats.iter().all(|seat| seat.dir == fake.path().join("user")), "{host:?}");
    }
}
