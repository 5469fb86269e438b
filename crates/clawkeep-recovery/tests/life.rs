//! The life cycle under random faults: what is promised of every schedule, and that it always comes back.

use clawkeep_recovery::{Action, Event, Health, Phase, Settings, State, Verdict, step};
use proptest::prelude::*;

/// A world that answers every action, with faults drawn from a list, and remembers what is true of it.
struct World {
    state: State,
    settings: Settings,
    now: u64,
    pending: Vec<Action>,
    /// Whether there really are namespaces to run in.
    namespaces: bool,
    /// The process that really runs.
    process: Option<u64>,
    ready_launches: u64,
}

#[derive(Debug, Clone)]
enum Fault {
    Crash,
    ExitZero,
    Hang,
    PrepareFails,
    ClearFails,
    LaunchRefused,
    LaunchHeld,
    ReceiptRejected,
    SandboxDies,
    OrderStop,
    OrderStart,
    OrderRecover,
    OrderRestart,
    StaleAnswers,
}

impl World {
    fn new(seed: u64) -> Self {
        let (state, settings) = (State::new(seed), Settings::default());
        Self {
            state,
            settings,
            now: 0,
            pending: Vec::new(),
            namespaces: false,
            process: None,
            ready_launches: 0,
        }
    }

    /// A world that was started and then went through these faults, and through good answers for `None`.
    fn after(seed: u64, faults: &[Option<Fault>]) -> Self {
        let mut world = Self::new(seed);
        world.feed(Event::OrderStart);
        for fault in faults {
            match fault {
                Some(fault) => world.suffer(fault),
                None => world.answer(None),
            }
        }
        world
    }

    fn feed(&mut self, event: Event) {
        let answers_clear = matches!(event, Event::Cleared | Event::Prepared);
        let (state, actions) = step(self.state.clone(), event.clone(), self.now, &self.settings);
        for action in &actions {
            if let Action::Launch { launch } = action {
                assert!(answers_clear, "a launch was ordered by {event:?}");
                assert!(self.process.is_none(), "a second process would run");
                assert_eq!(*launch, state.launches);
            }
        }
        self.state = state;
        self.pending.extend(actions);
        self.assert_way_out();
    }

    /// Every state runs, waits for an answer that is owed, has a timer, or names a command.
    fn assert_way_out(&self) {
        let owed = |wanted: &[Action]| {
            self.pending
                .iter()
                .any(|a| wanted.iter().any(|w| std::mem::discriminant(a) == std::mem::discriminant(w)))
        };
        match &self.state.phase {
            Phase::Stopped => assert!(!self.state.wanted, "wanted and stopped"),
            Phase::Preparing => assert!(owed(&[Action::Prepare])),
            Phase::Clearing => assert!(owed(&[Action::Clear])),
            Phase::Starting { launch: None, .. } => assert!(owed(&[Action::Launch { launch: 0 }])),
            Phase::TearingDown => assert!(owed(&[Action::TearDown])),
            Phase::Held { command, .. } => assert!(!command.is_empty()),
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Backoff { .. } | Phase::Stopping { .. } => {
            }
        }
    }

    /// Answer the oldest action, well or with the fault.
    fn answer(&mut self, fault: Option<&Fault>) {
        if self.pending.is_empty() {
            return self.pass_time(fault);
        }
        let event = match (self.pending.remove(0), fault) {
            (Action::Prepare, Some(Fault::PrepareFails)) => Event::PrepareFailed { reason: "x".into() },
            (Action::Prepare, _) => {
                self.namespaces = true;
                Event::Prepared
            }
            (Action::Clear, _) if !self.namespaces => Event::ClearFailed { reason: "gone".into() },
            (Action::Launch { .. }, _) if !self.namespaces => {
                Event::LaunchRefused { reason: "gone".into(), command: None }
            }
            (Action::Clear, Some(Fault::ClearFails)) => Event::ClearFailed { reason: "x".into() },
            (Action::Clear, _) => {
                self.process = None;
                Event::Cleared
            }
            (Action::Launch { .. }, Some(Fault::LaunchRefused)) => {
                Event::LaunchRefused { reason: "x".into(), command: None }
            }
            (Action::Launch { .. }, Some(Fault::LaunchHeld)) => {
                Event::LaunchRefused { reason: "x".into(), command: Some("clawkeep x recover".into()) }
            }
            (Action::Launch { launch }, _) => {
                assert!(self.process.is_none(), "one gateway at most");
                self.process = Some(launch);
                Event::Launched { launch }
            }
            (Action::Terminate, Some(Fault::Hang)) => return,
            (Action::Terminate, _) => match self.process.take() {
                Some(launch) => Event::Ended { launch, verdict: Verdict::Ordered },
                None => return,
            },
            (Action::TearDown, _) => {
                self.namespaces = false;
                self.process = None;
                Event::TornDown
            }
        };
        self.feed(event);
    }

