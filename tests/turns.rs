//! Whole turns of the real OpenClaw over `inference.local`, with a tool call, whatever happens to its model.

mod support;

use std::net::TcpStream;

use clawkeep_agents::{Cancel, Npm, Release, install};
use clawkeep_daemon::api::{AgentChoice, Create, Request, RouteChoice, SandboxStatus};
use clawkeep_inference::{BreakerState, Seen};
use serde_json::{Value, json};
use support::{Installation, LONG, kill9, name};
use testkit::provider::{Answer, Asked, End};
use testkit::{FakeProvider, http, wait_until};

const BOX: &str = "my-assistant";

const KEY: &str = "sk-first-0001";

const ROTATED: &str = "sk-second-0002";

/// A question of the agent's own tools to the model, status and all.
const CURL: &str = "curl -sS -i --max-time 60 https://inference.local/v1/chat/completions";

const BODY: &str = r#"{"model":"m1","messages":[{"role":"user","content":"hi"}]}"#;

/// The session of all turns: what was said before is said again in each request.
const SESSION: &str = "one-conversation";

struct Agent {
    installation: Installation,
    port: u16,
    token: String,
}

impl Agent {
    /// OpenClaw with this route, ready, without the rehearsals of an onboarding.
    fn with(route: RouteChoice) -> Self {
        let installation = Installation::new();
        let release = Release::pinned();
        let npm = Npm::on_path().unwrap();
        install(&installation.home.bundles(), release, &npm, &Cancel::default(), &mut |_| ()).unwrap();
        let create = Create {
            name: name(BOX),
            agent: AgentChoice::Openclaw { version: release.version.to_owned() },
            route: Some(route),
            strict: false,
            tier: Default::default(),
            settle_secs: Some(1),
            dashboard_port: Some(testkit::free_port()),
            limits: Default::default(),
            image: None,
            mounts: vec![],
            policy: Default::default(),
        };
        installation.ask(&Request::Create(Box::new(create))).unwrap();
        installation.ask(&Request::Onboarded { name: name(BOX) }).unwrap();
        let status = installation.ready(BOX);
        let url = status.dashboard_url.unwrap();
        let token = url.split_once("#token=").unwrap().1.to_owned();
        Self { installation, port: status.dashboard_port.unwrap(), token }
    }

    /// One turn, the way the agent's clients ask for it. `Err` when the agent went away.
    fn ask(&self, message: &str) -> Result<String, String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(2 * LONG)).unwrap();
        let token = format!("Bearer {}", self.token);
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let messages = json!([{"role": "user", "content": message}]);
        let body = json!({"model": "openclaw", "user": SESSION, "messages": messages}).to_string();
        let answer = http::request(stream, "POST", "/v1/chat/completions", &headers, body.as_bytes());
        let answer = answer.map_err(|error| error.to_string())?;
        let text = answer.json().ok().and_then(|json| Some(said(&json)?.to_owned()));
        text.filter(|_| answer.status == 200).ok_or_else(|| format!("{} {}", answer.status, answer.text()))
    }

    fn status(&self) -> SandboxStatus {
        self.installation.status(BOX)
    }

    fn seen(&self) -> Seen {
        self.status().inference.unwrap()
    }

    fn pid(&self) -> i32 {
        self.status().gateway.unwrap().pid
    }

    fn file(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.installation.files(BOX).join(file)).ok()
    }

    /// The command line with this in the variable for keys; what it said.
    fn clawkeep(&self, args: &[&str], key: &str) -> (i32, String) {
        let output = self.installation.command(args).env("COMPATIBLE_API_KEY", key).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text)
    }

    /// Nothing of a request is left in the daemon.
    fn rests(&self) {
        wait_until(LONG, "no request to be with a provider", || (self.seen().running == 0).then_some(()));
    }
}

fn said(answer: &Value) -> Option<&str> {
    answer["choices"][0]["message"]["content"].as_str()
}

/// It asks for a tool that writes this file and shows it, then says this.
fn tool_turn(file: &str, said: &str) -> [Answer; 2] {
    let command = format!("echo kept-{file} > /sandbox/{file} && cat /sandbox/{file}");
    [Answer::tool("exec", json!({"command": command})), Answer::text(said)]
}

/// The turn wrote its file, and the model was told what the tool had said.
fn assert_tool_turn(agent: &Agent, provider: &FakeProvider, file: &str) {
    assert_eq!(agent.file(file), Some(format!("kept-{file}\n")));
    let last = provider.turns().pop().unwrap();
    let messages = last.json()["messages"].as_array().unwrap().clone();
    let result = messages
        .iter()
        .rev()
        .find(|message| message["role"] == "tool" || message["content"][0]["type"] == "tool_result");
    let result = result.expect("a tool's result").to_string();
    assert!(result.contains(&format!("kept-{file}")), "{result}");
    assert_eq!(last.json()["stream"], true);
}

