use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Entry, Store};

/// The most entries that are written in one transaction.
const BATCH: usize = 256;

/// Writes journal entries from a thread of its own, so that whoever records one never waits for the disk. The
/// order of entries is kept. Dropping it writes what is queued.
#[derive(Debug)]
pub struct JournalWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How the writing goes, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalHealth {
    /// Entries that are on the disk.
    pub written: u64,
    /// Entries that found the queue full.
    pub dropped: u64,
    /// Entries that the disk did not take.
    pub failed: u64,
    /// Why the last write failed; `None` when it did not.
    pub error: Option<String>,
}

/// Hears, once each, that the disk does not take entries any more, and that it does again.
pub type Notice = Box<dyn Fn(&str) + Send>;

/// Takes out of an entry, before it is written, what must not be in it. Runs on the journal's own thread.
pub type Filter = Box<dyn Fn(&mut Entry) + Send>;

#[derive(Debug)]
struct Shared {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    /// Entries that came into the queue, over all time.
    taken: u64,
    closed: bool,
    health: JournalHealth,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalWriter {
    /// Start the thread. At most `capacity` entries wait in memory.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(store: Arc<Store>, capacity: usize) -> std::io::Result<Self> {
        Self::start_with(store, capacity, Box::new(|_| ()), Box::new(|_| ()))
    }

    /// The same, with somebody to tell when entries are lost, and with a filter for all that is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_with(
        store: Arc<Store>,
        capacity: usize,
        notice: Notice,
        filter: Filter,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { capacity, state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || run(&store, &theirs, &notice, &filter))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Have this entry written soon. Never waits; with a full queue the entry is dropped and counted.
    pub fn record(&self, entry: Entry) {
        let mut state = self.shared.lock();
        if state.queue.len() >= self.shared.capacity {
            state.health.dropped += 1;
            return;
        }
        state.queue.push_back(entry);
        state.taken += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Wait until all that was recorded so far has been tried; whether that was so within this time.
    pub fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        let so_far = state.taken;
        while state.health.written + state.health.failed < so_far {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// How it goes so far.
    pub fn health(&self) -> JournalHealth {
        self.shared.lock().health.clone()
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, shared: &Shared, notice: &Notice, filter: &Filter) {
    let mut lost = 0;
    let mut state = shared.lock();
    loop {
        if state.queue.is_empty() {
            if state.closed {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let count = state.queue.len().min(BATCH);
        let mut batch: Vec<Entry> = state.queue.drain(..count).collect();
        drop(state);
        batch.iter_mut().for_each(filter);
        let result = store.append_all(&batch);
        state = shared.lock();
        let count = batch.len() as u64;
        match result {
            Ok(_) => {
                state.health.written += count;
                if state.health.error.take().is_some() {
                    notice(&format!("the journal is written again; {lost} entries were lost"));
                    lost = 0;
                }
            }
            Err(error) => {
                state.health.failed += count;
                lost += count;
                if state.health.error.replace(error.to_string()).is_none() {
                    notice(&format!(
                        "the journal cannot be written, what happens now is lost to it: {error}"
                    ));
                }
            }
        }
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Home;
    use crate::journal::tests::entry;

    const SOON: Duration = Duration::from_secs(60);

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        (temp, Arc::new(Store::open(&home).unwrap().store))
    }

    #[test]
    fn writes_in_order_and_the_rest_on_drop() {
        let (_temp, store) = store();
        let writer = JournalWriter::start(Arc::clone(&store), 10_000).unwrap();
        for n in 0..1_000 {
            writer.record(entry(None, n));
        }
        assert!(writer.flush(SOON));
        assert_eq!(writer.health(), JournalHealth { written: 1_000, ..JournalHealth::default() });
        for n in 1_000..1_300 {
            writer.record(entry(None, n));
        }
        drop(writer);
        let events = store.tail(None, usize::MAX).unwrap();
        assert_eq!(events.len(), 1_300);
        assert!(events.iter().enumerate().all(|(n, event)| event.entry == entry(None, n)));
    }

    #[test]
    fn never_waits_for_a_store_that_is_busy() {
        let (_temp, store) = store();
        let writer = JournalWriter::start(Arc::clone(&store), 10).unwrap();
        let held = store.lock();
        let started = Instant::now();
        for n in 0..10_000 {
            writer.record(entry(None, n));
        }
        assert!(!writer.flush(Duration::from_millis(1)));
        assert!(started.elapsed() < SOON);
        drop(held);
        assert!(writer.flush(SOON));
        let health = writer.health();
        assert_eq!(health.written + health.dropped, 10_000);
        assert!((10..=20).contains(&health.written), "{health:?}");
    }
}
