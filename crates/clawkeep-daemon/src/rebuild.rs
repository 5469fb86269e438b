//! Everything of a sandbox but its home made anew, with another version of its agent or another image if that is wanted.

use std::sync::Arc;
use std::time::Duration;

use clawkeep_agents::Adapter;
use clawkeep_image::Depth;
use clawkeep_plan::{SandboxName, Tier};
use clawkeep_recovery::{Phase, Rung};
use clawkeep_store::{Desired, Entry, Home, SandboxRecord, Store, unix_ms};
use clawkeep_supervisor::{Blueprint, Wish};

use crate::api::{Failure, ImageChoice, Value};
use crate::config::{Config, ImageStart, blueprint};
use crate::create::to_value;
use crate::server::{Daemon, store_failed};
use crate::system::{sweep_images, title, whole_image};
use crate::{ca, lower_tier};

/// How long an agent may take to become ready on another image, before that is taken back.
const PATIENCE: Duration = Duration::from_secs(180);

/// Rebuild it. What cannot be launched at all is refused while the old one still runs. A version that does not stay up
/// is taken back by the recovery's ladder, because the last version that was healthy is known; an image on which the
/// agent does not become ready is taken back here.
pub async fn rebuild(
    daemon: &Daemon,
    name: &SandboxName,
    version: Option<String>,
    image: Option<ImageChoice>,
) -> Result<Value, Failure> {
    let one = daemon.creating.lock().await;
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
    let is_other = image.as_ref().is_some_and(|image| config.isolation.image != Some(image.digest));
    if let Some(image) = &image {
        take(&mut config, image, name)?;
    }
    if let Some(digest) = config.isolation.image {
        // What is made anew is made of what was looked at, to the last byte.
        let (home, of) = (daemon.home.clone(), name.clone());
        let look = move || whole_image(&home, digest, &of, Depth::Contents);
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|error| {
            Failure::new("image-unread", error.to_string(), format!("clawkeep {name} status"))
        })??;
    }
    let mut new = old.clone();
    new.adapter = to_value(&config.agent);
    new.isolation = to_value(&config.isolation);
    let ca_bundle = ca::ready(&daemon.home.sandbox(&new.name).ca())?.bundle;
    let made = blueprint(&daemon.home, &daemon.program, &new, &config, &ca_bundle)?;
    set(daemon, &new)?;
    if let Err(why) = anew(daemon, &new).await {
        // What runs is still the old one.
        set(daemon, &old)?;
        return Err(why);
    }
    if is_other && new.desired == Desired::Running {
        // Minutes, perhaps: nobody else waits for it, and it can be stopped meanwhile.
        drop(one);
        proven_or_taken_back(daemon, (&old, &new), &title(&daemon.home, config.isolation.image)).await?;
    }
    tell(daemon, &made);
    if is_other {
        tokio::spawn(sweep_soon(daemon.home.clone(), daemon.store.clone()));
    }
    Ok(Value::Sandbox(Box::new(daemon.status_of(&daemon.record(name)?))))
}

/// Remove the old image, where nobody else has it, as soon as who asked for the new one lets go of that. What cannot be
/// removed within a while is removed when the daemon starts.
async fn sweep_soon(home: Home, store: Arc<Store>) {
    for _ in 0..100 {
        let (home, store) = (home.clone(), Arc::clone(&store));
        if tokio::task::spawn_blocking(move || sweep_images(&home, &store)).await.unwrap_or(true) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Another image, and what follows from it.
fn take(config: &mut Config, image: &ImageChoice, name: &SandboxName) -> Result<(), Failure> {
    if config.isolation.tier == Tier::Landlock {
        return Err(lower_tier::cannot(lower_tier::NO_IMAGE));
    }
    let follows = config.isolation.start.command;
    if let (true, Adapter::Command { argv, .. }) = (follows, &mut config.agent.adapter) {
        *argv = image.command.clone().ok_or_else(|| {
            let what = format!("the command of {name} is its image's, and the new image has none");
            Failure::new("image-no-command", what, "clawkeep onboard --help".to_owned())
        })?;
    }
    config.isolation.image = Some(image.digest);
    config.isolation.start = ImageStart { command: follows, ..ImageStart::of(image) };
    Ok(())
}

fn set(daemon: &Daemon, record: &SandboxRecord) -> Result<(), Failure> {
    let set = daemon.store.update(&record.name, |now| {
        now.adapter = record.adapter.clone();
        now.isolation = record.isolation.clone();
    });
    set.map(drop).map_err(store_failed)
}

fn tell(daemon: &Daemon, made: &Blueprint) {
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(made.name.clone()),
        kind: "rebuilt".into(),
        cause: format!("{} {}", made.plan.agent.name, made.plan.agent.version).trim_end().to_owned(),
        data: serde_json::json!({ "plan": made.plan.digest() }),
    });
}

/// See it become ready as it is now, or make it again as it was. A later order counts.
async fn proven_or_taken_back(
    daemon: &Daemon,
    (old, new): (&SandboxRecord, &SandboxRecord),
    on: &str,
) -> Result<(), Failure> {
    let name = &old.name;
    let Err(why) = proven(daemon, name).await else { return Ok(()) };
    let _one = daemon.creating.lock().await;
    let now = daemon.record(name)?;
    if (&now.adapter, &now.isolation, now.desired) != (&new.adapter, &new.isolation, new.desired) {
        return Ok(());
    }
    set(daemon, old)?;
    anew(daemon, &daemon.record(name)?).await?;
    let what = format!("{name} did not become ready on {on} ({why}) and is back on what it had");
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: Some(name.clone()),
        kind: "taken-back".into(),
        cause: what.clone(),
        data: serde_json::json!({}),
    });
    Err(Failure::new("taken-back", what, format!("clawkeep {name} why")))
}

/// Wait until it is ready. It has failed when it climbs the ladder: the first rung is for what just happens.
async fn proven(daemon: &Daemon, name: &SandboxName) -> Result<(), String> {
    let running = daemon.running(name).map_err(|why| why.to_string())?;
    running.heard().await.map_err(|why| why.to_string())?;
    let mut status = running.status.clone();
    let failed = async {
        loop {
            let snapshot = status.borrow_and_update().clone();
            let incident = || snapshot.last_incident.clone().map_or_else(String::new, |(_, what)| what);
            match snapshot.phase {
                Phase::Ready { .. } => return Ok(()),
                Phase::Held { reason, .. } => return Err(reason),
                _ if !snapshot.wanted => return Err("it was stopped meanwhile".to_owned()),
                _ if snapshot.rung > Rung::Clear => return Err(incident()),
                _ => {}
            }
            status.changed().await.map_err(|_| "its supervisor has ended".to_owned())?;
        }
    };
    let late = |_| Err(format!("it was not ready after {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, failed).await.unwrap_or_else(late)
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
