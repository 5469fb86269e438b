//! Probes are sent out, and what they find is told to the core.

use std::time::Duration;

use clawkeep_recovery::{Event, Health, Phase};
use serde_json::json;
use tokio::time::Instant;

use super::{Hooks, Supervisor};
use crate::probe::{self, Asking, Evidence, Found};

/// How long a program that cannot be asked must have run to count as ready, in milliseconds.
const RUNS_FOR: u64 = 1_000;

/// A timer that fires this much too late shows that we were stopped; what starts gets as much time to show that
/// it is well.
const GRACE: Duration = Duration::from_secs(5);

impl<H: Hooks> Supervisor<H> {
    /// Send out a probe, if there is something to ask.
    pub(super) fn probe(&mut self) {
        self.next_probe = None;
        self.oom_kills_asked = self.oom_kills_now();
        let (Some(sandbox), Some(gateway)) = (&self.sandbox, &self.gateway) else { return };
        let (client, tell, launch) = (sandbox.client.clone(), self.tell_probe.clone(), gateway.launch);
        let age = self.age();
        match self.blueprint.adapter.health() {
            Some(spec) => {
                let Ok(proc) = sandbox.proc() else {
                    // Ours to blame: nothing was asked. Nobody there to hear it: see below.
                    let _ = tell.send((launch, Found::Health(Health::Unknown)));
                    return;
                };
                let settled = |since| self.now().saturating_sub(since) >= self.settings.settle;
                let (ready, canary) = match self.state.phase {
                    Phase::Ready { since, .. } => {
                        let due = self.canary_at.map_or(settled(since), |at| at <= Instant::now());
                        (true, due)
                    }
                    _ => (false, false),
                };
                // One that was found running has had its time to warm up.
                let judge = ready || gateway.adopted && age >= spec.warm_up_secs * 1000;
                let asking = Asking { spec, gateway: self.inside, init: sandbox.init(), judge, canary };
                drop(tokio::spawn(async move {
                    // Nobody there to hear it: the supervisor has ended.
                    let tell = |found| drop(tell.send((launch, found)));
                    probe::probe(&client, proc, &asking, tell).await;
                }));
            }
            // No way to ask: it is ready when it has run for a moment.
            None => {
                if age >= RUNS_FOR {
                    let stopped = sandbox.is_stopped(self.inside);
                    let health = if stopped { Health::Deaf } else { Health::Ready };
                    // As above.
                    let _ = tell.send((launch, Found::Health(health)));
                } else {
                    self.next_probe = Some(Instant::now() + Duration::from_millis(RUNS_FOR - age));
                }
            }
        }
    }

    /// Whether a start seems to have taken too long only because we did not run: it is looked at first.
    pub(super) fn looked_away(&mut self) -> bool {
        let Some(at) = self.state.timer(&self.settings).filter(|_| self.grace.is_none()) else {
            return false;
        };
        let late = self.started.elapsed().saturating_sub(Duration::from_millis(at)) > GRACE;
        if late && matches!(self.state.phase, Phase::Starting { .. }) {
            self.grace = Some(Instant::now() + GRACE);
            return true;
        }
        false
    }

    /// A probe's word.
    pub(super) async fn found(&mut self, launch: u64, found: Found) {
        if self.gateway.as_ref().is_none_or(|gateway| gateway.launch != launch) {
            return;
        }
        let data = |evidence: &Evidence| {
            let ms = |time: Duration| time.as_millis() as u64;
            json!({
                "launch": launch,
                "state": evidence.state.to_string(),
                "silent_ms": ms(evidence.silent),
                "ran_ms": ms(evidence.ran),
                "starved_ms": ms(evidence.starved),
            })
        };
        let health = match found {
            Found::Health(health) => health,
            Found::Proved => {
                let every = self.blueprint.adapter.health().and_then(|spec| spec.canary);
                let every = Duration::from_millis(every.map_or(0, |canary| canary.every_ms));
                if self.canary_at.is_none() {
                    self.hooks.record("proven", "the canary sings", json!({ "launch": launch }));
                }
                self.canary_at = Some(Instant::now() + every);
                Health::Ready
            }
            Found::NotProved(why) => {
                self.hooks.record("canary-failed", &why, json!({ "launch": launch }));
                return self.probed(launch, Health::Deaf);
            }
            Found::Hung(evidence) => {
                let what = format!("the gateway runs and does not answer: {evidence}");
                self.incident("deaf", what, data(&evidence));
                Health::Hung
            }
            Found::Starved(evidence) => {
                let what = format!("no answer, and no proof of a hang: {evidence}");
                return self.hooks.record("starved", &what, data(&evidence));
            }
            Found::InitHung(evidence) => {
                let what = format!("the sandbox's first process does not answer: {evidence}");
                self.incident("init-hung", what, data(&evidence));
                return self.give_up_sandbox().await;
            }
        };
        if health == Health::Ready {
            if self.port_is_taken().await {
                return;
            }
            self.oom_kills = self.oom_kills_asked;
        }
        self.probed(launch, health);
    }

    /// A sandbox whose init hangs, or whose mounts are not what they were, is of no use: the next one is made anew.
    pub(super) async fn give_up_sandbox(&mut self) {
        self.gateway_gone();
        if let Some(sandbox) = self.sandbox.take() {
            self.hooks.down();
            let _ = sandbox.tear_down().await;
        }
        self.feed(Event::SandboxLost);
    }
}
