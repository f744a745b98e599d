//! AES-GCM and HKDF by AWS-LC.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};

use super::{IV_LEN, TAG_LEN, TagMismatch};
use crate::suite::HashAlgorithm;

pub(crate) struct AesGcm(LessSafeKey);

impl AesGcm {
    pub(super) fn new(key: &[u8]) -> Self {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            _ => &AES_256_GCM,
        };
        Self(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a secret key has a length of AES")))
    }

    pub(super) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) {
        self.0
            .seal_out_of_place_scatter(Nonce::from(iv), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .expect("a frame is shorter than GCM's limit of 64 GiB");
    }

    /// Copies and opens in place: AWS-LC's opening from one buffer into another takes nearly twice as long.
    pub(super) fn open(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), TagMismatch> {
        out.copy_from_slice(ciphertext);
        let opened = self.0.open_in_place_separate_tag(Nonce::from(iv), Aad::from(aad), tag, out);
        if opened.is_err() {
            out.fill(0);
            return Err(TagMismatch);
        }
        Ok(())
    }
}

impl fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesGcm(AWS-LC)")
    }
}

struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

pub(super) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [(&[&[u8]], &mut [u8])]) {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hkdf::HKDF_SHA256,
        HashAlgorithm::Sha384 => hkdf::HKDF_SHA384,
        HashAlgorithm::Sha512 => hkdf::HKDF_SHA512,
    };
    let extracted = hkdf::Salt::new(algorithm, salt).extract(input);
    for (info, output) in outputs {
        extracted
            .expand(info, OutputLen(output.len()))
            .and_then(|expanded| expanded.fill(output))
            .expect("no output is longer than 255 hashes");
    }
}
