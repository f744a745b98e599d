//! AES-GCM and HKDF by the RustCrypto crates.

use std::fmt;

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{consts::U12, inout::InOutBuf},
    aes::Aes192,
};
use hkdf::Hkdf;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use super::{IV_LEN, TAG_LEN, TagMismatch};
use crate::suite::HashAlgorithm;

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

pub(super) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [(&[&[u8]], &mut [u8])]) {
    /// A macro, since the trait bounds of a function generic over the hash would be longer than its body.
    macro_rules! with {
        ($hash:ty) => {{
            let (mut pseudorandom_key, hkdf) = Hkdf::<$hash>::extract(Some(salt), input);
            pseudorandom_key.zeroize();
            for (info, output) in outputs {
                hkdf.expand_multi_info(info, output).expect("no output is longer than 255 hashes");
            }
        }};
    }
    match hash {
        HashAlgorithm::Sha256 => with!(Sha256),
        HashAlgorithm::Sha384 => with!(Sha384),
        HashAlgorithm::Sha512 => with!(Sha512),
    }
}
