use clawkeep_isolation::{Hierarchy, Host, Limits};

use crate::problem::Problem;

/// What of this host a sandbox is made of, as the first line of the onboarding tells it.
///
/// # Errors
/// What is missing, by name, with what to do about it; or a limit that was asked for and cannot be kept here.
pub fn check(limits: &Limits) -> Result<String, Problem> {
    let line = Facts::of_this_host().judge()?;
    match Host::look().refusal(limits) {
        Some(why) => Err(Problem::new("limit-unenforceable", why, "clawkeep onboard without that limit")),
        None => Ok(line),
    }
}

/// What was found.
#[derive(Debug, Clone)]
struct Facts {
    landlock_abi: u32,
    seccomp: bool,
    root: bool,
    /// Root's right to make namespaces (CAP_SYS_ADMIN).
    may_make_namespaces: bool,
    max_user_namespaces: Option<u64>,
    max_net_namespaces: Option<u64>,
    /// Debian's and Ubuntu's older switch.
    unprivileged_clone: Option<u64>,
    /// Ubuntu's newer one.
    apparmor_restricts: bool,
    cgroups: String,
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Facts {
    fn of_this_host() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|caps| u64::from_str_radix(caps, 16).ok()).unwrap_or(0);
        // A profile of this program's own lifts the restriction for it.
        let unconfined = std::fs::read_to_string("/proc/self/attr/current")
            .is_ok_and(|label| label.trim_end_matches(['\n', '\0']) == "unconfined");
        Self {
            landlock_abi: clawkeep_isolation::landlock_abi(),
            seccomp: field("Seccomp:").is_some(),
            root: rustix::process::geteuid().is_root(),
            may_make_namespaces: capabilities & (1 << 21) != 0,
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            max_net_namespaces: number("/proc/sys/user/max_net_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1)
                && unconfined,
            cgroups: cgroups(&Host::look()),
        }
    }

    fn judge(&self) -> Result<String, Problem> {
        let refuse = |message: &str, next: &str| Err(Problem::new("host-unfit", message, next));
        if self.landlock_abi == 0 {
            return refuse(
                "the kernel has no Landlock (Linux 5.13 or later with \"landlock\" among its security modules)",
                "cat /sys/kernel/security/lsm; then boot with lsm=landlock, put before that list",
            );
        }
        if !self.seccomp {
            return refuse("the kernel has no seccomp (CONFIG_SECCOMP_FILTER)", "boot a kernel that has it");
        }
        if self.max_user_namespaces == Some(0) {
            return refuse(
                "user namespaces are switched off (user.max_user_namespaces is 0)",
                "sudo sysctl -w user.max_user_namespaces=15000",
            );
        }
        if self.max_user_namespaces.is_none() {
            return refuse(
                "the kernel has no user namespaces (CONFIG_USER_NS)",
                "boot a kernel that has them",
            );
        }
        if self.max_net_namespaces.is_none_or(|max| max == 0) {
            return refuse(
                "network namespaces are switched off (user.max_net_namespaces)",
                "sudo sysctl -w user.max_net_namespaces=15000",
            );
        }
        if self.root && !self.may_make_namespaces {
            return refuse(
                "this is root without CAP_SYS_ADMIN, as in a container: namespaces cannot be made",
                "run on the host, or give the container that capability",
            );
        }
        if !self.root && self.unprivileged_clone == Some(0) {
            return refuse(
                "ordinary users may not make user namespaces (kernel.unprivileged_userns_clone is 0)",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1, or run as root",
            );
        }
        if !self.root && self.apparmor_restricts {
            return refuse(
                "AppArmor keeps ordinary users' programs from making user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
            );
        }
        Ok(format!("Landlock ABI {}, seccomp, user+net namespaces, {}", self.landlock_abi, self.cgroups))
    }
}

/// `cgroup v2 limits (memory, pids, cpu)`, or that there are none.
fn cgroups(host: &Host) -> String {
    match host.hierarchy() {
        Hierarchy::None => "no cgroup limits".to_owned(),
        hierarchy => format!("{hierarchy} limits ({})", host.controllers().join(", ")),
    }
}

/// What cannot be limited on this host although it should be, a line each.
pub fn unlimited() -> Vec<String> {
    // Processor time is only limited on request, and then it is refused.
    Host::look()
        .lacks()
        .filter(|(controller, _)| *controller != "cpu")
        .map(|(controller, why)| match controller {
            "memory" => format!("memory is not limited: {why}"),
            _ => format!("{controller} are limited for each user only: {why}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            landlock_abi: 7,
            seccomp: true,
            root: false,
            may_make_namespaces: false,
            max_user_namespaces: Some(1000),
            max_net_namespaces: Some(1000),
            unprivileged_clone: Some(1),
            apparmor_restricts: false,
            cgroups: "cgroup v2 limits (memory)".into(),
        }
    }

    #[test]
    fn a_fit_host_is_told_in_one_line() {
        let line = good().judge().unwrap();
        assert_eq!(line, "Landlock ABI 7, seccomp, user+net namespaces, cgroup v2 limits (memory)");
        let root = Facts {
            root: true,
            may_make_namespaces: true,
            unprivileged_clone: Some(0),
            apparmor_restricts: true,
            ..good()
        };
        assert!(root.judge().is_ok());
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        for (facts, word) in [
            (Facts { landlock_abi: 0, ..good() }, "Landlock"),
            (Facts { seccomp: false, ..good() }, "seccomp"),
            (Facts { max_user_namespaces: Some(0), ..good() }, "max_user_namespaces"),
            (Facts { max_user_namespaces: None, ..good() }, "CONFIG_USER_NS"),
            (Facts { max_net_namespaces: Some(0), ..good() }, "max_net_namespaces"),
            (Facts { root: true, ..good() }, "CAP_SYS_ADMIN"),
            (Facts { unprivileged_clone: Some(0), ..good() }, "unprivileged_userns_clone"),
            (Facts { apparmor_restricts: true, ..good() }, "AppArmor"),
        ] {
            let problem = facts.judge().unwrap_err();
            assert!(problem.failure.message.contains(word), "{problem:?}");
            assert_eq!(problem.failure.code, "host-unfit");
            assert!(problem.failure.next.is_some());
        }
    }
}
