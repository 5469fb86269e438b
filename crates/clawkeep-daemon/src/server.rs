//! The daemon's own state, and what each request does with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_inference::{LiveService, MAX_FALLBACKS, Route, RouteError, Secret, Service, Timeouts};
use clawkeep_isolation::proto::Order;
use clawkeep_plan::SandboxName;
use clawkeep_recovery::Phase;
use clawkeep_store::{
    Credentials, Desired, Home, JournalWriter, SandboxRecord, SecretError, Secrets, Span, Store, StoreError,
};
use clawkeep_supervisor::{Snapshot, Wish};

pub use crate::api::credentials::ROUTE_KEY;
use crate::api::{Answer, DaemonStatus, Failure, Rehearsal, Request, SandboxStatus, Status, Value};
use crate::config::Config;
use crate::manager::Manager;
use crate::metrics::{self, Metrics};
use crate::redaction::{redaction, stored};
use crate::running::Running;
use crate::say::say;
use crate::sessions::{self, Session, sandbox_down};
use crate::status::{phase_word, rfc3339, status};
use crate::system::sweep_images;
use crate::tally::Tally;
use crate::vault::Vault;
use crate::wire::Asker;
use crate::{create, credentials, fallback, policy, proof, rebuild, route, turn};

/// How long a stop may take before it is reported as stuck (it goes on).
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// How long a starting daemon waits for one supervisor's first look before it serves.
const RESUME_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer about the journal waits for what is not yet written down.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// How long a rehearsal waits for the agent to be back.
const REHEARSAL_PATIENCE: Duration = Duration::from_secs(240);

/// The name under which the key of a route is kept (0), or of one of its fall-backs (1 and up).
pub fn key_name(index: usize) -> String {
    if index == 0 { ROUTE_KEY.to_owned() } else { format!("fallback-key-{index}") }
}

type Slot = Result<Arc<Running>, Failure>;

/// The daemon.
pub struct Daemon {
    pub home: Home,
    pub store: Arc<Store>,
    pub journal: Arc<JournalWriter>,
    pub secrets: Secrets,
    pub vault: Arc<Vault>,
    pub tally: Arc<Tally>,
    pub metrics: Metrics,
    pub program: PathBuf,
    pub started_at: u64,
    pub shutdown: tokio::sync::Notify,
    pub creating: tokio::sync::Mutex<()>,
    pub probed: Mutex<Option<(Instant, Option<String>)>>,
    sandboxes: Mutex<BTreeMap<SandboxName, Slot>>,
}

pub fn store_failed(error: StoreError) -> Failure {
    Failure::new("store-failed", error.to_string(), "df -h, and clawkeep status".to_owned())
}

impl Daemon {
    pub fn new(home: Home, store: Arc<Store>, journal: Arc<JournalWriter>, program: PathBuf) -> Self {
        let secrets = Secrets::new(&home);
        Self {
            vault: Arc::new(Vault::new(Credentials::new(&secrets))),
            tally: Arc::new(Tally::new(&home)),
            metrics: Metrics::new(&home),
            secrets,
            home,
            store,
            journal,
            program,
            started_at: clawkeep_store::unix_ms(),
            shutdown: tokio::sync::Notify::new(),
            creating: tokio::sync::Mutex::new(()),
            probed: Mutex::default(),
            sandboxes: Mutex::default(),
        }
    }

