//! What is told about a sandbox, put together from the registry, the supervisor and the plan.

use std::time::{Duration, UNIX_EPOCH};

use clawkeep_inference::Route;
use clawkeep_plan::Tier;
use clawkeep_recovery::Phase;
use clawkeep_store::{Desired, Home, SandboxRecord};
use clawkeep_supervisor::Snapshot;

use crate::api::{
    AgentStatus, DeniedStatus, EgressStatus, Failure, GatewayStatus, GuardStatus, Held, Incident,
    LimitsStatus, ReceiptStatus, RouteStatus, SandboxStatus,
};
use crate::config::Config;
use crate::running::Running;
use crate::{mounts, system};

/// A Unix time in milliseconds, as RFC 3339 in UTC.
pub fn rfc3339(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

/// The word for a phase.
pub fn phase_word(snapshot: &Snapshot) -> &'static str {
    snapshot.phase.word(snapshot.wanted)
}

/// Its start has not had its turn yet. One that was told to stop, where that could not be written down, has had
/// its turn.
fn starts_soon(record: &SandboxRecord, running: &Running, found: &Snapshot) -> bool {
    let before = found.wishes == 0 || running.has_untaken_wishes(found);
    record.desired == Desired::Running && before && found.phase == Phase::Stopped && !found.wanted
}

