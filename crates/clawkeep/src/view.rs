//! How states look to a person. Whatever comes from a sandbox is cleaned: all of it, here.

pub mod policy;
pub mod story;
pub mod walls;

use std::path::Path;

use clawkeep_daemon::api::credentials::CredentialStatus;
use clawkeep_daemon::api::{DeniedStatus, LimitsStatus, RouteStatus, SandboxStatus, Status};
use clawkeep_inference::{BreakerState, Counts, Seen};
use clawkeep_isolation::Hierarchy;
use clawkeep_plan::Tier;

use crate::output::clean;

/// Whether it is as it should be.
pub fn is_well(status: &SandboxStatus) -> bool {
    !status.should_run || status.phase == "ready"
}

/// `2 of 4 verified`.
pub fn guards(status: &SandboxStatus) -> String {
    let verified = status.guards.iter().filter(|guard| guard.state == "verified").count();
    match status.guards.len() {
        0 => "none".to_owned(),
        all => format!("{verified} of {all} verified"),
    }
}

/// Milliseconds as seconds.
pub fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

/// `openclaw 2026.9.6`.
fn agent(status: &SandboxStatus) -> String {
    format!("{} {}", status.agent.name, status.agent.version).trim_end().to_owned()
}

fn provider_and_model(route: &RouteStatus) -> String {
    match route.provider.as_str() {
        "canary" => "built-in canary".to_owned(),
        provider => format!("{provider} {}", route.model).trim_end().to_owned(),
    }
}

/// `custom M at URL`, or `built-in canary`.
pub fn model(route: &RouteStatus) -> String {
    let at = route.endpoint_url.as_ref().map(|url| format!(" at {url}")).unwrap_or_default();
    provider_and_model(route) + &at
}

/// Said wherever a sandbox is: that it is of the lower tier.
fn lower(status: &SandboxStatus) -> &'static str {
    match status.tier {
        Tier::Namespaces => "",
        Tier::Landlock => " (landlock tier)",
    }
}

/// The table of `list`.
pub fn list(sandboxes: &[SandboxStatus], root: &Path) -> String {
    if sandboxes.is_empty() {
        return format!("no sandboxes in {} (clawkeep onboard makes one)\n", root.display());
    }
    let mut rows = vec![["NAME", "PHASE", "AGENT", "GUARDS", "MODEL"].map(str::to_owned)];
    for status in sandboxes {
        let mark = if status.default { " *" } else { "" };
        let half = if status.onboarded { "" } else { " (onboarding unfinished)" };
        rows.push([
            format!("{}{mark}", status.name),
            format!("{}{half}{}", status.phase, lower(status)),
            agent(status),
            guards(status),
            provider_and_model(&status.route),
        ]);
    }
    table(rows)
}

