//! The keys of key providers, the keys derived from them, and signing keys.

#[cfg(feature = "branch-key")]
use kms_envelope::provider::StaticBranchKey;
#[cfg(feature = "ecdh")]
use kms_envelope::provider::{EcdhPrivateKey, RawEcdh};
use kms_envelope::{Backend, EncryptionContext, Envelope, RawAes};

use super::*;

#[test]
fn a_local_key_is_not_in_memory_after_its_provider_is_dropped() {
    let _alone = alone();
    for (backend, len) in Backend::ALL.iter().flat_map(|backend| [16, 24, 32].map(|len| (*backend, len))) {
        let key = Masked::with_len(30, len);
        let local_key = RawAes::new("tests", "key", key.unmasked()).unwrap();
        let envelope = Envelope::builder(local_key).backend(backend).build().unwrap();
        let sealed = block_on(envelope.seal(b"data", &EncryptionContext::new())).unwrap();
        block_on(envelope.open(&sealed, &EncryptionContext::new())).unwrap();
        assert!(key.count() > 0, "{backend:?} {len}");
        deep(|| drop(envelope));
        assert_eq!(key.count(), 0, "{backend:?} {len}");
    }
}

#[cfg(feature = "branch-key")]
#[test]
fn a_branch_key_is_in_memory_once_and_its_derived_keys_are_not_after_use() {
    let _alone = alone();
    for backend in Backend::ALL.iter().copied() {
        let key = Masked::new(40);
        let envelope = || {
            let branch_key = StaticBranchKey::new("branch", [1; 16], key.unmasked()).unwrap();
            Envelope::builder(branch_key).backend(backend).rng(rng(0)).build().unwrap()
        };
        // As for data keys, the second message has the same keys.
        let sealed = block_on(envelope().seal(b"data", &EncryptionContext::new())).unwrap();
        let arguments = hex(&header(&sealed).encrypted_data_keys()[0].ciphertext);
        let [derived] = computed_by("keys::prints_the_masked_secrets_of_a_branch_key", &arguments);
        let envelope = envelope();
        let again = block_on(envelope.seal(b"data", &EncryptionContext::new())).unwrap();
        assert_eq!((key.count(), derived.count()), (2, 0), "after sealing: {backend:?}");
        assert_eq!(again, sealed);
        block_on(envelope.open(&sealed, &EncryptionContext::new())).unwrap();
        assert_eq!((key.count(), derived.count()), (2, 0), "after opening: {backend:?}");
        deep(|| drop(envelope));
        assert_eq!(key.count(), 0, "{backend:?}");
    }
}

#[cfg(feature = "branch-key")]
#[test]
#[ignore = "`computed_by` runs it in a process of its own"]
fn prints_the_masked_secrets_of_a_branch_key() {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    let ciphertext = unhex(&env::var("SECRETS_OF").unwrap());
    let [salt, iv, version, wrapped] = cut(&ciphertext, [16, 12, 16, 48]);
    let key = kbkdf::<Hmac<Sha256>>(Masked::new(40).unmasked().expose(), b"aws-kms-hierarchy", salt, 32);
    // It is the right key if it decrypts the data key.
    let aad = [b"aws-kms-hierarchy", &b"branch"[..], version].concat();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(iv).unwrap();
    cipher.open_in_place(nonce, Aad::from(aad), &mut wrapped.to_vec()).unwrap();
    print(&key);
}

#[cfg(feature = "ecdh")]
#[test]
fn ecdh_keys_and_their_shared_secrets_and_derived_keys_are_not_in_memory_after_use() {
    let _alone = alone();
    for backend in Backend::ALL.iter().copied() {
        let (own, sender) = (Masked::with_len(50, 48), Masked::with_len(51, 48));
        let own_key = deep(|| EcdhPrivateKey::from_pem(&pem(&own)).unwrap());
        let seal = || {
            let sealing = Envelope::builder(RawEcdh::ephemeral(own_key.public_key())).backend(backend);
            let sealing = sealing.rng(Returning::new(&sender)).build().unwrap();
            block_on(sealing.seal(b"data", &EncryptionContext::new())).unwrap()
        };
        // As for data keys, the second message has the same keys.
        let sealed = seal();
        let header = header(&sealed);
        let encrypted = &header.encrypted_data_keys()[0];
        let arguments = format!("{} {}", hex(&encrypted.provider_info), hex(&encrypted.ciphertext));
        let [shared, derived] = computed_by("keys::prints_the_masked_secrets_of_ecdh", &arguments);
        let assert_none = |when: &str| {
            assert_eq!(sender.count_number(), 0, "the sender's key, {when}: {backend:?}");
            assert_eq!(shared.count_number(), 0, "the shared secret, {when}: {backend:?}");
            assert_eq!(derived.count(), 0, "the derived key, {when}: {backend:?}");
        };
        assert_eq!(seal(), sealed);
        assert_none("after sealing");

        let opening = Envelope::builder(RawEcdh::discovery(own_key)).backend(backend).build().unwrap();
        block_on(opening.open(&sealed, &EncryptionContext::new())).unwrap();
        assert_none("after opening");
        assert!(own.count_number() > 0, "{backend:?}");
        deep(|| drop(opening));
        assert_eq!(own.count_number(), 0, "{backend:?}");
    }
}

