use std::path::Path;
use std::sync::Arc;

use clawkeep_agents::HealthUrl;
use clawkeep_inference::{Provider, Route};
use clawkeep_store::{Home, JournalWriter, NewSandbox, Store};
use serde_json::{Value as Json, json};

use super::*;
use crate::config::{AgentConfig, IsolationConfig};

/// A daemon with one sandbox that is stopped, whose route has a key and whose user has a configuration.
fn daemon(dir: &Path) -> (Daemon, SandboxRecord) {
    let home = Home::open(&dir.join("state")).unwrap();
    let store = Arc::new(Store::open(&home).unwrap().store);
    let journal = Arc::new(JournalWriter::start(Arc::clone(&store), 64).unwrap());
    let daemon = Daemon::new(home, store, journal, "/nonexistent".into());
    let adapter = Adapter::Command {
        argv: vec!["/bin/true".into()],
        health: None::<HealthUrl>,
        config: None,
        safe_mode: false,
    };
    let agent =
        AgentConfig { adapter, node_guards: true, bundle: None, env: Default::default(), settle_secs: None };
    let route = Route::new(Provider::Custom, Some("http://127.0.0.1:1/v1"), "m0", true).unwrap();
    let new = NewSandbox {
        name: "box".parse().unwrap(),
        desired: Desired::Stopped,
        adapter: to_value(&agent),
        route: to_value(&route),
        isolation: to_value(&IsolationConfig::default()),
        policy: serde_json::Value::Null,
        dashboard_port: None,
        onboarding: false,
    };
    let record = daemon.store.insert(new).unwrap();
    daemon.home.sandbox(&record.name).create().unwrap();
    daemon.secrets.put(&record.name, &key_name(0), &clawkeep_store::Secret::new("old")).unwrap();
    let made = written(&daemon, &record, &route).unwrap();
    let mut config = made.new;
    config["mine"] = json!(1);
    openclaw::write_config(made.home.as_fd(), made.owner, &config, Overwrite::Always).unwrap();
    daemon.supervise(&record, None);
    (daemon, record)
}

fn key(daemon: &Daemon, record: &SandboxRecord) -> Option<String> {
    let key = daemon.secrets.get(&record.name, &key_name(0)).unwrap();
    key.map(|key| key.expose_str().unwrap().to_owned())
}

fn config(change: &Change<'_>) -> Json {
    openclaw::read_config(change.config.as_ref().unwrap().home.as_fd()).unwrap().unwrap()
}

/// As if its agent were OpenClaw, whose bundle is not here.
fn change<'a>(daemon: &'a Daemon, record: &SandboxRecord, model: &str, key: Option<&str>) -> Change<'a> {
    let route = Route::new(Provider::Custom, Some("http://127.0.0.1:2/v1"), model, key.is_some()).unwrap();
    let mut change = Change::new(daemon, record.clone(), &route, key.map(str::to_owned)).unwrap();
    assert!(change.config.is_none());
    change.config = Some(written(daemon, record, &route).unwrap());
    change
}

#[tokio::test]
async fn record_key_and_configuration_change_together_and_are_put_back_together() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    let fallback_key = || daemon.secrets.get(&record.name, &key_name(1)).unwrap();
    daemon.secrets.put(&record.name, &key_name(1), &clawkeep_store::Secret::new("of a fall-back")).unwrap();
    for new_key in [Some("new"), None] {
        let change = change(&daemon, &record, "m1", new_key);
        let before = config(&change);
        change.store().unwrap();
        assert_eq!(daemon.record(&record.name).unwrap(), change.new);
        assert_eq!(key(&daemon, &record).as_deref(), new_key);
        assert!(fallback_key().is_none(), "the new route has no fall-back");
        let after = config(&change);
        assert_eq!(
            after["agents"]["defaults"]["model"]["primary"],
            json!(format!("{}/m1", openclaw::PROVIDER))
        );
        assert_eq!((&after["mine"], &after["gateway"]), (&json!(1), &before["gateway"]));
        assert!(!after.to_string().contains("new"));

        let why = change.put_back(failed("a later step", &"no"));
        assert_eq!(why.message, "a later step: no");
        assert_eq!(daemon.record(&record.name).unwrap(), record);
        assert_eq!(key(&daemon, &record).as_deref(), Some("old"));
        assert_eq!(fallback_key().unwrap().expose_str(), Some("of a fall-back"));
        assert_eq!(config(&change), before);
    }
}

