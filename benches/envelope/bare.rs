//! The bare AES-256-GCM of the backends' crates, from one buffer into another, and their bare SHA-384: the upper bounds
//! of all rates.

use std::hint::black_box;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, aead::inout::InOutBuf};
use kms_envelope::Backend;
use sha2::{Digest, Sha384};

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
        Self::with_key(backend, &[7; 32])
    }

    pub(crate) fn with_key(backend: Backend, key: &[u8; 32]) -> Self {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => {
                use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
                Self::AwsLc(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap()))
            }
            _ => Self::RustCrypto(Box::new(Aes256Gcm::new(key.into()))),
        }
    }

    /// Returns how many bytes [`seal`](Self::seal) writes.
    pub(crate) fn sealed_len(plaintext_len: usize, frame_len: usize) -> usize {
        plaintext_len + TAG_LEN * plaintext_len.div_ceil(frame_len)
    }

    /// Seals one frame after the other.
    pub(crate) fn seal(&self, plaintext: &[u8], frame_len: usize, out: &mut [u8]) {
        for (frame, out) in plaintext.chunks(frame_len).zip(out.chunks_mut(frame_len + TAG_LEN)) {
            self.seal_one(AAD, frame, out);
        }
    }

    /// Opens one frame after the other.
    pub(crate) fn open(&self, sealed: &[u8], frame_len: usize, out: &mut [u8]) {
        for (frame, out) in sealed.chunks(frame_len + TAG_LEN).zip(out.chunks_mut(frame_len)) {
            self.open_one(AAD, frame, out);
        }
    }

    pub(crate) fn seal_one(&self, aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(IV);
                key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag).unwrap();
            }
            Self::RustCrypto(key) => {
                let buffer = InOutBuf::new(plaintext, ciphertext).unwrap();
                tag.copy_from_slice(&key.encrypt_inout_detached(&IV.into(), aad, buffer).unwrap());
            }
        }
    }

    pub(crate) fn open_one(&self, aad: &[u8], sealed: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().unwrap();
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(IV);
                key.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out).unwrap();
            }
            Self::RustCrypto(key) => {
                let buffer = InOutBuf::new(ciphertext, out).unwrap();
                key.decrypt_inout_detached(&IV.into(), aad, buffer, tag.into()).unwrap();
            }
        }
    }
}

/// The primitives that one message with a cached data key needs, as its backend does them fastest.
pub(crate) struct Primitives {
    backend: Backend,
    message_id: [u8; 32],
    /// The encryption key, and the commitment.
    keys: [[u8; 32]; 2],
    header: Vec<u8>,
    header_tag: [u8; TAG_LEN],
    sealed: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Primitives {
    /// Prepares for messages of `len` bytes whose header has `header_len` authenticated bytes.
    pub(crate) fn new(backend: Backend, header_len: usize, len: usize) -> Self {
        let mut new = Self {
            backend,
            message_id: [1; 32],
            keys: Default::default(),
            header: vec![2; header_len],
            header_tag: [0; TAG_LEN],
            sealed: vec![3; len + TAG_LEN],
            plaintext: vec![4; len],
        };
        new.hkdf();
        let aead = Aead::with_key(backend, &new.keys[0]);
        new.header_tag(&aead);
        new.gcm_seal(&aead, &vec![5; len]);
        new
    }

    pub(crate) fn random(&mut self) {
        match self.backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => aws_lc_rs::rand::fill(&mut self.message_id).unwrap(),
            _ => getrandom::fill(&mut self.message_id).unwrap(),
        }
    }

    /// Extracts once and expands twice, with SHA-512.
    pub(crate) fn hkdf(&mut self) {
        let infos: [&[u8]; 2] = [b"\x04\x78DERIVEKEY", b"COMMITKEY"];
        match self.backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => {
                use aws_lc_rs::hmac::{Context, HMAC_SHA512, Key, sign_to_buffer};
                let mut extracted = [0; 64];
                sign_to_buffer(&Key::new(HMAC_SHA512, &self.message_id), &[7; 32], &mut extracted).unwrap();
                let key = Key::new(HMAC_SHA512, &extracted);
                for (info, out) in infos.iter().zip(&mut self.keys) {
                    let mut context = Context::with_key(&key);
                    context.update(info);
                    context.update(&[1]);
                    out.copy_from_slice(&context.sign().as_ref()[..32]);
                }
            }
            _ => {
                let hkdf = hkdf::Hkdf::<sha2::Sha512>::new(Some(&self.message_id), &[7; 32]);
                infos.iter().zip(&mut self.keys).for_each(|(info, out)| hkdf.expand(info, out).unwrap());
            }
        }
    }

    pub(crate) fn header_tag(&mut self, aead: &Aead) {
        aead.seal_one(&self.header, &[], &mut self.header_tag);
    }

    pub(crate) fn gcm_seal(&mut self, aead: &Aead, plaintext: &[u8]) {
        aead.seal_one(AAD, plaintext, &mut self.sealed);
    }

    /// Does everything that sealing needs.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) {
        self.random();
        self.hkdf();
        let aead = Aead::with_key(self.backend, &self.keys[0]);
        self.header_tag(&aead);
        self.gcm_seal(&aead, plaintext);
    }

    /// Does everything that opening needs. The message id must be that of the last sealed message.
    pub(crate) fn open(&mut self) {
        self.hkdf();
        let aead = Aead::with_key(self.backend, &self.keys[0]);
        aead.open_one(&self.header, &self.header_tag, &mut []);
        aead.open_one(AAD, &self.sealed, &mut self.plaintext);
    }
}

/// Hashes in pieces of 1 MiB.
pub(crate) fn sha384(backend: Backend, bytes: &[u8]) {
    let pieces = bytes.chunks(1 << 20);
    match backend {
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => {
            let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA384);
            pieces.for_each(|piece| digest.update(piece));
            black_box(digest.finish());
        }
        _ => {
            let mut digest = Sha384::new();
            pieces.for_each(|piece| digest.update(piece));
            black_box(digest.finalize());
        }
    }
}
