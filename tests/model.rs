//! A real language model, small enough for any processor, behind `inference.local`: scripts/small-model serves it.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use support::Installation;

/// The model on this host's loopback, until this is dropped.
struct SmallModel {
    server: Child,
    url: String,
}

impl SmallModel {
    fn new() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/small-model");
        let mut server = Command::new(script).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        // It says so when it serves, and ends where it cannot.
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let model = Self { server, url: url.trim().to_owned() };
        assert!(model.url.starts_with("http://127.0.0.1:"), "scripts/small-model said {:?}", model.url);
        model
    }
}

impl Drop for SmallModel {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Run it; everything that it said.
fn run(installation: &Installation, args: &[&str]) -> (bool, String) {
    let output = installation.command(args).env_remove("COMPATIBLE_API_KEY").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn seen(installation: &Installation) -> serde_json::Value {
    let (_, text) = run(installation, &["box", "status", "--json"]);
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["inference"]["models"]["smollm2"].take()
}

/// Prints how many reads the answer came in, then the answer.
const READS: &str = r#"import os
reads, whole = 0, b""
while piece := os.read(0, 65536):
    reads, whole = reads + 1, whole + piece
print(reads); print(whole.decode())"#;

#[test]
fn a_real_model_answers_from_inside_token_by_token_and_is_counted() {
    let model = SmallModel::new();
    let installation = Installation::new();
    let onboard = |name: &str, provider: &str, model_name: &str| {
        let head = ["onboard", "--non-interactive", "--name", name, "--agent", "command"];
        let route = ["--provider", provider, "--endpoint-url", &model.url, "--model", model_name];
        run(&installation, &[&head[..], &route, &["--", "/bin/sleep", "infinity"]].concat())
    };
    let (done, text) = onboard("box", "custom", "smollm2");
    assert!(done && text.contains("smollm2"), "{text}");
    let models = installation.exec("box", "curl -s https://inference.local/v1/models").0;
    assert!(models.contains(r#""id":"smollm2""#), "{models}");

    let before = seen(&installation);
    let body = r#"{"model":"smollm2","stream":true,"stream_options":{"include_usage":true},"max_tokens":24,
        "messages":[{"role":"user","content":"Count from one to five."}]}"#;
    std::fs::write(installation.files("box").join("body"), body).unwrap();
    std::fs::write(installation.files("box").join("reads.py"), READS).unwrap();
    let ask = "curl -sSN https://inference.local/v1/chat/completions -d @/sandbox/body";
    let (text, status) = installation.exec("box", &format!("{ask} | /usr/bin/python3 /sandbox/reads.py"));
    assert_eq!(status, 0, "{text}");
    let (reads, stream) = text.split_once('\n').unwrap();
    let events: Vec<_> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (done, events) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]", "{text}");
    let events: Vec<serde_json::Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let said = |event: &serde_json::Value| {
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    };
    let whole: String = events.iter().map(said).collect();
    // A model of this size counts, more or less; with no randomness in it always in the same way.
    assert!(whole.contains('1') && whole.contains('5'), "{whole}");
    // Each token takes the model some time, and nobody on the way waits for the next one.
    let tokens = events.iter().filter(|event| !said(event).is_empty()).count();
    let reads: usize = reads.parse().unwrap();
    assert!(tokens > 8 && reads * 2 > tokens, "{tokens} tokens came in {reads} reads");

    // What the provider counts is what is counted.
    let usage = &events.last().unwrap()["usage"];
    let after = seen(&installation);
    for (ours, theirs) in [("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens")] {
        let counted = after[ours].as_u64().unwrap() - before[ours].as_u64().unwrap_or(0);
        assert_eq!(Some(counted), usage[theirs].as_u64(), "{after}");
        assert!(counted > 0, "{usage}");
    }
    assert_eq!(after["turns"].as_u64().unwrap(), before["turns"].as_u64().unwrap_or(0) + 1, "{after}");
    assert!(after["first_token_ms"].as_f64().unwrap() > after["between_tokens_ms"].as_f64().unwrap());

    // In one piece, by another provider's name, and another model than it has.
    let set = ["box", "inference", "set", "--provider", "llamacpp", "--endpoint-url", &model.url, "--model"];
    let (done, text) = run(&installation, &[&set[..], &["smollm2"]].concat());
    assert!(done && text.contains("the route answers"), "{text}");
    let whole = ask.replace(
        "@/sandbox/body",
        r#"'{"model":"smollm2","max_tokens":4,"messages":[{"role":"user","content":"Hi"}]}'"#,
    );
    let text = installation.exec("box", &whole).0;
    let answer: serde_json::Value = serde_json::from_str(&text).expect(&text);
    assert!(!answer["choices"][0]["message"]["content"].as_str().unwrap().is_empty(), "{text}");
    let (done, text) = onboard("other", "custom", "smollm3");
    assert!(text.contains("has no model \"smollm3\"; it has smollm2"), "{done}: {text}");
}
