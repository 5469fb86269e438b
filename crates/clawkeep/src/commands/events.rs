use clawkeep_plan::SandboxName;
use clawkeep_store::{Event, JournalReader, StoreError};
use serde_json::{Value, json};

use super::{journal, name_in};
use crate::host::Host;
use crate::output;
use crate::problem::{Outcome, Problem};
use crate::view::story::{clock, rfc3339};

/// What `events` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it all of them and the daemon itself
    name: Option<String>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// How many of the last events to begin with
    #[arg(long, value_name = "N", default_value_t = 50)]
    tail: usize,
    /// Print each as a line of JSON
    #[arg(long)]
    json: bool,
}

/// How often a followed journal is looked at.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The most that are read at once.
const BATCH: usize = 500;

/// `events [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let name = name_in(options.name.as_ref())?.map(|name| super::known(host, name)).transpose()?;
    let mut followed = Followed { host, name, journal: None, last: 0 };
    let show = |events: Vec<Event>| events.iter().for_each(|event| print(event, options.json));
    show(followed.begin(options.tail)?);
    if !options.follow {
        return Ok(0);
    }
    loop {
        // A signal ends us by itself.
        let _ = rustix::event::poll(&mut [], Some(&LOOK));
        show(followed.more()?);
    }
}

/// A journal, and how far it was read.
struct Followed<'a> {
    host: &'a Host,
    name: Option<SandboxName>,
    journal: Option<(JournalReader, Option<(u64, u64)>)>,
    last: u64,
}

impl Followed<'_> {
    fn begin(&mut self, tail: usize) -> Result<Vec<Event>, Problem> {
        self.open()?;
        let Some((journal, _)) = &self.journal else { return Ok(Vec::new()) };
        let read = || -> Result<_, StoreError> {
            // What is not shown of the past is not to come later either.
            let newest = journal.tail(None, 1)?.first().map_or(0, |event| event.seq);
            Ok((newest, journal.tail(self.name.as_ref(), tail)?))
        };
        let (newest, events) = read().map_err(|error| journal::unreadable(self.host, &error))?;
        self.last = events.last().map_or(newest, |event| event.seq.max(newest));
        Ok(events)
    }

    fn more(&mut self) -> Result<Vec<Event>, Problem> {
        // A repair puts another file in its place.
        if self.journal.is_none() || self.journal.as_ref().is_some_and(|(_, file)| *file != self.file()) {
            self.open()?;
        }
        let Some((journal, _)) = &self.journal else { return Ok(Vec::new()) };
        match journal.since(self.name.as_ref(), self.last, BATCH) {
            Ok(events) => {
                self.last = events.last().map_or(self.last, |event| event.seq);
                Ok(events)
            }
            // Whoever holds it lets go of it.
            Err(StoreError::Busy(_)) => Ok(Vec::new()),
            Err(error) => Err(journal::unreadable(self.host, &error)),
        }
    }

    fn open(&mut self) -> Result<(), Problem> {
        let file = self.file();
        self.journal = match journal::open(self.host)? {
            Some(journal) => {
                // The numbers of another file begin anew.
                let newest = journal.tail(None, 1).map_err(|error| journal::unreadable(self.host, &error))?;
                if newest.first().is_none_or(|event| event.seq < self.last) {
                    self.last = 0;
                }
                Some((journal, file))
            }
            None => None,
        };
        Ok(())
    }

    /// Which file it is: device and inode.
    fn file(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(self.host.root().join("clawkeep.db")).ok()?;
        Some((found.dev(), found.ino()))
    }
}

fn print(event: &Event, as_json: bool) {
    let entry = &event.entry;
    if as_json {
        output::print_json_line(&json!({
            "schema": 1, "seq": event.seq, "at": rfc3339(entry.at_ms), "sandbox": entry.sandbox,
            "kind": entry.kind, "cause": entry.cause, "data": entry.data,
        }));
    } else {
        output::print(&line(event));
    }
}

/// One event for a person.
fn line(event: &Event) -> String {
    let entry = &event.entry;
    let told = match entry.kind.as_str() {
        "step" => step(&entry.data),
        "diagnosis" if entry.cause.is_empty() => word(&entry.data["cause"]),
        _ => entry.cause.clone(),
    };
    let name = entry.sandbox.as_ref().map_or("-", SandboxName::as_str);
    output::one_line(&format!("{}  {name:<14} {:<14} {told}", clock(entry.at_ms), entry.kind))
        .trim_end()
        .to_owned()
        + "\n"
}

/// `ready -> backoff (ended)`.
fn step(data: &Value) -> String {
    let (from, to) = (word(&data["before"]["phase"]), word(&data["after"]["phase"]));
    let change = if from == to { to } else { format!("{from} -> {to}") };
    format!("{change} ({})", word(&data["event"]))
}

/// The name of a variant, as serde writes it.
fn word(value: &Value) -> String {
    let key = || value.as_object().and_then(|fields| fields.keys().next().map(String::as_str));
    value.as_str().or_else(key).unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use clawkeep_store::Entry;

    use super::*;

    fn event(kind: &str, cause: &str, data: Value) -> Event {
        let sandbox = Some("box".parse().unwrap());
        let entry = Entry { at_ms: 1_764_049_285_123, sandbox, kind: kind.into(), cause: cause.into(), data };
        Event { seq: 7, entry }
    }

    #[test]
    fn events_as_people_see_them() {
        let data = json!({
            "before": {"phase": {"ready": {"launch": 1}}}, "event": {"ended": {"launch": 1}},
            "after": {"phase": "clearing"},
        });
        let lines = [
            line(&event("launched", "every input verified", Value::Null)),
            line(&event("step", "", data)),
            line(&event("step", "", json!("no step"))),
            line(&event("denied", "\u{1b}[2Jhost\nrefused\u{202e}", Value::Null)),
        ];
        insta::assert_snapshot!(lines.concat(), @r#"
        2025-11-25 05:41:25.123  box            launched       every input verified
        2025-11-25 05:41:25.123  box            step           ready -> clearing (ended)
        2025-11-25 05:41:25.123  box            step           ? (?)
        2025-11-25 05:41:25.123  box            denied         host refused
        "#);
    }
}
