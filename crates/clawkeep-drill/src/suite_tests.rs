use std::cell::Cell;

use super::*;
use crate::target::{Places, Recovered};

/// A target that answers as it is told.
struct Scripted {
    traits: Traits,
    /// Of the static program: how often it was run, and from when on it answers otherwise.
    runs: usize,
    turns_at: usize,
    guarded: bool,
    undisturbed: bool,
    /// What of the shell was run.
    shell: Vec<String>,
}

impl Scripted {
    fn new() -> Self {
        let traits = Traits { exact: true, guards: true, heals: true, netlink: true, ..Traits::default() };
        Self { traits, runs: 0, turns_at: usize::MAX, guarded: true, undisturbed: true, shell: Vec::new() }
    }
}

impl Target for Scripted {
    fn traits(&self) -> Traits {
        self.traits
    }

    fn run(&mut self, program: &Program) -> Result<Said, TargetError> {
        let attack = match program.runtime {
            Runtime::Shell => {
                self.shell.push(program.arguments[0].clone());
                "intact"
            }
            _ => {
                self.runs += 1;
                if self.runs > self.turns_at { "ok" } else { "EPERM" }
            }
        };
        let output = format!(
            "{{\"step\":\"control\",\"answer\":\"ok\"}}\n{{\"step\":\"attack\",\"answer\":\"{attack}\"}}\n"
        );
        Ok(Said { output: output.into(), ..Said::default() })
    }

    fn undisturbed(&mut self) -> Result<bool, TargetError> {
        Ok(self.undisturbed)
    }

    fn wait_well(&mut self) -> Result<Recovered, TargetError> {
        let detail = if self.guarded { String::new() } else { "its receipt is missing".to_owned() };
        Ok(Recovered { guarded: self.guarded, detail })
    }
}

fn about() -> Scorecard {
    Scorecard {
        schema: 1,
        target: "scripted".into(),
        version: String::new(),
        kernel: String::new(),
        at: String::new(),
        recovered: false,
        totals: Totals::default(),
        attempts: Vec::new(),
    }
}

fn drill(target: &mut Scripted, only: &str, stop: &dyn Fn() -> bool) -> Result<Scorecard, TargetError> {
    drill_with(target, only, true, stop)
}

fn drill_with(
    target: &mut Scripted,
    only: &str,
    recovery: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Scorecard, TargetError> {
    let dir = tempfile::tempdir().unwrap();
    let canaries = Canaries::set(dir.path()).unwrap();
    let settings = Settings { only: Some(only), recovery, progress: &mut |_, _| (), cancelled: stop };
    Drill::run(target, &canaries, settings, about())
}

fn outcome(card: &Scorecard, id: &str) -> (Outcome, String) {
    let found =
        card.attempts.iter().find(|attempt| attempt.id == id).unwrap_or_else(|| panic!("{id}: {card:?}"));
    (found.outcome, found.ways[0].reason.clone())
}

#[test]
fn only_what_was_asked_for_is_tried() {
    let mut target = Scripted::new();
    let card = drill(&mut target, "unshare-user", &|| false).unwrap();
    assert_eq!(outcome(&card, "unshare-user").0, Outcome::Held);
    assert_eq!((card.attempts.len(), target.runs), (1, 1));
}

#[test]
fn a_wall_that_answers_otherwise_than_before_is_found() {
    let mut target = Scripted { turns_at: 1, ..Scripted::new() };
    let dir = tempfile::tempdir().unwrap();
    let canaries = Canaries::set(dir.path()).unwrap();
    let mut drill = Drill {
        traits: target.traits,
        places: Places::default(),
        target: &mut target,
        canaries: &canaries,
        only: None,
        progress: &mut |_, _| (),
        cancelled: &|| false,
        made: 0,
    };
    let attempt = attempts().find(|attempt| attempt.id == "unshare-user").unwrap();
    let before = vec![drill.attempt(attempt).unwrap()];
    let differences = drill.again(&[Group::Kernel], &before).unwrap();
    let told: Vec<_> = differences.iter().map(|d| (d.id, d.then.as_str(), d.now.outcome)).collect();
    assert_eq!(told, [("unshare-user", "EPERM", Outcome::Open)]);
}

#[test]
fn an_agent_that_comes_back_unguarded_or_did_not_live_through_it_is_open() {
    let mut target = Scripted { guarded: false, undisturbed: false, ..Scripted::new() };
    let card = drill(&mut target, "e", &|| false).unwrap();
    assert_eq!(outcome(&card, "forced-recovery"), (Outcome::Open, "its receipt is missing".into()));
    assert_eq!(outcome(&card, "kill-everything").0, Outcome::Open);
    assert_eq!(outcome(&card, "survives-the-drill").0, Outcome::Open);
    assert!(!card.passed());
}

#[test]
fn without_guards_those_attempts_are_not_made_and_it_is_told() {
    let mut target = Scripted::new();
    target.traits.guards = false;
    let card = drill(&mut target, "guard-", &|| false).unwrap();
    assert_eq!(outcome(&card, "guard-deleted"), (Outcome::NotRun, "this agent has no guards".into()));
    assert!(target.shell.iter().all(|script| !script.contains("nemoclaw-sandbox-safety-net")));
}

#[test]
fn what_a_killed_drill_left_is_removed_by_whatever_drill_is_next() {
    let mut target = Scripted::new();
    drill_with(&mut target, "unshare-user", false, &|| false).unwrap();
    let restored = target.shell.iter().any(|script| script.contains("rmdir .clawkeep-drill"));
    assert!(restored && target.shell.len() == 1, "{:?}", target.shell);
}

#[test]
fn what_was_planted_is_removed_when_somebody_wants_it_to_end() {
    let steps = Cell::new(0);
    let stop = || {
        steps.set(steps.get() + 1);
        // Before the first tampering, then during it.
        steps.get() > 2
    };
    let mut target = Scripted::new();
    let error = drill(&mut target, "poisoned", &stop).unwrap_err();
    assert_eq!(error.to_string(), "it was interrupted");
    let planted = target.shell.iter().position(|script| script.contains("mv -n $file \"$drill/saved"));
    let restored = target.shell.iter().rposition(|script| script.contains("rmdir .clawkeep-drill"));
    assert!(planted.is_some() && restored > planted, "{planted:?} {restored:?}");
}
