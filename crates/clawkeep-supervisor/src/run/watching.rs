//! What happens in the real world, told to the core.

use std::time::Duration;

use clawkeep_agents::ExitVerdict;
use clawkeep_guards::Watcher;
use clawkeep_isolation::LOG;
use clawkeep_isolation::proto::{Ended, Event as InitEvent, Order};
use clawkeep_plan::{Receipt, ReceiptError, Shortfall};
use clawkeep_recovery::{Blame, Cause, Event, Health, Phase, Verdict};
use serde_json::json;
use tokio::time::Instant;

use super::{Hooks, Supervisor, launch_id, launch_number};
use crate::probe::Found;
use crate::sandbox::{Holder, adopt, ending};

/// How long after its first good answer a gateway's receipt may still be incomplete: it comes in pieces, by
/// another way than the answer.
const RECEIPT_GRACE: Duration = Duration::from_secs(2);

/// Between two probes of something that starts: often for what is quick, seldom for what takes long.
fn starting_probe(since_start_ms: u64) -> Duration {
    Duration::from_millis((since_start_ms / 8).clamp(10, 250))
}

/// Between two looks at `/tmp` where there is no watch on it.
const UNWATCHED: Duration = Duration::from_secs(1);

/// After a failed attempt to put published files back.
const REPUBLISH_AGAIN: Duration = Duration::from_millis(500);

/// What the log says of a published file that had to be put back.
pub(super) fn restored_line(name: &str) -> String {
    let what = match name {
        LOG => "linking the gateway's log again",
        _ => "restoring library guards from packaged preloads",
    };
    format!("[gateway-recovery] WARNING: /tmp/{name} missing or unsafe - {what}")
}

pub(super) enum Happened {
    Init(InitEvent),
    SandboxGone,
    Probed(u64, Found),
    Tampered(Vec<String>),
    WatchEnded(String),
    Timer,
    ProbeDue,
    RepublishDue,
}

/// Why an answer on the agent's port, or its launch, does not count.
pub(super) fn stranger(port: u16, uid: u32) -> String {
    format!("port {port} of this host is taken by user {uid} (ss -ltnp sport = :{port}): the agent needs it")
}

/// What the watch reports; without a watch, every second, that anything may have changed.
async fn watched(watcher: &mut Option<Watcher>) -> std::io::Result<Vec<String>> {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => {
            tokio::time::sleep(UNWATCHED).await;
            Ok(Vec::new())
        }
    }
}

impl<H: Hooks> Supervisor<H> {
    pub(super) async fn next(&mut self) -> Happened {
        let timer = self.state.timer(&self.settings).map(|at| self.started + Duration::from_millis(at));
        let timer = timer.map(|at| self.grace.map_or(at, |grace| at.max(grace)));
        let until = |at: Option<Instant>| async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let from_sandbox = async {
            match &mut self.sandbox {
                Some(sandbox) => tokio::select! {
                    event = sandbox.events.recv() => event.map_or(Happened::SandboxGone, Happened::Init),
                    changed = watched(&mut sandbox.watcher) => match changed {
                        Ok(names) => Happened::Tampered(names),
                        Err(error) => Happened::WatchEnded(error.to_string()),
                    },
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            happened = from_sandbox => happened,
            Some((launch, health)) = self.probes.recv() => Happened::Probed(launch, health),
            () = until(timer) => Happened::Timer,
            () = until(self.next_probe) => Happened::ProbeDue,
            () = until(self.republish_at) => Happened::RepublishDue,
        }
    }

    pub(super) async fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Init(InitEvent::Ended { id, how }) => self.ended(&id, how).await,
            Happened::Init(InitEvent::Receipt { id, text }) => {
                if let Some(launch) = launch_number(&id) {
                    self.look_at_receipt(launch, &text).await;
                }
            }
            Happened::Init(InitEvent::Denied { id, call }) => self.denied(&id, call),
            Happened::SandboxGone => self.lost_connection().await,
            Happened::Probed(launch, found) => self.found(launch, found).await,
            Happened::Tampered(names) => self.restore(&names).await,
            Happened::WatchEnded(why) => {
                self.hooks.record(
                    "watch-lost",
                    &format!("/tmp is looked at every second now: {why}"),
                    json!({}),
                );
                if let Some(sandbox) = &mut self.sandbox {
                    sandbox.watcher = None;
                }
            }
            Happened::Timer if self.looked_away() => {}
            Happened::Timer => {
                self.grace = None;
                if matches!(self.state.phase, Phase::Starting { .. }) {
                    let what = format!("not ready in {} s", self.settings.start_within / 1000);
                    self.incident("start-timeout", what, json!({}));
                }
                self.feed(Event::Timer);
            }
            Happened::ProbeDue => self.probe(),
            Happened::RepublishDue => {
                self.republish_at = None;
                self.restore(&[]).await;
            }
        }
    }

