//! A world for the core to live in: it answers every action as a supervisor would, and remembers what is really
//! there. What is wrong with it stays wrong until the one repair that cures it is made.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::collections::VecDeque;

use clawkeep_recovery::{
    Action, Blame, Event, Health, Phase, Restore, Rung, Settings, State, Unproven, Verdict, step,
};

/// What is wrong, each cured by one rung.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ills {
    /// A lock that only thorough clearing removes.
    pub lock: bool,
    /// Something in the sandbox that goes with it.
    pub sandbox: bool,
    /// The configuration keeps the agent down; the last healthy one would not.
    pub config: bool,
    /// So does its version.
    pub agent: bool,
    /// A plugin or channel keeps it down, whatever is put back.
    pub plugin: bool,
    /// The host keeps everything down: nothing cures that.
    pub host: bool,
}

/// What goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    Crash,
    ExitZero,
    Deaf,
    PrepareFails,
    ClearFails,
    RestoreFails,
    LaunchRefused,
    LaunchHeld,
    ReceiptRejected,
    SandboxDies,
    /// The answer to the order to end never comes.
    IgnoresTheEnd,
    OrderStop,
    OrderStart,
    OrderRecover,
    OrderRestart,
    StaleAnswers,
    /// From now on this is wrong.
    Ill(Rung),
    HostIll,
}

pub const FAULTS: [Fault; 23] = [
    Fault::Crash,
    Fault::ExitZero,
    Fault::Deaf,
    Fault::PrepareFails,
    Fault::ClearFails,
    Fault::RestoreFails,
    Fault::LaunchRefused,
    Fault::LaunchHeld,
    Fault::ReceiptRejected,
    Fault::SandboxDies,
    Fault::IgnoresTheEnd,
    Fault::OrderStop,
    Fault::OrderStart,
    Fault::OrderRecover,
    Fault::OrderRestart,
    Fault::StaleAnswers,
    Fault::Ill(Rung::Clear),
    Fault::Ill(Rung::Renew),
    Fault::Ill(Rung::Config),
    Fault::Ill(Rung::Agent),
    Fault::Ill(Rung::Safe),
    Fault::HostIll,
    Fault::Crash,
];

/// The function under test, or one that is wrong on purpose.
pub type Step = fn(State, Event, u64, &Settings) -> (State, Vec<Action>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub launch: u64,
    pub safe: bool,
    pub reported: bool,
}

#[derive(Debug, Clone)]
pub struct World {
    pub step: Step,
    pub state: State,
    pub settings: Settings,
    pub now: u64,
    pub pending: VecDeque<Action>,
    /// Whether there really are namespaces to run in.
    pub namespaces: bool,
    /// The process that really runs.
    pub process: Option<Process>,
    pub ills: Ills,
    /// Whether anything healthy is known that could be put back.
    pub healthy: bool,
    /// The cleared or fresh sandbox that the next launch needs, and that one launch uses up.
    pub clean: bool,
    /// The first rule that was broken.
    pub broken: Option<String>,
    /// What every death is blamed on, rightly or wrongly; else what the world knows.
    pub blame: Option<Blame>,
    /// When each launch was ordered.
    pub launches: Vec<(u64, Rung)>,
    /// Launches since a person's order or sustained readiness, and when the last one was.
    pub loops: (u32, u64),
}

pub fn settings() -> Settings {
    Settings { safe_mode: true, recover: "clawkeep box recover".into(), ..Settings::default() }
}

impl World {
    pub fn new(seed: u64, settings: Settings) -> Self {
        Self {
            step,
            state: State::new(seed),
            settings,
            now: 0,
            pending: VecDeque::new(),
            namespaces: false,
            process: None,
            ills: Ills::default(),
            healthy: true,
            clean: false,
            broken: None,
            blame: None,
            launches: Vec::new(),
            loops: (0, 0),
        }
    }

