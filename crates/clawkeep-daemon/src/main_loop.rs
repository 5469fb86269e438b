//! From a started process to a serving daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clawkeep_plan::SandboxName;
use clawkeep_store::{DaemonLock, Entry, Home, JournalWriter, LockError, Store, StoreError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::admission::admit;
use crate::api::{Request, Value};
use crate::create::sweep_removed;
use crate::launch::{OURSELVES, connect};
use crate::manager::{self, Heart, Manager};
use crate::metrics;
use crate::redaction::redaction;
use crate::say::say;
use crate::server::Daemon;
use crate::system::sweep_images;
use crate::trouble::MEND_EVERY;
use crate::wire::Asker;

/// The exit status that says: another daemon serves this home (EX_TEMPFAIL of sysexits.h).
pub const ALREADY_RUNNING: u8 = 75;

/// The exit status that says: a later version wrote the registry (EX_CONFIG of sysexits.h).
pub const NEWER_REGISTRY: u8 = 78;

/// Journal entries that wait in memory at most.
const JOURNAL_QUEUE: usize = 4096;

/// How long the sandboxes get to end when the host goes down.
const WIND_DOWN: Duration = Duration::from_secs(60);

/// How long a service's daemon waits for the one that it replaces.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// Who runs the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The command line, through the tiny parent: ends when another daemon is there.
    OnDemand,
    /// A service manager: takes the place of a daemon that was started on demand.
    Service,
}

