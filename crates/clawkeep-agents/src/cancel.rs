use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A flag that ends a running installation. Clones share the flag; it is never taken back.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    /// Raise the flag and wake whoever waits on it.
    pub fn cancel(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Is the flag raised?
    pub fn is_cancelled(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for the flag at most this long; true when it is raised.
    pub fn wait(&self, timeout: Duration) -> bool {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(guard, timeout, |raised| !*raised);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
