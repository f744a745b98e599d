//! AES-GCM by the RustCrypto crates.

use std::fmt;

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{consts::U12, inout::InOutBuf},
    aes::Aes192,
};

use crate::{
    crypto::{TagMismatch, with_wiped_stack},
    suite::{IV_LEN, TAG_LEN},
};

/// The expanded keys are boxed, because they have about a kilobyte and would be copied with every move.
pub(crate) enum AesGcm {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<aes_gcm::AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

fn boxed<A: KeyInit>(key: &[u8]) -> Box<A> {
    Box::new(A::new_from_slice(key).expect("a secret key has an AES key length"))
}

/// The number of bytes of the stack to overwrite after AES, which leaves parts of the expanded key there. An expanded
/// key begins with the key itself.
const STACK: usize = 4_096;

impl AesGcm {
    /// Leaves the key on the stack.
    pub(crate) fn new(key: &[u8]) -> Self {
        match key.len() {
            16 => Self::Aes128(boxed(key)),
            24 => Self::Aes192(boxed(key)),
            _ => Self::Aes256(boxed(key)),
        }
    }

    pub(crate) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) {
        let iv = iv.into();
        let buffer = InOutBuf::new(plaintext, ciphertext).expect("the ciphertext is as long as the plaintext");
        let made = with_wiped_stack::<STACK, _>(|| match self {
            Self::Aes128(key) => key.encrypt_inout_detached(iv, aad, buffer),
            Self::Aes192(key) => key.encrypt_inout_detached(iv, aad, buffer),
            Self::Aes256(key) => key.encrypt_inout_detached(iv, aad, buffer),
        });
        tag.copy_from_slice(&made.expect("a frame is shorter than GCM's limit of 64 GiB"));
    }

    pub(crate) fn open(
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
    pub(crate) fn open_in_place(
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
        let opened = with_wiped_stack::<STACK, _>(|| match self {
            Self::Aes128(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
            Self::Aes192(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
            Self::Aes256(key) => key.decrypt_inout_detached(iv, aad, buffer, tag),
        });
        opened.map_err(|_| TagMismatch)
    }
}

impl fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesGcm(RustCrypto)")
    }
}