    pub fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<SandboxName, Slot>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Supervise everything that the registry knows, and wait until each supervisor has looked for what it
    /// finds running: nobody must hear "stopped" of a sandbox that is well. Gives those that should run and do
    /// not: they are to be started.
    pub async fn resume(&self) -> Result<Vec<SandboxName>, StoreError> {
        let mut records = self.store.list()?;
        // Routes that a daemon was setting when it died.
        let (mut finished, mut outdated) = (Vec::new(), Vec::new());
        for record in &mut records {
            match route::finish(self, record) {
                Ok(None) => {}
                Ok(Some((changed, in_its_configuration))) => {
                    finished.push(changed.name.clone());
                    if in_its_configuration {
                        outdated.push(changed.name.clone());
                    }
                    *record = changed;
                }
                Err(why) => self.note("route-not-finished", &format!("{}: {why}", record.name)),
            }
        }
        records.iter().for_each(|record| self.supervise_quietly(record, None));
        let mut waiting = Vec::new();
        for record in records {
            let Some(Ok(running)) = self.slots().get(&record.name).cloned() else { continue };
            let mut status = running.status.clone();
            // One that takes longer is told about as it is.
            let _ = tokio::time::timeout(RESUME_PATIENCE, status.wait_for(|snapshot| snapshot.looked)).await;
            let found = running.status.borrow().phase != Phase::Stopped;
            // The supervisors were begun just now and listen.
            let _ = match record.desired {
                Desired::Stopped => running.wish(Wish::Stop),
                Desired::Running if found && outdated.contains(&record.name) => running.wish(Wish::Restart),
                Desired::Running if found => running.wish(Wish::Start),
                Desired::Running => {
                    waiting.push(record.name);
                    Ok(())
                }
            };
        }
        for name in finished {
            if let Err(error) = self.secrets.remove(&name, route::CHANGE) {
                self.note("route-not-finished", &format!("{name}: {error}"));
            }
        }
        Ok(waiting)
    }

