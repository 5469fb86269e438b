use std::time::Duration;

use clawkeep_agents::{Bundle, Cancel, InstallError, Npm, Progress, Release, install};
use clawkeep_daemon::api::AgentChoice;
use clawkeep_store::Home;

use super::report::Report;
use super::settings::AgentPlan;
use crate::output;
use crate::problem::Problem;

/// Bring the agent here, and say what the daemon is to be told of it. `images_command` is the agent where nobody named
/// one.
///
/// # Errors
/// Why it could not be installed.
pub fn prepare(
    home: &Home,
    plan: &AgentPlan,
    images_command: Option<Vec<String>>,
    cancel: &Cancel,
    report: &mut Report,
) -> Result<AgentChoice, Problem> {
    match plan {
        AgentPlan::OpenClaw(release) => {
            report.begin("agent", &format!("openclaw {}", release.version));
            let text = openclaw(home, release, cancel, report).map_err(problem)?;
            report.done("agent", &text);
            Ok(AgentChoice::Openclaw { version: release.version.to_owned() })
        }
        AgentPlan::Command { argv, health_url, config, safe_mode, node_guards, bundle, env } => {
            let guarded = if *node_guards { ", with the guards" } else { "" };
            let whose = if images_command.is_some() { " of the image" } else { "" };
            let argv = images_command.unwrap_or_else(|| argv.clone());
            let program = output::clean(argv.first().map_or("", String::as_str));
            report.done("agent", &format!("command {program}{whose}{guarded}"));
            Ok(AgentChoice::Command {
                argv,
                health_url: health_url.clone(),
                config: config.clone(),
                safe_mode: *safe_mode,
                node_guards: *node_guards,
                bundle: bundle.clone(),
                env: env.clone(),
            })
        }
    }
}

/// Bring OpenClaw here, where it is not yet. Gives what is to be said of it.
///
/// # Errors
/// Why it could not be installed.
pub fn openclaw(
    home: &Home,
    release: &'static Release,
    cancel: &Cancel,
    report: &mut Report,
) -> Result<String, InstallError> {
    let root = home.bundles();
    // One that is there needs no npm.
    if let Some(bundle) = Bundle::find(&root, release) {
        return Ok(format!("{}       (cached)", title(&bundle)));
    }
    let npm = Npm::on_path()?;
    let node = release.node_here().map_or("", |pin| pin.version);
    let mut took = None;
    let bundle = install(&root, release, &npm, cancel, &mut |step| {
        let of =
            |bytes: u64, elapsed: Duration| format!(" ({} MB, {} s)", bytes / 1_000_000, elapsed.as_secs());
        match step {
            Progress::Cached => {}
            Progress::Waiting => report.progress("another installation is at work: waiting for it", ""),
            Progress::Runtime { elapsed, bytes } => {
                report.progress(&format!("fetching node {node}"), &of(bytes, elapsed))
            }
            Progress::Agent { elapsed, bytes } => {
                report.progress(&format!("fetching openclaw {}", release.version), &of(bytes, elapsed));
            }
            Progress::Verifying { elapsed, bytes } => {
                report.progress("verifying every file", &of(bytes, elapsed))
            }
            Progress::Syncing { .. } => report.progress("writing it to the disk", ""),
            Progress::Done { elapsed, .. } => took = Some(elapsed),
        }
    })?;
    Ok(match took {
        Some(took) => {
            let (mb, s) = (bundle.bytes() / 1_000_000, took.as_secs());
            format!("{}       ({mb} MB in {s} s; cached for the next sandbox)", title(&bundle))
        }
        None => format!("{}       (cached)", title(&bundle)),
    })
}

fn title(bundle: &Bundle) -> String {
    format!("openclaw {} on node {}", bundle.version(), bundle.node_version())
}

/// The same, for a person.
pub fn problem(error: InstallError) -> Problem {
    Problem::new(error.code(), error.to_string(), &error.next_step())
}
