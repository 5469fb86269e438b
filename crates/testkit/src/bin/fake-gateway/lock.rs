use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clawkeep_plan::Digest;
use serde_json::{Value, json};
use testkit::processes;

use crate::options::{LockRule, Options};

/// The lock as OpenClaw 2026.4.9 takes it: `<tmp>/openclaw-<uid>/gateway.<8 hex>.lock`.
pub struct Lock(Option<PathBuf>);

/// Why no gateway starts, and with which exit code.
pub struct Refused {
    pub exit: u8,
    why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

pub fn take(options: &Options) -> Result<Lock, Refused> {
    if options.lock == LockRule::Off {
        return Ok(Lock(None));
    }
    let uid = rustix::process::geteuid().as_raw();
    let dir = options.tmp.join(format!("openclaw-{uid}"));
    let fails = |why: String| Refused { exit: 1, why };
    if let Err(error) = DirBuilder::new().mode(0o700).create(&dir)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(fails(format!("{}: {error}", dir.display())));
    }
    let found = std::fs::symlink_metadata(&dir).map_err(|e| fails(format!("{}: {e}", dir.display())))?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
        return Err(fails(format!("Unsafe fallback OpenClaw temp dir: {}", dir.display())));
    }
    let id = &Digest::of(options.config.as_os_str().as_encoded_bytes()).to_string()[..8];
    let path = dir.join(format!("gateway.{id}.lock"));
    let pid = std::process::id();
    let content = json!({
        "pid": pid,
        "createdAt": unix_ms(),
        "configPath": options.config,
        "startTime": processes::start_time(pid.cast_signed()),
    });
    // Twice: a lock that is found stale is removed, then taken.
    for _ in 0..2 {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                let written = file.write_all(content.to_string().as_bytes());
                return written.map(|()| Lock(Some(path))).map_err(|e| fails(format!("lock: {e}")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let holder: Value = serde_json::from_str(&text).unwrap_or_default();
                if options.lock == LockRule::Refuse || lives(&holder) {
                    let why =
                        format!("gateway already running (pid {}); lock {}", holder["pid"], path.display());
                    return Err(Refused { exit: options.twin_exit, why });
                }
                let _ = std::fs::remove_file(&path);
            }
            Err(error) => return Err(fails(format!("{}: {error}", path.display()))),
        }
    }
    Err(Refused { exit: options.twin_exit, why: format!("gave up on {}", path.display()) })
}

/// A holder lives when its pid does and has the start time of the lock. A torn lock has no holder.
fn lives(holder: &Value) -> bool {
    let Some(pid) = holder["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) else { return false };
    processes::start_time(pid).is_some_and(|now| holder["startTime"].as_u64().is_none_or(|then| then == now))
}

impl Lock {
    /// Give the lock back. Not on drop: a crash leaves it.
    pub fn remove(&self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
