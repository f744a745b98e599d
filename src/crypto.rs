//! The cryptography: one interface with two backends that have the same output, the keys of a message, secrets and
//! randomness.
//!
//! No primitive is implemented here. Each backend is complete: [`aws_lc`] uses AWS-LC for everything, and
//! [`rust_crypto`] the RustCrypto crates. Both have the same modules as the interface.

mod aead;
#[cfg(feature = "aws-lc")]
mod aws_lc;
mod digest;
#[cfg(feature = "ecdh")]
pub(crate) mod key_agreement;
mod key_derivation;
mod message_keys;
mod module;
mod random;
#[cfg(feature = "rust-crypto")]
mod rust_crypto;
mod secret;
mod signature;
#[cfg(test)]
mod tests;

pub(crate) use aead::{AesGcm, TagMismatch, WrappingCiphers};
pub(crate) use digest::Digest;
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
pub(crate) use key_derivation::kbkdf;
pub(crate) use message_keys::{Dialect, MessageKeys};
pub(crate) use random::Random;
pub use random::Randomness;
pub use secret::SecretKey;
pub(crate) use signature::{BadSignature, SigningKey, VerifyingKey};

use std::sync::OnceLock;

use zeroize::zeroize_stack;

/// The library that does the cryptography.
///
/// All backends write and read the same format; they differ in speed. For the same keys and random bytes, they write
/// the same bytes, except for signed messages: AWS-LC always uses its own random numbers for signing keys and
/// signatures. Select a backend with [`EnvelopeBuilder::backend`](crate::EnvelopeBuilder::backend).
///
/// RSA is not part of a backend. It always comes from AWS-LC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// [AWS-LC](https://docs.rs/aws-lc-rs), which is several times faster than pure Rust. The default if the feature
    /// `aws-lc` is enabled, which it is by default.
    #[cfg(feature = "aws-lc")]
    AwsLc,
    /// The [RustCrypto](https://docs.rs/aes-gcm) crates, which are pure Rust and need no C compiler. The default if the
    /// feature `aws-lc` is disabled. Needs the feature `rust-crypto`, which is enabled by default.
    #[cfg(feature = "rust-crypto")]
    RustCrypto,
}

impl Backend {
    /// The backends that are compiled in. The first one is the default.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "aws-lc")]
        Self::AwsLc,
        #[cfg(feature = "rust-crypto")]
        Self::RustCrypto,
    ];

    pub(crate) const DEFAULT: Self = Self::ALL[0];
}

/// Returns AWS-LC with the feature `aws-lc`, and otherwise RustCrypto.
impl Default for Backend {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One value for each backend, created on first use.
#[derive(Debug)]
pub(crate) struct PerBackend<T>([OnceLock<T>; Backend::ALL.len()]);

impl<T> PerBackend<T> {
    pub(crate) fn get(&self, backend: Backend, make: impl FnOnce() -> T) -> &T {
        self.0[backend as usize].get_or_init(make)
    }
}

impl<T> Default for PerBackend<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; _])
    }
}

/// Runs `work`, then overwrites the part of the stack that it used, because neither backend wipes all copies of secrets
/// there: expanded keys and the states of HMAC, for example. `LEN` is the number of bytes to overwrite. Each 8 KiB take
/// about 0.1 µs, so short operations choose fewer.
fn with_wiped_stack<const LEN: usize, T>(work: impl FnOnce() -> T) -> T {
    /// Not inlined, so that its stack frame is in the part that is overwritten.
    #[inline(never)]
    fn run<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let result = run(work);
    zeroize_stack::<LEN>();
    result
}

/// Returns whether bytes begin like the encoding of a compressed or uncompressed point (SEC 1, section 2.3.3). The
/// backends differ in the other encodings that they accept.
fn is_point(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(2..=4))
}
