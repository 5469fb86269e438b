//! What the lower tier needs of a host, and when it is told of: after the command that would give the whole one.

use clawkeep_plan::Tier;

use crate::check::{Check, State, examine};
use crate::facts::Facts;
use crate::kernel;

/// The ABI that restricts signals and abstract sockets, without which there is no lower tier; and the Linux that
/// brought it.
const LEAST: (u32, &str) = (6, "6.12");

/// What the facts mean for a sandbox of the lower tier.
pub fn examine_lower(facts: &Facts) -> Vec<Check> {
    let landlock = match facts.landlock.abi {
        abi @ 1.. if abi < LEAST.0 => {
            let found = format!("ABI {abi}; without namespaces ABI {} is the least", LEAST.0);
            Check::fail("landlock", found, format!("boot Linux {} or later", LEAST.1))
        }
        _ => kernel::landlock(facts),
    };
    let mut seccomp = kernel::seccomp(facts);
    if seccomp.state == State::Warn {
        // Elsewhere a record is missing; here nobody would make the agent's sockets.
        seccomp.state = State::Fail;
    }
    vec![kernel::version(facts), landlock, seccomp, kernel::limits(facts)]
}

/// That there is another choice, where namespaces alone are in the way of a sandbox, and what it does not give.
pub fn lower_instead(facts: &Facts) -> Option<Check> {
    let fails = |checks: Vec<Check>| checks.iter().any(|check| check.state == State::Fail);
    if fails(examine_lower(facts)) || !fails(examine(facts)) {
        return None;
    }
    let found = "a sandbox behind Landlock and seccomp alone could be made. It would be less: the agent would see which \
         processes of this host run, share its loopback behind two ports, and have no /tmp, no image and no limit on \
         what it writes; only commands can be its agents";
    Some(Check::warn(
        "otherwise",
        found,
        format!("clawkeep onboard --isolation {} ...", Tier::Landlock.word()),
    ))
}
