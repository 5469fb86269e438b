//! Routes that are asked when the first gives no answer: added and removed while the agent runs.

use clawkeep_inference::Route;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Entry, SandboxRecord, Secret, unix_ms};

use crate::api::{Failure, RouteChoice, Value};
use crate::config::Config;
use crate::create::{self, to_value};
use crate::route::{self, checked};
use crate::server::{Daemon, key_name, store_failed};
use crate::wire::Asker;

const NEXT: &str = "clawkeep inference add-fallback --help";

/// Add one. On a failure everything is as it was.
pub async fn add(
    daemon: &Daemon,
    asker: &Asker,
    name: &SandboxName,
    choice: RouteChoice,
) -> Result<Value, Failure> {
    // Refused before anybody waits for a provider.
    extended(&daemon.record(name)?, &create::route(Some(choice.clone()), NEXT)?.0)?;
    let (fallback, key) = create::route(Some(choice), NEXT)?;
    let (_, warning) = checked(asker, name, &fallback, key.as_deref(), NEXT).await?;
    let _one = daemon.creating.lock().await;
    let route = extended(&daemon.record(name)?, &fallback)?;
    store(daemon, name, &route, key)?;
    if let Ok(running) = daemon.running(name) {
        running.inference.replace(daemon.service(name, route)?);
    }
    let at = fallback.effective_base_url().map(|url| format!(" at {url}")).unwrap_or_default();
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "fallback-added".into(),
        cause: format!("{} {}{at}", fallback.provider, fallback.model),
        data: serde_json::json!({ "route": fallback, "warning": warning }),
    });
    let sandbox = Box::new(daemon.status_of(&daemon.record(name)?));
    Ok(Value::RouteSet { sandbox, restarts: false, warning })
}

/// Remove all of them, with their keys.
pub async fn remove(daemon: &Daemon, name: &SandboxName) -> Result<Value, Failure> {
    let _one = daemon.creating.lock().await;
    route::forget(daemon, name)?;
    let mut route = Config::of(&daemon.record(name)?)?.route;
    let had = std::mem::take(&mut route.fallbacks).len();
    daemon.store.update(name, |record| record.route = to_value(&route)).map_err(store_failed)?;
    // A key that no route shows is no harm where it cannot be removed now: the next one removes it first.
    for index in 1..=had {
        let removed = daemon.secrets.remove(name, &key_name(index));
        removed.map_err(|e| failed(name, "remove a key", &e))?;
    }
    if let Ok(running) = daemon.running(name) {
        running.inference.replace(daemon.service(name, route)?);
    }
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "fallbacks-removed".into(),
        cause: format!("{had} removed"),
        data: serde_json::Value::Null,
    });
    daemon.sandbox(name)
}

/// The route of this record with one more fall-back.
fn extended(record: &SandboxRecord, fallback: &Route) -> Result<Route, Failure> {
    let mut route = Config::of(record)?.route;
    route
        .add_fallback(fallback.clone())
        .map_err(|error| Failure::new("route-unusable", error.to_string(), NEXT.to_owned()))?;
    Ok(route)
}

/// Onto the disk. The key is first: a route whose key is missing could not be served after a power cut, and a key
/// without a route is shown to nobody.
fn store(daemon: &Daemon, name: &SandboxName, route: &Route, key: Option<String>) -> Result<(), Failure> {
    route::forget(daemon, name)?;
    let key_name = key_name(route.fallbacks.len());
    let put = match key {
        Some(key) => daemon.secrets.put(name, &key_name, &Secret::new(key)),
        None => daemon.secrets.remove(name, &key_name).map(drop),
    };
    put.map_err(|e| failed(name, "store the key", &e))?;
    daemon.store.update(name, |record| record.route = to_value(route)).map(drop).map_err(|error| {
        // What counts is the first failure.
        let _ = daemon.secrets.remove(name, &key_name);
        store_failed(error)
    })
}

fn failed(name: &SandboxName, what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new("route-not-set", format!("{what}: {error}"), format!("clawkeep {name} inference get"))
}
