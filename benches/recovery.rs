//! Figures of recovery, as a table: `cargo bench -p clawkeep --bench recovery`. Everything is real (the program, the
//! sandbox, the daemon) but the agent, which is the fake gateway: what is measured is ours, not an agent's
//! warm-up. `CLAWKEEP_BENCH_N` makes it shorter, `CLAWKEEP_BENCH_GATE` makes it fail when a promise is broken.

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "table.rs"]
mod table;

use std::time::Duration;

use clawkeep_daemon::api::{Rehearsal, Request, Value};
use support::{Installation, LONG, name};
use table::{Promise, keeps, machine, measured, row};
use testkit::fake::monotonic_ns;
use testkit::{Handle, fake, wait_until};

fn main() {
    let n = std::env::var("CLAWKEEP_BENCH_N").ok().map(|n| n.parse().expect("a number"));
    println!("{}\n", machine());
    println!("| figure | n | p50 | p99 | max |\n|---|---|---|---|---|");
    measured(|| recovery(n.unwrap_or(100), n.unwrap_or(50)));
    measured(|| adoption(n.unwrap_or(10)));
}

const KILLED: Promise = Promise("P3", Duration::from_millis(50));
const WIPED: Promise = Promise("P4", Duration::from_millis(250));
const ADOPTED: Promise = Promise("P6", Duration::from_secs(1));

/// From a SIGKILL to the first line of the next gateway's own code, and to ready. Whether the promises are kept.
fn recovery(kills: usize, losses: usize) -> bool {
    let installation = Installation::new();
    installation.create_fake("bench", &[]);
    let report = installation.files("bench").join("fake-report.jsonl");
    // A start after a stop knows of no failures: no wait is in the way of what is measured.
    let afresh = || {
        installation.ask(&Request::Stop { name: name("bench") }).unwrap();
        installation.ask(&Request::Start { name: name("bench") }).unwrap();
        installation.ready("bench").gateway.unwrap().pid
    };
    let measure = |n: usize, victim: &dyn Fn(i32) -> i32| -> (Vec<_>, Vec<_>) {
        let one = |_| {
            let gateway = afresh();
            let before = fake::last_launch(&report).unwrap();
            let victim = Handle::of(victim(gateway)).unwrap();
            let killed = monotonic_ns();
            assert!(victim.kill());
            let next = wait_until(LONG, "the next gateway", || {
                fake::last_launch(&report).filter(|launch| launch.began_ns != before.began_ns)
            });
            let ready = installation.ready("bench").gateway.unwrap();
            assert_ne!(ready.pid, gateway);
            assert!(next.receipt && next.alone && next.began_ns > killed);
            let respawn = Duration::from_nanos(next.began_ns - killed);
            let warm_up = Duration::from_millis(ready.warm_up_ms.expect("it was ready"));
            (respawn, warm_up)
        };
        (0..n).map(one).unzip()
    };
    let (mut respawn, mut warm_up) = measure(kills, &|gateway| gateway);
    row("gateway killed, to the next one's first instruction", &mut respawn);
    row("- its warm-up: launched to ready, as status tells (whole ms)", &mut warm_up);
    let init = |gateway: i32| testkit::processes::process(gateway).unwrap().parent;
    let (mut wiped, _) = measure(losses, &init);
    row("everything ephemeral gone (init killed), to the next one's first instruction", &mut wiped);
    // The daemon's own figure, as a check of the above; only the first of a sandbox has no wait before it.
    let mut rehearsed = Vec::new();
    for _ in 0..kills.div_ceil(10) {
        afresh();
        let rehearsal = Request::Rehearse { name: name("bench"), failure: Rehearsal::KillGateway };
        match installation.ask(&rehearsal).unwrap() {
            Value::Rehearsed { respawn_ms, .. } => rehearsed.push(Duration::from_millis(respawn_ms)),
            other => panic!("{other:?}"),
        }
    }
    row("- cross-check: the daemon's own figure for a killed gateway (whole ms)", &mut rehearsed);
    [keeps(&KILLED, &respawn), keeps(&WIPED, &wiped)] == [true, true]
}

/// From the daemon's SIGKILL until the next one supervises the same gateway. Each time in an installation of its own: who
/// kills it again within 30 s meets the waits between its starts.
fn adoption(n: usize) -> bool {
    let one = |_| {
        let installation = Installation::new();
        let gateway = installation.create_fake("bench", &[]).gateway.unwrap().pid;
        let daemon = Handle::of(installation.daemon().daemon.pid.cast_signed()).unwrap();
        let killed = monotonic_ns();
        assert!(daemon.kill() && daemon.ends_within(LONG));
        let adopted = installation.ready("bench").gateway.unwrap();
        let took = Duration::from_nanos(monotonic_ns() - killed);
        assert_eq!((adopted.pid, adopted.restarts), (gateway, 0), "adopted, not restarted");
        took
    };
    let mut adopted: Vec<_> = (0..n).map(one).collect();
    row("daemon killed, to its gateway supervised by the next one", &mut adopted);
    keeps(&ADOPTED, &adopted)
}
