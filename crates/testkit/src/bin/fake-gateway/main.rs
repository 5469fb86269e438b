//! A stand-in for the OpenClaw gateway in fast tests: it loads guards as Node does and reports what it was
//! given, takes the lock and serves the health of the real one, and misbehaves on order.
//!
//! It stands in for the process, not for the isolation around it; what it reports is what a launch gave it.
//!
//! Options (each also as an environment variable `FAKE_X`): `--port 18789`, `--warmup-ms 0`, `--on-start
//! ORDERS`, `--report FILE`, `--orders FILE`, `--twin-exit 0`, `--port-exit 0`, `--health-status 200`,
//! `--lock reclaim|refuse|off`. Unknown words (`gateway run`) are ignored.
//!
//! Its configuration (`openclaw.json` in its state directory; none is fine) is JSON: an object whose `orders` are
//! carried out at every start, but in safe mode (`CLAWKEEP_SAFE_MODE=1`), which does not read it. Anything else
//! ends it with 78, as the real one.
//!
//! Orders: see [`orders::Order`]. They come from `--on-start`, from the first line of the orders file (one
//! line a start, taken off the top; `none` for a good start), or as `POST /fake/<orders>`.
#![deny(unsafe_code)]

mod config;
mod gateway;
mod guards;
mod lock;
mod options;
mod orders;
mod serve;
mod sys;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::Duration;

use testkit::{fake::Launch, pause, processes};

use crate::gateway::Gateway;
use crate::options::Options;

/// The word that makes this program a process that does nothing but hold what it has on its stdin.
const HOLD: &str = "--hold-stdin-for-ever";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(HOLD) {
        let _ = rustix::process::setsid();
        loop {
            pause(Duration::from_secs(3600));
        }
    }
    let began_ns = testkit::fake::monotonic_ns();
    sys::block_sigterm();
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let options = match Options::read(std::env::args().skip(1), |name| env.get(name).cloned()) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("fake-gateway: {wrong}");
            return ExitCode::from(64);
        }
    };
    let env_safe = env.get("CLAWKEEP_SAFE_MODE").is_some_and(|on| on == "1");
    let loaded = match guards::load(&env) {
        Ok(loaded) => loaded,
        Err(path) => {
            eprintln!("Error: Cannot find module '{path}'\nRequire stack:\n- internal/preload");
            return ExitCode::FAILURE;
        }
    };
    for guard in &loaded.guards {
        println!("[guard] {} loaded (openclaw-gateway)", guard.name);
    }
    // Held until the process is gone, by whatever end.
    let alive = alive(&options);
    report(&options, env, loaded, began_ns, alive.is_some());

    let configured = match config::read(&options.config, env_safe) {
        Ok(orders) => orders,
        Err(wrong) => {
            eprintln!("Config invalid\nFile: {}\nProblem:\n  - {wrong}", options.config.display());
            return ExitCode::from(78);
        }
    };
    let orders = options
        .on_start
        .clone()
        .into_iter()
        .chain(configured)
        .chain(orders::take_from_file(&options.orders))
        .collect();
    let lock = match lock::take(&options) {
        Ok(lock) => lock,
        Err(refused) => {
            eprintln!("[gateway] {refused}");
            return ExitCode::from(refused.exit);
        }
    };
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("[gateway] port {}: {error}", options.port);
            lock.remove();
            return ExitCode::from(options.port_exit);
        }
    };
    let gateway = Gateway::start(options, lock, listener);
    gateway.warm_up(orders);
    serve::run(&gateway)
}

/// The lock of the one that lives; `None` while another one has it.
fn alive(options: &Options) -> Option<std::fs::File> {
    let path = options.report.with_extension("alive");
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(&path);
    let file = file.map_err(|error| eprintln!("fake-gateway: {}: {error}", path.display())).ok()?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn report(
    options: &Options,
    env: BTreeMap<String, String>,
    loaded: guards::Loaded,
    began_ns: u64,
    alone: bool,
) {
    let pid = std::process::id();
    let launch = Launch {
        pid,
        start_time: processes::start_time(pid.cast_signed()).unwrap_or(0),
        at_ms: lock::unix_ms(),
        began_ns,
        alone,
        argv: std::env::args().collect(),
        env,
        guards: loaded.guards,
        receipt: loaded.receipt,
    };
    let line = serde_json::to_string(&launch).expect("a launch is JSON") + "\n";
    // One write, so that lines of two processes never mix.
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(&options.report)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("fake-gateway: no report in {}: {error}", options.report.display());
    }
}
