use std::ops::Range;

/// The environment variable that replays a run.
const VARIABLE: &str = "CLAWKEEP_SEED";

/// Where a randomised test starts from. Printed when it is made, so that a failure can be played again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed in `CLAWKEEP_SEED` (decimal), else one from the kernel. Prints the line that replays it.
    ///
    /// # Panics
    /// When the variable holds no number, or the kernel has no random bytes.
    pub fn from_env_or_random() -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE}={text} is not a number")),
            Err(_) => {
                let mut bytes = [0_u8; 8];
                let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
                assert_eq!(got, Ok(bytes.len()), "no random bytes from the kernel");
                u64::from_le_bytes(bytes)
            }
        };
        eprintln!("seed: replay with {VARIABLE}={seed}");
        Self(seed)
    }

    /// The generator that starts here.
    pub fn rng(self) -> Rng {
        Rng(self.0)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, the same on every machine. Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in this range. The bias of the modulo does not matter for tests.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty(), "no number in an empty range");
        range.start + self.next_u64() % (range.end - range.start)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.within(0..items.len() as u64);
        &items[usize::try_from(index).expect("an index of a slice")]
    }

    /// True this many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_sequence_and_stays_in_range() {
        let mut rng = Seed(1_234_567).rng();
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
        let mut seen = [false; 4];
        for _ in 0..200 {
            seen[usize::try_from(rng.within(3..7)).unwrap() - 3] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert!(!rng.percent(0) && rng.percent(100));
        assert!([1, 2].contains(rng.pick(&[1, 2])));
    }
}