    /// The host goes down: end every sandbox now, each gateway with its time to end well. What should run is
    /// not changed: the next boot starts it. Whatever is not through after `patience` is left to the host.
    pub async fn wind_down(&self, patience: Duration) {
        let running: Vec<_> = self.slots().values().filter_map(|slot| slot.clone().ok()).collect();
        for running in &running {
            // One whose supervisor has ended cannot be told, and is not waited for either.
            let _ = running.wish(Wish::Stop);
        }
        let all = async {
            for running in &running {
                let _ = running.stopped().await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Begin to supervise a sandbox as its record says. `dashboard` is a listener on its port, if it is bound
    /// already.
    pub fn supervise(&self, record: &SandboxRecord, dashboard: Option<tokio::net::TcpListener>) {
        self.supervise_quietly(record, dashboard);
        if let Some(Ok(running)) = self.slots().get(&record.name) {
            let wish = match record.desired {
                Desired::Running => Wish::Start,
                Desired::Stopped => Wish::Stop,
            };
            // The supervisor was begun just now and listens.
            let _ = running.wish(wish);
        }
    }

    /// The same without a wish: what runs is adopted, and nothing started.
    fn supervise_quietly(&self, record: &SandboxRecord, dashboard: Option<tokio::net::TcpListener>) {
        let begun = self.begin(record, dashboard).map(Arc::new);
        if let Err(why) = &begun {
            say(format_args!("{}: cannot be supervised: {why}", record.name));
        }
        self.slots().insert(record.name.clone(), begun);
    }

    fn begin(
        &self,
        record: &SandboxRecord,
        dashboard: Option<tokio::net::TcpListener>,
    ) -> Result<Running, Failure> {
        let route = Config::of(record)?.route;
        let (meter, trouble) = self.tally.meter(&record.name);
        if let Some(trouble) = trouble {
            self.note("counters-lost", &trouble);
        }
        let inference = LiveService::counted(self.service(&record.name, route)?, meter);
        Running::begin(self, record, inference, dashboard)
    }

    /// Every secret that is stored is looked for from now on in what is written down.
    pub fn learn_secrets(&self) {
        let names = self.store.list().unwrap_or_default().into_iter().map(|record| record.name);
        redaction().learn(stored(&self.secrets, &names.collect::<Vec<_>>()).0);
    }

    /// The keys that are stored for a route and its fall-backs, in this order.
    pub fn route_keys(&self, name: &SandboxName) -> Result<Vec<Option<clawkeep_store::Secret>>, SecretError> {
        (0..=MAX_FALLBACKS).map(|index| self.secrets.get(name, &key_name(index))).collect()
    }

    /// The service for this route, with the keys that are stored.
    pub fn service(&self, name: &SandboxName, route: Route) -> Result<Service, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new("route-unusable", error.to_string(), format!("clawkeep {name} inference set --help"))
        };
        let keys = match self.route_keys(name) {
            Ok(keys) => {
                redaction().learn(keys.iter().flatten().cloned());
                keys
            }
            // What else the agent does goes on without its model.
            Err(error) => {
                self.note("key-unreadable", &format!("{name}: {error}"));
                return Ok(Service::keyless(route, error.to_string()));
            }
        };
        let text = |key: clawkeep_store::Secret| key.expose_str().map(|text| Secret::new(text.to_owned()));
        let keys = keys.into_iter().map(|key| key.and_then(text)).collect();
        match Service::with_keys(route.clone(), keys, Timeouts::default()) {
            // It is gone from its place, by whatever hand.
            Err(error @ (RouteError::NoKey { .. } | RouteError::BadKey(_))) => {
                self.note("key-unreadable", &format!("{name}: {error}"));
                Ok(Service::keyless(route, error.to_string()))
            }
            made => made.map_err(|e| failed(&e)),
        }
    }

    pub fn record(&self, name: &SandboxName) -> Result<SandboxRecord, Failure> {
        self.store.get(name).map_err(|error| match error {
            StoreError::NotFound(_) => self.no_such(name),
            other => store_failed(other),
        })
    }

    fn no_such(&self, name: &SandboxName) -> Failure {
        let names: Vec<_> =
            self.store.list().unwrap_or_default().iter().map(|r| r.name.to_string()).collect();
        let known = if names.is_empty() {
            "there is none yet".into()
        } else {
            format!("there is {}", names.join(", "))
        };
        let next = if names.is_empty() { "clawkeep onboard" } else { "clawkeep list" };
        Failure::new("no-such-sandbox", format!("no sandbox is named {name}; {known}"), next.to_owned())
    }

    pub fn running(&self, name: &SandboxName) -> Result<Arc<Running>, Failure> {
        let record = self.record(name)?;
        match self.slots().get(name) {
            Some(Ok(running)) => Ok(Arc::clone(running)),
            Some(Err(why)) => {
                let next = why.next.clone().unwrap_or_else(|| format!("clawkeep {name} recover"));
                Err(Failure::new("not-supervised", format!("{name}: {why}"), next))
            }
            None => Err(self.no_such(&record.name)),
        }
    }

    pub fn status_of(&self, record: &SandboxRecord) -> SandboxStatus {
        let slot = self.slots().get(&record.name).cloned().unwrap_or_else(|| {
            Err(Failure::new("not-supervised", "not supervised", format!("clawkeep {} recover", record.name)))
        });
        status(&self.home, record, slot.as_deref().map_err(Clone::clone))
    }

    pub fn sandbox(&self, name: &SandboxName) -> Result<Value, Failure> {
        Ok(Value::Sandbox(Box::new(self.status_of(&self.record(name)?))))
    }

    /// Answer one asker.
    pub async fn answer(self: &Arc<Self>, asker: Asker) {
        let (request, fds) = match asker.request().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let failure = Failure::new(
                    "bad-request",
                    format!("the request cannot be read: {error}"),
                    "clawkeep --version".to_owned(),
                );
                // One that speaks another language need not understand this.
                let _ = asker.answer(Answer::Failed(failure), None).await;
                return;
            }
        };
        let answer = match self.carry_out(&asker, request, fds).await {
            Ok(value) => Answer::Done(value),
            Err(failure) => Answer::Failed(failure),
        };
        // An asker that went away does not need it.
        let _ = asker.answer(answer, None).await;
    }

    async fn carry_out(
        self: &Arc<Self>,
        asker: &Asker,
        request: Request,
        fds: Vec<std::os::fd::OwnedFd>,
    ) -> Result<Value, Failure> {
        match request {
            Request::Status => {
                let records = self.store.list().map_err(store_failed)?;
                Ok(Value::Status(Box::new(Status {
                    schema: 1,
                    daemon: DaemonStatus {
                        pid: std::process::id(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        started_at: rfc3339(self.started_at),
                        troubles: self.troubles(),
                        managed: Manager::of_process().listens(),
                        metrics: Some(self.metrics.served())
                            .filter(|m| m.trouble.is_none())
                            .and_then(|m| m.listen),
                    },
                    sandboxes: records.iter().map(|record| self.status_of(record)).collect(),
                })))
            }
            Request::Sandbox { name: Some(name) } => self.sandbox(&name),
            Request::Sandbox { name: None } => match self.store.default().map_err(store_failed)? {
                Some(record) => self.sandbox(&record.name),
                None => {
                    Err(Failure::new("no-sandbox", "there is no sandbox yet", "clawkeep onboard".to_owned()))
                }
            },
            Request::Create(wanted) => {
                let record = create::create(self, *wanted).await?;
                self.sandbox(&record.name)
            }
            Request::Onboarded { name } => {
                self.record(&name)?;
                self.store.update(&name, |record| record.onboarding = false).map_err(store_failed)?;
                Ok(Value::Nothing)
            }
            Request::WaitReady { name, timeout_ms } => {
                self.wait_ready(asker, &name, Duration::from_millis(timeout_ms)).await?;
                self.sandbox(&name)
            }
            Request::Turn { name, message } => {
                let running = self.running(&name)?;
                turn::ask(&self.home, &running, &message).await.map(Value::Text)
            }
            Request::Prove { name } => {
                proof::now(&self.running(&name)?.prover).await?;
                self.sandbox(&name)
            }
            Request::CheckRoute { name } => self.check_route(&name).await,
            Request::SetRoute { name, route: choice, force } => {
                route::set(self, asker, &name, choice, force).await
            }
            Request::RotateKey { name, key } => route::rotate(self, asker, &name, &key).await,
            Request::AddFallback { name, route } => fallback::add(self, asker, &name, route).await,
            Request::RemoveFallbacks { name } => fallback::remove(self, &name).await,
            Request::Rebuild { name, version, image } => rebuild::rebuild(self, &name, version, image).await,
            Request::Rehearse { name, failure } => self.rehearse(&name, failure).await,
            Request::Start { name } => self.want(&name, Desired::Running, Wish::Start).await,
            Request::Stop { name } => {
                self.want(&name, Desired::Stopped, Wish::Stop).await?;
                self.wait_stopped(&name).await?;
                self.sandbox(&name)
            }
            Request::Recover { name } => self.want(&name, Desired::Running, Wish::Recover).await,
            Request::Restart { name } => self.want(&name, Desired::Running, Wish::Restart).await,
            Request::Destroy { name } => {
                self.destroy(&name).await?;
                Ok(Value::Nothing)
            }
            Request::Use { name } => {
                self.record(&name)?;
                self.store.set_default(&name).map_err(store_failed)?;
                Ok(Value::Nothing)
            }
            Request::Exec { name, argv, terminal, term } => {
                let running = self.running(&name)?;
                sessions::run(asker, &running, Session { argv, terminal, term }, fds).await
            }
            Request::Attach { name, session } => {
                let running = self.running(&name)?;
                // A daemon that has just started may still be adopting.
                let mut client = running.client.clone();
                let _ = tokio::time::timeout(Duration::from_secs(10), client.wait_for(Option::is_some)).await;
                sessions::attach(asker, &running, &session).await
            }
            Request::Journal { sandbox, span, limit } => {
                let daemon = Arc::clone(self);
                let read = move || daemon.read_journal(sandbox.as_ref(), span, limit);
                tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
                    Err(Failure::new("store-failed", error.to_string(), "clawkeep status".to_owned()))
                })
            }
            Request::Policy { name } => {
                let setting = policy::Setting::of(&self.record(&name)?)?;
                Ok(Value::Policy(Box::new(setting.report(&name, clawkeep_store::unix_ms())?)))
            }
            Request::SetPolicy { name, change, dry_run } => policy::set(self, &name, change, dry_run).await,
            Request::Refused { name } => Ok(Value::Refused(self.running(&name)?.policy.refused.list())),
            Request::Credentials => credentials::list(self),
            Request::Credential(order) => credentials::carry_out(self, order).await,
            Request::Metrics => Ok(Value::Text(metrics::page(self))),
            Request::ServeMetrics { listen } => metrics::serve(self, listen).await,
            // That is what every answer goes through.
            Request::Redact { text } => Ok(Value::Text(text)),
            Request::Shutdown => {
                self.shutdown.notify_one();
                Ok(Value::Nothing)
            }
        }
    }

    /// Waits for the disk.
    fn read_journal(
        &self,
        sandbox: Option<&SandboxName>,
        span: Span,
        limit: usize,
    ) -> Result<Value, Failure> {
        // On a disk that hangs, what is there is told without what waits.
        self.journal.flush(FLUSH_PATIENCE);
        self.store.page(sandbox, span, limit).map(Value::Journal).map_err(store_failed)
    }

    async fn want(&self, name: &SandboxName, desired: Desired, wish: Wish) -> Result<Value, Failure> {
        // Not while it is being made or removed.
        let _one = self.creating.lock().await;
        let record = self.record(name)?;
        let (record, unrecorded) = if record.desired == desired {
            (record, None)
        } else {
            match self.store.update(name, |record| record.desired = desired) {
                Ok(record) => (record, None),
                // Not to stop what somebody wants stopped would be worse than to forget it later.
                Err(error @ (StoreError::Full(_) | StoreError::ReadOnly(_)))
                    if desired == Desired::Stopped =>
                {
                    (record, Some(error))
                }
                Err(error) => return Err(store_failed(error)),
            }
        };
        // One that could not be supervised gets another chance.
        let broken = matches!(self.slots().get(name), None | Some(Err(_)));
        if broken {
            self.supervise(&record, None);
        }
        self.running(name)?.wish(wish)?;
        if let Some(error) = unrecorded {
            let what = format!("{name} is stopped, but the next daemon will start it again: {error}");
            return Err(Failure::new("not-recorded", what, "df -h, and clawkeep status".to_owned()));
        }
        self.sandbox(name)
    }

    async fn wait_ready(&self, asker: &Asker, name: &SandboxName, patience: Duration) -> Result<(), Failure> {
        let running = self.running(name)?;
        let mut status = running.status.clone();
        let mut last = "";
        let wait = async {
            // What it was before it heard of the last wish says nothing about that wish.
            running.heard().await?;
            loop {
                let snapshot = status.borrow_and_update().clone();
                let word = phase_word(&snapshot);
                if word != last {
                    last = word;
                    if let Ok(record) = self.record(name) {
                        let told = asker.answer(Answer::Phase(Box::new(self.status_of(&record))), None).await;
                        if told.is_err() {
                            return Ok(());
                        }
                    }
                }
                match snapshot.phase {
                    Phase::Ready { .. } => return Ok(()),
                    Phase::Held { reason, command, .. } => {
                        return Err(Failure::new("held", format!("{name} is held: {reason}"), command));
                    }
                    _ => {}
                }
                status.changed().await.map_err(|_| running.ended())?;
            }
        };
        tokio::select! {
            result = tokio::time::timeout(patience, wait) => result.unwrap_or_else(|_| Err(self.not_ready(&running, patience))),
            () = asker.gone() => Ok(()),
        }
    }

    fn not_ready(&self, running: &Running, patience: Duration) -> Failure {
        let snapshot = running.status.borrow().clone();
        let blueprint = running.blueprint();
        let name = &blueprint.name;
        let incident =
            snapshot.last_incident.as_ref().map_or(String::new(), |(_, what)| format!("; last: {what}"));
        let what = format!("{name} is {} after {} s{incident}", phase_word(&snapshot), patience.as_secs());
        Failure::new("not-ready", what, format!("clawkeep {name} logs --tail 50"))
    }

    pub async fn wait_stopped(&self, name: &SandboxName) -> Result<(), Failure> {
        let running = self.running(name)?;
        match tokio::time::timeout(STOP_PATIENCE, running.stopped()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Failure::new(
                "not-stopped",
                format!("{name} has not stopped yet"),
                format!("clawkeep {name} status"),
            )),
        }
    }

    async fn check_route(&self, name: &SandboxName) -> Result<Value, Failure> {
        let running = self.running(name)?;
        match running.inference.current().check().await {
            Ok(report) => {
                Ok(Value::Text(format!("{} answered in {} ms", report.model, report.turn.as_millis())))
            }
            Err(problem) => Err(route::failure(&problem)),
        }
    }

    async fn rehearse(&self, name: &SandboxName, failure: Rehearsal) -> Result<Value, Failure> {
        let running = self.running(name)?;
        let client = running.client.borrow().clone().ok_or_else(|| sandbox_down(name.as_str()))?;
        let before = running.status.borrow().clone();
        let Some(gateway) = before.gateway.filter(|_| matches!(before.phase, Phase::Ready { .. })) else {
            return Err(Failure::new(
                "not-ready",
                format!("{name} is not ready"),
                format!("clawkeep {name} status"),
            ));
        };
        running.wish(Wish::Rehearse)?;
        let started = Instant::now();
        let id = format!("gateway-{}", gateway.launch);
        if failure == Rehearsal::WipeTmp {
            sessions::wipe(&client, &running.blueprint()).await?;
        }
        // After a wipe it may be gone already.
        let _ = client.order(Order::Signal { id, signal: 9 }).await;
        let mut status = running.status.clone();
        let mut respawn = None;
        let back = async {
            loop {
                let snapshot: Snapshot = status.borrow_and_update().clone();
                let next = snapshot.gateway.as_ref().is_some_and(|now| now.launch > gateway.launch);
                if next {
                    respawn.get_or_insert_with(|| started.elapsed());
                    if matches!(snapshot.phase, Phase::Ready { .. }) {
                        return;
                    }
                }
                if matches!(snapshot.phase, Phase::Held { .. }) || status.changed().await.is_err() {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(REHEARSAL_PATIENCE, back).await;
        let ready = matches!(running.status.borrow().phase, Phase::Ready { .. });
        match (ended, respawn) {
            (Ok(()), Some(respawn)) if ready => Ok(Value::Rehearsed {
                respawn_ms: respawn.as_millis() as u64,
                ready_ms: started.elapsed().as_millis() as u64,
            }),
            _ => Err(self.not_ready(&running, started.elapsed())),
        }
    }

    /// Stop it and remove all of it. A record whose sandbox cannot be supervised goes all the same.
    pub async fn destroy(&self, name: &SandboxName) -> Result<(), Failure> {
        // Not in the middle of a creation: what is half made could not be found.
        let _one = self.creating.lock().await;
        self.record(name)?;
        // Not wanted from now on, whatever interrupts this.
        match self.store.update(name, |record| record.desired = Desired::Stopped) {
            // What follows makes room.
            Ok(_) | Err(StoreError::Full(_)) => {}
            Err(error) => return Err(store_failed(error)),
        }
        if let Ok(running) = self.running(name) {
            running.wish(Wish::Stop)?;
            self.wait_stopped(name).await?;
        }
        self.slots().remove(name);
        create::remove_files(self, name).await?;
        self.tally.forget(name);
        self.store.remove(name).map_err(store_failed)?;
        let (home, store) = (self.home.clone(), Arc::clone(&self.store));
        // What cannot be removed now is removed when the daemon starts.
        let _ = tokio::task::spawn_blocking(move || sweep_images(&home, &store)).await;
        Ok(())
    }
}
