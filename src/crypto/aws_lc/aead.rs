//! AES-GCM by AWS-LC.

use std::{fmt, time::Instant};

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, RandomizedNonceKey, UnboundKey},
    error::Unspecified,
};

use super::{
    open_strategy::{OpenStrategy, Strategy},
    random_failed,
};
use crate::{
    crypto::TagMismatch,
    error::RandomError,
    suite::{IV_LEN, TAG_LEN},
};

static OPEN_STRATEGY: OpenStrategy = OpenStrategy::new(Instant::now);

pub(crate) struct AesGcm(LessSafeKey);

impl AesGcm {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(algorithm(key), key).expect("a secret key has an AES key length")))
    }

    pub(crate) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) {
        self.0
            .seal_out_of_place_scatter(Nonce::from(iv), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .expect("a frame is shorter than GCM's limit of 64 GiB");
    }

    pub(crate) fn open(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let (nonce, aad) = (Nonce::from(iv), Aad::from(aad));
        let opened = OPEN_STRATEGY.open(ciphertext.len(), |strategy| match strategy {
            Strategy::OutOfPlace => self.0.open_separate_gather(nonce, aad, ciphertext, tag, out),
            Strategy::CopyFirst => {
                out.copy_from_slice(ciphertext);
                self.0.open_in_place_separate_tag(nonce, aad, tag, out).map(drop)
            }
        });
        if opened.is_err() {
            out.fill(0);
            return Err(TagMismatch);
        }
        Ok(())
    }

    #[cfg(feature = "stream")]
    pub(crate) fn open_in_place(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), TagMismatch> {
        let (nonce, aad) = (Nonce::from(iv), Aad::from(aad));
        self.0.open_in_place_separate_tag(nonce, aad, tag, buffer).map(drop).map_err(|_| TagMismatch)
    }
}

fn algorithm(key: &[u8]) -> &'static Algorithm {
    match key.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        _ => &AES_256_GCM,
    }
}

/// AES-GCM with IVs that AWS-LC generates inside its module.
#[derive(Debug)]
pub(crate) struct RandomIvAesGcm(RandomizedNonceKey);

impl RandomIvAesGcm {
    /// Returns whether AWS-LC supports a key of this length here.
    pub(crate) fn supports(key: &[u8]) -> bool {
        key.len() != 24
    }

    pub(crate) fn new(key: &[u8]) -> Self {
        Self(RandomizedNonceKey::new(algorithm(key), key).expect("a secret key has an AES key length"))
    }

    /// Encrypts `buffer` in place, and returns the IV and the tag.
    pub(crate) fn seal(&self, aad: &[u8], buffer: &mut [u8]) -> Result<([u8; IV_LEN], [u8; TAG_LEN]), RandomError> {
        let (iv, tag) = self.0.seal_in_place_separate_tag(Aad::from(aad), buffer).map_err(random_failed)?;
        let tag = tag.as_ref().try_into().map_err(|_| random_failed(Unspecified))?;
        Ok((*iv.as_ref(), tag))
    }
}

impl fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesGcm(AWS-LC)")
    }
}
