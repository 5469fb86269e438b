use clawkeep_recovery::story::{self, Record, Story};
use clawkeep_store::Event;

use super::journal::{Journal, is_supervised};
use super::name_in;
use crate::host::Host;
use crate::problem::{Outcome, Problem};
use crate::{output, view};

/// What `why` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// How many of the last incidents to tell
    #[arg(long, value_name = "N", default_value_t = 3)]
    last: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `why [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let name = name_in(options.name.as_ref())?;
    let journal = Journal::of(host)?;
    let name = journal.sandbox(name)?;
    let (events, complete) = journal
        .tail(Some(&name), usize::MAX)?
        .map_or((Vec::new(), true), |tail| (tail.events, tail.complete));
    let told = view::story::Told {
        name: &name,
        story: &tell(&events),
        last: options.last,
        supervised: is_supervised(host),
        complete,
    };
    if options.json {
        output::print_json(&told.json());
    } else {
        output::print(&told.text());
    }
    match told.story.mismatches.first() {
        None => Ok(0),
        Some(first) => {
            let s = if told.story.mismatches.len() == 1 { "" } else { "s" };
            let message = format!(
                "{} record{s} of the journal of {name} {} not what was decided, the first is number {}: this is a \
                 bug, please report it",
                told.story.mismatches.len(),
                if s.is_empty() { "is" } else { "are" },
                first.seq,
            );
            Err(Problem::new(
                "replay-mismatch",
                message,
                &format!("clawkeep {name} events --tail 5000 --json"),
            ))
        }
    }
}

fn tell(events: &[Event]) -> Story {
    story::tell(events.iter().map(|event| Record {
        seq: event.seq,
        at_ms: event.entry.at_ms,
        kind: &event.entry.kind,
        cause: &event.entry.cause,
        data: &event.entry.data,
    }))
}
