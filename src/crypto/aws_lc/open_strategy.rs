//! Measures which of two strategies for opening a frame is faster.
//!
//! The result depends on the processor and on the frame's length. On AMD Zen 4, opening out of place is twice as fast as
//! copying and then opening in place. On Zen 5, copying first is 1.5 times as fast. Both have the same output, so a
//! wrong choice only costs time.
//!
//! Each class of frame lengths is measured separately. A measurement may be wrong, for example because the caches were
//! cold, so it is repeated: soon at first, then once every thousand frames.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::events;

/// A strategy for opening a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Opens from one buffer into the other.
    OutOfPlace,
    /// Copies the ciphertext to the other buffer and opens it there.
    CopyFirst,
}

use Strategy::{CopyFirst, OutOfPlace};

/// The shortest frames of each class of frame lengths. Even shorter frames are not measured: their times depend little
/// on the strategy.
const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// The number of frames in a round of measurements, half of them with each strategy.
const TRIALS: u32 = 16;

/// The number of frames that a thread opens before it starts another round: after the first round, the second, and any
/// later one. These are prime numbers, so that a pattern of frame lengths does not always meet the same class.
const INTERVALS: [u32; 3] = [61, 251, 1021];

thread_local! {
    /// The number of frames that this thread has opened since a round was last due. Per thread, because a counter
    /// that all threads write to would slow them down.
    static FRAMES: Cell<u32> = const { Cell::new(0) };
}

/// The measurements and choices for all classes.
pub(super) struct OpenStrategy {
    classes: [Class; CLASSES.len()],
    now: fn() -> Instant,
}

/// The measurements of the current round, and the choice, for one class.
struct Class {
    /// The number of measurements that have begun in this round.
    begun: AtomicU32,
    /// The number of measurements that have ended in this round.
    ended: AtomicU32,
    /// The shortest time per KiB of each strategy in this round, in picoseconds. The minimum, because other load only
    /// adds to it.
    least: [AtomicU64; 2],
    /// The number of rounds that have ended.
    rounds: AtomicU32,
    /// The chosen strategy.
    choice: AtomicU32,
}

impl OpenStrategy {
    pub(super) const fn new(now: fn() -> Instant) -> Self {
        Self { classes: [const { Class::new() }; CLASSES.len()], now }
    }

    /// Opens a frame of this length with the faster strategy, or with the next one to measure.
    pub(super) fn open<T>(&self, len: usize, open: impl FnOnce(Strategy) -> T) -> T {
        let Some(index) = CLASSES.iter().rposition(|shortest| len >= *shortest) else {
            return open(self.classes[0].choice());
        };
        let class = &self.classes[index];
        let Some(strategy) = class.next_trial() else {
            return open(class.choice());
        };
        let start = (self.now)();
        let opened = open(strategy);
        let time = (self.now)().duration_since(start);
        if class.record(strategy, len, time) == TRIALS {
            class.choose(CLASSES[index]);
        }
        opened
    }
}

impl Class {
    const fn new() -> Self {
        Self {
            begun: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            least: [const { AtomicU64::new(u64::MAX) }; 2],
            rounds: AtomicU32::new(0),
            choice: AtomicU32::new(OutOfPlace as u32),
        }
    }

    fn choice(&self) -> Strategy {
        if self.choice.load(Relaxed) == CopyFirst as u32 { CopyFirst } else { OutOfPlace }
    }

    /// Returns the strategy to measure, or `None` if it is not time to measure.
    fn next_trial(&self) -> Option<Strategy> {
        let interval = INTERVALS[(self.rounds.load(Relaxed) as usize).clamp(1, INTERVALS.len()) - 1];
        let frames = FRAMES.get() + 1;
        let is_due = frames >= interval;
        FRAMES.set(if is_due { 0 } else { frames });
        if self.begun.load(Relaxed) >= TRIALS {
            if !is_due {
                return None;
            }
            // If several threads do this at once, some measurements are lost.
            self.least.iter().for_each(|least| least.store(u64::MAX, Relaxed));
            self.ended.store(0, Relaxed);
            self.begun.store(0, Relaxed);
        }
        let trial = self.begun.fetch_add(1, Relaxed);
        // The order of Thue and Morse is not periodic, so neither strategy gets all the short frames if lengths repeat.
        (trial < TRIALS).then_some(if trial.count_ones().is_multiple_of(2) { OutOfPlace } else { CopyFirst })
    }

    /// Returns the number of measurements that have ended.
    fn record(&self, strategy: Strategy, len: usize, time: Duration) -> u32 {
        let picoseconds = time.as_nanos().saturating_mul(1000 * 1024) / len as u128;
        self.least[strategy as usize].fetch_min(u64::try_from(picoseconds).unwrap_or(u64::MAX), Relaxed);
        self.ended.fetch_add(1, Relaxed) + 1
    }

