//! The ladder: each rung is reached only on evidence, and the lowest that is enough cures.

mod world;

use clawkeep_recovery::{Blame, Event, Phase, Rung, Settings, Verdict};
use world::{Ills, World, ended, settings};

/// A settled world that falls ill, and the rungs that were taken until it was well again.
fn cured(ills: Ills) -> (World, Vec<Rung>) {
    let mut world = World::ready(7, settings());
    assert!(world.run(400, World::rests));
    world.launches.clear();
    world.ills = ills;
    world.live();
    assert!(world.run(2_000, World::rests), "{world:?}");
    assert_eq!(world.broken, None);
    let rungs = world.rungs();
    (world, rungs)
}

#[test]
fn the_lowest_rung_that_is_enough_cures() {
    use Rung::{Agent, Clear, Config, Renew, Respawn, Safe};
    let none = Ills::default();
    for (ills, want) in [
        (Ills { lock: true, ..none }, vec![Respawn, Clear]),
        (Ills { sandbox: true, ..none }, vec![Respawn, Clear, Renew]),
        // What is new is suspected before what is old: the second failure is enough.
        (Ills { config: true, ..none }, vec![Respawn, Config]),
        (Ills { agent: true, ..none }, vec![Respawn, Agent]),
        (Ills { config: true, agent: true, ..none }, vec![Respawn, Config, Agent]),
        (Ills { plugin: true, ..none }, vec![Respawn, Clear, Renew, Safe]),
        (Ills { lock: true, config: true, ..none }, vec![Respawn, Config]),
    ] {
        let (world, rungs) = cured(ills);
        assert_eq!(rungs, want, "{ills:?}");
        assert!(world.is_ready());
        assert_eq!(world.state.ladder.rung, Respawn, "sustained readiness takes the ladder away");
        assert_eq!(world.state.safe, ills.plugin);
    }
}

#[test]
fn evidence_leads_straight_to_its_rung() {
    for (blame, rung) in
        [(Blame::Runtime, Rung::Clear), (Blame::Config, Rung::Config), (Blame::Agent, Rung::Agent)]
    {
        let mut world = World::ready(7, settings());
        let launch = world.process.take().unwrap().launch;
        world.feed(ended(launch, Verdict::Crash, blame));
        assert_eq!(world.state.ladder.rung, rung, "{blame:?}");
    }
}

#[test]
fn the_host_is_waited_out_and_its_faults_climb_slowly() {
    let mut world = World::ready(7, settings());
    assert!(world.run(400, World::rests));
    world.ills.host = true;
    for failure in 1..world.settings.host_tries {
        let before = world.state.backoff.failures();
        assert!(world.run(400, |world| world.state.backoff.failures() > before));
        assert_eq!(world.state.ladder.rung, Rung::Respawn, "failure {failure}");
    }
    world.ills.host = false;
    assert!(world.run(400, World::rests));
    assert!(world.is_ready() && !world.state.safe);
}

#[test]
fn a_start_that_times_out_suspects_what_is_new_at_once() {
    let mut world = World::ready(7, settings());
    assert!(world.run(400, World::rests));
    world.suffer(world::Fault::Crash);
    world.ills.config = true;
    assert!(world.run(50, |world| world.process.is_some()));
    // It neither dies nor serves.
    world.now += world.settings.start_within;
    world.feed(Event::Timer);
    assert_eq!(world.state.ladder.rung, Rung::Config);
    assert!(world.run(400, World::rests));
    assert!(world.is_ready() && world.process.is_some());
}

#[test]
fn what_no_rung_cures_is_held_and_tried_again_without_anybody() {
    for safe_mode in [true, false] {
        let mut world = World::ready(7, Settings { safe_mode, ..settings() });
        world.ills.agent = true;
        world.healthy = false;
        assert!(world.run(2_000, World::is_held), "{world:?}");
        assert!(world.state.backoff.failures() >= world.settings.hold_after);
        assert_eq!(world.rungs().contains(&Rung::Safe), safe_mode);
        let Phase::Held { command, retry_at, .. } = world.state.phase.clone() else { unreachable!() };
        assert_eq!(command, world.settings.recover);
        assert!(world.process.is_none(), "nothing runs on while it is held");
        // Whatever it was went away by itself.
        world.ills.agent = false;
        let due = retry_at.expect("a time");
        assert!(world.run(400, World::is_ready));
        assert!(world.now >= due && !world.state.safe);
    }
}

#[test]
fn a_persons_restart_leaves_safe_mode_and_recover_does_not_touch_what_is_ready() {
    let (mut world, _) = cured(Ills { plugin: true, ..Ills::default() });
    let launches = world.launches.len();
    world.feed(Event::OrderRecover);
    assert!(world.is_ready() && world.pending.is_empty());
    world.ills.plugin = false;
    world.feed(Event::OrderRestart);
    assert!(world.run(400, World::rests));
    assert_eq!((world.state.safe, world.launches.len()), (false, launches + 1));
}
