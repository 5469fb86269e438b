//! The journal, read from its file: so it can be read when everything else is down.

use clawkeep_daemon::Client;
use clawkeep_plan::SandboxName;
use clawkeep_store::{JournalReader, StoreError};

use super::known;
use crate::host::Host;
use crate::problem::Problem;

/// The journal of this installation; `None` where nothing was written yet.
///
/// # Errors
/// When it cannot be read.
pub fn open(host: &Host) -> Result<Option<JournalReader>, Problem> {
    // The directory is ours, or its content is not to be trusted.
    host.names()?;
    JournalReader::open(host.root()).map_err(|error| unreadable(host, &error))
}

/// The sandbox of this name, or the default one.
///
/// # Errors
/// `no-such-sandbox`.
pub fn sandbox(
    host: &Host,
    journal: Option<&JournalReader>,
    name: Option<SandboxName>,
) -> Result<SandboxName, Problem> {
    if let Some(name) = name {
        return known(host, name);
    }
    let default = match journal {
        Some(journal) => journal.default_sandbox().map_err(|error| unreadable(host, &error))?,
        None => None,
    };
    default.ok_or_else(|| {
        let message = format!("there is no sandbox in {}", host.root().display());
        Problem::new("no-such-sandbox", message, "clawkeep onboard")
    })
}

/// Why the journal cannot be read.
pub fn unreadable(host: &Host, error: &StoreError) -> Problem {
    let (code, next) = match error {
        StoreError::Newer { .. } => ("journal-newer", "use the clawkeep that wrote it".to_owned()),
        // Opened for writing it is repaired.
        StoreError::Corrupt(_) => ("journal-damaged", "clawkeep status".to_owned()),
        StoreError::Busy(_) => ("journal-busy", "clawkeep status".to_owned()),
        _ => ("journal-unreadable", format!("ls -l {}", host.root().display())),
    };
    Problem::new(code, format!("cannot read the journal: {error}"), &next)
}

/// Whether somebody looks after the sandboxes just now.
pub fn is_supervised(host: &Host) -> bool {
    matches!(Client::connect(&host.root().join("run/daemon.sock")), Ok(Some(_)))
}
