//! From the sandbox on: everything that the daemon does, and what it says of it.

use std::time::Instant;

use clawkeep_daemon::api::{
    AgentChoice, Answer, Create, ImageChoice, Rehearsal, Request, SandboxStatus, Value,
};
use clawkeep_plan::SandboxName;

use super::report::Report;
use super::settings::Settings;
use crate::commands::{READY, logs};
use crate::host::{Host, sandbox_of, unexpected};
use crate::problem::Problem;
use crate::view;

/// Make it, see it ready, prove that it heals. `made` is set as soon as there may be something to take away.
///
/// # Errors
/// What went wrong.
pub fn run(
    host: &Host,
    settings: &Settings,
    (agent, image): (AgentChoice, Option<ImageChoice>),
    report: &mut Report,
    made: &mut bool,
) -> Result<SandboxStatus, Problem> {
    let name = &settings.name;
    let command = matches!(agent, AgentChoice::Command { .. });
    report.begin("sandbox", "making it");
    let status = create(host, settings, (agent, image), made)?;
    report.done("sandbox", &sandbox_line(&status, settings));
    let status = ready(host, name, report)?;
    model(host, settings, command, report)?;
    rehearse(host, name, &status, report)?;
    host.order(&Request::Onboarded { name: name.clone() }, |_| ())?;
    host.sandbox(Some(name))
}

fn create(
    host: &Host,
    settings: &Settings,
    (agent, image): (AgentChoice, Option<ImageChoice>),
    made: &mut bool,
) -> Result<SandboxStatus, Problem> {
    let create = Create {
        name: settings.name.clone(),
        agent,
        route: settings.route.clone(),
        strict: settings.strict,
        tier: settings.tier,
        dashboard_port: settings.dashboard_port,
        settle_secs: settings.settle_secs,
        limits: settings.limits,
        image,
        mounts: settings.mounts.clone(),
        policy: settings.policy.clone(),
    };
    // Asked for at all, it may be there, whatever becomes of the answer...
    *made = true;
    let answer = host.order(&Request::Create(Box::new(create)), |_| ());
    if let Err(problem) = &answer
        && problem.failure.code != "daemon-gone"
    {
        // ...unless that is a plain no: then it may even be somebody else's.
        *made = false;
    }
    sandbox_of(answer?)
}

/// The name, and the port when it is not the usual one.
fn sandbox_line(status: &SandboxStatus, settings: &Settings) -> String {
    match (status.dashboard_port, settings.dashboard_port) {
        (Some(port), None) if port != 18789 && status.agent.name == "openclaw" => {
            format!("{}       (port 18789 is taken: its page is on {port})", status.name)
        }
        _ => status.name.to_string(),
    }
}

/// Guards and gateway.
fn ready(host: &Host, name: &SandboxName, report: &mut Report) -> Result<SandboxStatus, Problem> {
    report.begin("gateway", "starting");
    let started = Instant::now();
    let mut guards_told = false;
    let request = Request::WaitReady { name: name.clone(), timeout_ms: READY.as_millis() as u64 };
    let answer = host.order(&request, |answer| {
        let Answer::Phase(status) = answer else { return };
        if !guards_told
            && !status.guards.is_empty()
            && status.guards.iter().all(|guard| guard.state == "verified")
        {
            guards_told = true;
            report.done("guards", &view::guards(&status));
            report.begin("gateway", "starting");
        }
        report.detail(&status.phase);
    });
    let status = sandbox_of(answer.map_err(|problem| with_log(host, name, problem))?)?;
    if !guards_told {
        let text = if status.guards.is_empty() {
            "none (a command without --node-guards)".to_owned()
        } else {
            view::guards(&status)
        };
        report.done("guards", &text);
    }
    report.done("gateway", &gateway_line(&status, started.elapsed().as_millis() as u64));
    Ok(status)
}

fn gateway_line(status: &SandboxStatus, waited_ms: u64) -> String {
    let gateway = status.gateway.as_ref();
    let ms = gateway.and_then(|gateway| gateway.warm_up_ms).unwrap_or(waited_ms);
    let mut text = format!("ready in {}", view::seconds(ms));
    if let Some(gateway) = gateway {
        text += &format!(", pid {}", gateway.pid);
    }
    if let Some(receipt) = &status.receipt {
        text += &format!(", receipt {}\u{2026}", receipt.digest.short());
    }
    text
}

