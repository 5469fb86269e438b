//! What leaves a sandbox, as its operator sees and changes it. The origins are servers of the test on this host's
//! loopback, which a policy opens by the name that containers know it by.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;

use serde_json::{Value, json};
use support::{Installation, LONG, kill9};
use testkit::wait_until;

/// Answers each request with its first line, for as long as the test lives.
struct Origin {
    port: u16,
}

impl Origin {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(|| answer(stream))))
        });
        Self { port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://host.docker.internal:{}{path}", self.port)
    }

    /// A policy that opens it, with these words in its endpoint, to these programs.
    fn policy(&self, endpoint: &str, binary: &str) -> String {
        let port = self.port;
        format!(
            "version: 1\nnetwork_policies:\n  origin:\n    endpoints:\n      - host: host.docker.internal\n        port: {port}\n        {endpoint}\n    \
             binaries:\n      - path: {binary}\n"
        )
    }
}

/// `/hang` says that it begins, and then nothing more.
fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if first.is_empty() {
            first = line.trim().to_owned();
        }
        line.clear();
    }
    let stream = reader.get_mut();
    if first.contains(" /hang ") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun\n");
        let _ = stream.read(&mut [0]);
        return;
    }
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{first}",
        first.len()
    );
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command of `policy` gives, which must succeed.
#[track_caller]
fn policy(installation: &Installation, words: &[&str]) -> String {
    let output = installation.clawkeep(&[&["box", "policy"], words].concat());
    assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    text(&output)
}

#[track_caller]
fn asked(installation: &Installation) -> Vec<Value> {
    let told: Value = serde_json::from_str(&policy(installation, &["requests", "--json"])).unwrap();
    told["requests"].as_array().unwrap().clone()
}

fn curl(installation: &Installation, url: &str) -> String {
    installation.exec("box", &format!("curl -sS --max-time 60 '{url}'")).0
}

fn file(installation: &Installation, yaml: &str) -> String {
    let path = installation.scratch().join("policy.yaml");
    std::fs::write(&path, yaml).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn nothing_leaves_until_it_is_allowed_and_what_is_approved_is_the_least() {
    let (installation, origin) = (Installation::new(), Origin::new());
    installation.create_fake("box", &[]);
    let told = curl(&installation, &origin.url("/a?token=s3cret"));
    let refusal: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}"));
    assert_eq!(refusal["error"]["code"], "egress_denied");
    assert!(
        refusal["error"]["next"].as_str().unwrap().ends_with("clawkeep box policy requests"),
        "{refusal}"
    );

    let requests = wait_until(LONG, "the refusal to be told", || {
        Some(asked(&installation)).filter(|all| !all.is_empty())
    });
    assert_eq!(
        (&requests[0]["method"], &requests[0]["path"], &requests[0]["reason"]),
        (&json!("GET"), &json!("/a"), &json!("host"))
    );
    let id = requests[0]["id"].as_str().unwrap().to_owned();
    // Nobody can be asked here.
    let output = installation.clawkeep(&["box", "policy", "approve", &id]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        text(&output).contains("+") && String::from_utf8_lossy(&output.stderr).contains("needs-yes"),
        "{output:?}"
    );
    assert!(curl(&installation, &origin.url("/a")).contains("egress_denied"));

    let difference = policy(&installation, &["approve", &id, "--yes"]);
    assert!(difference.contains("method: GET") && difference.contains("path: /a"), "{difference}");
    assert_eq!(curl(&installation, &origin.url("/a?b=c")), "GET /a?b=c HTTP/1.1");
    assert!(curl(&installation, &origin.url("/b")).contains("egress_denied"));
    assert!(
        installation.exec("box", &format!("curl -sS -d x {}", origin.url("/a"))).0.contains("egress_denied")
    );
    // It is over, and what is new is listed.
    let requests =
        wait_until(LONG, "the next refusals", || Some(asked(&installation)).filter(|all| all.len() == 2));
    assert!(requests.iter().all(|request| request["id"] != json!(id)), "{requests:?}");

    // Written down, for the operator alone, without what may be secret.
    let audit = installation.home.sandbox(&support::name("box")).root().join("audit.jsonl");
    let lines = std::fs::read_to_string(audit).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let denied = |line: &&Value| line["class_uid"] == 4002 && line["action_id"] == 2;
    assert!(lines.iter().filter(denied).count() >= 4, "{lines:?}");
    assert!(lines.iter().any(|line| line["action_id"] == 1 && line["http_request"]["url"]["path"] == "/a"));
    assert!(!serde_json::to_string(&lines).unwrap().contains("s3cret"));
}

