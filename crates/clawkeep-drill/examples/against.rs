//! The suite against other sandboxes, to compare: `against none|bwrap|docker`. Prints the scorecard; with
//! `--markdown` one row an attempt and one column a sandbox, for docs/DRILL.md.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use clawkeep_drill::{Canaries, Drill, Local, Rendered, Scorecard, Settings, Traits, payload, render};

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

/// The container that is drilled with docker.
const CONTAINER: &str = "clawkeep-drill";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, targets): (Vec<_>, Vec<_>) = arguments.iter().partition(|word| word.starts_with("--"));
    if targets.is_empty() {
        eprintln!("usage: against none|bwrap|docker... [--markdown]");
        return ExitCode::from(2);
    }
    let mut cards = Vec::new();
    for target in targets {
        match drill(target) {
            Ok(card) => cards.push(card),
            Err(error) => {
                eprintln!("{target}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if options.iter().any(|option| *option == "--markdown") {
        print!("{}", markdown(&cards));
    } else {
        for card in &cards {
            print!("{}", render(&Rendered { card, changes: None }));
        }
    }
    ExitCode::SUCCESS
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
    let contained = Traits { own_processes: true, read_only_system: true, ..Traits::default() };
    let mut target = match name {
        "none" => Local { enter: Vec::new(), payload: path, traits: Traits::default() },
        "bwrap" => {
            let mut enter = words(BWRAP);
            enter.extend(words(&["--ro-bind", &path, "/payload"]));
            Local { enter, payload: "/payload".to_owned(), traits: contained }
        }
        "docker" => {
            // It runs already: docker run -d --name clawkeep-drill IMAGE sleep infinity
            run(&["docker", "cp", &path, &format!("{CONTAINER}:/payload")])?;
            let enter = words(&["docker", "exec", CONTAINER]);
            Local { enter, payload: "/payload".to_owned(), traits: contained }
        }
        other => return Err(format!("{other:?} is not none, bwrap or docker")),
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

/// A table: one row an attempt.
fn markdown(cards: &[Scorecard]) -> String {
    let names: Vec<_> = cards.iter().map(|card| card.target.as_str()).collect();
    let mut text = format!("| attempt | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(cards.len()));
    for attempt in &cards[0].attempts {
        text += &format!("| {}: {} |", attempt.id, attempt.tries);
        for card in cards {
            let found = card.attempts.iter().find(|found| found.id == attempt.id);
            text += &format!(" {} |", found.map_or("", |found| found.outcome.name()));
        }
        text.push('\n');
    }
    text
}
