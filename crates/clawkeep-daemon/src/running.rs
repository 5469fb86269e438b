//! One sandbox in the daemon: its supervisor's task, its proxy, its forward.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_egress::{Authority, Proxy, Verdict};
use clawkeep_inference::LiveService;
use clawkeep_plan::Tier;
use clawkeep_recovery::Phase;
use clawkeep_store::{Entry, JournalWriter, SandboxRecord, Store, unix_ms};
use clawkeep_supervisor::{Blueprint, Hooks, InitClient, Snapshot, Wish, initial_snapshot, supervise};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::agents::Agents;
use crate::api::Failure;
use crate::ca::{self, Ca};
use crate::config::{Config, blueprint};
use crate::denied::Denied;
use crate::forward;
use crate::mend::Mender;
use crate::say::say;
use crate::server::Daemon;

/// A sandbox that is supervised.
pub struct Running {
    /// How a wish gets to its supervisor.
    wishes: mpsc::UnboundedSender<Wish>,
    wished: AtomicU64,
    /// What its supervisor knows.
    pub status: watch::Receiver<Snapshot>,
    blueprint: watch::Receiver<Arc<Blueprint>>,
    /// The connection to its init while there is one.
    pub client: watch::Receiver<Option<InitClient>>,
    /// The route behind `inference.local`.
    pub inference: LiveService,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Begin to supervise: adopt what runs, and nothing more until it is wished.
    pub fn begin(
        daemon: &Daemon,
        record: &SandboxRecord,
        inference: LiveService,
        dashboard: Option<tokio::net::TcpListener>,
    ) -> Result<Self, Failure> {
        let config = Config::of(record)?;
        let Ca { authority, bundle: ca_bundle, note } = ca::ready(&daemon.home.sandbox(&record.name).ca())?;
        let blueprint = blueprint(&daemon.home, &daemon.program, record, &config, &ca_bundle)?;
        let launches = last_launch(&daemon.store, record);
        let (tell_blueprint, told_blueprint) = watch::channel(Arc::new(blueprint.clone()));
        let (wishes, wished) = mpsc::unbounded_channel();
        let (tell, status) = watch::channel(initial_snapshot(launches));
        let (tell_client, client) = watch::channel(None);
        let hooks = Around {
            record: record.clone(),
            journal: Arc::clone(&daemon.journal),
            mender: Mender::new(&daemon.home, &daemon.store, &daemon.journal, &record.name, &wishes),
            agents: Agents::of(daemon, record, ca_bundle, tell_blueprint),
            authority,
            inference: inference.clone(),
            client: tell_client,
            proxy_port: config.proxy_port(),
            // The host's loopback is everybody's.
            only_for: (config.isolation.tier == Tier::Landlock).then(|| blueprint.spec.agent().0),
            proxy: Mutex::new(None),
            denied: Arc::default(),
            restored: Mutex::new(Budget::new(30, Duration::from_secs(60))),
            denied_calls: Mutex::new(Budget::new(30, Duration::from_secs(60))),
        };
        if let Some(note) = note {
            hooks.record("ca-replaced", &note, serde_json::Value::Null);
        }
        let mut tasks = vec![tokio::spawn(supervise(blueprint, launches, wished, tell, hooks))];
        if let (Some(port), Some(inner)) = (record.dashboard_port, config.inner_port()) {
            tasks.push(tokio::spawn(forward::serve(port, dashboard, inner, client.clone())));
        }
        Ok(Self {
            wishes,
            wished: AtomicU64::new(0),
            status,
            blueprint: told_blueprint,
            client,
            inference,
            tasks,
        })
    }

    /// What it is made of.
    pub fn blueprint(&self) -> Arc<Blueprint> {
        Arc::clone(&self.blueprint.borrow())
    }

    /// Wish something of it.
    pub fn wish(&self, wish: Wish) -> Result<(), Failure> {
        self.wished.fetch_add(1, Ordering::SeqCst);
        self.wishes.send(wish).map_err(|_| self.ended())
    }

    /// Nobody is there any more to hear a wish.
    pub fn ended(&self) -> Failure {
        let what = format!("the supervisor of {} has ended", self.blueprint().name);
        Failure::new("supervisor-ended", what, "clawkeep status".to_owned())
    }

    /// Wait until every wish so far was taken.
    pub async fn heard(&self) -> Result<(), Failure> {
        let wished = self.wished.load(Ordering::SeqCst);
        let mut status = self.status.clone();
        status.wait_for(|snapshot| snapshot.wishes >= wished).await.map(drop).map_err(|_| self.ended())
    }

    /// Wait until every wish so far was taken and it is stopped: nothing is under way then. Before they were
    /// taken it may look stopped, with a start still before it.
    pub async fn stopped(&self) -> Result<(), watch::error::RecvError> {
        let wished = self.wished.load(Ordering::SeqCst);
        let mut status = self.status.clone();
        let stopped = |snapshot: &Snapshot| {
            snapshot.wishes >= wished && snapshot.phase == Phase::Stopped && !snapshot.wanted
        };
        status.wait_for(stopped).await.map(drop)
    }

