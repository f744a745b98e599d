//! AES-GCM by AWS-LC.

pub(super) mod ecdsa;
mod open_strategy;

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use self::open_strategy::{OpenStrategy, Strategy};
use super::{IV_LEN, TAG_LEN, TagMismatch};

static OPEN_STRATEGY: OpenStrategy = OpenStrategy::new();

pub(crate) struct AesGcm(LessSafeKey);

impl AesGcm {
    pub(super) fn new(key: &[u8]) -> Self {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            _ => &AES_256_GCM,
        };
        Self(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a secret key has an AES key length")))
    }

    pub(super) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) {
        self.0
            .seal_out_of_place_scatter(Nonce::from(iv), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .expect("a frame is shorter than GCM's limit of 64 GiB");
    }

    pub(super) fn open(
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
    pub(super) fn open_in_place(
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

impl fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesGcm(AWS-LC)")
    }
}
