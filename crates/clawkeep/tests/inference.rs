//! Another model for a sandbox that is there: its files stay, its key stays outside, and what cannot be set
//! changes nothing.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::net::TcpStream;

use support::{Installation, LONG};
use testkit::{FakeProvider, wait_until};

const KEY: &str = "sk-test-4711";

const ROTATED: &str = "sk-test-4712";

/// What the provider was asked last, and with which key.
fn last(provider: &FakeProvider) -> (String, String) {
    let asked = provider.asked().pop();
    asked.map_or_else(Default::default, |asked| {
        (format!("{} {}", asked.method, asked.target), asked.key().unwrap_or_default().to_owned())
    })
}

/// Run it with this key in the environment; its status and everything that it said.
fn run(installation: &Installation, args: &[&str], key: Option<&str>) -> (i32, String) {
    let mut command = installation.command(args);
    match key {
        Some(key) => command.env("COMPATIBLE_API_KEY", key),
        None => command.env_remove("COMPATIBLE_API_KEY"),
    };
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

fn set(installation: &Installation, url: &str, model: &str, key: Option<&str>) -> (i32, String) {
    let args = ["box", "inference", "set", "--provider", "custom", "--endpoint-url", url, "--model", model];
    run(installation, &args, key)
}

/// The same, whether it answers or not.
fn force(installation: &Installation, url: &str, model: &str) -> (i32, String) {
    let args = ["--provider", "custom", "--endpoint-url", url, "--model", model, "--force"];
    run(installation, &[&["box", "inference", "set"], &args[..]].concat(), None)
}

fn get(installation: &Installation) -> serde_json::Value {
    let (status, text) = run(installation, &["inference", "get", "box", "--json"], None);
    assert_eq!(status, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn models_inside(installation: &Installation) -> String {
    installation.exec("box", "curl -s https://inference.local/v1/models").0
}

#[test]
fn another_model_is_set_and_all_else_stays() {
    if !std::path::Path::new("/usr/bin/curl").exists() {
        eprintln!("SKIPPED: another_model_is_set_and_all_else_stays needs /usr/bin/curl");
        return;
    }
    let installation = Installation::new();
    let first = installation.create_fake("box", &[]);
    let pid = || installation.status("box").gateway.map(|gateway| gateway.pid);
    let before = pid();
    let key_file = installation.home.secrets().join("box/route-key");
    assert_eq!(installation.exec("box", "echo mine > /sandbox/mine").1, 0);
    assert!(models_inside(&installation).contains("\"canary\""));
    assert_eq!(run(&installation, &["box", "inference", "get"], None), (0, "box: built-in canary\n".into()));

    // A provider with a key.
    let provider = FakeProvider::openai(&["m1"]);
    let (status, text) = set(&installation, &provider.url(), "m1", Some(KEY));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains(&format!("custom m1 at {}: the route answers", provider.url())), "{text}");
    let wanted = serde_json::json!({
        "schema": 1, "name": "box", "provider": "custom", "model": "m1", "endpoint_url": provider.url(),
        "fallbacks": [],
    });
    assert_eq!(get(&installation), wanted);
    provider.forget();
    assert!(models_inside(&installation).contains("\"m1\""));
    assert_eq!(last(&provider), ("GET /v1/models".into(), KEY.to_owned()));
    let look = format!(
        "found() {{ env | grep -q {KEY} || grep -rqs {KEY} /sandbox /tmp /etc /opt /proc/[0-9]*/environ; }}
         found && echo leaked; echo {KEY} > /tmp/decoy; found || echo blind; rm /tmp/decoy; echo looked"
    );
    assert_eq!(installation.exec("box", &look), ("looked\n".into(), 0));
    assert!(!run(&installation, &["box", "status", "--json"], None).1.contains(KEY));
    // Nothing in a command's launch depends on it: it was not restarted.
    assert_eq!(pid(), before);

    // Another key for it, and nothing is restarted.
    let args = ["credentials", "add", "route-key", "--sandbox", "box", "--from-env", "COMPATIBLE_API_KEY"];
    let (status, text) = run(&installation, &args, Some(ROTATED));
    assert_eq!((status, text.as_str()), (0, "the key of box's model is set; its agent goes on running\n"));
    assert!(models_inside(&installation).contains("\"m1\""));
    assert_eq!(last(&provider).1, ROTATED);
    assert_eq!((get(&installation), pid()), (wanted.clone(), before));

    // What cannot be used, and what is not there.
    for bad in ["ftp://127.0.0.1/v1", "http://user:pw@127.0.0.1/v1", "http://127.0.0.1:0/v1"] {
        let (status, text) = set(&installation, bad, "m2", Some("another"));
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("error[route-unusable]: ") && text.contains("\n  next: "), "{text}");
    }
    let (status, text) = set(&installation, &provider.url(), "m2", Some("two\nlines"));
    assert!(status == 1 && text.contains("error[route-unusable]: ") && !text.contains("lines"), "{text}");
    let args = ["inference", "set", "other", "--provider", "ollama", "--model", "m2"];
    let (status, text) = run(&installation, &args, None);
    assert!(status == 1 && text.starts_with("error[no-such-sandbox]: "), "{text}");
    assert_eq!(get(&installation), wanted);
    let sealed = std::fs::read(&key_file).unwrap();
    assert!(!sealed.windows(ROTATED.len()).any(|window| window == ROTATED.as_bytes()));
    assert!(models_inside(&installation).contains("\"m1\""));

    // One that does not answer takes nobody's place, but where the operator insists; then its predecessor's key is gone.
    let dead = format!("http://127.0.0.1:{}/v1", testkit::free_port());
    let (status, text) = set(&installation, &dead, "m2", None);
    assert!(status == 1 && text.contains("error[route-connect]: "), "{text}");
    assert!(text.contains("; nothing was changed (--force") && text.contains("\n  next: "), "{text}");
    assert_eq!((get(&installation), pid()), (wanted, before));
    let (status, text) = force(&installation, &dead, "m2");
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("\u{26a0} model") && text.contains("next: ") && !text.contains("answers"),
        "{text}"
    );
    assert_eq!(get(&installation)["endpoint_url"], dead.as_str());
    assert!(!key_file.exists());
    assert!(!models_inside(&installation).contains("\"m1\""));
    assert_eq!(pid(), before);

    // One that needs another guard: another plan, so another sandbox around the same files.
    let nemotron = FakeProvider::openai(&["nemotron-mini"]);
    let (status, text) = set(&installation, &nemotron.url(), "nemotron-mini", Some(KEY));
    assert_eq!(status, 0, "{text}");
    let now = installation.status("box");
    assert_eq!((now.phase.as_str(), now.guards.len()), ("ready", first.guards.len() + 1));
    assert_ne!(pid(), before);
    assert!(models_inside(&installation).contains("nemotron-mini"));
    let port = now.dashboard_port.unwrap();
    wait_until(LONG, "its page to be served again", || {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        (testkit::http::get(stream, "/readyz").ok()?.status == 200).then_some(())
    });

    // It is the same after the daemon, and for one that is stopped.
    support::kill9(installation.daemon().daemon.pid.cast_signed());
    installation.ready("box");
    assert!(models_inside(&installation).contains("nemotron-mini"));
    assert!(run(&installation, &["box", "stop"], None).0 == 0);
    let (status, text) = run(&installation, &["box", "inference", "set", "--provider", "canary"], None);
    assert!(status == 0 && text.contains("box is stopped"), "{text}");
    assert_eq!(installation.status("box").phase, "stopped");
    assert!(run(&installation, &["box", "start"], None).0 == 0);
    let now = installation.ready("box");
    assert_eq!((now.route.provider.as_str(), now.guards.len()), ("canary", first.guards.len()));
    assert!(models_inside(&installation).contains("\"canary\"") && !key_file.exists());
    assert_eq!(std::fs::read_to_string(installation.files("box").join("mine")).unwrap(), "mine\n");
}

