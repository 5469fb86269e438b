//! The life cycle under random faults: what is promised of every schedule, and that it always comes back. A
//! million schedules a run; `CLAWKEEP_SEED` replays one run, `CLAWKEEP_SCHEDULES` sets the number.

mod world;

use clawkeep_recovery::{Action, Blame, Event, Health, Phase};
use testkit::{Rng, Seed};
use world::{FAULTS, Fault, Ills, World, settings};

/// What happens in one schedule: a fault, or one step without.
type Schedule = Vec<Option<Fault>>;

fn draw(rng: &mut Rng) -> Schedule {
    let length = rng.within(0..40);
    (0..length).map(|_| rng.percent(40).then(|| *rng.pick::<Fault>(&FAULTS))).collect()
}

/// Live through a schedule, then without faults. What was broken, if anything.
fn play(seed: u64, schedule: &[Option<Fault>]) -> Option<String> {
    let mut world = World::new(seed, settings());
    world.healthy = !seed.is_multiple_of(4);
    world.settings.safe_mode = !seed.is_multiple_of(3);
    let blames = [Blame::Unknown, Blame::Runtime, Blame::Config, Blame::Agent, Blame::Environment];
    world.blame = blames.get((seed >> 32) as usize % 8).copied();
    world.feed(Event::OrderStart);
    for fault in schedule {
        match fault {
            Some(fault) => world.suffer(*fault),
            None => world.go_on(),
        }
    }
    // The host recovers some day, like everything that no rung can cure.
    world.ills.host = false;
    if !world.healthy || !world.settings.safe_mode {
        world.ills = Ills::default();
    }
    let mut stopped = world.clone();
    for _ in 0..3 {
        world.run(1_500, World::rests);
        if world.is_held() {
            world.feed(Event::OrderRecover);
        } else if world.state.phase == Phase::Stopped {
            world.feed(Event::OrderStart);
        }
    }
    world.run(1_500, World::rests);
    let back = world.is_ready()
        && world.state.backoff.failures() == 0
        && world.process.as_ref().map(|process| process.launch) == Some(world.state.launches);
    if !back && world.broken.is_none() {
        world.broken = Some(format!("it comes back: {:?} {:?} {:?}", world.state, world.pending, world.ills));
    }
    stopped.feed(Event::OrderStop);
    stopped.run(1_500, World::rests);
    let ended = stopped.state.phase == Phase::Stopped && stopped.process.is_none() && !stopped.namespaces;
    if !ended && stopped.broken.is_none() {
        stopped.broken = Some(format!("it stops: {:?} {:?}", stopped.state, stopped.pending));
    }
    world.broken.or(stopped.broken)
}

/// The shortest schedule that is still wrong, found by leaving out what can be left out.
fn shrink(seed: u64, mut schedule: Schedule) -> (Schedule, String) {
    let mut at = 0;
    while at < schedule.len() {
        let mut shorter = schedule.clone();
        shorter.remove(at);
        if play(seed, &shorter).is_some() { schedule = shorter } else { at += 1 }
    }
    let what = play(seed, &schedule).expect("it was wrong before");
    (schedule, what)
}

#[test]
fn a_million_schedules_of_faults_always_come_back() {
    let schedules = std::env::var("CLAWKEEP_SCHEDULES").map_or(1_000_000, |text| text.parse().unwrap());
    let seed = Seed::from_env_or_random();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut rng = Seed(seed.0 ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rng();
                for _ in 0..schedules / threads {
                    let (own, schedule) = (rng.next_u64(), draw(&mut rng));
                    if play(own, &schedule).is_some() {
                        let (shortest, what) = shrink(own, schedule);
                        panic!("broken: {what}\nplay({own}, &{shortest:?})");
                    }
                }
            });
        }
    });
}

#[test]
fn the_first_crash_is_followed_by_a_launch_at_once_and_a_loop_slows_to_one_a_minute() {
    let mut world = World::ready(3, settings());
    let at = world.now;
    world.suffer(Fault::Crash);
    assert_eq!(world.state.phase, Phase::Clearing);
    world.answer(None);
    assert!(matches!(world.pending.front(), Some(Action::Launch { launch: 2, .. })));
    assert_eq!(world.now, at, "no waiting");
    // Now it dies in every start, before it is ready, whatever is done: also while it is held and tried again.
    world.ills.agent = true;
    world.healthy = false;
    world.launches.clear();
    while world.launches.len() < 60 {
        world.go_on();
    }
    let last: Vec<_> = world.launches.windows(2).map(|w| w[1].0 - w[0].0).rev().take(40).collect();
    assert!(last.iter().all(|gap| *gap >= 60_000), "{last:?}");
    assert_eq!(world.broken, None);
}

#[test]
fn a_deaf_gateway_is_replaced_and_a_probe_that_could_not_run_kills_nothing() {
    let mut world = World::ready(3, settings());
    for _ in 0..100 {
        world.feed(Event::Probed { launch: 1, health: Health::Unknown });
    }
    assert!(matches!(world.state.phase, Phase::Ready { launch: 1, .. }));
    for _ in 0..world.settings.misses {
        world.suffer(Fault::Deaf);
        assert!(matches!(world.state.phase, Phase::Ready { launch: 1, .. }), "some misses are forgiven");
    }
    world.suffer(Fault::Deaf);
    assert_eq!(world.state.phase, Phase::Clearing);
}

#[test]
fn a_rejected_receipt_is_never_ready_and_names_the_command() {
    let mut world = World::new(3, settings());
    world.feed(Event::OrderStart);
    assert!(world.run(10, |world| world.process.is_some()));
    world.feed(Event::Probed { launch: 1, health: Health::Ready });
    assert!(matches!(world.state.phase, Phase::Starting { .. }), "no receipt, no readiness");
    world.suffer(Fault::ReceiptRejected);
    assert!(world.is_held());
    world.answer(None);
    assert!(world.process.is_none(), "it does not go on running");
}

/// A journal says which core decided, so that another one is not judged by this one's decisions. If this fails because
/// the core decides otherwise now, raise `story::CORE` and take the new number over.
#[test]
fn the_cores_version_is_raised_with_its_decisions() {
    let mut rng = Seed(7).rng();
    // FNV-1a: the same on every machine and with every compiler.
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..500 {
        let (seed, schedule) = (rng.next_u64(), draw(&mut rng));
        let mut world = World::new(seed, settings());
        world.feed(Event::OrderStart);
        for fault in schedule {
            match fault {
                Some(fault) => world.suffer(fault),
                None => world.go_on(),
            }
            for byte in serde_json::to_vec(&(&world.state, &world.pending)).unwrap() {
                sum = (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    assert_eq!((clawkeep_recovery::story::CORE, format!("{sum:016x}").as_str()), ("1", "5037aacdeed75f59"));
}
