use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper bounds of the buckets, in seconds; one more bucket has what is beyond the last.
pub const BOUNDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

const BUCKETS: usize = BOUNDS.len() + 1;

/// How often a time was how long. Takes the same room however many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl Histogram {
    /// A time, as often as this.
    pub(crate) fn add(&mut self, time: Duration, times: u64) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(times));
    }

    /// All of another one as well.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = mine.saturating_add(theirs);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// For each bound how many were no longer, and at last how many there were.
    pub fn cumulative(&self) -> [u64; BUCKETS] {
        let mut so_far = 0_u64;
        self.counts.map(|count| {
            so_far = so_far.saturating_add(count);
            so_far
        })
    }

    /// The time that this part of them, from 0 to 1, did not exceed, in milliseconds: between the bounds of its
    /// bucket it is guessed as Prometheus' `histogram_quantile` does. `None` where there were none.
    pub fn quantile_ms(&self, part: f64) -> Option<f64> {
        let cumulative = self.cumulative();
        let count = cumulative[BUCKETS - 1];
        if count == 0 {
            return None;
        }
        let rank = part * count as f64;
        let bucket = cumulative.iter().position(|so_far| *so_far as f64 >= rank)?;
        let lower = bucket.checked_sub(1).map_or(0.0, |before| BOUNDS[before]);
        // Of what is beyond the last bound no more is known.
        let upper = BOUNDS.get(bucket).copied().unwrap_or(lower);
        let before = bucket.checked_sub(1).map_or(0, |before| cumulative[before]);
        let within = (rank - before as f64) / self.counts[bucket].max(1) as f64;
        Some(((lower + (upper - lower) * within) * 1e6).round() / 1e3)
    }
}

impl From<Histogram> for Vec<u64> {
    /// The sum, then each bucket.
    fn from(histogram: Histogram) -> Self {
        std::iter::once(histogram.sum_us).chain(histogram.counts).collect()
    }
}

impl From<Vec<u64>> for Histogram {
    /// One with other bounds begins anew.
    fn from(numbers: Vec<u64>) -> Self {
        let Some((sum_us, counts)) = numbers.split_first() else { return Self::default() };
        <[u64; BUCKETS]>::try_from(counts)
            .map_or_else(|_| Self::default(), |counts| Self { counts, sum_us: *sum_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for us in [0, 1_000, 1_001, 300_000_000, 300_000_001] {
            histogram.add(Duration::from_micros(us), 2);
        }
        let cumulative = histogram.cumulative();
        assert_eq!((cumulative[0], cumulative[1], cumulative[16], cumulative[17]), (4, 6, 8, 10));
        assert_eq!((histogram.count(), histogram.sum()), (10, 2.0 * 600.002_002));
        let mut twice = histogram;
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.cumulative()[1]), (20, 12));
        twice.add(Duration::MAX, u64::MAX);
        assert_eq!(twice.count(), u64::MAX);
    }

    #[test]
    fn a_quantile_is_guessed_within_its_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.99), None);
        histogram.add(Duration::from_millis(20), 99);
        histogram.add(Duration::from_millis(700), 1);
        assert_eq!(histogram.quantile_ms(0.5), Some(17.576));
        assert_eq!(histogram.quantile_ms(0.99), Some(25.0));
        assert_eq!(histogram.quantile_ms(1.0), Some(1000.0));
        histogram.add(Duration::from_secs(900), 900);
        assert_eq!(histogram.quantile_ms(0.99), Some(300_000.0));
    }

    #[test]
    fn it_is_the_same_after_it_was_written_down_and_one_of_other_bounds_is_empty() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_millis(3), 7);
        let json = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), histogram);
        for other in ["[]", "[1,2]", "[5,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"] {
            assert_eq!(serde_json::from_str::<Histogram>(other).unwrap(), Histogram::default(), "{other}");
        }
    }
}