/// Columns as wide as they have to be; the first row is their heads.
fn table<const N: usize>(mut rows: Vec<[String; N]>) -> String {
    for row in &mut rows {
        // A line stays a line, whatever is in it.
        row.iter_mut().for_each(|cell| *cell = clean(cell).replace(['\n', '\t'], " "));
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            line += &format!("{cell:<width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The table of `credentials list`.
pub fn credentials(all: &[CredentialStatus]) -> String {
    if all.is_empty() {
        return "no credentials (clawkeep credentials add NAME --host HOST stores one)\n".to_owned();
    }
    let mut rows = vec![["NAME", "HOSTS", "SANDBOX", "FROM", "SET"].map(str::to_owned)];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for one in all {
        rows.push([
            one.name.clone(),
            or_dash(one.hosts.join(", ")),
            one.sandbox.as_ref().map_or("every".to_owned(), ToString::to_string),
            one.source.clone(),
            match (one.state.as_str(), &one.set_at) {
                ("set", at) => at.clone().unwrap_or_else(|| "yes".to_owned()),
                ("empty", _) => "no: set it again".to_owned(),
                _ => "cannot be read: set it again".to_owned(),
            },
        ]);
    }
    table(rows)
}

/// `status`.
pub fn all(status: &Status, root: &Path) -> String {
    let mut text = list(&status.sandboxes, root);
    for sandbox in status.sandboxes.iter().filter(|sandbox| !is_well(sandbox)) {
        text += &format!("\n{}: {}\n", sandbox.name, clean(&sandbox.phase));
        text += &trouble(sandbox);
    }
    let daemon = &status.daemon;
    text +=
        &clean(&format!("\ndaemon {}, pid {}, since {}\n", daemon.version, daemon.pid, daemon.started_at));
    if let Some(listen) = &daemon.metrics {
        text += &line("metrics", &format!("http://{listen}/metrics"));
    }
    for trouble in &daemon.troubles {
        text += &line("degraded", trouble);
    }
    text
}

fn line(key: &str, value: &str) -> String {
    let value = clean(value);
    let mut lines = value.lines();
    let mut text = format!("  {key:<10} {}\n", lines.next().unwrap_or_default());
    for more in lines {
        text += &format!("  {:<10} {more}\n", "");
    }
    text
}

/// `42 turns, 12k tokens in, 3k out, first token 0.4 s, then one in 12 ms (99% in 25), 2 errors (timeout), since
/// 2026-11-25 05:41:25`; nothing of a route that was not used.
fn inference(seen: &Seen) -> Option<String> {
    let Counts {
        turns,
        tokens_in,
        tokens_out,
        first_token_ms,
        between_tokens_ms,
        between_tokens_p99_ms,
        errors,
        ..
    } = &seen.total;
    let failures: u64 = errors.values().sum();
    if *turns == 0 && failures == 0 {
        return None;
    }
    let s = |count: u64| if count == 1 { "" } else { "s" };
    let mut text = format!("{turns} turn{}", s(*turns));
    if *tokens_in > 0 || *tokens_out > 0 {
        text += &format!(", {} tokens in, {} out", thousands(*tokens_in), thousands(*tokens_out));
    }
    if let Some(ms) = first_token_ms {
        text += &format!(", first token {:.1} s", ms / 1000.0);
    }
    if let (Some(median), Some(most)) = (between_tokens_ms, between_tokens_p99_ms) {
        let short = |ms: f64| if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
        text += &format!(", then one in {} ms (99% in {})", short(*median), short(*most));
    }
    if failures > 0 {
        let causes = errors.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        text += &format!(", {failures} error{} ({causes})", s(failures));
    }
    let since = story::clock(seen.since_ms);
    text += &format!(", since {}", since.split('.').next().unwrap_or(&since));
    for route in seen.routes.iter().filter(|route| route.breaker != BreakerState::Closed) {
        text += &format!("\n{} {} is not asked for now", route.provider, route.model);
    }
    Some(text)
}

/// `950`, `12k`, `3.4M`.
fn thousands(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", count / 1_000),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

/// `memory 4.0 GiB, 4096 processes, files 64.0 GiB; 1 killed for memory`.
fn limits(told: &LimitsStatus) -> String {
    let enforced = &told.enforced;
    let words = [
        enforced.memory_bytes.map(|bytes| format!("memory {}", size(bytes))),
        enforced.pids.map(|pids| format!("{pids} processes")),
        enforced.cpu_milli.map(|milli| format!("{} processors", milli as f64 / 1000.0)),
        enforced.file_bytes.map(|bytes| format!("files {}", size(bytes))),
    ];
    let mut text = words.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if let Some(bytes) = told.usage.memory_bytes {
        text += &format!("; memory used {}", size(bytes));
    }
    if let Some(kills) = told.usage.oom_kills.filter(|kills| *kills > 0) {
        text += &format!(", {kills} killed for memory");
    }
    text
}

/// Bytes in the unit that fits.
fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{:.0} MiB", gib * 1024.0) }
}

/// Calls that are named in a line; all of them are in the JSON.
const NAMED: usize = 8;

/// `io_uring_setup, ptrace (2 kinds); in sessions: mount (1 kind)`.
fn denied(told: &DeniedStatus) -> Option<String> {
    let kinds = |calls: &[String]| {
        let s = if calls.len() == 1 { "" } else { "s" };
        let more = if calls.len() > NAMED { ", …" } else { "" };
        let named = calls.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        (!calls.is_empty()).then(|| format!("{named}{more} ({} kind{s})", calls.len()))
    };
    let in_sessions = kinds(&told.sessions).map(|calls| format!("in sessions: {calls}"));
    let parts: Vec<String> = kinds(&told.agent).into_iter().chain(in_sessions).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn trouble(status: &SandboxStatus) -> String {
    let mut text = String::new();
    if let Some(held) = &status.held {
        text += &line("held", &held.reason);
        text += &line("next", &held.command);
    }
    if let Some(at) = &status.next_attempt_at {
        text += &line("next start", at);
    }
    if let Some(incident) = &status.last_incident {
        text += &line("incident", &format!("{}: {}", incident.at, incident.what));
    }
    text
}

/// `proven from inside 40 s ago, in 12 ms`, or where it fails since when; and each fall-back that fails.
pub fn proof(status: &SandboxStatus) -> String {
    let mut text = String::new();
    if let Some(proof) = &status.proof {
        match (&proof.what, &proof.place) {
            (Some(what), place) => {
                let place = place.as_deref().unwrap_or("provider");
                text += &line("route", &format!("FAILS since {} ({place}): {what}", proof.since));
                text += &line("", &format!("next: {}", proof.next.as_deref().unwrap_or_default()));
            }
            (None, _) => {
                let took = proof
                    .took_ms
                    .map_or(", by an answer to the agent".to_owned(), |ms| format!(", in {ms} ms"));
                text +=
                    &line("route", &format!("proven from inside {} ago{took}", story::span(proof.age_ms)));
            }
        }
    }
    let told = status.proof.as_ref().and_then(|proof| proof.what.as_deref());
    for route in status.inference.iter().flat_map(|seen| &seen.routes) {
        if let Some(failing) = route.failing.as_ref().filter(|failing| told != Some(&failing.what)) {
            let since = story::rfc3339(failing.since_ms);
            text += &line(
                "",
                &format!("{} {} fails since {since}: {}", route.provider, route.model, failing.what),
            );
            text += &line("", &format!("next: {}", failing.next.replace("NAME", status.name.as_str())));
        }
    }
    text
}

/// `NAME status`.
pub fn sandbox(status: &SandboxStatus) -> String {
    let mut words = vec![clean(&status.phase)];
    words.extend(status.default.then(|| "the default".to_owned()));
    words.extend((!status.onboarded).then(|| "onboarding unfinished".to_owned()));
    words.extend((!status.should_run).then(|| "told to be stopped".to_owned()));
    let mut text = format!("{}: {}\n", status.name, words.join(", "));
    let runtime = &status.agent.runtime;
    let on = if runtime.is_empty() { String::new() } else { format!(" on {runtime}") };
    text += &line("agent", &format!("{}{on}", agent(status)));
    text += &line("system", &status.system);
    if status.tier == Tier::Landlock {
        text += &line(
            "isolation",
            "landlock tier, as it was asked for: Landlock and seccomp alone, NO namespaces",
        );
    }
    for mount in &status.mounts {
        text += &line("mount", mount);
    }
    if let Some(gateway) = &status.gateway {
        let warm_up = gateway.warm_up_ms.map(|ms| format!(", ready in {}", seconds(ms))).unwrap_or_default();
        let s = if gateway.restarts == 1 { "" } else { "s" };
        let (pid, since, restarts) = (gateway.pid, &gateway.started_at, gateway.restarts);
        text += &line("gateway", &format!("pid {pid} since {since}, {restarts} restart{s}{warm_up}"));
    }
    if status.safe_mode {
        text += &line("safe mode", "without channels and plugins, because nothing else has helped");
        text += &line("", &format!("the whole agent again: clawkeep {} gateway restart", status.name));
    }
    text += &line("guards", &guards(status));
    for guard in status.guards.iter().filter(|guard| guard.state != "verified") {
        text += &line("", &format!("{} is {}", guard.name, guard.state));
    }
    if let Some(receipt) = &status.receipt {
        let (digest, plan) = (receipt.digest.short(), receipt.plan.short());
        text += &line("receipt", &format!("{digest} for plan {plan}"));
    }
    if let Some(level) = &status.level {
        let hierarchy = status.limits.as_ref().map(|told| told.enforced.hierarchy);
        text += &line("walls", &walls::brief(level, hierarchy.unwrap_or(Hierarchy::None)));
    }
    if let Some(told) = denied(&status.denied) {
        text += &line("denied", &told);
    }
    if let Some(told) = &status.limits {
        text += &line("limits", &limits(told));
        for missing in &told.enforced.missing {
            text += &line("NO LIMIT", missing);
        }
    }
    text += &line("model", &model(&status.route));
    for fallback in &status.route.fallbacks {
        text += &line("", &format!("else {}", model(fallback)));
    }
    text += &proof(status);
    if let Some(told) = status.inference.as_ref().and_then(inference) {
        text += &line("inference", &told);
    }
    text += &line("egress", &policy::brief(&status.name, &status.egress));
    if let Some(url) = &status.dashboard_url {
        text += &line("page", url);
    }
    text + &trouble(status)
}

#[cfg(test)]
pub mod tests {
    use clawkeep_daemon::api::{
        AgentStatus, DaemonStatus, EgressStatus, GatewayStatus, GuardStatus, Held, Incident, ReceiptStatus,
        RouteStatus,
    };
    use clawkeep_inference::RouteSeen;
    use clawkeep_isolation::{Enforced, Usage};
    use clawkeep_plan::Digest;

    use super::*;

    /// A ready sandbox.
    pub fn ready(name: &str) -> SandboxStatus {
        let guard = |name: &str| GuardStatus {
            name: name.into(),
            digest: Digest::of(name.as_bytes()),
            critical: true,
            state: "verified".into(),
        };
        SandboxStatus {
            schema: 1,
            name: name.parse().unwrap(),
            default: true,
            phase: "ready".into(),
            should_run: true,
            onboarded: true,
            agent: AgentStatus {
                name: "openclaw".into(),
                version: "2026.9.6".into(),
                runtime: "node 24.21.0".into(),
                config: None,
            },
            system: "this host's /usr".into(),
            mounts: vec!["/srv/data at /data, read-only".into()],
            gateway: Some(GatewayStatus {
                pid: 4711,
                started_at: "2026-11-24T07:00:00Z".into(),
                restarts: 2,
                warm_up_ms: Some(6123),
            }),
            guards: vec![guard("sandbox-safety-net"), guard("ciao-network-guard")],
            receipt: Some(ReceiptStatus {
                digest: Digest::of(b"receipt"),
                plan: Digest::of(b"plan"),
                landlock_abi: 7,
                seccomp: Digest::of(b"seccomp"),
                caps: "0".into(),
                namespaces: [("net".into(), 4026532000)].into(),
            }),
            denied: DeniedStatus {
                agent: vec!["io_uring_setup".into(), "ptrace".into()],
                sessions: vec!["mount".into()],
            },
            safe_mode: false,
            rung: "respawn".into(),
            tier: Tier::Namespaces,
            level: Some(walls::tests::level()),
            limits: Some(LimitsStatus {
                enforced: Enforced {
                    hierarchy: Hierarchy::V2,
                    group: Some("clawkeep-my-assistant-803.1f".into()),
                    memory_bytes: Some(4 << 30),
                    pids: Some(4096),
                    cpu_milli: Some(1500),
                    file_bytes: Some(64 << 30),
                    missing: vec![],
                },
                usage: Usage { memory_bytes: Some(300 << 20), oom_kills: Some(2), ..Usage::default() },
            }),
            route: RouteStatus {
                provider: "canary".into(),
                model: "canary-1".into(),
                endpoint_url: None,
                fallbacks: vec![],
            },
            inference: Some(Seen::default()),
            proof: None,
            egress: EgressStatus { presets: vec!["npm".into()], rules: 1, refused: 3, ..Default::default() },
            dashboard_port: Some(18789),
            dashboard_url: Some("http://127.0.0.1:18789/#token=t".into()),
            next_attempt_at: None,
            held: None,
            last_incident: None,
        }
    }

    /// One that waits for a person.
    pub fn held(name: &str) -> SandboxStatus {
        let mut status = ready(name);
        status.default = false;
        status.phase = "held".into();
        status.gateway = None;
        status.receipt = None;
        status.level = None;
        status.denied = DeniedStatus::default();
        status.egress = EgressStatus::default();
        status.guards[1].state = "altered".into();
        if let Some(limits) = &mut status.limits {
            limits.enforced.memory_bytes = None;
            limits.enforced.cpu_milli = None;
            limits.enforced.missing = vec!["memory is not limited: it is not delegated".into()];
            limits.usage = Usage::default();
        }
        status.dashboard_url = None;
        status.held = Some(Held {
            reason: "a guard was altered\u{1b}[2J".into(),
            command: "clawkeep other recover".into(),
        });
        status.last_incident =
            Some(Incident { at: "2026-11-24T07:01:00Z".into(), what: "line one\nline two".into() });
        status
    }

    #[test]
    fn the_lower_tier_is_said_wherever_a_sandbox_is() {
        let mut status = ready("box");
        status.tier = Tier::Landlock;
        let told = list(std::slice::from_ref(&status), Path::new("/home"));
        assert!(told.contains("box *   ready (landlock tier)   openclaw"), "{told}");
        let line =
            "  isolation  landlock tier, as it was asked for: Landlock and seccomp alone, NO namespaces\n";
        assert!(sandbox(&status).contains(line), "{}", sandbox(&status));
        assert!(!sandbox(&ready("box")).contains("landlock tier"));
    }

    #[test]
    fn states_as_people_see_them() {
        insta::assert_snapshot!(sandbox(&ready("my-assistant")), @r#"
        my-assistant: ready, the default
          agent      openclaw 2026.9.6 on node 24.21.0
          system     this host's /usr
          mount      /srv/data at /data, read-only
          gateway    pid 4711 since 2026-11-24T07:00:00Z, 2 restarts, ready in 6.1 s
          guards     2 of 2 verified
          receipt    6f328609 for plan 64879f7d
          walls      Landlock ABI 7 · seccomp 2 filters, b10f708e… · 7 namespaces · no capabilities · no new privileges · user 998, 1900000998 on the host · 32 mounts · cgroup v2
          denied     io_uring_setup, ptrace (2 kinds); in sessions: mount (1 kind)
          limits     memory 4.0 GiB, 4096 processes, 1.5 processors, files 64.0 GiB; memory used 300 MiB, 2 killed for memory
          model      built-in canary
          egress     the model's route, npm, 1 other rule; 3 refused: clawkeep my-assistant policy requests
          page       http://127.0.0.1:18789/#token=t
        "#);
        insta::assert_snapshot!(sandbox(&held("other")), @r#"
        other: held
          agent      openclaw 2026.9.6 on node 24.21.0
          system     this host's /usr
          mount      /srv/data at /data, read-only
          guards     1 of 2 verified
                     ciao-network-guard is altered
          limits     4096 processes, files 64.0 GiB
          NO LIMIT   memory is not limited: it is not delegated
          model      built-in canary
          egress     the model's route
          held       a guard was altered
          next       clawkeep other recover
          incident   2026-11-24T07:01:00Z: line one
                     line two
        "#);
        let daemon = DaemonStatus {
            pid: 42,
            version: "0.1.0".into(),
            started_at: "2026-11-24T06:59:59Z".into(),
            troubles: vec!["no space left for /h: nothing can be changed".into()],
            managed: false,
            metrics: None,
        };
        let status = Status { schema: 1, daemon, sandboxes: vec![ready("my-assistant"), held("other")] };
        insta::assert_snapshot!(all(&status, Path::new("/h")), @r#"
        NAME             PHASE   AGENT               GUARDS            MODEL
        my-assistant *   ready   openclaw 2026.9.6   2 of 2 verified   built-in canary
        other            held    openclaw 2026.9.6   1 of 2 verified   built-in canary

        other: held
          held       a guard was altered
          next       clawkeep other recover
          incident   2026-11-24T07:01:00Z: line one
                     line two

        daemon 0.1.0, pid 42, since 2026-11-24T06:59:59Z
          degraded   no space left for /h: nothing can be changed
        "#);
        insta::assert_snapshot!(list(&[], Path::new("/h")), @r#"
        no sandboxes in /h (clawkeep onboard makes one)
        "#);
    }

    #[test]
    fn a_route_that_was_used_tells_of_it() {
        assert_eq!(inference(&Seen::default()), None);
        let mut seen = Seen::default();
        seen.total.turns = 42;
        seen.total.tokens_in = 12_345;
        seen.total.tokens_out = 3_210_000;
        seen.since_ms = 1_795_000_000_000;
        seen.total.first_token_ms = Some(412.7);
        seen.total.between_tokens_ms = Some(12.2);
        seen.total.between_tokens_p99_ms = Some(25.0);
        seen.total.errors = [("timeout".to_owned(), 2), ("cut".to_owned(), 1)].into();
        let route = |breaker| {
            let (provider, model) = ("ollama".into(), "m".into());
            RouteSeen { provider, model, breaker, answered_ms: None, failing: None }
        };
        seen.routes = vec![route(BreakerState::Open), route(BreakerState::Closed)];
        insta::assert_snapshot!(line("inference", &inference(&seen).unwrap()), @r#"
          inference  42 turns, 12k tokens in, 3.2M out, first token 0.4 s, then one in 12 ms (99% in 25), 3 errors (cut, timeout), since 2026-11-18 11:06:40
                     ollama m is not asked for now
        "#);
        seen.total = Counts { turns: 1, ..Counts::default() };
        seen.routes.clear();
        assert_eq!(inference(&seen).unwrap(), "1 turn, since 2026-11-18 11:06:40");
    }

    #[test]
    fn stopped_on_purpose_is_well_and_waiting_is_not() {
        let mut status = held("box");
        assert!(!is_well(&status));
        status.should_run = false;
        assert!(is_well(&status) && is_well(&ready("box")));
        status.onboarded = false;
        assert!(sandbox(&status).starts_with("box: held, onboarding unfinished, told to be stopped\n"));
    }

    #[test]
    fn nothing_from_a_sandbox_breaks_the_table_or_moves_the_cursor() {
        let mut status = ready("box");
        status.route.model = "m\n\u{1b}[1Ahidden\ttab".into();
        assert_eq!(list(&[status.clone()], Path::new("/h")).lines().count(), 2);
        assert!(!sandbox(&status).contains('\u{1b}'));
    }

    #[test]
    fn a_line_names_some_of_many_refused_calls_and_counts_all() {
        let calls = |n: usize| (1..=n).map(|number| format!("call-{number}")).collect::<Vec<_>>();
        let told = |agent| denied(&DeniedStatus { agent, sessions: vec![] });
        assert_eq!(told(calls(0)), None);
        assert_eq!(told(calls(1)).unwrap(), "call-1 (1 kind)");
        assert!(told(calls(8)).unwrap().ends_with("call-7, call-8 (8 kinds)"));
        assert!(told(calls(44)).unwrap().ends_with("call-7, call-8, … (44 kinds)"));
    }
}
