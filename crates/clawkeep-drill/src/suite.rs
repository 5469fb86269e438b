//! Runs the attempts against a target and judges each.

use std::collections::BTreeMap;

use crate::attempt::{Attack, Attempt, Group, Needs, Way};
use crate::attempts::attempts;
use crate::canaries::Canaries;
use crate::judge::judge;
use crate::recovery;
use crate::scorecard::{Judged, Outcome, Scorecard, Scored, Totals};
use crate::scripts;
use crate::target::{Places, Program, Runtime, Said, Target, TargetError, Traits};
use crate::walls::{Tried, tried};
use crate::words::{self, Context};

/// The names of all attempts, those of the recovery too.
pub fn names() -> impl Iterator<Item = &'static str> {
    attempts().map(|attempt| attempt.id).chain(recovery::names())
}

/// More processes than it is reasonable to start for a drill.
const MOST_PROCESSES: u64 = 8192;

/// More memory than it is reasonable to use for a drill, in bytes: 1 GiB.
const MOST_MEMORY: u64 = 1 << 30;

/// How to drill.
pub struct Settings<'a> {
    /// Only attempts whose name contains this.
    pub only: Option<&'a str>,
    /// End the agent in between, see it come back, and try again.
    pub recovery: bool,
    /// Hears of each attempt before it is made, with how many have been made.
    pub progress: &'a mut dyn FnMut(&str, usize),
    /// Whether somebody wants it to end.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// A drill that goes on.
pub struct Drill<'a> {
    pub(crate) target: &'a mut dyn Target,
    canaries: &'a Canaries,
    pub(crate) traits: Traits,
    pub(crate) places: Places,
    only: Option<&'a str>,
    progress: &'a mut dyn FnMut(&str, usize),
    cancelled: &'a dyn Fn() -> bool,
    made: usize,
}

impl<'a> Drill<'a> {
    /// Make every attempt. `about` names target, version, kernel and time; the rest of it is filled in.
    ///
    /// # Errors
    /// When the target cannot be asked, or somebody wanted it to end. What was planted is removed all the same.
    pub fn run(
        target: &'a mut dyn Target,
        canaries: &'a Canaries,
        settings: Settings<'a>,
        about: Scorecard,
    ) -> Result<Scorecard, TargetError> {
        let (traits, places) = (target.traits(), target.places());
        let Settings { only, recovery, progress, cancelled } = settings;
        let mut drill = Self { target, canaries, traits, places, only, progress, cancelled, made: 0 };
        if traits.heals {
            recovery::put_in_order(&mut drill)?;
        }
        let mut scored = Vec::new();
        for attempt in attempts() {
            if drill.wanted(attempt.id) {
                scored.push(drill.attempt(attempt)?);
            }
        }
        if recovery && traits.heals {
            scored.extend(recovery::stage(&mut drill, &scored)?);
        }
        scored.sort_by_key(|attempt| attempt.group);
        let recovered = recovery && traits.heals;
        Ok(Scorecard { schema: 1, recovered, totals: Totals::of(&scored), attempts: scored, ..about })
    }

    pub(crate) fn wanted(&self, id: &str) -> bool {
        self.only.is_none_or(|only| id.contains(only))
    }

    /// Before each step: whether to go on.
    pub(crate) fn next(&mut self, id: &str) -> Result<(), TargetError> {
        if (self.cancelled)() {
            return Err(TargetError("it was interrupted".to_owned()));
        }
        (self.progress)(id, self.made);
        self.made += 1;
        Ok(())
    }

    fn attempt(&mut self, attempt: &'static Attempt) -> Result<Scored, TargetError> {
        self.next(attempt.id)?;
        let tried = tried(attempt, self.traits.walls);
        let missing = tried.unwalled.map(str::to_owned).or_else(|| missing(tried.needs, &self.traits));
        let mut ways = Vec::new();
        for way in tried.ways {
            ways.push(match &missing {
                Some(reason) => not_run(way, reason),
                None => self.way(attempt, &tried, way)?,
            });
        }
        Ok(Scored::new(attempt.id, attempt.group, attempt.tries, ways))
    }

    fn way(&mut self, attempt: &Attempt, tried: &Tried, way: &Way) -> Result<Judged, TargetError> {
        let context = self.context();
        let program = match &way.attack {
            Attack::Steps(steps) => {
                Program { runtime: Runtime::Static, arguments: words::both(tried.control, steps, &context) }
            }
            Attack::Script(runtime, attack) => Program {
                runtime: *runtime,
                arguments: vec![scripts::whole(*runtime, attempt.group, attack, &context)],
            },
        };
        let said = self.target.run(&program)?;
        Ok(judge(
            program.runtime,
            tried.expect.unwrap_or(way.expect),
            &said,
            &self.canaries.hits(),
            self.traits.exact,
        ))
    }

