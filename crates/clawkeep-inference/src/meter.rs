use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::problem::RouteProblem;
use crate::problem::printable;
use crate::usage::Reader;
use crate::watch::{News, Watch, Well};
use crate::{BreakerState, Histogram, RouteFailing, RouteNews};

/// How many models are counted apart. An agent can name any number of them.
const MAX_MODELS: usize = 16;

/// How many causes of failures are counted apart for a model. A provider can invent statuses.
const MAX_CAUSES: usize = 24;

/// How many characters of a model's name are looked at: a secret is shorter.
const MAX_NAMED: usize = 4_096 + 128;

/// Under which name the others are counted together.
const OTHERS: &str = "(others)";

/// How many of the last times a median is taken of.
const RECENT: usize = 64;

/// What a route has done so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Since when it is counted, Unix time in milliseconds.
    #[serde(default)]
    pub since_ms: u64,
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
    /// When it last answered, Unix time in milliseconds.
    #[serde(default)]
    pub answered_ms: Option<u64>,
    /// How it fails, if it does.
    #[serde(default)]
    pub failing: Option<RouteFailing>,
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
    /// The same of all streams: what 99 in 100 did not exceed, guessed by the histogram.
    #[serde(default)]
    pub first_token_p99_ms: Option<f64>,
    /// Between the events of a stream, in ms: the median of the last 64 streams' means.
    pub between_tokens_ms: Option<f64>,
    /// The same of all events of all streams: what 99 in 100 did not exceed, guessed by the histogram.
    #[serde(default)]
    pub between_tokens_p99_ms: Option<f64>,
    /// Failures by cause, of every route that was tried.
    pub errors: BTreeMap<String, u64>,
}

/// What is kept of a meter over the end of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Since when it is counted, Unix time in milliseconds.
    pub since_ms: u64,
    /// Each model on its own.
    pub models: BTreeMap<String, Counted>,
}

/// What is kept of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// As in [`Counts`].
    pub turns: u64,
    /// As in [`Counts`].
    pub tokens_in: u64,
    /// As in [`Counts`].
    pub tokens_out: u64,
    /// As in [`Counts`].
    pub errors: BTreeMap<String, u64>,
    /// From the request to the first event of a stream, of each stream.
    pub first_token: Histogram,
    /// Between the events of a stream, of each pair of them.
    pub between_tokens: Histogram,
}

#[derive(Debug, Default)]
struct Model {
    counted: Counted,
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

impl Counted {
    fn merge(&mut self, other: &Self) {
        self.turns = self.turns.saturating_add(other.turns);
        self.tokens_in = self.tokens_in.saturating_add(other.tokens_in);
        self.tokens_out = self.tokens_out.saturating_add(other.tokens_out);
        for (cause, count) in &other.errors {
            let sum = self.errors.entry(cause.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.first_token.merge(&other.first_token);
        self.between_tokens.merge(&other.between_tokens);
    }

    fn failed(&mut self, cause: &str) {
        let known = self.errors.contains_key(cause) || self.errors.len() < MAX_CAUSES;
        *self.errors.entry(if known { cause } else { OTHERS }.to_owned()).or_default() += 1;
    }
}

/// Now.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A word that nobody can guess: the standard library keys its hashes from the system's random numbers. Whoever has
/// it can have failures not counted, and no more than that.
fn proof() -> String {
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The counts of these models together.
fn counts<'a>(models: impl Iterator<Item = &'a Model> + Clone) -> Counts {
    let mut all = Counted::default();
    models.clone().for_each(|model| all.merge(&model.counted));
    Counts {
        turns: all.turns,
        tokens_in: all.tokens_in,
        tokens_out: all.tokens_out,
        first_token_ms: Recent::median_ms(models.clone().map(|model| &model.first)),
        first_token_p99_ms: all.first_token.quantile_ms(0.99),
        between_tokens_ms: Recent::median_ms(models.map(|model| &model.between)),
        between_tokens_p99_ms: all.between_tokens.quantile_ms(0.99),
        errors: all.errors,
    }
}

/// Counts what passes over the route of one sandbox. Cloning gives another handle to the same counters.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    since_ms: u64,
    models: Mutex<BTreeMap<String, Model>>,
    /// Something was counted since it was last taken down.
    changed: AtomicBool,
    changes: Arc<Notify>,
    name: fn(&str) -> String,
    news: Arc<News>,
    /// When a request of the agent was last answered, Unix time in milliseconds.
    answered_ms: AtomicU64,
    proof: String,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new(None, Arc::default(), str::to_owned)
    }
}

impl Meter {
    /// One that goes on from what was kept, if there is any, and wakes `changes` when it has counted something.
    /// `name` gives the name under which a model is counted: an agent names models as it likes, after a secret too.
    pub fn new(kept: Option<Kept>, changes: Arc<Notify>, name: fn(&str) -> String) -> Self {
        let kept = kept.unwrap_or_else(|| Kept { since_ms: unix_ms(), ..Kept::default() });
        let models = kept.models.into_iter().take(MAX_MODELS + 1);
        let models = models.map(|(name, counted)| (name, Model { counted, ..Model::default() })).collect();
        let changed = AtomicBool::new(false);
        let (since_ms, models) = (kept.since_ms, Mutex::new(models));
        let (news, answered_ms, proof) = (Arc::default(), AtomicU64::new(0), proof());
        Self(Arc::new(Shared { since_ms, models, changed, changes, name, news, answered_ms, proof }))
    }

