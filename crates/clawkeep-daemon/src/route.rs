//! Another route for a sandbox that is there: stored and put to use whole, or not at all.

use std::os::fd::{AsFd, OwnedFd};

use clawkeep_agents::Adapter;
use clawkeep_agents::Owner;
use clawkeep_agents::openclaw::{self, Overwrite, Token};
use clawkeep_inference::{MAX_FALLBACKS, Provider, Route, RouteProblem, Secret, Service};
use clawkeep_isolation::IdMap;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Desired, Entry, SandboxRecord, SecretError, unix_ms};
use clawkeep_supervisor::Wish;
use serde::{Deserialize, Serialize};

use crate::api::credentials::{ROUTE_KEY, SecretText};
use crate::api::{Failure, RouteChoice, Value};
use crate::ca;
use crate::config::{Config, blueprint, model_route};
use crate::create::{self, to_value};
use crate::rebuild::anew;
use crate::redaction::redaction;
use crate::server::{Daemon, key_name, store_failed};
use crate::wire::Asker;

const NEXT: &str = "clawkeep inference set --help";

/// The name under which a change is kept, sealed, from before its first step to after its last: what a daemon was
/// doing when it died, its successor finishes. Agents must not meet a route that their configuration does not name.
pub const CHANGE: &str = "route-change";

/// A change, as it is kept.
#[derive(Serialize, Deserialize)]
struct Begun {
    route: Route,
    key: Option<SecretText>,
}

impl Begun {
    fn keep(self, daemon: &Daemon, name: &SandboxName) -> Result<(), Failure> {
        let text =
            zeroize::Zeroizing::new(serde_json::to_vec(&self).map_err(|e| failed("write it down", &e))?);
        let kept = clawkeep_store::Secret::from(text);
        daemon.secrets.put(name, CHANGE, &kept).map_err(|e| failed("write down what is changed", &e))
    }
}

/// Forget what was being changed: it is done, or taken back.
pub fn forget(daemon: &Daemon, name: &SandboxName) -> Result<(), Failure> {
    daemon.secrets.remove(name, CHANGE).map(drop).map_err(|e| failed("forget what was changed", &e))
}

/// Carry out on the disk what an earlier daemon began and did not end. Gives the record as it is then, and whether the
/// agent has its model in its own configuration: one that runs may run with that of before. The caller sees to what
/// runs and then removes [`CHANGE`].
pub fn finish(daemon: &Daemon, record: &SandboxRecord) -> Result<Option<(SandboxRecord, bool)>, Failure> {
    let kept = daemon.secrets.get(&record.name, CHANGE).map_err(|e| failed("read what was begun", &e))?;
    let Some(kept) = kept else { return Ok(None) };
    let Begun { route, key } =
        serde_json::from_slice(kept.expose()).map_err(|e| failed("read what was begun", &e))?;
    let change = Change::new(daemon, record.clone(), &route, key.map(|key| key.expose().to_owned()))?;
    change.store()?;
    daemon.note("route-finished", &format!("{}: {} {}", record.name, route.provider, route.model));
    let in_its_configuration = matches!(Config::of(record)?.agent.adapter, Adapter::OpenClaw { .. });
    Ok(Some((daemon.record(&record.name)?, in_its_configuration)))
}

/// Another key for the route that is set.
pub async fn rotate(
    daemon: &Daemon,
    asker: &Asker,
    name: &SandboxName,
    key: &SecretText,
) -> Result<Value, Failure> {
    let next = format!("clawkeep credentials add {ROUTE_KEY} --sandbox {name}");
    let keyed = |record: &SandboxRecord| {
        let before = Config::of(record)?.route;
        let with_key = Route::new(before.provider, before.base_url.as_deref(), &before.model, true);
        let route = with_key.map_err(|e| Failure::new("route-unusable", e.to_string(), next.clone()))?;
        match route.provider {
            Provider::Canary => {
                let what = format!("{name} uses the built-in canary, which takes no key");
                Err(Failure::new(ROUTE_KEY, what, NEXT.to_owned()))
            }
            _ => Ok(Route { fallbacks: before.fallbacks, ..route }),
        }
    };
    let route = keyed(&daemon.record(name)?)?;
    let alone = Route { fallbacks: Vec::new(), ..route.clone() };
    let (_, warning) = checked(asker, name, &alone, Some(key.expose()), &next).await?;
    let _one = daemon.creating.lock().await;
    if keyed(&daemon.record(name)?)? != route {
        // The key must not be shown to somebody that it is not for.
        let what = format!("{name} was given another route meanwhile; its key is as it was");
        return Err(Failure::new("route-changed", what, format!("clawkeep {name} inference get")));
    }
    forget(daemon, name)?;
    let secret = clawkeep_store::Secret::new(key.expose());
    daemon.secrets.put(name, &key_name(0), &secret).map_err(|e| failed("store the key", &e))?;
    daemon.store.update(name, |record| record.route = to_value(&route)).map_err(store_failed)?;
    if let Ok(running) = daemon.running(name) {
        running.inference.replace(daemon.service(name, route.clone())?);
    }
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "key-rotated".into(),
        cause: format!("{} {}", route.provider, route.model),
        data: serde_json::json!({ "warning": warning }),
    });
    let sandbox = Box::new(daemon.status_of(&daemon.record(name)?));
    Ok(Value::RouteSet { sandbox, restarts: false, warning })
}

