//! Which hosts the proxy refused a sandbox lately: evidence, should its agent end over it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An agent can ask for as many hosts as it likes; the newest are remembered.
const MOST: usize = 32;

/// The hosts that were refused last, each once, with the last time.
#[derive(Debug, Default)]
pub struct Denied(Mutex<VecDeque<(Instant, String)>>);

impl Denied {
    /// This one was refused now.
    pub fn note(&self, host: &str) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|(_, known)| known != host);
        if hosts.len() == MOST {
            hosts.pop_front();
        }
        hosts.push_back((Instant::now(), host.to_owned()));
    }

    /// Those of this last while, the newest last.
    pub fn within(&self, age: Duration) -> Vec<String> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().filter(|(at, _)| at.elapsed() <= age).map(|(_, host)| host.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_each_once_and_the_old_are_no_evidence() {
        let denied = Denied::default();
        for number in 0..MOST + 3 {
            denied.note(&format!("host-{number}"));
        }
        denied.note("host-10");
        let hosts = denied.within(Duration::from_secs(3_600));
        assert_eq!(hosts.len(), MOST);
        assert_eq!(hosts.iter().filter(|host| *host == "host-10").count(), 1);
        assert_eq!((hosts[0].as_str(), hosts[MOST - 1].as_str()), ("host-3", "host-10"));
        assert_eq!(denied.within(Duration::ZERO), Vec::<String>::new());
    }
}
