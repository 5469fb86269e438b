use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, LaunchPlan, canonical::to_canonical_json};

/// What a receipt pipe may carry at most, in bytes. More is an error: the process on the other end talks.
pub const MAX_RECEIPT_BYTES: usize = 16 * 1024;

/// What a launched process reported about itself over the receipt pipe: first our own code between fork and
/// exec, with what it read back from `/proc/self`, then each guard when it had loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What was read back after everything was applied and before exec.
    pub isolation: IsolationReport,
    /// Guards in the order in which they loaded.
    pub guards: Vec<LoadedGuard>,
}

/// The isolation that is in force on a process, read back by itself (proc_pid_status(5), namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationReport {
    /// The plan that the launch was for.
    pub plan: Digest,
    /// Landlock ABI that was enforced in full, 0 for none.
    pub landlock_abi: u32,
    /// Digest of the seccomp programs that were installed.
    pub seccomp: Digest,
    /// `Seccomp_filters` of `/proc/self/status`.
    pub seccomp_filters: u32,
    /// `NoNewPrivs` of `/proc/self/status`.
    pub no_new_privs: bool,
    /// The capability sets of `/proc/self/status`.
    pub caps: Capabilities,
    /// Effective uid and gid, as seen in the sandbox.
    pub uid: u32,
    /// Effective gid, as seen in the sandbox.
    pub gid: u32,
    /// Inode of each namespace, by its name in `/proc/self/ns`.
    pub namespaces: BTreeMap<String, u64>,
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

/// A guard that said it is loaded, with the digest of the bytes it was loaded from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedGuard {
    /// Its name.
    pub name: String,
    /// Digest of its file, computed by itself.
    pub digest: Digest,
}

/// One line of the receipt pipe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Line {
    Isolation(Box<IsolationReport>),
    Guard(LoadedGuard),
    ExecFailed { errno: i32, step: String },
}

/// Why the bytes of a receipt pipe are no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The process failed before it became the agent.
    #[error("the launch failed at {step}: {}", std::io::Error::from_raw_os_error(*.errno))]
    ExecFailed {
        /// The step that failed, for a person.
        step: String,
        /// The error number (errno(3)).
        errno: i32,
    },
    /// Nothing about the isolation was reported: the process died early, or was not ours.
    #[error("the launched process reported nothing about its isolation")]
    NoIsolation,
    /// A line that this version does not understand, or a second isolation report.
    #[error("the receipt has a line that is not one of ours (line {0})")]
    Malformed(usize),
    /// More than [`MAX_RECEIPT_BYTES`].
    #[error("the receipt is larger than {MAX_RECEIPT_BYTES} bytes")]
    TooLarge,
}

/// One way in which a receipt falls short of its plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// A critical guard did not report, or not in its place in the order.
    #[error("critical guard {0} did not load")]
    GuardMissing(String),
    /// A guard loaded from other bytes than the plan's.
    #[error("guard {0} was loaded from altered bytes")]
    GuardAltered(String),
    /// Some layer of the isolation is not in force.
    #[error("isolation: {0}")]
    Isolation(String),
}

impl IsolationReport {
    /// The line that the child writes for this report, newline included.
    pub fn to_line(&self) -> String {
        line(&Line::Isolation(Box::new(self.clone())))
    }
}

impl LoadedGuard {
    /// The line that a guard writes when it has loaded, newline included.
    pub fn to_line(&self) -> String {
        line(&Line::Guard(self.clone()))
    }
}

fn line(line: &Line) -> String {
    to_canonical_json(line) + "\n"
}

impl Receipt {
    /// The line that the child writes when a step before or at exec failed, newline included.
    pub fn exec_failed_line(step: &str, errno: i32) -> String {
        line(&Line::ExecFailed { errno, step: step.to_owned() })
    }

