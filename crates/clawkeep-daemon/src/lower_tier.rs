//! What is different about a sandbox of the lower tier when it is made: what it cannot have, and its ports on the
//! host's loopback, which it shares with everybody.

use std::net::{Ipv4Addr, TcpListener};

use clawkeep_agents::Adapter;
use clawkeep_isolation::landlock_abi;
use clawkeep_store::SandboxRecord;

use crate::api::{Create, Failure};
use crate::config::{AgentConfig, Config, LANDLOCK_BESIDE};

/// Where its proxy is looked for a place. Below what the kernel gives to outgoing connections.
const PROXY_PORTS: std::ops::RangeInclusive<u16> = 13_128..=13_527;

/// What is refused about images.
pub const NO_IMAGE: &str = "an image cannot be a sandbox's system";

/// Where OpenClaw is looked for a place: it listens on the host's loopback itself, and its page is another port, which
/// is the daemon's at any time.
const GATEWAY_PORTS: std::ops::RangeInclusive<u16> = 13_528..=13_927;

/// The way out of every refusal here.
const NEXT: &str = "clawkeep onboard --isolation namespaces";

pub fn cannot(what: &str) -> Failure {
    Failure::new("isolation-lacks", format!("without namespaces {what}"), NEXT.to_owned())
}

/// Refuse what takes namespaces.
pub fn check(wanted: &Create) -> Result<(), Failure> {
    if wanted.image.is_some() {
        return Err(cannot(NO_IMAGE));
    }
    if !wanted.mounts.is_empty() {
        return Err(cannot("nothing of the host's can be shown at another place (--mount)"));
    }
    let abi = landlock_abi();
    if abi < LANDLOCK_BESIDE {
        return Err(cannot(&format!(
            "Landlock ABI {LANDLOCK_BESIDE} is needed (Linux 6.12), and this kernel has {abi}"
        )));
    }
    Ok(())
}

/// The proxy's port; and the agent's own is free and nobody else's: OpenClaw is given one, a command's is where its
/// health is asked. `taken` gets what the agent's page must not be on.
pub fn ports<'a>(
    agent: &mut AgentConfig,
    others: impl Iterator<Item = &'a SandboxRecord>,
    taken: &mut Vec<u16>,
) -> Result<u16, Failure> {
    let mut theirs = Vec::new();
    for config in others.filter_map(|record| Config::of(record).ok()) {
        // Elsewhere these are on a loopback of the sandbox's own.
        if let Some(proxy) = config.isolation.proxy_port {
            theirs.push(proxy);
            theirs.extend(config.inner_port());
        }
    }
    let is_free = |port: u16, theirs: &[u16]| {
        !theirs.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    };
    let first_free = |ports: std::ops::RangeInclusive<u16>, theirs: &[u16], whose: &str| {
        let (first, last) = (*ports.start(), *ports.end());
        ports.into_iter().find(|port| is_free(*port, theirs)).ok_or_else(|| {
            let what = format!("ports {first} to {last} of this host are all taken: {whose} needs one");
            Failure::new("port-taken", what, "ss -ltn".to_owned())
        })
    };
    let own = match &mut agent.adapter {
        Adapter::OpenClaw { port, .. } => {
            Some(*port.insert(first_free(GATEWAY_PORTS, &theirs, "its gateway")?))
        }
        Adapter::Command { .. } => agent.adapter.health().map(|spec| spec.port),
    };
    if let Some(own) = own {
        if !is_free(own, &theirs) {
            let what = format!(
                "port {own} of this host is taken, and without namespaces the agent would answer there (--health-url)"
            );
            return Err(Failure::new("port-taken", what, "clawkeep onboard --health-url URL".to_owned()));
        }
        taken.push(own);
        theirs.push(own);
    }
    theirs.extend(taken.iter());
    first_free(PROXY_PORTS, &theirs, "its proxy")
}
