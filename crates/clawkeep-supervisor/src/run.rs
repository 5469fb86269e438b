//! The loop: real events go into the recovery core, its actions are carried out.

mod acting;
mod denied;
mod evidence;
mod probation;
mod probing;
mod watching;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawkeep_plan::{Digest, LaunchPlan, Receipt};
use clawkeep_recovery::story::CORE;
use clawkeep_recovery::{Action, Event, Phase, Rung, Settings, State, step};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::blueprint::Blueprint;
use crate::client::InitClient;
use crate::probe::Found;
use crate::sandbox::Sandbox;
use crate::snapshot::{Gateway, Snapshot};

pub use denied::DeniedCalls;

/// Between two looks at something that runs and cannot be asked.
const UNASKED: Duration = Duration::from_secs(10);

/// What the host side does around a sandbox: serve its listeners, keep its journal.
pub trait Hooks: Send + Sync + 'static {
    /// A sandbox is there: serve its sockets from now on. Gives the ports that are served; a launch that needs
    /// another one is refused.
    fn up(&self, client: InitClient, inside: Inside) -> Vec<u16>;
    /// It is gone.
    fn down(&self);
    /// The hosts that its proxy refused in this last while, the newest last. Hostile text.
    fn denied_hosts(&self, within: Duration) -> Vec<String>;
    /// Repair the agent's files, or put its last healthy version back. Gives the blueprint that follows when
    /// something is different now, `None` when there was nothing to do.
    fn restore_agent(&self) -> impl Future<Output = Result<Option<Blueprint>, String>> + Send;
    /// Before a sandbox is made: see that the system that it is to have is whole, and make it so. The reason where it
    /// cannot be.
    fn whole_system(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// Write down what happened and why.
    fn record(&self, kind: &str, cause: &str, data: serde_json::Value);
}

/// What the host side serves of a sandbox, and looks through.
#[derive(Debug)]
pub struct Inside {
    /// Listening TCP sockets (non-blocking) on the loopback inside, with their ports.
    pub listeners: Vec<(u16, OwnedFd)>,
    /// Bound UDP sockets (non-blocking), likewise.
    pub datagrams: Vec<(u16, OwnedFd)>,
    /// A `NETLINK_SOCK_DIAG` socket of its network namespace, made for whoever gets it.
    pub diagnostics: OwnedFd,
    /// Its `/proc`.
    pub proc: OwnedFd,
    /// Its root directory; in the lower tier the host's.
    pub root: OwnedFd,
}

impl Inside {
    fn try_clone(&self) -> std::io::Result<Self> {
        let twins = |sockets: &[(u16, OwnedFd)]| {
            sockets.iter().map(|(port, fd)| Ok((*port, fd.try_clone()?))).collect::<std::io::Result<_>>()
        };
        Ok(Self {
            listeners: twins(&self.listeners)?,
            datagrams: twins(&self.datagrams)?,
            diagnostics: self.diagnostics.try_clone()?,
            proc: self.proc.try_clone()?,
            root: self.root.try_clone()?,
        })
    }
}

/// What a person can want of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Should run.
    Start,
    /// Should not.
    Stop,
    /// Repair what needs repair.
    Recover,
    /// Restart even a healthy gateway.
    Restart,
    /// The gateway is about to be killed on purpose: its end is no failure. Changes nothing by itself.
    Rehearse,
}

/// Supervise one sandbox until the wishes end. `launches` is the number of the last launch that the journal
/// knows. The sandbox is left as it is when this returns: the next supervisor adopts it.
pub async fn supervise(
    blueprint: Blueprint,
    launches: u64,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
    status: watch::Sender<Snapshot>,
    hooks: impl Hooks,
) {
    let mut supervisor = match Supervisor::new(blueprint, launches, status, hooks) {
        Ok(supervisor) => supervisor,
        Err((hooks, reason)) => return hooks.record("broken", &reason, json!({})),
    };
    supervisor.find_earlier().await;
    supervisor.publish_status();
    loop {
        supervisor.act().await;
        supervisor.publish_status();
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(wish) => supervisor.wish(wish),
                None => return,
            },
            happened = supervisor.next() => supervisor.happened(happened).await,
        }
    }
}

