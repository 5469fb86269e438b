//! What the benches have in common: whose figures they are, and a line of the table.

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
