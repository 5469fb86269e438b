//! Everything of a sandbox but its home made anew, with another version of its agent if that is wanted.

use clawkeep_agents::Adapter;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Desired, Entry, SandboxRecord, unix_ms};
use clawkeep_supervisor::Wish;

use crate::api::{Failure, Value};
use crate::ca;
use crate::config::{Config, blueprint};
use crate::create::to_value;
use crate::server::{Daemon, store_failed};

/// Rebuild it. What cannot be launched at all is refused while the old one still runs; what does not stay up is
/// taken back by the recovery's ladder, because the last version that was healthy is known.
pub async fn rebuild(daemon: &Daemon, name: &SandboxName, version: Option<String>) -> Result<Value, Failure> {
    let _one = daemon.creating.lock().await;
    let old = daemon.record(name)?;
    let mut config = Config::of(&old)?;
    match (&mut config.agent.adapter, version) {
        (Adapter::OpenClaw { version: current, .. }, Some(wanted)) => *current = wanted,
        (Adapter::Command { .. }, Some(_)) => {
            let what = format!("the agent of {name} is a command: it has no version");
            return Err(Failure::new("no-version", what, format!("clawkeep {name} rebuild")));
        }
        (_, None) => {}
    }
    let mut new = old.clone();
    new.adapter = to_value(&config.agent);
    let ca_bundle = ca::ready(&daemon.home.sandbox(&new.name).ca())?.bundle;
    let made = blueprint(&daemon.home, &daemon.program, &new, &config, &ca_bundle)?;
    let set = |record: &SandboxRecord| {
        daemon.store.update(name, |now| now.adapter = record.adapter.clone()).map_err(store_failed)
    };
    set(&new)?;
    if let Err(why) = anew(daemon, &new).await {
        // What runs is still the old one.
        set(&old)?;
        return Err(why);
    }
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "rebuilt".into(),
        cause: format!("{} {}", made.plan.agent.name, made.plan.agent.version).trim_end().to_owned(),
        data: serde_json::json!({ "plan": made.plan.digest() }),
    });
    Ok(Value::Sandbox(Box::new(daemon.status_of(&daemon.record(name)?))))
}

/// Stop what runs, and begin again from this record. One that is stopped has nothing under way that could go on
/// behind the back of the next.
pub async fn anew(daemon: &Daemon, record: &SandboxRecord) -> Result<(), Failure> {
    let name = &record.name;
    if let Ok(running) = daemon.running(name)
        && running.wish(Wish::Stop).is_ok()
    {
        drop(running);
        if let Err(why) = daemon.wait_stopped(name).await {
            let wish = if record.desired == Desired::Running { Wish::Start } else { Wish::Stop };
            if let Ok(running) = daemon.running(name) {
                // It goes on as it was; whoever asked hears why.
                let _ = running.wish(wish);
            }
            return Err(why);
        }
    }
    drop(daemon.slots().remove(name));
    daemon.supervise(record, None);
    daemon.running(name).map(drop)
}