    /// Have news of its routes told to this one. Who asks first hears them.
    pub fn on_news(&self, hear: impl Fn(RouteNews) + Send + Sync + 'static) {
        self.0.news.heard_by(Box::new(hear));
    }

    pub(crate) fn news(&self) -> &News {
        &self.0.news
    }

    /// What marks a request as a proof: its failures are not counted as the agent's.
    pub fn proof(&self) -> &str {
        &self.0.proof
    }

    /// When a request of the agent was last answered, Unix time in milliseconds; 0 for never.
    pub fn answered_ms(&self) -> u64 {
        self.0.answered_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.0.answered_ms.store(unix_ms(), Ordering::Relaxed);
    }

    /// One whose counts nobody sees, and whose news go where those of this one go.
    pub(crate) fn uncounted(&self) -> Self {
        let news = Arc::clone(&self.0.news);
        Self(Arc::new(Shared {
            since_ms: 0,
            models: Mutex::default(),
            changed: AtomicBool::default(),
            changes: Arc::default(),
            name: str::to_owned,
            news,
            answered_ms: AtomicU64::new(0),
            proof: String::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.0.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, model: &str, count: impl FnOnce(&mut Model)) {
        // Shortened last: a part of a secret would not be known as such.
        let mut name = printable(&(self.0.name)(&printable(model, MAX_NAMED)), 128);
        let mut models = self.lock();
        if !models.contains_key(&name) && models.len() >= MAX_MODELS {
            OTHERS.clone_into(&mut name);
        }
        count(models.entry(name).or_default());
        drop(models);
        self.0.changed.store(true, Ordering::Release);
        self.0.changes.notify_one();
    }

    /// A failure.
    pub(crate) fn failed(&self, model: &str, cause: &str) {
        self.with(model, |found| found.counted.failed(cause));
    }

    /// What was counted so far.
    pub fn kept(&self) -> Kept {
        let models = self.lock();
        let models = models.iter().map(|(name, model)| (name.clone(), model.counted.clone())).collect();
        Kept { since_ms: self.0.since_ms, models }
    }

    /// The same if something was counted since the last time.
    pub fn take_changes(&self) -> Option<Kept> {
        self.0.changed.swap(false, Ordering::AcqRel).then(|| self.kept())
    }

    /// What was taken down last is not kept: it is to be taken again.
    pub fn put_back(&self) {
        self.0.changed.store(true, Ordering::Release);
    }

    /// What was counted so far, for people.
    pub(crate) fn seen(&self, running: usize, routes: Vec<RouteSeen>) -> Seen {
        let models = self.lock();
        let total = counts(models.values());
        let each = |(name, model): (&String, &Model)| (name.clone(), counts(std::iter::once(model)));
        let models = models.iter().map(each).collect();
        Seen { since_ms: self.0.since_ms, running, total, models, routes }
    }
}

/// One answer on its way to the agent.
#[derive(Debug)]
pub(crate) struct Turn {
    meter: Meter,
    /// The route that answers, and its address.
    route: (Arc<Watch>, String),
    model: String,
    reader: Reader,
    asked: Instant,
    first: Option<Instant>,
    /// When the last event came.
    last: Instant,
    between: Histogram,
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
    pub(crate) fn new(
        meter: Meter,
        route: (Arc<Watch>, String),
        model: String,
        content_type: &[u8],
        asked: Instant,
    ) -> Self {
        let reader = Reader::new(content_type);
        let between = Histogram::default();
        Self { meter, route, model, reader, asked, first: None, last: asked, between, end: None }
    }

    /// A piece of the answer passes.
    pub(crate) fn passes(&mut self, bytes: &[u8]) {
        let (now, before) = (Instant::now(), self.reader.events());
        self.first.get_or_insert(now);
        self.reader.read(bytes);
        let events = self.reader.events() - before;
        if events == 0 {
            return;
        }
        // Several that came in one piece share the time since the one before; the first has none before it.
        let gaps = if before == 0 { events - 1 } else { events };
        if let (Ok(count), false) = (u32::try_from(events), gaps == 0) {
            let since = if before == 0 { Duration::ZERO } else { (now - self.last) / count };
            self.between.add(since, gaps);
        }
        self.last = now;
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
        let whole = self.end == Some(End::Whole) && cause.is_none();
        let (watch, address) = &self.route;
        if let Some(cause) = cause {
            self.meter.failed(&self.model, cause);
            let how = match cause {
                "stalled" => "nothing more came of its answer",
                "cut" => "its answer broke off",
                _ => "it told of an error in the middle of its answer",
            };
            let problem = RouteProblem::Protocol { address: address.clone(), cause: how.to_owned() };
            watch.failed(cause, &problem, true, self.meter.news());
        } else if whole {
            watch.well(Well::Whole, self.meter.news());
        }
        let (usage, events) = (self.reader.usage(), self.reader.events());
        self.meter.with(&self.model, |model| {
            let counted = &mut model.counted;
            counted.turns += u64::from(whole);
            counted.tokens_in = counted.tokens_in.saturating_add(usage.input);
            counted.tokens_out = counted.tokens_out.saturating_add(usage.output);
            let Some(first) = self.first.filter(|_| self.reader.is_stream()) else { return };
            counted.first_token.add(first - self.asked, 1);
            counted.between_tokens.merge(&self.between);
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

    fn route() -> (Arc<Watch>, String) {
        (Arc::new(Watch::new("custom", "m".into())), "h:1".into())
    }

    #[test]
    fn counts_each_model_and_all_together_and_no_more_models_than_it_may() {
        let meter = Meter::default();
        for index in 0..2 * MAX_MODELS {
            let now = Instant::now();
            let mut turn = Turn::new(meter.clone(), route(), format!("m{index}\n"), b"application/json", now);
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
        let mut turn = Turn::new(meter.clone(), route(), "m".into(), b"text/event-stream", asked);
        turn.passes(b"data: 1\n\n");
        turn.passes(b"data: 2\n\ndata: 3\n\n");
        turn.ends(End::Cut);
        turn.ends(End::Whole);
        drop(turn);
        drop(Turn::new(meter.clone(), route(), "m".into(), b"application/json", asked));
        let counts = meter.seen(0, Vec::new()).total;
        assert_eq!((counts.turns, counts.errors["cut"]), (0, 1));
        assert!(counts.first_token_ms.is_some() && counts.between_tokens_ms.is_some());
        assert!(counts.first_token_p99_ms.is_some() && counts.between_tokens_p99_ms.is_some());
        let kept = meter.kept().models["m"].clone();
        assert_eq!((kept.first_token.count(), kept.between_tokens.count()), (1, 2));
    }

    #[test]
    fn what_was_kept_goes_on_and_what_was_counted_is_told_once() {
        let changes = Arc::new(Notify::new());
        let meter = Meter::new(None, Arc::clone(&changes), |name| name.replace("key", "?"));
        meter.failed("my key", "dns");
        assert!(meter.take_changes().unwrap().models.contains_key("my ?"));
        assert!(meter.kept().since_ms > 1_600_000_000_000 && meter.take_changes().is_none());
        for status in 0..2 * MAX_CAUSES {
            meter.failed("m", &format!("status_{status}"));
        }
        let kept = meter.take_changes().unwrap();
        assert!(meter.take_changes().is_none());
        meter.put_back();
        assert_eq!(meter.take_changes().as_ref(), Some(&kept));
        assert_eq!((kept.models["m"].errors.len(), kept.models["m"].errors[OTHERS]), (25, 24));

        let json = serde_json::to_string(&kept).unwrap();
        let next = Meter::new(serde_json::from_str(&json).unwrap(), changes, str::to_owned);
        next.failed("m", "status_0");
        let seen = next.seen(0, Vec::new());
        assert_eq!((seen.since_ms, seen.total.errors["status_0"]), (kept.since_ms, 2));
        // Whatever a file says, no more models than there may be.
        let many = (0..99).map(|index| (format!("m{index}"), Counted::default())).collect();
        let full = Meter::new(Some(Kept { since_ms: 1, models: many }), Arc::default(), str::to_owned);
        full.failed("another", "dns");
        assert!(full.kept().models.len() <= MAX_MODELS + 2);
    }
}
