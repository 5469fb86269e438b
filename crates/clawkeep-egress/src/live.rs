use std::sync::Arc;

use clawkeep_policy::Matcher;
use tokio::sync::watch;

/// The policy in force, exchanged while connections are open. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct LivePolicy(Arc<watch::Sender<Matcher>>);

impl LivePolicy {
    /// Start with this one.
    pub fn new(matcher: Matcher) -> Self {
        Self(Arc::new(watch::Sender::new(matcher)))
    }

    /// The policy of this moment.
    pub fn current(&self) -> Matcher {
        self.0.borrow().clone()
    }

    /// Put another in its place, in one step: no decision sees a part of each. Open connections that the new one
    /// refuses, or wants handled in another way, are closed at once.
    pub fn replace(&self, matcher: Matcher) {
        self.0.send_replace(matcher);
    }

    /// Tells of every replacement after this moment.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Matcher> {
        self.0.subscribe()
    }
}
