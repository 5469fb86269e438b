//! What counts as evidence, and what as readiness that lasts.

use clawkeep_recovery::{
    Action, Blame, Event, Health, Phase, Rung, Settings, State, Unproven, Verdict, step,
};

/// A sandbox in which everything that is ordered succeeds at once.
struct Sandbox {
    state: State,
    now: u64,
    settings: Settings,
    starts: Vec<u64>,
    unproven: Unproven,
}

impl Sandbox {
    fn started(unproven: Unproven) -> Self {
        let (state, settings) = (State::new(3), Settings::default());
        let mut it = Self { state, now: 0, settings, starts: Vec::new(), unproven };
        it.feed(Event::OrderStart);
        it
    }

    fn feed(&mut self, event: Event) {
        let (state, actions) = step(self.state.clone(), event, self.now, &self.settings);
        self.state = state;
        for action in actions {
            let answer = match action {
                Action::Prepare => Event::Prepared,
                Action::Restore { what } => Event::Restored { what, changed: true },
                Action::Clear { .. } => Event::Cleared,
                Action::Launch { launch, .. } => {
                    assert_eq!(self.state.timer(&self.settings), None, "not before its process is there");
                    self.starts.push(self.now);
                    Event::Launched { launch, unproven: self.unproven }
                }
                Action::TearDown => Event::TornDown,
                Action::Terminate => continue,
            };
            self.feed(answer);
        }
    }

    /// Until it serves, and then for this long.
    fn serve(&mut self, time: u64) {
        if let Phase::Backoff { until: at } | Phase::Held { retry_at: Some(at), .. } = self.state.phase {
            self.now = at;
            self.feed(Event::Timer);
        }
        let launch = self.state.launches;
        self.feed(Event::ReceiptAccepted { launch });
        self.feed(Event::Probed { launch, health: Health::Ready });
        assert!(matches!(self.state.phase, Phase::Ready { .. }), "{:?}", self.state);
        self.now += time;
        self.feed(Event::Probed { launch, health: Health::Ready });
    }

    fn die(&mut self, blame: Blame) {
        let launch = self.state.launches;
        self.feed(Event::Ended { launch, verdict: Verdict::Crash, blame });
    }
}

#[test]
fn what_dies_soon_after_it_was_ready_is_a_crash_loop_too() {
    for ready_for in [1_000, Settings::default().settle, 59_000, 61_000] {
        let mut it = Sandbox::started(Unproven::default());
        for _ in 0..60 {
            it.serve(ready_for);
            it.die(Blame::Environment);
        }
        let gaps: Vec<_> = it.starts.windows(2).map(|pair| pair[1] - pair[0]).skip(10).collect();
        assert!(gaps.len() > 40 && gaps.iter().all(|gap| *gap >= 60_000), "ready for {ready_for}: {gaps:?}");
    }
}

#[test]
fn a_kill_by_the_host_is_no_evidence_against_a_new_configuration() {
    let mut it = Sandbox::started(Unproven { config: true, agent: false });
    for blame in [Blame::Environment, Blame::Environment, Blame::Unknown] {
        it.serve(1_000);
        it.die(blame);
        assert_eq!(it.state.ladder.rung, Rung::Respawn, "once may have been chance");
    }
    it.serve(1_000);
    it.die(Blame::Unknown);
    assert_eq!(it.state.ladder.rung, Rung::Config, "the second time it is suspected");
}
