use crate::ladder::{Blame, Ladder, Restore, Rung, Unproven};
use crate::types::{Action, Event, Health, Phase, Settings, State, Verdict};

/// One step of the life cycle. `now` is in milliseconds of any clock that does not go backwards.
pub fn step(mut state: State, event: Event, now: u64, settings: &Settings) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    let mut machine = Machine { state: &mut state, actions: &mut actions, now, settings };
    machine.take(event);
    (state, actions)
}

struct Machine<'a> {
    state: &'a mut State,
    actions: &'a mut Vec<Action>,
    now: u64,
    settings: &'a Settings,
}

impl Machine<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::OrderStart => self.start(),
            Event::OrderStop => self.stop(),
            Event::OrderRecover => self.recover(),
            Event::OrderRestart => self.restart(),
            Event::Prepared if self.state.phase == Phase::Preparing => {
                self.state.sandbox = true;
                self.state.unfit = false;
                if self.state.wanted { self.launch() } else { self.tear_down() }
            }
            Event::PrepareFailed { .. } if self.state.phase == Phase::Preparing => {
                self.state.sandbox = false;
                self.fail(Blame::Environment);
            }
            Event::Restored { what, changed } if self.state.phase == (Phase::Restoring { what }) => {
                self.restored(what, changed);
            }
            Event::Cleared if self.state.phase == Phase::Clearing => {
                if self.state.wanted {
                    self.launch()
                } else {
                    self.tear_down()
                }
            }
            // What will not die goes with its namespaces.
            Event::ClearFailed { .. } if self.state.phase == Phase::Clearing => self.tear_down(),
            Event::Launched { launch, unproven } => self.launched(launch, unproven),
            Event::LaunchRefused { reason, command, blame } => self.refused(reason, command, blame),
            Event::ReceiptAccepted { launch } => {
                if let Phase::Starting { launch: Some(current), receipt, .. } = &mut self.state.phase
                    && *current == launch
                {
                    *receipt = true;
                }
            }
            Event::ReceiptRejected { launch, reason, command } => self.rejected(launch, reason, command),
            Event::Ended { launch, verdict, blame } => self.ended(launch, verdict, blame),
            Event::Probed { launch, health } => self.probed(launch, health),
            Event::Adopted { launch, running, receipt, safe } => {
                self.adopted(launch, running, receipt, safe);
            }
            Event::SandboxLost => self.sandbox_lost(),
            // Nor may it go on while the next start waits.
            Event::ClearFailed { .. }
                if matches!(self.state.phase, Phase::Backoff { .. } | Phase::Held { .. }) =>
            {
                self.state.sandbox = false;
                self.actions.push(Action::TearDown);
            }
            Event::TornDown => self.torn_down(),
            Event::Timer => self.timer(),
            // Answers to questions that nobody asks any more.
            Event::Prepared
            | Event::PrepareFailed { .. }
            | Event::Restored { .. }
            | Event::Cleared
            | Event::ClearFailed { .. } => {}
        }
    }

    fn start(&mut self) {
        self.state.wanted = true;
        match self.state.phase {
            Phase::Stopped | Phase::Held { .. } | Phase::Backoff { .. } => {
                self.forget_failures();
                self.attempt();
            }
            // Under way already, or started again when the stop is through.
            Phase::Preparing
            | Phase::Restoring { .. }
            | Phase::Clearing
            | Phase::Starting { .. }
            | Phase::Ready { .. }
            | Phase::Stopping { .. }
            | Phase::TearingDown => {}
        }
    }

    fn stop(&mut self) {
        self.state.wanted = false;
        match self.state.phase {
            Phase::Starting { launch: Some(_), .. } | Phase::Ready { .. } => {
                self.state.phase = Phase::Stopping { kill_at: self.now + self.settings.stop_grace };
                self.actions.push(Action::Terminate);
            }
            Phase::Backoff { .. } | Phase::Held { .. } => self.tear_down(),
            // Their answers come, and find that it is not wanted.
            Phase::Stopped
            | Phase::Preparing
            | Phase::Restoring { .. }
            | Phase::Clearing
            | Phase::Starting { launch: None, .. }
            | Phase::Stopping { .. }
            | Phase::TearingDown => {}
        }
    }

    fn recover(&mut self) {
        self.state.wanted = true;
        match self.state.phase {
            Phase::Held { .. } | Phase::Stopped => self.start(),
            // Now, but with what is known of the failures: they say how far the repair must go.
            Phase::Backoff { .. } => self.attempt(),
            _ => {}
        }
    }

    fn restart(&mut self) {
        self.state.wanted = true;
        match self.state.phase {
            // Whatever safe mode was entered for, a person wants the whole agent back.
            Phase::Ready { .. } | Phase::Starting { launch: Some(_), .. } => {
                self.state.ladder = Ladder::default();
                self.clear();
            }
            _ => self.recover(),
        }
    }

    /// Start now, from whatever there is.
    fn attempt(&mut self) {
        match self.state.ladder.wants() {
            // What is put back must not be written over by what still runs, and the sandbox is made anew anyway.
            Some(_) if self.state.sandbox => self.tear_down(),
            Some(what) => {
                self.state.phase = Phase::Restoring { what };
                self.actions.push(Action::Restore { what });
            }
            None => self.bring_up(),
        }
    }

    fn bring_up(&mut self) {
        let renew = self.state.unfit || self.state.ladder.rung >= Rung::Renew;
        if renew && self.state.sandbox {
            // Respawning is not enough: everything anew.
            self.tear_down();
        } else if self.state.sandbox {
            self.clear();
        } else {
            self.prepare();
        }
    }

    fn prepare(&mut self) {
        // Whatever was refused went with the sandbox in which it was.
        self.state.unfit = false;
        self.state.phase = Phase::Preparing;
        self.actions.push(Action::Prepare);
    }

    fn restored(&mut self, what: Restore, changed: bool) {
        self.state.ladder.restored.push(what);
        if !self.state.wanted {
            self.tear_down();
        } else if changed || self.state.ladder.renews_first() {
            self.bring_up();
        } else if self.state.ladder.climb(self.settings) {
            // Nothing to put back: this rung cannot help.
            self.attempt();
        } else if self.tried_enough() {
            self.give_up();
        } else {
            self.bring_up();
        }
    }

    fn tried_enough(&self) -> bool {
        self.state.backoff.failures() >= self.settings.hold_after
    }

    /// No rung has helped. What was wrong may yet go away by itself, so this ends by itself too.
    fn give_up(&mut self) {
        self.state.phase = Phase::Held {
            reason: format!("{} starts failed, and no repair has helped", self.state.backoff.failures()),
            command: self.settings.recover.clone(),
            retry_at: Some(self.now + self.settings.held_retry),
        };
    }

    fn forget_failures(&mut self) {
        self.state.backoff.reset();
        self.state.ladder = Ladder::default();
    }

    fn clear(&mut self) {
        self.state.phase = Phase::Clearing;
        self.actions.push(self.clearing());
    }

    fn clearing(&self) -> Action {
        Action::Clear { thorough: self.state.ladder.rung >= Rung::Clear }
    }

    fn launch(&mut self) {
        self.state.launches += 1;
        self.state.safe = self.state.ladder.rung == Rung::Safe;
        self.state.ladder.renewed |= self.state.ladder.rung >= Rung::Renew && !self.state.safe;
        self.state.phase = Phase::Starting { launch: None, since: self.now, receipt: false };
        self.actions.push(Action::Launch { launch: self.state.launches, safe: self.state.safe });
    }

    fn tear_down(&mut self) {
        self.state.unfit = false;
        self.state.phase = Phase::TearingDown;
        self.actions.push(Action::TearDown);
    }

    /// Count a failure and wait for the next start.
    fn fail(&mut self, blame: Blame) {
        if !self.state.wanted {
            return self.tear_down();
        }
        let delay = self.state.backoff.fail();
        let hope = self.state.ladder.fail(blame, self.state.unproven, self.settings);
        if !hope && self.tried_enough() {
            self.give_up();
        } else if delay == 0 {
            self.attempt();
        } else {
            self.state.phase = Phase::Backoff { until: self.now + delay };
        }
    }

    /// A failure that may leave something running: a gateway that hangs, orphans of one that ended. They must
    /// not go on, and hold the port, while the next start waits.
    fn fail_and_clear(&mut self, blame: Blame) {
        self.fail(blame);
        let goes_on =
            matches!(self.state.phase, Phase::Backoff { .. } | Phase::Held { .. } | Phase::TearingDown);
        if goes_on && self.state.sandbox {
            // Before a teardown too: locks in the home outlast it.
            self.actions.insert(0, self.clearing());
        }
    }

    fn launched(&mut self, number: u64, unproven: Unproven) {
        if let Phase::Starting { launch: launch @ None, .. } = &mut self.state.phase
            && number == self.state.launches
        {
            *launch = Some(number);
            self.state.unproven = unproven;
            if !self.state.wanted {
                self.stop();
            }
        }
    }

    fn refused(&mut self, reason: String, command: Option<String>, blame: Blame) {
        if !matches!(self.state.phase, Phase::Starting { launch: None, .. }) {
            return;
        }
        match command {
            Some(command) if self.state.wanted => {
                self.state.phase = Phase::Held { reason, command, retry_at: None };
            }
            _ => {
                // An input was not as it must be: starting again would be refused again.
                self.state.unfit = true;
                self.fail(blame);
            }
        }
    }

    fn rejected(&mut self, launch: u64, reason: String, command: String) {
        if self.current() == Some(launch) {
            // It runs, and must not: it goes with its namespaces. Then a person decides.
            self.state.sandbox = false;
            self.state.phase = Phase::Held { reason, command, retry_at: None };
            self.actions.push(Action::TearDown);
        }
    }

    fn ended(&mut self, launch: u64, verdict: Verdict, blame: Blame) {
        match self.state.phase {
            Phase::Stopping { .. } if launch == self.state.launches => self.tear_down(),
            Phase::Starting { .. } | Phase::Ready { .. } if self.current() == Some(launch) => match verdict {
                Verdict::Crash | Verdict::Wish => self.fail_and_clear(blame),
                // We ended it ourselves (a rehearsal), and want it back: no failure.
                Verdict::Ordered => self.attempt(),
            },
            _ => {}
        }
    }

    fn probed(&mut self, number: u64, health: Health) {
        if self.current() != Some(number) {
            return;
        }
        match (&mut self.state.phase, health) {
            (Phase::Starting { receipt: true, .. }, Health::Ready) => {
                self.state.phase = Phase::Ready { launch: number, since: self.now, missed: 0 };
            }
            (Phase::Ready { since, missed, .. }, Health::Ready | Health::Alive) => {
                *missed = 0;
                let lasted = self.now.saturating_sub(*since);
                if lasted >= self.settings.settle {
                    self.state.unproven = Unproven::default();
                    self.state.ladder = Ladder::default();
                    if lasted >= self.settings.steady {
                        self.state.backoff.reset();
                    }
                }
            }
            (Phase::Starting { .. } | Phase::Ready { .. }, Health::Hung) => {
                self.fail_and_clear(Blame::Unknown);
            }
            (Phase::Ready { missed, .. }, Health::Deaf) => {
                *missed += 1;
                if *missed > self.settings.misses {
                    self.fail_and_clear(Blame::Unknown);
                }
            }
            _ => {}
        }
    }

    fn adopted(&mut self, launch: u64, running: bool, receipt: bool, safe: bool) {
        // Only before anything else happened. Whether it is still well, the first probe says.
        if self.state.phase != Phase::Stopped || self.state.sandbox {
            return;
        }
        self.state.sandbox = true;
        self.state.wanted = true;
        self.state.launches = launch;
        self.state.safe = running && safe;
        if running {
            self.state.phase = Phase::Starting { launch: Some(launch), since: self.now, receipt };
        } else {
            self.clear();
        }
    }

    fn sandbox_lost(&mut self) {
        if !self.state.sandbox {
            return;
        }
        self.state.sandbox = false;
        match self.state.phase {
            Phase::Clearing | Phase::Starting { .. } | Phase::Ready { .. } => self.fail(Blame::Environment),
            Phase::Stopping { .. } => self.tear_down(),
            // A wait goes on; the next attempt finds that there is none. A teardown is answered anyway.
            Phase::Stopped
            | Phase::Preparing
            | Phase::Restoring { .. }
            | Phase::Backoff { .. }
            | Phase::Held { .. }
            | Phase::TearingDown => {}
        }
    }

    fn torn_down(&mut self) {
        self.state.sandbox = false;
        if self.state.phase == Phase::TearingDown {
            if self.state.wanted {
                self.attempt();
            } else {
                self.state.phase = Phase::Stopped;
            }
        }
    }

    fn timer(&mut self) {
        match self.state.phase {
            Phase::Backoff { until } if self.now >= until => self.attempt(),
            Phase::Starting { launch: Some(_), since, .. }
                if self.now >= since + self.settings.start_within =>
            {
                // The whole warm-up was granted: that is no chance, and what is new is suspected at once.
                self.fail_and_clear(match self.state.unproven {
                    Unproven { config: true, .. } => Blame::Config,
                    Unproven { agent: true, .. } => Blame::Agent,
                    Unproven { .. } => Blame::Unknown,
                });
            }
            Phase::Held { retry_at: Some(at), .. } if self.now >= at => {
                // The delay between starts stays; only the ladder begins at its foot.
                self.state.ladder = Ladder::default();
                self.attempt();
            }
            Phase::Stopping { kill_at } if self.now >= kill_at => self.tear_down(),
            _ => {}
        }
    }

    /// The launch that runs now, as far as is known.
    fn current(&self) -> Option<u64> {
        match self.state.phase {
            Phase::Starting { launch, .. } => launch,
            Phase::Ready { launch, .. } => Some(launch),
            _ => None,
        }
    }
}
