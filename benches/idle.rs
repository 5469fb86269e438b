//! What idle sandboxes cost, as a table: `cargo bench -p clawkeep --bench idle`. Sandboxes with a guarded fake gateway
//! each and the usual probes; the figures are of our own processes, not of the agents. `CLAWKEEP_BENCH_N` sets the largest number.

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "table.rs"]
mod table;

use std::time::{Duration, Instant};

use support::Installation;
use table::{machine, row};

/// How long the processors are watched.
const REST: Duration = Duration::from_secs(30);

fn main() {
    let most = std::env::var("CLAWKEEP_BENCH_N").ok().map_or(200, |n| n.parse().expect("a number"));
    println!("{}\n", machine());
    println!(
        "| process | sandboxes | RSS | PSS | private dirty | processor time at rest |\n|---|---|---|---|---|---|"
    );
    let installation = Installation::new();
    let mut made = Vec::new();
    for number in 1..=most {
        let started = Instant::now();
        let gateway = installation.create_fake(&format!("box-{number}"), &[]).gateway.unwrap().pid;
        made.push(started.elapsed());
        if ![1, 10, most].contains(&number) {
            continue;
        }
        let daemon = installation.daemon().daemon.pid;
        let init = testkit::processes::process(gateway).unwrap().parent;
        let ours = [
            ("daemon", daemon.cast_signed()),
            ("its parent", installation.parent_of(daemon)),
            ("the newest sandbox's init", init),
        ];
        let before = ours.map(|(_, pid)| processor_time(pid));
        testkit::pause(REST);
        for ((what, pid), before) in ours.into_iter().zip(before) {
            let [rss, pss, dirty] = footprint(pid);
            let share = (processor_time(pid) - before).as_secs_f64() / REST.as_secs_f64() * 100.0;
            println!("| {what} | {number} | {rss} KiB | {pss} KiB | {dirty} KiB | {share:.2} % of one |");
        }
    }
    println!("\n| figure | n | p50 | p99 | max |\n|---|---|---|---|---|");
    row("a sandbox asked for, to it being ready", &mut made);
}

fn processor_time(pid: i32) -> Duration {
    Duration::from_millis(testkit::processes::process(pid).unwrap().ticks * 10)
}

/// Rss, Pss and Private_Dirty (proc_pid_smaps(5)), in KiB.
fn footprint(pid: i32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    ["Rss:", "Pss:", "Private_Dirty:"].map(|field| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of smaps_rollup");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    })
}
