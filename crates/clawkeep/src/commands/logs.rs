//! The log is read from its file, so it can be read when everything else is down.

mod read;
mod redact;
mod since;

use std::time::Duration;

use clawkeep_plan::SandboxName;

use super::{known, name_in};
use crate::host::Host;
use crate::output;
use crate::problem::{Outcome, Problem};
use read::Follower;
use redact::Cleaner;

/// What `logs` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only what is newer: 90s, 5m, 2h, 1d (for logs whose lines carry their time)
    #[arg(long, value_name = "TIME", value_parser = since::parse_span)]
    since: Option<Duration>,
}

/// How often a followed log is looked at.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// `logs [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let name = which(host, name_in(options.name.as_ref())?)?;
    let mut log = Follower::new(path(host.root(), &name));
    let unreadable = |error: std::io::Error| {
        let next = format!("clawkeep {name} status");
        Problem::new("log-unreadable", format!("cannot read the log of {name}: {error}"), &next)
    };
    let mut text = log.more().map_err(unreadable)?;
    if let Some(span) = options.since {
        text = newer(&name, &text, span)?;
    }
    if let Some(lines) = options.tail {
        text.drain(..tail_start(&text, lines));
    }
    let person = output::is_terminal();
    let cleaner = Cleaner::new(host);
    let mut open_line = Vec::new();
    show(&text, person, &cleaner, &mut open_line);
    if options.follow {
        loop {
            // A signal ends us by itself.
            let _ = rustix::event::poll(&mut [], Some(&LOOK));
            show(&log.more().map_err(unreadable)?, person, &cleaner, &mut open_line);
        }
    }
    let rest = cleaner.lines(&open_line);
    match person {
        _ if rest.is_empty() => {}
        true => output::print(&(output::clean(&String::from_utf8_lossy(&rest)) + "\n")),
        false => output::write(&rest),
    }
    Ok(0)
}

fn which(host: &Host, name: Option<SandboxName>) -> Result<SandboxName, Problem> {
    match name {
        Some(name) => known(host, name),
        None => Ok(host.sandbox(None)?.name),
    }
}

/// The part of the log that is not older than this.
fn newer(name: &SandboxName, text: &[u8], span: Duration) -> Result<Vec<u8>, Problem> {
    let now = clawkeep_store::unix_ms().cast_signed();
    let from = now.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    match since::start(text, from) {
        Some(start) => Ok(text[start..].to_vec()),
        None if text.is_empty() => Ok(Vec::new()),
        None => Err(Problem::new(
            "no-times",
            format!("--since cannot be told: no line of the log of {name} begins with its time"),
            &format!("clawkeep {name} logs --tail 100"),
        )),
    }
}

/// Where the last lines begin.
fn tail_start(text: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0)
}

/// The last lines of a sandbox's log, cleaned, for an error message; empty where there are none.
pub fn last_lines(host: &Host, name: &SandboxName, lines: usize) -> String {
    let text = Follower::new(path(host.root(), name)).more().unwrap_or_default();
    let text = Cleaner::new(host).lines(&text[tail_start(&text, lines)..]);
    let text = &text[text.len().saturating_sub(4096)..];
    output::clean(&String::from_utf8_lossy(text)).trim_end().to_owned()
}

fn path(root: &std::path::Path, name: &SandboxName) -> std::path::PathBuf {
    root.join("sandboxes").join(name.as_str()).join("run").join(clawkeep_isolation::LOG)
}

/// Longest unfinished line that is kept back for its end, in bytes.
const MAX_OPEN: usize = 64 * 1024;

/// Whole lines, so that no secret and no sequence comes in two halves. What an agent logs may be written to trick
/// the reader's terminal: a person gets text. A program gets the bytes.
fn show(bytes: &[u8], person: bool, cleaner: &Cleaner<'_>, open_line: &mut Vec<u8>) {
    open_line.extend(bytes);
    let whole = open_line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let whole = if open_line.len() - whole > MAX_OPEN { open_line.len() } else { whole };
    let lines: Vec<u8> = open_line.drain(..whole).collect();
    if lines.is_empty() {
        return;
    }
    let lines = cleaner.lines(&lines);
    if person {
        output::print(&output::clean(&String::from_utf8_lossy(&lines)));
    } else {
        output::write(&lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        for (text, lines, want) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 5, "a\nb\n"),
            ("a\n\n\n", 2, "\n\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(&text[tail_start(text.as_bytes(), lines)..], want, "{text:?} {lines}");
        }
    }
}
