//! What `status` says of the model's route was proven from inside the sandbox: and where it fails, and what to do.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clawkeep_daemon::api::RouteProof;
use support::{Installation, LONG};
use testkit::wait_until;

/// Lists one model to whoever asks on its port with its key, until it is dropped.
struct Provider {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    fn at(address: impl ToSocketAddrs, key: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let serve = move || {
            for stream in listener.incoming().flatten().take_while(|_| !told.load(Ordering::SeqCst)) {
                // One that breaks off is the asker's matter.
                let _ = answer(stream, key);
            }
        };
        Self { address, ends, thread: Some(std::thread::spawn(serve)) }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(mut stream: TcpStream, key: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut known, mut length) = (false, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            // Its first line has none, the end has nothing.
            if line.len() > 2 {
                continue;
            }
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => known = value == format!("Bearer {key}"),
            "content-length" => length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    let status = if known { "200 OK" } else { "401 Unauthorized" };
    let body = r#"{"choices":[{"message":{"content":"pong"}}],"data":[{"id":"m"}]}"#;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Lead it there.
fn set(installation: &Installation, url: &str, key: &str) {
    let words = ["box", "inference", "set", "--provider", "custom", "--endpoint-url", url, "--model", "m"];
    let output = installation.command(&words).env("COMPATIBLE_API_KEY", key).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// The route as it is proven now; and what a person is told.
fn probe(installation: &Installation) -> (RouteProof, String) {
    let told = text(&installation.clawkeep(&["box", "status", "--probe"]));
    (installation.status("box").proof.expect("it was proven just now"), told)
}

fn kinds(installation: &Installation) -> Vec<(String, String)> {
    let ours = |kind: &str| {
        ["route-failing", "route-answers", "key-rejected", "breaker-open", "route-unproven", "route-proven"]
            .contains(&kind)
    };
    let events = installation.events("box").into_iter().map(|event| event.entry);
    events.filter(|entry| ours(&entry.kind)).map(|entry| (entry.kind, entry.cause)).collect()
}

#[test]
fn it_is_proven_from_inside_and_what_fails_is_told_apart_and_told_once() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let proof = wait_until(LONG, "the route to be proven", || installation.status("box").proof);
    assert_eq!((proof.state.as_str(), proof.place), ("proven", None));
    let told = text(&installation.clawkeep(&["box", "status"]));
    assert!(told.contains("\n  route      proven from inside ") && told.contains(" ago, in "), "{told}");

    // A provider that goes away.
    let provider = Provider::at("127.0.0.1:0", "sk-proof-0001");
    let address = provider.address;
    set(&installation, &provider.url(), "sk-proof-0001");
    assert_eq!(probe(&installation).0.state, "proven");
    drop(provider);
    let (failing, _) = probe(&installation);
    assert_eq!((failing.state.as_str(), failing.place.as_deref()), ("failing", Some("provider")));
    let what = failing.what.as_ref().unwrap();
    assert!(what.starts_with(&format!("cannot connect to {address}: ")), "{failing:?}");
    for _ in 0..3 {
        let (again, told) = probe(&installation);
        assert_eq!((again.state.as_str(), &again.since), ("failing", &failing.since));
        assert!(
            told.contains(&format!("  route      FAILS since {} (provider): cannot connect", failing.since)),
            "{told}"
        );
        assert!(told.contains("next: Start the model server"), "{told}");
    }
    // Of all that no failure is the agent's.
    assert!(installation.status("box").inference.unwrap().total.errors.is_empty());
    let connect = text(&installation.clawkeep(&["box", "connect", "--probe-only"]));
    assert!(connect.contains("nothing to repair\n  route      FAILS since "), "{connect}");

    // There, with another key than it was given; and with the right one.
    let _provider = Provider::at(address, "sk-proof-0002");
    let (proof, _) = probe(&installation);
    assert!(proof.what.unwrap().contains("refuses the key (HTTP 401)"));
    let words = ["credentials", "add", "route-key", "--sandbox", "box", "--from-env", "COMPATIBLE_API_KEY"];
    let rotated = installation.command(&words).env("COMPATIBLE_API_KEY", "sk-proof-0002").output().unwrap();
    assert!(rotated.status.success(), "{}", text(&rotated));
    assert_eq!(probe(&installation).0.state, "proven");
    let told = wait_until(LONG, "all of it to be written down", || {
        Some(kinds(&installation)).filter(|told| told.iter().any(|(kind, _)| kind == "key-rejected"))
    });
    let (kind, cause) = &told[0];
    assert_eq!(kind, "route-failing");
    assert!(cause.starts_with(&format!("custom m: cannot connect to {address}: ")), "{cause}");
    let count = |wanted: &str| told.iter().filter(|(kind, _)| kind == wanted).count();
    assert_eq!((count("route-failing"), count("breaker-open"), count("key-rejected")), (1, 1, 1), "{told:?}");

    // What the sandbox trusts is broken, while the agent and the provider are well.
    let bundle = installation.home.sandbox(&support::name("box")).ca().join("bundle.pem");
    let whole = std::fs::read(&bundle).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&bundle).unwrap();
    file.write_all(b"-----BEGIN CERTIFICATE-----\nnothing\n").unwrap();
    let (proof, told) = probe(&installation);
    assert_eq!((proof.state.as_str(), proof.place.as_deref()), ("failing", Some("trust")), "{told}");
    assert_eq!(proof.next.as_deref(), Some("clawkeep box rebuild"));
    assert!(
        told.starts_with("box: ready") && told.contains("(trust): programs in the sandbox do not trust"),
        "{told}"
    );
    let rebuilt = installation.clawkeep(&["box", "rebuild", "--yes"]);
    assert!(rebuilt.status.success(), "{}", text(&rebuilt));
    installation.ready("box");
    assert!(std::fs::read(&bundle).unwrap().len() >= whole.len());
    assert_eq!(probe(&installation).0.state, "proven");
    let told = wait_until(LONG, "that to be written down", || {
        Some(kinds(&installation)).filter(|told| told.iter().any(|(kind, _)| kind == "route-unproven"))
    });
    assert_eq!(told.iter().filter(|(kind, _)| kind == "route-unproven").count(), 1, "{told:?}");

    // A fall-back is looked at too, though nobody needs it.
    let second = Provider::at("127.0.0.1:0", "sk-proof-0003");
    let words =
        ["box", "inference", "add-fallback", "--provider", "custom", "--model", "n", "--endpoint-url"];
    let mut add = installation.command(&words);
    let added = add.arg(second.url()).env("COMPATIBLE_API_KEY", "sk-proof-0003").output().unwrap();
    assert!(added.status.success(), "{}", text(&added));
    drop(second);
    let (proof, told) = probe(&installation);
    assert_eq!(proof.state, "proven");
    assert!(
        told.contains("custom n fails since ") && told.contains(": cannot connect to 127.0.0.1:"),
        "{told}"
    );
}
