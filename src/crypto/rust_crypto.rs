//! The backend of the RustCrypto crates, which are pure Rust.

pub(super) mod aead;
pub(super) mod digest;
#[cfg(feature = "ecdh")]
pub(super) mod key_agreement;
pub(super) mod key_derivation;
pub(super) mod signature;

use getrandom::SysRng;
use rand_core::{TryCryptoRng, TryRng};

use super::Random;
use crate::error::RandomError;

/// Fills `out` with random bytes from the operating system.
pub(super) fn fill_random(out: &mut [u8]) -> Result<(), RandomError> {
    SysRng.try_fill_bytes(out).map_err(|error| RandomError(error.into()))
}

/// Adapts [`Random`] to the generator traits of `rand_core`.
struct Rng<'a>(&'a Random);

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
