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
                if self.state.wanted { self.launch() } else { self.tear_down() }
            }
            Event::PrepareFailed { .. } if self.state.phase == Phase::Preparing => {
                self.state.sandbox = false;
                self.fail();
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
            Event::Launched { launch } => self.launched(launch),
            Event::LaunchRefused { reason, command } => self.refused(reason, command),
            Event::ReceiptAccepted { launch } => {
                if let Phase::Starting { launch: Some(current), receipt, .. } = &mut self.state.phase
                    && *current == launch
                {
                    *receipt = true;
                }
            }
            Event::ReceiptRejected { launch, reason, command } => self.rejected(launch, reason, command),
            Event::Ended { launch, verdict } => self.ended(launch, verdict),
            Event::Probed { launch, health } => self.probed(launch, health),
            Event::Adopted { launch, running, receipt } => self.adopted(launch, running, receipt),
            Event::SandboxLost => self.sandbox_lost(),
            // What will not die while the next start waits goes then, with its namespaces.
            Event::ClearFailed { .. } if matches!(self.state.phase, Phase::Backoff { .. }) => {
                self.state.unfit = true;
            }
            Event::TornDown => self.torn_down(),
            Event::Timer => self.timer(),
            // Answers to questions that nobody asks any more.
            Event::Prepared | Event::PrepareFailed { .. } | Event::Cleared | Event::ClearFailed { .. } => {}
        }
    }

    fn start(&mut self) {
        self.state.wanted = true;
        match self.state.phase {
            Phase::Stopped | Phase::Held { .. } | Phase::Backoff { .. } => {
                self.state.backoff.reset();
                self.attempt();
            }
            // Under way already, or started again when the stop is through.
            Phase::Preparing
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
            Phase::Ready { .. } | Phase::Starting { launch: Some(_), .. } => self.clear(),
            _ => self.recover(),
        }
    }

    /// Start now, from whatever there is.
    fn attempt(&mut self) {
        let renew = self.state.unfit || self.state.backoff.failures() >= self.settings.renew_after;
        if renew && self.state.sandbox {
            // Respawning is not enough: everything anew.
            self.tear_down();
        } else if self.state.sandbox {
            self.clear();
        } else {
            self.state.phase = Phase::Preparing;
            self.actions.push(Action::Prepare);
        }
    }

    fn clear(&mut self) {
        self.state.phase = Phase::Clearing;
        self.actions.push(Action::Clear);
    }

    fn launch(&mut self) {
        self.state.launches += 1;
        self.state.phase = Phase::Starting { launch: None, since: self.now, receipt: false };
        self.actions.push(Action::Launch { launch: self.state.launches });
    }

    fn tear_down(&mut self) {
        self.state.unfit = false;
        self.state.phase = Phase::TearingDown;
        self.actions.push(Action::TearDown);
    }

    /// Count a failure and wait for the next start.
    fn fail(&mut self) {
        if !self.state.wanted {
            return self.tear_down();
        }
        match self.state.backoff.fail() {
            0 => self.attempt(),
            delay => self.state.phase = Phase::Backoff { until: self.now + delay },
        }
    }

    /// A failure that may leave something running: a gateway that hangs, orphans of one that ended. They must
    /// not go on, and hold the port, while the next start waits.
    fn fail_and_clear(&mut self) {
        self.fail();
        if matches!(self.state.phase, Phase::Backoff { .. }) && self.state.sandbox {
            self.actions.push(Action::Clear);
        }
    }

    fn launched(&mut self, number: u64) {
        if let Phase::Starting { launch: launch @ None, .. } = &mut self.state.phase
            && number == self.state.launches
        {
            *launch = Some(number);
            if !self.state.wanted {
                self.stop();
            }
        }
    }

    fn refused(&mut self, reason: String, command: Option<String>) {
        if !matches!(self.state.phase, Phase::Starting { launch: None, .. }) {
            return;
        }
        match command {
            Some(command) if self.state.wanted => self.state.phase = Phase::Held { reason, command },
            _ => {
                // An input was not as it must be: starting again would be refused again.
                self.state.unfit = true;
                self.fail();
            }
        }
    }

    fn rejected(&mut self, launch: u64, reason: String, command: String) {
        if self.current() == Some(launch) {
            // It runs, and must not: it goes with its namespaces. Then a person decides.
            self.state.sandbox = false;
            self.state.phase = Phase::Held { reason, command };
            self.actions.push(Action::TearDown);
        }
    }

    fn ended(&mut self, launch: u64, verdict: Verdict) {
        match self.state.phase {
            Phase::Stopping { .. } if launch == self.state.launches => self.tear_down(),
            Phase::Starting { .. } | Phase::Ready { .. } if self.current() == Some(launch) => match verdict {
                Verdict::Crash | Verdict::Wish => self.fail_and_clear(),
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
                if self.now.saturating_sub(*since) >= self.settings.settle {
                    self.state.backoff.reset();
                }
            }
            (Phase::Ready { missed, .. }, Health::Deaf) => {
                *missed += 1;
                if *missed > self.settings.misses {
                    self.fail_and_clear();
                }
            }
            _ => {}
        }
    }

    fn adopted(&mut self, launch: u64, running: bool, receipt: bool) {
        // Only before anything else happened. Whether it is still well, the first probe says.
        if self.state.phase != Phase::Stopped || self.state.sandbox {
            return;
        }
        self.state.sandbox = true;
        self.state.wanted = true;
        self.state.launches = launch;
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
            Phase::Clearing | Phase::Starting { .. } | Phase::Ready { .. } => self.fail(),
            Phase::Stopping { .. } => self.tear_down(),
            // A wait goes on; the next attempt finds that there is none. A teardown is answered anyway.
            Phase::Stopped
            | Phase::Preparing
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
                self.fail_and_clear();
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
