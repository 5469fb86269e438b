use serde::Deserialize;

use super::recorded::{Step, Unusable};
use super::{
    Attempt, AttemptResult, Happened, Incident, MAX_LISTED, MAX_MISMATCHES, Mismatch, MismatchKind, Outcome,
    Present, Record, Story,
};
use crate::{Action, Diagnosis, Event, Phase, State};

/// Kinds of records that say nothing about an incident, or that the decisions themselves say.
const OTHER: &[&str] = &["step", "launched", "receipt", "ready", "backoff", "denied", "prepared", "settled"];

/// At most this much of what a record says is kept, in bytes.
const MAX_WHAT: usize = 1_000;

#[derive(Default)]
pub(super) struct Fold {
    story: Story,
    /// The last decision, with the time of its record.
    last: Option<(Step, u64)>,
    /// Since when nothing is done, by the supervisor's clock.
    waits_since: Option<u64>,
    /// Something could not be read since: the chain cannot be looked at.
    gap: bool,
    /// The incident that is told just now.
    open: Option<Incident>,
    /// Diagnoses and happenings whose decision has not come yet: they are written down before it.
    pending: Vec<Happened>,
    diagnoses: Vec<Diagnosis>,
}

impl Fold {
    pub fn take(&mut self, record: &Record<'_>) {
        match record.kind {
            "step" => match Step::read(record.data) {
                Ok(step) => self.step(record, step),
                Err(Unusable::OtherVersion) => {
                    self.story.of_other_versions += 1;
                    self.gap = true;
                }
                Err(Unusable::Unreadable(why)) => {
                    self.mismatch(record.seq, MismatchKind::Unreadable, why);
                    self.gap = true;
                }
            },
            "diagnosis" => match Diagnosis::deserialize(record.data) {
                Ok(diagnosis) => self.diagnoses.push(diagnosis),
                Err(error) => self.mismatch(record.seq, MismatchKind::Unreadable, error.to_string()),
            },
            kind if OTHER.contains(&kind) => {}
            kind => {
                // A person's part in it, and what an incident does not end with, is told as well.
                let happened = Happened {
                    seq: record.seq,
                    at_ms: record.at_ms,
                    kind: kind.to_owned(),
                    what: shorten(record.cause),
                };
                if self.pending.len() < MAX_LISTED {
                    self.pending.push(happened);
                }
            }
        }
    }

    pub fn end(mut self) -> Story {
        if let Some((step, at_ms)) = self.last.take() {
            let next = step.after.timer(&step.settings).map(|at| at_ms + at.saturating_sub(step.now));
            if self.open.as_ref().is_some_and(|open| open.outcome == Outcome::Open) {
                self.attach();
            }
            self.close();
            self.story.present = Some(Present { state: step.after, at_ms, next_at: next });
        }
        self.story
    }

    fn mismatch(&mut self, seq: u64, kind: MismatchKind, what: String) {
        if self.story.mismatches.len() < MAX_MISMATCHES {
            self.story.mismatches.push(Mismatch { seq, kind, what: shorten(&what) });
        }
    }

    fn step(&mut self, record: &Record<'_>, step: Step) {
        self.story.replayed += 1;
        if let Err(what) = step.replay() {
            self.mismatch(record.seq, MismatchKind::Decision, what);
        }
        let first = step.is_first();
        if let Some((last, _)) = &self.last
            && !first
            && !self.gap
            && last.after != step.before
        {
            let what =
                format!("it begins with {:?}, and the one before ended with {:?}", step.before, last.after);
            self.mismatch(record.seq, MismatchKind::Chain, what);
        }
        self.gap = false;
        if first && self.last.is_some() {
            self.restarted(record);
        }
        self.tell(record, &step);
        if waits(&step.after) {
            self.waits_since.get_or_insert(step.now);
        } else {
            self.waits_since = None;
        }
        self.pending.clear();
        self.diagnoses.clear();
        self.last = Some((step, record.at_ms));
    }

    /// A supervisor has begun anew: what was known of failures is forgotten, an incident is not.
    fn restarted(&mut self, record: &Record<'_>) {
        if self.open.as_ref().is_some_and(|open| open.outcome != Outcome::Open) {
            self.close();
        }
        self.waits_since = None;
        self.pending.push(Happened {
            seq: record.seq,
            at_ms: record.at_ms,
            kind: "supervisor-started".into(),
            what: "its supervisor was started again".into(),
        });
    }

