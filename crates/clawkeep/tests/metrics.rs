//! What Prometheus sees: a page that a strict reader takes, over HTTP too where somebody wants that, and counters
//! that outlive the daemon.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use clawkeep_daemon::api::Request;
use support::{Installation, LONG, kill9};
use testkit::wait_until;

const KEY: &str = "sk-metrics-4711";

/// Answers each question with a stream of four events; 11 tokens in, 7 out.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
    url
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if !body.windows(13).any(|window| window == b"\"stream\":true") {
        let body = r#"{"choices":[{"message":{"content":"pong"}}],"data":[{"id":"m"}]}"#;
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    for _ in 0..3 {
        write!(stream, "data: {{\"choices\":[]}}\n\n")?;
        stream.flush()?;
    }
    write!(stream, "data: {{\"usage\":{{\"prompt_tokens\":11,\"completion_tokens\":7}}}}\n\n")
}

type Labels = BTreeMap<String, String>;

/// A family of a page, as it was read.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, Labels, f64)>,
}

/// Reads a page as the format's text says, and nothing else: every line is a HELP, the TYPE after it, or a sample of
/// that family; nothing comes twice; counters and histograms are what their kinds say.
fn read(page: &str) -> BTreeMap<String, Family> {
    let (mut families, mut current) = (BTreeMap::<String, Family>::new(), String::new());
    let mut series = BTreeSet::new();
    assert!(page.ends_with('\n'), "the last line has no end");
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(is_name(name) && !text.is_empty() && !families.contains_key(name), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name));
            let kind = kind.unwrap_or_else(|| panic!("no type after {line}")).trim_start();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            current = name.to_owned();
            families.insert(current.clone(), Family { kind: kind.to_owned(), samples: Vec::new() });
            continue;
        }
        let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("of no family: {line}"));
        let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("not of {current}: {line}"));
        match family.kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        assert!(family.kind == "gauge" || value >= 0.0, "{line}");
        assert!(series.insert((name.clone(), labels.clone())), "twice: {line}");
        family.samples.push((name, labels, value));
    }
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        check_histogram(name, family);
    }
    families
}

/// Buckets grow with their bounds up to `+Inf`, which is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut last: Option<(Labels, f64, f64)> = None;
    for (sample, labels, value) in &family.samples {
        let mut of = labels.clone();
        let bound =
            of.remove("le").map(|bound| if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() });
        match (sample.strip_prefix(name).unwrap(), bound, &last) {
            ("_bucket", Some(bound), Some((before, lower, count))) if *before == of => {
                assert!(bound > *lower && value >= count, "{name} {labels:?}");
                last = Some((of, bound, *value));
            }
            ("_bucket", Some(bound), None) => last = Some((of, bound, *value)),
            ("_sum", None, Some((before, bound, _))) => assert!(*before == of && bound.is_infinite()),
            ("_count", None, Some((_, bound, count))) => {
                assert!(bound.is_infinite() && count == value, "{name} {labels:?}");
                last = None;
            }
            other => panic!("{name} {labels:?}: {other:?}"),
        }
    }
    assert!(last.is_none(), "{name}: no count at the end");
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    is_name(name).then_some(())?;
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            is_name(label).then_some(())?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at + 1,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.insert(label.to_owned(), value).is_none().then_some(())?;
            rest = &after[end..];
            match rest.chars().next() {
                Some(',') => rest = &rest[1..],
                Some('}') => break rest = &rest[1..],
                _ => return None,
            }
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// The one sample of this name whose labels have these among them.
#[track_caller]
fn value(page: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let fits = |labels: &Labels| {
        wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|have| have == value))
    };
    let all = page.values().flat_map(|family| &family.samples);
    let found: Vec<_> = all.filter(|(have, labels, _)| have == name && fits(labels)).collect();
    assert_eq!(found.len(), 1, "{name} {wanted:?}: {found:?}");
    found[0].2
}

