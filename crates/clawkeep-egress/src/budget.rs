use std::time::{Duration, Instant};

/// Some at once, then one an interval.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    most: u32,
    interval: Duration,
    refilled: Instant,
}

impl Budget {
    /// Full.
    pub fn new(most: u32, interval: Duration) -> Self {
        Self { left: most, most, interval, refilled: Instant::now() }
    }

    /// Take one, if there is one.
    pub fn take(&mut self) -> bool {
        while self.left < self.most && self.refilled.elapsed() >= self.interval {
            self.left += 1;
            self.refilled += self.interval;
        }
        if self.left == self.most {
            self.refilled = Instant::now();
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_some_at_once_and_then_only_with_time() {
        let mut budget = Budget::new(2, Duration::from_secs(3_600));
        assert_eq!([(); 4].map(|()| budget.take()), [true, true, false, false]);
        let mut refilled = Budget::new(2, Duration::ZERO);
        assert_eq!([(); 4].map(|()| refilled.take()), [true; 4]);
    }
}
