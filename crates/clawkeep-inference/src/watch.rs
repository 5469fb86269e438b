//! What is known of a route by what came of requests to it, and what its operator is told: each incident once when it
//! begins, once for each further cause, and once when it ends. Never for each request.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::meter::unix_ms;
use crate::problem::RouteProblem;

/// So many incidents of a sandbox's routes are told within [`WITHIN`]. A provider that fails every other request
/// must not push everything else out of the journal.
const MOST: usize = 12;
const WITHIN: Duration = Duration::from_secs(600);

/// Something of a route that its operator hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteNews {
    /// What happened, a short fixed word: `route-failing`, `key-rejected`, `breaker-open`, `route-answers`.
    pub kind: &'static str,
    /// The same for a person.
    pub text: String,
    /// The provider's name.
    pub provider: &'static str,
    /// The model.
    pub model: String,
    /// The cause, as errors are counted by.
    pub cause: Option<String>,
    /// What to do about it.
    pub next: Option<String>,
}

/// A route that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFailing {
    /// Since when, Unix time in milliseconds.
    pub since_ms: u64,
    /// How often so far.
    pub failures: u64,
    /// How, the last time.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

type Hear = Box<dyn Fn(RouteNews) + Send + Sync>;

/// Whom news are told to, and how much was told lately.
#[derive(Default)]
pub(crate) struct News {
    hear: OnceLock<Hear>,
    told: Mutex<VecDeque<Instant>>,
}

impl News {
    /// The first who wants to hear them does.
    pub(crate) fn heard_by(&self, hear: Hear) {
        let _ = self.hear.set(hear);
    }

    fn tell(&self, news: RouteNews) {
        if let Some(hear) = self.hear.get() {
            hear(news);
        }
    }

    fn may_tell(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        while told.front().is_some_and(|at| now.duration_since(*at) >= WITHIN) {
            told.pop_front();
        }
        let may = told.len() < MOST;
        if may {
            told.push_back(now);
        }
        may
    }
}

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("News").finish_non_exhaustive()
    }
}

/// What is known of one route.
#[derive(Debug)]
pub(crate) struct Watch {
    provider: &'static str,
    model: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answered_ms: Option<u64>,
    /// When it was last asked and something came of it.
    asked: Option<Instant>,
    incident: Option<Incident>,
}

#[derive(Debug)]
struct Incident {
    since: Instant,
    failing: RouteFailing,
    causes: BTreeSet<String>,
    /// Only a whole answer ends it: what went wrong did so after an answer had begun, or is about the key.
    needs_whole: bool,
    told: bool,
}

/// How a request ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Well {
    /// An answer has begun.
    Answered,
    /// It came to its end, and was what was asked for.
    Whole,
}

