//! SHA-2, computed incrementally.

use std::fmt;

use super::Backend;
#[cfg(feature = "aws-lc")]
use super::aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto;
use crate::suite::HashAlgorithm;

/// A digest that is being computed.
#[derive(Clone)]
pub(crate) enum Digest {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::digest::Digest),
    #[cfg(feature = "rust-crypto")]
    RustCrypto(rust_crypto::digest::Digest),
}

impl Digest {
    pub(crate) fn new(backend: Backend, algorithm: HashAlgorithm) -> Self {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::digest::start(algorithm)),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::digest::Digest::new(algorithm)),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(digest) => digest.update(bytes),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(digest) => digest.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(digest) => digest.finish().as_ref().to_vec(),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(digest) => digest.finish(),
        }
    }
}

/// Omits the state.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}
