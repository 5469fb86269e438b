//! What the benches have in common: whose figures they are, a line of the table, and the promises that figures are
//! held to.
#![allow(dead_code, reason = "each bench uses its part")]

use std::time::Duration;

/// CPU, cores, memory, kernel: without them the figures say nothing.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let user = if rustix::process::geteuid().is_root() { "root" } else { "not root" };
    format!(
        "{}, {cores} cores, {} of memory, Linux {}, {user}, load {}; clawkeep built with {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        if cfg!(debug_assertions) { "debug assertions: THESE ARE NOT RELEASE FIGURES" } else { "--release" },
    )
}

/// One line of the table.
pub fn row(figure: &str, times: &mut [Duration]) {
    times.sort();
    // Nearest rank.
    let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let worst = *times.last().expect("a measurement");
    println!("| {figure} | {} | {} | {} | {} |", times.len(), ms(rank(50)), ms(rank(99)), ms(worst));
}

/// A promise about times: its number in docs/SPECIFICATION.md, and the longest that it allows.
pub struct Promise(pub &'static str, pub Duration);

/// Whether the median keeps to it, told in a line. The promises are about the 99th percentile of a calm machine and are
/// kept there many times over; on a busy one the median tells what has become slow from what had to wait.
pub fn keeps(Promise(name, limit): &Promise, times: &[Duration]) -> bool {
    let mut times = times.to_vec();
    times.sort();
    let median = times[times.len().div_ceil(2) - 1];
    let held = median <= *limit;
    let word = if held { "held" } else { "BROKEN" };
    eprintln!("{name}: median {:.1} ms of {} ms: {word}", median.as_secs_f64() * 1000.0, limit.as_millis());
    held
}

/// Measure, once or, where this run is a gate (`CLAWKEEP_BENCH_GATE`), until the promises are held, three times at
/// most; then it fails.
pub fn measured(mut measure: impl FnMut() -> bool) {
    let tries = if std::env::var_os("CLAWKEEP_BENCH_GATE").is_some() { 3 } else { 1 };
    let held = (0..tries).any(|_| measure());
    if tries > 1 && !held {
        std::process::exit(1);
    }
}
