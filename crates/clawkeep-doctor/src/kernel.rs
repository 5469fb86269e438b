//! What the kernel itself must have.

use std::io;

use rustix::io::Errno;

use crate::check::Check;
use crate::facts::{Facts, Landlock};

/// The first kernel with Landlock; all else that sandboxes need is older.
const OLDEST: (u32, u32) = (5, 13);

/// What no ABI below this one restricts, and the kernel that brought it (landlock(7)). The first ABI forbids to link
/// and rename between directories.
const BROUGHT: &[(u32, &str, &str)] =
    &[(3, "6.2", "truncating"), (5, "6.10", "control of devices"), (6, "6.12", "abstract sockets")];

/// seccomp's actions that the filters use.
const ACTIONS: [&str; 3] = ["kill_process", "errno", "allow"];

/// The kernel's version.
pub fn version(facts: &Facts) -> Check {
    let (major, minor) = OLDEST;
    match facts.version() {
        Some(version) if version >= OLDEST => Check::ok("kernel", format!("Linux {}", facts.kernel)),
        Some(_) => Check::fail(
            "kernel",
            format!("Linux {} is older than {major}.{minor}", facts.kernel),
            format!("boot Linux {major}.{minor} or later"),
        ),
        None => Check::fail(
            "kernel",
            format!("{:?} is no Linux version", facts.kernel),
            format!("boot Linux {major}.{minor} or later"),
        ),
    }
}

/// Landlock: there, switched on, and how much of it.
pub fn landlock(facts: &Facts) -> Check {
    const ID: &str = "landlock";
    let Landlock { abi, errno } = facts.landlock;
    if abi > 0 {
        let lacking: Vec<_> = BROUGHT.iter().filter(|(brought, ..)| abi < *brought).collect();
        let Some((_, version, _)) = lacking.last() else { return Check::ok(ID, format!("ABI {abi}")) };
        let what: Vec<_> = lacking.iter().map(|(.., what)| *what).collect();
        let found = format!("ABI {abi}, which does not restrict {}", what.join(", "));
        return Check::warn(ID, found, format!("boot Linux {version} or later"));
    }
    let old = facts.version().is_some_and(|version| version < OLDEST);
    match Errno::from_raw_os_error(errno) {
        Errno::OPNOTSUPP => {
            let now = facts.lsm.as_deref().filter(|now| !now.is_empty());
            let found = match now {
                Some(now) => format!("switched off at boot: the security modules are {now}"),
                None => "switched off at boot: it is not among the security modules".to_owned(),
            };
            let line = format!("landlock,{}", now.unwrap_or("lockdown,yama,integrity,apparmor"));
            Check::fail(
                ID,
                found,
                format!(
                    "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&lsm={line} /' /etc/default/grub && \
                     sudo update-grub && sudo reboot"
                ),
            )
        }
        Errno::NOSYS if old => Check::fail(
            ID,
            format!("not in Linux {}", facts.kernel),
            format!("boot Linux {}.{} or later", OLDEST.0, OLDEST.1),
        ),
        Errno::NOSYS | Errno::PERM if facts.seccomp.mode == Some(2) => {
            Check::fail(ID, format!("refused by the seccomp filter of {}", around(facts)), loosen(facts))
        }
        Errno::NOSYS => Check::fail(
            ID,
            "this kernel was built without it (CONFIG_SECURITY_LANDLOCK)",
            "boot a kernel of your distribution, which has it",
        ),
        _ => {
            let error = io::Error::from_raw_os_error(errno);
            Check::fail(ID, format!("the kernel does not tell: {error}"), "sudo dmesg | grep -i landlock")
        }
    }
}

/// seccomp: filters, and what they can do.
pub fn seccomp(facts: &Facts) -> Check {
    const ID: &str = "seccomp";
    if facts.seccomp.mode.is_none() {
        return Check::fail(
            ID,
            "this kernel was built without it (CONFIG_SECCOMP_FILTER)",
            "boot a kernel of your distribution, which has it",
        );
    }
    let Some(actions) = &facts.seccomp.actions else {
        return Check::ok(ID, "there (what its filters can do is hidden here)");
    };
    let has = |action: &str| actions.iter().any(|have| have == action);
    if let Some(lacking) = ACTIONS.iter().find(|action| !has(action)) {
        let found = format!("its filters cannot {lacking} (Linux {})", facts.kernel);
        return Check::fail(ID, found, "boot Linux 5.13 or later");
    }
    if !has("user_notif") {
        let found = "filters, without user notification: refused calls are not recorded";
        return Check::warn(ID, found, "boot Linux 5.13 or later");
    }
    Check::ok(ID, "filters, with user notification")
}

/// By what limits are kept. One that is asked for and cannot be kept is refused when it is asked for.
pub fn limits(facts: &Facts) -> Check {
    const ID: &str = "limits";
    let cgroups = &facts.cgroups;
    if cgroups.lacks.is_empty() {
        return Check::ok(ID, format!("{}: {}", cgroups.hierarchy, cgroups.controllers.join(", ")));
    }
    let mut whys: Vec<&str> = cgroups.lacks.iter().map(|(_, why)| why.as_str()).collect();
    whys.sort_unstable();
    whys.dedup();
    let of = |why| {
        cgroups.lacks.iter().filter(move |(_, one)| one == why).map(|(controller, _)| controller.as_str())
    };
    let told =
        whys.iter().map(|why| format!("no limit of {}: {why}", of(why).collect::<Vec<_>>().join(", ")));
    let found = told.collect::<Vec<_>>().join("\n");
    let cpu_alone = cgroups.lacks.iter().all(|(controller, _)| controller == "cpu");
    let fix = match (facts.container.as_deref(), facts.root(), facts.systemd) {
        (Some(name @ ("docker" | "podman")), ..) => {
            format!("start it with {name} run --privileged --cgroupns=private")
        }
        (Some(_), ..) => loosen(facts),
        (None, true, _) => "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
        (None, false, true) if cpu_alone => "sudo mkdir -p /etc/systemd/system/user@.service.d && \
             printf '[Service]\\nDelegate=cpu memory pids\\n' | \
             sudo tee /etc/systemd/system/user@.service.d/delegate.conf && \
             sudo systemctl daemon-reload, then log in anew"
            .to_owned(),
        (None, false, true) => "clawkeep service install --user".to_owned(),
        (None, false, false) => "run Clawkeep as root".to_owned(),
    };
    Check::warn(ID, found, fix)
}

/// What is around this process, for a sentence.
pub fn around(facts: &Facts) -> String {
    facts
        .container
        .as_ref()
        .map_or_else(|| "what started it".to_owned(), |name| format!("the {name} container"))
}

/// How whatever is around this process is made to allow what sandboxes need: all of it, so that once is enough.
pub fn loosen(facts: &Facts) -> String {
    match (facts.container.as_deref(), facts.root()) {
        (Some("docker"), _) => {
            "start it with docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined \
                                --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
                .to_owned()
        }
        (Some("podman"), _) => {
            "start it with podman run --cap-add SYS_ADMIN --security-opt seccomp=unconfined \
                                --security-opt unmask=ALL"
                .to_owned()
        }
        (Some("kubernetes"), _) => "set in the container's securityContext: procMount: Unmasked, \
                                    seccompProfile: {type: Unconfined}, capabilities: {add: [SYS_ADMIN]}"
            .to_owned(),
        (Some(name), _) => format!("allow it in the configuration of {name}, or run Clawkeep on the host"),
        (None, true) => "run Clawkeep in a login shell of the host".to_owned(),
        (None, false) => "run Clawkeep as root, in a login shell of the host".to_owned(),
    }
}