/// The status of one sandbox. `running` is missing where it cannot even be supervised.
pub fn status(home: &Home, record: &SandboxRecord, running: Result<&Running, Failure>) -> SandboxStatus {
    let config = Config::of(record).ok();
    let snapshot = running.as_ref().ok().map(|running| running.status.borrow().clone());
    let blueprint = running.as_ref().ok().map(|running| running.blueprint());
    let plan = blueprint.as_ref().map(|blueprint| &blueprint.plan);
    let guards = plan.map_or_else(Vec::new, |plan| {
        let receipt = snapshot.as_ref().and_then(|s| s.receipt.as_ref());
        let state = |guard: &clawkeep_plan::GuardInput| match receipt
            .and_then(|receipt| receipt.guards.iter().find(|loaded| loaded.name == guard.name))
        {
            Some(loaded) if loaded.digest == guard.digest => "verified",
            Some(_) => "altered",
            None => "missing",
        };
        plan.guards
            .iter()
            .map(|guard| GuardStatus {
                name: guard.name.clone(),
                digest: guard.digest,
                critical: guard.critical,
                state: state(guard).to_owned(),
            })
            .collect()
    });
    let route = config.as_ref().map(|config| &config.route);
    let held = match (snapshot.as_ref().map(|s| &s.phase), &running) {
        (Some(Phase::Held { reason, command, .. }), _) => {
            Some(Held { reason: reason.clone(), command: command.clone() })
        }
        (None, Err(why)) => {
            let command = why.next.clone().unwrap_or_else(|| format!("clawkeep {} recover", record.name));
            Some(Held { reason: why.message.clone(), command })
        }
        _ => None,
    };
    let is_openclaw = plan.is_some_and(|plan| plan.agent.name == "openclaw");
    SandboxStatus {
        schema: 1,
        name: record.name.clone(),
        default: record.default,
        phase: match (&running, &snapshot) {
            (Ok(running), Some(found)) if found.looked && starts_soon(record, running, found) => "preparing",
            (_, found) => found.as_ref().map_or("held", phase_word),
        }
        .to_owned(),
        should_run: record.desired == Desired::Running,
        onboarded: !record.onboarding,
        agent: plan.map_or_else(
            || AgentStatus {
                name: "unknown".into(),
                version: String::new(),
                runtime: String::new(),
                config: None,
            },
            |plan| AgentStatus {
                name: plan.agent.name.clone(),
                version: plan.agent.version.clone(),
                runtime: plan.agent.runtime.clone(),
                config: config
                    .as_ref()
                    .and_then(|config| config.agent.adapter.config())
                    .map(|document| document.shown()),
            },
        ),
        tier: config.as_ref().map_or_else(Tier::default, |config| config.isolation.tier),
        system: config
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |config| system::title(home, config.isolation.image)),
        mounts: config
            .as_ref()
            .map_or_else(Vec::new, |config| config.isolation.mounts.iter().map(mounts::shown).collect()),
        gateway: snapshot.as_ref().and_then(|snapshot| {
            let gateway = snapshot.gateway.as_ref()?;
            Some(GatewayStatus {
                pid: gateway.pid,
                started_at: rfc3339(gateway.started_at),
                restarts: gateway.launch.saturating_sub(1),
                warm_up_ms: gateway.ready_at.map(|at| at.saturating_sub(gateway.started_at)),
            })
        }),
        guards,
        receipt: snapshot.as_ref().and_then(|snapshot| {
            let receipt = snapshot.receipt.as_ref()?;
            let level = &receipt.isolation.level;
            Some(ReceiptStatus {
                digest: receipt.digest(),
                plan: receipt.isolation.plan,
                landlock_abi: level.landlock.abi,
                seccomp: level.seccomp.digest,
                caps: format!("{:#x}", level.caps.any()),
                namespaces: level.namespaces.clone(),
            })
        }),
        denied: snapshot.as_ref().map_or_else(DeniedStatus::default, |snapshot| DeniedStatus {
            agent: snapshot.denied.agent.iter().cloned().collect(),
            sessions: snapshot.denied.sessions.iter().cloned().collect(),
        }),
        level: snapshot.as_ref().and_then(|s| Some(s.receipt.as_ref()?.isolation.level.clone())),
        safe_mode: snapshot.as_ref().is_some_and(|snapshot| snapshot.safe),
        rung: snapshot.as_ref().map_or("respawn", |snapshot| snapshot.rung.word()).to_owned(),
        limits: snapshot.as_ref().and_then(|snapshot| {
            let limits = snapshot.limits.as_ref()?;
            Some(LimitsStatus { enforced: limits.enforced.clone(), usage: limits.cgroup.usage() })
        }),
        route: route.map_or_else(
            || RouteStatus {
                provider: "unknown".into(),
                model: String::new(),
                endpoint_url: None,
                fallbacks: Vec::new(),
            },
            route_status,
        ),
        inference: running.as_ref().ok().map(|running| running.inference.current().seen()),
        proof: running.as_ref().ok().and_then(|running| running.prover.told()),
        egress: EgressStatus {
            port: config.as_ref().map(Config::proxy_port),
            ..running.as_ref().map_or_else(|_| Default::default(), |running| running.policy.status())
        },
        dashboard_port: record.dashboard_port,
        dashboard_url: record
            .dashboard_port
            .filter(|_| is_openclaw)
            .and_then(|port| dashboard(home, record, port, snapshot.as_ref().is_some_and(|s| s.safe))),
        next_attempt_at: snapshot.as_ref().and_then(|s| s.next_attempt_at).map(rfc3339),
        held,
        last_incident: snapshot.as_ref().and_then(|s| {
            s.last_incident.as_ref().map(|(at, what)| Incident { at: rfc3339(*at), what: what.clone() })
        }),
    }
}

fn route_status(route: &Route) -> RouteStatus {
    RouteStatus {
        provider: route.provider.name().to_owned(),
        model: route.model.clone(),
        endpoint_url: route.effective_base_url().map(str::to_owned),
        fallbacks: route.fallbacks.iter().map(route_status).collect(),
    }
}

fn dashboard(home: &Home, record: &SandboxRecord, port: u16, safe: bool) -> Option<String> {
    let dir = clawkeep_store::atomic::open_dir(&home.sandbox(&record.name).home()).ok()?;
    let token = clawkeep_agents::openclaw::read_token(std::os::fd::AsFd::as_fd(&dir), safe).ok()??;
    Some(token.dashboard_url(port))
}
