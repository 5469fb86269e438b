//! The core model-checked: every state that any few faults lead to, in any order, at any moment, is looked at. Time
//! is what the checker makes of it: whatever timer runs may fire at any moment.

mod world;

use std::hash::{Hash, Hasher};

use clawkeep_recovery::{Action, Event, Phase, Settings, step};
use serde_json::{Value, json};
use stateright::{Checker, Model, Property};
use world::{FAULTS, Fault, Ills, Step, World, settings};

/// Faults that the checker may choose, in one life.
const FAULTS_A_LIFE: u8 = 3;

/// A world and the faults that are left. Two are the same when nothing that can still happen tells them apart.
#[derive(Clone, Debug)]
struct Node {
    world: World,
    left: u8,
    key: String,
}

impl Node {
    fn new(mut world: World, left: u8) -> Self {
        normalise(&mut world);
        let World { state, pending, namespaces, process, ills, healthy, clean, broken, now, .. } = &world;
        let safe_mode = world.settings.safe_mode;
        let own = json!([state, pending, now, left, healthy, safe_mode, clean, namespaces, broken]);
        let key = format!("{own}{process:?}{ills:?}");
        Self { world, left, key }
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

/// Leave out what makes no difference: absolute times, absolute numbers, the random part of the delays, how often
/// something failed beyond the most that matters.
fn normalise(world: &mut World) {
    let launches = world.state.launches;
    let number = |launch: u64| (launch + 2).saturating_sub(launches);
    let elapsed = match world.state.phase {
        Phase::Ready { since, .. } => (world.now - since).min(world.settings.steady),
        _ => 0,
    };
    world.now = elapsed;
    world.launches.clear();
    // Of time, which the model has none of.
    world.loops = (0, 0);
    if let Some(process) = &mut world.process {
        process.launch = number(process.launch);
    }
    for action in &mut world.pending {
        if let Action::Launch { launch, .. } = action {
            *launch = number(*launch);
        }
    }
    let state = &mut world.state;
    state.launches = 2;
    match &mut state.phase {
        Phase::Starting { launch, since, .. } => {
            *launch = launch.map(number);
            *since = 0;
        }
        Phase::Ready { launch, since, .. } => {
            *launch = number(*launch);
            *since = 0;
        }
        Phase::Backoff { until } => *until = 1,
        Phase::Stopping { kill_at } => *kill_at = 1,
        Phase::Held { reason, retry_at, .. } => {
            reason.clear();
            *retry_at = retry_at.map(|_| 1);
        }
        Phase::Stopped
        | Phase::Preparing
        | Phase::Restoring { .. }
        | Phase::Clearing
        | Phase::TearingDown => {}
    }
    let failures = state.backoff.failures().min(world.settings.hold_after);
    let backoff: Value = json!({ "failures": failures, "random": 0 });
    state.backoff = serde_json::from_value(backoff).unwrap();
    state.ladder.tries = state.ladder.tries.min(world.settings.host_tries);
    state.ladder.host_tries = state.ladder.host_tries.min(world.settings.host_tries);
    state.ladder.restored.sort_by_key(|what| *what as u8);
    state.ladder.restored.dedup();
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Move {
    /// The oldest action is answered well.
    Answer,
    /// The process dies of what is wrong, or reports, or answers a probe.
    Live,
    /// The timer that runs fires.
    Timer,
    /// It has been ready for the settle window.
    Settle,
    Fault(Fault),
}

struct Life {
    step: Step,
    faults: u8,
}

/// Few enough tries that the whole ladder is within reach of few faults.
fn small() -> Settings {
    Settings { tries: 1, host_tries: 2, hold_after: 3, misses: 0, ..settings() }
}

impl Model for Life {
    type State = Node;
    type Action = Move;

    fn init_states(&self) -> Vec<Node> {
        let mut worlds = Vec::new();
        for (safe_mode, healthy) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut world = World::new(0, Settings { safe_mode, ..small() });
            world.step = self.step;
            world.healthy = healthy;
            worlds.push(Node::new(world.clone(), self.faults));
            world.feed(Event::OrderStart);
            worlds.push(Node::new(world, self.faults));
        }
        worlds
    }

    fn actions(&self, node: &Node, moves: &mut Vec<Move>) {
        let world = &node.world;
        if !world.pending.is_empty() {
            moves.push(Move::Answer);
        }
        if world.process.is_some() {
            moves.push(Move::Live);
        }
        if world.state.timer(&world.settings).is_some() {
            moves.push(Move::Timer);
        }
        if world.is_ready() {
            moves.push(Move::Settle);
        }
        if node.left > 0 && world.broken.is_none() {
            moves.extend(FAULTS.map(Move::Fault));
        }
    }

    fn next_state(&self, node: &Node, action: Move) -> Option<Node> {
        let (mut world, mut left) = (node.world.clone(), node.left);
        match action {
            Move::Answer => world.answer(None),
            Move::Live => world.live(),
            Move::Timer => {
                world.now = world.now.max(world.state.timer(&world.settings)?);
                world.feed(Event::Timer);
            }
            Move::Settle => {
                world.now += world.settings.settle.max(world.settings.steady);
                world.live();
            }
            Move::Fault(fault) => {
                left -= 1;
                world.suffer(fault);
            }
        }
        Some(Node::new(world, left))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the rules are kept", |_, node: &Node| node.world.broken.is_none()),
            Property::always("what is held or stopped does not run on", |_, node: &Node| {
                let world = &node.world;
                let over = world.is_held() || world.state.phase == Phase::Stopped;
                !(over && world.pending.is_empty()) || world.process.is_none()
            }),
            Property::always("it comes back once there are no more faults", |_, node: &Node| {
                comes_back(node)
            }),
            Property::always("it stops when it is told to", |_, node: &Node| stops(node)),
            Property::sometimes("it is ready in safe mode", |_, node: &Node| {
                node.world.is_ready() && node.world.state.safe
            }),
            Property::sometimes("it is held, to be tried again", |_, node: &Node| {
                matches!(node.world.state.phase, Phase::Held { retry_at: Some(_), .. })
            }),
        ]
    }
}

/// From here on without faults. What no rung can cure goes away by itself some day; all else must be cured.
fn comes_back(node: &Node) -> bool {
    let mut world = node.world.clone();
    if !world.state.wanted {
        world.feed(Event::OrderStart);
    }
    world.ills.host = false;
    if !world.healthy || !world.settings.safe_mode {
        world.ills = Ills::default();
    }
    let rested = |world: &World| world.is_ready() && world.rests();
    world.run(600, |world| rested(world) || (world.is_held() && world.pending.is_empty()));
    // The command that it names.
    if world.is_held() {
        world.feed(Event::OrderRecover);
    }
    world.run(600, rested) && world.broken.is_none()
}

fn stops(node: &Node) -> bool {
    let mut world = node.world.clone();
    world.feed(Event::OrderStop);
    world.run(600, World::rests)
        && world.state.phase == Phase::Stopped
        && world.process.is_none()
        && !world.namespaces
}

#[test]
fn every_state_that_three_faults_lead_to_keeps_the_rules_and_comes_back() {
    let life = Life { step, faults: FAULTS_A_LIFE };
    let checker = life.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states, {} transitions", checker.unique_state_count(), checker.state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the checker looked at too little");
}

