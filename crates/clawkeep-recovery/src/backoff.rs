use serde::{Deserialize, Serialize};

/// The delay before the next start: none after the first failure, then exponential with full jitter up to a
/// cap, and flat at the cap, so that a crash loop settles at one start a minute. Carries its own source of
/// randomness, so that a replay gives the same delays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

/// Ceiling of the first delay that is not zero, in milliseconds.
const BASE: u64 = 1_000;

/// No delay is longer, in milliseconds.
const CAP: u64 = 60_000;

impl Backoff {
    /// No failures yet.
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, random: seed }
    }

    /// Failures since the last sustained readiness.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Count a failure and give the delay before the next start, in milliseconds.
    pub fn fail(&mut self) -> u64 {
        self.failures = self.failures.saturating_add(1);
        let exponent = match self.failures {
            1 => return 0,
            n => n - 2,
        };
        let ceiling =
            BASE.checked_shl(exponent).filter(|ceiling| *ceiling >> exponent == BASE).unwrap_or(CAP);
        if ceiling >= CAP { CAP } else { self.next() % (ceiling + 1) }
    }

    /// Forget the failures: it was ready for long enough, or a person took over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): enough to spread restarts.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn starts_at_once_grows_and_settles_at_one_a_minute() {
        let mut backoff = Backoff::new(1);
        assert_eq!(backoff.fail(), 0);
        assert!(backoff.fail() <= 1_000);
        assert!(backoff.fail() <= 2_000);
        for _ in 0..5 {
            backoff.fail();
        }
        assert_eq!((0..100).map(|_| backoff.fail()).collect::<Vec<_>>(), vec![CAP; 100]);
        backoff.reset();
        assert_eq!(backoff.fail(), 0);
    }

    proptest! {
        #[test]
        fn is_never_longer_than_the_cap_and_replays(seed: u64, count in 1_usize..200) {
            let run = || {
                let mut backoff = Backoff::new(seed);
                (0..count).map(|_| backoff.fail()).collect::<Vec<_>>()
            };
            prop_assert!(run().iter().all(|delay| *delay <= CAP));
            prop_assert_eq!(run(), run());
        }
    }
}