#[test]
fn another_provider_answers_while_the_first_does_not() {
    if !std::path::Path::new("/usr/bin/curl").exists() {
        eprintln!("SKIPPED: another_provider_answers_while_the_first_does_not needs /usr/bin/curl");
        return;
    }
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let pid = || installation.status("box").gateway.map(|gateway| gateway.pid);
    let before = pid();
    let add = |arguments: &[&str], key| {
        run(&installation, &[&["inference", "add-fallback", "box"][..], arguments].concat(), key)
    };
    let (status, text) = add(&["--provider", "ollama", "--model", "m"], None);
    assert!(
        status == 1
            && text.contains("error[route-unusable]: this fall-back cannot be used: the built-in canary"),
        "{text}"
    );

    let dead = format!("http://127.0.0.1:{}/v1", testkit::free_port());
    assert_eq!(force(&installation, &dead, "m1").0, 0);
    let provider = FakeProvider::openai(&["m2"]);
    let custom = ["--provider", "custom", "--endpoint-url", &provider.url(), "--model", "m2"];
    let (status, text) = add(&custom, Some(KEY));
    assert!(status == 0 && text.contains(&format!("custom m2 at {}: it answers", provider.url())), "{text}");
    // Another key for the first one leaves the others as they are.
    let rotate = ["credentials", "add", "route-key", "--sandbox", "box", "--from-env", "COMPATIBLE_API_KEY"];
    let (status, text) = run(&installation, &rotate, Some(ROTATED));
    assert!(
        text.starts_with("the key of box's model is set; its agent goes on running\n"),
        "{status}: {text}"
    );
    assert_eq!(get(&installation)["fallbacks"].as_array().unwrap().len(), 1);
    let (status, text) = add(&["--provider", "anthropic", "--model", "m"], None);
    assert!(status == 2 && text.contains("ANTHROPIC_API_KEY"), "{text}");
    let anthropic = ["--provider", "anthropicCompatible", "--endpoint-url", &dead, "--model", "m"];
    let (status, text) = add(&anthropic, None);
    assert!(status == 1 && text.contains("not translated"), "{text}");

    provider.forget();
    let body =
        "curl -s https://inference.local/v1/chat/completions -d '{\"model\":\"m1\",\"messages\":[{}]}'";
    assert!(installation.exec("box", body).0.contains("pong"));
    assert_eq!(last(&provider), ("POST /v1/chat/completions".into(), KEY.to_owned()));
    let (_, text) = run(&installation, &["box", "status"], None);
    assert!(text.contains(&format!("else custom m2 at {}", provider.url())), "{text}");
    assert!(text.contains("inference  1 turn, ") && text.contains(", 1 error (connect)"), "{text}");
    assert!(!run(&installation, &["box", "status", "--json"], None).1.contains(KEY));
    assert_eq!(pid(), before, "nothing was restarted");

    // Over a daemon that died, and until it is removed.
    support::kill9(installation.daemon().daemon.pid.cast_signed());
    installation.ready("box");
    assert!(models_inside(&installation).contains("\"m2\""));
    let key_file = installation.home.secrets().join("box/fallback-key-1");
    assert!(key_file.exists());
    let (_, text) = force(&installation, &dead, "m3");
    assert!(text.contains("without the fall-backs of before (custom m2 at"), "{text}");
    assert!(!key_file.exists());
    assert_eq!(force(&installation, &dead, "m1").0, 0);
    assert_eq!(add(&custom, Some(KEY)).0, 0);
    let (status, text) = run(&installation, &["inference", "remove-fallbacks", "box"], None);
    assert_eq!((status, text), (0, format!("box: custom m1 at {dead}\n")));
    assert!(!key_file.exists() && !models_inside(&installation).contains("\"m2\""));
}

