//! The key providers that need no service: RSA, ECDH, branch keys, and several as one.

use kms_envelope::{
    ConfigError, EcdhPrivateKey, EcdhPublicKey, EncryptionContext, Envelope, KeyProvider, LocalKey, MultiProvider,
    OpenError, ProviderError, RawEcdh, RawRsa, RsaPadding, SealError, SecretKey, StaticBranchKey,
};
use pollster::block_on;

fn pem(name: &str) -> String {
    std::fs::read_to_string(format!("tests/fixtures/pem/{name}.pem")).unwrap()
}

fn context() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme")])
}

fn seal(provider: impl KeyProvider + 'static) -> Vec<u8> {
    block_on(Envelope::new(provider).seal(b"data", &context())).unwrap()
}

fn open(provider: impl KeyProvider + 'static, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    block_on(Envelope::new(provider).open(message, &context())).map(|opened| opened.plaintext)
}

fn assert_round_trip(sealing: impl KeyProvider + 'static, opening: impl KeyProvider + 'static) {
    assert_eq!(open(opening, &seal(sealing)).unwrap(), b"data");
}

fn no_matching_key(result: Result<Vec<u8>, OpenError>) -> bool {
    matches!(result, Err(OpenError::Provider(ProviderError::NoMatchingKey { .. })))
}

