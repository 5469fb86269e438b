use crate::{Canary, Expect, HealthSpec, Probe};

/// How the health of the gateway on this port is seen.
pub fn health(port: u16) -> HealthSpec {
    let live = Probe::Http { path: "/healthz".into(), expect: Expect::OpenClawLive };
    let ready = Probe::Http { path: "/readyz".into(), expect: Expect::OpenClawReady };
    // Five to eleven seconds on two idle cores, and it shares them with every other sandbox.
    let spec = HealthSpec::new(port, live, ready, 120);
    // What it says to every client first, whoever that is (2026.4.9 and 2026.9.6). It writes a line into its log
    // for each that leaves again without having said who it is, so this is not asked more often.
    let canary = Canary { path: "/".into(), event: "connect.challenge".into(), every_ms: 60_000 };
    HealthSpec { canary: Some(canary), ..spec }
}
