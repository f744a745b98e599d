//! AES-GCM by the RustCrypto crates.

pub(super) mod ecdsa;

use std::fmt;

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{consts::U12, inout::InOutBuf},
    aes::Aes192,
};

use zeroize::Zeroize;

use super::{IV_LEN, TAG_LEN, TagMismatch};

/// The expanded keys are boxed, because they have about a kilobyte and would be copied with every move.
pub(crate) enum AesGcm {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<aes_gcm::AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

fn expand<A: KeyInit>(key: &[u8]) -> Box<A> {
    /// Not inlined, so that its stack frame is in the region that `wipe_stack` overwrites.
    #[inline(never)]
    fn boxed<A: KeyInit>(key: &[u8]) -> Box<A> {
        Box::new(A::new_from_slice(key).expect("a secret key has an AES key length"))
    }
    let expanded = boxed(key);
    wipe_stack();
    expanded
}

/// Overwrites the unused part of the stack, where earlier calls may have left key material. An expanded key begins with
/// the key itself. It is on the stack before it is boxed, and parts of it are there while it is used.
#[inline(never)]
fn wipe_stack() {
    let mut left = [0_u64; 2048];
    left.zeroize();
    std::hint::black_box(&left);
}

/// Wipes the stack only, because the expanded keys zeroize themselves.
impl Drop for AesGcm {
    fn drop(&mut self) {
        wipe_stack();
    }
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
        let buffer = InOutBuf::new(plaintext, ciphertext).expect("the ciphertext is as long as the plaintext");
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
        self.open_buffer(iv, aad, InOutBuf::new(ciphertext, out).expect("the output is as long as the ciphertext"), tag)
    }

    #[cfg(feature = "stream")]
    pub(super) fn open_in_place(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), TagMismatch> {
        self.open_buffer(iv, aad, buffer.into(), tag)
    }

    fn open_buffer(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &[u8; TAG_LEN],
    ) -> Result<(), TagMismatch> {
        let (iv, tag) = (iv.into(), tag.into());
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