fn invalid_ciphertext(result: Result<Vec<u8>, OpenError>) -> bool {
    match result {
        Err(OpenError::Provider(ProviderError::NoneDecrypted { attempts })) => {
            attempts.iter().all(|error| matches!(error, ProviderError::InvalidCiphertext { .. }))
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
fn the_rsa_private_key_opens_what_the_public_one_sealed_with_each_padding() {
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
fn rsa_needs_the_key_that_it_is_asked_to_use() {
    let padding = RsaPadding::OaepSha256;
    let refused = block_on(Envelope::new(rsa_private(padding)).seal(b"data", &context()));
    assert!(matches!(refused, Err(SealError::Provider(ProviderError::Other { operation: "Encrypt", .. }))));
    let refused = open(rsa_public(padding), &seal(rsa_public(padding)));
    let Err(OpenError::Provider(ProviderError::NoneDecrypted { attempts })) = refused else { panic!("{refused:?}") };
    assert!(matches!(attempts[..], [ProviderError::Other { operation: "Decrypt", .. }]));
}

#[test]
fn an_rsa_key_of_another_name_is_not_tried() {
    let message = seal(rsa_public(RsaPadding::OaepSha256));
    for (namespace, name) in [("tests", "rs"), ("test", "rsa"), ("tests", "rsa2")] {
        let other = RawRsa::new(namespace, name, RsaPadding::OaepSha256).unwrap();
        assert!(no_matching_key(open(other.with_private_key_pem(&pem("rsa-private")).unwrap(), &message)));
    }
}

#[test]
fn what_is_no_rsa_key_is_refused_with_what_to_do() {
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

/// A second key on the curve of each PEM file: of itself with itself, which is a pair as good as any.
fn with_itself(curve: &str) -> RawEcdh {
    RawEcdh::between(private(curve), public(curve)).unwrap()
}

#[test]
fn each_scheme_of_ecdh_opens_what_its_counterpart_sealed_on_each_curve() {
    for curve in CURVES {
        assert_eq!(private(curve).public_key(), public(curve));
        assert_round_trip(RawEcdh::ephemeral(public(curve)), RawEcdh::discovery(private(curve)));
        assert_round_trip(with_itself(curve), with_itself(curve));
        assert_round_trip(with_itself(curve), RawEcdh::discovery(private(curve)));
    }
}

#[test]
fn ecdh_does_not_open_what_is_for_another_key() {
    let message = seal(RawEcdh::ephemeral(public("p256")));
    assert!(no_matching_key(open(RawEcdh::discovery(private("p384")), &message)));
    // It is from an ephemeral key, and not from this one.
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
fn a_scheme_of_ecdh_does_only_what_it_can() {
    let refused = block_on(Envelope::new(RawEcdh::discovery(private("p256"))).seal(b"", &context()));
    assert!(matches!(refused, Err(SealError::Provider(ProviderError::Other { .. }))));
    let refused = open(RawEcdh::ephemeral(public("p256")), &seal(RawEcdh::ephemeral(public("p256"))));
    assert!(matches!(refused, Err(OpenError::Provider(ProviderError::Other { .. }))));
    let refused = RawEcdh::between(private("p256"), public("p384")).unwrap_err();
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
fn a_branch_key_opens_what_its_version_sealed() {
    let message = seal(branch_key("branch", 1, 1));
    assert_eq!(open(branch_key("branch", 1, 1), &message).unwrap(), b"data");
    assert!(invalid_ciphertext(open(branch_key("branch", 2, 1), &message)));
    assert!(invalid_ciphertext(open(branch_key("branch", 1, 2), &message)));
    assert!(no_matching_key(open(branch_key("another", 1, 1), &message)));
    let short = SecretKey::try_from(vec![0; 16]).unwrap();
    assert!(matches!(StaticBranchKey::new("branch", [0; 16], short), Err(ConfigError::KeyLen(16))));
    assert_eq!(format!("{:?}", branch_key("branch", 1, 0x41)), "StaticBranchKey(aws-kms-hierarchy/branch)");
}

// Each: damage.

#[test]
fn an_encrypted_data_key_with_any_bit_changed_does_not_open() {
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
        // The encrypted data key is behind the message id and the context.
        let start = 1 + 2 + 32 + 2 + 2 + 2 + 6 + 2 + 4 + 2;
        for at in start..message.len() - 100 {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert!(block_on(envelope.open(&changed, &context())).is_err(), "{envelope:?} {at}");
        }
    }
}

// Several.

fn local(name: &str) -> LocalKey {
    LocalKey::new("tests", name, [name.as_bytes()[0]; 32]).unwrap()
}

#[test]
fn each_of_several_providers_opens_and_the_first_that_can_is_named() {
    let all = || MultiProvider::new(local("a")).with(rsa_public(RsaPadding::OaepSha256)).with(local("c"));
    let message = seal(all());
    for name in ["a", "c"] {
        let opened = block_on(Envelope::new(local(name)).open(&message, &context())).unwrap();
        assert_eq!(opened.encrypted_data_key.key_name(), name);
    }
    assert_eq!(open(rsa_private(RsaPadding::OaepSha256), &message).unwrap(), b"data");
    let reading = MultiProvider::new(local("x")).with(local("c")).with(local("a"));
    let opened = block_on(Envelope::new(reading).open(&message, &context())).unwrap();
    assert_eq!(opened.encrypted_data_key.key_name(), "c");
    // Several in several.
    let nested = MultiProvider::new(local("x")).with(all());
    assert_eq!(open(local("c"), &seal(nested)).unwrap(), b"data");
}

#[test]
fn of_several_providers_that_cannot_all_say_why_in_order() {
    let wrong = LocalKey::new("tests", "a", [9; 32]).unwrap();
    let message = seal(local("a"));
    let error = open(MultiProvider::new(local("x")).with(wrong).with(local("y")), &message).unwrap_err();
    let OpenError::Provider(ProviderError::NoneDecrypted { attempts }) = &error else { panic!("{error}") };
    assert!(matches!(
        attempts[..],
        [ProviderError::NoMatchingKey { .. }, ProviderError::NoneDecrypted { .. }, ProviderError::NoMatchingKey { .. }]
    ));
    let text = error.to_string();
    assert!(text.contains("tests/x") && text.contains("tests/a") && text.contains("tests/y"), "{text}");
}

#[test]
fn where_one_of_several_providers_fails_nothing_is_sealed() {
    let failing = || rsa_private(RsaPadding::OaepSha256);
    for several in [MultiProvider::new(local("a")).with(failing()), MultiProvider::new(failing()).with(local("a"))] {
        assert!(matches!(block_on(Envelope::new(several).seal(b"", &context())), Err(SealError::Provider(_))));
    }
}