/// What keeps a route from answering, with what to do about it.
pub fn failure(problem: &RouteProblem) -> Failure {
    let code = format!("route-{}", problem.class().replace('_', "-"));
    Failure::new(&code, problem.to_string(), problem.next_step())
}

/// Set it, if its provider answers or the operator insists. On a failure everything is as it was.
pub async fn set(
    daemon: &Daemon,
    asker: &Asker,
    name: &SandboxName,
    choice: RouteChoice,
    force: bool,
) -> Result<Value, Failure> {
    daemon.record(name)?;
    let (route, key) = create::route(Some(choice), NEXT)?;
    let (service, warning) = checked(asker, name, &route, key.as_deref(), NEXT).await?;
    if let Some(why) = warning.clone().filter(|_| !force) {
        // An agent that has a model is not restarted for one that it cannot have.
        let message = format!("{}; nothing was changed (--force sets it all the same)", why.message);
        return Err(Failure { message, ..why });
    }
    // The check is over: from here on nobody creates, destroys or sets another route.
    let _one = daemon.creating.lock().await;
    let old = daemon.record(name)?;
    let found = daemon.status_of(&old);
    let begun = Begun { route: route.clone(), key: key.clone().map(SecretText::new) };
    let change = Change::new(daemon, old, &route, key)?;
    begun.keep(daemon, name)?;
    let done = match change.store() {
        Ok(()) => change.put_to_use(service).await.map_err(|failure| change.give_up(failure)),
        Err(failure) => Err(change.put_back(failure)),
    };
    let forgotten = forget(daemon, name);
    let restarts = done.map_err(|mut why| {
        if let Err(failure) = &forgotten {
            why.message += &format!("; and the next daemon will try it once more: {failure}");
        }
        why
    })?;
    // One that is done once more by the next daemon comes to the same end.
    forgotten?;
    let mut sandbox = found;
    sandbox.route = daemon.status_of(&change.new).route;
    let at = route.effective_base_url().map(|url| format!(" at {url}")).unwrap_or_default();
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "route-set".into(),
        cause: format!("{} {}{at}", route.provider, route.model),
        data: serde_json::json!({ "route": route, "warning": warning }),
    });
    Ok(Value::RouteSet { sandbox: Box::new(sandbox), restarts, warning })
}

/// A service for this route alone, and why its provider does not answer, if it does not. `next` is what to do about
/// one that cannot be used.
pub async fn checked(
    asker: &Asker,
    name: &SandboxName,
    route: &Route,
    key: Option<&str>,
    next: &str,
) -> Result<(Service, Option<Failure>), Failure> {
    // Before anybody is asked with it.
    redaction().learn(key.map(clawkeep_store::Secret::new));
    let service = Service::new(route.clone(), key.map(|key| Secret::new(key.to_owned())))
        .map_err(|error| Failure::new("route-unusable", error.to_string(), next.to_owned()))?;
    let warning = tokio::select! {
        checked = service.check() => checked.err().map(|problem| failure(&problem)),
        // A large model may take minutes to load; whoever asked has changed their mind.
        () = asker.gone() => {
            let next = format!("clawkeep {name} inference get");
            return Err(Failure::new("cancelled", "nothing was changed", next));
        }
    };
    Ok((service, warning))
}

/// The agent's own configuration, where it has the model in it.
struct Written {
    home: OwnedFd,
    owner: Owner,
    old: Option<serde_json::Value>,
    new: serde_json::Value,
}

impl Written {
    fn changes(&self) -> bool {
        self.old.as_ref() != Some(&self.new)
    }
}

/// Everything that changes, before and after.
struct Change<'a> {
    daemon: &'a Daemon,
    old: SandboxRecord,
    new: SandboxRecord,
    /// Of the route and of each of its fall-backs.
    old_keys: Vec<Option<clawkeep_store::Secret>>,
    new_keys: Vec<Option<clawkeep_store::Secret>>,
    config: Option<Written>,
    /// What runs would be launched the same way again.
    same_plan: bool,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new("route-not-set", format!("{what}: {error}"), "clawkeep status".to_owned())
}

