//! AES-GCM by the RustCrypto crates.

pub(super) mod ecdsa;

use std::fmt;

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{consts::U12, inout::InOutBuf},
    aes::Aes192,
};

use super::{IV_LEN, TAG_LEN, TagMismatch};

/// Boxed, since the expanded keys are about a kilobyte and would be copied with every move.
pub(crate) enum AesGcm {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<aes_gcm::AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

fn expand<A: KeyInit>(key: &[u8]) -> Box<A> {
    Box::new(A::new_from_slice(key).expect("a secret key has a length of AES"))
}

impl AesGcm {
    pub(super) fn new(key: &[u8]) -> Self {
        match key.len() {
            16 => Self::Aes128(expand(key)),
            24 => Self::Aes192(expand(key)),
            _ => Self::Aes256(expand(key)),
        }
    }

    pub(super) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) {
        let iv = iv.into();
        let buffer = InOutBuf::new(plaintext, ciphertext).expect("as long as the plaintext");
        let made = match self {
            Self::Aes128(key) => key.encrypt_inout_detached(iv, aad, buffer),
            Self::Aes192(key) => key.encrypt_inout_detached(iv, aad, buffer),
            Self::Aes256(key) => key.encrypt_inout_detached(iv, aad, buffer),
        };
        tag.copy_from_slice(&made.expect("a frame is shorter than GCM's limit of 64 GiB"));
    }

    pub(super) fn open(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let (iv, tag) = (iv.into(), tag.into());
        let buffer = InOutBuf::new(ciphertext, out).expect("as long as the ciphertext");
        match self {
            Self::Aes128(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
            Self::Aes192(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
            Self::Aes256(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
        }
        .map_err(|_| TagMismatch)
    }
}

impl fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesGcm(RustCrypto)")
    }
}