/// Ways to be wrong, each with its name.
const WRONG: [(&str, Step); 12] = [
    ("the end of a wait is missed", |state, event, now, settings| match (&state.phase, &event) {
        (Phase::Backoff { .. }, Event::Timer) => (state, Vec::new()),
        _ => step(state, event, now, settings),
    }),
    ("a start that hangs is not noticed", |state, event, now, settings| match (&state.phase, &event) {
        (Phase::Starting { .. }, Event::Timer) => (state, Vec::new()),
        (Phase::Starting { .. }, Event::Ended { .. }) => (state, Vec::new()),
        _ => step(state, event, now, settings),
    }),
    ("launched without clearing", |state, event, now, settings| {
        let ended = matches!(event, Event::Ended { .. });
        let (state, mut actions) = step(state, event, now, settings);
        if ended && state.phase == Phase::Clearing {
            actions.push(Action::Launch { launch: state.launches, safe: false });
        }
        (state, actions)
    }),
    ("launched twice", |state, event, now, settings| {
        let (state, mut actions) = step(state, event, now, settings);
        if let Some(launch @ Action::Launch { .. }) = actions.last().cloned() {
            actions.push(launch);
        }
        (state, actions)
    }),
    ("held without a command", |state, event, now, settings| {
        let (mut state, actions) = step(state, event, now, settings);
        if let Phase::Held { command, .. } = &mut state.phase {
            command.clear();
        }
        (state, actions)
    }),
    ("held and running", |state, event, now, settings| {
        let rejected = matches!(event, Event::ReceiptRejected { .. });
        let (state, mut actions) = step(state, event, now, settings);
        if rejected {
            actions.clear();
        }
        (state, actions)
    }),
    ("the end of a ready one is missed", |state, event, now, settings| match (&state.phase, &event) {
        (Phase::Ready { .. }, Event::Ended { .. }) => (state, Vec::new()),
        _ => step(state, event, now, settings),
    }),
    ("started although it was told to stop", |mut state, event, now, settings| {
        state.wanted |= matches!(event, Event::TornDown);
        step(state, event, now, settings)
    }),
    ("failures are never forgotten", |state, event, now, settings| {
        let kept = state.backoff.clone();
        let probed = matches!(event, Event::Probed { .. });
        let (mut state, actions) = step(state, event, now, settings);
        if probed {
            state.backoff = kept;
        }
        (state, actions)
    }),
    ("what was put back is not heard of", |state, event, now, settings| match event {
        Event::Restored { .. } => (state, Vec::new()),
        _ => step(state, event, now, settings),
    }),
    ("the ladder is never climbed", |state, event, now, settings| {
        let (mut state, actions) = step(state, event, now, settings);
        state.ladder = Default::default();
        (state, actions)
    }),
    ("a clearing that failed is not heard of", |state, event, now, settings| match event {
        Event::ClearFailed { .. } => (state, Vec::new()),
        _ => step(state, event, now, settings),
    }),
];

#[test]
fn every_wrong_core_is_found_out() {
    for (name, step) in WRONG {
        let life = Life { step, faults: 2 };
        let checker = life.checker().threads(2).spawn_bfs().join();
        let wrong = checker.discoveries().keys().any(|name| !name.starts_with("it is "));
        assert!(wrong, "nobody noticed: {name}");
    }
}