    /// The connection to init ended: as a rule because init did. If it lives, it cut us off because we did not
    /// listen for too long (a stopped daemon): its gateway is well, and we only have to come back.
    pub(super) async fn lost_connection(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(lost) = self.sandbox.take() else { return };
        self.hooks.down();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&lost.handle.pidfd, PollFlags::IN)], Some(&now)) != Ok(0);
        if !ended && let Ok(Some((again, children))) = adopt(&self.blueprint).await {
            self.hooks.record("reconnected", "the sandbox is there and had cut us off", json!({}));
            self.came_up(again);
            for child in &children {
                child.denied.iter().for_each(|call| self.denied(&child.id, *call));
            }
            let current = self.gateway.as_ref().map(|gateway| launch_id(gateway.launch));
            if let Some(child) = children.into_iter().find(|child| Some(&child.id) == current.as_ref()) {
                match (child.ended, launch_number(&child.id)) {
                    (Some(how), _) => self.ended(&child.id, how).await,
                    (None, Some(launch)) => {
                        self.look_at_receipt(launch, &child.receipt).await;
                        self.restore(&[]).await;
                    }
                    (None, None) => {}
                }
            }
            return;
        }
        self.incident("sandbox-lost", "the sandbox's first process is gone".into(), json!({}));
        self.gateway_gone();
        // The connection may have ended before the process: make sure.
        let _ = lost.tear_down().await;
        self.feed(Event::SandboxLost);
    }

    pub(super) async fn ended(&mut self, id: &str, how: Ended) {
        let Some(launch) = launch_number(id) else { return };
        if let Some(sandbox) = &self.sandbox {
            let _ = sandbox.client.order(Order::Forget { id: id.to_owned() }).await;
        }
        if self.gateway.as_ref().is_none_or(|gateway| gateway.launch != launch) {
            return;
        }
        let reading = self.blueprint.adapter.exit_reading(ending(how), self.terminated);
        let verdict = match reading.verdict {
            ExitVerdict::Ordered => Verdict::Ordered,
            ExitVerdict::CleanUnordered => Verdict::Wish,
            ExitVerdict::Crash | ExitVerdict::DiagnoseFirst => Verdict::Crash,
        };
        let how_text = match how {
            Ended::Exited(code) => format!("exit status {code}"),
            Ended::Signalled(signal) => format!("signal {signal}"),
        };
        let what = match &self.exec_failure {
            // The status says it too: a line alone could be anybody's who holds the pipe.
            Some(failure) if how == Ended::Exited(127) => format!("the gateway did not start: {failure}"),
            _ => format!("the gateway ended with {how_text}"),
        };
        let data = json!({ "launch": launch });
        let (what, blame) = if verdict == Verdict::Ordered {
            (what, Blame::Unknown)
        } else {
            let diagnosis = self.diagnosis(how).await;
            self.hooks.record("diagnosis", diagnosis.cause.summary(), json!(diagnosis));
            match diagnosis.cause {
                Cause::Unknown | Cause::Killed => (what, diagnosis.blame),
                cause => (format!("{what}. {}", cause.summary()), diagnosis.blame),
            }
        };
        if verdict == Verdict::Ordered {
            self.hooks.record("ended", &what, data);
        } else {
            self.incident("ended", what, data);
        }
        self.gateway_gone();
        self.feed(Event::Ended { launch, verdict, blame });
    }

    pub(super) async fn look_at_receipt(&mut self, launch: u64, text: &str) {
        if self.gateway.as_ref().is_none_or(|gateway| gateway.launch != launch) {
            return;
        }
        let reject = |supervisor: &mut Self, reason: String| {
            let command = format!("clawkeep {} recover", supervisor.blueprint.name);
            supervisor.incident("receipt-rejected", reason.clone(), json!({ "launch": launch }));
            supervisor.feed(Event::ReceiptRejected { launch, reason, command });
        };
        match Receipt::parse(text.as_bytes()) {
            Ok(receipt) => {
                let Some(sandbox) = &self.sandbox else { return };
                let shortfalls = match sandbox.expected(self.plan(), self.seccomp) {
                    // Damaged since it was verified. No process inside can do that, and nobody need decide
                    // anything: another sandbox is made.
                    Ok(expected) if !expected.wrong_mounts.is_empty() => {
                        let what = format!("the sandbox is damaged: {}", expected.wrong_mounts.join(", "));
                        self.incident("damaged", what, json!({ "launch": launch }));
                        return self.give_up_sandbox().await;
                    }
                    Ok(expected) => receipt.check(self.plan(), &expected),
                    // Without something to hold it against it is no receipt: the start runs into its time.
                    Err(error) => {
                        let what = format!("the receipt cannot be checked: {error}");
                        return self.incident("receipt-unchecked", what, json!({ "launch": launch }));
                    }
                };
                if shortfalls.is_empty() {
                    // It grows: guards that are not critical may come after those that are.
                    if self.receipt.replace(receipt.clone()).is_some() {
                        return;
                    }
                    self.hooks.record(
                        "receipt",
                        "as planned",
                        json!({ "launch": launch, "receipt": receipt }),
                    );
                    return self.feed(Event::ReceiptAccepted { launch });
                }
                let final_ones: Vec<_> =
                    shortfalls.iter().filter(|s| !matches!(s, Shortfall::GuardMissing(_))).collect();
                let text =
                    |all: &[&Shortfall]| all.iter().map(|s| s.to_string()).collect::<Vec<_>>().join("; ");
                if final_ones.is_empty() {
                    // Guards load one after the other: more may come.
                    self.unloaded = Some(text(&shortfalls.iter().collect::<Vec<_>>()));
                } else {
                    let reason = text(&final_ones);
                    reject(self, reason);
                }
            }
            Err(ReceiptError::NoIsolation) => {}
            // It ends by itself, and the end is what counts.
            Err(error @ ReceiptError::ExecFailed { .. }) => self.exec_failure = Some(error.to_string()),
            Err(error) => reject(self, error.to_string()),
        }
    }

    /// Somebody else answers in the gateway's place: all in the sandbox is ended, and the gateway starts again.
    pub(super) async fn port_is_taken(&mut self) -> bool {
        let (Some(sandbox), Some(spec)) = (&self.sandbox, self.blueprint.adapter.health()) else {
            return false;
        };
        let Some(launch) = self.gateway.as_ref().map(|gateway| gateway.launch) else { return false };
        match sandbox.whose(spec.port, self.inside).await {
            Holder::Gateway => return false,
            Holder::Session => {}
            Holder::Nobody => {
                self.probed(launch, Health::Deaf);
                return true;
            }
            Holder::Stranger(uid) => {
                // Nobody's to end but its own; the agent goes by itself when it cannot have the port.
                let what = stranger(spec.port, uid);
                if self.last_incident.as_ref().is_none_or(|(_, last)| *last != what) {
                    self.incident("port-taken", what, json!({ "launch": launch }));
                }
                self.probed(launch, Health::Deaf);
                return true;
            }
        }
        sandbox.kill_all().await;
        let what = format!("port {} was taken by a process of a session; all sessions were ended", spec.port);
        self.incident("port-taken", what, json!({}));
        // The gateway's end comes as an event.
        true
    }

    pub(super) fn probed(&mut self, launch: u64, health: Health) {
        if self.gateway.as_ref().is_none_or(|gateway| gateway.launch != launch) {
            return;
        }
        let serving = matches!(self.state.phase, Phase::Ready { .. });
        if health == Health::Ready && self.receipt.is_none() {
            let Some(reason) = self.unloaded.clone().filter(|_| self.blueprint.adapter.health().is_some())
            else {
                // The receipt is on its way behind this answer; or nothing was asked but whether it runs, and
                // its guards have not loaded yet.
                self.next_probe = Some(Instant::now() + starting_probe(0));
                return;
            };
            let since = *self.serves_unguarded.get_or_insert_with(Instant::now);
            if since.elapsed() < RECEIPT_GRACE {
                // The rest of the receipt may be on its way.
                self.next_probe = Some(Instant::now() + starting_probe(0));
                return;
            }
            // It serves, and its guards never loaded: exactly what must not be.
            let command = format!("clawkeep {} recover", self.blueprint.name);
            self.incident("receipt-rejected", reason.clone(), json!({ "launch": launch }));
            return self.feed(Event::ReceiptRejected { launch, reason, command });
        }
        if serving && health == Health::Deaf {
            self.hooks.record(
                "missed",
                "a probe was not answered as it should be",
                json!({ "launch": launch }),
            );
        }
        self.feed(Event::Probed { launch, health });
        if matches!(health, Health::Ready | Health::Alive) {
            self.note_health();
        }
        if serving && health == Health::Deaf && !matches!(self.state.phase, Phase::Ready { .. }) {
            self.incident("deaf", "the gateway runs and does not answer".into(), json!({ "launch": launch }));
        }
        if self.gateway.is_some() {
            let age = self.age();
            let ready = matches!(self.state.phase, Phase::Ready { .. });
            self.next_probe = Some(Instant::now() + if ready { self.pause() } else { starting_probe(age) });
        }
    }

    /// Published files were touched: put them back, now.
    pub(super) async fn restore(&mut self, names: &[String]) {
        let Some(sandbox) = &self.sandbox else { return };
        match sandbox.publish(&self.blueprint) {
            Ok(restored) => {
                self.unpublished = None;
                for (name, found) in restored {
                    // Our own publishing before the first launch is seen as well.
                    if self.gateway.is_some() {
                        let what = format!("/tmp/{name} was {found:?} and is restored").to_lowercase();
                        self.log(restored_line(&name)).await;
                        self.hooks.record("restored", &what, json!({}));
                    }
                }
            }
            Err(reason) => {
                if self.unpublished.as_ref() != Some(&reason) {
                    self.incident("unpublished", reason.clone(), json!({ "names": names }));
                }
                self.unpublished = Some(reason);
                self.republish_at = Some(Instant::now() + REPUBLISH_AGAIN);
            }
        }
    }
}
