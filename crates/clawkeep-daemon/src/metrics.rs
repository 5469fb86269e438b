//! What a monitoring system wants to know of this installation, in Prometheus' text format.

mod format;
mod listen;

use std::collections::BTreeMap;

use clawkeep_inference::{BreakerState, Counted};

use crate::api::SandboxStatus;
use crate::server::Daemon;
use format::{Kind, Page};
pub use listen::{Metrics, resume, serve};

/// Every word of a phase.
const PHASES: [&str; 7] = ["ready", "starting", "preparing", "backoff", "held", "stopping", "stopped"];

/// What is known of one sandbox.
struct Facts {
    name: String,
    status: SandboxStatus,
    launches: u64,
    allowed: u64,
    refused: u64,
    models: BTreeMap<String, Counted>,
}

/// All of it, now.
pub fn page(daemon: &Daemon) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("clawkeep_build_info", Kind::Gauge, "The version of the daemon that runs.")
        .sample(&[("version", version)], 1);
    page.family("clawkeep_daemon_start_time_seconds", Kind::Gauge, "When the daemon started, Unix time.")
        .sample(&[], daemon.started_at as f64 / 1e3);
    if let Some(bytes) = resident_bytes() {
        page.family("clawkeep_daemon_resident_memory_bytes", Kind::Gauge, "The daemon's resident memory.")
            .sample(&[], bytes);
    }
    let journal = daemon.journal.health();
    page.family(
        "clawkeep_journal_entries_lost_total",
        Kind::Counter,
        "Journal entries that the disk did not take, since the daemon started.",
    )
    .sample(&[], journal.dropped + journal.failed);
    let all = facts(daemon);
    sandboxes(&mut page, &all);
    routes(&mut page, &all);
    page.into_text()
}

fn facts(daemon: &Daemon) -> Vec<Facts> {
    let records = daemon.store.list().unwrap_or_default();
    let facts = |record| {
        let status = daemon.status_of(record);
        let running = daemon.running(&record.name).ok();
        let verdicts = running.as_ref().map(|running| &running.policy.verdicts);
        Facts {
            name: record.name.to_string(),
            status,
            launches: running.as_ref().map_or(0, |running| running.status.borrow().launches),
            allowed: verdicts.map_or(0, |verdicts| verdicts.allowed()),
            refused: verdicts.map_or(0, |verdicts| verdicts.refused()),
            models: daemon.tally.meter(&record.name).0.kept().models,
        }
    };
    records.iter().map(facts).collect()
}

fn sandboxes(page: &mut Page, all: &[Facts]) {
    let mut family =
        page.family("clawkeep_sandbox_phase", Kind::Gauge, "1 for the phase that the sandbox is in.");
    for Facts { name, status, .. } in all {
        for phase in PHASES {
            family.sample(&[("sandbox", name), ("phase", phase)], u8::from(status.phase == phase));
        }
    }
    let mut family =
        page.family("clawkeep_sandbox_should_run", Kind::Gauge, "Whether somebody wants the sandbox to run.");
    for Facts { name, status, .. } in all {
        family.sample(&[("sandbox", name)], u8::from(status.should_run));
    }
    let mut family = page.family(
        "clawkeep_sandbox_restarts_total",
        Kind::Counter,
        "Launches of the gateway after the first, over the sandbox's life.",
    );
    for Facts { name, launches, .. } in all {
        family.sample(&[("sandbox", name)], launches.saturating_sub(1));
    }
    let mut family = page.family(
        "clawkeep_sandbox_guards",
        Kind::Gauge,
        "Guards of the sandbox by what is known of them.",
    );
    for Facts { name, status, .. } in all {
        for state in ["verified", "missing", "altered"] {
            let count = status.guards.iter().filter(|guard| guard.state == state).count();
            family.sample(&[("sandbox", name), ("state", state)], count);
        }
    }
    let usage = |facts: &Facts| facts.status.limits.as_ref().map(|limits| limits.usage);
    let mut family = page.family(
        "clawkeep_sandbox_memory_bytes",
        Kind::Gauge,
        "Memory of all of the sandbox's processes.",
    );
    for facts in all {
        if let Some(bytes) = usage(facts).and_then(|usage| usage.memory_bytes) {
            family.sample(&[("sandbox", &facts.name)], bytes);
        }
    }
    let mut family = page.family(
        "clawkeep_sandbox_oom_kills_total",
        Kind::Counter,
        "Processes that were killed for want of memory, since the sandbox was made.",
    );
    for facts in all {
        if let Some(kills) = usage(facts).and_then(|usage| usage.oom_kills) {
            family.sample(&[("sandbox", &facts.name)], kills);
        }
    }
    let mut family = page.family(
        "clawkeep_proxy_verdicts_total",
        Kind::Counter,
        "What the proxy decided about connections and requests, since it was begun.",
    );
    for Facts { name, allowed, refused, .. } in all {
        family.sample(&[("sandbox", name), ("verdict", "allowed")], allowed);
        family.sample(&[("sandbox", name), ("verdict", "refused")], refused);
    }
}