    /// Read what came over a receipt pipe so far. A last line without its newline is not there yet.
    ///
    /// # Errors
    /// [`ReceiptError`]; anything but `NoIsolation` is final, more bytes cannot mend it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::TooLarge);
        }
        let mut isolation = None;
        let mut guards = Vec::new();
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let lines = bytes[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty());
        for (index, text) in lines.enumerate() {
            let malformed = ReceiptError::Malformed(index + 1);
            match (serde_json::from_slice(text), &isolation) {
                (Ok(Line::ExecFailed { errno, step }), _) => {
                    return Err(ReceiptError::ExecFailed { step, errno });
                }
                (Ok(Line::Isolation(report)), None) => isolation = Some(*report),
                (Ok(Line::Guard(guard)), Some(_)) => guards.push(guard),
                _ => return Err(malformed),
            }
        }
        let isolation = isolation.ok_or(ReceiptError::NoIsolation)?;
        Ok(Self { isolation, guards })
    }

    /// The digest of the receipt's canonical form, which names it in records.
    pub fn digest(&self) -> Digest {
        Digest::of(to_canonical_json(self).as_bytes())
    }

    /// Compare with the plan. Empty: the launch is what the plan says.
    pub fn check(&self, plan: &LaunchPlan, seccomp: Digest) -> Vec<Shortfall> {
        let mut found = Vec::new();
        let report = &self.isolation;
        let mut need = |ok: bool, what: String| {
            if !ok {
                found.push(Shortfall::Isolation(what));
            }
        };
        need(report.plan == plan.digest(), "the receipt is for another plan".into());
        need(
            report.landlock_abi >= plan.sealing.landlock_abi_min.max(1),
            format!("Landlock ABI {}", report.landlock_abi),
        );
        need(report.seccomp == seccomp, "another seccomp program".into());
        need(report.seccomp_filters > 0, "no seccomp filter in force".into());
        need(report.no_new_privs, "no_new_privs is off".into());
        let caps = report.caps;
        let held = caps.inheritable | caps.permitted | caps.effective | caps.bounding | caps.ambient;
        need(held == 0, format!("capabilities left: {held:#x}"));
        need(report.uid != 0 && report.gid != 0, "runs as root of the sandbox".into());
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            need(report.namespaces.contains_key(kind), format!("no {kind} namespace reported"));
        }
        for guard in &plan.guards {
            match self.guards.iter().find(|loaded| loaded.name == guard.name) {
                Some(loaded) if loaded.digest != guard.digest => {
                    found.push(Shortfall::GuardAltered(guard.name.clone()));
                }
                None if guard.critical => found.push(Shortfall::GuardMissing(guard.name.clone())),
                Some(_) | None => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verify::tests::sample;

    fn report(plan: &LaunchPlan) -> IsolationReport {
        IsolationReport {
            plan: plan.digest(),
            landlock_abi: 7,
            seccomp: Digest::of(b"filter"),
            seccomp_filters: 2,
            no_new_privs: true,
            caps: Capabilities { inheritable: 0, permitted: 0, effective: 0, bounding: 0, ambient: 0 },
            uid: 998,
            gid: 998,
            namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
                .into_iter()
                .map(|kind| (kind.to_owned(), 1))
                .collect(),
        }
    }

    fn bytes(plan: &LaunchPlan) -> Vec<u8> {
        let guard = LoadedGuard { name: "net".into(), digest: Digest::of(b"guard") };
        (report(plan).to_line() + &guard.to_line()).into_bytes()
    }

    #[test]
    fn a_full_receipt_has_no_shortfall() {
        let plan = sample();
        let receipt = Receipt::parse(&bytes(&plan)).unwrap();
        assert_eq!(receipt.check(&plan, Digest::of(b"filter")), vec![]);
    }

    #[test]
    fn what_is_missing_or_weaker_is_named() {
        let plan = sample();
        let seccomp = Digest::of(b"filter");
        let mut receipt = Receipt::parse(&bytes(&plan)).unwrap();
        receipt.guards[0].digest = Digest::of(b"other");
        assert_eq!(receipt.check(&plan, seccomp), vec![Shortfall::GuardAltered("net".into())]);
        receipt.guards.clear();
        assert_eq!(receipt.check(&plan, seccomp), vec![Shortfall::GuardMissing("net".into())]);

        let weaken: [fn(&mut IsolationReport); 8] = [
            |r| r.landlock_abi = 0,
            |r| r.seccomp = Digest::of(b"none"),
            |r| r.seccomp_filters = 0,
            |r| r.no_new_privs = false,
            |r| r.caps.bounding = 1,
            |r| r.uid = 0,
            |r| r.namespaces.remove("net").map_or((), drop),
            |r| r.plan = Digest::of(b"another"),
        ];
        for weaken in weaken {
            let mut receipt = Receipt::parse(&bytes(&plan)).unwrap();
            weaken(&mut receipt.isolation);
            assert_eq!(receipt.check(&plan, seccomp).len(), 1, "{:?}", receipt.isolation);
        }
    }

    #[test]
    fn failures_before_exec_are_told_apart() {
        let line = Receipt::exec_failed_line("execve /bin/x", 2);
        let error = Receipt::parse(line.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the launch failed at execve /bin/x: No such file or directory (os error 2)"
        );
        assert_eq!(Receipt::parse(b""), Err(ReceiptError::NoIsolation));
        assert_eq!(Receipt::parse(b"{}\n"), Err(ReceiptError::Malformed(1)));
        assert_eq!(Receipt::parse(&[b'\n'; MAX_RECEIPT_BYTES + 1]), Err(ReceiptError::TooLarge));
        let plan = sample();
        let twice = [bytes(&plan), bytes(&plan)].concat();
        assert_eq!(Receipt::parse(&twice), Err(ReceiptError::Malformed(3)));
    }

    proptest! {
        #[test]
        fn never_panics_and_a_cut_receipt_is_never_a_full_one(cut in 0_usize..2000, junk: Vec<u8>) {
            let _ = Receipt::parse(&junk);
            let plan = sample();
            let whole = bytes(&plan);
            let cut = cut.min(whole.len() - 1);
            if let Ok(receipt) = Receipt::parse(&whole[..cut]) {
                prop_assert!(!receipt.check(&plan, Digest::of(b"filter")).is_empty());
            }
        }
    }
}
