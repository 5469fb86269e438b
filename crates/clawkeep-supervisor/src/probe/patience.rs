use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

/// Waiting that counts only the time in which this process could run. Stopped, starved or suspended, it would
/// have missed the answer as well: that time proves nothing against whoever was asked.
#[derive(Debug)]
pub(super) struct Patience {
    /// Between two looks at the clock. A sleep that takes longer by more than this was no sleep of ours.
    tick: Duration,
}

/// Ticks that must come in time after one that did not: what arrived meanwhile is taken in first.
const CALM: u32 = 2;

/// The most that waiting may take, as a multiple of what was to be waited.
const STRETCH: u32 = 4;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// All of the time passed, and this process ran.
    Whole,
    /// This process hardly runs: nothing can be said.
    InVain,
}

impl Patience {
    pub(super) fn new(period: Duration) -> Self {
        Self { tick: (period / 40).max(Duration::from_millis(50)) }
    }

    /// One look at the clock.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// Wait this long.
    pub(super) async fn wait(&self, time: Duration) -> Waited {
        let (mut left, mut owed) = (time, 0);
        let (started, mut slept) = (Instant::now(), suspended());
        while !left.is_zero() || owed > 0 {
            let step = if left.is_zero() { self.tick } else { self.tick.min(left) };
            let before = Instant::now();
            sleep(step).await;
            let took = before.elapsed();
            let now_slept = suspended();
            if now_slept.saturating_sub(slept) > self.tick {
                // The machine was suspended: whoever was asked gets the whole time again.
                (left, owed, slept) = (time, CALM, now_slept);
            } else if took > step + self.tick {
                (left, owed) = (left.saturating_sub(step), CALM);
            } else {
                left = left.saturating_sub(took);
                owed = owed.saturating_sub(1);
            }
            if started.elapsed() > time * STRETCH {
                return Waited::InVain;
            }
        }
        Waited::Whole
    }
}

/// How long the machine has been suspended since it was booted (clock_gettime(2)).
fn suspended() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or(0))
    };
    // In this order, so that the time between the two reads cannot pass for a suspension.
    let running = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_of_ours_is_as_long_as_it_says() {
        let patience = Patience::new(Duration::from_secs(1));
        let started = Instant::now();
        assert_eq!(patience.wait(Duration::from_millis(300)).await, Waited::Whole);
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    }

    /// The thread that everything here runs on is kept busy, as by SIGSTOP: a blocked executor and a stopped one
    /// look the same from inside.
    #[tokio::test]
    async fn time_in_which_it_could_not_run_does_not_count() {
        let patience = Patience::new(Duration::from_secs(2));
        let started = Instant::now();
        let blocked = async {
            sleep(Duration::from_millis(75)).await;
            testkit::pause(Duration::from_millis(900));
        };
        let (waited, ()) = tokio::join!(patience.wait(Duration::from_millis(500)), blocked);
        assert_eq!(waited, Waited::Whole);
        // 75 ms before, one tick for the stop, the rest after it.
        assert!(started.elapsed() >= Duration::from_millis(1_250), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn one_that_never_runs_in_time_says_so() {
        let patience = Patience::new(Duration::from_secs(2));
        let starved = async {
            loop {
                testkit::pause(Duration::from_millis(140));
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::select! {
            waited = patience.wait(Duration::from_millis(400)) => waited,
            () = starved => unreachable!("it goes on"),
        };
        assert_eq!(waited, Waited::InVain);
    }
}