/// Run the daemon of this state directory until it is told to end.
pub fn daemon_main(home: &Path, role: Role) -> ExitCode {
    if let Err(error) = allow_all_descriptors() {
        say(format_args!("clawkeep daemon: it may run out of descriptors: {error}"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(serve(home, role));
            runtime.shutdown_timeout(Duration::from_secs(2));
            outcome
        }
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            say(format_args!("clawkeep daemon: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// A sandbox takes some fourteen descriptors, and the usual soft limit (1,024, for the sake of select(2), which
/// nothing here calls) is at its end with seventy of them. The agents get their own: see clawkeep-isolation.
fn allow_all_descriptors() -> std::io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }).map_err(Into::into)
}

async fn serve(home: &Path, role: Role) -> Result<ExitCode, String> {
    let (home, trouble) = Home::open_as_it_is(home).map_err(|e| e.to_string())?;
    let lock = match home.lock_daemon() {
        Err(LockError::AlreadyRunning { .. }) if role == Role::Service => take_over(&home).await?,
        other => other,
    };
    let _lock = match lock {
        Ok(lock) => lock,
        Err(error @ LockError::AlreadyRunning { .. }) => {
            say(format_args!("clawkeep daemon: {error}"));
            return Ok(ExitCode::from(ALREADY_RUNNING));
        }
        Err(error) => return Err(error.to_string()),
    };
    let opened = match Store::open_as_it_is(&home, trouble.as_ref()) {
        Ok(opened) => opened,
        Err(error @ StoreError::Newer { .. }) => {
            say(format_args!("clawkeep daemon: {error}"));
            return Ok(ExitCode::from(NEWER_REGISTRY));
        }
        Err(error) => return Err(error.to_string()),
    };
    let store = Arc::new(opened.store);
    let told = Box::new(|text: &str| say(format_args!("clawkeep daemon: {text}")));
    let filter = Box::new(|entry: &mut Entry| redaction().entry(entry));
    let journal = JournalWriter::start_with(Arc::clone(&store), JOURNAL_QUEUE, told, filter);
    let journal = Arc::new(journal.map_err(|e| e.to_string())?);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let daemon = Arc::new(Daemon::new(home, store, Arc::clone(&journal), OURSELVES.into()));
    if let Some(trouble) = trouble {
        daemon.note("degraded", &trouble.to_string());
    }
    if let Some(note) = opened.repaired {
        daemon.note("repaired", &note.to_string());
    }
    daemon.seal_secrets();
    daemon.learn_secrets();
    let manager = Manager::of_process();
    let asked = Arc::clone(&daemon.store);
    let mut heart = manager.heart(move || asked.default().is_ok());
    // Before anybody can ask: an answer about a sandbox always comes from its supervisor.
    let waiting = daemon.resume().await.map_err(|e| e.to_string())?;
    let mut listener = listen(&daemon.home);
    if let Err(error) = &listener {
        // Nobody can ask, and yet everything is kept running.
        daemon.note("unreachable", error);
    }
    tokio::spawn(Arc::clone(&daemon.tally).keep());
    metrics::resume(&daemon);
    let admission = tokio::spawn(admit_all(Arc::clone(&daemon), waiting, manager));
    let mut mend = tokio::time::interval(MEND_EVERY);
    mend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let sandboxes = daemon.home.sandboxes();
    let (home, store) = (daemon.home.clone(), Arc::clone(&daemon.store));
    drop(tokio::task::spawn_blocking(move || {
        sweep_removed(&sandboxes);
        sweep_images(&home, &store);
    }));
    let told_to_end = loop {
        tokio::select! {
            accepted = accept(&listener) => match accepted {
                Ok((stream, _)) => {
                    let daemon = Arc::clone(&daemon);
                    tokio::spawn(async move { daemon.answer(Asker::new(stream)).await });
                }
                // Out of descriptors, mostly: let others close some.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            _ = mend.tick(), if listener.is_err() || daemon.store.in_memory() => {
                if listener.is_err() {
                    listener = listen(&daemon.home);
                }
                let daemon = Arc::clone(&daemon);
                drop(tokio::task::spawn_blocking(move || daemon.mend()));
            }
            () = Heart::due(&mut heart) => heart.iter().for_each(Heart::beat),
            () = daemon.shutdown.notified() => break false,
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break false,
        }
    };
    if told_to_end && manager::goes_down().await {
        // A sandbox's first process takes no SIGTERM: without us the host would wait for it in vain.
        manager.stopping("the host goes down: ending the sandboxes");
        // Nothing is started any more behind the stops.
        admission.abort();
        daemon.wind_down(WIND_DOWN).await;
    } else {
        manager.stopping("the sandboxes go on; the next daemon adopts them");
    }
    daemon.tally.save();
    journal.flush(Duration::from_secs(5));
    Ok(ExitCode::SUCCESS)
}

/// The next asker; never where nothing listens.
async fn accept(listener: &Result<UnixListener, String>) -> std::io::Result<(UnixStream, SocketAddr)> {
    match listener {
        Ok(listener) => listener.accept().await,
        Err(_) => std::future::pending().await,
    }
}

/// Start what should run and tell the manager when all of it has been.
async fn admit_all(daemon: Arc<Daemon>, waiting: Vec<SandboxName>, manager: Manager) {
    let of = waiting.len();
    manager.starting(0, of);
    admit(&daemon, waiting, |done| manager.starting(done, of)).await;
    manager.ready(&format!(
        "serving; {of} {} started first",
        if of == 1 { "sandbox was" } else { "sandboxes were" }
    ));
}

/// The lock of the daemon that was started on demand, which is asked to end. One that a service manager runs
/// is left alone: two managers would take it from each other for ever.
async fn take_over(home: &Home) -> Result<Result<DaemonLock, LockError>, String> {
    let until = tokio::time::Instant::now() + TAKE_OVER;
    loop {
        let root = home.root().to_owned();
        let asked = tokio::task::spawn_blocking(move || ask_to_end(&root));
        // One that does not even answer may still go away by itself.
        if let Ok(Ok(Ended::Managed)) = tokio::time::timeout_at(until, asked).await {
            return Err("a service's daemon serves this home already: systemctl status clawkeep".into());
        }
        match home.lock_daemon() {
            Err(LockError::AlreadyRunning { .. }) if tokio::time::Instant::now() < until => {}
            taken => return Ok(taken),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

enum Ended {
    Asked,
    Managed,
}

fn ask_to_end(home: &Path) -> Ended {
    let ask = |request: &Request| connect(home).ok()??.ask(request, |_| ()).ok();
    match ask(&Request::Status) {
        Some(Value::Status(status)) if status.daemon.managed => return Ended::Managed,
        _ => {}
    }
    // It may be gone before its answer is through.
    let _ = ask(&Request::Shutdown);
    Ended::Asked
}

fn listen(home: &Home) -> Result<UnixListener, String> {
    use std::os::fd::AsRawFd;
    let socket = home.socket();
    let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
    let directory = std::fs::File::open(home.run()).map_err(failed)?;
    let name = socket.file_name().ok_or("no socket name")?;
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // By the directory's descriptor: `sockaddr_un` is too short for deep state directories.
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(short).map_err(failed)?;
    // One of an earlier daemon, which began on a read-only disk.
    for old in Home::sockets_of(home.root()).iter().filter(|old| **old != socket) {
        let _ = std::fs::remove_file(old);
        let _ = old.parent().map(std::fs::remove_dir);
    }
    // The directory is 0700 already; this is for those who look at the socket alone.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