/// Returns a private key of P-384 in PEM (RFC 5915 in PKCS #8).
#[cfg(feature = "ecdh")]
fn pem(scalar: &Masked) -> String {
    use base64ct::{Base64, Encoding};

    const BEFORE: &str = "304e020100301006072a8648ce3d020106052b81040022043730350201010430";
    let mut der = [unhex(BEFORE), vec![0; 48]].concat();
    scalar.write_to(&mut der[32..]);
    let base64 = Base64::encode_string(&der);
    der.fill(0);
    black_box(&der);
    let (first, second) = base64.split_at(64);
    format!("-----BEGIN PRIVATE KEY-----\n{first}\n{second}\n-----END PRIVATE KEY-----\n")
}

#[cfg(feature = "ecdh")]
#[test]
#[ignore = "`computed_by` runs it in a process of its own"]
fn prints_the_masked_secrets_of_ecdh() {
    use aws_lc_rs::agreement::{ECDH_P384, PrivateKey, UnparsedPublicKey, agree};

    let arguments = env::var("SECRETS_OF").unwrap();
    let (info, ciphertext) = arguments.split_once(' ').unwrap();
    let (info, ciphertext) = (unhex(info), unhex(ciphertext));
    let [_, recipient, _, sender] = cut(&info, [5, 49, 4, 49]);
    let [salt, commitment, _] = cut(&ciphertext, [32, 32, 48]);
    let mut own = [0; 48];
    Masked::with_len(50, 48).write_to(&mut own);
    let own = PrivateKey::from_private_key(&ECDH_P384, &own).unwrap();
    let shared = agree(&own, UnparsedPublicKey::new(&ECDH_P384, sender), (), |shared| Ok(shared.to_vec())).unwrap();
    let parties = [sender, recipient].concat();
    let label = [b"ecdh-key-derivation", &b"p384"[..], b"HMAC_SHA384", &parties, &[1], b""].join(&0);
    let derived = kbkdf::<Hmac<Sha384>>(&shared, &label, salt, 64);
    // The secrets are the right ones if the message contains the first half.
    assert_eq!(derived[..32], *commitment);
    print(&shared);
    print(&derived[32..]);
}

/// AWS-LC does not use the caller's generator for signing keys, so its keys cannot be known.
#[cfg(feature = "rust-crypto")]
#[test]
fn a_signing_key_is_not_in_memory_after_use() {
    use kms_envelope::AlgorithmSuite::{Aes128GcmHkdfSha256EcdsaP256, Aes256GcmHkdfSha512CommitEcdsaP384};

    let _alone = alone();
    // The crate p384 stores numbers in a form that the search does not find.
    for (suite, len, held) in [(Aes128GcmHkdfSha256EcdsaP256, 32, 2), (Aes256GcmHkdfSha512CommitEcdsaP384, 48, 0)] {
        let key = Masked::with_len(60, len);
        let envelope = || {
            let data_key = FixedDataKey::new(move || SecretKey::try_from(vec![3; suite.data_key_len()]).unwrap());
            let builder = Envelope::builder(data_key).backend(Backend::RustCrypto).suite(suite);
            let builder = builder.commitment_policy(test_support::policy_for(suite));
            builder.rng(Returning::new(&key)).build().unwrap()
        };
        let sealer = block_on(envelope().sealer(&EncryptionContext::new())).unwrap();
        assert_eq!(key.count_number(), held, "while sealing: {suite}");
        deep(|| drop(sealer));
        assert_eq!(key.count_number(), 0, "after the sealer: {suite}");
        block_on(envelope().seal(b"data", &EncryptionContext::new())).unwrap();
        assert_eq!(key.count_number(), 0, "after sealing: {suite}");
    }
}

/// A generator that returns a secret in the first call for so many bytes.
#[cfg(any(feature = "ecdh", feature = "rust-crypto"))]
struct Returning<R> {
    secret: Option<Masked>,
    others: R,
}

#[cfg(any(feature = "ecdh", feature = "rust-crypto"))]
impl Returning<()> {
    fn new(secret: &Masked) -> Returning<impl Rng + Send + 'static> {
        Returning { secret: Some(secret.clone()), others: rng(0) }
    }
}

#[cfg(any(feature = "ecdh", feature = "rust-crypto"))]
impl<R: Rng> rand_core::TryRng for Returning<R> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        match self.secret.take_if(|secret| secret.0.len() == out.len()) {
            Some(secret) => secret.write_to(out),
            None => self.others.fill_bytes(out),
        }
        Ok(())
    }
}

#[cfg(any(feature = "ecdh", feature = "rust-crypto"))]
impl<R: Rng> rand_core::TryCryptoRng for Returning<R> {}

/// KBKDF in counter mode (NIST SP 800-108r1, section 4.1).
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
fn kbkdf<M: Mac + KeyInit>(key: &[u8], label: &[u8], context: &[u8], len: usize) -> Vec<u8> {
    let bits = u32::try_from(len * 8).unwrap().to_be_bytes();
    let block = |counter: u32| {
        let mac = <M as KeyInit>::new_from_slice(key).unwrap();
        let input = [&counter.to_be_bytes(), label, &[0], context, &bits].concat();
        mac.chain_update(input).finalize().into_bytes().to_vec()
    };
    let mut out: Vec<u8> = (1..=2).flat_map(block).collect();
    out.truncate(len);
    out
}

/// Cuts bytes into fields of these lengths.
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
fn cut<const N: usize>(mut bytes: &[u8], lens: [usize; N]) -> [&[u8]; N] {
    let fields = lens.map(|len| bytes.split_off(..len).unwrap());
    assert!(bytes.is_empty());
    fields
}
