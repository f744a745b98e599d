//! The signature of a message, made and verified as the message passes.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{
    crypto::{MessageDigest, Random, SigningKey, VerifyingKey},
    error::{OpenError, SealError},
    message::{FOOTER_OVERHEAD, Parsed, parse_footer, write_footer},
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

/// Verifies the signature of the bytes that it is given, and keeps the end of the plaintext back until then.
#[derive(Debug)]
pub(crate) struct SignatureCheck {
    key: VerifyingKey,
    digest: MessageDigest,
    /// The plaintext of the final frame, or of the whole body without frames.
    pub(super) kept_back: KeptBack,
}

/// Plaintext that nobody is given before the signature has been verified.
#[derive(Default)]
pub(super) struct KeptBack(pub(super) Zeroizing<Vec<u8>>);

impl KeptBack {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for KeptBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptBack({} bytes)", self.0.len())
    }
}

impl SignatureCheck {
    pub(crate) fn new(key: VerifyingKey, algorithm: SignatureAlgorithm) -> Self {
        Self { key, digest: MessageDigest::new(algorithm), kept_back: KeptBack::default() }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// Verifies the footer at the start of `bytes`, and gives its length.
    pub(super) fn verify(&mut self, bytes: &[u8]) -> Result<Parsed<usize>, OpenError> {
        let signature = match parse_footer(bytes) {
            Parsed::Complete(signature) => signature,
            Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
        };
        self.key.verify(self.digest.clone(), signature).map_err(|_| OpenError::Signature)?;
        Ok(Parsed::Complete(FOOTER_OVERHEAD + signature.len()))
    }
}
