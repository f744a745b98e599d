//! Which of two ways to open is the faster one here, learnt from the first frames.
//!
//! It depends on the processor: from one buffer into the other, AMD's Zen 4 opens at twice the rate of copying and
//! opening in place; on Zen 5, copying first is 1.5 times faster. Either way gives the same bytes, so a wrong guess
//! costs time and nothing else.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A way to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From one buffer into the other.
    Apart,
    /// Copies into the other buffer, and opens there.
    InPlace,
}

/// Frames that are shorter take little time either way, and tell little.
const SHORTEST: usize = 4096;
/// How many frames are tried, half of them each way.
const TRIALS: u32 = 32;

/// What is known so far.
pub(super) struct FasterWay {
    trials: AtomicU32,
    /// The least time that a KiB took each way, in picoseconds: what else the machine did meanwhile only adds to it.
    least: [AtomicU64; 2],
}

impl FasterWay {
    pub(super) const fn new() -> Self {
        Self { trials: AtomicU32::new(0), least: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)] }
    }

    /// Opens a frame of this length the way that has been found to be faster, or that is to be tried.
    pub(super) fn open<T>(&self, len: usize, open: impl FnOnce(Way) -> T) -> T {
        if len < SHORTEST || self.trials.load(Relaxed) >= TRIALS {
            return open(self.faster());
        }
        let way = Self::on_trial(self.trials.fetch_add(1, Relaxed));
        let start = Instant::now();
        let opened = open(way);
        self.took(way, len, start.elapsed());
        opened
    }

    /// By turns, in an order with no period (Thue and Morse's), so that neither way meets all the short frames.
    fn on_trial(trial: u32) -> Way {
        if trial.count_ones().is_multiple_of(2) { Way::Apart } else { Way::InPlace }
    }

    fn took(&self, way: Way, len: usize, time: Duration) {
        let picoseconds = time.as_nanos().saturating_mul(1000 * 1024) / len as u128;
        self.least[way as usize].fetch_min(u64::try_from(picoseconds).unwrap_or(u64::MAX), Relaxed);
    }

    fn faster(&self) -> Way {
        let [apart, in_place] = self.least.each_ref().map(|least| least.load(Relaxed));
        if in_place < apart { Way::InPlace } else { Way::Apart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_that_took_less_time_for_its_length_is_the_faster_one() {
        let times = FasterWay::new();
        assert_eq!(times.faster(), Way::Apart);
        times.took(Way::Apart, 65_536, Duration::from_micros(10));
        assert_eq!(times.faster(), Way::Apart);
        times.took(Way::InPlace, 4096, Duration::from_nanos(500));
        assert_eq!(times.faster(), Way::InPlace);
        times.took(Way::Apart, 65_536, Duration::from_micros(7));
        assert_eq!(times.faster(), Way::Apart);
        times.took(Way::InPlace, 4096, Duration::from_micros(500));
        assert_eq!(times.faster(), Way::Apart);
    }

    #[test]
    fn both_ways_are_tried_equally_often_and_then_no_more() {
        let times = FasterWay::new();
        let mut tried = [0, 0];
        for _ in 0..TRIALS {
            times.open(SHORTEST, |way| tried[way as usize] += 1);
        }
        assert_eq!(tried, [TRIALS / 2; 2]);
        let least = times.least.each_ref().map(|least| least.load(Relaxed));
        assert!(least.iter().all(|least| *least < u64::MAX));
        times.open(SHORTEST, |way| assert_eq!(way, times.faster()));
        assert_eq!(times.least.each_ref().map(|least| least.load(Relaxed)), least);
    }

    #[test]
    fn short_frames_are_no_trial() {
        let times = FasterWay::new();
        assert_eq!(times.open(SHORTEST - 1, |way| way), Way::Apart);
        assert_eq!(times.trials.load(Relaxed), 0);
    }
}