fn routes(page: &mut Page, all: &[Facts]) {
    let seen = |facts: &Facts| facts.status.inference.clone().unwrap_or_default();
    let mut family = page.family(
        "clawkeep_inference_requests_running",
        Kind::Gauge,
        "Requests that are with the model's provider now.",
    );
    for facts in all {
        family.sample(&[("sandbox", &facts.name)], seen(facts).running);
    }
    let mut family = page.family(
        "clawkeep_inference_breaker",
        Kind::Gauge,
        "1 for the state of the route's breaker; route 0 is asked first.",
    );
    for facts in all {
        for (index, route) in seen(facts).routes.iter().enumerate() {
            let index = index.to_string();
            for (state, word) in [
                (BreakerState::Closed, "closed"),
                (BreakerState::Open, "open"),
                (BreakerState::HalfOpen, "half_open"),
            ] {
                let labels = [
                    ("sandbox", facts.name.as_str()),
                    ("route", &index),
                    ("provider", &route.provider),
                    ("model", &route.model),
                    ("state", word),
                ];
                family.sample(&labels, u8::from(route.breaker == state));
            }
        }
    }
    let proven = |facts: &Facts| facts.status.proof.clone();
    let mut family = page.family(
        "clawkeep_inference_route_proven",
        Kind::Gauge,
        "Whether the last proof from inside the sandbox came through to the provider.",
    );
    for (facts, proof) in all.iter().filter_map(|facts| Some((facts, proven(facts)?))) {
        family.sample(&[("sandbox", &facts.name)], u8::from(proof.state == "proven"));
    }
    let mut family =
        page.family("clawkeep_inference_route_proof_age_seconds", Kind::Gauge, "How long ago that was.");
    for (facts, proof) in all.iter().filter_map(|facts| Some((facts, proven(facts)?))) {
        family.sample(&[("sandbox", &facts.name)], proof.age_ms as f64 / 1e3);
    }
    let mut family =
        page.family("clawkeep_inference_turns_total", Kind::Counter, "Answers of the model that came whole.");
    for (sandbox, model, counted) in models(all) {
        family.sample(&[("sandbox", sandbox), ("model", model)], counted.turns);
    }
    let mut family = page.family(
        "clawkeep_inference_tokens_total",
        Kind::Counter,
        "Tokens as the provider counts them, of requests (input) and of answers (output).",
    );
    for (sandbox, model, counted) in models(all) {
        for (direction, tokens) in [("input", counted.tokens_in), ("output", counted.tokens_out)] {
            family.sample(&[("sandbox", sandbox), ("model", model), ("direction", direction)], tokens);
        }
    }
    let mut family = page.family(
        "clawkeep_inference_errors_total",
        Kind::Counter,
        "Failures by cause, of every route that was tried.",
    );
    for (sandbox, model, counted) in models(all) {
        for (cause, count) in &counted.errors {
            family.sample(&[("sandbox", sandbox), ("model", model), ("cause", cause)], count);
        }
    }
    let mut family = page.family(
        "clawkeep_inference_first_token_seconds",
        Kind::Histogram,
        "From the request to the first piece of a stream.",
    );
    for (sandbox, model, counted) in models(all) {
        family.histogram(&[("sandbox", sandbox), ("model", model)], &counted.first_token);
    }
    let mut family = page.family(
        "clawkeep_inference_between_tokens_seconds",
        Kind::Histogram,
        "Between the events of a stream.",
    );
    for (sandbox, model, counted) in models(all) {
        family.histogram(&[("sandbox", sandbox), ("model", model)], &counted.between_tokens);
    }
}

fn models(all: &[Facts]) -> impl Iterator<Item = (&str, &str, &Counted)> {
    all.iter().flat_map(|facts| {
        facts.models.iter().map(|(model, counted)| (facts.name.as_str(), model.as_str(), counted))
    })
}

/// This process's (proc_pid_statm(5)).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
