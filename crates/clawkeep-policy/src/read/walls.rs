//! `filesystem_policy`, `landlock`, `process`: what every sandbox has anyway is accepted, what it cannot have is
//! an error.

use super::at::{At, Known};
use super::{Notes, PolicyError};
use crate::model::{Filesystem, Landlock, Process};

const FILESYSTEM: Known = Known { fields: &["include_workdir", "read_only", "read_write"], unsupported: &[] };
const LANDLOCK: Known = Known { fields: &["compatibility"], unsupported: &[] };
const PROCESS: Known = Known { fields: &["run_as_user", "run_as_group"], unsupported: &[] };

/// What the agent can write to in every sandbox.
const WRITABLE: [&str; 3] = ["/sandbox", "/tmp", "/dev/shm"];
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];

fn within(path: &str, tree: &str) -> bool {
    path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn writable(path: &str) -> bool {
    WRITABLE.iter().any(|tree| within(path, tree)) || DEVICES.contains(&path) || within(path, "/dev/pts")
}

pub(super) fn filesystem(at: &At<'_>, notes: &mut Notes) -> Result<Filesystem, PolicyError> {
    let fields = at.fields(&FILESYSTEM)?;
    let include_workdir = fields.get("include_workdir").map(|at| at.boolean()).transpose()?;
    let read_only = paths(fields.get("read_only"), |at, path| {
        if !writable(path) || DEVICES.contains(&path) {
            return Ok(());
        }
        let message = format!("`{path}` can be written to in every sandbox, and no policy changes that");
        Err(at.error(
            "policy-wall",
            message,
            "take the line out; show a directory read-only with `clawkeep onboard --mount`",
        ))
    })?;
    let read_write = paths(fields.get("read_write"), |at, path| {
        if writable(path) {
            return Ok(());
        }
        let message = format!("`{path}` cannot be written to in a sandbox: /sandbox and /tmp can");
        Err(at.error(
            "policy-wall",
            message,
            "take the line out; show a directory with `clawkeep onboard --mount`",
        ))
    })?;
    let message =
        "the walls are the same in every sandbox: all of the image readable, /sandbox and /tmp writable";
    notes.say(at, "filesystem-fixed", message);
    Ok(Filesystem { include_workdir, read_only, read_write })
}

fn paths(
    at: Option<At<'_>>,
    check: impl Fn(&At<'_>, &str) -> Result<(), PolicyError>,
) -> Result<Vec<String>, PolicyError> {
    let Some(at) = at else { return Ok(Vec::new()) };
    let mut paths = Vec::new();
    for at in at.list()? {
        let text = at.text()?;
        let path = if text == "/" { text } else { text.trim_end_matches('/') };
        if !path.starts_with('/') || path.split('/').any(|segment| matches!(segment, "." | "..")) {
            let message = "a path is absolute and without dot segments".to_owned();
            return Err(at.error("policy-path", message, "write the whole path"));
        }
        check(&at, path)?;
        paths.push(path.to_owned());
    }
    Ok(paths)
}

pub(super) fn landlock(at: &At<'_>, notes: &mut Notes) -> Result<Landlock, PolicyError> {
    let Some(at) = at.fields(&LANDLOCK)?.get("compatibility") else { return Ok(Landlock::Unsaid) };
    let landlock =
        at.word(&[("best_effort", Landlock::BestEffort), ("hard_requirement", Landlock::HardRequirement)])?;
    if landlock == Landlock::BestEffort {
        notes.say(&at, "landlock-hard", "Landlock is a hard requirement here: without it nothing starts");
    }
    Ok(landlock)
}

pub(super) fn process(at: &At<'_>) -> Result<Process, PolicyError> {
    let fields = at.fields(&PROCESS)?;
    let own = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(at) => match at.text()? {
            name @ ("sandbox" | "998") => Ok(Some(name.to_owned())),
            other => {
                let other = crate::printable(other);
                let message = format!("the agent runs as `sandbox` (998), never as `{other}`");
                Err(at.error("policy-wall", message, format!("write `{key}: sandbox`")))
            }
        },
    };
    Ok(Process { run_as_user: own("run_as_user")?, run_as_group: own("run_as_group")? })
}
