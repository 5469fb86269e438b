//! One sandbox in the daemon: its supervisor's task, its proxy, its forward.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawkeep_egress::{Authority, Budget};
use clawkeep_guards::CA_BUNDLE;
use clawkeep_image::Depth;
use clawkeep_inference::LiveService;
use clawkeep_plan::{Digest, Tier};
use clawkeep_recovery::Phase;
use clawkeep_store::{Entry, Home, JournalWriter, SandboxRecord, Store, unix_ms};
use clawkeep_supervisor::{
    Blueprint, Door, Hooks, InitClient, Inside, Snapshot, Wish, initial_snapshot, supervise,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::agents::Agents;
use crate::api::Failure;
use crate::ca::{self, Ca};
use crate::config::{Config, blueprint};
use crate::enforce::Enforced;
use crate::forward;
use crate::mend::Mender;
use crate::policy::Setting;
use crate::proof::Prover;
use crate::refused::Refused;
use crate::say::say;
use crate::server::Daemon;
use crate::serving::{Beside, Served};
use crate::status::rfc3339;
use crate::system::whole_image;
use crate::vault::{SandboxSecrets, Vault};
use crate::witness::Witness;

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
    /// Proves that the route leads to the model.
    pub prover: Arc<Prover>,
    /// What else may leave it.
    pub policy: Enforced,
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
        let (launches, policy) = remembered(&daemon.store, record);
        let (tell_blueprint, told_blueprint) = watch::channel(Arc::new(blueprint.clone()));
        let (wishes, wished) = mpsc::unbounded_channel();
        let (tell, status) = watch::channel(initial_snapshot(launches));
        let (tell_client, client) = watch::channel(None);
        let (tell_root, root) = watch::channel(None);
        let beside = (config.isolation.tier == Tier::Landlock)
            .then(|| Beside { port: config.proxy_port(), uid: blueprint.spec.agent().0 });
        let lower = beside.is_some();
        let prover = Arc::new(Prover {
            name: record.name.clone(),
            client: client.clone(),
            root,
            status: status.clone(),
            inference: inference.clone(),
            journal: Arc::clone(&daemon.journal),
            port: config.proxy_port(),
            uid: beside.map(|beside| beside.uid).filter(|_| rustix::process::geteuid().is_root()),
            bundle: blueprint.spec.on_the_host(CA_BUNDLE).filter(|_| lower),
            proof: watch::Sender::new(None),
        });
        listen_to_route(&inference, record, &daemon.journal);
        let hooks = Around {
            record: record.clone(),
            journal: Arc::clone(&daemon.journal),
            mender: Mender::new(&daemon.home, &daemon.store, &daemon.journal, &record.name, &wishes),
            agents: Agents::of(daemon, record, ca_bundle, tell_blueprint),
            authority,
            inference: inference.clone(),
            client: tell_client,
            root: tell_root,
            listeners: config.listeners(),
            beside,
            proxy: Mutex::new(None),
            policy: policy.clone(),
            vault: Arc::clone(&daemon.vault),
            home: daemon.home.clone(),
            image: config.isolation.image,
            audit: daemon.home.sandbox(&record.name).root().to_owned(),
            restored: Mutex::new(Budget::new(30, Duration::from_secs(60))),
            denied_calls: Mutex::new(Budget::new(30, Duration::from_secs(60))),
        };
        if let Some(note) = note {
            hooks.record("ca-replaced", &note, serde_json::Value::Null);
        }
        if let Some(trouble) = policy.status().trouble {
            hooks.record("policy-unusable", &trouble, serde_json::Value::Null);
        }
        let door = Door::of(&blueprint);
        let mut tasks = vec![tokio::spawn(supervise(blueprint, launches, wished, tell, hooks))];
        tasks.push(tokio::spawn(policy.clone().expire()));
        tasks.push(tokio::spawn(Arc::clone(&prover).keep()));
        if let (Some(port), Some(door)) = (record.dashboard_port, door) {
            tasks.push(tokio::spawn(forward::serve(port, dashboard, door, client.clone())));
        }
        Ok(Self {
            wishes,
            wished: AtomicU64::new(0),
            status,
            blueprint: told_blueprint,
            client,
            inference,
            prover,
            policy,
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

/// What becomes of the route is written down as it is told, which is seldom.
fn listen_to_route(inference: &LiveService, record: &SandboxRecord, journal: &Arc<JournalWriter>) {
    let (name, journal) = (record.name.clone(), Arc::clone(journal));
    inference.current().meter().on_news(move |news| {
        say(format_args!("{} {name}: {}: {}", rfc3339(unix_ms()), news.kind, news.text));
        // Such a step names no sandbox.
        let next = news.next.map(|next| next.replace("NAME", name.as_str()));
        journal.record(Entry {
            at_ms: unix_ms(),
            sandbox: Some(name.clone()),
            kind: news.kind.into(),
            cause: news.text,
            data: serde_json::json!({
                "provider": news.provider, "model": news.model, "cause": news.cause, "next": next,
            }),
        });
    });
}

/// What the journal and the registry know: the number of the last launch, so that numbers go on over everything,
/// and the policy with what it refused.
fn remembered(store: &Store, record: &SandboxRecord) -> (u64, Enforced) {
    let events = store.tail(Some(&record.name), 500).unwrap_or_default();
    let launch = events.iter().filter_map(|event| event.entry.data["launch"].as_u64()).max().unwrap_or(0);
    let refused = Refused::default();
    refused.recall(events.iter().map(|event| &event.entry));
    let policy = match Setting::of(record) {
        Ok(setting) => Enforced::new(setting, refused),
        Err(why) => Enforced::nothing(why.to_string()),
    };
    (launch, policy)
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
    root: watch::Sender<Option<Arc<OwnedFd>>>,
    /// The ports inside that are served.
    listeners: Vec<u16>,
    beside: Option<Beside>,
    proxy: Mutex<Option<JoinHandle<()>>>,
    policy: Enforced,
    vault: Arc<Vault>,
    home: Home,
    /// The image that is its system.
    image: Option<Digest>,
    /// The sandbox's directory, where its audit log is.
    audit: PathBuf,
    restored: Mutex<Budget>,
    denied_calls: Mutex<Budget>,
}

impl Around {
    fn proxy(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, inside: Inside) -> Result<JoinHandle<()>, String> {
        let (events, told) = mpsc::channel(256);
        let name = &self.record.name;
        let secrets = Arc::new(SandboxSecrets { vault: Arc::clone(&self.vault), name: name.clone() });
        let served = Served {
            name,
            authority: &self.authority,
            inference: self.inference.clone(),
            policy: self.policy.live.clone(),
            verdicts: Arc::clone(&self.policy.verdicts),
            secrets,
            beside: self.beside,
        };
        let serving = served.serve(inside, events)?;
        let witness = Witness {
            name: name.clone(),
            journal: Arc::clone(&self.journal),
            refused: Arc::clone(&self.policy.refused),
            audit: self.audit.clone(),
        };
        tokio::spawn(witness.watch(told));
        Ok(serving)
    }
}

impl Hooks for Around {
    fn up(&self, client: InitClient, inside: Inside) -> Vec<u16> {
        // What cannot be looked at from outside is told by the next proof.
        self.root.send_replace(inside.root.try_clone().ok().map(Arc::new));
        let served = match self.serve(inside) {
            Ok(task) => {
                if let Some(old) = self.proxy().replace(task) {
                    old.abort();
                }
                self.listeners.clone()
            }
            Err(why) => {
                self.record("proxy-failed", &why, serde_json::Value::Null);
                Vec::new()
            }
        };
        self.client.send_replace(Some(client));
        served
    }

    fn down(&self) {
        self.client.send_replace(None);
        self.root.send_replace(None);
        if let Some(task) = self.proxy().take() {
            task.abort();
        }
    }

    fn denied_hosts(&self, within: Duration) -> Vec<String> {
        self.policy.refused.hosts(within, unix_ms())
    }

    async fn restore_agent(&self) -> Result<Option<Blueprint>, String> {
        self.agents.restore().await
    }

    async fn whole_system(&self) -> Result<(), String> {
        let Some(image) = self.image else { return Ok(()) };
        let (home, name) = (self.home.clone(), self.record.name.clone());
        let look = move || whole_image(&home, image, &name, Depth::Stamps);
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(mended)) => {
                if let Some(mended) = mended {
                    self.record("mended", &mended, serde_json::Value::Null);
                }
                Ok(())
            }
            Ok(Err(failure)) => Err(failure.to_string()),
            Err(error) => Err(error.to_string()),
        }
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