#[tokio::test]
async fn what_a_daemon_was_setting_when_it_died_is_finished_by_the_next() {
    // How far it had come: not at all; the old key gone; the record; the key; all of it.
    for steps in 0..5 {
        let temp = tempfile::tempdir().unwrap();
        let (daemon, record) = daemon(temp.path());
        let wanted = change(&daemon, &record, "m1", Some("new"));
        let route: Route = serde_json::from_value(wanted.new.route.clone()).unwrap();
        let begun = Begun { route: route.clone(), key: Some(SecretText::new("new".into())) };
        begun.keep(&daemon, &record.name).unwrap();
        let secrets = &daemon.secrets;
        if steps > 0 {
            secrets.remove(&record.name, &key_name(0)).unwrap();
        }
        if steps > 1 {
            daemon.store.update(&record.name, |record| record.route = to_value(&route)).unwrap();
        }
        if steps > 2 {
            secrets.put(&record.name, &key_name(0), &clawkeep_store::Secret::new("new")).unwrap();
        }
        if steps > 3 {
            wanted.store().unwrap();
        }
        daemon.resume().await.unwrap();
        assert_eq!(daemon.record(&record.name).unwrap().route, to_value(&route), "after {steps} steps");
        assert_eq!(key(&daemon, &record).as_deref(), Some("new"), "after {steps} steps");
        let served = daemon.running(&record.name).unwrap().inference.current();
        assert_eq!((served.route(), served.key_trouble()), (&route, None));
        assert!(finish(&daemon, &record).unwrap().is_none(), "it is done once");
    }
}

#[tokio::test]
async fn a_route_without_its_key_is_supervised_all_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    daemon.secrets.remove(&record.name, &key_name(0)).unwrap();
    daemon.supervise(&record, None);
    let served = daemon.running(&record.name).unwrap().inference.current();
    assert!(served.key_trouble().unwrap().contains("needs a key"));
}

#[tokio::test]
async fn what_is_in_the_way_of_the_configuration_changes_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    let change = change(&daemon, &record, "m1", Some("new"));
    let file = daemon.home.sandbox(&record.name).home().join(".openclaw/openclaw.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let why = change.put_back(change.store().unwrap_err());
    assert!(why.message.contains("is a directory") && why.message.contains("not all be put back"), "{why}");
    assert_eq!(daemon.record(&record.name).unwrap(), record);
    assert_eq!(key(&daemon, &record).as_deref(), Some("old"));
    // The next attempt sees it before it changes anything.
    let why = written(&daemon, &record, &Route::new(Provider::Ollama, None, "m1", false).unwrap())
        .map(drop)
        .unwrap_err();
    assert_eq!(why.code, "config-unreadable");
}

#[tokio::test]
async fn a_lost_key_costs_the_model_alone_and_another_takes_its_place() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    std::fs::remove_file(daemon.home.root().join("secrets.key")).unwrap();
    daemon.supervise(&record, None);
    let running = daemon.running(&record.name).unwrap();
    let problem = running.inference.current().check().await.unwrap_err();
    assert_eq!(failure(&problem).code, "route-key-unreadable");
    let troubles = daemon.troubles();
    assert!(troubles.iter().any(|trouble| trouble.starts_with("box has no model: ")), "{troubles:?}");

    let rotated = change(&daemon, &record, "m0", Some("new"));
    rotated.store().unwrap();
    assert_eq!(key(&daemon, &record).as_deref(), Some("new"));
    let service = Service::new(
        serde_json::from_value(rotated.new.route.clone()).unwrap(),
        Some(Secret::new("new".into())),
    );
    rotated.put_to_use(service.unwrap()).await.unwrap();
    assert!(daemon.troubles().is_empty());
}

#[tokio::test]
async fn another_key_for_the_same_model_leaves_the_agents_configuration_alone() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    let changes = |model: &str| {
        let route = Route::new(Provider::Custom, Some("http://127.0.0.1:1/v1"), model, true).unwrap();
        written(&daemon, &record, &route).unwrap().changes()
    };
    assert!(!changes("m0") && changes("m1"));
}

#[tokio::test]
async fn only_what_changes_the_plan_is_made_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (daemon, record) = daemon(temp.path());
    let running = daemon.running(&record.name).unwrap();
    let same = change(&daemon, &record, "m1", None);
    assert!(same.same_plan);
    let service = |change: &Change<'_>| {
        Service::new(serde_json::from_value(change.new.route.clone()).unwrap(), None).unwrap()
    };
    same.store().unwrap();
    assert!(!same.put_to_use(service(&same)).await.unwrap());
    assert!(Arc::ptr_eq(&running, &daemon.running(&record.name).unwrap()));
    assert_eq!(running.inference.current().route().model, "m1");

    let other = change(&daemon, &same.new, "nemotron", None);
    assert!(!other.same_plan);
    other.store().unwrap();
    assert!(!other.put_to_use(service(&other)).await.unwrap());
    let now = daemon.running(&record.name).unwrap();
    assert!(!Arc::ptr_eq(&running, &now));
    assert_eq!(now.inference.current().route().model, "nemotron");
    assert_eq!(now.blueprint().plan.guards.len(), running.blueprint().plan.guards.len() + 1);
}