impl<'a> Change<'a> {
    /// Look at everything that is to be changed, and change nothing.
    fn new(
        daemon: &'a Daemon,
        old: SandboxRecord,
        route: &Route,
        key: Option<String>,
    ) -> Result<Self, Failure> {
        let mut new = old.clone();
        new.route = to_value(route);
        let config = Config::of(&new)?;
        let ca_bundle = ca::ready(&daemon.home.sandbox(&new.name).ca())?.bundle;
        let plan = blueprint(&daemon.home, &daemon.program, &new, &config, &ca_bundle)?.plan;
        let same_plan =
            daemon.running(&old.name).is_ok_and(|running| running.blueprint().plan.digest() == plan.digest());
        let old_keys = match daemon.route_keys(&old.name) {
            // Nothing can be put back of one that is lost; another takes its place.
            Err(SecretError::NoKey { .. } | SecretError::Altered(_)) => Vec::new(),
            found => found.map_err(|e| failed("read the old key", &e))?,
        };
        let config = match config.agent.adapter {
            // With the same model, as when a key is rotated, its configuration stays, and so does the agent.
            Adapter::OpenClaw { .. } => Some(written(daemon, &old, route)?).filter(Written::changes),
            Adapter::Command { .. } => None,
        };
        let new_keys = vec![key.map(clawkeep_store::Secret::new)];
        Ok(Self { daemon, old, new, old_keys, new_keys, config, same_plan })
    }

    /// Onto the disk. At no moment is a key beside a route that it is not for: a daemon that dies in between
    /// must not show it to a stranger.
    fn store(&self) -> Result<(), Failure> {
        self.swap(&self.new, &self.new_keys)?;
        if let Some(config) = &self.config {
            openclaw::write_config(config.home.as_fd(), config.owner, &config.new, Overwrite::Always)
                .map_err(|e| failed("write the agent's configuration", &e))?;
        }
        Ok(())
    }

    fn swap(&self, record: &SandboxRecord, keys: &[Option<clawkeep_store::Secret>]) -> Result<(), Failure> {
        let (name, secrets) = (&record.name, &self.daemon.secrets);
        for index in 0..=MAX_FALLBACKS {
            let removed = secrets.remove(name, &key_name(index));
            removed.map_err(|e| failed("remove the key of the other route", &e))?;
        }
        self.daemon.store.update(name, |now| now.route = record.route.clone()).map_err(store_failed)?;
        for (index, key) in keys.iter().enumerate() {
            if let Some(key) = key {
                secrets.put(name, &key_name(index), key).map_err(|e| failed("store the key", &e))?;
            }
        }
        Ok(())
    }

    /// As it was on the disk. A configuration of the agent that was not there before may stay.
    fn put_back(&self, mut why: Failure) -> Failure {
        let config = match &self.config {
            Some(Written { home, owner, old: Some(old), .. }) => {
                openclaw::write_config(home.as_fd(), *owner, old, Overwrite::Always)
                    .map(drop)
                    .map_err(|e| failed("write the agent's configuration", &e))
            }
            _ => Ok(()),
        };
        for failure in [config, self.swap(&self.old, &self.old_keys)].into_iter().filter_map(Result::err) {
            why.message += &format!("; and it could not all be put back: {failure}");
        }
        why
    }

    /// From the disk into what runs. Gives whether another launch is on its way.
    async fn put_to_use(&self, service: Service) -> Result<bool, Failure> {
        let name = &self.new.name;
        let should_run = self.new.desired == Desired::Running;
        let restarts = should_run && (self.config.is_some() || !self.same_plan);
        let running = self.daemon.running(name).ok();
        if self.same_plan
            && let Some(running) = &running
            && (!restarts || running.wish(Wish::Restart).is_ok())
        {
            running.inference.replace(service);
            return Ok(restarts);
        }
        // Other guards, or nothing that runs: all of it anew.
        drop(running);
        anew(self.daemon, &self.new).await?;
        Ok(should_run)
    }

    /// As it was, on the disk and in what runs.
    fn give_up(&self, why: Failure) -> Failure {
        let why = self.put_back(why);
        let wish = if self.old.desired == Desired::Running { Wish::Start } else { Wish::Stop };
        match self.daemon.running(&self.old.name) {
            // It was told to stop and has not yet.
            Ok(running) if running.wish(wish).is_ok() => {}
            _ => self.daemon.supervise(&self.old, None),
        }
        why
    }
}

/// The agent's configuration with this model; every other key as its user left it.
fn written(daemon: &Daemon, record: &SandboxRecord, route: &Route) -> Result<Written, Failure> {
    let name = &record.name;
    let dir = daemon.home.sandbox(name).home();
    let home = clawkeep_store::atomic::open_dir(&dir).map_err(|e| failed("open the home", &e))?;
    let old = openclaw::read_config(home.as_fd()).map_err(|error| {
        Failure::new("config-unreadable", error.to_string(), format!("clawkeep {name} connect"))
    })?;
    let (uid, gid) = IdMap::for_current_user(record.slot).host_agent();
    let model = model_route(route);
    let new = match &old {
        Some(old) => openclaw::set_route(old.clone(), &model),
        None => {
            let token = Token::generate().map_err(|e| failed("make a token", &e))?;
            let port = Config::of(record)?.inner_port().unwrap_or(openclaw::GATEWAY_PORT);
            openclaw::initial_config(&token, port, &model)
        }
    };
    Ok(Written { home, owner: Owner { uid, gid }, old, new })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
