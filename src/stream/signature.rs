//! Signing and verifying a message while it is sealed or opened.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::frame_cipher::BodyCipher;
use crate::{
    crypto::{Backend, Digest, Random, SigningKey, VerifyingKey},
    error::{OpenError, SealError},
    message::{FOOTER_OVERHEAD, FrameHead, write_footer},
    suite::SignatureAlgorithm,
};

/// Signs a message.
#[derive(Debug)]
pub(crate) struct Signer {
    key: Arc<SigningKey>,
    algorithm: SignatureAlgorithm,
    digest: Digest,
    random: Arc<Random>,
}

impl Signer {
    pub(crate) fn new(
        backend: Backend,
        key: Arc<SigningKey>,
        algorithm: SignatureAlgorithm,
        random: Arc<Random>,
    ) -> Self {
        Self { key, algorithm, digest: Digest::new(backend, algorithm.hash()), random }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    pub(super) fn footer_len(&self) -> usize {
        FOOTER_OVERHEAD + self.algorithm.signature_len()
    }

    /// Writes the footer to `out`, which must have its length.
    pub(super) fn finish(self, out: &mut [u8]) -> Result<(), SealError> {
        let signature = self.key.sign(self.algorithm, self.digest, &self.random)?;
        write_footer(&signature, out);
        Ok(())
    }
}

/// Verifies the signature of a message, and withholds the end of the plaintext until the signature is verified.
pub(super) struct SignatureVerifier {
    key: VerifyingKey,
    digest: Digest,
    /// The plaintext of the final frame, or of the non-framed body, once that has been opened.
    withheld: Option<Zeroizing<Vec<u8>>>,
}

impl SignatureVerifier {
    pub(super) fn new(backend: Backend, key: VerifyingKey, algorithm: SignatureAlgorithm) -> Self {
        Self { key, digest: Digest::new(backend, algorithm.hash()), withheld: None }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// Returns the length of the withheld plaintext, or `None` before the end of the body.
    pub(super) fn withheld_len(&self) -> Option<usize> {
        self.withheld.as_ref().map(|plaintext| plaintext.len())
    }

    /// Like [`BodyCipher::open`], but withholds the plaintext of the last frame, and returns 0 for it.
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
        self.withheld = Some(plaintext);
        Ok(0)
    }

    /// Verifies the signature in the footer, writes the withheld plaintext to the start of `out`, and returns its
    /// length.
    pub(super) fn finish(&mut self, footer: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        self.key.verify(self.digest.clone(), &footer[FOOTER_OVERHEAD..]).map_err(|_| OpenError::Signature)?;
        let plaintext = self.withheld.take().unwrap_or_default();
        out[..plaintext.len()].copy_from_slice(&plaintext);
        Ok(plaintext.len())
    }
}
