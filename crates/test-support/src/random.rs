use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use chacha20::ChaCha8Rng;
use rand_core::{Rng, SeedableRng, TryCryptoRng, TryRng};

/// Returns a generator that gives the same bytes each time for a seed: ChaCha8.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Returns test data: `len` bytes, the same each time. A shorter result is the start of a longer one.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng(0).fill_bytes(&mut bytes);
    bytes
}

/// A generator that works until it is told to fail. Its clones fail with it.
#[derive(Clone, Debug)]
pub struct FailingRng(Arc<(Mutex<ChaCha8Rng>, AtomicBool)>);

impl FailingRng {
    /// Returns a generator that works, for now.
    #[expect(clippy::new_without_default, reason = "nothing needs a default")]
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(rng(0)), AtomicBool::new(false))))
    }

    /// Makes every later call fail.
    pub fn fail(&self) {
        self.0.1.store(true, Ordering::SeqCst);
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
        if self.0.1.load(Ordering::SeqCst) {
            return Err(io::Error::other("no randomness"));
        }
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(out);
        Ok(())
    }
}

impl TryCryptoRng for FailingRng {}
