use std::path::Path;

use clawkeep_doctor::{Cgroups, Facts, State, examine, examine_lower, lower_instead};
use clawkeep_isolation::{Hierarchy, Host, Limits};
use clawkeep_plan::Tier;

use crate::problem::Problem;

/// What of this host a sandbox is made of, as the first line of the onboarding tells it. `program` is this program's
/// own file.
///
/// # Errors
/// What is missing, by name, with what to do about it; or a limit that was asked for and cannot be kept here.
pub fn check(program: &Path, tier: Tier, limits: &Limits) -> Result<String, Problem> {
    let line = judge(&Facts::of_this_host(program), tier)?;
    match Host::look().refusal(limits) {
        Some(why) => Err(Problem::new("limit-unenforceable", why, "clawkeep onboard without that limit")),
        None => Ok(line),
    }
}

fn judge(facts: &Facts, tier: Tier) -> Result<String, Problem> {
    let (checks, namespaces) = match tier {
        Tier::Namespaces => (examine(facts), "user+net namespaces"),
        Tier::Landlock => (examine_lower(facts), "NO namespaces (the landlock tier, as you chose)"),
    };
    if let Some(failed) = checks.into_iter().find(|check| check.state == State::Fail) {
        let other = lower_instead(facts).filter(|_| tier == Tier::Namespaces);
        let other = other.map(|check| format!("\n{}: {}", check.id, check.found)).unwrap_or_default();
        let message = format!("no sandbox can be made here: {}: {}{other}", failed.id, failed.found);
        return Err(Problem::new("host-unfit", message, &failed.fix.unwrap_or_default()));
    }
    Ok(format!("Landlock ABI {}, seccomp, {namespaces}, {}", facts.landlock.abi, cgroups(&facts.cgroups)))
}

/// `cgroup v2 limits (memory, pids, cpu)`, or that there are none.
fn cgroups(found: &Cgroups) -> String {
    match found.hierarchy {
        Hierarchy::None => "no cgroup limits".to_owned(),
        hierarchy => format!("{hierarchy} limits ({})", found.controllers.join(", ")),
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

    #[test]
    fn a_fit_host_is_told_in_one_line_and_an_unfit_one_refused_with_what_to_do() {
        // The trials are not looked at here: this is no program that could make them.
        let mut facts = Facts::of_this_host(Path::new("/bin/false"));
        facts.trials = Ok(clawkeep_isolation::Piece::ALL.map(|piece| (piece, 0)).into());
        facts.cgroups =
            Cgroups { hierarchy: Hierarchy::V2, controllers: vec!["memory".into()], lacks: vec![] };
        facts.landlock.abi = 7;
        let judge = |facts: &Facts| judge(facts, Tier::Namespaces);
        let line = judge(&facts).unwrap();
        assert_eq!(line, "Landlock ABI 7, seccomp, user+net namespaces, cgroup v2 limits (memory)");
        facts.cgroups.hierarchy = Hierarchy::None;
        assert!(judge(&facts).unwrap().ends_with(", no cgroup limits"));
        facts.seccomp.mode = None;
        insta::assert_snapshot!(judge(&facts).unwrap_err().render(), @r"
        error[host-unfit]: no sandbox can be made here: seccomp: this kernel was built without it (CONFIG_SECCOMP_FILTER)
          next: boot a kernel of your distribution, which has it
        ");
    }
}
