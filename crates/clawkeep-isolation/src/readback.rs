//! What a process can say about its own isolation, read from /proc/self (proc_pid_status(5), namespaces(7)).

use std::collections::BTreeMap;
use std::io;

use clawkeep_plan::{Capabilities, Digest, IsolationReport};

const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What this process reads about itself now.
pub fn report(plan: Digest, landlock_abi: u32, seccomp: Digest) -> io::Result<IsolationReport> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut namespaces = BTreeMap::new();
    // By name: the directory itself cannot be listed by a process that is not dumpable, which this one is.
    for kind in NAMESPACES {
        let target = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        if let Some((found, inode)) = namespace(&target.to_string_lossy())
            && found == *kind
        {
            namespaces.insert(found.to_owned(), inode);
        }
    }
    Ok(IsolationReport {
        plan,
        landlock_abi,
        seccomp,
        seccomp_filters: field(&status, "Seccomp_filters", 10)? as u32,
        no_new_privs: field(&status, "NoNewPrivs", 10)? == 1,
        caps: Capabilities {
            inheritable: field(&status, "CapInh", 16)?,
            permitted: field(&status, "CapPrm", 16)?,
            effective: field(&status, "CapEff", 16)?,
            bounding: field(&status, "CapBnd", 16)?,
            ambient: field(&status, "CapAmb", 16)?,
        },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        namespaces,
    })
}

/// `net:[4026531840]` as name and inode.
fn namespace(link: &str) -> Option<(&str, u64)> {
    let (kind, rest) = link.split_once(":[")?;
    Some((kind, rest.strip_suffix(']')?.parse().ok()?))
}

/// The number behind `Name:` in the text of `/proc/self/status`.
fn field(status: &str, name: &str, radix: u32) -> io::Result<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|text| u64::from_str_radix(text.trim(), radix).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/status has no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_state() {
        let report = report(Digest::of(b"p"), 7, Digest::of(b"s")).unwrap();
        assert!(report.namespaces["net"] > 0);
        assert_eq!(report.uid, rustix::process::geteuid().as_raw());
        assert!(!report.no_new_privs);
    }

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let status = "Seccomp:\t2\nSeccomp_filters:\t5\nCapEff:\t000001ff\n";
        assert_eq!(field(status, "Seccomp", 10).unwrap(), 2);
        assert_eq!(field(status, "Seccomp_filters", 10).unwrap(), 5);
        assert_eq!(field(status, "CapEff", 16).unwrap(), 0x1ff);
        assert!(field(status, "Cap", 16).is_err());
    }
}
