//! The verified first request, as a person meets it: what failed, by its name, and the next step. For both APIs.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::net::TcpListener;

use support::Installation;
use testkit::FakeProvider;
use testkit::provider::{Answer, Api};

const KEY: &str = "sk-right-0001";

/// What it says, with this key in the environment. What differs each time, and with the machine, is put by letters.
fn said(installation: &Installation, args: &[&str], key: Option<&str>, ports: &[(u16, &str)]) -> String {
    let mut command = installation.command(args);
    command.env_remove("COMPATIBLE_API_KEY");
    command.env_remove("COMPATIBLE_ANTHROPIC_API_KEY");
    key.map(|key| command.env("COMPATIBLE_API_KEY", key));
    let output = command.output().unwrap();
    let mut text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains(KEY), "{text}");
    text = text.replace(&installation.home.root().display().to_string(), "HOME");
    for (port, letters) in ports {
        text = text.replace(&port.to_string(), letters);
    }
    // Without any network the resolver has other words for it.
    if let Some((before, after)) = text.split_once(" does not resolve: ")
        && let Some((cause, _)) = after.split_once("; nothing")
    {
        text = format!("{before} does not resolve: {after}").replace(cause, "CAUSE");
    }
    format!("{}: {text}", output.status.code().unwrap_or(-1))
}

fn provider(api: Api) -> (FakeProvider, &'static str) {
    let provider = FakeProvider::new(api, &["m1", "m2"]);
    provider.accept_keys(&[KEY]);
    (provider, if api == Api::OpenAi { "custom" } else { "anthropicCompatible" })
}

#[test]
fn each_way_in_which_a_provider_is_not_there_is_told_apart_and_nothing_is_changed() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let closed = testkit::free_port();
    // Takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap().port();
    let mut told = String::new();
    for api in [Api::OpenAi, Api::Anthropic] {
        let (there, name) = provider(api);
        let port = there.address().port();
        let ports = [(closed, "CLOSED"), (mute, "MUTE"), (port, "THERE")];
        let mut set = |what: &str, url: &str, model: &str, key| {
            let args =
                ["box", "inference", "set", "--provider", name, "--endpoint-url", url, "--model", model];
            told += &format!("{name}, {what}\n{}\n", said(&installation, &args, key, &ports));
        };
        set("name", "http://no-such-host.invalid/v1", "m1", Some(KEY));
        set("nothing listens", &format!("http://127.0.0.1:{closed}/v1"), "m1", Some(KEY));
        set("no TLS", &there.url().replace("http:", "https:"), "m1", Some(KEY));
        set("wrong key", &there.url(), "m1", Some("sk-wrong-0002"));
        set("no key", &there.url(), "m1", None);
        set("model", &there.url(), "m3", Some(KEY));
        there.script([Answer::error(500, "api_error", "out of cards")]);
        set("its own error", &there.url(), "m1", Some(KEY));
        there.script([Answer::rate_limited(Some("60"))]);
        set("too many", &there.url(), "m1", Some(KEY));
        there.script([Answer::exact(200, "<html>").typed("text/html")]);
        set("another server", &there.url(), "m1", Some(KEY));
        if api == Api::OpenAi {
            set("too slow", &format!("http://127.0.0.1:{mute}/v1"), "m1", Some(KEY));
        }
    }
    insta::assert_snapshot!(told);
    assert_eq!(installation.status("box").route.provider, "canary");
    assert!(installation.events("box").iter().all(|event| event.entry.kind != "route-set"));
}

#[test]
fn onboarding_goes_on_and_says_what_keeps_the_model_from_answering() {
    let installation = Installation::new();
    let closed = testkit::free_port();
    let mut told = String::new();
    for (name, api, key) in [("a", Api::OpenAi, Some(KEY)), ("b", Api::Anthropic, None)] {
        let (there, provider) = provider(api);
        let dead = format!("http://127.0.0.1:{closed}/v1");
        let url = if key.is_some() { dead } else { there.url() };
        let args = ["onboard", "--non-interactive", "--name", name, "--agent", "command"];
        let route =
            ["--provider", provider, "--endpoint-url", &url, "--model", "m1", "--", "/bin/sleep", "9999"];
        let ports = [(closed, "CLOSED"), (there.address().port(), "THERE")];
        let all = said(&installation, &[&args[..], &route].concat(), key, &ports);
        assert!(all.starts_with("0: "), "{all}");
        let lines = all.lines().skip_while(|line| !line.contains(" model "));
        told += &lines.take(2).map(|line| format!("{}\n", line.trim())).collect::<String>();
    }
    insta::assert_snapshot!(told, @r#"
    ⚠ model         custom m1: cannot connect to 127.0.0.1:CLOSED: Connection refused (os error 111)
    next: Start the model server, or correct --endpoint-url: nothing accepts connections at 127.0.0.1:CLOSED.
    ⚠ model         anthropicCompatible m1: 127.0.0.1:THERE wants a key (HTTP 401)
    next: Give a key in the provider's variable (COMPATIBLE_API_KEY for an endpoint of your own); to a sandbox that has this route: clawkeep credentials add route-key --sandbox NAME
    "#);
}

#[test]
fn a_model_server_that_is_not_started_is_named_with_the_command_that_starts_it() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    for (provider, port, command) in [
        ("ollama", 11434, "next: Start it on this machine: ollama serve"),
        ("vllm", 8000, "next: Start it on this machine: vllm serve MODEL"),
        ("llamacpp", 8081, "next: Start it on this machine: llama-server --port 8081"),
    ] {
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            eprintln!("SKIPPED: {provider}: something listens on port {port} of this machine");
            continue;
        }
        let args = ["box", "inference", "set", "--provider", provider, "--model", "hermes3:8b"];
        let text = said(&installation, &args, None, &[]);
        let refused = format!("cannot connect to 127.0.0.1:{port}: Connection refused");
        assert!(text.starts_with("1: ") && text.contains(&refused) && text.contains(command), "{text}");
    }
}

#[test]
fn get_and_set_of_a_sandbox_that_is_not_there_say_which_there_are() {
    let installation = Installation::new();
    let get = |name: &str| said(&installation, &["inference", "get", name], None, &[]);
    let set = |name: &str| {
        said(&installation, &["inference", "set", name, "--provider", "ollama", "--model", "m"], None, &[])
    };
    insta::assert_snapshot!(get("box") + &set("box"), @r#"
    1: error[no-such-sandbox]: there is no sandbox box; there is none at all in HOME
      next: clawkeep onboard
    1: error[no-such-sandbox]: there is no sandbox box; there is none at all in HOME
      next: clawkeep onboard
    "#);
    installation.create_fake("box", &[]);
    insta::assert_snapshot!(get("other") + &set("other"), @r#"
    1: error[no-such-sandbox]: no sandbox is named other; there is box
      next: clawkeep list
    1: error[no-such-sandbox]: no sandbox is named other; there is box
      next: clawkeep list
    "#);
}
