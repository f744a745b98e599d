//! The bare AES-256-GCM of the backends' crates, from one buffer into another: the upper bound of all rates.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, aead::inout::InOutBuf};
use kms_envelope::Backend;

const TAG_LEN: usize = 16;
const AAD: &[u8] = &[0; 76];
const IV: [u8; 12] = [0; 12];

pub(crate) enum Aead {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    RustCrypto(Box<Aes256Gcm>),
}

impl Aead {
    pub(crate) fn new(backend: Backend) -> Self {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => {
                use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
                Self::AwsLc(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap()))
            }
            _ => Self::RustCrypto(Box::new(Aes256Gcm::new(&[7; 32].into()))),
        }
    }

    /// Returns how many bytes [`seal`](Self::seal) writes.
    pub(crate) fn sealed_len(plaintext_len: usize, frame_len: usize) -> usize {
        plaintext_len + TAG_LEN * plaintext_len.div_ceil(frame_len)
    }

    /// Seals one frame after the other.
    pub(crate) fn seal(&self, plaintext: &[u8], frame_len: usize, out: &mut [u8]) {
        for (frame, out) in plaintext.chunks(frame_len).zip(out.chunks_mut(frame_len + TAG_LEN)) {
            let (ciphertext, tag) = out.split_at_mut(frame.len());
            match self {
                #[cfg(feature = "aws-lc")]
                Self::AwsLc(key) => {
                    use aws_lc_rs::aead::{Aad, Nonce};
                    let nonce = Nonce::assume_unique_for_key(IV);
                    key.seal_out_of_place_scatter(nonce, Aad::from(AAD), frame, ciphertext, &[], tag).unwrap();
                }
                Self::RustCrypto(key) => {
                    let buffer = InOutBuf::new(frame, ciphertext).unwrap();
                    tag.copy_from_slice(&key.encrypt_inout_detached(&IV.into(), AAD, buffer).unwrap());
                }
            }
        }
    }

    /// Opens one frame after the other.
    pub(crate) fn open(&self, sealed: &[u8], frame_len: usize, out: &mut [u8]) {
        for (frame, out) in sealed.chunks(frame_len + TAG_LEN).zip(out.chunks_mut(frame_len)) {
            let (ciphertext, tag) = frame.split_last_chunk::<TAG_LEN>().unwrap();
            match self {
                #[cfg(feature = "aws-lc")]
                Self::AwsLc(key) => {
                    use aws_lc_rs::aead::{Aad, Nonce};
                    let nonce = Nonce::assume_unique_for_key(IV);
                    key.open_separate_gather(nonce, Aad::from(AAD), ciphertext, tag, out).unwrap();
                }
                Self::RustCrypto(key) => {
                    let buffer = InOutBuf::new(ciphertext, out).unwrap();
                    key.decrypt_inout_detached(&IV.into(), AAD, buffer, tag.into()).unwrap();
                }
            }
        }
    }
}