/// The state of a supervisor before it has looked: what watchers see first.
pub fn initial_snapshot(launches: u64) -> Snapshot {
    Snapshot {
        looked: false,
        wishes: 0,
        phase: Phase::Stopped,
        wanted: false,
        safe: false,
        rung: Rung::Respawn,
        launches,
        limits: None,
        gateway: None,
        receipt: None,
        denied: DeniedCalls::default(),
        unpublished: None,
        next_attempt_at: None,
        last_incident: None,
    }
}

struct Supervisor<H> {
    blueprint: Blueprint,
    settings: Settings,
    hooks: H,
    status: watch::Sender<Snapshot>,
    /// Taken so far.
    wishes: u64,
    state: State,
    actions: VecDeque<Action>,
    started: Instant,
    seccomp: Digest,
    sandbox: Option<Sandbox>,
    gateway: Option<Gateway>,
    /// Since when it has run, whatever becomes of the clock on the wall.
    began: Instant,
    /// Its pid as the sandbox sees it.
    inside: i32,
    /// Processes of the sandbox that had been killed for lack of memory when it was launched or found, or when it
    /// was last asked and answered: what it survived is not what ends it later.
    oom_kills: u64,
    /// The same when the newest probe was sent out.
    oom_kills_asked: u64,
    receipt: Option<Receipt>,
    denied: DeniedCalls,
    /// What was healthy before, and what the present launch was made with.
    probation: probation::Probation,
    /// How long the log was when the present launch was made.
    log_from: u64,
    /// Critical guards that have not reported yet.
    unloaded: Option<String>,
    /// Since when it answers while guards have not reported.
    serves_unguarded: Option<Instant>,
    /// Why the program could not be executed.
    exec_failure: Option<String>,
    terminated: bool,
    unpublished: Option<String>,
    last_incident: Option<(u64, String)>,
    next_probe: Option<Instant>,
    republish_at: Option<Instant>,
    tell_probe: mpsc::UnboundedSender<(u64, Found)>,
    probes: mpsc::UnboundedReceiver<(u64, Found)>,
    /// When the canary is to be asked next; `None`: at the first probe after it has settled.
    canary_at: Option<Instant>,
    /// The timer of a start does not count before: we could not look at it ourselves until now.
    grace: Option<Instant>,
}

