//! Measures on the first frames which of two strategies for opening is faster.
//!
//! The result depends on the processor. On AMD Zen 4, opening out of place is twice as fast as copying and then opening
//! in place. On Zen 5, copying first is 1.5 times as fast. Both have the same output, so a wrong choice only costs
//! time.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A strategy for opening a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Opens from one buffer into the other.
    OutOfPlace,
    /// Copies the ciphertext to the other buffer and opens it there.
    CopyFirst,
}

/// Shorter frames are not measured, because their times depend little on the strategy.
const SHORTEST: usize = 4096;
/// The number of frames to measure, half of them with each strategy.
const TRIALS: u32 = 32;

/// The measurements so far.
pub(super) struct OpenStrategy {
    trials: AtomicU32,
    /// The shortest time per KiB of each strategy, in picoseconds. The minimum, because other load only adds to it.
    least: [AtomicU64; 2],
}

impl OpenStrategy {
    pub(super) const fn new() -> Self {
        Self { trials: AtomicU32::new(0), least: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)] }
    }

    /// Opens a frame of this length with the faster strategy, or with the next one to measure.
    pub(super) fn open<T>(&self, len: usize, open: impl FnOnce(Strategy) -> T) -> T {
        if len < SHORTEST || self.trials.load(Relaxed) >= TRIALS {
            return open(self.faster());
        }
        let strategy = Self::for_trial(self.trials.fetch_add(1, Relaxed));
        let start = Instant::now();
        let opened = open(strategy);
        self.record(strategy, len, start.elapsed());
        opened
    }

    /// Returns the strategy to measure. The strategies alternate in the aperiodic order of Thue and Morse, so that
    /// neither gets all the short frames if frame lengths repeat.
    fn for_trial(trial: u32) -> Strategy {
        if trial.count_ones().is_multiple_of(2) { Strategy::OutOfPlace } else { Strategy::CopyFirst }
    }

    fn record(&self, strategy: Strategy, len: usize, time: Duration) {
        let picoseconds = time.as_nanos().saturating_mul(1000 * 1024) / len as u128;
        self.least[strategy as usize].fetch_min(u64::try_from(picoseconds).unwrap_or(u64::MAX), Relaxed);
    }

    fn faster(&self) -> Strategy {
        let [out_of_place, copy_first] = self.least.each_ref().map(|least| least.load(Relaxed));
        if copy_first < out_of_place { Strategy::CopyFirst } else { Strategy::OutOfPlace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strategy_with_less_time_for_its_length_is_the_faster_one() {
        let times = OpenStrategy::new();
        assert_eq!(times.faster(), Strategy::OutOfPlace);
        times.record(Strategy::OutOfPlace, 65_536, Duration::from_micros(10));
        assert_eq!(times.faster(), Strategy::OutOfPlace);
        times.record(Strategy::CopyFirst, 4096, Duration::from_nanos(500));
        assert_eq!(times.faster(), Strategy::CopyFirst);
        times.record(Strategy::OutOfPlace, 65_536, Duration::from_micros(7));
        assert_eq!(times.faster(), Strategy::OutOfPlace);
        times.record(Strategy::CopyFirst, 4096, Duration::from_micros(500));
        assert_eq!(times.faster(), Strategy::OutOfPlace);
    }

    #[test]
    fn both_strategies_are_measured_equally_often_and_then_no_more() {
        let times = OpenStrategy::new();
        let mut tried = [0, 0];
        for _ in 0..TRIALS {
            times.open(SHORTEST, |strategy| tried[strategy as usize] += 1);
        }
        assert_eq!(tried, [TRIALS / 2; 2]);
        let least = times.least.each_ref().map(|least| least.load(Relaxed));
        assert!(least.iter().all(|least| *least < u64::MAX));
        times.open(SHORTEST, |strategy| assert_eq!(strategy, times.faster()));
        assert_eq!(times.least.each_ref().map(|least| least.load(Relaxed)), least);
    }

    #[test]
    fn short_frames_are_not_measured() {
        let times = OpenStrategy::new();
        assert_eq!(times.open(SHORTEST - 1, |strategy| strategy), Strategy::OutOfPlace);
        assert_eq!(times.trials.load(Relaxed), 0);
    }
}