    /// Whether it was told more than it has taken so far.
    pub fn has_untaken_wishes(&self, snapshot: &Snapshot) -> bool {
        self.wished.load(Ordering::SeqCst) > snapshot.wishes
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The number of the last launch that the journal knows, so that numbers go on over everything.
fn last_launch(store: &Store, record: &SandboxRecord) -> u64 {
    let events = store.tail(Some(&record.name), 500).unwrap_or_default();
    events.iter().filter_map(|event| event.entry.data["launch"].as_u64()).max().unwrap_or(0)
}

/// What the daemon does around a sandbox.
struct Around {
    record: SandboxRecord,
    journal: Arc<JournalWriter>,
    agents: Agents,
    mender: Mender,
    authority: Authority,
    inference: LiveService,
    client: watch::Sender<Option<InitClient>>,
    proxy_port: u16,
    /// Whom alone the proxy serves, by uid.
    only_for: Option<u32>,
    proxy: Mutex<Option<JoinHandle<()>>>,
    denied: Arc<Denied>,
    restored: Mutex<Budget>,
    denied_calls: Mutex<Budget>,
}

/// Some at once, then one an interval.
struct Budget {
    left: u32,
    most: u32,
    interval: Duration,
    refilled: Instant,
}

impl Budget {
    fn new(most: u32, interval: Duration) -> Self {
        Self { left: most, most, interval, refilled: Instant::now() }
    }

    fn take(&mut self) -> bool {
        while self.left < self.most && self.refilled.elapsed() >= self.interval {
            self.left += 1;
            self.refilled += self.interval;
        }
        if self.left == self.most {
            self.refilled = Instant::now();
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl Around {
    fn proxy(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: OwnedFd) -> Result<JoinHandle<()>, String> {
        let (verdicts, mut told) = mpsc::channel::<Verdict>(64);
        let proxy =
            Proxy::new(&self.authority, self.inference.clone(), verdicts).map_err(|e| e.to_string())?;
        let proxy = match self.only_for {
            Some(uid) => proxy.only_for(uid),
            None => proxy,
        };
        let listener = tokio::net::TcpListener::from_std(std::net::TcpListener::from(listener))
            .map_err(|e| e.to_string())?;
        let (journal, name) = (Arc::clone(&self.journal), self.record.name.clone());
        let denied = Arc::clone(&self.denied);
        tokio::spawn(async move {
            let (mut last, mut budget) = (None, Budget::new(30, Duration::from_secs(60)));
            while let Some(verdict) = told.recv().await {
                if verdict.allows() {
                    continue;
                }
                denied.note(&verdict.host);
                // The same again is told once, and others at a bounded rate: an agent that asks for ever must
                // not push the sandbox's history out of the journal.
                if last.as_ref() != Some(&verdict) && budget.take() {
                    let data = serde_json::to_value(&verdict).unwrap_or_default();
                    let (sandbox, cause) = (Some(name.clone()), verdict.message());
                    journal.record(Entry { at_ms: unix_ms(), sandbox, kind: "denied".into(), cause, data });
                    last = Some(verdict);
                }
            }
        });
        Ok(tokio::spawn(proxy.serve(listener, std::future::pending())))
    }
}

impl Hooks for Around {
    fn up(&self, client: InitClient, listeners: Vec<(u16, OwnedFd)>) -> Vec<u16> {
        let mut served = Vec::new();
        for (port, listener) in listeners {
            if port == self.proxy_port {
                match self.serve(listener) {
                    Ok(task) => {
                        served.push(port);
                        if let Some(old) = self.proxy().replace(task) {
                            old.abort();
                        }
                    }
                    Err(why) => self.record("proxy-failed", &why, serde_json::Value::Null),
                }
            }
        }
        self.client.send_replace(Some(client));
        served
    }

    fn down(&self) {
        self.client.send_replace(None);
        if let Some(task) = self.proxy().take() {
            task.abort();
        }
    }

    fn denied_hosts(&self, within: Duration) -> Vec<String> {
        self.denied.within(within)
    }

    async fn restore_agent(&self) -> Result<Option<Blueprint>, String> {
        self.agents.restore().await
    }

    fn record(&self, kind: &str, cause: &str, data: serde_json::Value) {
        // The agent can cause these as often as it likes.
        let budget = match kind {
            "restored" => Some(&self.restored),
            "denied" => Some(&self.denied_calls),
            _ => None,
        };
        if budget.is_some_and(|budget| !budget.lock().unwrap_or_else(PoisonError::into_inner).take()) {
            return;
        }
        if kind == "refused" {
            self.mender.refused(cause);
        }
        // Steps are for the replay; what they are about is told by other entries.
        if kind != "step" {
            say(format_args!(
                "{} {}: {kind}: {cause}",
                humantime::format_rfc3339_millis(std::time::SystemTime::now()),
                self.record.name
            ));
        }
        self.journal.record(Entry {
            at_ms: unix_ms(),
            sandbox: Some(self.record.name.clone()),
            kind: kind.to_owned(),
            cause: cause.to_owned(),
            data,
        });
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        self.down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_some_at_once_and_then_only_with_time() {
        let mut budget = Budget::new(2, Duration::from_secs(3_600));
        assert_eq!([(); 4].map(|()| budget.take()), [true, true, false, false]);
        let mut refilled = Budget::new(2, Duration::ZERO);
        assert_eq!([(); 4].map(|()| refilled.take()), [true; 4]);
    }
}
