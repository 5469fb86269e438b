//! From a started process to a serving daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clawkeep_store::{Home, JournalWriter, LockError, Store};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::create::sweep_removed;
use crate::server::Daemon;
use crate::wire::Asker;

/// The exit status that says: another daemon serves this home (EX_TEMPFAIL of sysexits.h).
pub const ALREADY_RUNNING: u8 = 75;

/// Journal entries that wait in memory at most.
const JOURNAL_QUEUE: usize = 4096;

/// Run the daemon of this state directory until it is told to end. `program` is this program's own file.
pub fn daemon_main(home: &Path, program: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(serve(home, program));
            runtime.shutdown_timeout(Duration::from_secs(2));
            outcome
        }
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("clawkeep daemon: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(home: &Path, program: &Path) -> Result<ExitCode, String> {
    let home = Home::open(home).map_err(|e| e.to_string())?;
    let _lock = match home.lock_daemon() {
        Ok(lock) => lock,
        Err(LockError::AlreadyRunning { .. }) => return Ok(ExitCode::from(ALREADY_RUNNING)),
        Err(error) => return Err(error.to_string()),
    };
    let opened = Store::open(&home).map_err(|e| e.to_string())?;
    if let Some(note) = opened.repaired {
        eprintln!("clawkeep daemon: {note}");
    }
    let store = Arc::new(opened.store);
    let journal =
        Arc::new(JournalWriter::start(Arc::clone(&store), JOURNAL_QUEUE).map_err(|e| e.to_string())?);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let daemon = Arc::new(Daemon::new(home, store, Arc::clone(&journal), program.to_owned()));
    // Before anybody can ask: an answer about a sandbox always comes from its supervisor.
    daemon.resume().await.map_err(|e| e.to_string())?;
    let listener = listen(&daemon.home)?;
    let sandboxes = daemon.home.sandboxes();
    drop(tokio::task::spawn_blocking(move || sweep_removed(&sandboxes)));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let daemon = Arc::clone(&daemon);
                    tokio::spawn(async move { daemon.answer(Asker::new(stream)).await });
                }
                // Out of descriptors, mostly: let others close some.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            () = daemon.shutdown.notified() => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // The sandboxes go on; the next daemon adopts them.
    journal.flush(Duration::from_secs(5));
    Ok(ExitCode::SUCCESS)
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
    // The directory is 0700 already; this is for those who look at the socket alone.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