    /// What of the host was reached since the last look.
    pub(crate) fn hits(&self) -> Vec<&'static str> {
        self.canaries.hits()
    }

    fn context(&self) -> Context<'_> {
        Context { bait: self.canaries.bait(), traits: &self.traits, places: &self.places }
    }

    /// A script of the recovery.
    pub(crate) fn script(&mut self, attack: &str) -> Result<(Said, Vec<&'static str>), TargetError> {
        let context = self.context();
        let script = scripts::whole(Runtime::Shell, Group::Lifecycle, attack, &context);
        let said = self.target.run(&Program { runtime: Runtime::Shell, arguments: vec![script] })?;
        Ok((said, self.canaries.hits()))
    }

    /// What the attempts of these groups, made by the static program, answer now; those that were made before.
    pub(crate) fn again(
        &mut self,
        groups: &[Group],
        before: &[Scored],
    ) -> Result<Vec<Difference>, TargetError> {
        let then: BTreeMap<&str, &Scored> =
            before.iter().map(|scored| (scored.id.as_str(), scored)).collect();
        let mut differences = Vec::new();
        for attempt in attempts().filter(|attempt| groups.contains(&attempt.group)) {
            let Some(then) = then.get(attempt.id) else { continue };
            self.next(attempt.id)?;
            let tried = tried(attempt, self.traits.walls);
            for way in tried.ways.iter().filter(|way| matches!(way.attack, Attack::Steps(_))) {
                let found = then.ways.iter().find(|judged| judged.runtime == Runtime::Static);
                let Some(then) = found.filter(|judged| judged.outcome != Outcome::NotRun) else { continue };
                let now = self.way(attempt, &tried, way)?;
                if (&now.answer, now.outcome) != (&then.answer, then.outcome) {
                    differences.push(Difference { id: attempt.id, then: then.answer.clone(), now });
                }
            }
        }
        Ok(differences)
    }
}

/// An attempt that ends otherwise after a recovery.
pub(crate) struct Difference {
    pub id: &'static str,
    pub then: String,
    pub now: Judged,
}

fn not_run(way: &Way, reason: &str) -> Judged {
    let runtime = match way.attack {
        Attack::Steps(_) => Runtime::Static,
        Attack::Script(runtime, _) => runtime,
    };
    let expected = way.expect.iter().map(|word| (*word).to_owned()).collect();
    Judged { runtime, outcome: Outcome::NotRun, answer: String::new(), expected, reason: reason.to_owned() }
}

/// Why it cannot be tried in a target like this.
fn missing(needs: Needs, traits: &Traits) -> Option<String> {
    let limit = |limit: Option<u64>, most: u64, what: &str| match limit {
        None => Some(format!("no limit of {what} is in force")),
        Some(limit) if limit > most => {
            Some(format!("its limit of {what} is too large to be reached in a drill"))
        }
        Some(_) => None,
    };
    match needs {
        Needs::Nothing => None,
        Needs::OwnProcesses if traits.own_processes => None,
        Needs::OwnProcesses => Some("it would end processes of others".to_owned()),
        Needs::ProcessLimit => limit(traits.processes, MOST_PROCESSES, "processes"),
        Needs::MemoryLimit => limit(traits.memory_bytes, MOST_MEMORY, "memory"),
        Needs::FileLimit => limit(traits.file_bytes, u64::MAX, "a file's size"),
        Needs::OwnNetwork if traits.own_network => None,
        Needs::OwnNetwork => Some("it would reach hosts of others".to_owned()),
        Needs::HostSystem if !traits.own_system => None,
        Needs::HostSystem => Some("its system is not the host's".to_owned()),
        Needs::OwnGroups if !traits.keeps_groups => None,
        Needs::OwnGroups => {
            Some("an ordinary user's groups stay: only root can drop them (docs/TIERS.md)".to_owned())
        }
        Needs::Guards if traits.guards => None,
        Needs::Guards => Some("its agent has no guards".to_owned()),
        Needs::Proxy if traits.proxy.is_some() => None,
        Needs::Proxy => Some("there is no proxy".to_owned()),
        Needs::NameServer if traits.name_server => None,
        Needs::NameServer => Some("it has no name server".to_owned()),
        Needs::ReadOnlySystem if traits.read_only_system => None,
        Needs::ReadOnlySystem => Some("it would lose a file".to_owned()),
        Needs::X86 if cfg!(target_arch = "x86_64") => None,
        Needs::X86 => Some("only x86-64 has it".to_owned()),
    }
}

#[cfg(test)]
#[path = "suite_tests.rs"]
mod tests;
