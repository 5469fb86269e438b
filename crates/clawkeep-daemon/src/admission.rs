//! The start of everything that should run, when the daemon starts: in an order that nobody can rely on, a few
//! at a time, so that a host with many sandboxes is not brought to its knees by its own boot.

use std::sync::Arc;
use std::time::Duration;

use clawkeep_plan::SandboxName;
use clawkeep_recovery::Phase;
use clawkeep_store::Desired;
use clawkeep_supervisor::{Snapshot, Wish};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::server::Daemon;

/// How long one start may keep its turn. It goes on after that; only the next one waits no longer.
const TURN: Duration = Duration::from_secs(10);

/// How many starts are under way at once: setting up a sandbox is half work and half waiting.
fn at_once() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) * 2).clamp(2, 16)
}

/// Start these, and tell after each how many have been. Returns when each has a process, or has failed and
/// waits for its next attempt.
pub async fn admit(daemon: &Arc<Daemon>, mut waiting: Vec<SandboxName>, tell: impl Fn(usize)) {
    shuffle(&mut waiting);
    let turns = Arc::new(Semaphore::new(at_once()));
    let mut begun = JoinSet::new();
    let mut done = 0;
    for name in waiting {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        while begun.try_join_next().is_some() {
            done += 1;
            tell(done);
        }
        let daemon = Arc::clone(daemon);
        begun.spawn(async move {
            let _ = tokio::time::timeout(TURN, start(&daemon, &name)).await;
            drop(turn);
        });
    }
    while begun.join_next().await.is_some() {
        done += 1;
        tell(done);
    }
}

/// Start it, if it still should run, and wait for its process.
async fn start(daemon: &Daemon, name: &SandboxName) {
    let mut status = {
        // Not while it is being stopped or removed: the wish of a person is the last word.
        let _one = daemon.creating.lock().await;
        let wanted = daemon.record(name).is_ok_and(|record| record.desired == Desired::Running);
        let Ok(running) = daemon.running(name) else { return };
        if !wanted || running.wish(Wish::Start).is_err() {
            return;
        }
        running.status.clone()
    };
    let begun = |snapshot: &Snapshot| {
        snapshot.gateway.is_some() || matches!(snapshot.phase, Phase::Backoff { .. } | Phase::Held { .. })
    };
    // Its supervisor may end, which is as good as begun.
    if status.wait_for(|snapshot| snapshot.wanted || begun(snapshot)).await.is_ok() {
        let _ = status.wait_for(|snapshot| begun(snapshot) || !snapshot.wanted).await;
    }
}

/// Any order (Fisher and Yates). Without random numbers from the system, the order given.
fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let mut bytes = [0_u8; 8];
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) != Ok(bytes.len()) {
            return;
        }
        let other = u64::from_ne_bytes(bytes) % (last as u64 + 1);
        items.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_differs_and_nothing_is_lost() {
        let sorted: Vec<u32> = (0..50).collect();
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let mut items = sorted.clone();
            shuffle(&mut items);
            orders.insert(items.clone());
            items.sort_unstable();
            assert_eq!(items, sorted);
        }
        assert!(orders.len() > 1, "always the same order");
        shuffle::<u32>(&mut []);
    }
}
