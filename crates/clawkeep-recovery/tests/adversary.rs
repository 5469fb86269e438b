//! What an adversary, or bad luck, would make of the core: evidence that points at the wrong thing, orphans that
//! will not die, edits between two starts.

mod world;

use clawkeep_recovery::{Action, Blame, Event, Phase, Rung, Settings, State, Unproven, Verdict, step};
use world::{Fault, Ills, World, ended, settings};

const BLAMES: [Blame; 5] = [Blame::Unknown, Blame::Runtime, Blame::Config, Blame::Agent, Blame::Environment];

#[test]
fn evidence_that_points_at_the_wrong_thing_delays_the_cure_and_never_prevents_it() {
    let none = Ills::default();
    let ills = [
        Ills { lock: true, ..none },
        Ills { sandbox: true, ..none },
        Ills { config: true, ..none },
        Ills { agent: true, ..none },
        Ills { config: true, agent: true, ..none },
    ];
    for safe_mode in [true, false] {
        for ill in ills {
            for blame in BLAMES {
                let mut world = World::ready(7, Settings { safe_mode, ..settings() });
                assert!(world.run(400, World::rests));
                world.ills = ill;
                world.blame = Some(blame);
                for _ in 0..5_000 {
                    if world.ills == none && world.is_ready() || world.state.safe {
                        break;
                    }
                    world.go_on();
                }
                // Safe mode is for what nothing else cures.
                assert!(
                    world.is_ready() && !world.state.safe,
                    "{ill:?} blamed on {blame:?}: {:?}",
                    world.state
                );
                assert_eq!(world.broken, None);
            }
        }
    }
}

#[test]
fn what_will_not_die_does_not_run_on_while_the_sandbox_is_held_or_waits() {
    for held in [false, true] {
        let mut world = World::ready(7, Settings { safe_mode: false, ..settings() });
        world.ills.agent = true;
        world.healthy = false;
        if held {
            // Up to the last failure, which is a hang: the process is there.
            let enough = world.settings.hold_after - 1;
            assert!(world.run(2_000, |w| w.state.backoff.failures() == enough && w.process.is_some()));
        } else {
            assert!(world.run(2_000, |w| w.state.backoff.failures() == 3 && w.process.is_some()));
        }
        world.now += world.settings.start_within;
        world.feed(Event::Timer);
        assert_eq!(world.is_held(), held, "{:?}", world.state);
        while let Some(action) = world.pending.front() {
            let fault = matches!(action, Action::Clear { .. }).then_some(Fault::ClearFails);
            world.answer(fault);
        }
        assert!(world.process.is_none(), "it runs on: {:?}", world.state);
        assert_eq!(world.is_held(), held);
        world.ills.agent = false;
        assert!(world.run(2_000, World::is_ready));
        assert_eq!(world.broken, None);
    }
}

#[test]
fn no_timer_runs_while_the_launch_is_owed() {
    let mut world = World::new(7, settings());
    world.feed(Event::OrderStart);
    world.answer(None);
    assert!(matches!(world.state.phase, Phase::Starting { launch: None, .. }));
    assert_eq!(world.state.timer(&world.settings), None, "a timer that does nothing would be due for ever");
}

#[test]
fn a_refusal_does_not_outlive_the_sandbox_in_which_it_was_made() {
    let mut world = World::ready(7, settings());
    world.suffer(Fault::Crash);
    world.answer(None);
    world.suffer(Fault::LaunchRefused);
    assert!(world.state.unfit && matches!(world.state.phase, Phase::Backoff { .. }));
    world.suffer(Fault::SandboxDies);
    assert!(world.run(400, World::rests) && world.is_ready());
    world.suffer(Fault::Crash);
    assert_eq!(world.state.phase, Phase::Clearing, "the new sandbox was never refused");
}

/// A state that runs, with the configuration or version changed since the last healthy launch.
fn running(unproven: Unproven) -> (State, Settings) {
    let settings = settings();
    let feed = |state, event| step(state, event, 0, &settings).0;
    let state = feed(feed(State::new(7), Event::OrderStart), Event::Prepared);
    let launched = Event::Launched { launch: 1, unproven };
    (feed(state, launched), settings)
}

#[test]
fn a_killing_hand_and_one_crash_do_not_put_a_new_configuration_under_suspicion() {
    let (mut state, settings) = running(Unproven { config: true, agent: true });
    for (number, blame) in [(1, Blame::Environment), (2, Blame::Environment), (3, Blame::Unknown)] {
        (state, _) = step(state, ended(number, Verdict::Crash, blame), 0, &settings);
        assert_eq!(state.ladder.rung, Rung::Respawn, "failure {number}");
        for event in [Event::Timer, Event::Cleared] {
            (state, _) = step(state, event, 100_000 * number, &settings);
        }
        let unproven = Unproven { config: true, agent: true };
        (state, _) = step(state, Event::Launched { launch: number + 1, unproven }, 0, &settings);
    }
    (state, _) = step(state, ended(4, Verdict::Crash, Blame::Unknown), 0, &settings);
    assert_eq!(state.ladder.rung, Rung::Config, "twice without a hand is evidence");
}