    /// Ends a round. The choice changes only if the other strategy is faster by more than 5%, so that noise does not
    /// change it all the time.
    fn choose(&self, frame_len: usize) {
        let least = self.least.each_ref().map(|least| least.load(Relaxed));
        let before = self.choice();
        let other = if before == OutOfPlace { CopyFirst } else { OutOfPlace };
        let is_other_faster = least[other as usize] < least[before as usize] / 20 * 19;
        let strategy = if is_other_faster { other } else { before };
        self.choice.store(strategy as u32, Relaxed);
        if self.rounds.fetch_add(1, Relaxed) == 0 || is_other_faster {
            // 1 KiB in this many picoseconds.
            let [out_of_place_mb_per_s, copy_first_mb_per_s] = least.map(|least| 1_024_000_000 / least.max(1));
            events::debug!(
                frame_len,
                ?strategy,
                out_of_place_mb_per_s,
                copy_first_mb_per_s,
                "the faster strategy for opening frames"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static START: Instant = Instant::now();
        static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn now() -> Instant {
        START.with(|start| *start) + ELAPSED.get()
    }

    /// Opens frames of this length, each of which takes this many nanoseconds. Returns how many frames each strategy
    /// opened.
    fn open(times: &OpenStrategy, len: usize, frames: usize, nanoseconds: impl Fn(usize, Strategy) -> u64) -> [u32; 2] {
        let mut opened = [0; 2];
        for frame in 0..frames {
            let strategy = times.open(len, |strategy| {
                ELAPSED.set(ELAPSED.get() + Duration::from_nanos(nanoseconds(frame, strategy)));
                strategy
            });
            opened[strategy as usize] += 1;
        }
        opened
    }

    /// The times of a processor on which this strategy is faster.
    fn faster(best: Strategy) -> impl Fn(usize, Strategy) -> u64 {
        move |_, strategy| if strategy == best { 10_000 } else { 15_000 }
    }

    fn choice(times: &OpenStrategy, len: usize) -> Strategy {
        times.classes[CLASSES.iter().rposition(|shortest| len >= *shortest).unwrap()].choice()
    }

    const BOTH: [Strategy; 2] = [OutOfPlace, CopyFirst];

    #[test]
    fn the_faster_strategy_is_chosen_after_one_round_and_opens_99_percent_of_all_frames() {
        for best in BOTH {
            for len in [4096, 65_536, 16 << 20] {
                let times = OpenStrategy::new(now);
                assert_eq!(open(&times, len, TRIALS as usize, faster(best)), [TRIALS / 2; 2]);
                assert_eq!(choice(&times, len), best);
                open(&times, len, 2000, faster(best));
                let opened = open(&times, len, 100_000, faster(best));
                assert!(opened[best as usize] >= 99_000, "{opened:?}");
            }
        }
    }

    #[test]
    fn cold_caches_at_the_start_do_not_decide() {
        for best in BOTH {
            for slow in BOTH {
                for cold in 0..=TRIALS as usize {
                    let times = OpenStrategy::new(now);
                    let warm = faster(best);
                    let time =
                        |frame, strategy| warm(frame, strategy) * if frame < cold && strategy == slow { 10 } else { 1 };
                    open(&times, 65_536, 2 * TRIALS as usize + INTERVALS[0] as usize, time);
                    assert_eq!(choice(&times, 65_536), best, "{slow:?} {cold}");
                    // All measurements that the caches can affect, of either strategy.
                    let times = OpenStrategy::new(now);
                    let time = |frame, strategy| warm(frame, strategy) * if frame < cold { 10 } else { 1 };
                    open(&times, 65_536, 2 * TRIALS as usize + INTERVALS[0] as usize, time);
                    assert_eq!(choice(&times, 65_536), best, "{cold}");
                }
            }
        }
    }

    #[test]
    fn frames_of_another_length_at_the_start_do_not_decide() {
        for best in BOTH {
            let times = OpenStrategy::new(now);
            let other = BOTH[1 - best as usize];
            open(&times, 4096, 2000, faster(other));
            open(&times, 65_536, TRIALS as usize, faster(best));
            assert_eq!((choice(&times, 4096), choice(&times, 65_536)), (other, best));
        }
    }

    #[test]
    fn a_choice_that_is_no_longer_right_changes_in_every_class_even_if_lengths_alternate() {
        let times = OpenStrategy::new(now);
        let lens = [65_536, 4096];
        for best in [CopyFirst, OutOfPlace, CopyFirst] {
            for _ in 0..6 * INTERVALS[2] {
                for len in lens {
                    open(&times, len, 1, faster(best));
                }
            }
            assert_eq!(lens.map(|len| choice(&times, len)), [best; 2]);
        }
    }

    #[test]
    fn noise_changes_the_choice_rarely() {
        for best in BOTH {
            let times = OpenStrategy::new(now);
            let state = Cell::new(1u64);
            let time = |frame, strategy| {
                state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
                let random = state.get() >> 33;
                // Up to 100% more, and every tenth frame is interrupted.
                let noise = random % 100 + if random.is_multiple_of(10) { 1000 } else { 0 };
                faster(best)(frame, strategy) * (100 + noise) / 100
            };
            let opened = open(&times, 65_536, 100_000, time);
            assert!(opened[best as usize] >= 97_000, "{best:?} {opened:?}");
        }
    }

    #[test]
    fn short_frames_are_not_measured() {
        let times = OpenStrategy::new(|| unreachable!("a measurement"));
        assert_eq!(times.open(CLASSES[0] - 1, |strategy| strategy), OutOfPlace);
    }
}
