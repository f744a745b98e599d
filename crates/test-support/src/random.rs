use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use chacha20::ChaCha8Rng;
use rand_core::{Rng, SeedableRng, TryCryptoRng, TryRng};

/// Returns a ChaCha8 generator, which produces the same bytes each time for a seed.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Returns test data: `len` bytes, the same each time. A shorter result is the start of a longer one.
pub fn plaintext(len: usize) -> Vec<u8> {
    let mut plaintext = vec![0; len];
    rng(0).fill_bytes(&mut plaintext);
    plaintext
}

/// The operating system's random generator, which fails after a number of calls. Clones share the count.
#[derive(Clone, Debug)]
pub struct FailingRng(Arc<AtomicUsize>);

impl FailingRng {
    /// Returns a generator that works for this many calls.
    pub fn after(calls: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(calls)))
    }

    /// Makes every later call fail.
    pub fn fail(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

impl TryRng for FailingRng {
    type Error = io::Error;

    fn try_next_u32(&mut self) -> io::Result<u32> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> io::Result<u64> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |calls| calls.checked_sub(1));
        left.map_err(|_| io::Error::other("no randomness"))?;
        getrandom::fill(out).map_err(io::Error::other)
    }
}

impl TryCryptoRng for FailingRng {}

/// A generator that returns the same bytes in each call. In a call for several message ids of 32 bytes, the fourth one is
/// the same as the second.
#[derive(Clone, Copy, Debug)]
pub struct RepeatingRng;

impl TryRng for RepeatingRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        (0..).zip(out.chunks_mut(32)).for_each(|(number, id)| id.fill(if number == 3 { 1 } else { number }));
        Ok(())
    }
}

impl TryCryptoRng for RepeatingRng {}
