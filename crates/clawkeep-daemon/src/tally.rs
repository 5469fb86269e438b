//! What was counted of each route, kept over the end of a daemon: tokens are what people pay for.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawkeep_inference::{Kept, Meter};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Home, atomic};
use rustix::fs::Mode;
use tokio::sync::Notify;

use crate::redaction::redaction;

/// Between two times that it is written down: a daemon that is killed loses no more than this.
pub const EVERY: Duration = Duration::from_secs(60);

/// The name of a sandbox's, in its directory on the host.
const FILE: &str = "inference.json";

/// The largest that is read, in bytes. A full one has a twentieth of it.
const MAX_FILE: u64 = 1 << 20;

/// The meters of all sandboxes. A meter outlives what runs of its sandbox, and is the same again after it.
pub struct Tally {
    home: Home,
    meters: Mutex<BTreeMap<SandboxName, Meter>>,
    changes: Arc<Notify>,
}

impl Tally {
    /// Of the sandboxes of this home.
    pub fn new(home: &Home) -> Self {
        Self { home: home.clone(), meters: Mutex::default(), changes: Arc::default() }
    }

    fn meters(&self) -> MutexGuard<'_, BTreeMap<SandboxName, Meter>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meter of this sandbox, which goes on from where the last daemon wrote it down; and why it does not, if it
    /// should.
    pub fn meter(&self, name: &SandboxName) -> (Meter, Option<String>) {
        if let Some(meter) = self.meters().get(name) {
            return (meter.clone(), None);
        }
        let (kept, trouble) = match self.read(name) {
            Ok(kept) => (kept, None),
            Err(error) => (None, Some(format!("{name}: {FILE}: {error}: its route is counted anew"))),
        };
        let meter = Meter::new(kept, Arc::clone(&self.changes), |name| {
            // With an end that no secret has: of a text that ends, a secret's beginning would be taken out as well,
            // and an agent that names models could tell by that how much of one it has guessed.
            redaction().text(&format!("{name}\n")).trim_end().to_owned()
        });
        (self.meters().entry(name.clone()).or_insert(meter).clone(), trouble)
    }

    /// Its sandbox is no more.
    pub fn forget(&self, name: &SandboxName) {
        self.meters().remove(name);
    }

    /// Write down what was counted since the last time. Blocks. What the disk does not take is tried again.
    pub fn save(&self) {
        let meters: Vec<_> =
            self.meters().iter().map(|(name, meter)| (name.clone(), meter.clone())).collect();
        for (name, meter) in meters {
            let Some(kept) = meter.take_changes() else { continue };
            match self.write(&name, &kept) {
                Ok(()) => {}
                // It is being removed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => meter.put_back(),
            }
        }
    }

    /// The same as long as this daemon lives, when something was counted and not more often than [`EVERY`].
    pub async fn keep(self: Arc<Self>) {
        loop {
            self.changes.notified().await;
            let tally = Arc::clone(&self);
            // It panics nowhere; and what is lost otherwise is a minute.
            let _ = tokio::task::spawn_blocking(move || tally.save()).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    fn write(&self, name: &SandboxName, kept: &Kept) -> io::Result<()> {
        let dir = atomic::open_dir(self.home.sandbox(name).root())?;
        atomic::write(&dir, FILE, &serde_json::to_vec(kept)?, Mode::RUSR | Mode::WUSR)
    }

    fn read(&self, name: &SandboxName) -> io::Result<Option<Kept>> {
        let path = self.home.sandbox(name).root().join(FILE);
        let size = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found?.len(),
        };
        if size > MAX_FILE {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is too large"));
        }
        Ok(Some(serde_json::from_slice(&std::fs::read(path)?)?))
    }
}

#[cfg(test)]
mod tests {
    use clawkeep_inference::Counted;

    use super::*;

    #[test]
    fn what_was_counted_is_there_for_the_next_daemon_and_not_for_the_next_of_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let name: SandboxName = "box".parse().unwrap();
        home.sandbox(&name).create().unwrap();
        let kept = Kept {
            since_ms: 7,
            models: [("m".to_owned(), Counted { turns: 3, tokens_in: u64::MAX, ..Counted::default() })]
                .into(),
        };
        Tally::new(&home).write(&name, &kept).unwrap();

        let tally = Tally::new(&home);
        let (meter, trouble) = tally.meter(&name);
        assert_eq!((meter.kept(), trouble), (kept, None));
        // The same one, whoever asks: nothing is counted beside it.
        meter.put_back();
        assert!(tally.meter(&name).0.take_changes().is_some());

        // A disk that takes nothing now is tried again.
        let file = home.sandbox(&name).root().join(FILE);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        meter.put_back();
        tally.save();
        std::fs::remove_dir(&file).unwrap();
        tally.save();
        assert!(file.is_file());

        std::fs::write(&file, "{\"since_ms\":").unwrap();
        let (anew, trouble) = Tally::new(&home).meter(&name);
        assert!(anew.kept().models.is_empty() && trouble.unwrap().starts_with("box: inference.json: EOF"));
        std::fs::remove_dir_all(home.sandbox(&name).root()).unwrap();
        tally.forget(&name);
        assert!(tally.meter(&name).0.kept().models.is_empty());
        meter.put_back();
        tally.save();
        assert!(!home.sandbox(&name).root().exists());
    }
}