#[test]
fn a_policy_is_put_in_force_whole_or_not_and_outlives_the_daemon() {
    let (installation, origin) = (Installation::new(), Origin::new());
    let gateway = installation.create_fake("box", &[]).gateway.unwrap().pid;
    let open = file(&installation, &origin.policy("access: full", "\"/**\""));
    policy(&installation, &["set", &open]);
    assert_eq!(curl(&installation, &origin.url("/")), "GET / HTTP/1.1");

    let before = policy(&installation, &["get"]);
    for bad in ["access: all", "access: full\n        surprise: 1", "protocol: rest"] {
        let output = installation.clawkeep(&[
            "box",
            "policy",
            "set",
            &file(&installation, &origin.policy(bad, "\"/**\"")),
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{bad}: {said}");
        assert!(said.contains("line ") && said.contains("endpoints[0]") && said.contains("next:"), "{said}");
    }
    assert_eq!(policy(&installation, &["get"]), before);

    // The program that asks counts, and not the one that started it.
    policy(&installation, &["set", &file(&installation, &origin.policy("access: full", "/usr/bin/curl"))]);
    assert_eq!(curl(&installation, &origin.url("/")), "GET / HTTP/1.1");
    let script = format!("import urllib.request as u; print(u.urlopen('{}').read())", origin.url("/"));
    let python = installation.exec("box", &format!("/usr/bin/python3 -c \"{script}\"")).0;
    assert!(python.contains("403"), "{python}");
    let requests = wait_until(LONG, "the refusal to be told", || {
        Some(asked(&installation)).filter(|all| !all.is_empty())
    });
    assert_eq!(requests[0]["reason"], "binary");
    assert!(requests[0]["caller"].as_str().unwrap().starts_with("/usr/bin/python3"), "{requests:?}");

    let daemon = installation.daemon().daemon.pid;
    kill9(daemon.cast_signed());
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    assert_eq!(installation.ready("box").gateway.unwrap().pid, gateway);
    assert_eq!(curl(&installation, &origin.url("/")), "GET / HTTP/1.1");
    assert_eq!(asked(&installation).len(), 1, "what was refused is known to the next daemon");

    policy(&installation, &["remove", "origin"]);
    assert!(curl(&installation, &origin.url("/")).contains("egress_denied"));
    assert_eq!(installation.status("box").gateway.unwrap().pid, gateway, "none of this restarts an agent");
}

#[test]
fn what_is_no_longer_allowed_ends_at_once_and_so_does_an_approval_for_a_time() {
    let (installation, origin) = (Installation::new(), Origin::new());
    installation.create_fake("box", &[]);
    policy(&installation, &["set", &file(&installation, &origin.policy("access: full", "\"/**\""))]);
    let mut hanging = installation
        .command(&["box", "exec", "--", "curl", "-sSN", &origin.url("/hang")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(hanging.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "begun\n");
    policy(&installation, &["tier", "restricted"]);
    assert!(hanging.try_wait().unwrap().is_none(), "the tier changes presets alone");
    policy(&installation, &["remove", "origin"]);
    let status = wait_until(LONG, "the connection to end", || hanging.try_wait().unwrap());
    assert_ne!(status.code(), Some(0));

    assert!(curl(&installation, &origin.url("/x")).contains("egress_denied"));
    let id = wait_until(LONG, "the refusal to be told", || {
        let path = json!("/x");
        Some(
            asked(&installation).into_iter().find(|request| request["path"] == path)?["id"]
                .as_str()?
                .to_owned(),
        )
    });
    policy(&installation, &["approve", &id, "--for", "8s", "--yes"]);
    assert_eq!(curl(&installation, &origin.url("/x")), "GET /x HTTP/1.1");
    assert!(policy(&installation, &["list"]).contains(&id));
    wait_until(LONG, "the approval to end", || {
        curl(&installation, &origin.url("/x")).contains("egress_denied").then_some(())
    });
    assert!(!policy(&installation, &["list"]).contains(&id));
}

#[test]
fn names_are_answered_inside_that_the_policy_names_and_no_other() {
    let (installation, origin) = (Installation::new(), Origin::new());
    installation.create_fake("box", &[]);
    let look = |name: &str| installation.exec("box", &format!("getent ahosts {name}"));
    assert_ne!(look("host.docker.internal").1, 0);
    policy(&installation, &["set", &file(&installation, &origin.policy("access: full", "\"/**\""))]);
    let (told, code) = look("inference.local");
    assert_eq!(code, 0, "{told}");
    assert_ne!(look("example.invalid").1, 0);
    assert_ne!(look("localhost.example").1, 0);
}