fn text(installation: &Installation, args: &[&str]) -> String {
    let output = installation.clawkeep(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn page(installation: &Installation) -> BTreeMap<String, Family> {
    read(&text(installation, &["metrics"]))
}

fn refused(installation: &Installation, listen: &str, status: i32, code: &str) {
    let output = installation.clawkeep(&["metrics", "--listen", listen]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert!(
        told.starts_with(&format!("error[{code}]: {listen} is ")) && told.contains("\n  next: "),
        "{told}"
    );
}

fn ask(installation: &Installation, model: &str) {
    let body = serde_json::json!({ "model": model, "stream": true }).to_string();
    let body = body.replace('\'', "");
    let script = format!("curl -sSN https://inference.local/v1/chat/completions -d '{body}'");
    let (told, status) = installation.exec("box", &script);
    assert!(status == 0 && told.contains("usage"), "{told}");
}

#[test]
fn a_strict_reader_takes_the_page_and_counters_outlive_the_daemon() {
    if !std::path::Path::new("/usr/bin/curl").exists() {
        eprintln!(
            "SKIPPED: a_strict_reader_takes_the_page_and_counters_outlive_the_daemon needs /usr/bin/curl"
        );
        return;
    }
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let guards = installation.status("box").guards.len();
    let mut set = installation.command(&[
        "box",
        "inference",
        "set",
        "--provider",
        "custom",
        "--endpoint-url",
        &provider(),
        "--model",
        "m",
    ]);
    assert!(set.env("COMPATIBLE_API_KEY", KEY).output().unwrap().status.success());
    let hostile = "a\\n\"}{b\\ \u{1b}[2J c=\"";
    ["m", "m", hostile].into_iter().for_each(|model| ask(&installation, model));
    installation.exec("box", "curl -sS http://refused.example/");

    let counted = wait_until(LONG, "the turns to be counted", || {
        Some(page(&installation)).filter(|page| page["clawkeep_inference_turns_total"].samples.len() == 2)
    });
    let (of_box, of_m) = (("sandbox", "box"), ("model", "m"));
    let is = |name, labels: &[(&str, &str)], wanted: f64| {
        assert_eq!(value(&counted, name, labels), wanted, "{name} {labels:?}")
    };
    is("clawkeep_inference_turns_total", &[of_box, of_m], 2.0);
    is("clawkeep_inference_tokens_total", &[of_m, ("direction", "input")], 22.0);
    is("clawkeep_inference_tokens_total", &[of_m, ("direction", "output")], 14.0);
    is("clawkeep_inference_first_token_seconds_count", &[of_m], 2.0);
    is("clawkeep_inference_between_tokens_seconds_count", &[of_m], 6.0);
    is("clawkeep_inference_breaker", &[("route", "0"), ("state", "closed")], 1.0);
    is("clawkeep_inference_breaker", &[("route", "0"), ("state", "open")], 0.0);
    is("clawkeep_sandbox_phase", &[of_box, ("phase", "ready")], 1.0);
    is("clawkeep_sandbox_guards", &[of_box, ("state", "verified")], guards as f64);
    is("clawkeep_sandbox_restarts_total", &[of_box], 0.0);
    is("clawkeep_proxy_verdicts_total", &[of_box, ("verdict", "refused")], 1.0);
    assert!(value(&counted, "clawkeep_proxy_verdicts_total", &[("verdict", "allowed")]) >= 3.0);
    assert!(value(&counted, "clawkeep_daemon_resident_memory_bytes", &[]) > 1e6);
    assert!(!text(&installation, &["metrics"]).contains(KEY));

    // The next daemon goes on from there, and so does the one after it that nobody gave the time to write.
    let since = installation.status("box").inference.unwrap().since_ms;
    installation.ask(&Request::Shutdown).unwrap();
    installation.ready("box");
    assert_eq!(value(&page(&installation), "clawkeep_inference_turns_total", &[of_m]), 2.0);
    kill9(installation.daemon().daemon.pid.cast_signed());
    installation.ready("box");
    let now = page(&installation);
    assert_eq!(value(&now, "clawkeep_inference_tokens_total", &[of_m, ("direction", "input")]), 22.0);
    assert_eq!(value(&now, "clawkeep_inference_between_tokens_seconds_count", &[of_m]), 6.0);
    let seen = installation.status("box").inference.unwrap();
    assert_eq!((seen.since_ms, seen.total.turns, seen.models["m"].tokens_out), (since, 3, 14));
    assert!(text(&installation, &["box", "status"]).contains("inference  3 turns, 33 tokens in, 21 out, "));
}

#[test]
fn they_are_served_on_the_loopback_where_somebody_wants_that_and_over_the_daemons_end() {
    let installation = Installation::new();
    let status = || text(&installation, &["status"]);
    refused(&installation, "0.0.0.0:9464", 2, "not-loopback");
    assert!(!installation.home.db().exists(), "nothing was made for what cannot be");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    refused(&installation, &taken, 1, "port-taken");

    let told = text(&installation, &["metrics", "--listen", "127.0.0.1:0"]);
    let address = told.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    assert_eq!(
        told,
        format!("metrics are served at http://{address}/metrics, to every user of this machine\n")
    );
    let get = |path: &str, headers: &[(&str, &str)]| {
        let stream = TcpStream::connect(&address).ok()?;
        testkit::http::request(stream, "GET", path, headers, b"").ok()
    };
    let answer = get("/metrics", &[]).unwrap();
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(value(&read(&answer.text()), "clawkeep_build_info", &[]), 1.0);
    assert_eq!(get("/", &[]).unwrap().status, 404);
    // One that cannot be does not end the one that is.
    refused(&installation, &taken, 1, "port-taken");
    assert_eq!(get("/metrics", &[]).unwrap().status, 200);
    assert!(status().contains(&format!("metrics    http://{address}/metrics")), "{}", status());

    // Killed, and with somebody in its place when the next one comes.
    kill9(installation.daemon().daemon.pid.cast_signed());
    wait_until(LONG, "the next daemon to serve them", || {
        // In a home without sandboxes nobody else asks for one.
        let _ = installation.daemon();
        get("/metrics", &[]).filter(|answer| answer.status == 200)
    });
    assert_eq!(text(&installation, &["metrics", "--off"]), "metrics are not served\n");
    assert!(TcpStream::connect(&address).is_err());
    assert!(!status().contains("/metrics"));
    installation.ask(&Request::Shutdown).unwrap();
    assert!(wait_until(LONG, "the next daemon", || Some(installation.daemon())).daemon.metrics.is_none());

    // What was chosen and is taken now is told, and served when it is free.
    text(&installation, &["metrics", "--listen", &address]);
    let daemon = installation.daemon().daemon.pid.cast_signed();
    let parent = testkit::Handle::of(installation.parent_of(daemon.cast_unsigned())).unwrap();
    let daemon = testkit::Handle::of(daemon).unwrap();
    assert!(parent.kill() && daemon.kill() && daemon.ends_within(LONG));
    let holder = TcpListener::bind(&address).unwrap();
    let trouble = format!("metrics are not served: {address} is taken by another program");
    wait_until(LONG, "the trouble to be told", || {
        installation.daemon().daemon.troubles.iter().any(|told| told.starts_with(&trouble)).then_some(())
    });
    drop(holder);
    wait_until(LONG, "it to be served", || get("/metrics", &[]).filter(|answer| answer.status == 200));
}
