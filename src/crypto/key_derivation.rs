//! HKDF (RFC 5869) and KBKDF (NIST SP 800-108).

use super::Backend;
#[cfg(feature = "aws-lc")]
use super::aws_lc::key_derivation as aws_lc;
#[cfg(feature = "rust-crypto")]
use super::rust_crypto::key_derivation as rust_crypto;
use crate::suite::HashAlgorithm;

/// The info of an output of HKDF, in parts, and the memory to write the output to.
pub(super) type HkdfOutput<'a> = (&'a [&'a [u8]], &'a mut [u8]);

/// Extracts once, then expands for each output. The stack contains secrets afterwards: see
/// [`with_wiped_stack`](super::with_wiped_stack).
pub(super) fn hkdf(backend: Backend, hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [HkdfOutput<'_>]) {
    match backend {
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => aws_lc::hkdf(hash, salt, input, outputs),
        #[cfg(feature = "rust-crypto")]
        Backend::RustCrypto => rust_crypto::hkdf(hash, salt, input, outputs),
    }
}

/// KBKDF in counter mode with HMAC (NIST SP 800-108r1, section 4.1), with 32-bit counter and length.
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
pub(crate) mod kbkdf {
    use zeroize::Zeroizing;

    #[cfg(feature = "rust-crypto")]
    use super::rust_crypto;
    #[cfg(feature = "aws-lc")]
    use super::{HashAlgorithm, aws_lc};
    use crate::crypto::{Backend, with_wiped_stack};

    /// Derives 32 bytes with SHA-256.
    #[cfg(feature = "branch-key")]
    pub(crate) fn sha256(backend: Backend, key: &[u8], label: &[u8], context: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        with_wiped_stack::<8_192, _>(|| match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => aws_lc::kbkdf(HashAlgorithm::Sha256, key, label, context, &mut *out),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => rust_crypto::kbkdf_sha256(key, label, context, &mut out),
        });
        out
    }

    /// Derives 64 bytes with SHA-384.
    #[cfg(feature = "ecdh")]
    pub(crate) fn sha384(backend: Backend, key: &[u8], label: &[u8], context: &[u8]) -> Zeroizing<[u8; 64]> {
        let mut out = Zeroizing::new([0; 64]);
        with_wiped_stack::<8_192, _>(|| match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => aws_lc::kbkdf(HashAlgorithm::Sha384, key, label, context, &mut *out),
            #[cfg(feature = "rust-crypto")]
            Backend::RustCrypto => rust_crypto::kbkdf_sha384(key, label, context, &mut out),
        });
        out
    }
}