    fn pass_time(&mut self, fault: Option<&Fault>) {
        self.now += 1_000;
        if self.state.timer(&self.settings).is_some_and(|due| due <= self.now) {
            self.feed(Event::Timer);
        }
        if let Some(launch) = self.process {
            match fault {
                Some(Fault::ReceiptRejected) => {
                    let (reason, command) = ("x".into(), "clawkeep x recover".into());
                    return self.feed(Event::ReceiptRejected { launch, reason, command });
                }
                Some(Fault::Hang) => return self.feed(Event::Probed { launch, health: Health::Deaf }),
                _ => self.feed(Event::ReceiptAccepted { launch }),
            }
            let before = matches!(self.state.phase, Phase::Ready { .. });
            self.feed(Event::Probed { launch, health: Health::Ready });
            if !before && matches!(self.state.phase, Phase::Ready { .. }) {
                self.ready_launches += 1;
            }
        }
    }

    fn suffer(&mut self, fault: &Fault) {
        let process = self.process;
        match fault {
            Fault::Crash | Fault::ExitZero => {
                if let Some(launch) = self.process.take() {
                    let verdict = if matches!(fault, Fault::Crash) { Verdict::Crash } else { Verdict::Wish };
                    self.feed(Event::Ended { launch, verdict });
                }
            }
            Fault::SandboxDies => {
                self.namespaces = false;
                self.process = None;
                self.feed(Event::SandboxLost);
                if let Some(launch) = process {
                    self.feed(Event::Ended { launch, verdict: Verdict::Crash });
                }
            }
            Fault::OrderStop => self.feed(Event::OrderStop),
            Fault::OrderStart => self.feed(Event::OrderStart),
            Fault::OrderRecover => self.feed(Event::OrderRecover),
            Fault::OrderRestart => self.feed(Event::OrderRestart),
            Fault::StaleAnswers => {
                let old = self.state.launches.saturating_sub(1);
                self.feed(Event::Ended { launch: old, verdict: Verdict::Crash });
                self.feed(Event::Probed { launch: old, health: Health::Deaf });
                self.feed(Event::ReceiptAccepted { launch: old });
                self.feed(Event::Launched { launch: old });
            }
            _ => self.answer(Some(fault)),
        }
    }
}

