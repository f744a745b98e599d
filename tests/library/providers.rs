//! The key providers that need no service: RSA, ECDH, branch keys, and several combined.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kms_envelope::{
    Backend, ConfigError, EncryptionContext, Envelope, KeyProvider, Limits, OpenError, ProviderError, RawAes,
    SealError,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EcdhPrivateKey, EcdhPublicKey, EncryptDataKeyRequest,
        GenerateDataKeyRequest, GeneratedDataKey, MultiProvider, ProviderErrorKind as Kind, RawEcdh, RawRsa,
        RsaPadding, SecretKey, StaticBranchKey,
    },
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{context, fixtures::pem, header};

fn seal(provider: impl KeyProvider + 'static) -> Vec<u8> {
    test_support::seal(&Envelope::new(provider), b"data")
}

fn open(provider: impl KeyProvider + 'static, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    test_support::open(&Envelope::new(provider), message)
}

fn assert_round_trip(sealing: impl KeyProvider + 'static, opening: impl KeyProvider + 'static) {
    assert_eq!(open(opening, &seal(sealing)).unwrap(), b"data");
}

fn no_matching_key(result: Result<Vec<u8>, OpenError>) -> bool {
    matches!(&result, Err(OpenError::Provider(e)) if e.kind() == Kind::NoMatchingKey)
}

fn invalid_ciphertext(result: Result<Vec<u8>, OpenError>) -> bool {
    match result {
        Err(OpenError::Provider(all)) => {
            let is_invalid =
                |error: &ProviderError| matches!(error.kind(), Kind::InvalidCiphertext | Kind::IncorrectKey);
            all.kind() == Kind::NoneDecrypted && all.attempts().iter().all(is_invalid)
        }
        _ => false,
    }
}

// RSA.

const PADDINGS: [RsaPadding; 5] = [
    RsaPadding::Pkcs1v15,
    RsaPadding::OaepSha1,
    RsaPadding::OaepSha256,
    RsaPadding::OaepSha384,
    RsaPadding::OaepSha512,
];

fn rsa(padding: RsaPadding) -> RawRsa {
    RawRsa::new("tests", "rsa", padding).unwrap()
}

fn rsa_public(padding: RsaPadding) -> RawRsa {
    rsa(padding).with_public_key_pem(&pem("rsa-public")).unwrap()
}

fn rsa_private(padding: RsaPadding) -> RawRsa {
    rsa(padding).with_private_key_pem(&pem("rsa-private")).unwrap()
}

#[test]
fn an_rsa_private_key_opens_messages_sealed_with_the_public_key_with_each_padding() {
    for padding in PADDINGS {
        assert_round_trip(rsa_public(padding), rsa_private(padding));
    }
}

#[test]
fn rsa_with_another_padding_does_not_open() {
    for sealed in PADDINGS {
        let message = seal(rsa_public(sealed));
        for opening in PADDINGS.into_iter().filter(|padding| *padding != sealed) {
            assert!(invalid_ciphertext(open(rsa_private(opening), &message)), "{sealed:?} {opening:?}");
        }
    }
}