impl Watch {
    pub(crate) fn new(provider: &'static str, model: String) -> Self {
        Self { provider, model, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self, kind: &'static str, what: &str) -> RouteNews {
        let model = self.model.clone();
        let text = format!("{} {model}: {what}", self.provider);
        RouteNews { kind, text, provider: self.provider, model, cause: None, next: None }
    }

    /// A request failed for this cause, in detail this problem; an answer may have begun before.
    pub(crate) fn failed(&self, cause: &str, problem: &RouteProblem, had_begun: bool, news: &News) {
        let (now, unauthorized) = (Instant::now(), cause == "unauthorized");
        let mut state = self.state();
        state.asked = Some(now);
        let incident = state.incident.get_or_insert_with(|| Incident {
            since: now,
            failing: RouteFailing {
                since_ms: unix_ms(),
                failures: 0,
                what: String::new(),
                next: String::new(),
            },
            causes: BTreeSet::new(),
            needs_whole: false,
            told: news.may_tell(now),
        });
        incident.failing.failures += 1;
        incident.failing.what = problem.to_string();
        incident.failing.next = problem.next_step();
        incident.needs_whole |= had_begun || unauthorized;
        // A provider can invent statuses without end.
        let new = incident.causes.len() < 8 && incident.causes.insert(cause.to_owned());
        if new && incident.told {
            let kind = if unauthorized { "key-rejected" } else { "route-failing" };
            let (cause, next) = (Some(cause.to_owned()), Some(incident.failing.next.clone()));
            let told = RouteNews { cause, next, ..self.news(kind, &incident.failing.what) };
            drop(state);
            news.tell(told);
        }
    }

    /// It is not asked for this long, because of failures or because the provider wants that.
    pub(crate) fn opened(&self, wait: Duration, told_to: bool, news: &News) {
        let told = self.state().incident.as_ref().is_some_and(|incident| incident.told);
        if told {
            let s = wait.as_secs_f64().ceil();
            let why = if told_to { "its provider wants that" } else { "it failed three times in a row" };
            news.tell(self.news("breaker-open", &format!("it is not asked for {s} s: {why}")));
        }
    }

    /// A request was answered.
    pub(crate) fn well(&self, how: Well, news: &News) {
        let mut state = self.state();
        state.answered_ms = Some(unix_ms());
        state.asked = Some(Instant::now());
        if state.incident.as_ref().is_none_or(|incident| incident.needs_whole && how == Well::Answered) {
            return;
        }
        let ended = state.incident.take();
        drop(state);
        if let Some(Incident { since, failing, causes, told: true, .. }) = ended {
            let s = if failing.failures == 1 { "" } else { "s" };
            let causes = causes.into_iter().collect::<Vec<_>>().join(", ");
            let (lasted, failures) = (since.elapsed().as_secs_f64(), failing.failures);
            let what = format!("it answers again after {lasted:.1} s and {failures} failure{s} ({causes})");
            news.tell(self.news("route-answers", &what));
        }
    }

    /// When it last answered, Unix time in milliseconds, and how it fails, if it does.
    pub(crate) fn seen(&self) -> (Option<u64>, Option<RouteFailing>) {
        let state = self.state();
        (state.answered_ms, state.incident.as_ref().map(|incident| incident.failing.clone()))
    }

    /// Whether something is known of it that is not older than this.
    pub(crate) fn is_fresh(&self, within: Duration) -> bool {
        self.state().asked.is_some_and(|at| at.elapsed() < within)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn problem(status: u16) -> RouteProblem {
        RouteProblem::UpstreamStatus { address: "h:1".into(), status, message: String::new() }
    }

    fn listening() -> (News, Arc<Mutex<Vec<RouteNews>>>) {
        let (news, heard) = (News::default(), Arc::new(Mutex::new(Vec::new())));
        let hears = Arc::clone(&heard);
        news.heard_by(Box::new(move |told| hears.lock().unwrap().push(told)));
        (news, heard)
    }

    fn kinds(heard: &Mutex<Vec<RouteNews>>) -> Vec<&'static str> {
        heard.lock().unwrap().drain(..).map(|news| news.kind).collect()
    }

    #[test]
    fn an_incident_is_told_when_it_begins_for_each_cause_and_when_it_ends() {
        let (watch, (news, heard)) = (Watch::new("custom", "m".into()), listening());
        watch.well(Well::Answered, &news);
        assert!(kinds(&heard).is_empty() && watch.seen().0.is_some());
        for status in [500, 500, 503, 500] {
            watch.failed(&format!("status_{status}"), &problem(status), false, &news);
        }
        watch.opened(Duration::from_secs(5), false, &news);
        let failing = watch.seen().1.unwrap();
        assert_eq!((failing.failures, failing.what.as_str()), (4, "h:1 answered HTTP 500"));
        watch.well(Well::Answered, &news);
        watch.well(Well::Whole, &news);
        let told: Vec<_> = heard.lock().unwrap().iter().map(|news| news.text.clone()).collect();
        assert_eq!(told[0], "custom m: h:1 answered HTTP 500");
        assert!(
            told[3].starts_with("custom m: it answers again after 0.")
                && told[3].ends_with(" 4 failures (status_500, status_503)")
        );
        assert_eq!(kinds(&heard), ["route-failing", "route-failing", "breaker-open", "route-answers"]);
        assert_eq!(watch.seen().1, None);
    }

    #[test]
    fn a_broken_stream_and_a_refused_key_are_over_with_a_whole_answer_only() {
        let (watch, (news, heard)) = (Watch::new("custom", "m".into()), listening());
        let key = RouteProblem::Unauthorized { address: "h:1".into(), status: 401, key_sent: true };
        for (cause, problem, begun) in [("cut", problem(200), true), ("unauthorized", key, false)] {
            watch.failed(cause, &problem, begun, &news);
            watch.well(Well::Answered, &news);
            assert!(watch.seen().1.is_some(), "{cause}");
            watch.well(Well::Whole, &news);
            assert!(watch.seen().1.is_none(), "{cause}");
        }
        assert_eq!(kinds(&heard), ["route-failing", "route-answers", "key-rejected", "route-answers"]);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_a_bounded_number_of_times_and_in_pairs() {
        let (watch, (news, heard)) = (Watch::new("custom", "m".into()), listening());
        for _ in 0..100 {
            watch.failed("connect", &problem(500), false, &news);
            watch.opened(Duration::from_secs(5), true, &news);
            watch.well(Well::Answered, &news);
        }
        let kinds = kinds(&heard);
        assert_eq!(kinds.len(), 3 * MOST);
        assert!(kinds.chunks(3).all(|all| all == ["route-failing", "breaker-open", "route-answers"]));
        assert!(!news.may_tell(Instant::now()) && news.may_tell(Instant::now() + WITHIN));
    }
}