    /// One that was started and is ready.
    pub fn ready(seed: u64, settings: Settings) -> Self {
        let mut world = Self::new(seed, settings);
        world.feed(Event::OrderStart);
        assert!(world.run(400, |world| world.is_ready()), "{world:?}");
        world
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state.phase, Phase::Ready { .. })
    }

    pub fn is_held(&self) -> bool {
        matches!(self.state.phase, Phase::Held { .. })
    }

    /// At rest: ready for good, held, or stopped.
    pub fn rests(&self) -> bool {
        self.pending.is_empty()
            && match self.state.phase {
                Phase::Ready { .. } => self.state.backoff.failures() == 0,
                Phase::Held { .. } => true,
                Phase::Stopped => !self.state.wanted,
                _ => false,
            }
    }

    fn rule(&mut self, kept: bool, rule: &str) {
        if !kept && self.broken.is_none() {
            self.broken = Some(format!("{rule} (in {:?})", self.state.phase));
        }
    }

    pub fn feed(&mut self, event: Event) {
        let lasted = match (&event, &self.state.phase) {
            (Event::Probed { .. }, Phase::Ready { since, .. }) => self.now - since >= self.settings.settle,
            _ => false,
        };
        let ordered =
            matches!(event, Event::OrderStart | Event::OrderRecover | Event::OrderRestart | Event::OrderStop);
        if lasted || ordered {
            self.loops = (0, self.now);
        }
        let (state, actions) = (self.step)(self.state.clone(), event.clone(), self.now, &self.settings);
        let cleared = matches!(event, Event::Cleared | Event::Prepared);
        for action in &actions {
            if let Action::Launch { launch, .. } = action {
                self.rule(cleared, "a launch follows a confirmed clearing or preparation");
                self.rule(state.wanted, "nothing is launched that is not wanted");
                self.rule(*launch == state.launches, "a launch has the next number");
                self.launches.push((self.now, state.ladder.rung));
                let (loops, last) = self.loops;
                // By then the delay has grown to its cap.
                self.rule(
                    loops < 8 || self.now - last >= 60_000,
                    "a crash loop starts once a minute at most",
                );
                self.loops = (loops + 1, self.now);
            }
        }
        self.state = state;
        self.pending.extend(actions);
        self.check_way_out();
    }

    /// Every state runs, waits for an answer that is owed, has a timer, or names a command.
    fn check_way_out(&mut self) {
        let owed = |kind: &Action| {
            self.pending.iter().any(|action| std::mem::discriminant(action) == std::mem::discriminant(kind))
        };
        let out = match &self.state.phase {
            Phase::Stopped => !self.state.wanted,
            Phase::Preparing => owed(&Action::Prepare),
            Phase::Restoring { what } => owed(&Action::Restore { what: *what }),
            Phase::Clearing => owed(&Action::Clear { thorough: false }),
            Phase::Starting { launch: None, .. } => owed(&Action::Launch { launch: 0, safe: false }),
            Phase::TearingDown => owed(&Action::TearDown),
            Phase::Held { command, .. } => !command.is_empty(),
            Phase::Ready { .. } => true,
            Phase::Starting { .. } | Phase::Backoff { .. } | Phase::Stopping { .. } => {
                self.state.timer(&self.settings).is_some()
            }
        };
        self.rule(out, "no state without a way out");
    }

    fn dies(&self, safe: bool) -> bool {
        let Ills { lock, sandbox, config, agent, plugin, host } = self.ills;
        lock || sandbox || agent || host || ((config || plugin) && !safe)
    }

    /// Answer the oldest action, well or with the fault.
    pub fn answer(&mut self, fault: Option<Fault>) {
        let Some(action) = self.pending.pop_front() else { return };
        let event = match (action, fault) {
            (Action::Prepare, Some(Fault::PrepareFails)) => Event::PrepareFailed { reason: "x".into() },
            (Action::Prepare, _) => {
                self.rule(!self.namespaces, "one sandbox at most");
                self.namespaces = true;
                self.clean = true;
                Event::Prepared
            }
            (Action::Restore { what }, Some(Fault::RestoreFails)) => Event::Restored { what, changed: false },
            (Action::Restore { what }, _) => {
                self.rule(self.process.is_none(), "nothing is put back under a running agent");
                let ill = match what {
                    Restore::Config => &mut self.ills.config,
                    Restore::Agent => &mut self.ills.agent,
                };
                let changed = *ill && self.healthy;
                *ill &= !changed;
                Event::Restored { what, changed }
            }
            (Action::Clear { .. }, _) if !self.namespaces => Event::ClearFailed { reason: "gone".into() },
            (Action::Clear { .. }, Some(Fault::ClearFails)) => Event::ClearFailed { reason: "x".into() },
            (Action::Clear { thorough }, _) => {
                self.process = None;
                self.ills.lock &= !thorough;
                self.clean = true;
                Event::Cleared
            }
            (Action::Launch { .. }, _) if !self.namespaces => refused(None),
            (Action::Launch { .. }, Some(Fault::LaunchRefused)) => refused(None),
            (Action::Launch { .. }, Some(Fault::LaunchHeld)) => refused(Some("clawkeep box recover".into())),
            (Action::Launch { launch, safe }, _) => {
                self.rule(self.process.is_none(), "one gateway at most");
                let clean = std::mem::take(&mut self.clean);
                self.rule(clean, "a launch has a clean sandbox");
                self.process = Some(Process { launch, safe, reported: false });
                let unproven = Unproven {
                    config: self.ills.config && self.healthy,
                    agent: self.ills.agent && self.healthy,
                };
                Event::Launched { launch, unproven }
            }
            (Action::Terminate, Some(Fault::IgnoresTheEnd)) => return,
            (Action::Terminate, _) => match self.process.take() {
                Some(process) => ended(process.launch, Verdict::Ordered, Blame::Unknown),
                None => return,
            },
            (Action::TearDown, _) => {
                self.namespaces = false;
                self.process = None;
                self.ills.sandbox = false;
                Event::TornDown
            }
        };
        self.feed(event);
    }

    /// What the process does by itself: it dies of what is wrong, or reports and serves.
    pub fn live(&mut self) {
        let Some(process) = self.process.clone() else { return };
        if self.dies(process.safe) {
            self.process = None;
            let known = if self.ills.host { Blame::Environment } else { Blame::Unknown };
            let blame = self.blame.unwrap_or(known);
            self.feed(ended(process.launch, Verdict::Crash, blame));
        } else if !process.reported {
            self.process = Some(Process { reported: true, ..process });
            self.feed(Event::ReceiptAccepted { launch: process.launch });
        } else {
            self.feed(Event::Probed { launch: process.launch, health: Health::Ready });
        }
    }

    /// Time goes on to the next moment at which something is due, by a probe's period at most.
    pub fn pass_time(&mut self) {
        let due = self.state.timer(&self.settings);
        let probe = self.process.is_some().then_some(self.now + 5_000);
        let Some(next) = due.into_iter().chain(probe).min() else { return };
        self.now = self.now.max(next);
        if due.is_some_and(|due| due <= self.now) {
            self.feed(Event::Timer);
        }
    }

    /// One step without a fault.
    pub fn go_on(&mut self) {
        if self.pending.is_empty() {
            self.pass_time();
            self.live();
        } else {
            self.answer(None);
        }
    }

    /// Go on without faults until this is so, at most so many steps.
    pub fn run(&mut self, steps: usize, until: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..steps {
            if until(self) {
                return true;
            }
            self.go_on();
        }
        until(self)
    }

    pub fn suffer(&mut self, fault: Fault) {
        let launch = self.process.as_ref().map(|process| process.launch);
        match (fault, launch) {
            (Fault::Crash, Some(launch)) => {
                self.process = None;
                self.feed(ended(launch, Verdict::Crash, Blame::Unknown));
            }
            (Fault::ExitZero, Some(launch)) => {
                self.process = None;
                self.feed(ended(launch, Verdict::Wish, Blame::Unknown));
            }
            (Fault::Deaf, Some(launch)) => self.feed(Event::Probed { launch, health: Health::Deaf }),
            (Fault::ReceiptRejected, Some(launch)) => {
                let (reason, command) = ("x".into(), "clawkeep box recover".into());
                self.feed(Event::ReceiptRejected { launch, reason, command });
            }
            (Fault::SandboxDies, _) if self.namespaces => {
                self.namespaces = false;
                self.process = None;
                self.clean = false;
                self.feed(Event::SandboxLost);
                // As a rule the end of what ran in it is never told.
                if let Some(launch) = launch.filter(|launch| launch % 2 == 1) {
                    self.feed(ended(launch, Verdict::Crash, Blame::Unknown));
                }
            }
            (Fault::OrderStop, _) => self.feed(Event::OrderStop),
            (Fault::OrderStart, _) => self.feed(Event::OrderStart),
            (Fault::OrderRecover, _) => self.feed(Event::OrderRecover),
            (Fault::OrderRestart, _) => self.feed(Event::OrderRestart),
            (Fault::StaleAnswers, _) => {
                let old = self.state.launches.saturating_sub(1);
                self.feed(ended(old, Verdict::Crash, Blame::Config));
                self.feed(Event::Probed { launch: old, health: Health::Deaf });
                self.feed(Event::ReceiptAccepted { launch: old });
                self.feed(Event::Launched { launch: old, unproven: Unproven::default() });
            }
            (Fault::Ill(rung), _) => match rung {
                Rung::Respawn => {}
                Rung::Clear => self.ills.lock = true,
                Rung::Renew => self.ills.sandbox = self.namespaces,
                Rung::Config => self.ills.config = true,
                Rung::Agent => self.ills.agent = true,
                Rung::Safe => self.ills.plugin = true,
            },
            (Fault::HostIll, _) => self.ills.host = true,
            (
                Fault::PrepareFails
                | Fault::ClearFails
                | Fault::RestoreFails
                | Fault::LaunchRefused
                | Fault::LaunchHeld
                | Fault::IgnoresTheEnd,
                _,
            ) => self.answer(Some(fault)),
            _ => {}
        }
    }

    /// The rungs that launches were made from, in order, without repetitions.
    pub fn rungs(&self) -> Vec<Rung> {
        let mut rungs: Vec<_> = self.launches.iter().map(|(_, rung)| *rung).collect();
        rungs.dedup();
        rungs
    }
}

fn refused(command: Option<String>) -> Event {
    Event::LaunchRefused { reason: "x".into(), command, blame: Blame::Environment }
}

pub fn ended(launch: u64, verdict: Verdict, blame: Blame) -> Event {
    Event::Ended { launch, verdict, blame }
}
