//! The suite against other sandboxes, to compare.
//!
//! `against none|bwrap|docker|podman [--json]` drills one of them; `against --table FILE...` makes of such files, and of
//! what `clawkeep NAME drill --json` printed, the tables of docs/DRILL.md.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use clawkeep_drill::{
    Canaries, Drill, Local, Outcome, Rendered, Scorecard, Settings, Traits, payload, render,
};

/// As others use it: the system read-only, everything unshared.
const BWRAP: &[&str] = &[
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
];

/// The container that is drilled with docker and podman.
const CONTAINER: &str = "clawkeep-drill";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--table", ref files @ ..] if !files.is_empty() => tables(files),
        [target] => drill(target).map(|card| render(&Rendered { card: &card, changes: None })),
        [target, "--json"] => drill(target)
            .and_then(|card| serde_json::to_string_pretty(&card).map_err(|error| error.to_string())),
        _ => Err("usage: against none|bwrap|docker|podman [--json], or against --table FILE...".to_owned()),
    };
    match done {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn drill(name: &str) -> Result<Scorecard, String> {
    let scratch = std::env::temp_dir().join(format!("clawkeep-drill-against-{}", std::process::id()));
    std::fs::create_dir(&scratch).map_err(|error| error.to_string())?;
    let card = drill_with(name, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    card
}

fn drill_with(name: &str, scratch: &Path) -> Result<Scorecard, String> {
    let text = |error: std::io::Error| error.to_string();
    let path = scratch.join("payload");
    std::fs::write(&path, payload()).map_err(text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(text)?;
    let path = path.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let bare = Traits { netlink: true, ..Traits::default() };
    let contained = Traits {
        netlink: true,
        own_processes: true,
        own_network: true,
        read_only_system: true,
        ..Traits::default()
    };
    let mut target = match name {
        "none" => Local { enter: Vec::new(), payload: path, traits: bare },
        "bwrap" => {
            let mut enter = words(BWRAP);
            enter.extend(words(&["--ro-bind", &path, "/payload"]));
            Local { enter, payload: "/payload".to_owned(), traits: contained }
        }
        "docker" | "podman" => {
            // It runs already: NAME run -d --name clawkeep-drill --network none IMAGE sleep infinity
            run(&[name, "cp", &path, &format!("{CONTAINER}:/payload")])?;
            // What podman is told when it runs a container it must be told again: DRILL_ENTER="podman --runtime runc exec".
            let own = std::env::var("DRILL_ENTER").unwrap_or_else(|_| format!("{name} exec"));
            let enter = own.split_whitespace().map(str::to_owned).chain([CONTAINER.to_owned()]).collect();
            let traits = Traits { own_system: true, ..contained };
            Local { enter, payload: "/payload".to_owned(), traits }
        }
        other => return Err(format!("{other:?} is not none, bwrap, docker or podman")),
    };
    let canaries = Canaries::set(scratch).map_err(text)?;
    let settings = Settings {
        only: None,
        recovery: false,
        progress: &mut |id, made| eprint!("\r{made:>4} {id:<32}"),
        cancelled: &|| false,
    };
    let about = Scorecard {
        schema: 1,
        target: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        at: String::new(),
        recovered: false,
        totals: Default::default(),
        attempts: Vec::new(),
    };
    let card = Drill::run(&mut target, &canaries, settings, about).map_err(|error| error.to_string());
    eprintln!();
    card
}

fn run(argv: &[&str]) -> Result<(), String> {
    match Command::new(argv[0]).args(&argv[1..]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{argv:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{argv:?}: {error}")),
    }
}

/// How many of each outcome, then one row an attempt.
fn tables(files: &[&str]) -> Result<String, String> {
    let read = |file: &&str| -> Result<Scorecard, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))
    };
    let cards = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let head = |first: &str| {
        let names = cards.iter().map(|card| card.target.clone()).collect();
        row(first, names) + &format!("|---|{}\n", "---|".repeat(cards.len()))
    };
    let mut text = head("outcome");
    for outcome in [Outcome::Held, Outcome::Open, Outcome::Broken, Outcome::NotRun] {
        let count =
            |card: &Scorecard| card.attempts.iter().filter(|a| a.outcome == outcome).count().to_string();
        text += &row(outcome.name(), cards.iter().map(count).collect());
    }
    // One with most attempts has them all: only what heals has those of the recovery.
    let Some(longest) = cards.iter().max_by_key(|card| card.attempts.len()) else { return Ok(text) };
    let mut group = None;
    for attempt in &longest.attempts {
        if group != Some(attempt.group) {
            group = Some(attempt.group);
            text += &format!("\n### {}\n\n{}", attempt.group.name(), head("attempt"));
        }
        let outcome = |card: &Scorecard| {
            let found = card.attempts.iter().find(|found| found.id == attempt.id);
            found.map_or("-", |found| found.outcome.name()).to_owned()
        };
        text += &row(&format!("`{}` {}", attempt.id, attempt.tries), cards.iter().map(outcome).collect());
    }
    Ok(text)
}
