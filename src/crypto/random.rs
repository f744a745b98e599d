//! The source of random bytes: the operating system, or a generator that the caller provides.

use std::{fmt, sync::Mutex};

use getrandom::SysRng;
use rand_core::{TryCryptoRng, TryRng};

use crate::error::RandomError;

type Fill = Box<dyn FnMut(&mut [u8]) -> Result<(), RandomError> + Send>;

/// A source of random bytes.
#[derive(Default)]
pub(crate) enum Random {
    /// The operating system's generator.
    #[default]
    System,
    /// The caller's generator, for example a seeded one in a test.
    Given(Mutex<Fill>),
}

impl Random {
    pub(crate) fn given<R: TryCryptoRng + Send + 'static>(mut rng: R) -> Self
    where
        R::Error: Send + Sync + 'static,
    {
        Self::Given(Mutex::new(Box::new(move |out| rng.try_fill_bytes(out).map_err(|error| RandomError(error.into())))))
    }

    pub(crate) fn fill(&self, out: &mut [u8]) -> Result<(), RandomError> {
        match self {
            Self::System => SysRng.try_fill_bytes(out).map_err(|error| RandomError(error.into())),
            // A generator that has panicked may be in any state, so it is not used again.
            Self::Given(fill) => fill.lock().map_err(|_| RandomError("an earlier call panicked".into()))?(out),
        }
    }
}

/// A source of random bytes, which each request to a key provider contains.
///
/// It is the operating system's generator by default, or the generator passed to
/// [`EnvelopeBuilder::rng`](crate::EnvelopeBuilder::rng).
#[derive(Clone, Copy)]
pub struct Randomness<'a>(pub(crate) &'a Random);

impl Randomness<'_> {
    /// Fills `out` with random bytes.
    ///
    /// # Errors
    /// Returns [`RandomError`] if the source fails. The contents of `out` are then unspecified.
    pub fn fill(&self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill(out)
    }
}

impl Default for Randomness<'_> {
    fn default() -> Self {
        static SYSTEM: Random = Random::System;
        Self(&SYSTEM)
    }
}

impl fmt::Debug for Randomness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Adapts [`Random`] to the generator traits of `rand_core`.
pub(crate) struct Rng<'a>(pub(crate) &'a Random);

impl TryRng for Rng<'_> {
    type Error = RandomError;

    fn try_next_u32(&mut self) -> Result<u32, RandomError> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, RandomError> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill(out)
    }
}

impl TryCryptoRng for Rng<'_> {}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "Random::System",
            Self::Given(_) => "Random::Given",
        })
    }
}
