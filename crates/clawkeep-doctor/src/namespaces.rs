//! What this process must be allowed to make: user namespaces, the other kinds in them, file systems in those.

use std::io;

use clawkeep_isolation::{FIRST_ID, ID_RANGE, Piece};
use rustix::io::Errno;

use crate::apparmor;
use crate::check::Check;
use crate::facts::Facts;
use crate::kernel::{around, loosen};

const USER: &str = "userns";

/// The capabilities that root needs to make sandboxes, by their numbers (capabilities(7)).
const NEEDED: [(u32, &str); 6] =
    [(0, "CHOWN"), (1, "DAC_OVERRIDE"), (5, "KILL"), (6, "SETGID"), (7, "SETUID"), (21, "SYS_ADMIN")];

/// The kinds of namespaces, each with its sysctl's word and what a kernel that lacks it was built without.
const KINDS: [(Piece, &str, &str); 6] = [
    (Piece::Mnt, "mnt", "CONFIG_NAMESPACES"),
    (Piece::Pid, "pid", "CONFIG_PID_NS"),
    (Piece::Net, "net", "CONFIG_NET_NS"),
    (Piece::Ipc, "ipc", "CONFIG_IPC_NS"),
    (Piece::Uts, "uts", "CONFIG_UTS_NS"),
    (Piece::Cgroup, "cgroup", "CONFIG_CGROUPS"),
];

/// What root may do. Nothing to tell of where it may do everything, nor of an ordinary user.
pub fn rights(facts: &Facts) -> Option<Check> {
    if !facts.root() {
        return None;
    }
    let missing: Vec<_> = NEEDED.iter().filter(|(bit, _)| facts.capabilities & (1 << bit) == 0).collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|(_, name)| format!("CAP_{name}")).collect();
        let fix = match facts.container {
            Some(_) => loosen(facts),
            None => "run Clawkeep as an ordinary user, or with sudo from a login shell".to_owned(),
        };
        return Some(Check::fail("rights", format!("this is root without {}", names.join(", ")), fix));
    }
    let covers = |range: &clawkeep_plan::IdRange| {
        let end = u64::from(range.inside) + u64::from(range.count);
        range.inside <= FIRST_ID && end >= u64::from(FIRST_ID) + u64::from(ID_RANGE)
    };
    if !facts.uid_map.iter().any(covers) {
        let count: u64 = facts.uid_map.iter().map(|range| u64::from(range.count)).sum();
        let found = format!(
            "this is root of a user namespace with {count} ids only; sandboxes of root have ids of their own from {FIRST_ID} on"
        );
        return Some(Check::fail(
            "rights",
            found,
            "run Clawkeep as root of the host, or as an ordinary user",
        ));
    }
    None
}

/// The namespaces, and what is mounted in them. The first failure hides what follows from it.
pub fn namespaces(facts: &Facts) -> Vec<Check> {
    if let Err(why) = &facts.trials {
        let found = format!("it cannot be tried whether they can be made: {why}");
        return vec![Check::fail(USER, found, "ls -l /proc/self/exe")];
    }
    if let Some(errno) = facts.failed(Piece::User) {
        return vec![user(facts, Errno::from_raw_os_error(errno))];
    }
    let denied = |piece: &Piece| facts.failed(*piece).is_some_and(is_denial);
    if restricted(facts) && Piece::ALL.iter().any(denied) {
        // The namespace is made and has no rights in it (Ubuntu's profile `unprivileged_userns`).
        return vec![apparmor(facts)];
    }
    let mut checks = vec![Check::ok(USER, "can be made")];
    if rights(facts).is_none()
        && let Some(errno) = facts.failed(Piece::Ids)
    {
        let error = io::Error::from_raw_os_error(errno);
        checks.push(Check::fail(
            "ids",
            format!("ids cannot be mapped into a user namespace: {error}"),
            loosen(facts),
        ));
    }
    let failed: Vec<_> =
        KINDS.iter().filter_map(|kind| Some(other(facts, *kind, facts.failed(kind.0)?))).collect();
    if !failed.is_empty() {
        checks.extend(failed);
        return checks;
    }
    let kinds: Vec<_> = KINDS.iter().map(|(_, word, _)| *word).collect();
    checks.push(Check::ok("namespaces", format!("{}: each was made", kinds.join(", "))));
    checks.push(mounts(facts));
    checks
}

fn is_denial(errno: i32) -> bool {
    matches!(Errno::from_raw_os_error(errno), Errno::PERM | Errno::ACCESS)
}

/// Whether AppArmor keeps programs of ordinary users from user namespaces.
fn restricted(facts: &Facts) -> bool {
    facts.apparmor_restricts && !facts.root()
}

