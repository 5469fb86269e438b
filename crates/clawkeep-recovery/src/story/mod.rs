//! From the journal of a sandbox to its story: every recorded decision is made once more by the core, and what
//! happened is folded into incidents. Pure.
//!
//! A record that the core would not have written is a bug, of the core or of whoever writes the journal: it is
//! told, never passed over.

mod fold;
mod recorded;

pub use recorded::{CORE, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Cause, Confidence, Diagnosis, Rung, State};

/// A record of the journal of one sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its number.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// What kind of record: `step`, `diagnosis`, `ended`...
    pub kind: &'a str,
    /// Why, for a person.
    pub cause: &'a str,
    /// What a replay needs.
    pub data: &'a Value,
}

/// What the records of a sandbox tell.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// Decisions that were made once more.
    pub replayed: u64,
    /// Decisions of another version of the core, not looked at.
    pub of_other_versions: u64,
    /// What does not follow from what was before, the first [`MAX_MISMATCHES`].
    pub mismatches: Vec<Mismatch>,
    /// Oldest first.
    pub incidents: Vec<Incident>,
    /// The last state that is known.
    pub present: Option<Present>,
}

/// More mismatches than this are not listed.
pub const MAX_MISMATCHES: usize = 100;

/// A record that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The record's number.
    pub seq: u64,
    /// In which way.
    pub kind: MismatchKind,
    /// What is wrong, in a sentence. Made of the record: clean it before it is shown.
    pub what: String,
}

/// In which way a record is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MismatchKind {
    /// It cannot be read.
    Unreadable,
    /// The core decides otherwise.
    Decision,
    /// It does not begin where the one before it ended.
    Chain,
}

/// A time at which it did not serve, or did not last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// Number of the record with which it began.
    pub seq: u64,
    /// When it began, in Unix milliseconds.
    pub began_at: u64,
    /// What happened, in order, [`MAX_LISTED`] at most. Made of records: clean it.
    pub happened: Vec<Happened>,
    /// The surest diagnosis.
    pub diagnosis: Option<Diagnosis>,
    /// What was tried, in order, as many at most.
    pub tried: Vec<Attempt>,
    /// What is not listed, from the middle of both.
    pub left_out: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// From its beginning to its end, or to the last record, in milliseconds.
    pub lasted_ms: u64,
}

/// Of what happened in an incident, and of what was tried, no more than this is listed.
pub const MAX_LISTED: usize = 50;

/// Something that happened in an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Happened {
    /// Number of its record.
    pub seq: u64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What kind, a short fixed word.
    pub kind: String,
    /// What, for a person.
    pub what: String,
}

/// One attempt to get it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// How far the repair went.
    pub rung: Rung,
    /// How long was waited before, in milliseconds.
    pub waited_ms: u64,
    /// The launch, if it came to one.
    pub launch: Option<u64>,
    /// What came of it.
    pub result: AttemptResult,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptResult {
    /// It served.
    Ready,
    /// It failed, or did not last.
    Failed,
    /// It was not seen to the end.
    Open,
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum Outcome {
    /// It served again.
    Cured {
        /// By this.
        rung: Rung,
        /// In this launch.
        launch: u64,
        /// When, in Unix milliseconds.
        at_ms: u64,
        /// Whether it has lasted so long that it counts.
        settled: bool,
    },
    /// It was told to stop.
    Stopped {
        /// When, in Unix milliseconds.
        at_ms: u64,
    },
    /// It goes on.
    Open,
}

/// Where the sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its state.
    pub state: State,
    /// Since when, in Unix milliseconds: the last decision.
    pub at_ms: u64,
    /// When the next thing is due that needs nobody, in Unix milliseconds.
    pub next_at: Option<u64>,
}

impl Incident {
    /// The cause, where one is known with more than a guess.
    pub fn cause(&self) -> Option<Cause> {
        self.diagnosis.as_ref().filter(|found| found.confidence > Confidence::Weak).map(|found| found.cause)
    }
}

/// Tell the story of these records: all of one sandbox, oldest first. Those before the first of them may be
/// missing.
pub fn tell<'a>(records: impl IntoIterator<Item = Record<'a>>) -> Story {
    let mut fold = fold::Fold::default();
    for record in records {
        fold.take(&record);
    }
    fold.end()
}
