use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::BreakerState;
use crate::problem::printable;
use crate::usage::Reader;

/// How many models are counted apart. An agent can name any number of them.
const MAX_MODELS: usize = 16;

/// Under which name the others are counted together.
const OTHERS: &str = "(others)";

/// How many of the last times a median is taken of.
const RECENT: usize = 64;

/// What a route has done since the daemon serves it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Requests that are with a provider now.
    pub running: usize,
    /// All models together.
    #[serde(flatten)]
    pub total: Counts,
    /// Each model on its own, as the request named it, or as the fall-back route has it.
    pub models: BTreeMap<String, Counts>,
    /// The routes in the order in which they are asked.
    pub routes: Vec<RouteSeen>,
}

/// One route, and whether it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSeen {
    /// The provider's name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Whether it is asked.
    pub breaker: BreakerState,
}

/// Counters of one model, or of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Answers that came whole, to calls that cost tokens.
    pub turns: u64,
    /// Tokens of requests, where the provider told.
    pub tokens_in: u64,
    /// Tokens of answers, where the provider told.
    pub tokens_out: u64,
    /// From the request to the first event of a stream, in ms: the median of the last 64 streams.
    pub first_token_ms: Option<f64>,
    /// Between the events of a stream, in ms: the median of the last 64 streams' means.
    pub between_tokens_ms: Option<f64>,
    /// Failures by cause, of every route that was tried.
    pub errors: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Model {
    counts: Counts,
    first: Recent,
    between: Recent,
}

#[derive(Debug, Default)]
struct Recent(VecDeque<Duration>);

impl Recent {
    fn add(&mut self, time: Duration) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    fn median_ms<'a>(all: impl Iterator<Item = &'a Self>) -> Option<f64> {
        let mut times: Vec<_> = all.flat_map(|recent| &recent.0).collect();
        times.sort_unstable();
        times.get(times.len() / 2).map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
    }
}

impl Model {
    fn counts(&self) -> Counts {
        Counts {
            first_token_ms: Recent::median_ms(std::iter::once(&self.first)),
            between_tokens_ms: Recent::median_ms(std::iter::once(&self.between)),
            ..self.counts.clone()
        }
    }
}

/// Counts for one sandbox. Cloning gives another handle to the same counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<BTreeMap<String, Model>>>);

impl Meter {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, model: &str, count: impl FnOnce(&mut Model)) {
        let mut models = self.lock();
        let mut name = printable(model, 128);
        if !models.contains_key(&name) && models.len() >= MAX_MODELS {
            OTHERS.clone_into(&mut name);
        }
        count(models.entry(name).or_default());
    }

    /// A failure.
    pub(crate) fn failed(&self, model: &str, cause: &str) {
        self.with(model, |found| *found.counts.errors.entry(cause.to_owned()).or_default() += 1);
    }

    /// What was counted so far.
    pub(crate) fn seen(&self, running: usize, routes: Vec<RouteSeen>) -> Seen {
        let models = self.lock();
        let mut total = Counts::default();
        for Model { counts, .. } in models.values() {
            total.turns += counts.turns;
            total.tokens_in = total.tokens_in.saturating_add(counts.tokens_in);
            total.tokens_out = total.tokens_out.saturating_add(counts.tokens_out);
            for (cause, count) in &counts.errors {
                *total.errors.entry(cause.clone()).or_default() += count;
            }
        }
        total.first_token_ms = Recent::median_ms(models.values().map(|model| &model.first));
        total.between_tokens_ms = Recent::median_ms(models.values().map(|model| &model.between));
        let models = models.iter().map(|(name, model)| (name.clone(), model.counts())).collect();
        Seen { running, total, models, routes }
    }
}

/// One answer on its way to the agent.
#[derive(Debug)]
pub(crate) struct Turn {
    meter: Meter,
    model: String,
    reader: Reader,
    asked: Instant,
    first: Option<Instant>,
    last: Instant,
    end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// Nothing came for too long.
    Stalled,
    /// The connection broke.
    Cut,
}

impl Turn {
    pub(crate) fn new(meter: Meter, model: String, content_type: &[u8], asked: Instant) -> Self {
        let reader = Reader::new(content_type);
        Self { meter, model, reader, asked, first: None, last: asked, end: None }
    }

    /// A piece of the answer passes.
    pub(crate) fn passes(&mut self, bytes: &[u8]) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.reader.read(bytes);
    }

    pub(crate) fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

impl Drop for Turn {
    /// Without an end the agent went away; the tokens were spent all the same.
    fn drop(&mut self) {
        self.reader.end();
        let cause = match self.end {
            Some(End::Stalled) => Some("stalled"),
            Some(End::Cut) => Some("cut"),
            _ if self.reader.told_of_error() => Some("error_in_stream"),
            _ => None,
        };
        if let Some(cause) = cause {
            self.meter.failed(&self.model, cause);
        }
        let whole = self.end == Some(End::Whole) && cause.is_none();
        let (usage, events) = (self.reader.usage(), self.reader.events());
        self.meter.with(&self.model, |model| {
            model.counts.turns += u64::from(whole);
            model.counts.tokens_in = model.counts.tokens_in.saturating_add(usage.input);
            model.counts.tokens_out = model.counts.tokens_out.saturating_add(usage.output);
            let Some(first) = self.first.filter(|_| self.reader.is_stream()) else { return };
            model.first.add(first - self.asked);
            if let Ok(gaps @ 1..) = u32::try_from(events.saturating_sub(1)) {
                model.between.add((self.last - first) / gaps);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_model_and_all_together_and_no_more_models_than_it_may() {
        let meter = Meter::default();
        for index in 0..2 * MAX_MODELS {
            let now = Instant::now();
            let mut turn = Turn::new(meter.clone(), format!("m{index}\n"), b"application/json", now);
            turn.passes(br#"{"usage":{"prompt_tokens":10,"completion_tokens":1}}"#);
            turn.ends(End::Whole);
        }
        meter.failed("m0", "timeout");
        let seen = meter.seen(0, Vec::new());
        assert_eq!((seen.total.turns, seen.total.tokens_in, seen.total.tokens_out), (32, 320, 32));
        assert_eq!((seen.models.len(), seen.models[OTHERS].turns), (MAX_MODELS + 1, 16));
        assert_eq!(seen.models["m0"].errors, BTreeMap::from([("timeout".to_owned(), 1)]));
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen);
    }

    #[test]
    fn times_are_of_streams_and_an_end_is_what_came_first() {
        let meter = Meter::default();
        let asked = Instant::now();
        let mut turn = Turn::new(meter.clone(), "m".into(), b"text/event-stream", asked);
        turn.passes(b"data: 1\n\n");
        turn.passes(b"data: 2\n\ndata: 3\n\n");
        turn.ends(End::Cut);
        turn.ends(End::Whole);
        drop(turn);
        drop(Turn::new(meter.clone(), "m".into(), b"application/json", asked));
        let counts = meter.seen(0, Vec::new()).total;
        assert_eq!((counts.turns, counts.errors["cut"]), (0, 1));
        assert!(counts.first_token_ms.is_some() && counts.between_tokens_ms.is_some());
    }
}
