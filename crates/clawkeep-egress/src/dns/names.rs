//! The names that were asked for lately, with what the host's resolver said.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_policy::Naming;
use tokio::sync::{OnceCell, Semaphore};

use crate::budget::Budget;
use crate::resolver::Resolver;

/// For how long an answer is given again, and for how long a failure.
const FRESH: Duration = Duration::from_secs(60);
const FRESH_FAILURE: Duration = Duration::from_secs(5);

/// How long the host's resolver has.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions to the host's resolver at once: each holds a thread.
const OUTSIDE_AT_ONCE: usize = 8;

/// Names with answers that are kept.
const MAX_NAMES: usize = 256;

/// Names under patterns that count no more.
const MAX_COUNTED: usize = 1_024;

/// Addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 64;

/// New names under patterns: 20 at once, then one every three seconds. Part of such a name is chosen inside, and
/// everybody on the way to its name server reads it.
const NEW_NAMES: (u32, Duration) = (20, Duration::from_secs(3));

/// The longest label and the longest name under a pattern, in bytes.
const MAX_LABEL: usize = 48;
const MAX_NAME: usize = 128;

/// What is known of a name: `None` inside for a failure.
type Cell = Arc<OnceCell<Option<Vec<IpAddr>>>>;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Too long a name under a pattern.
    Long,
    /// Too many different names under patterns.
    Many,
    /// The host's resolver has no answer, or not in time.
    Failed,
}

/// Asks the host's resolver, once for each name.
pub struct Names {
    resolver: Arc<dyn Resolver>,
    outside: Semaphore,
    state: Mutex<State>,
}

struct State {
    known: HashMap<String, (Instant, Cell)>,
    counted: HashSet<String>,
    new_names: Budget,
}

impl Names {
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        let (most, interval) = NEW_NAMES;
        let new_names = Budget::new(most, interval);
        let state = Mutex::new(State { known: HashMap::new(), counted: HashSet::new(), new_names });
        Self { resolver, outside: Semaphore::new(OUTSIDE_AT_ONCE), state }
    }

    /// All addresses of a name, which the policy names in this way.
    pub async fn addresses(&self, name: &str, naming: Naming) -> Result<Vec<IpAddr>, Unanswered> {
        let cell = self.cell(name, naming)?;
        let resolved = cell.get_or_try_init(|| async {
            // Not remembered: the name is not to blame.
            let _permit = self.outside.try_acquire().map_err(|_| Unanswered::Failed)?;
            let asked = tokio::time::timeout(PATIENCE, self.resolver.resolve(name)).await;
            let found = asked.ok().and_then(Result::ok).filter(|found| !found.is_empty());
            Ok(found.map(|mut found| {
                found.truncate(MAX_ADDRESSES);
                found
            }))
        });
        resolved.await?.clone().ok_or(Unanswered::Failed)
    }

    /// Where the answer is, or will be for all who ask meanwhile.
    fn cell(&self, name: &str, naming: Naming) -> Result<Cell, Unanswered> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, cell)) = state.known.get(name)
            && fresh(*since, cell)
        {
            return Ok(Arc::clone(cell));
        }
        if naming == Naming::Pattern {
            if name.len() > MAX_NAME || name.split('.').any(|label| label.len() > MAX_LABEL) {
                return Err(Unanswered::Long);
            }
            if !state.counted.contains(name) {
                if !state.new_names.take() {
                    return Err(Unanswered::Many);
                }
                if state.counted.len() == MAX_COUNTED {
                    state.counted.clear();
                }
                state.counted.insert(name.to_owned());
            }
        }
        if state.known.len() >= MAX_NAMES {
            state.known.retain(|_, (since, cell)| fresh(*since, cell));
        }
        if state.known.len() >= MAX_NAMES
            && let Some(oldest) =
                state.known.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone())
        {
            state.known.remove(&oldest);
        }
        let cell = Cell::default();
        state.known.insert(name.to_owned(), (Instant::now(), Arc::clone(&cell)));
        Ok(cell)
    }
}

fn fresh(since: Instant, cell: &Cell) -> bool {
    let at_most = if matches!(cell.get(), Some(None)) { FRESH_FAILURE } else { FRESH };
    since.elapsed() < at_most
}
