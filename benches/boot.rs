//! How soon everything runs again after a boot: `cargo bench -p clawkeep --bench boot`. Twenty guarded fake
//! gateways, nothing of them left but their state directories, then a cold daemon. `CLAWKEEP_BENCH_N` makes it
//! shorter, `CLAWKEEP_BENCH_GATE` makes it fail when the promise is broken.

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "table.rs"]
mod table;

use std::path::Path;
use std::time::Duration;

use clawkeep_daemon::ensure;
use support::{Installation, LONG, PROGRAM};
use table::{Promise, keeps, machine, measured, row};
use testkit::fake::monotonic_ns;
use testkit::{fake, wait_until};

/// As many as promise P5 is about.
const SANDBOXES: usize = 20;
const ADMITTED: Promise = Promise("P5", Duration::from_secs(5));

fn main() {
    let n = std::env::var("CLAWKEEP_BENCH_N").ok().map_or(10, |n| n.parse().expect("a number"));
    println!("{}\n", machine());
    println!("| figure, {SANDBOXES} sandboxes | n | p50 | p99 | max |\n|---|---|---|---|---|");
    let installation = Installation::new();
    let names: Vec<String> = (1..=SANDBOXES).map(|number| format!("box-{number}")).collect();
    names.iter().for_each(|name| drop(installation.create_fake(name, &[])));
    measured(|| boot(n, &installation, &names));
}

/// From no daemon to all of them. Whether the promise is kept.
fn boot(n: usize, installation: &Installation, names: &[String]) -> bool {
    let report = |name: &String| installation.files(name).join("fake-report.jsonl");
    let (mut answers, mut first, mut last, mut ready) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..n {
        installation.lose_power();
        let before: Vec<_> =
            names.iter().map(|name| fake::last_launch(&report(name)).expect("it ran")).collect();
        let started = monotonic_ns();
        drop(ensure(&installation.home, Path::new(PROGRAM)).expect("a daemon"));
        answers.push(Duration::from_nanos(monotonic_ns() - started));
        let mut began: Vec<u64> = names
            .iter()
            .zip(&before)
            .map(|(name, before)| {
                let launch = wait_until(LONG, "the next gateway", || {
                    fake::last_launch(&report(name)).filter(|launch| launch.began_ns != before.began_ns)
                });
                assert!(launch.receipt && launch.alone, "a launch that is not guarded or not alone");
                launch.began_ns - started
            })
            .collect();
        began.sort_unstable();
        first.push(Duration::from_nanos(began[0]));
        last.push(Duration::from_nanos(began[SANDBOXES - 1]));
        wait_until(LONG, "all of them to be ready", || {
            installation.daemon().sandboxes.iter().all(|found| found.phase == "ready").then_some(())
        });
        ready.push(Duration::from_nanos(monotonic_ns() - started));
    }
    row("no daemon, to its first answer", &mut answers);
    row("no daemon, to the first gateway's first instruction", &mut first);
    row("no daemon, to the last gateway's first instruction", &mut last);
    row("no daemon, to all ready", &mut ready);
    keeps(&ADMITTED, &last)
}