/// The newest turn at this provider, once so many events of its answer are sent.
fn under_way(provider: &FakeProvider, events: usize) -> Asked {
    wait_until(LONG, "the answer to be under way", || {
        provider.turns().pop().filter(|turn| turn.sent == events && turn.end.is_none())
    })
}

fn choice(provider: &str, url: String, model: &str, key: &str) -> RouteChoice {
    RouteChoice {
        provider: provider.to_owned(),
        endpoint_url: Some(url),
        model: model.to_owned(),
        key: Some(key.to_owned()),
    }
}

#[test]
fn turns_with_a_tool_over_a_crash_an_outage_another_key_and_another_api() {
    let provider = FakeProvider::openai(&["m1"]);
    provider.accept_keys(&[KEY]);
    let agent = Agent::with(choice("custom", provider.url(), "m1", KEY));

    provider.script(tool_turn("first", "It is written."));
    assert_eq!(agent.ask("write the first file").unwrap(), "It is written.");
    assert_tool_turn(&agent, &provider, "first");
    assert!(provider.turns().iter().all(|turn| turn.key() == Some(KEY)));

    crashes_in_the_middle_of_a_stream(&agent, &provider);
    has_an_outage(&agent, &provider);
    gets_another_key_in_the_middle_of_a_turn(&agent, &provider);
    has_an_outage_with_a_fallback(&agent, &provider);
    speaks_another_api(&agent, &provider);
}

/// Killed while its model answers: it is back, guarded, goes on with the conversation, and nothing is stuck.
fn crashes_in_the_middle_of_a_stream(agent: &Agent, provider: &FakeProvider) {
    provider.script([Answer::text("never heard to its end").held_after(3), Answer::text("Where was I?")]);
    let before = agent.status();
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| agent.ask("tell me more"));
        under_way(provider, 3);
        assert_eq!(agent.seen().running, 1);
        kill9(before.gateway.as_ref().unwrap().pid);
        asking.join().unwrap()
    });
    asked.expect_err("the gateway is gone");
    let ends = || provider.turns().into_iter().rev().map(|turn| turn.end);
    wait_until(LONG, "the provider to see that nobody waits", || {
        ends().any(|end| end == Some(End::Abandoned)).then_some(())
    });
    let after = agent.installation.ready_after(BOX, before.gateway.unwrap().restarts + 1);
    wait_until(LONG, "all guards to have reported", || {
        agent.status().guards.iter().all(|guard| guard.state == "verified").then_some(())
    });
    assert!(after.receipt.is_some());
    // OpenClaw takes up by itself what it was killed in.
    wait_until(2 * LONG, "the turn to be taken up again", || {
        agent.installation.log(BOX).contains("restart recovery terminal: ").then_some(())
    });
    assert_eq!(ends().next(), Some(Some(End::Whole(200))));
    agent.rests();

    provider.script(tool_turn("second", "Here I am again."));
    assert_eq!(agent.ask("are you there?").unwrap(), "Here I am again.");
    assert_tool_turn(agent, provider, "second");
    let told = provider.turns().pop().unwrap().json()["messages"].to_string();
    for said in ["write the first file", "It is written.", "tell me more"] {
        assert!(told.contains(said), "{said}: {told}");
    }
    agent.rests();
}

/// Its model's provider is gone and comes back: the agent is told why, the operator too, and the turn that met it is
/// answered, by nobody's hand.
fn has_an_outage(agent: &Agent, provider: &FakeProvider) {
    let pid = agent.pid();
    provider.goes_down();
    let (told, code) = agent.installation.exec(BOX, &format!("for i in 1 2 3; do {CURL} -d '{BODY}'; done"));
    assert!(code == 0 && told.matches("upstream_connect").count() == 3 && told.contains("502"), "{told}");
    assert!(told.contains("does not accept connections"), "{told}");
    let (_, text) = agent.clawkeep(&[BOX, "status"], "");
    assert!(text.contains("(connect") && text.contains("custom m1 is not asked for now"), "{text}");
    provider.script([Answer::text("That took a while.")]);
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| agent.ask("and now?"));
        wait_until(LONG, "the turn to meet the outage", || {
            (agent.seen().total.errors["connect"] > 3).then_some(())
        });
        provider.comes_back();
        asking.join().unwrap()
    });
    assert_eq!(answer.unwrap(), "That took a while.");
    agent.rests();
    assert_eq!((agent.seen().routes[0].breaker, agent.pid()), (BreakerState::Closed, pid));
}

