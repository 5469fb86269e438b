use std::path::PathBuf;
use std::time::Instant;

use clawkeep_agents::{Cancel, Release};
use clawkeep_daemon::api::Request;

use super::onboard::{agent, ask, image, report::Report};
use super::{brief, sandbox, wait_relaunched};
use crate::host::{Host, sandbox_of};
use crate::problem::{Outcome, Problem};
use crate::view::seconds;
use crate::{output, terminal};

/// What `rebuild` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Another version of OpenClaw; one that does not stay up is taken back
    #[arg(long, value_name = "VERSION")]
    agent_version: Option<String>,
    /// Another image as its system: an OCI image layout (a directory, or a tar of one); one on which the agent does not
    /// become ready is taken back
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// The same
    #[arg(long)]
    force: bool,
}

/// `rebuild [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let found = sandbox(host, options.name.as_ref())?;
    let name = &found.name;
    let next = format!("clawkeep {name} rebuild --yes");
    if found.agent.name != "openclaw" && options.agent_version.is_some() {
        return Err(Problem::usage(
            "no-version",
            format!("the agent of {name} is a command: it has no version"),
            &next,
        ));
    }
    let release = match &options.agent_version {
        None => None,
        Some(version) => {
            Some(Release::find(version).ok_or_else(|| Problem::unknown_version(version, &next))?)
        }
    };
    if !(options.yes || options.force || host.env.flag("YES")?) {
        if !terminal::is_interactive() {
            let message = format!("this ends everything that runs in {name}; its files stay");
            return Err(Problem::usage("needs-yes", message, &next));
        }
        if !ask::yes(&format!("End everything that runs in {name} and build it anew? Its files stay."))? {
            output::print("nothing was changed\n");
            return Ok(1);
        }
    }
    let cancel = Cancel::default();
    let mut report = Report::new(output::is_terminal(), host.env.exact("NO_COLOR").is_none());
    let home = host.home()?;
    // Held until the sandbox has it.
    let installed = match &options.from {
        None => None,
        Some(from) => {
            host.interrupt.arm(cancel.clone());
            let prepared = image::prepare(&home, from, &cancel, &mut report);
            host.interrupt.disarm();
            Some(prepared?)
        }
    };
    if let Some(release) = release {
        host.interrupt.arm(cancel.clone());
        report.begin("agent", &format!("openclaw {}", release.version));
        let installed = agent::openclaw(&home, release, &cancel, &mut report);
        host.interrupt.disarm();
        report.done("agent", &installed.map_err(agent::problem)?);
    }
    let version = release.map(|release| release.version.to_owned());
    let began = Instant::now();
    let request = Request::Rebuild {
        name: name.clone(),
        version: version.clone(),
        image: installed.as_ref().map(|installed| image::choice(installed, &mut report)),
    };
    let rebuilt = sandbox_of(host.ask(&request, |_| ())?)?;
    if !rebuilt.should_run {
        output::print(&output::clean(&format!("{name} is rebuilt, and stopped as before\n")));
        return Ok(0);
    }
    let status = wait_relaunched(host, &found)?;
    if version.is_some_and(|version| version != status.agent.version) {
        let message =
            format!("{name} did not stay up with it and is back on openclaw {}", status.agent.version);
        return Err(Problem::new("taken-back", message, &format!("clawkeep {name} why")));
    }
    let took = seconds(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let now = format!("{} {}", status.agent.name, status.agent.version);
    output::print(&output::clean(&format!(
        "{name} is rebuilt in {took}: {}, {}\n",
        now.trim_end(),
        brief(&status)
    )));
    Ok(0)
}
