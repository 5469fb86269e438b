use clawkeep_plan::SandboxName;
use clawkeep_store::{Event, Page, Span};
use serde_json::{Value, json};

use super::journal::Journal;
use super::name_in;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;
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

/// `events [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let name = name_in(options.name.as_ref())?.map(|name| super::known(host, name)).transpose()?;
    let journal = Journal::of(host)?;
    let show = |events: &[Event]| events.iter().for_each(|event| print(event, options.json));
    let mut place = Place::default();
    if let Some(tail) = journal.tail(name.as_ref(), options.tail)? {
        show(&tail.events);
        // What is not shown of the past is not to come later either.
        let last = tail.events.last().map_or(0, |event| event.seq);
        place.begin(tail.in_memory, last.max(tail.newest));
    } else {
        place.begin(false, 0);
    }
    if !options.follow {
        return Ok(0);
    }
    loop {
        match journal.page(name.as_ref(), Span::After(place.last())) {
            Ok(Some(page)) => {
                if place.is_of(&page) {
                    show(&page.events);
                    place.advance(&page);
                    if page.more {
                        continue;
                    }
                } else {
                    place.turn_to(&page);
                    continue;
                }
            }
            Ok(None) => {}
            // Whoever has it lets go of it, or answers again.
            Err(problem) if problem.failure.code == "journal-busy" => {}
            Err(problem) => return Err(problem),
        }
        // A signal ends us by itself.
        let _ = rustix::event::poll(&mut [], Some(&LOOK));
    }
}

/// How far each journal was read: the one on the disk, and the one that a daemon keeps in memory where the disk
/// takes nothing.
#[derive(Debug, Default)]
struct Place {
    in_memory: bool,
    read: [Option<u64>; 2],
}

impl Place {
    fn begin(&mut self, in_memory: bool, last: u64) {
        self.in_memory = in_memory;
        self.read[usize::from(in_memory)] = Some(last);
    }

    /// The last event that was read.
    fn last(&self) -> u64 {
        self.read[usize::from(self.in_memory)].unwrap_or(0)
    }

    /// Whether what comes after the last one is on this page.
    fn is_of(&self, page: &Page) -> bool {
        // One that was made anew counts from the beginning.
        page.in_memory == self.in_memory && page.newest >= self.last()
    }

    fn advance(&mut self, page: &Page) {
        if let Some(last) = page.events.last() {
            self.begin(page.in_memory, last.seq);
        }
    }

    /// Go on in the journal of this page.
    fn turn_to(&mut self, page: &Page) {
        let read = self.read[usize::from(page.in_memory)].filter(|last| *last <= page.newest);
        let anew = page.in_memory || self.in_memory == page.in_memory;
        // In memory all is new. What is on the disk and was never read is of before.
        self.begin(page.in_memory, read.unwrap_or(if anew { 0 } else { page.newest }));
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
    fn goes_on_in_whichever_journal_there_is() {
        let page = |in_memory, newest, last: u64| {
            let events = (last > 0).then(|| Event { seq: last, ..event("ready", "", Value::Null) });
            Page {
                events: events.into_iter().collect(),
                more: false,
                newest,
                in_memory,
                complete: !in_memory,
            }
        };
        let mut place = Place::default();
        place.begin(false, 40);
        assert!(place.is_of(&page(false, 40, 0)));
        place.advance(&page(false, 42, 42));
        assert_eq!(place.last(), 42);
        // The disk is full, the next daemon counts from 1.
        assert!(!place.is_of(&page(true, 3, 0)));
        place.turn_to(&page(true, 3, 0));
        assert_eq!(place.last(), 0);
        place.advance(&page(true, 3, 3));
        // It is well again: what was in memory has its numbers on the disk.
        assert!(!place.is_of(&page(false, 45, 45)));
        place.turn_to(&page(false, 45, 45));
        assert_eq!(place.last(), 42);
        // Made anew, from nothing.
        assert!(!place.is_of(&page(false, 7, 0)));
        place.turn_to(&page(false, 7, 0));
        assert_eq!(place.last(), 0);
        // Begun in memory: what is on the disk is of before.
        let mut place = Place::default();
        place.begin(true, 3);
        place.turn_to(&page(false, 45, 0));
        assert_eq!(place.last(), 45);
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
