//! The journal of a life, told: what broke, what was tried, what cured it; and nothing in it that the core would
//! not have decided.

use clawkeep_recovery::story::{
    AttemptResult, Happened, MAX_MISMATCHES, MismatchKind, Outcome, Record, Step, Story, tell,
};
use clawkeep_recovery::{
    Action, Blame, Cause, Confidence, Diagnosis, Event, Health, Phase, Restore, Rung, Settings, State,
    Unproven, Verdict, step,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// One record, as it is written down.
#[derive(Debug, Clone)]
struct Written {
    at_ms: u64,
    kind: String,
    cause: String,
    data: Value,
}

/// A supervisor that writes down what the core decides.
struct Life {
    state: State,
    settings: Settings,
    now: u64,
    journal: Vec<Written>,
}

const BOOT: u64 = 1_700_000_000_000;

impl Life {
    fn new() -> Self {
        Self { state: State::new(7), settings: Settings::default(), now: 0, journal: Vec::new() }
    }

    fn write(&mut self, kind: &str, cause: &str, data: Value) {
        let (kind, cause) = (kind.to_owned(), cause.to_owned());
        self.journal.push(Written { at_ms: BOOT + self.now, kind, cause, data });
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let (before, settings, now) = (self.state.clone(), self.settings.clone(), self.now);
        let (after, actions) = step(before.clone(), event.clone(), now, &settings);
        if after != before || !actions.is_empty() {
            self.state = after.clone();
            let told = actions.clone();
            let step = Step { core: None, before, event, now, settings, after, actions };
            self.write("step", "", serde_json::to_value(step).unwrap());
            return told;
        }
        actions
    }

    /// Carry out what is wanted, until a launch runs or nothing is wanted any more.
    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut queue = std::collections::VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            self.now += 10;
            let answer = match action {
                Action::Prepare => Event::Prepared,
                Action::Restore { what } => Event::Restored { what, changed: true },
                Action::Clear { .. } => Event::Cleared,
                Action::Launch { launch, .. } => Event::Launched { launch, unproven: Unproven::default() },
                Action::TearDown => Event::TornDown,
                Action::Terminate => continue,
            };
            queue.extend(self.feed(answer));
        }
    }

    fn order(&mut self, event: Event) {
        let actions = self.feed(event);
        self.carry_out(actions);
    }

    /// Wait until the timer is due, and let it ring.
    fn wait(&mut self) {
        self.now = self.state.timer(&self.settings).expect("a timer");
        self.order(Event::Timer);
    }

    fn serve(&mut self) {
        let launch = self.state.launches;
        self.now += 1_000;
        self.feed(Event::ReceiptAccepted { launch });
        self.feed(Event::Probed { launch, health: Health::Ready });
        assert!(matches!(self.state.phase, Phase::Ready { .. }), "{:?}", self.state.phase);
    }

    /// Be well for so long that it counts.
    fn settle(&mut self) {
        self.now += self.settings.settle.max(self.settings.steady);
        self.feed(Event::Probed { launch: self.state.launches, health: Health::Ready });
        assert_eq!(self.state.backoff.failures(), 0);
    }

    fn die(&mut self, cause: Cause, blame: Blame) {
        self.now += 500;
        let evidence = vec!["signal 9".to_owned()];
        let diagnosis = Diagnosis { cause, confidence: Confidence::Likely, blame, evidence };
        self.write("ended", "the gateway ended with signal 9", json!({"launch": self.state.launches}));
        self.write("diagnosis", "", serde_json::to_value(diagnosis).unwrap());
        let actions = self.feed(Event::Ended { launch: self.state.launches, verdict: Verdict::Crash, blame });
        self.carry_out(actions);
    }

    fn story(&self) -> Story {
        tell(self.journal.iter().zip(1..).map(|(written, seq)| Record {
            seq,
            at_ms: written.at_ms,
            kind: &written.kind,
            cause: &written.cause,
            data: &written.data,
        }))
    }
}

fn ready() -> Life {
    let mut life = Life::new();
    life.order(Event::OrderStart);
    life.serve();
    life.settle();
    life
}

fn whats(happened: &[Happened]) -> Vec<&str> {
    happened.iter().map(|happened| happened.what.as_str()).collect()
}

#[test]
fn a_life_without_trouble_has_no_incidents() {
    let story = ready().story();
    assert_eq!((story.mismatches.len(), story.incidents.len()), (0, 0), "{story:?}");
    assert!(story.replayed >= 5);
    let present = story.present.unwrap();
    assert!(matches!(present.state.phase, Phase::Ready { .. }) && present.next_at.is_none());
}