fn apparmor(facts: &Facts) -> Check {
    let found = match facts.apparmor_label.as_deref() {
        None | Some("unconfined") => "AppArmor lets ordinary users' programs make none that are of use \
             (kernel.apparmor_restrict_unprivileged_userns is 1, and this program has no profile)"
            .to_owned(),
        Some(label) => format!("AppArmor's profile {label} does not let this program make them (userns)"),
    };
    Check::fail(USER, found, apparmor::fix(&facts.program))
}

/// Set a sysctl now and at every boot.
fn sysctl(facts: &Facts, name: &str, value: u64) -> String {
    let file = "/etc/sysctl.d/60-clawkeep.conf";
    let command = format!("echo {name}={value} | sudo tee -a {file} && sudo sysctl -p {file}");
    if facts.container.is_some() { format!("on the host: {command}") } else { command }
}

/// Why no user namespace can be made.
fn user(facts: &Facts, errno: Errno) -> Check {
    let fail = |found: String, fix: String| Check::fail(USER, found, fix);
    let most = facts.max_namespaces.get("user").copied();
    match errno {
        Errno::NOSPC if most == Some(0) => fail(
            "switched off: user.max_user_namespaces is 0".into(),
            sysctl(facts, "user.max_user_namespaces", 15_000),
        ),
        Errno::NOSPC => fail(
            "as many as there may be are in use, or none may be made in the user namespace around this one \
             (user.max_user_namespaces)"
                .into(),
            sysctl(facts, "user.max_user_namespaces", most.unwrap_or(0).saturating_mul(2).max(15_000)),
        ),
        Errno::USERS => fail(
            "this process is in 32 of them already, which is the most".into(),
            "run Clawkeep on the host".into(),
        ),
        Errno::INVAL | Errno::NOSYS if most.is_none() => fail(
            "this kernel was built without them (CONFIG_USER_NS)".into(),
            "boot a kernel of your distribution, which has them".into(),
        ),
        Errno::PERM | Errno::ACCESS if !facts.root() && facts.unprivileged_clone == Some(0) => fail(
            "only root may make them: kernel.unprivileged_userns_clone is 0".into(),
            sysctl(facts, "kernel.unprivileged_userns_clone", 1),
        ),
        Errno::PERM | Errno::ACCESS if restricted(facts) => apparmor(facts),
        Errno::PERM if facts.chroot => fail(
            "the kernel makes none in a chroot".into(),
            "run Clawkeep outside of it, or enter it with systemd-nspawn -D".into(),
        ),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS if facts.seccomp.mode == Some(2) => {
            fail(format!("refused by the seccomp filter of {}", around(facts)), loosen(facts))
        }
        errno => {
            let modules = facts.lsm.as_ref().map(|lsm| format!(" ({lsm})")).unwrap_or_default();
            let error = io::Error::from(errno);
            fail(format!("refused as in a chroot, or by a security module{modules}: {error}"), loosen(facts))
        }
    }
}

/// Why a namespace of another kind cannot be made.
fn other(facts: &Facts, (_, word, config): (Piece, &str, &str), errno: i32) -> Check {
    let sysctl_name = format!("user.max_{word}_namespaces");
    let (found, fix) = match Errno::from_raw_os_error(errno) {
        Errno::NOSPC => {
            let most = facts.max_namespaces.get(word).copied().unwrap_or(0);
            let found = match most {
                0 => format!("switched off: {sysctl_name} is 0"),
                most => format!("all {most} of them are in use ({sysctl_name})"),
            };
            (found, sysctl(facts, &sysctl_name, most.saturating_mul(2).max(15_000)))
        }
        Errno::INVAL => (
            format!("this kernel was built without them ({config})"),
            "boot a kernel of your distribution, which has them".to_owned(),
        ),
        errno => (format!("refused: {}", io::Error::from(errno)), loosen(facts)),
    };
    Check::fail("namespaces", format!("{word}: {found}"), fix)
}

/// Whether the file systems of a sandbox can be mounted.
fn mounts(facts: &Facts) -> Check {
    const ID: &str = "mounts";
    let refused = |kind: &str, errno: i32| {
        format!("a {kind} cannot be mounted: {}", io::Error::from_raw_os_error(errno))
    };
    if let Some(errno) = facts.failed(Piece::Tmpfs) {
        return Check::fail(ID, refused("tmpfs", errno), loosen(facts));
    }
    match facts.failed(Piece::Proc) {
        Some(errno) if is_denial(errno) && !facts.hidden_proc.is_empty() => Check::fail(
            ID,
            format!(
                "a /proc of its own cannot be mounted, because parts of this one are hidden ({}), as {} has it",
                facts.hidden_proc.join(", "),
                around(facts)
            ),
            loosen(facts),
        ),
        Some(errno) => Check::fail(ID, refused("proc", errno), loosen(facts)),
        None => Check::ok(ID, "a tmpfs and a /proc of its own can be mounted"),
    }
}