fn faults() -> impl Strategy<Value = Vec<Option<Fault>>> {
    let fault = prop_oneof![
        Just(Fault::Crash),
        Just(Fault::ExitZero),
        Just(Fault::Hang),
        Just(Fault::PrepareFails),
        Just(Fault::ClearFails),
        Just(Fault::LaunchRefused),
        Just(Fault::LaunchHeld),
        Just(Fault::ReceiptRejected),
        Just(Fault::SandboxDies),
        Just(Fault::OrderStop),
        Just(Fault::OrderStart),
        Just(Fault::OrderRecover),
        Just(Fault::OrderRestart),
        Just(Fault::StaleAnswers),
    ];
    proptest::collection::vec(proptest::option::weighted(0.4, fault), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    /// Whatever happened, once nothing more happens it is ready, or held with a command that makes it ready.
    #[test]
    fn it_always_comes_back(seed: u64, faults in faults()) {
        let mut world = World::after(seed, &faults);
        for _ in 0..400 {
            world.answer(None);
            if let Phase::Held { .. } = world.state.phase {
                world.feed(Event::OrderRecover);
            }
            if world.state.phase == Phase::Stopped && world.pending.is_empty() {
                world.feed(Event::OrderStart);
            }
        }
        prop_assert!(matches!(world.state.phase, Phase::Ready { .. }), "{:?} {:?}", world.state, world.pending);
        prop_assert_eq!(world.process, Some(world.state.launches));
        prop_assert_eq!(world.state.backoff.failures(), 0, "sustained readiness resets the delay");
    }

    /// And it stops when it is told to, for good.
    #[test]
    fn it_always_stops(seed: u64, faults in faults()) {
        let mut world = World::after(seed, &faults);
        world.feed(Event::OrderStop);
        for _ in 0..400 {
            world.answer(None);
        }
        prop_assert_eq!(&world.state.phase, &Phase::Stopped);
        prop_assert!(world.process.is_none() && !world.state.sandbox);
    }
}

#[test]
fn the_first_crash_is_followed_by_a_launch_at_once_and_a_loop_slows_to_one_a_minute() {
    let mut world = World::new(3);
    world.feed(Event::OrderStart);
    while !matches!(world.state.phase, Phase::Ready { .. }) {
        world.answer(None);
    }
    let at = world.now;
    world.suffer(&Fault::Crash);
    assert_eq!(world.state.phase, Phase::Clearing);
    world.answer(None);
    assert!(matches!(world.pending.as_slice(), [Action::Launch { launch: 2 }]));
    assert_eq!(world.now, at, "no waiting");
    // Now it dies in every start, before it is ready.
    let mut starts = Vec::new();
    while starts.len() < 30 {
        if world.process.is_some() {
            starts.push(world.now);
            world.suffer(&Fault::Crash);
        }
        world.answer(None);
    }
    let last: Vec<_> = starts.windows(2).map(|w| w[1] - w[0]).rev().take(10).collect();
    assert!(last.iter().all(|gap| *gap >= 60_000), "{last:?}");
}

#[test]
fn a_deaf_gateway_is_replaced_and_a_probe_that_could_not_run_kills_nothing() {
    let mut world = World::new(3);
    world.feed(Event::OrderStart);
    while !matches!(world.state.phase, Phase::Ready { .. }) {
        world.answer(None);
    }
    for _ in 0..100 {
        world.feed(Event::Probed { launch: 1, health: Health::Unknown });
    }
    assert!(matches!(world.state.phase, Phase::Ready { launch: 1, .. }));
    for _ in 0..world.settings.misses {
        world.feed(Event::Probed { launch: 1, health: Health::Deaf });
        assert!(matches!(world.state.phase, Phase::Ready { launch: 1, .. }), "some misses are forgiven");
    }
    world.feed(Event::Probed { launch: 1, health: Health::Deaf });
    assert_eq!(world.state.phase, Phase::Clearing);
}

#[test]
fn a_hang_that_is_sure_is_not_forgiven_once() {
    for ready in [true, false] {
        let mut world = World::new(3);
        world.feed(Event::OrderStart);
        while !matches!(world.state.phase, Phase::Ready { .. } | Phase::Starting { launch: Some(_), .. })
            || ready && !matches!(world.state.phase, Phase::Ready { .. })
        {
            world.answer(None);
        }
        world.feed(Event::Probed { launch: 0, health: Health::Hung });
        assert_ne!(world.state.phase, Phase::Clearing, "another launch's");
        world.feed(Event::Probed { launch: 1, health: Health::Hung });
        assert_eq!(world.state.phase, Phase::Clearing);
    }
}

#[test]
fn a_rejected_receipt_is_never_ready_and_names_the_command() {
    let mut world = World::new(3);
    world.feed(Event::OrderStart);
    while world.process.is_none() {
        world.answer(None);
    }
    world.feed(Event::Probed { launch: 1, health: Health::Ready });
    assert!(matches!(world.state.phase, Phase::Starting { .. }), "no receipt, no readiness");
    let (reason, command) = ("guard missing".into(), "clawkeep box recover".into());
    world.feed(Event::ReceiptRejected { launch: 1, reason, command });
    assert!(matches!(world.state.phase, Phase::Held { .. }));
    world.answer(None);
    assert!(world.process.is_none(), "it does not go on running");
}