#[test]
fn a_kill_is_cured_by_the_first_start() {
    let mut life = ready();
    life.die(Cause::Killed, Blame::Unknown);
    life.serve();
    let story = life.story();
    assert_eq!(story.mismatches, []);
    let [incident] = &story.incidents[..] else { panic!("{:?}", story.incidents) };
    assert_eq!(incident.cause(), Some(Cause::Killed));
    assert_eq!(whats(&incident.happened), ["the gateway ended with signal 9"]);
    let Outcome::Cured { rung: Rung::Respawn, launch: 2, settled: false, .. } = incident.outcome else {
        panic!("{:?}", incident.outcome)
    };
    assert_eq!(incident.tried.len(), 1);
    assert_eq!((incident.tried[0].result, incident.tried[0].launch), (AttemptResult::Ready, Some(2)));
    // Cleared and launched in 10 ms each, ready after a second.
    assert_eq!(incident.lasted_ms, 1_020);
    life.settle();
    let story = life.story();
    assert!(matches!(story.incidents[0].outcome, Outcome::Cured { settled: true, .. }));
    assert_eq!(story.incidents[0].lasted_ms, 1_020, "the settling is no part of it");
    // The next one is another incident.
    life.die(Cause::Killed, Blame::Unknown);
    assert_eq!(life.story().incidents.len(), 2);
}

#[test]
fn a_guilty_configuration_is_told_with_the_rung_that_cured() {
    let mut life = ready();
    life.die(Cause::InvalidConfig, Blame::Config);
    assert_eq!(life.state.ladder.restored, [Restore::Config]);
    life.serve();
    let story = life.story();
    let incident = &story.incidents[0];
    assert!(matches!(incident.outcome, Outcome::Cured { rung: Rung::Config, .. }), "{incident:?}");
    assert_eq!((incident.tried.len(), incident.tried[0].rung), (1, Rung::Config));
}

#[test]
fn what_comes_back_and_does_not_last_is_one_incident() {
    let mut life = ready();
    for _ in 0..2 {
        life.die(Cause::UncaughtError, Blame::Unknown);
        if matches!(life.state.phase, Phase::Backoff { .. }) {
            life.wait();
        }
        life.serve();
    }
    life.settle();
    let story = life.story();
    assert_eq!(story.mismatches, []);
    let [incident] = &story.incidents[..] else { panic!("{:?}", story.incidents) };
    let results: Vec<_> = incident.tried.iter().map(|attempt| attempt.result).collect();
    assert_eq!(results, [AttemptResult::Failed, AttemptResult::Ready]);
    assert!(matches!(incident.outcome, Outcome::Cured { settled: true, .. }));
    assert_eq!(incident.happened.len(), 2);
}

#[test]
fn an_incident_that_goes_on_tells_what_was_tried_and_what_is_next() {
    let mut life = ready();
    while !matches!(life.state.phase, Phase::Held { .. }) {
        match life.state.phase {
            Phase::Backoff { .. } => life.wait(),
            _ => life.die(Cause::UncaughtError, Blame::Unknown),
        }
    }
    let story = life.story();
    assert_eq!(story.mismatches, []);
    let [incident] = &story.incidents[..] else { panic!("{:?}", story.incidents) };
    assert_eq!(incident.outcome, Outcome::Open);
    let rungs: Vec<Rung> = incident.tried.iter().map(|attempt| attempt.rung).collect();
    assert!(rungs.is_sorted() && rungs.contains(&Rung::Respawn) && rungs.contains(&Rung::Agent), "{rungs:?}");
    assert!(incident.tried.iter().all(|attempt| attempt.result == AttemptResult::Failed));
    assert!(incident.tried.iter().any(|attempt| attempt.waited_ms > 0));
    let present = story.present.unwrap();
    assert_eq!(present.next_at, Some(present.at_ms + life.settings.held_retry));
}

#[test]
fn told_to_stop_ends_an_incident() {
    let mut life = ready();
    life.die(Cause::UncaughtError, Blame::Unknown);
    life.order(Event::OrderStop);
    life.order(Event::Ended { launch: 2, verdict: Verdict::Ordered, blame: Blame::Unknown });
    life.order(Event::OrderStart);
    life.serve();
    let story = life.story();
    let [incident] = &story.incidents[..] else { panic!("{:?}", story.incidents) };
    assert!(matches!(incident.outcome, Outcome::Stopped { .. }), "{incident:?}");
}

#[test]
fn a_new_supervisor_begins_a_new_chain_and_keeps_the_incident() {
    let mut life = ready();
    life.die(Cause::UncaughtError, Blame::Unknown);
    life.die(Cause::UncaughtError, Blame::Unknown);
    let launches = life.state.launches;
    life.state = State { launches, ..State::new(99) };
    life.now = 0;
    life.order(Event::Adopted { launch: launches, running: false, receipt: false, safe: false });
    life.serve();
    let story = life.story();
    assert_eq!(story.mismatches, []);
    let [incident] = &story.incidents[..] else { panic!("{:?}", story.incidents) };
    assert!(whats(&incident.happened).contains(&"its supervisor was started again"));
    assert!(matches!(incident.outcome, Outcome::Cured { .. }));
}