/// The failure with the last words of the gateway, which go away with the sandbox.
fn with_log(host: &Host, name: &SandboxName, mut problem: Problem) -> Problem {
    let lines = logs::last_lines(host, name, 8);
    if !lines.is_empty() {
        problem.failure.message = format!("{}; its log ends with:\n{lines}\n", problem.failure.message);
    }
    problem
}

/// One question to the model. One that does not answer is a warning: everything else works without it.
fn model(host: &Host, settings: &Settings, command: bool, report: &mut Report) -> Result<(), Problem> {
    let name = &settings.name;
    report.begin("model", "asking one question");
    let what = match &settings.route {
        None => "built-in canary (no provider set)".to_owned(),
        Some(route) => format!("{} {}", route.provider, route.model),
    };
    let check = Request::CheckRoute { name: name.clone() };
    let turn = Request::Turn { name: name.clone(), message: "hello".into() };
    // From outside first, where what is wrong with the route can be told; a command of one's own takes no turns.
    let asked = match (&settings.route, command) {
        (Some(_), false) => host.order(&check, |_| ()).and_then(|_| host.order(&turn, |_| ())),
        (None, false) => host.order(&turn, |_| ()),
        (_, true) => host.order(&check, |_| ()),
    };
    match asked {
        Ok(_) => {
            let how = if command { "the route answers" } else { "one turn answered" };
            report.done("model", &format!("{what}: {how}"));
            Ok(())
        }
        Err(problem) if host.interrupt.raised().is_some() => Err(problem),
        Err(problem) => {
            let next = problem.failure.next.unwrap_or_else(|| format!("clawkeep {name} agent -m hello"));
            report.warn("model", &format!("{what}: {}", problem.failure.message), Some(&next));
            Ok(())
        }
    }
}

/// The promise, shown: it is killed and wiped, and comes back.
fn rehearse(
    host: &Host,
    name: &SandboxName,
    before: &SandboxStatus,
    report: &mut Report,
) -> Result<(), Problem> {
    report.begin("rehearsal", "killing the gateway");
    let one = |failure| -> Result<(u64, u64), Problem> {
        let request = Request::Rehearse { name: name.clone(), failure };
        match host.order(&request, |_| ()).map_err(|problem| with_log(host, name, problem))? {
            Value::Rehearsed { respawn_ms, ready_ms } => Ok((respawn_ms, ready_ms)),
            _ => Err(unexpected()),
        }
    };
    let (_, killed) = one(Rehearsal::KillGateway)?;
    report.detail("removing everything in /tmp and killing everything");
    let (_, wiped) = one(Rehearsal::WipeTmp)?;
    let warm_up = host
        .sandbox(Some(name))?
        .gateway
        .or_else(|| before.gateway.clone())
        .and_then(|gateway| gateway.warm_up_ms);
    report.done("rehearsal", &rehearsal_line(killed, wiped, warm_up));
    Ok(())
}

fn rehearsal_line(killed_ms: u64, wiped_ms: u64, warm_up_ms: Option<u64>) -> String {
    let own =
        warm_up_ms.map(|ms| format!("     (agent's own warm-up: {})", view::seconds(ms))).unwrap_or_default();
    let (killed, wiped) = (view::seconds(killed_ms), view::seconds(wiped_ms));
    format!("gateway killed: back in {killed} \u{b7} /tmp wiped: back in {wiped}{own}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::ready;

    #[test]
    fn the_figures_are_told_as_in_the_readme() {
        let mut status = ready("my-assistant");
        let receipt = status.receipt.as_ref().unwrap().digest.short();
        assert_eq!(gateway_line(&status, 9), format!("ready in 6.1 s, pid 4711, receipt {receipt}\u{2026}"));
        assert_eq!(
            rehearsal_line(5900, 6012, Some(5800)),
            "gateway killed: back in 5.9 s \u{b7} /tmp wiped: back in 6.0 s     (agent's own warm-up: 5.8 s)"
        );
        status.receipt = None;
        status.gateway = None;
        assert_eq!(gateway_line(&status, 900), "ready in 0.9 s");
        assert_eq!(
            rehearsal_line(1, 2, None),
            "gateway killed: back in 0.0 s \u{b7} /tmp wiped: back in 0.0 s"
        );
    }
}