#[test]
fn rsa_needs_the_public_key_to_seal_and_the_private_key_to_open() {
    let padding = RsaPadding::OaepSha256;
    let refused = block_on(Envelope::new(rsa_private(padding)).seal(b"data", &context()));
    let Err(SealError::Provider(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!((refused.kind(), refused.operation()), (Kind::Unsupported, "Encrypt"));
    let refused = open(rsa_public(padding), &seal(rsa_public(padding)));
    let Err(OpenError::Provider(refused)) = refused else { panic!("{refused:?}") };
    let [attempt] = refused.attempts() else { panic!("{refused:?}") };
    assert_eq!((attempt.kind(), attempt.operation()), (Kind::Unsupported, "Decrypt"));
}

#[test]
fn an_rsa_key_with_another_name_is_not_tried() {
    let message = seal(rsa_public(RsaPadding::OaepSha256));
    for (namespace, name) in [("tests", "rs"), ("test", "rsa"), ("tests", "rsa2")] {
        let other = RawRsa::new(namespace, name, RsaPadding::OaepSha256).unwrap();
        assert!(no_matching_key(open(other.with_private_key_pem(&pem("rsa-private")).unwrap(), &message)));
    }
}

#[test]
fn an_invalid_rsa_key_is_refused_with_what_to_do() {
    let rsa = || rsa(RsaPadding::OaepSha256);
    let pkcs1 = pem("rsa-private").replace("PRIVATE KEY", "RSA PRIVATE KEY");
    for (refused, expected) in [
        (rsa().with_public_key_pem("hello"), "RSA public key"),
        (rsa().with_public_key_pem(&pem("rsa-private")), "\"PUBLIC KEY\""),
        (rsa().with_private_key_pem(&pem("rsa-public")), "\"PRIVATE KEY\""),
        (rsa().with_private_key_pem(&pkcs1), "openssl pkey"),
        (rsa().with_public_key_pem(&pem("p256-public")), "RSA public key"),
        (rsa().with_private_key_pem(&pem("p256-private")), "RSA private key"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, ConfigError::Pem { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(matches!(RawRsa::new("aws-kms", "k", RsaPadding::OaepSha1), Err(ConfigError::KeyName { .. })));
    assert!(RawRsa::new("tests", "k".repeat(65_536), RsaPadding::OaepSha1).is_err());
}

#[test]
fn an_rsa_key_is_not_printed() {
    let both = rsa_public(RsaPadding::OaepSha256).with_private_key_pem(&pem("rsa-private")).unwrap();
    let printed = format!("{both:?}");
    assert_eq!(printed, "RawRsa { key: tests/rsa, padding: OaepSha256, has_public_key: true, has_private_key: true }");
}

// ECDH.

const CURVES: [&str; 3] = ["p256", "p384", "p521"];

fn private(curve: &str) -> EcdhPrivateKey {
    EcdhPrivateKey::from_pem(&pem(&format!("{curve}-private"))).unwrap()
}

fn public(curve: &str) -> EcdhPublicKey {
    EcdhPublicKey::from_pem(&pem(&format!("{curve}-public"))).unwrap()
}

/// A key pair on the curve of each PEM file. A key together with itself is a valid pair.
fn with_itself(curve: &str) -> RawEcdh {
    RawEcdh::static_keys(private(curve), public(curve)).unwrap()
}

#[test]
fn each_ecdh_scheme_opens_messages_of_its_counterpart_on_each_curve() {
    for curve in CURVES {
        assert_eq!(private(curve).public_key(), public(curve));
        assert_round_trip(RawEcdh::ephemeral(public(curve)), RawEcdh::discovery(private(curve)));
        assert_round_trip(with_itself(curve), with_itself(curve));
        assert_round_trip(with_itself(curve), RawEcdh::discovery(private(curve)));
    }
}

#[test]
fn ecdh_does_not_open_a_message_for_another_key() {
    let message = seal(RawEcdh::ephemeral(public("p256")));
    assert!(no_matching_key(open(RawEcdh::discovery(private("p384")), &message)));
    // It is from an ephemeral key, not from this one.
    assert!(no_matching_key(open(with_itself("p256"), &message)));
}

#[test]
fn ecdh_binds_the_context() {
    let context = |value| EncryptionContext::from([("tenant", value)]);
    let sealing = Envelope::builder(RawEcdh::ephemeral(public("p384"))).required_context(["tenant"]).build().unwrap();
    let message = block_on(sealing.seal(b"data", &context("acme"))).unwrap();
    let opening = Envelope::builder(RawEcdh::discovery(private("p384"))).required_context(["tenant"]).build().unwrap();
    assert!(block_on(opening.open(&message, &context("acme"))).is_ok());
    let refused = block_on(opening.open(&message, &context("other"))).map(|opened| opened.plaintext);
    assert!(invalid_ciphertext(refused));
}

#[test]
fn an_ecdh_scheme_refuses_operations_that_it_does_not_support() {
    let refused = block_on(Envelope::new(RawEcdh::discovery(private("p256"))).seal(b"", &context()));
    assert!(matches!(&refused, Err(SealError::Provider(e)) if e.kind() == Kind::Unsupported));
    let refused = open(RawEcdh::ephemeral(public("p256")), &seal(RawEcdh::ephemeral(public("p256"))));
    assert!(matches!(&refused, Err(OpenError::Provider(e)) if e.kind() == Kind::Unsupported));
    let refused = RawEcdh::static_keys(private("p256"), public("p384")).unwrap_err();
    assert!(refused.to_string().contains("p384"), "{refused}");
    for text in ["", "hello", &pem("rsa-public"), &pem("rsa-private")] {
        assert!(matches!(EcdhPublicKey::from_pem(text), Err(ConfigError::Pem { .. })));
        assert!(matches!(EcdhPrivateKey::from_pem(text), Err(ConfigError::Pem { .. })));
    }
    assert_eq!(format!("{:?}", private("p521")), "EcdhPrivateKey(p521)");
}

// Branch keys.

fn branch_key(id: &str, version: u8, key: u8) -> StaticBranchKey {
    StaticBranchKey::new(id, [version; 16], [key; 32]).unwrap()
}

#[test]
fn a_branch_key_opens_messages_of_its_own_version() {
    let message = seal(branch_key("branch", 1, 1));
    assert_eq!(open(branch_key("branch", 1, 1), &message).unwrap(), b"data");
    assert!(invalid_ciphertext(open(branch_key("branch", 2, 1), &message)));
    assert!(invalid_ciphertext(open(branch_key("branch", 1, 2), &message)));
    assert!(no_matching_key(open(branch_key("another", 1, 1), &message)));
    let short = SecretKey::try_from(vec![0; 16]).unwrap();
    assert!(matches!(StaticBranchKey::new("branch", [0; 16], short), Err(ConfigError::KeyLen(16))));
    assert_eq!(format!("{:?}", branch_key("branch", 1, 0x41)), "StaticBranchKey(aws-kms-hierarchy/branch)");
}

// Damaged encrypted data keys of each provider.

#[test]
fn an_encrypted_data_key_with_any_bit_flipped_does_not_open() {
    type Make = fn() -> Box<dyn KeyProvider>;
    let providers: [(Make, Make); 3] = [
        (|| Box::new(branch_key("b", 1, 1)), || Box::new(branch_key("b", 1, 1))),
        (|| Box::new(RawEcdh::ephemeral(public("p256"))), || Box::new(RawEcdh::discovery(private("p256")))),
        (|| Box::new(rsa_public(RsaPadding::OaepSha256)), || Box::new(rsa_private(RsaPadding::OaepSha256))),
    ];
    for (sealing, opening) in providers {
        let message = seal(std::sync::Arc::<dyn KeyProvider>::from(sealing()));
        let envelope = Envelope::new(std::sync::Arc::<dyn KeyProvider>::from(opening()));
        assert!(block_on(envelope.open(&message, &context())).is_ok());
        // The encrypted data key follows the message id and the context.
        let start = 1 + 2 + 32 + 2 + 2 + 2 + 6 + 2 + 4 + 2;
        for at in start..message.len() - 100 {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert!(block_on(envelope.open(&changed, &context())).is_err(), "{envelope:?} {at}");
        }
    }
}

// Several.

fn local(name: &str) -> RawAes {
    RawAes::new("tests", name, [name.as_bytes()[0]; 32]).unwrap()
}

#[test]
fn each_of_several_providers_opens_and_the_first_that_can_is_named() {
    let all = || MultiProvider::new(local("a")).with(rsa_public(RsaPadding::OaepSha256)).with(local("c"));
    let message = seal(all());
    for name in ["a", "c"] {
        let opened = block_on(Envelope::new(local(name)).open(&message, &context())).unwrap();
        assert_eq!(opened.info.encrypted_data_key().key_name(), name);
    }
    assert_eq!(open(rsa_private(RsaPadding::OaepSha256), &message).unwrap(), b"data");
    let reading = MultiProvider::new(local("x")).with(local("c")).with(local("a"));
    let opened = block_on(Envelope::new(reading).open(&message, &context())).unwrap();
    assert_eq!(opened.info.encrypted_data_key().key_name(), "c");
    // A group inside a group.
    let nested = MultiProvider::new(local("x")).with(all());
    assert_eq!(open(local("c"), &seal(nested)).unwrap(), b"data");
}

#[test]
fn of_several_providers_those_that_tried_report_their_errors_in_order() {
    let wrong = |name| RawAes::new("tests", name, [9; 32]).unwrap();
    let message = seal(MultiProvider::new(local("a")).with(local("b")));
    let several = MultiProvider::new(local("x")).with(wrong("b")).with(local("y")).with(wrong("a"));
    let error = open(several, &message).unwrap_err();
    let OpenError::Provider(error) = error else { panic!("{error}") };
    let attempts: Vec<_> = error.attempts().iter().map(ToString::to_string).collect();
    assert!(attempts.len() == 2 && attempts[0].contains("tests/b") && attempts[1].contains("tests/a"), "{attempts:?}");
}

#[test]
fn if_no_provider_has_a_key_of_the_message_the_error_names_all() {
    let nested = MultiProvider::new(local("x")).with(MultiProvider::new(local("y")).with(Watched::new("z")));
    let error = open(nested, &seal(local("a"))).unwrap_err();
    let expected = "none of the message's encrypted data keys is for tests/x, tests/y, tests/z; they are for: tests/a";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn providers_that_cannot_decrypt_a_message_are_not_called_and_get_no_share_of_the_time() {
    let ours = Watched::new("a");
    let seen = ours.seen.clone();
    let several = MultiProvider::new(local("x")).with(rsa_private(RsaPadding::OaepSha256)).with(ours).with(local("y"));
    let message = seal(local("a"));
    let timeout = Duration::from_secs(1000);
    let envelope = Envelope::builder(several).key_timeout(timeout).build().unwrap();
    let start = Instant::now();
    block_on(envelope.open(&message, &context())).unwrap();
    let deadline = seen.lock().unwrap()[0].0.unwrap();
    assert!(deadline >= start + timeout, "the only one has all of the time: {:?}", deadline - start);
}

#[test]
fn if_one_of_several_providers_returns_no_encrypted_data_key_sealing_fails() {
    let silent = || test_support::FixedDataKey::new(|| SecretKey::from([7; 32])).listing(Vec::new());
    let silent = || Box::new(silent()) as Box<dyn KeyProvider>;
    let aes = || Box::new(local("a")) as Box<dyn KeyProvider>;
    for several in [MultiProvider::new(silent()).with(aes()), MultiProvider::new(aes()).with(silent())] {
        let error = block_on(Envelope::new(several).seal(b"", &context())).unwrap_err();
        assert!(error.to_string().ends_with("a fixed data key: unexpected response: no encrypted data key"), "{error}");
    }
}

#[test]
fn if_one_of_several_providers_fails_sealing_fails() {
    let failing = || rsa_private(RsaPadding::OaepSha256);
    for several in [MultiProvider::new(local("a")).with(failing()), MultiProvider::new(failing()).with(local("a"))] {
        assert!(matches!(block_on(Envelope::new(several).seal(b"", &context())), Err(SealError::Provider(_))));
    }
}

/// A generator that returns the same bytes each time.
struct Seeded(u8);

impl rand_core::TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for byte in out {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Seeded {}

#[test]
fn a_message_sealed_with_one_backend_opens_with_the_other() {
    let providers: [fn() -> Box<dyn KeyProvider>; 5] = [
        || Box::new(local("key")),
        || Box::new(with_itself("p256")),
        || Box::new(with_itself("p384")),
        || Box::new(with_itself("p521")),
        || Box::new(branch_key("branch", 3, 7)),
    ];
    for provider in providers {
        let envelope = |backend: &Backend| Envelope::builder(provider()).backend(*backend).build().unwrap();
        for (sealing, opening) in Backend::ALL.iter().flat_map(|one| Backend::ALL.iter().map(move |other| (one, other)))
        {
            let sealed = block_on(envelope(sealing).seal(b"data", &context())).unwrap();
            let opened = block_on(envelope(opening).open(&sealed, &context()));
            assert_eq!(opened.unwrap().plaintext, b"data", "{} {sealing:?} {opening:?}", provider());
        }
    }
}

#[test]
fn with_the_same_random_bytes_the_whole_message_is_the_same() {
    let providers: [fn() -> Box<dyn KeyProvider>; 5] = [
        || Box::new(local("key")),
        || Box::new(RawEcdh::ephemeral(public("p384"))),
        || Box::new(with_itself("p256")),
        || Box::new(StaticBranchKey::new("branch", [3; 16], [7; 32]).unwrap()),
        || Box::new(MultiProvider::new(local("one")).with(local("other"))),
    ];
    for provider in providers {
        let seal = |backend, seed| {
            let envelope = Envelope::builder(provider()).backend(backend).rng(Seeded(seed)).build().unwrap();
            block_on(envelope.seal(b"data", &context())).unwrap()
        };
        let sealed = seal(Backend::default(), 1);
        // Everything except the key comes from the generator, with each backend.
        for backend in Backend::ALL {
            assert_eq!(sealed, seal(*backend, 1), "{} {backend:?}", provider());
        }
        assert_ne!(sealed, seal(Backend::default(), 2), "{}", provider());
    }
    // The same for an existing data key.
    let sealed = seal(local("old"));
    let rewrap = || {
        let old = Envelope::builder(local("old")).rng(Seeded(1)).build().unwrap();
        block_on(old.rewrap(&header(&sealed), &context(), &local("new"))).unwrap()
    };
    assert_eq!(rewrap().to_bytes(), rewrap().to_bytes());
}

/// The deadline and the limit on tries of each request.
type Seen = Arc<Mutex<Vec<(Option<Instant>, Option<u16>)>>>;

/// A local key that records its requests, and responds when the test allows it.
#[derive(Debug)]
struct Watched {
    key: RawAes,
    seen: Seen,
    /// How many polls of an encryption are pending, or `None` to wait until `together` others are called as well.
    polls: Option<usize>,
    together: usize,
    asked: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    fails: bool,
}

impl Watched {
    fn new(name: &str) -> Self {
        let (seen, asked, done) = Default::default();
        Self { key: local(name), seen, polls: Some(0), together: 0, asked, done, fails: false }
    }

    fn see(&self, deadline: Option<Instant>, tries: Option<u16>) {
        self.seen.lock().unwrap().push((deadline, tries));
    }

    fn failure(&self) -> ProviderError {
        ProviderError::new(Kind::Throttled, "Encrypt", self.key.to_string())
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

#[async_trait]
impl KeyProvider for Watched {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.see(request.deadline, None);
        self.key.generate_data_key(request).await
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.see(request.deadline, None);
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut polled = 0;
        let ready = poll_fn(|cx| {
            let ready = self.polls.map_or(self.asked.load(Ordering::SeqCst) >= self.together, |polls| polled >= polls);
            polled += 1;
            cx.waker().wake_by_ref();
            if ready || polled > 1000 { Poll::Ready(ready) } else { Poll::Pending }
        });
        let is_ready = ready.await;
        self.done.fetch_add(1, Ordering::SeqCst);
        if self.fails || !is_ready { Err(self.failure()) } else { self.key.encrypt_data_key(request).await }
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.see(request.deadline, Some(request.tries_per_kms_key));
        self.key.decrypt_data_key(request).await
    }
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn names(keys: &[EncryptedDataKey]) -> Vec<String> {
    keys.iter().map(|key| key.key_name().to_string()).collect()
}

#[test]
fn several_providers_encrypt_at_the_same_time_and_keep_their_order() {
    // Each of them responds only after all have been called.
    let waiting = |together, names: &[&str]| {
        let asked = Arc::new(AtomicUsize::new(0));
        let child = |name: &&str| Watched { polls: None, together, asked: asked.clone(), ..Watched::new(name) };
        names.iter().map(child).fold(None, |several: Option<MultiProvider>, child| {
            Some(several.map_or_else(|| MultiProvider::new(Watched::new(NAMES[0])), |several| several.with(child)))
        })
    };
    // The generator creates the data key, so five providers remain to encrypt it.
    let message = seal(waiting(5, &NAMES).unwrap());
    assert_eq!(names(header(&message).encrypted_data_keys()), NAMES);

    // All of them encrypt an existing data key.
    let all = MultiProvider::new(waiting(5, &NAMES).unwrap());
    let old = Envelope::new(local("old"));
    let message = block_on(old.seal(b"data", &context())).unwrap();
    let keys = block_on(old.rewrap(&header(&message), &context(), &all)).unwrap();
    assert_eq!(names(keys.encrypted_data_keys()), NAMES);
}

proptest! {
    /// Tests sealing, and encrypting an existing data key.
    #[test]
    fn of_several_failures_the_first_in_order_is_reported_whatever_the_timing(
        children in proptest::collection::vec((0_usize..20, any::<bool>()), 1..6),
        seals: bool,
    ) {
        let done = Arc::new(AtomicUsize::new(0));
        let several = children.iter().zip(&NAMES[1..]).fold(
            MultiProvider::new(local("a")),
            |several, (&(polls, fails), name)| {
                several.with(Watched { polls: Some(polls), fails, done: done.clone(), ..Watched::new(name) })
            },
        );
        let result = if seals {
            block_on(Envelope::new(several).seal(b"data", &context())).map(|message| {
                header(&message).encrypted_data_keys().len()
            }).map_err(|error| error.to_string())
        } else {
            let (context, data_key) = (context(), SecretKey::from([1; 32]));
            let request = EncryptDataKeyRequest::new(Default::default(), &context, &data_key);
            block_on(several.encrypt_data_key(&request)).map(|keys| keys.len()).map_err(|error| error.to_string())
        };
        // No request is abandoned halfway.
        prop_assert_eq!(done.load(Ordering::SeqCst), children.len());
        match children.iter().position(|(_, fails)| *fails) {
            None => prop_assert_eq!(result, Ok(children.len() + 1)),
            Some(first) => {
                let error = result.unwrap_err();
                prop_assert!(error.contains(&format!("tests/{}", NAMES[first + 1])), "{} {:?}", error, children);
            }
        }
    }
}

#[test]
fn every_request_for_a_message_carries_its_deadline_and_limit() {
    let (old, new) = (Watched::new("old"), Watched::new("new"));
    let (seen_by_old, seen_by_new) = (old.seen.clone(), new.seen.clone());
    let timeout = Duration::from_secs(1000);
    let limits = Limits::default().with_tries_per_kms_key(7);
    let envelope = Envelope::builder(old).key_timeout(timeout).limits(limits).build().unwrap();
    let start = Instant::now();
    let message = block_on(envelope.seal(b"data", &context())).unwrap();
    block_on(envelope.open(&message, &context())).unwrap();
    block_on(envelope.rewrap(&header(&message), &context(), &new)).unwrap();
    let range = start + timeout..=Instant::now() + timeout;
    let [(sealing, None), (opening, Some(7)), (rewrapping, Some(7))] = seen_by_old.lock().unwrap()[..] else {
        panic!("{seen_by_old:?}")
    };
    for deadline in [sealing, opening, rewrapping] {
        assert!(range.contains(&deadline.unwrap()), "{deadline:?}");
    }
    // Each message has its own deadline. The requests of one rewrapping share a deadline.
    assert!(sealing < opening && opening < rewrapping);
    assert_eq!(*seen_by_new.lock().unwrap(), [(rewrapping, None)]);
}

#[test]
fn of_several_providers_each_but_the_last_gets_half_of_the_remaining_time() {
    let children = ["x", "y", "z"].map(Watched::new);
    let seen = children.each_ref().map(|child| child.seen.clone());
    let [first, second, third] = children;
    let several = MultiProvider::new(first).with(second).with(third);
    let (context, found) = (context(), [EncryptedDataKey::new("tests", &b"none"[..], &b"c"[..])]);
    let request = DecryptDataKeyRequest::new(Default::default(), &context, &found).with_tries_per_kms_key(3);
    for given in [Some(Duration::from_secs(1000)), None] {
        let start = Instant::now();
        let given_request = given.map_or(request, |given| request.with_deadline(start + given));
        block_on(several.decrypt_data_key(&given_request)).unwrap_err();
        // Without a deadline, ten seconds. The first ones respond at once and leave all of the time.
        let (all, spent) = (given.unwrap_or(Duration::from_secs(10)), start.elapsed());
        for (seen, share) in seen.iter().zip([all / 2, all / 2, all]) {
            let (deadline, tries) = seen.lock().unwrap().pop().unwrap();
            let deadline = deadline.unwrap() - start;
            assert!(deadline >= share && deadline <= share + spent, "{deadline:?} {share:?}");
            assert_eq!(tries, Some(3));
        }
    }
    // After the deadline, no provider has time left.
    block_on(several.decrypt_data_key(&request.with_deadline(Instant::now()))).unwrap_err();
    assert!(seen.iter().all(|seen| seen.lock().unwrap()[0].0.unwrap() <= Instant::now()));
}

#[test]
fn generating_and_encrypting_with_several_providers_share_one_deadline() {
    let children = ["x", "y", "z"].map(Watched::new);
    let seen = children.each_ref().map(|child| child.seen.clone());
    let [first, second, third] = children;
    let several = MultiProvider::new(first).with(second).with(third);
    let (context, start) = (context(), Instant::now());
    let request = GenerateDataKeyRequest::new(Default::default(), &context);
    for given in [Some(start + Duration::from_secs(1000)), None] {
        block_on(several.generate_data_key(&given.map_or(request, |given| request.with_deadline(given)))).unwrap();
        let [(Some(first), None), (second, None), (third, None)] =
            seen.each_ref().map(|s| s.lock().unwrap().pop().unwrap())
        else {
            panic!("{seen:?}")
        };
        assert_eq!((Some(first), Some(first)), (second, third));
        // Without a deadline, ten seconds.
        let ten = Duration::from_secs(10);
        assert!(given.map_or(first - start >= ten && first <= Instant::now() + ten, |given| first == given));
    }
}

#[test]
fn a_request_has_no_deadline_and_the_default_limit_unless_it_is_given_one() {
    let (context, data_key, suite) = (context(), SecretKey::from([1; 32]), Default::default());
    assert_eq!(DecryptDataKeyRequest::new(suite, &context, &[]).tries_per_kms_key, 2);
    assert_eq!(DecryptDataKeyRequest::new(suite, &context, &[]).deadline, None);
    assert_eq!(GenerateDataKeyRequest::new(suite, &context).deadline, None);
    let now = Instant::now();
    assert_eq!(GenerateDataKeyRequest::new(suite, &context).with_deadline(now).deadline, Some(now));
    let encrypt = EncryptDataKeyRequest::new(suite, &context, &data_key);
    assert_eq!((encrypt.deadline, encrypt.with_deadline(now).deadline), (None, Some(now)));
}
