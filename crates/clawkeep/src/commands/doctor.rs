//! What this host gives to sandboxes, and the proof that one can be made.

mod installation;

use clawkeep_agents::Cancel;
use clawkeep_doctor::{Check, Facts, Proof, State, Unproven, examine, lower_instead, prove};
use serde_json::json;

use super::onboard::report::Report;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;
use crate::view;

/// What `doctor` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the attempt to make a sandbox gave.
type Proven = Result<Proof, Unproven>;

/// `doctor`. Makes nothing that stays; 1 when no sandbox can be made here.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let facts = Facts::of_this_host(host.program());
    // A signal in the midst of it must not leave the sandbox behind.
    host.interrupt.arm(Cancel::default());
    let proven = prove(host.program());
    host.interrupt.disarm();
    let mut checks = walls(examine(&facts), &proven, &facts);
    checks.extend(lower_instead(&facts).filter(|_| proven.is_err()));
    checks.extend(installation::checks(host));
    let able = checks.iter().all(|check| check.state != State::Fail);
    if options.json {
        let level = proven.as_ref().ok().map(|proof| &proof.level);
        output::print_json(&json!({
            "schema": 1, "able": able, "kernel": facts.kernel, "uid": facts.uid, "container": facts.container,
            "checks": checks, "level": level,
        }));
    } else {
        let mut report = Report::new(output::is_terminal(), host.env.exact("NO_COLOR").is_none());
        checks.iter().for_each(|check| tell(&mut report, check));
        if let Ok(Proof { level, .. }) = &proven {
            report.done("walls", &view::walls::brief(level, facts.cgroups.hierarchy));
        }
    }
    Ok(u8::from(!able))
}

fn tell(report: &mut Report, check: &Check) {
    let fix = check.fix.as_deref();
    match check.state {
        State::Ok => report.done(check.id, &check.found),
        State::Warn => report.warn(check.id, &check.found, fix),
        State::Fail => report.fail(check.id, &check.found, fix),
    }
}

/// The checks of the host, with the one that counts: what could be made is no failure, whatever they say.
fn walls(mut checks: Vec<Check>, proven: &Proven, facts: &Facts) -> Vec<Check> {
    const ID: &str = "sandbox";
    match proven {
        Ok(Proof { level, told, .. }) => {
            for check in checks.iter_mut().filter(|check| check.state == State::Fail) {
                check.state = State::Warn;
            }
            let ms = told.as_secs_f64() * 1000.0;
            checks.push(Check::ok(
                ID,
                format!("made, /bin/true run behind every wall in {ms:.1} ms, gone again"),
            ));
            if !level.seccomp.recorded {
                let found =
                    "refused system calls are not recorded: somebody around this process listens already";
                checks.push(Check::warn(
                    "denials",
                    found,
                    "run Clawkeep outside of what listens (seccomp_unotify(2))",
                ));
            }
        }
        Err(error) => {
            let cause = error.explain(facts);
            let fix = cause.as_ref().and_then(|cause| cause.fix.clone());
            let because = cause.map(|cause| format!("\nbecause of {}: {}", cause.id, cause.found));
            let found = format!("{error}{}", because.unwrap_or_default());
            checks.push(Check::fail(ID, found, fix.unwrap_or_else(|| "dmesg | tail -n 20".to_owned())));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use clawkeep_isolation::{CreateError, Piece};

    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::of_this_host(std::path::Path::new("/bin/false"));
        facts.trials = Ok(Piece::ALL.map(|piece| (piece, 0)).into());
        facts
    }

    #[test]
    fn what_could_be_made_is_no_failure() {
        let level = view::walls::tests::level();
        let checks = vec![Check::fail("landlock", "odd", "x"), Check::ok("kernel", "Linux")];
        let [told, gone] = [6_540, 8_000].map(std::time::Duration::from_micros);
        let checks = walls(checks, &Ok(Proof { level, told, gone }), &facts());
        let states: Vec<_> = checks.iter().map(|check| check.state).collect();
        assert_eq!(states, [State::Warn, State::Ok, State::Ok]);
        assert_eq!(checks[2].found, "made, /bin/true run behind every wall in 6.5 ms, gone again");
    }

    #[test]
    fn a_failed_step_has_its_cause_and_its_command() {
        let failed =
            || CreateError::Setup { step: "create namespaces".into(), reason: "No space left".into() };
        let mut facts = facts();
        facts.trials.as_mut().unwrap().insert(Piece::User, 28);
        facts.max_namespaces.insert("user".into(), 0);
        facts.container = None;
        let told = |facts: &Facts| {
            let check = walls(vec![], &Err(failed().into()), facts).remove(0);
            assert_eq!(check.state, State::Fail);
            format!("{}\n> {}", check.found, check.fix.unwrap())
        };
        insta::assert_snapshot!(told(&facts), @r"
        the sandbox could not be set up: create namespaces: No space left
        because of userns: switched off: user.max_user_namespaces is 0
        > echo user.max_user_namespaces=15000 | sudo tee -a /etc/sysctl.d/60-clawkeep.conf && sudo sysctl -p /etc/sysctl.d/60-clawkeep.conf
        ");
        facts.trials.as_mut().unwrap().insert(Piece::User, 0);
        insta::assert_snapshot!(told(&facts), @r"
        the sandbox could not be set up: create namespaces: No space left
        > dmesg | tail -n 20
        ");
    }
}
