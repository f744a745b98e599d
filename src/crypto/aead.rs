//! AES-GCM.

#[cfg(feature = "aws-lc")]
use std::sync::OnceLock;

#[cfg(feature = "aws-lc")]
use super::aws_lc::aead as aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto::aead as rust_crypto;
use super::{Backend, PerBackend, Random, with_wiped_stack};
use crate::{
    error::RandomError,
    suite::{IV_LEN, TAG_LEN},
};

/// An authentication tag does not match.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TagMismatch;

/// AES-GCM with a key of 16, 24 or 32 bytes, 12-byte IVs and 16-byte tags.
#[derive(Debug)]
pub(crate) enum AesGcm {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::AesGcm),
    #[cfg(feature = "rust-crypto")]
    RustCrypto(rust_crypto::AesGcm),
}

impl AesGcm {
    /// Creates a cipher. `key` must have an AES key length.
    pub(crate) fn new(backend: Backend, key: &[u8]) -> Self {
        with_wiped_stack::<8_192, _>(|| Self::new_unwiped(backend, key))
    }

    /// Like [`new`](Self::new), but leaves the key on the stack.
    pub(super) fn new_unwiped(backend: Backend, key: &[u8]) -> Self {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::AesGcm::new(key)),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::AesGcm::new(key)),
        }
    }

    /// Writes the ciphertext and the tag to `out`, which must be exactly as long as both.
    pub(crate) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.seal(iv, aad, plaintext, ciphertext, tag),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.seal(iv, aad, plaintext, ciphertext, tag),
        }
    }

    /// Decrypts `sealed`, a ciphertext and its tag, to `out`, which must be exactly as long as the plaintext. On error,
    /// `out` contains no plaintext.
    pub(crate) fn open(&self, iv: &[u8; IV_LEN], aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), TagMismatch> {
        let (ciphertext, tag) = sealed.split_last_chunk().ok_or(TagMismatch)?;
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.open(iv, aad, ciphertext, tag, out),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.open(iv, aad, ciphertext, tag, out),
        }
    }

    /// Like [`open`](Self::open), but writes the plaintext to the start of `sealed`. On error, zeroizes `sealed`.
    #[cfg(feature = "stream")]
    pub(crate) fn open_in_place(&self, iv: &[u8; IV_LEN], aad: &[u8], sealed: &mut [u8]) -> Result<(), TagMismatch> {
        let (buffer, tag) = sealed.split_last_chunk_mut().ok_or(TagMismatch)?;
        let opened = match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.open_in_place(iv, aad, buffer, tag),
            #[cfg(feature = "rust-crypto")]
            Self::RustCrypto(key) => key.open_in_place(iv, aad, buffer, tag),
        };
        if opened.is_err() {
            sealed.fill(0);
        }
        opened
    }
}

/// AES-GCM for data keys, each with a random IV: the ciphers of one wrapping key, which are created on first use. All
/// calls must pass the same key, which must have an AES key length.
#[derive(Debug, Default)]
pub(crate) struct WrappingCiphers {
    ciphers: PerBackend<AesGcm>,
    /// Generates the IV inside AWS-LC's module.
    #[cfg(feature = "aws-lc")]
    random_iv: OnceLock<aws_lc::RandomIvAesGcm>,
}

impl WrappingCiphers {
    /// Encrypts a data key. Returns the IV, and the ciphertext with its tag.
    pub(crate) fn wrap(
        &self,
        backend: Backend,
        key: &[u8],
        random: &Random,
        aad: &[u8],
        data_key: &[u8],
    ) -> Result<([u8; IV_LEN], Vec<u8>), RandomError> {
        let mut wrapped = vec![0; data_key.len() + TAG_LEN];
        #[cfg(feature = "aws-lc")]
        if let (Backend::AwsLc, Random::System(_)) = (backend, random)
            && aws_lc::RandomIvAesGcm::supports(key)
        {
            let make = || with_wiped_stack::<8_192, _>(|| aws_lc::RandomIvAesGcm::new(key));
            let (buffer, tag) = wrapped.split_at_mut(data_key.len());
            buffer.copy_from_slice(data_key);
            let sealed = self.random_iv.get_or_init(make).seal(aad, buffer);
            if sealed.is_err() {
                zeroize::Zeroize::zeroize(buffer);
            }
            let (iv, sealed_tag) = sealed?;
            tag.copy_from_slice(&sealed_tag);
            return Ok((iv, wrapped));
        }
        let mut iv = [0; IV_LEN];
        random.fill(&mut iv)?;
        self.cipher(backend, key).seal(&iv, aad, data_key, &mut wrapped);
        Ok((iv, wrapped))
    }

    /// Returns the cipher to decrypt with.
    pub(crate) fn cipher(&self, backend: Backend, key: &[u8]) -> &AesGcm {
        self.ciphers.get(backend, || AesGcm::new(backend, key))
    }
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use super::*;

    #[test]
    fn aws_lc_generates_the_iv_of_a_data_key_in_its_module_where_it_can() {
        for (len, in_module) in [(16, true), (24, false), (32, true)] {
            let ciphers = WrappingCiphers::default();
            let key = &vec![7; len];
            let random = Random::System(Backend::AwsLc);
            ciphers.wrap(Backend::AwsLc, key, &random, b"", b"data key").unwrap();
            assert_eq!(ciphers.random_iv.get().is_some(), in_module, "{len}");
            assert_eq!(ciphers.ciphers.0[Backend::AwsLc as usize].get().is_none(), in_module, "{len}");
        }
    }
}