#[test]
fn the_models_of_a_provider_are_listed_and_a_daemon_that_may_crash_leaves_no_core() {
    let installation = Installation::new();
    let provider = FakeProvider::openai(&["m1"]);
    let list = |url: &str, key| {
        run(&installation, &["inference", "models", "--provider", "custom", "--endpoint-url", url], key)
    };
    assert_eq!(list(&provider.url(), Some(KEY)), (0, "m1\n".into()));
    assert_eq!(last(&provider), ("GET /v1/models".into(), KEY.into()));
    let dead = format!("http://127.0.0.1:{}/v1", testkit::free_port());
    let (status, text) = list(&dead, None);
    assert!(
        status == 1 && text.starts_with("error[route-connect]: ") && text.contains("\n  next: "),
        "{text}"
    );
    for bad in [
        "http://user:hunter2@h/v1",
        "http://h/v1?key=hunter2",
        "unix:///run/hunter2",
        "http://169.254.169.254",
    ] {
        let (status, text) = list(bad, None);
        assert!(status != 0 && !text.contains("hunter2") && text.contains("\n  next: "), "{bad}: {text}");
    }
    assert!(!installation.home.socket().exists(), "no daemon was started for it");

    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", installation.daemon().daemon.pid)).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().rev().nth(1), Some("1"), "{core}");
}
