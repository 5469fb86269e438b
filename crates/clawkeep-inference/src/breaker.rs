use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Failures in a row that open a breaker.
const THRESHOLD: u32 = 3;

/// The first wait of an open breaker; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// The longest wait that failures lead to.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The longest wait that a provider's word leads to. It may say a year, and mean no harm.
const LONGEST_TOLD: Duration = Duration::from_secs(300);

/// Whether a route is asked. Time comes in with each call.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    probes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        wait: Duration,
        /// The provider itself named the wait.
        told: bool,
    },
    /// One request is on its way to find out.
    HalfOpen {
        probe: u64,
        wait: Duration,
    },
}

/// What a breaker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Go.
    Yes,
    /// Go, as the only one, to find out.
    Probe(u64),
    /// It has failed. Go only if nobody else answers.
    Last,
    /// The provider asked for no request until this much time has passed.
    No(Duration),
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The provider works, whatever it thinks of the request.
    Answered,
    /// It does not.
    Failed,
    /// It asked for a wait.
    ToldToWait(Duration),
}

/// The state of a route's breaker, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// It is asked.
    Closed,
    /// It has failed and is not asked for now.
    Open,
    /// One request finds out whether it is back.
    HalfOpen,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, probes: 0 }
    }
}

impl Breaker {
    /// Whether a request may go at `now`.
    pub(crate) fn ask(&mut self, now: Instant) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Yes,
            State::Open { until, wait, .. } if now >= until => {
                self.probes += 1;
                self.state = State::HalfOpen { probe: self.probes, wait };
                Permit::Probe(self.probes)
            }
            State::Open { until, told: true, .. } => Permit::No(until - now),
            State::Open { .. } | State::HalfOpen { .. } => Permit::Last,
        }
    }

    /// What came of a request that went.
    pub(crate) fn tell(&mut self, outcome: Outcome, now: Instant) {
        self.state = match (outcome, self.state) {
            // An answer that was on its way already says nothing about what the provider asked for since.
            (Outcome::Answered | Outcome::Failed, told @ State::Open { told: true, .. }) => told,
            (Outcome::Answered, _) => State::Closed { failures: 0 },
            (Outcome::Failed, State::Closed { failures }) if failures + 1 < THRESHOLD => {
                State::Closed { failures: failures + 1 }
            }
            (Outcome::Failed, State::Closed { .. }) => {
                State::Open { until: now + FIRST_WAIT, wait: FIRST_WAIT, told: false }
            }
            (Outcome::Failed, State::HalfOpen { wait, .. }) => {
                let wait = (wait * 2).min(LONGEST_WAIT);
                State::Open { until: now + wait, wait, told: false }
            }
            (Outcome::Failed, open @ State::Open { .. }) => open,
            (Outcome::ToldToWait(wait), before) => {
                let until = now + wait.min(LONGEST_TOLD);
                let until = match before {
                    State::Open { until: longer, told: true, .. } => longer.max(until),
                    _ => until,
                };
                State::Open { until, wait: FIRST_WAIT, told: true }
            }
        };
    }

    /// A probe ended without an outcome: whoever asked has gone away.
    fn abandon(&mut self, probe: u64, now: Instant) {
        if let State::HalfOpen { probe: current, wait } = self.state
            && current == probe
        {
            self.state = State::Open { until: now, wait, told: false };
        }
    }

    /// For people.
    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// A breaker that many requests share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Breaker>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin a request. Dropped without an outcome, a probe gives its place to the next one.
    pub(crate) fn begin(&self, permit: Permit) -> Attempt {
        let probe = if let Permit::Probe(probe) = permit { Some(probe) } else { None };
        Attempt { breaker: self.clone(), probe }
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Attempt {
    breaker: Shared,
    probe: Option<u64>,
}

impl Attempt {
    /// Gives for how long the route is not asked, if it is from now on and was before.
    pub(crate) fn end(mut self, outcome: Outcome) -> Option<Duration> {
        self.probe = None;
        let (mut breaker, now) = (self.breaker.lock(), Instant::now());
        let was_asked = breaker.state() == BreakerState::Closed;
        breaker.tell(outcome, now);
        match breaker.state {
            State::Open { until, .. } if was_asked => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(probe) = self.probe {
            self.breaker.lock().abandon(probe, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_three_failures_in_a_row_and_closes_with_a_probe_that_is_answered() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Answered, Outcome::Failed, Outcome::Failed]
        {
            breaker.tell(outcome, now);
            assert_eq!(breaker.ask(now), Permit::Yes);
        }
        breaker.tell(Outcome::Failed, now);
        assert_eq!((breaker.ask(now), breaker.state()), (Permit::Last, BreakerState::Open));
        for wait in [5, 10, 20, 40, 60, 60] {
            assert_eq!(breaker.ask(now + SECOND * wait - Duration::from_millis(1)), Permit::Last);
            now += SECOND * wait;
            assert!(matches!(breaker.ask(now), Permit::Probe(_)), "after {wait} s");
            assert_eq!((breaker.ask(now), breaker.state()), (Permit::Last, BreakerState::HalfOpen));
            breaker.tell(Outcome::Failed, now);
        }
        now += LONGEST_WAIT;
        assert!(matches!(breaker.ask(now), Permit::Probe(_)));
        breaker.tell(Outcome::Answered, now);
        assert_eq!((breaker.ask(now), breaker.state()), (Permit::Yes, BreakerState::Closed));
    }

    #[test]
    fn a_wait_that_the_provider_named_is_kept_and_bounded() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.tell(Outcome::ToldToWait(7 * SECOND), now);
        // Neither a shorter word nor an answer that was under way shortens it.
        breaker.tell(Outcome::ToldToWait(SECOND), now);
        breaker.tell(Outcome::Answered, now);
        breaker.tell(Outcome::Failed, now);
        assert_eq!(breaker.ask(now + 2 * SECOND), Permit::No(5 * SECOND));
        assert!(matches!(breaker.ask(now + 7 * SECOND), Permit::Probe(_)));
        breaker.tell(Outcome::ToldToWait(Duration::MAX), now);
        assert_eq!(breaker.ask(now), Permit::No(LONGEST_TOLD));
    }

    #[test]
    fn a_probe_that_is_dropped_gives_its_place_away() {
        let shared = Shared::default();
        shared.lock().tell(Outcome::ToldToWait(Duration::ZERO), Instant::now());
        let permit = shared.lock().ask(Instant::now());
        let attempt = shared.begin(permit);
        assert_eq!(shared.lock().ask(Instant::now()), Permit::Last);
        drop(attempt);
        assert!(matches!(shared.lock().ask(Instant::now()), Permit::Probe(_)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Tell(Outcome),
        Abandon,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Ask),
            1 => Just(Step::Tell(Outcome::Answered)),
            4 => Just(Step::Tell(Outcome::Failed)),
            1 => any::<u64>().prop_map(|ms| Step::Tell(Outcome::ToldToWait(Duration::from_millis(ms)))),
            1 => Just(Step::Abandon),
            3 => (0..90_000_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Never two probes at once, never locked for good, never asked while the provider's wait lasts.
        #[test]
        fn whatever_happens_it_lets_one_find_out(steps in prop::collection::vec(step(), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            let (mut probing, mut told_until) = (None, now);
            for step in steps {
                match step {
                    Step::Ask => match breaker.ask(now) {
                        Permit::Probe(probe) => {
                            prop_assert_eq!(probing.replace(probe), None);
                            prop_assert!(now >= told_until);
                        }
                        Permit::No(wait) => {
                            prop_assert!(!wait.is_zero() && wait <= LONGEST_TOLD);
                            prop_assert_eq!(now + wait, told_until);
                        }
                        Permit::Yes | Permit::Last => prop_assert!(now >= told_until),
                    },
                    Step::Tell(outcome) => {
                        breaker.tell(outcome, now);
                        if breaker.state() != BreakerState::HalfOpen {
                            probing = None;
                        }
                        if let Outcome::ToldToWait(wait) = outcome {
                            told_until = told_until.max(now + wait.min(LONGEST_TOLD));
                        }
                    }
                    Step::Abandon => {
                        if let Some(probe) = probing.take() {
                            breaker.abandon(probe, now);
                        }
                    }
                    Step::Pass(ms) => now += Duration::from_millis(ms),
                }
            }
            if let Some(probe) = probing {
                breaker.abandon(probe, now);
            }
            let far = now + LONGEST_TOLD + LONGEST_WAIT;
            prop_assert!(matches!(breaker.ask(far), Permit::Yes | Permit::Probe(_)));
        }
    }
}