    fn tell(&mut self, record: &Record<'_>, step: &Step) {
        let (before, after) = (&step.before, &step.after);
        let failed = fails(step);
        if failed {
            // Failures that are not forgotten: what had come back did not last.
            let lasts = matches!(self.open.as_ref().map(|open| open.outcome), Some(Outcome::Cured { .. }));
            if lasts && before.backoff.failures() == 0 {
                self.close();
            }
            let open = self.open.get_or_insert_with(|| Incident {
                seq: record.seq,
                began_at: record.at_ms,
                happened: Vec::new(),
                diagnosis: None,
                tried: Vec::new(),
                left_out: 0,
                outcome: Outcome::Open,
                lasted_ms: 0,
            });
            open.outcome = Outcome::Open;
            if let Some(attempt) = open.tried.last_mut() {
                attempt.result = AttemptResult::Failed;
            }
        }
        let Some(open) = self.open.as_mut() else { return };
        match open.outcome {
            Outcome::Open => open.lasted_ms = record.at_ms.saturating_sub(open.began_at),
            Outcome::Cured { ref mut settled, .. } => {
                *settled |= before.backoff.failures() > 0 && after.backoff.failures() == 0;
                // Left on purpose, or well for good.
                if *settled || !matches!(after.phase, Phase::Ready { .. }) {
                    self.close();
                }
                return;
            }
            Outcome::Stopped { .. } => return self.close(),
        }
        let waited =
            self.waits_since.filter(|_| waits(before)).map_or(0, |since| step.now.saturating_sub(since));
        if (failed || waits(before)) && !waits(after) {
            let (at_ms, rung) = (record.at_ms, after.ladder.rung);
            let result = AttemptResult::Open;
            let attempt = Attempt { at_ms, rung, waited_ms: waited, launch: None, result };
            open.left_out += list(&mut open.tried, attempt);
        }
        let launch = step.actions.iter().find_map(|action| match action {
            Action::Launch { launch, .. } => Some(*launch),
            _ => None,
        });
        if let Some(attempt) = open.tried.last_mut().filter(|attempt| attempt.result == AttemptResult::Open) {
            attempt.launch = launch.or(attempt.launch);
            attempt.rung = attempt.rung.max(after.ladder.rung);
        }
        if let Phase::Ready { launch, .. } = after.phase {
            let at_ms = record.at_ms;
            let mut rung = after.ladder.rung;
            if let Some(attempt) = open.tried.last_mut() {
                attempt.result = AttemptResult::Ready;
                rung = attempt.rung;
            }
            // Where no failure was counted, none is to be lived down.
            let settled = after.backoff.failures() == 0;
            open.outcome = Outcome::Cured { rung, launch, at_ms, settled };
        } else if !after.wanted {
            open.outcome = Outcome::Stopped { at_ms: record.at_ms };
        }
        self.attach();
    }

    /// What is pending belongs to the incident.
    fn attach(&mut self) {
        let Some(open) = self.open.as_mut() else { return };
        for happened in self.pending.drain(..) {
            open.left_out += list(&mut open.happened, happened);
        }
        for diagnosis in self.diagnoses.drain(..) {
            if open.diagnosis.as_ref().is_none_or(|known| known.confidence < diagnosis.confidence) {
                open.diagnosis = Some(diagnosis);
            }
        }
    }

    fn close(&mut self) {
        self.story.incidents.extend(self.open.take());
    }
}

/// Whether an incident begins or goes on with this: a failure was counted, a person must decide, or what served
/// has ended, even where that was our own doing (a rehearsal).
fn fails(step: &Step) -> bool {
    let (before, after) = (&step.before, &step.after);
    let held = |state: &State| matches!(state.phase, Phase::Held { .. });
    let ended = matches!(step.event, Event::Ended { .. }) && matches!(before.phase, Phase::Ready { .. });
    after.backoff.failures() > before.backoff.failures()
        || (held(after) && !held(before))
        || (ended && after.wanted)
}

/// Add to a list that keeps its beginning and its end. Gives how many it had to leave out.
fn list<T>(list: &mut Vec<T>, item: T) -> u64 {
    let full = list.len() >= MAX_LISTED;
    if full {
        list.remove(MAX_LISTED / 2);
    }
    list.push(item);
    u64::from(full)
}

/// Whether nothing is done at the moment.
fn waits(state: &State) -> bool {
    matches!(state.phase, Phase::Backoff { .. } | Phase::Held { .. } | Phase::Stopped)
}

fn shorten(text: &str) -> String {
    let end = (0..=MAX_WHAT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}
