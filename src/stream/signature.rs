//! Signing and verifying a message while it is sealed or opened.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    Threads,
    frame_cipher::{BodyCipher, FrameCipher},
    hashing::Hasher,
};
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
    hasher: Hasher,
    random: Arc<Random>,
}

impl Signer {
    pub(crate) fn new(
        backend: Backend,
        key: Arc<SigningKey>,
        algorithm: SignatureAlgorithm,
        random: Arc<Random>,
        threads: &Threads,
    ) -> Self {
        let hasher = Hasher::new(Digest::new(backend, algorithm.hash()), threads);
        Self { key, algorithm, hasher, random }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Like [`FrameCipher::seal_all`], and signs the frames.
    pub(super) fn seal_all(
        &mut self,
        cipher: &FrameCipher,
        mut sequence: u32,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> usize {
        let frames = frames_at_once(cipher);
        let mut written = 0;
        for batch in plaintext.chunks(frames * cipher.frame_len()) {
            let sealed = written..written + cipher.seal_all(sequence, batch, &mut out[written..]);
            written = sealed.end;
            self.update(&out[sealed]);
            // The caller has checked that it fits.
            sequence += u32::try_from(batch.len() / cipher.frame_len()).unwrap_or(0);
        }
        written
    }

    pub(super) fn footer_len(&self) -> usize {
        FOOTER_OVERHEAD + self.algorithm.signature_len()
    }

    /// Writes the footer to `out`, which must have its length.
    pub(super) fn finish(self, out: &mut [u8]) -> Result<(), SealError> {
        let signature = self.key.sign(self.algorithm, self.hasher.finish(), &self.random)?;
        write_footer(&signature, out);
        Ok(())
    }
}

/// Verifies the signature of a message, and withholds the end of the plaintext until the signature is verified.
pub(super) struct SignatureVerifier {
    key: VerifyingKey,
    hasher: Hasher,
    /// The plaintext of the final frame, or of the non-framed body, once that has been opened.
    withheld: Option<Zeroizing<Vec<u8>>>,
}

impl SignatureVerifier {
    pub(super) fn new(backend: Backend, key: VerifyingKey, algorithm: SignatureAlgorithm, threads: &Threads) -> Self {
        Self { key, hasher: Hasher::new(Digest::new(backend, algorithm.hash()), threads), withheld: None }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Returns the length of the withheld plaintext, or `None` before the end of the body.
    pub(super) fn withheld_len(&self) -> Option<usize> {
        self.withheld.as_ref().map(|plaintext| plaintext.len())
    }

    /// Like [`FrameCipher::open_all`].
    pub(super) fn open_all(
        &mut self,
        cipher: &FrameCipher,
        mut sequence: u32,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        let mut opened = 0;
        for batch in sealed.chunks(frames_at_once(cipher) * cipher.sealed_frame_len()) {
            self.update(batch);
            let frames = cipher.open_all(sequence, batch, &mut out[opened * cipher.frame_len()..])?;
            opened += frames;
            // The caller has checked that it fits.
            sequence += u32::try_from(frames).unwrap_or(0);
        }
        Ok(opened)
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
    pub(super) fn finish(self, footer: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let digest = self.hasher.finish();
        self.key.verify(digest, &footer[FOOTER_OVERHEAD..]).map_err(|_| OpenError::Signature)?;
        let plaintext = self.withheld.unwrap_or_default();
        out[..plaintext.len()].copy_from_slice(&plaintext);
        Ok(plaintext.len())
    }
}

/// The number of frames that are sealed or opened before or after they are hashed.
fn frames_at_once(cipher: &FrameCipher) -> usize {
    (cipher.threads().batch_len() / cipher.sealed_frame_len()).max(1)
}
