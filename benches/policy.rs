//! What a decision costs under a policy of fifty rules: `cargo bench -p clawkeep-policy --bench policy`. Fails when
//! a connection with its request takes 5 us or more at the median.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clawkeep_policy::{Caller, Matcher, Policy, RequestPath, Target, presets};

/// Decisions in one measurement, so that the clock's own cost is nothing.
const BATCH: u32 = 100;
const MEASUREMENTS: usize = 500;
const PROMISE: Duration = Duration::from_micros(5);

/// All presets, and rules of one's own up to fifty, a third of them with wildcards.
fn fifty() -> Policy {
    let mut text = "version: 1\nnetwork_policies:\n".to_owned();
    for index in presets().len()..50 {
        let host =
            if index % 3 == 0 { format!("\"*.own{index}.example\"") } else { format!("own{index}.example") };
        text += &format!(
            "  own{index}:\n    endpoints:\n      - host: {host}\n        port: 443\n        protocol: rest\n        \
             enforcement: enforce\n        rules: [{{allow: {{method: GET, path: \"/v1/*/items/**\"}}}}]\n        \
             deny_rules: [{{method: \"*\", path: \"/v1/*/items/private/**\"}}]\n    \
             binaries: [{{path: /usr/bin/curl}}, {{path: /usr/lib/jvm/*/bin/java}}]\n"
        );
    }
    let mut policy = Policy::read(&text).expect("a policy").policy;
    for preset in presets() {
        policy.add(&preset.policy).expect("presets go together");
    }
    assert_eq!(policy.rule_names().count(), 50);
    policy
}

fn main() -> ExitCode {
    let begin = Instant::now();
    let matcher = Matcher::new(&fifty());
    println!("read and compiled in {:.1} ms", begin.elapsed().as_secs_f64() * 1000.0);
    let long = format!("/v1/a/items/{}", "a/".repeat(4000));
    let mut kept = true;
    println!("| decision | p50 | p99 |\n|---|---|---|");
    for (what, host, path, promised) in [
        ("a name, allowed", "own49.example", "/v1/a/items/b?c=d", true),
        ("a wildcard, allowed", "a.own48.example", "/v1/a/items/b", true),
        ("a name, denied by a deny rule", "own49.example", "/v1/a/items/private/b", true),
        ("no rule", "nowhere.example", "/", true),
        ("a path of 8 KB", "own49.example", &long, false),
    ] {
        let target = Target::parse(host.as_bytes(), Some(443)).expect("a target");
        let path = RequestPath::parse(path).expect("a path");
        let mut times: Vec<Duration> = (0..MEASUREMENTS)
            .map(|_| {
                let begin = Instant::now();
                for _ in 0..BATCH {
                    let grant = matcher.connect(black_box(&target), Caller::Executable("/usr/bin/curl"));
                    let _ = black_box(grant.and_then(|grant| grant.request("GET", black_box(&path), false)));
                }
                begin.elapsed() / BATCH
            })
            .collect();
        times.sort();
        let (median, late) = (times[MEASUREMENTS / 2], times[MEASUREMENTS * 99 / 100]);
        println!("| {what} | {:.2} us | {:.2} us |", median.as_secs_f64() * 1e6, late.as_secs_f64() * 1e6);
        kept &= !promised || median < PROMISE;
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