/// A turn that spans the rotation: asked for its tool with the old key, and told what the tool said with the new one.
fn gets_another_key_in_the_middle_of_a_turn(agent: &Agent, provider: &FakeProvider) {
    let pid = agent.pid();
    let [tool, text] = tool_turn("third", "Same conversation, other key.");
    provider.script([tool.held_after(2)]);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| agent.ask("write the third file"));
        assert_eq!(under_way(provider, 2).key(), Some(KEY));
        provider.accept_keys(&[ROTATED]);
        provider.forget();
        // The first answer is the check's.
        provider.script([Answer::text("pong"), text]);
        let args = ["credentials", "add", "route-key", "--sandbox", BOX, "--from-env", "COMPATIBLE_API_KEY"];
        let (status, text) = agent.clawkeep(&args, ROTATED);
        assert_eq!(
            (status, text),
            (0, format!("the key of {BOX}'s model is set; its agent goes on running\n"))
        );
        provider.release();
        assert_eq!(asking.join().unwrap().unwrap(), "Same conversation, other key.");
    });
    assert_tool_turn(agent, provider, "third");
    assert!(
        provider.asked().iter().all(|asked| asked.key() == Some(ROTATED)),
        "the old key is never shown again"
    );
    assert_eq!(agent.pid(), pid);
    agent.rests();
}

/// Another provider answers meanwhile, and the first one again once it is well.
fn has_an_outage_with_a_fallback(agent: &Agent, provider: &FakeProvider) {
    let pid = agent.pid();
    let spare = FakeProvider::openai(&["m2"]);
    spare.accept_keys(&[ROTATED]);
    let url = spare.url();
    let args =
        [BOX, "inference", "add-fallback", "--provider", "custom", "--endpoint-url", &url, "--model", "m2"];
    let (status, text) = agent.clawkeep(&args, ROTATED);
    assert_eq!(status, 0, "{text}");
    spare.forget();
    provider.goes_down();
    spare.script(tool_turn("fourth", "I stand in."));
    assert_eq!(agent.ask("write the fourth file").unwrap(), "I stand in.");
    assert_tool_turn(agent, &spare, "fourth");
    assert!(spare.turns().iter().all(|turn| turn.json()["model"] == "m2"));
    let (status, text) = agent.clawkeep(&[BOX, "status"], "");
    assert!(status == 0 && text.contains("(connect"), "{text}");

    provider.comes_back();
    provider.forget();
    wait_until(LONG, "the first provider to be asked again", || {
        agent.installation.exec(BOX, &format!("{CURL} -d '{BODY}'"));
        (!provider.turns().is_empty()).then_some(())
    });
    let asked = spare.turns().len();
    provider.script([Answer::text("I am back.")]);
    assert_eq!(agent.ask("who is there?").unwrap(), "I am back.");
    assert_eq!((spare.turns().len(), agent.pid()), (asked, pid));
    agent.rests();
}

/// Anthropic's API in place of OpenAI's: route and configuration change together, or neither does.
fn speaks_another_api(agent: &Agent, provider: &FakeProvider) {
    let claude = FakeProvider::anthropic(&["c1"]);
    claude.accept_keys(&[KEY]);
    let set = |url: &str, key| {
        let set = ["--provider", "anthropicCompatible", "--endpoint-url", url, "--model", "c1"];
        agent.clawkeep(&[&[BOX, "inference", "set"][..], &set[..]].concat(), key)
    };
    let before = agent.status();
    let now = || (agent.file(".openclaw/openclaw.json"), agent.status().route.provider, agent.pid());
    let was = now();
    provider.script([Answer::text("Not heard by everybody.").held_after(2)]);
    let (asked, set_out) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| agent.ask("one more"));
        under_way(provider, 2);
        let (status, text) = set("ftp://127.0.0.1/v1", KEY);
        assert!(status == 1 && text.contains("error[route-unusable]: "), "{text}");
        assert_eq!((now(), agent.seen().running), (was.clone(), 1), "nothing was changed");
        let set_out = set(&claude.url(), KEY);
        provider.release();
        (asking.join().unwrap(), set_out)
    });
    let (status, text) = set_out;
    assert!(status == 0 && text.contains("one turn answered"), "{text}");
    // The agent is started again for its new configuration: what it was at is cut, and not left hanging.
    asked.expect_err("the gateway was restarted");
    let after = agent.installation.ready_after(BOX, before.gateway.unwrap().restarts + 1);
    assert_eq!(after.route.provider, "anthropicCompatible");
    let config: Value = serde_json::from_str(&agent.file(".openclaw/openclaw.json").unwrap()).unwrap();
    let written = &config["models"]["providers"]["inference"];
    assert_eq!((&written["api"], &written["models"][0]["id"]), (&json!("anthropic-messages"), &json!("c1")));

    claude.script(tool_turn("fifth", "Spoken otherwise."));
    assert_eq!(agent.ask("write the fifth file").unwrap(), "Spoken otherwise.");
    assert_tool_turn(agent, &claude, "fifth");
    let last = claude.turns().pop().unwrap();
    assert_eq!((last.target.split('?').next(), last.header("authorization")), (Some("/v1/messages"), None));
    assert!(claude.asked().iter().all(|asked| asked.key() == Some(KEY)));
    assert!(!provider.asked().iter().any(|asked| asked.key() == Some(KEY)));
    agent.rests();
}
