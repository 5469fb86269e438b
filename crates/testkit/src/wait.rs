use std::time::{Duration, Instant};

/// Look again and again (every 5 to 20 ms) until `check` gives something, and give it back.
///
/// # Panics
/// When `within` has passed; the message says that it waited for `what`.
#[track_caller]
pub fn wait_until<T>(within: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut step = Duration::from_millis(5);
    loop {
        if let Some(found) = check() {
            return found;
        }
        let waited = started.elapsed();
        assert!(waited < within, "waited {waited:.1?} in vain for: {what}");
        pause(step);
        step = (step * 2).min(Duration::from_millis(20));
    }
}

/// Let this much time pass. For spacing out faults at random moments; never to wait for something.
pub fn pause(time: Duration) {
    let mut left = rustix::fs::Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    while let rustix::thread::NanosleepRelativeResult::Interrupted(rest) = rustix::thread::nanosleep(&left) {
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_was_found_as_soon_as_it_is_there() {
        let mut looks = 0;
        let found = wait_until(Duration::from_secs(60), "three looks", || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!((found, looks), ("found", 3));
    }

    #[test]
    #[should_panic(expected = "in vain for: a miracle")]
    fn says_what_it_waited_for() {
        wait_until(Duration::from_millis(30), "a miracle", || None::<()>);
    }
}
