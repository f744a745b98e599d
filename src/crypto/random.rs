//! The source of random bytes: the backend's generator, or one that the caller provides.

use std::{fmt, sync::Mutex};

use rand_core::TryCryptoRng;

use super::Backend;
#[cfg(feature = "aws-lc")]
use super::aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto;
use crate::error::RandomError;

type Fill = Box<dyn FnMut(&mut [u8]) -> Result<(), RandomError> + Send>;

/// The maximum number of random candidates for a key or a signature. At least half of them are accepted, so a generator
/// that is random never fails.
pub(super) const MAX_TRIES: usize = 128;

/// A source of random bytes.
pub(crate) enum Random {
    /// The generator of this backend: AWS-LC's own, or the operating system's.
    System(Backend),
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

    /// Fills `candidate` with random bytes until `accept` returns a value.
    #[cfg(any(feature = "ecdh", feature = "rust-crypto"))]
    pub(super) fn try_candidates<T>(
        &self,
        candidate: &mut [u8],
        mut accept: impl FnMut(&mut [u8]) -> Option<T>,
    ) -> Result<T, RandomError> {
        for _ in 0..MAX_TRIES {
            self.fill(candidate)?;
            if let Some(accepted) = accept(candidate) {
                return Ok(accepted);
            }
        }
        Err(RandomError::repeats())
    }

    pub(crate) fn fill(&self, out: &mut [u8]) -> Result<(), RandomError> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::System(Backend::AwsLc) => aws_lc::fill_random(out),
            #[cfg(feature = "rust-crypto")]
            Self::System(Backend::RustCrypto) => rust_crypto::fill_random(out),
            // A generator that has panicked may be in any state, so it is not used again.
            Self::Given(fill) => fill.lock().map_err(|_| RandomError("an earlier call panicked".into()))?(out),
        }
    }
}

/// A source of random bytes, which each request to a key provider contains.
///
/// It is the generator of the envelope's [`Backend`], or the one passed to
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

/// Returns the generator of the default backend.
impl Default for Randomness<'_> {
    fn default() -> Self {
        static DEFAULT: Random = Random::System(Backend::DEFAULT);
        Self(&DEFAULT)
    }
}

impl fmt::Debug for Randomness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(backend) => write!(f, "Random::System({backend:?})"),
            Self::Given(_) => f.write_str("Random::Given"),
        }
    }
}
