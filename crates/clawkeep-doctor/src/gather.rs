//! The look at this host.

use std::collections::BTreeMap;
use std::path::Path;

use clawkeep_isolation::{Host, Status, id_map, points, trials};
use clawkeep_plan::NAMESPACES;

use crate::facts::{Cgroups, Facts, Landlock, Seccomp};
use crate::proof::SLOT;

/// A small file of the kernel's, whole. Names of files in it may be any bytes.
fn text(path: &str) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\0']).to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

impl Facts {
    /// Look at this host. `program` is this program's own file; it is started to try what can be made.
    pub fn of_this_host(program: &Path) -> Self {
        let status = text("/proc/self/status").unwrap_or_default();
        let status = Status(&status);
        let mounted = points(&text("/proc/self/mountinfo").unwrap_or_default());
        let landlock = clawkeep_isolation::landlock();
        let cgroups = Host::look();
        let most = |kind: &&str| {
            Some(((*kind).to_owned(), number(&format!("/proc/sys/user/max_{kind}_namespaces"))?))
        };
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            uid: rustix::process::geteuid().as_raw(),
            capabilities: status.capabilities().map_or(0, |sets| sets.effective),
            uid_map: text("/proc/self/uid_map").and_then(|map| id_map(&map).ok()).unwrap_or_default(),
            container: container(),
            chroot: !mounted.is_empty() && !mounted.iter().any(|point| point == "/"),
            landlock: Landlock {
                abi: *landlock.as_ref().unwrap_or(&0),
                errno: landlock.err().and_then(|error| error.raw_os_error()).unwrap_or(0),
            },
            lsm: text("/sys/kernel/security/lsm"),
            seccomp: Seccomp {
                mode: status.number("Seccomp").ok(),
                actions: text("/proc/sys/kernel/seccomp/actions_avail")
                    .map(|all| all.split_whitespace().map(str::to_owned).collect()),
            },
            max_namespaces: NAMESPACES.iter().filter_map(most).collect::<BTreeMap<_, _>>(),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            apparmor_label: text("/proc/self/attr/apparmor/current")
                .or_else(|| text("/proc/self/attr/current")),
            hidden_proc: mounted.into_iter().filter(|point| hides(point)).collect(),
            trials: trials(program, SLOT).map_err(|error| error.to_string()),
            cgroups: Cgroups {
                hierarchy: cgroups.hierarchy(),
                controllers: cgroups.controllers().into_iter().map(str::to_owned).collect(),
                lacks: cgroups.lacks().map(|(name, why)| (name.to_owned(), why.to_owned())).collect(),
            },
            systemd: Path::new("/run/systemd/system").is_dir(),
            program: program.to_owned(),
        }
    }
}

/// Whether something that is mounted here hides a part of /proc. One place is made to be mounted on, by every host.
fn hides(point: &str) -> bool {
    point.starts_with("/proc/") && point != "/proc/sys/fs/binfmt_misc"
}

/// Whether this is another host name's namespace than the kernel's first one (PROC_UTS_INIT_INO of its sources,
/// include/linux/proc_ns.h).
fn own_host_name() -> bool {
    std::fs::read_link("/proc/self/ns/uts").is_ok_and(|link| link.as_os_str() != "uts:[4026531838]")
}

/// What container this is, by the marks that container managers leave (systemd-detect-virt(1)).
fn container() -> Option<String> {
    let file = |path: &str, name: &str| Path::new(path).exists().then(|| name.to_owned());
    let variable = || {
        let environ = text("/proc/1/environ")?;
        let value = environ.split('\0').find_map(|variable| variable.strip_prefix("container="))?.to_owned();
        Some(value)
    };
    std::env::var_os("KUBERNETES_SERVICE_HOST")
        .map(|_| "kubernetes".to_owned())
        // The mark is in images as well, from which virtual machines are made: those have no name of their own.
        .or_else(|| file("/.dockerenv", "docker").filter(|_| own_host_name()))
        .or_else(|| file("/run/.containerenv", "podman"))
        .or_else(|| text("/run/systemd/container"))
        .or_else(variable)
        .filter(|name| !name.is_empty())
}