#[test]
fn every_kind_of_bad_record_is_told_by_its_number() {
    let mut life = ready();
    life.die(Cause::Killed, Blame::Unknown);
    let steps: Vec<usize> = (0..life.journal.len()).filter(|at| life.journal[*at].kind == "step").collect();
    let last = *steps.last().unwrap();
    let told = |change: &dyn Fn(&mut Vec<Written>)| {
        let mut journal = life.journal.clone();
        change(&mut journal);
        let story = Life { journal, ..Life::new() }.story();
        story.mismatches.iter().map(|wrong| (wrong.seq, wrong.kind)).collect::<Vec<_>>()
    };
    let seq = last as u64 + 1;
    let wrong = told(&|journal| journal[last].data["after"]["launches"] = json!(77));
    assert_eq!(wrong, [(seq, MismatchKind::Decision)]);
    let wrong = told(&|journal| journal[last].data["actions"] = json!(["prepare"]));
    assert_eq!(wrong, [(seq, MismatchKind::Decision)]);
    let wrong = told(&|journal| journal[last].data = json!({"left_out_bytes": 9}));
    assert_eq!(wrong, [(seq, MismatchKind::Unreadable)]);
    // One that is missing: the next one does not follow.
    let wrong = told(&|journal| drop(journal.remove(steps[2])));
    assert_eq!(wrong, [(steps[3] as u64, MismatchKind::Chain)]);
    let wrong = told(&|journal| journal[last].data["core"] = json!("0.0.0-other"));
    assert_eq!(wrong, []);
    let wrong = told(&|journal| {
        for _ in 0..1_000 {
            let broken = journal[last].clone();
            journal.push(Written { data: json!(1), ..broken });
        }
    });
    assert_eq!(wrong.len(), MAX_MISMATCHES);
}

fn any_event() -> impl Strategy<Value = Event> {
    let launch = 0_u64..6;
    let blame = prop_oneof![
        Just(Blame::Unknown),
        Just(Blame::Runtime),
        Just(Blame::Config),
        Just(Blame::Agent),
        Just(Blame::Environment),
    ];
    let verdict = prop_oneof![Just(Verdict::Crash), Just(Verdict::Ordered), Just(Verdict::Wish)];
    let health =
        prop_oneof![Just(Health::Ready), Just(Health::Alive), Just(Health::Deaf), Just(Health::Unknown)];
    let what = prop_oneof![Just(Restore::Config), Just(Restore::Agent)];
    let unproven = (any::<bool>(), any::<bool>()).prop_map(|(config, agent)| Unproven { config, agent });
    prop_oneof![
        Just(Event::OrderStart),
        Just(Event::OrderStop),
        Just(Event::OrderRecover),
        Just(Event::OrderRestart),
        Just(Event::Prepared),
        Just(Event::Cleared),
        Just(Event::SandboxLost),
        Just(Event::TornDown),
        Just(Event::Timer),
        any::<String>().prop_map(|reason| Event::PrepareFailed { reason }),
        any::<String>().prop_map(|reason| Event::ClearFailed { reason }),
        (what, any::<bool>()).prop_map(|(what, changed)| Event::Restored { what, changed }),
        (launch.clone(), unproven).prop_map(|(launch, unproven)| Event::Launched { launch, unproven }),
        launch.clone().prop_map(|launch| Event::ReceiptAccepted { launch }),
        (any::<Option<String>>(), blame.clone()).prop_map(|(command, blame)| Event::LaunchRefused {
            reason: "x".into(),
            command,
            blame
        }),
        launch.clone().prop_map(|launch| Event::ReceiptRejected {
            launch,
            reason: "x".into(),
            command: "y".into()
        }),
        (launch.clone(), verdict, blame).prop_map(|(launch, verdict, blame)| Event::Ended {
            launch,
            verdict,
            blame
        }),
        (launch, health).prop_map(|(launch, health)| Event::Probed { launch, health }),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: the record of it replays.
    #[test]
    fn every_life_replays_and_its_story_is_in_order(
        events in proptest::collection::vec((any_event(), 0_u64..90_000), 1..120)
    ) {
        let mut life = Life::new();
        for (event, after) in events {
            life.now += after;
            life.feed(event);
        }
        let story = life.story();
        prop_assert_eq!(&story.mismatches, &[]);
        prop_assert_eq!(story.replayed as usize, life.journal.len());
        prop_assert!(story.incidents.is_sorted_by_key(|incident| incident.began_at));
        for incident in &story.incidents {
            prop_assert!(incident.tried.is_sorted_by_key(|attempt| attempt.at_ms));
            let ready = incident.tried.iter().filter(|attempt| attempt.result == AttemptResult::Ready);
            prop_assert!(ready.count() <= 1);
        }
        if let Some(present) = story.present {
            prop_assert_eq!(present.state, life.state);
        }
    }

    #[test]
    fn no_record_makes_it_panic(
        kinds in proptest::collection::vec(prop_oneof![Just("step"), Just("diagnosis"), Just("ended")], 0..9),
        text in any::<String>(), at_ms: u64,
    ) {
        let data = json!({"before": text, "now": at_ms});
        let records = kinds.iter().map(|kind| Record { seq: 1, at_ms, kind, cause: &text, data: &data });
        let story = tell(records);
        let bad = kinds.iter().filter(|kind| **kind != "ended").count();
        prop_assert_eq!(story.mismatches.len(), bad);
    }
}
