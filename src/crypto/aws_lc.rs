//! The backend of AWS-LC, with the crate `aws-lc-rs`.

pub(super) mod aead;
pub(super) mod digest;
#[cfg(feature = "ecdh")]
pub(super) mod key_agreement;
pub(super) mod key_derivation;
mod open_strategy;
pub(super) mod signature;

use crate::error::RandomError;

/// Fills `out` with the output of AWS-LC's random number generator.
pub(super) fn fill_random(out: &mut [u8]) -> Result<(), RandomError> {
    aws_lc_rs::rand::fill(out).map_err(random_failed)
}

fn random_failed(error: aws_lc_rs::error::Unspecified) -> RandomError {
    RandomError(error.into())
}