fn settings(blueprint: &Blueprint) -> Settings {
    let warm_up = blueprint.adapter.health().map(|spec| spec.warm_up_secs * 1000);
    Settings {
        start_within: warm_up.unwrap_or(60_000),
        settle: u64::try_from(blueprint.settle.as_millis()).unwrap_or(u64::MAX),
        // A minute by default; who shortens the one shortens the other.
        steady: u64::try_from(blueprint.settle.as_millis() * 12 / 5).unwrap_or(u64::MAX),
        safe_mode: blueprint.safe.is_some(),
        recover: format!("clawkeep {} recover", blueprint.name),
        ..Settings::default()
    }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The name of a launch in init's memory.
fn launch_id(number: u64) -> String {
    format!("gateway-{number}")
}

fn launch_number(id: &str) -> Option<u64> {
    id.strip_prefix("gateway-")?.parse().ok()
}

impl<H: Hooks> Supervisor<H> {
    fn new(
        blueprint: Blueprint,
        launches: u64,
        status: watch::Sender<Snapshot>,
        hooks: H,
    ) -> Result<Self, (H, String)> {
        let seccomp = match blueprint.spec.programs(blueprint.plan.sealing.netlink) {
            Ok(programs) => programs.digest(),
            Err(error) => return Err((hooks, error.to_string())),
        };
        let settings = settings(&blueprint);
        let probation = probation::Probation::of(&blueprint);
        let mut state = State::new(unix_ms() ^ u64::from(std::process::id()) << 32);
        state.launches = launches;
        let (tell_probe, probes) = mpsc::unbounded_channel();
        Ok(Self {
            blueprint,
            settings,
            hooks,
            status,
            wishes: 0,
            state,
            actions: VecDeque::new(),
            started: Instant::now(),
            seccomp,
            sandbox: None,
            gateway: None,
            began: Instant::now(),
            inside: 0,
            oom_kills: 0,
            oom_kills_asked: 0,
            receipt: None,
            denied: DeniedCalls::default(),
            probation,
            log_from: 0,
            unloaded: None,
            serves_unguarded: None,
            exec_failure: None,
            terminated: false,
            unpublished: None,
            last_incident: None,
            next_probe: None,
            republish_at: None,
            tell_probe,
            probes,
            canary_at: None,
            grace: None,
        })
    }

    /// What the last launch was made of.
    fn plan(&self) -> &LaunchPlan {
        match &self.blueprint.safe {
            Some(safe) if self.state.safe => &safe.plan,
            _ => &self.blueprint.plan,
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Until the next probe of a ready gateway: a period, or less where it settles before.
    fn pause(&self) -> Duration {
        let period = self.blueprint.adapter.health().map_or(UNASKED, |spec| spec.period());
        let Phase::Ready { since, .. } = self.state.phase else { return period };
        match since.saturating_add(self.settings.settle).saturating_sub(self.now()) {
            0 => period,
            left => period.min(Duration::from_millis(left)),
        }
    }

    /// For how long the gateway has run, in milliseconds.
    fn age(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn wish(&mut self, wish: Wish) {
        self.wishes += 1;
        self.hooks.record("wish", &format!("{wish:?}").to_lowercase(), json!({}));
        self.feed(match wish {
            Wish::Start => Event::OrderStart,
            Wish::Stop => Event::OrderStop,
            Wish::Recover => Event::OrderRecover,
            Wish::Restart => Event::OrderRestart,
            Wish::Rehearse => {
                self.terminated = true;
                return;
            }
        });
    }

    fn feed(&mut self, event: Event) {
        let now = self.now();
        let (state, actions) = step(self.state.clone(), event.clone(), now, &self.settings);
        let entered = std::mem::discriminant(&self.state.phase) != std::mem::discriminant(&state.phase);
        if state != self.state || !actions.is_empty() {
            // All that a replay needs to decide the same again.
            let data = json!({
                "core": CORE, "before": self.state, "event": event, "now": now,
                "settings": self.settings, "after": state, "actions": actions,
            });
            self.hooks.record("step", "", data);
        }
        self.state = state;
        self.actions.extend(actions);
        match (&self.state.phase, entered) {
            (Phase::Ready { launch, .. }, true) => {
                self.hooks.record("ready", "it serves", json!({ "launch": launch }));
                if let Some(gateway) = self.gateway.as_mut().filter(|gateway| !gateway.adopted) {
                    gateway.ready_at.get_or_insert_with(unix_ms);
                }
                self.next_probe = Some(Instant::now() + self.pause());
            }
            (Phase::Backoff { until }, true) => {
                self.hooks.record(
                    "backoff",
                    &format!("{event:?}"),
                    json!({ "in_ms": until.saturating_sub(self.now()) }),
                );
            }
            (Phase::Held { reason, command, .. }, true) => {
                self.hooks.record("held", reason, json!({ "command": command }));
            }
            (Phase::Starting { .. } | Phase::Ready { .. }, _) => {}
            _ => self.next_probe = None,
        }
    }

    fn incident(&mut self, kind: &str, what: String, data: serde_json::Value) {
        self.hooks.record(kind, &what, data);
        self.last_incident = Some((unix_ms(), what));
    }

    fn publish_status(&self) {
        let wait = match self.state.phase {
            Phase::Backoff { until: at } | Phase::Held { retry_at: Some(at), .. } => {
                Some(unix_ms() + at.saturating_sub(self.now()))
            }
            _ => None,
        };
        self.status.send_replace(Snapshot {
            looked: true,
            wishes: self.wishes,
            phase: self.state.phase.clone(),
            wanted: self.state.wanted,
            safe: self.state.safe,
            rung: self.state.ladder.rung,
            launches: self.state.launches,
            limits: self.sandbox.as_ref().map(|sandbox| Arc::clone(&sandbox.limits)),
            gateway: self.gateway.clone(),
            receipt: self.receipt.clone(),
            denied: self.denied.clone(),
            unpublished: self.unpublished.clone(),
            next_attempt_at: wait,
            last_incident: self.last_incident.clone(),
        });
    }

    /// Carry out what the core wants, one after the other; each outcome may want more.
    async fn act(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Prepare => self.prepare().await,
                Action::Restore { what } => self.restore_healthy(what).await,
                Action::Clear { thorough } => self.clear(thorough).await,
                Action::Launch { launch, safe } => self.launch(launch, safe).await,
                Action::Terminate => self.terminate().await,
                Action::TearDown => self.tear_down().await,
            }
            self.publish_status();
        }
    }
}
