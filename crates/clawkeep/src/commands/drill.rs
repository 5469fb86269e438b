mod inside;

use std::time::SystemTime;

use clawkeep_agents::Cancel;
use clawkeep_daemon::api::SandboxStatus;
use clawkeep_drill::{Canaries, Drill, Rendered, Scorecard, Settings, render};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Home, SandboxDirs, atomic};
use indicatif::ProgressBar;
use rustix::fs::{FlockOperation, Mode};
use serde_json::json;

use super::{brief, sandbox};
use crate::host::Host;
use crate::output;
use crate::problem::{Outcome, Problem};
use inside::Inside;

/// The last drill of a sandbox, in its directory on the host.
const FILE: &str = "drill.json";

/// No scorecard is larger, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What `drill` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Tell what has changed since the last drill
    #[arg(long)]
    compare: bool,
    /// Only attempts whose name contains this; the result is not kept
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Leave the agent's main process alone: do not end it to see it come back guarded
    #[arg(long)]
    no_recovery: bool,
}

/// `drill [NAME]`: attack it from inside; 1 when anything is open or cannot be told.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let found = sandbox(host, options.name.as_ref())?;
    let name = &found.name;
    if found.phase != "ready" {
        let message = format!("{name} is {}: only one that is ready can be drilled", brief(&found));
        return Err(Problem::new("not-ready", message, &format!("clawkeep {name} recover")));
    }
    let wanted = |id: &str| options.only.as_ref().is_none_or(|only| id.contains(only.as_str()));
    if !clawkeep_drill::names().any(wanted) {
        let message = format!("no attempt's name contains {:?}", options.only.as_deref().unwrap_or_default());
        return Err(Problem::usage("no-such-attempt", message, &format!("clawkeep {name} drill")));
    }
    let home = host.home()?;
    let dirs = home.sandbox(name);
    let store = |what: &str, error: std::io::Error| {
        let message = format!("cannot {what} in {}: {error}", dirs.root().display());
        Problem::new("drill-store", message, &format!("ls -ld {}", dirs.root().display()))
    };
    let dir = atomic::open_dir(dirs.root()).map_err(|error| store("open the sandbox's directory", error))?;
    if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        let message = format!("{name} is being drilled already");
        return Err(Problem::new("drill-runs", message, &format!("clawkeep {name} status")));
    }
    let before = if options.compare { last(&dirs, name)? } else { None };
    let canaries =
        Canaries::set(&home.run()).map_err(|error| store("set up what must not be reached", error))?;
    let card = drill(host, &home, &found, &canaries, options)?;
    drop(canaries);
    if options.only.is_none() {
        let text = serde_json::to_vec_pretty(&card).unwrap_or_default();
        atomic::write(&dir, FILE, &text, Mode::RUSR | Mode::WUSR)
            .map_err(|error| store("keep the result", error))?;
    }
    let changes = before.as_ref().map(|before| card.compare(before));
    if options.json {
        let mut value = json!(card);
        if let Some(changes) = &changes {
            value["changes"] = json!(changes);
        }
        output::print_json(&value);
    } else {
        if options.compare && before.is_none() {
            output::error("this is the first whole drill: there is nothing to compare it with\n");
        }
        output::print(&render(&Rendered { card: &card, changes: changes.as_deref() }));
    }
    Ok(u8::from(!card.passed()))
}

/// All of it; what a signal interrupts is put in order before this process ends.
fn drill(
    host: &Host,
    home: &Home,
    found: &SandboxStatus,
    canaries: &Canaries,
    options: &Options,
) -> Result<Scorecard, Problem> {
    let name = &found.name;
    let failed = |message: String| Problem::new("drill-failed", message, &format!("clawkeep {name} status"));
    let mut inside = Inside::new(host, home, found).map_err(|error| failed(error.to_string()))?;
    // Draws only where a person watches.
    let bar = ProgressBar::new_spinner();
    let mut progress = |id: &str, made: usize| {
        bar.set_message(format!("{made} made, now {id}"));
        bar.tick();
    };
    host.interrupt.arm(Cancel::default());
    let settings = Settings {
        only: options.only.as_deref(),
        recovery: !options.no_recovery,
        progress: &mut progress,
        cancelled: &|| host.interrupt.raised().is_some(),
    };
    let about = Scorecard {
        schema: 1,
        target: name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        recovered: false,
        totals: Default::default(),
        attempts: Vec::new(),
    };
    let card = Drill::run(&mut inside, canaries, settings, about);
    bar.finish_and_clear();
    if let Some(status) = host.interrupt.raised() {
        let mut problem = failed(format!("the drill of {name} was interrupted; nothing of it is left in it"));
        problem.status = status;
        return Err(problem);
    }
    host.interrupt.disarm();
    card.map_err(|error| failed(format!("{name} could not be drilled to the end: {error}")))
}

/// The last whole drill, if there was one.
fn last(dirs: &SandboxDirs, name: &SandboxName) -> Result<Option<Scorecard>, Problem> {
    use std::io::Read as _;
    let path = dirs.root().join(FILE);
    let read = || -> std::io::Result<Scorecard> {
        let mut text = Vec::new();
        std::fs::File::open(&path)?.take(MAX_FILE).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        Ok(card) => Ok(Some(card)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("the last drill of {name} cannot be read from {}: {error}", path.display());
            Err(Problem::new("drill-store", message, &format!("clawkeep {name} drill")))
        }
    }
}
