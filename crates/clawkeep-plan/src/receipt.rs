use serde::{Deserialize, Serialize};

use crate::{Digest, EnforcedLevel, Expected, LaunchPlan, canonical::to_canonical_json};

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

/// What the child says of its isolation, and which launch that is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationReport {
    /// The plan that the launch was for.
    pub plan: Digest,
    /// What it read back.
    pub level: EnforcedLevel,
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

    /// Compare with the plan, and with what the host side knows of the walls. Empty: the launch is what the
    /// plan says.
    pub fn check(&self, plan: &LaunchPlan, expected: &Expected) -> Vec<Shortfall> {
        let mut short = self.isolation.level.shortfalls(expected);
        if self.isolation.plan != plan.digest() {
            short.push("the receipt is for another plan".into());
        }
        let (abi, least) = (self.isolation.level.landlock.abi, plan.sealing.landlock_abi_min.max(1));
        if abi < least {
            short.push(format!("Landlock ABI {abi}, the plan needs {least}"));
        }
        let mut found: Vec<_> = short.into_iter().map(Shortfall::Isolation).collect();
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
    use crate::level::tests::{expected, level};
    use crate::verify::tests::sample;

    fn report(plan: &LaunchPlan) -> IsolationReport {
        IsolationReport { plan: plan.digest(), level: level() }
    }

    fn bytes(plan: &LaunchPlan) -> Vec<u8> {
        let guard = LoadedGuard { name: "net".into(), digest: Digest::of(b"guard") };
        (report(plan).to_line() + &guard.to_line()).into_bytes()
    }

    #[test]
    fn a_full_receipt_has_no_shortfall() {
        let plan = sample();
        let receipt = Receipt::parse(&bytes(&plan)).unwrap();
        assert_eq!(receipt.check(&plan, &expected()), vec![]);
    }

    #[test]
    fn what_is_missing_or_weaker_is_named() {
        let mut plan = sample();
        let mut receipt = Receipt::parse(&bytes(&plan)).unwrap();
        receipt.guards[0].digest = Digest::of(b"other");
        assert_eq!(receipt.check(&plan, &expected()), vec![Shortfall::GuardAltered("net".into())]);
        receipt.guards.clear();
        assert_eq!(receipt.check(&plan, &expected()), vec![Shortfall::GuardMissing("net".into())]);

        let mut receipt = Receipt::parse(&bytes(&plan)).unwrap();
        receipt.isolation.level.no_new_privs = false;
        let named = |what: &str| vec![Shortfall::Isolation(what.into())];
        assert_eq!(receipt.check(&plan, &expected()), named("no_new_privs is off"));
        receipt.isolation.level.no_new_privs = true;
        receipt.isolation.plan = Digest::of(b"another");
        assert_eq!(receipt.check(&plan, &expected()), named("the receipt is for another plan"));
        plan.sealing.landlock_abi_min = 8;
        receipt.isolation.plan = plan.digest();
        assert_eq!(receipt.check(&plan, &expected()), named("Landlock ABI 7, the plan needs 8"));
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
        fn never_panics_and_a_cut_receipt_is_never_a_full_one(cut in 0_usize..3000, junk: Vec<u8>) {
            let _ = Receipt::parse(&junk);
            let plan = sample();
            let whole = bytes(&plan);
            let cut = cut.min(whole.len() - 1);
            if let Ok(receipt) = Receipt::parse(&whole[..cut]) {
                prop_assert!(!receipt.check(&plan, &expected()).is_empty());
            }
        }
    }
}
