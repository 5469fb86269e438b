//! From nothing to a guarded, healthy sandbox, told step by step.

pub mod agent;
pub mod ask;
mod host;
pub mod image;
mod limits;
mod lock;
mod mounts;
mod options;
mod policy;
pub mod report;
mod settings;
mod steps;

use clawkeep_agents::Cancel;
use clawkeep_daemon::api::{Request, SandboxStatus};
use clawkeep_plan::SandboxName;
use clawkeep_store::Home;

pub use options::Options;

use crate::host::Host;
use crate::problem::{Outcome, Problem};
use crate::{output, terminal};
use report::Report;
use settings::Settings;

/// `onboard`.
pub fn run(host: &Host, options: Options) -> Outcome {
    let settings = Settings::resolve(options, &host.env, terminal::is_interactive(), &mut ask::Terminal)?;
    let mut report = Report::new(output::is_terminal(), host.env.exact("NO_COLOR").is_none());
    for note in &settings.notes {
        report.warn("settings", &note.failure.message, note.failure.next.as_deref());
    }
    report.begin("host", "looking");
    let found = host::check(host.program(), settings.tier, &settings.limits)
        .inspect_err(|problem| report.fail("host", &problem.failure.message, None))?;
    report.done("host", &found);
    for lack in host::unlimited() {
        report.warn("limits", &lack, None);
    }

    let home = host.home()?;
    let _lock = lock::take(&home, &settings.name)?;
    let old = what_is_there(host, &home, &settings)?;
    // From here on a signal must not leave anything half-made.
    let cancel = Cancel::default();
    host.interrupt.arm(cancel.clone());
    let mut made = false;
    let done = make(host, &home, &settings, old, &cancel, &mut report, &mut made);
    match done {
        Ok(status) => {
            host.interrupt.disarm();
            output::print(&report::closing(&status));
            Ok(0)
        }
        Err(problem) => {
            let signalled = host.interrupt.raised().is_some();
            report.fail_current(if signalled { "cancelled" } else { &problem.failure.message });
            Err(clean_up(host, &settings.name, made, problem))
        }
    }
}

/// A sandbox of this name from before.
enum Old {
    Nothing,
    /// Its onboarding did not end.
    Half,
    /// The operator wants a new one in its place.
    Replaced,
}

fn what_is_there(host: &Host, home: &Home, settings: &Settings) -> Result<Old, Problem> {
    let name = &settings.name;
    if !home.sandbox(name).root().exists() {
        return Ok(Old::Nothing);
    }
    let there = match host.sandbox(Some(name)) {
        Ok(there) => there,
        // Files without a sandbox: what an interrupted `destroy` left; the daemon sees to them.
        Err(problem) if problem.failure.code == "no-such-sandbox" => return Ok(Old::Nothing),
        Err(problem) => return Err(problem),
    };
    if !there.onboarded {
        return Ok(Old::Half);
    }
    if !settings.recreate {
        let message = format!("there is already a sandbox {name}, {}", there.phase);
        let next = format!(
            "clawkeep {name} status, or onboard --recreate-sandbox --name {name} for a new one in its place"
        );
        return Err(Problem::new("name-taken", message, &next));
    }
    if settings.yes {
        return Ok(Old::Replaced);
    }
    if !settings.interactive {
        let message = format!("--recreate-sandbox removes {name} and all of its files for ever");
        return Err(Problem::usage("needs-yes", message, "add --yes"));
    }
    if ask::yes(&format!("Remove {name} and all of its files for ever, and make a new one?"))? {
        Ok(Old::Replaced)
    } else {
        Err(Problem::new("declined", "nothing was changed", &format!("clawkeep {name} status")))
    }
}

#[allow(clippy::too_many_arguments)]
fn make(
    host: &Host,
    home: &Home,
    settings: &Settings,
    old: Old,
    cancel: &Cancel,
    report: &mut Report,
    made: &mut bool,
) -> Result<SandboxStatus, Problem> {
    let image = match &settings.from {
        Some(from) => Some(image::prepare(home, from, cancel, report)?),
        None => None,
    };
    let mut choice = image.as_ref().map(|installed| image::choice(installed, report));
    // Its command counts where none was given.
    let own = match (&image, &mut choice, settings.agent.is_the_images()) {
        (Some(installed), Some(choice), true) => Some(image::command(installed, choice)?),
        (_, Some(choice), _) => {
            choice.command = None;
            None
        }
        _ => None,
    };
    let agent = agent::prepare(home, &settings.agent, own, cancel, report)?;
    match old {
        Old::Nothing => {}
        Old::Half => {
            report.begin("sandbox", "removing what an interrupted onboarding left");
            destroy(host, &settings.name)?;
            report.warn(
                "sandbox",
                &format!("{}: an interrupted onboarding was found; starting over", settings.name),
                None,
            );
        }
        Old::Replaced => {
            report.begin("sandbox", "removing the old one");
            destroy(host, &settings.name)?;
            report.done("sandbox", &format!("the old {} is removed", settings.name));
        }
    }
    // The image is held until the sandbox has it.
    let _held = image;
    steps::run(host, settings, (agent, choice), report, made)
}

fn destroy(host: &Host, name: &SandboxName) -> Result<(), Problem> {
    match host.order(&Request::Destroy { name: name.clone() }, |_| ()) {
        Err(problem) if problem.failure.code != "no-such-sandbox" => Err(problem),
        _ => Ok(()),
    }
}

/// Take away what was made, and say so.
fn clean_up(host: &Host, name: &SandboxName, made: bool, problem: Problem) -> Problem {
    let signalled = host.interrupt.raised();
    let removed = if made { destroy(host, name) } else { Ok(()) };
    let left = match (&removed, made) {
        (Ok(()), true) => format!("sandbox {name} was removed again, nothing is left of it"),
        (Ok(()), false) => format!("sandbox {name} was not made"),
        (Err(error), _) => format!("sandbox {name} could not be removed: {}", error.failure.message),
    };
    let again = "run the same command again".to_owned();
    match signalled {
        Some(status) => {
            let mut cancelled =
                Problem::new("cancelled", format!("onboarding was cancelled; {left}"), &again);
            cancelled.status = status;
            cancelled
        }
        None => {
            let mut problem = problem;
            problem.failure.message = format!("{}; {left}", problem.failure.message);
            // There is no sandbox any more that its status could be asked of.
            problem.failure.next.take_if(|next| made && next.starts_with(&format!("clawkeep {name} ")));
            problem.failure.next.get_or_insert(again);
            problem
        }
    }
}
