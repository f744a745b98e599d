//! The signature of a message, made and verified as the message passes.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::frame_cipher::BodyCipher;
use crate::{
    crypto::{MessageDigest, Random, SigningKey, VerifyingKey},
    error::{OpenError, SealError},
    message::{FOOTER_OVERHEAD, FrameHead, write_footer},
    suite::SignatureAlgorithm,
};

/// Signs the bytes that it is given.
#[derive(Debug)]
pub(crate) struct Signer {
    key: Arc<SigningKey>,
    algorithm: SignatureAlgorithm,
    digest: MessageDigest,
    random: Arc<Random>,
}

impl Signer {
    pub(crate) fn new(key: Arc<SigningKey>, algorithm: SignatureAlgorithm, random: Arc<Random>) -> Self {
        Self { key, algorithm, digest: MessageDigest::new(algorithm), random }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    pub(super) fn footer_len(&self) -> usize {
        FOOTER_OVERHEAD + self.algorithm.signature_len()
    }

    /// Writes the footer to `out`, which has its length.
    pub(super) fn finish(self, out: &mut [u8]) -> Result<(), SealError> {
        let signature = self.key.sign(self.algorithm, self.digest, &self.random)?;
        write_footer(&signature, out);
        Ok(())
    }
}

/// Verifies the signature of the bytes that it is given, and holds the end of the plaintext back until then.
pub(super) struct SignatureGate {
    key: VerifyingKey,
    digest: MessageDigest,
    /// The plaintext of the final frame, or of the block, once that has been opened.
    kept_back: Option<Zeroizing<Vec<u8>>>,
}

impl SignatureGate {
    pub(super) fn new(key: VerifyingKey, algorithm: SignatureAlgorithm) -> Self {
        Self { key, digest: MessageDigest::new(algorithm), kept_back: None }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The length of the plaintext that is held back. Nothing, while the body has not ended; after that, the footer is
    /// due.
    pub(super) fn kept_back_len(&self) -> Option<usize> {
        self.kept_back.as_ref().map(|plaintext| plaintext.len())
    }

    /// Opens a frame or block, as [`BodyCipher::open`] does. The last one is held back, and nothing is written.
    pub(super) fn open(
        &mut self,
        cipher: &BodyCipher,
        head: &FrameHead,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        self.update(frame);
        if !head.is_last() {
            return cipher.open(head, frame, out);
        }
        let mut plaintext = Zeroizing::new(vec![0; head.content_len]);
        cipher.open(head, frame, &mut plaintext)?;
        self.kept_back = Some(plaintext);
        Ok(0)
    }

    /// Verifies the signature in the footer, and writes what was held back to the start of `out`. Gives its length.
    pub(super) fn open_end(&mut self, footer: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        self.key.verify(self.digest.clone(), &footer[FOOTER_OVERHEAD..]).map_err(|_| OpenError::Signature)?;
        let plaintext = self.kept_back.take().unwrap_or_default();
        out[..plaintext.len()].copy_from_slice(&plaintext);
        Ok(plaintext.len())
    }
}
