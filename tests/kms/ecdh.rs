//! Keys for key agreement in KMS. Sealing and opening each ask KMS for the shared secret.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use aws_sdk_kms::{
    Client,
    operation::{
        derive_shared_secret::{DeriveSharedSecretInput, DeriveSharedSecretOutput},
        get_public_key::GetPublicKeyOutput,
    },
    primitives::Blob,
    types::{KeyAgreementAlgorithmSpec, KeyUsageType},
};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;
use base64ct::{Base64, Encoding};
use kms_envelope::{
    AlgorithmSuite, Backend, ConfigError, EncryptionContext, Envelope, ErrorKind, KeyProvider, OpenError,
    ProviderError, SealError,
    message::EncryptedDataKey,
    provider::{
        AwsKmsEcdh, DecryptDataKeyRequest, EcdhPrivateKey, EcdhPublicKey, EncryptDataKeyRequest, MultiProvider,
        ProviderErrorKind as Kind, RawEcdh, ResolveError, SecretKey,
    },
};
use test_support::{
    context,
    fixtures::pem,
    header,
    kms::{CURVES, Endpoint, Fault, Rsa, arn, other},
};

const REGION: &str = "eu-west-1";
const CURVE: &str = "p256";
/// No point on any of the curves has this x-coordinate.
const NOT_ON_CURVE: u8 = 7;

fn endpoint() -> Endpoint {
    Endpoint::with_agreement_keys(REGION)
}

/// Returns the private key of the fixtures, which is also the KMS key whose id is the curve.
fn private(curve: &str) -> EcdhPrivateKey {
    EcdhPrivateKey::from_pem(&pem(&format!("{curve}-private"))).unwrap()
}

fn public(curve: &str) -> EcdhPublicKey {
    EcdhPublicKey::from_pem(&pem(&format!("{curve}-public"))).unwrap()
}

async fn fetched(endpoint: &Endpoint, id: &str) -> EcdhPublicKey {
    AwsKmsEcdh::fetch_public_key(endpoint.client(REGION), arn(REGION, id)).await.unwrap()
}

async fn discovery(endpoint: &Endpoint, id: &str) -> AwsKmsEcdh {
    AwsKmsEcdh::discovery(endpoint.client(REGION), arn(REGION, id), fetched(endpoint, id).await).unwrap()
}

/// Returns the provider of the party with the KMS key `id`; the other party has the KMS key `other`.
async fn between(endpoint: &Endpoint, id: &str, other: &str) -> AwsKmsEcdh {
    let (own, other) = (fetched(endpoint, id).await, fetched(endpoint, other).await);
    AwsKmsEcdh::static_keys(endpoint.client(REGION), arn(REGION, id), own, other).unwrap()
}

/// Returns a provider that opens, without fetching its public key.
fn opening(endpoint: &Endpoint, curve: &str) -> AwsKmsEcdh {
    AwsKmsEcdh::discovery(endpoint.client(REGION), arn(REGION, curve), public(curve)).unwrap()
}

async fn seal(provider: impl KeyProvider + 'static) -> Vec<u8> {
    Envelope::new(provider).seal(b"data", &context()).await.unwrap()
}

async fn open(provider: impl KeyProvider + 'static, sealed: &[u8]) -> Result<String, ProviderError> {
    match Envelope::new(provider).open(sealed, &context()).await {
        Ok(opened) => {
            assert_eq!(opened.plaintext, b"data");
            Ok(opened.info.key_id().to_owned())
        }
        Err(OpenError::Provider(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

/// Returns the kinds of the attempts.
fn kinds(error: &ProviderError) -> Vec<Kind> {
    assert_eq!(error.kind(), Kind::NoneDecrypted, "{error}");
    error.attempts().iter().map(ProviderError::kind).collect()
}

/// Returns an encrypted data key of this curve, for the KMS key whose id is the curve.
async fn genuine(curve: &str) -> EncryptedDataKey {
    header(&seal(RawEcdh::ephemeral(public(curve))).await).encrypted_data_keys()[0].clone()
}

fn with_info(encrypted: &EncryptedDataKey, info: Vec<u8>) -> EncryptedDataKey {
    EncryptedDataKey::new("aws-kms-ecdh", info, encrypted.ciphertext.clone())
}

fn with_ciphertext(encrypted: &EncryptedDataKey, ciphertext: Vec<u8>) -> EncryptedDataKey {
    EncryptedDataKey::new("aws-kms-ecdh", encrypted.provider_info.clone(), ciphertext)
}

/// Returns the error of a provider that can decrypt none of these encrypted data keys.
async fn not_decrypted(provider: &AwsKmsEcdh, keys: &[EncryptedDataKey]) -> ProviderError {
    let context = context();
    let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, keys);
    provider.decrypt_data_key(&request).await.unwrap_err()
}

// Both parties.

#[tokio::test]
async fn either_party_seals_and_both_open_with_one_request_each_on_every_curve_and_backend() {
    let endpoint = endpoint();
    for curve in CURVES {
        let theirs = other(curve);
        let (ours, partner) = (between(&endpoint, curve, &theirs).await, between(&endpoint, &theirs, curve).await);
        let (by_recipient, by_sender) = (discovery(&endpoint, &theirs).await, discovery(&endpoint, curve).await);
        for backend in Backend::ALL.iter().copied() {
            let envelope = |key: &AwsKmsEcdh| Envelope::builder(key.clone()).backend(backend).build().unwrap();
            let before = endpoint.calls_of("DeriveSharedSecret");
            let sealed = envelope(&ours).seal(b"data", &context()).await.unwrap();
            assert_eq!(endpoint.calls_of("DeriveSharedSecret") - before, 1);
            assert_eq!(header(&sealed).encrypted_data_keys()[0].provider_id, "aws-kms-ecdh");
            for (key, id) in [(&ours, curve), (&partner, &theirs), (&by_recipient, &theirs)] {
                for opening in Backend::ALL.iter().copied() {
                    let envelope = Envelope::builder(key.clone()).backend(opening).build().unwrap();
                    let before = endpoint.calls_of("DeriveSharedSecret");
                    let opened = envelope.open(&sealed, &context()).await.unwrap();
                    assert_eq!((&opened.plaintext[..], opened.info.key_id()), (&b"data"[..], &*arn(REGION, id)));
                    assert_eq!(endpoint.calls_of("DeriveSharedSecret") - before, 1);
                }
            }
            // Discovery is for messages to the key, not from it.
            assert_eq!(open(by_sender.clone(), &sealed).await.unwrap_err().kind(), Kind::NoMatchingKey);
        }
    }
}

#[tokio::test]
async fn keys_in_memory_and_in_kms_open_each_others_messages() {
    let endpoint = endpoint();
    for curve in CURVES {
        let theirs = other(curve);
        let sealed = seal(RawEcdh::ephemeral(fetched(&endpoint, curve).await)).await;
        assert_eq!(open(opening(&endpoint, curve), &sealed).await.unwrap(), arn(REGION, curve));

        // One party has its key in memory, the other one in KMS.
        let in_memory = || async { RawEcdh::static_keys(private(curve), fetched(&endpoint, &theirs).await).unwrap() };
        let in_kms = between(&endpoint, &theirs, curve).await;
        let from_memory = seal(in_memory().await).await;
        let from_kms = seal(in_kms.clone()).await;
        for (sealed, provider_id) in [(&from_memory, "raw-ecdh"), (&from_kms, "aws-kms-ecdh")] {
            assert_eq!(header(sealed).encrypted_data_keys()[0].provider_id, provider_id);
            open(in_memory().await, sealed).await.unwrap();
            open(in_kms.clone(), sealed).await.unwrap();
        }
        open(RawEcdh::discovery(private(curve)), &from_kms).await.unwrap();
        open(discovery(&endpoint, &theirs).await, &from_memory).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_opens_messages_only_of_its_own_parties() {
    let endpoint = endpoint();
    let (ours, theirs) = ("p256", &other("p256"));
    let for_us = seal(RawEcdh::ephemeral(public(ours))).await;
    let for_another_curve = seal(RawEcdh::ephemeral(public("p384"))).await;
    let for_them = seal(RawEcdh::ephemeral(fetched(&endpoint, theirs).await)).await;
    let from_them = seal(between(&endpoint, theirs, ours).await).await;
    let them = fetched(&endpoint, theirs).await;
    let before = endpoint.log().len();
    let with_ourselves =
        AwsKmsEcdh::static_keys(endpoint.client(REGION), arn(REGION, ours), public(ours), public(ours));
    // The sender is its own key, but the recipient is not the other party.
    let themselves_only = AwsKmsEcdh::static_keys(endpoint.client(REGION), arn(REGION, theirs), them.clone(), them);
    for (key, sealed) in [
        // The sender is ephemeral, not the other party.
        (with_ourselves.unwrap(), &for_us),
        (themselves_only.unwrap(), &from_them),
        (opening(&endpoint, ours), &for_another_curve),
        (opening(&endpoint, ours), &for_them),
    ] {
        let error = open(key, sealed).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoMatchingKey, "{error}");
    }
    assert_eq!(endpoint.log().len(), before);
}

#[tokio::test]
async fn the_context_is_bound_to_the_data_key_and_not_sent_to_kms() {
    let endpoint = endpoint();
    let key = between(&endpoint, CURVE, &other(CURVE)).await;
    let envelope = Envelope::builder(key).required_context(["tenant"]).build().unwrap();
    let sealed = envelope.seal(b"data", &context()).await.unwrap();
    assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    let other = EncryptionContext::from([("tenant", "other")]);
    let OpenError::Provider(error) = envelope.open(&sealed, &other).await.unwrap_err() else { panic!() };
    assert_eq!((kinds(&error), error.error_kind()), (vec![Kind::InvalidCiphertext], ErrorKind::WrongContext));
}

#[tokio::test]
async fn every_suite_seals_and_opens_even_those_that_sign() {
    let endpoint = endpoint();
    let key = between(&endpoint, "p384", &other("p384")).await;
    for suite in AlgorithmSuite::all() {
        let builder = Envelope::builder(key.clone()).suite(suite).commitment_policy(test_support::policy_for(suite));
        let envelope = builder.build().unwrap();
        let sealed = envelope.seal(b"data", &context()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data", "{suite}");
    }
}

#[tokio::test]
async fn grant_tokens_go_with_requests_for_secrets_and_for_the_public_key() {
    let endpoint = endpoint();
    let key = between(&endpoint, CURVE, &other(CURVE)).await.with_grant_tokens(["one", "two"]);
    open(key.clone(), &seal(key).await).await.unwrap();
    let client = endpoint.client(REGION);
    let fetch = AwsKmsEcdh::fetch_public_key_with_grant_tokens(client, arn(REGION, CURVE), ["one", "two"]);
    assert_eq!(fetch.await.unwrap(), public(CURVE));
    assert_eq!(endpoint.grant_tokens()[2..], vec![serde_json::json!(["one", "two"]); 3]);
}

/// KMS computes with the private key, so it does not notice a wrong public key.
#[tokio::test]
async fn with_the_wrong_public_key_of_its_own_the_other_party_cannot_open() {
    let endpoint = endpoint();
    let (wrong, partner) = (private(CURVE).public_key(), fetched(&endpoint, &other(CURVE)).await);
    let mistaken = AwsKmsEcdh::static_keys(endpoint.client(REGION), arn(REGION, &other(CURVE)), wrong, partner);
    let sealed = seal(mistaken.unwrap()).await;
    let error = open(discovery(&endpoint, &other(CURVE)).await, &sealed).await.unwrap_err();
    assert_eq!(kinds(&error), [Kind::InvalidCiphertext]);
}

#[tokio::test]
async fn an_encrypted_data_key_that_is_invalid_with_one_key_is_tried_with_the_next_one() {
    let endpoint = endpoint();
    let sealed = seal(RawEcdh::ephemeral(public(CURVE))).await;
    let mistaken = AwsKmsEcdh::discovery(endpoint.client(REGION), arn(REGION, &other(CURVE)), public(CURVE)).unwrap();
    let several = MultiProvider::new(mistaken).with(opening(&endpoint, CURVE));
    assert_eq!(open(several, &sealed).await.unwrap(), arn(REGION, CURVE));
    assert_eq!(endpoint.calls_of("DeriveSharedSecret"), 2);
}

// Configurations, with the text of each error.

#[tokio::test]
async fn every_bad_configuration_is_refused_with_its_reason() {
    let endpoint = endpoint();
    let client = || endpoint.client(REGION);
    let key_arn = arn(REGION, CURVE);
    let malformed = "\"alias/ecdh\" is not the ARN of a KMS key: an alias or a bare key id does not always refer to the \
                     same key; use the key ARN, or AwsKms::resolve";
    let curves = "the ECDH public key cannot be used: it is on the curve p384, but the private key is on p256";
    let refused: [(Result<AwsKmsEcdh, ConfigError>, &str); 4] = [
        (AwsKmsEcdh::discovery(client(), "alias/ecdh", public(CURVE)), malformed),
        (AwsKmsEcdh::static_keys(client(), "alias/ecdh", public(CURVE), public(CURVE)), malformed),
        (AwsKmsEcdh::static_keys(client(), &key_arn, public(CURVE), public("p384")), curves),
        (
            AwsKmsEcdh::discovery(client(), "arn:aws:s3:::bucket", public(CURVE)),
            "\"arn:aws:s3:::bucket\" is not the ARN of a KMS key: its region is empty; the format is \
             arn:aws:kms:REGION:ACCOUNT:key/ID",
        ),
    ];
    for (result, expected) in refused {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    let of_name = AwsKmsEcdh::fetch_public_key(client(), "alias/ecdh").await.unwrap_err();
    assert_eq!((of_name.to_string(), of_name.kind()), (malformed.to_owned(), ErrorKind::InvalidInput));

    let discovery = opening(&endpoint, CURVE);
    let error = Envelope::new(discovery).seal(b"data", &context()).await.unwrap_err();
    let why = format!(
        "Encrypt with {key_arn} is not supported: AwsKmsEcdh::discovery has no recipient; seal with \
         AwsKmsEcdh::static_keys or RawEcdh::ephemeral"
    );
    assert_eq!((error.to_string(), error.kind()), (why, ErrorKind::InvalidInput));
    assert!(endpoint.log().is_empty());
}

#[tokio::test]
async fn a_key_that_is_not_for_key_agreement_has_no_public_key_to_fetch() {
    let (symmetric, rsa) =
        (Endpoint::new([(REGION, "key")]), Endpoint::with_rsa([(REGION, "key")], Some(Rsa::of_fixtures())));
    let with_key = format!("GetPublicKey with key {}", arn(REGION, "key"));
    for (endpoint, expected) in [
        (&symmetric, format!("{with_key} failed")),
        (
            &rsa,
            format!(
                "{with_key}: the key's state or type does not allow this; enable the key, or use another one: its usage \
                 is ENCRYPT_DECRYPT, not KEY_AGREEMENT"
            ),
        ),
    ] {
        let fetch = AwsKmsEcdh::fetch_public_key(endpoint.client(REGION), arn(REGION, "key")).await;
        let Err(ResolveError::Provider(error)) = fetch else { panic!("{fetch:?}") };
        assert_eq!(error.to_string(), expected);
    }
}

// Responses.

fn client(rule: &Rule) -> Client {
    mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[rule])
}

fn der(curve: &str) -> Vec<u8> {
    let pem = pem(&format!("{curve}-public"));
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    Base64::decode_vec(&base64).unwrap()
}

#[tokio::test]
async fn every_invalid_public_key_in_a_response_is_refused() {
    type Change = fn(GetPublicKeyOutput) -> GetPublicKeyOutput;
    let unnamed = "unexpected response: the response does not name this key";
    let unusable = "the key's state or type does not allow this; enable the key, or use another one";
    let cases: [(Change, &str); 8] = [
        (
            |mut answer| {
                answer.key_id = None;
                answer
            },
            unnamed,
        ),
        (
            |mut answer| {
                answer.key_id = Some(CURVE.into());
                answer
            },
            unnamed,
        ),
        (
            |mut answer| {
                answer.key_usage = None;
                answer
            },
            "its usage is (none), not KEY_AGREEMENT",
        ),
        (
            |mut answer| {
                answer.key_usage = Some(KeyUsageType::SignVerify);
                answer
            },
            "its usage is SIGN_VERIFY, not KEY_AGREEMENT",
        ),
        (
            |mut answer| {
                answer.public_key = None;
                answer
            },
            "the ECDH public key cannot be used",
        ),
        (
            |mut answer| {
                // secp256k1.
                let mut der = der(CURVE);
                der.splice(13..23, [6, 5, 0x2b, 0x81, 4, 0, 0x0a]);
                (der[1], der[3]) = (der[1] - 3, der[3] - 3);
                answer.public_key = Some(Blob::new(der));
                answer
            },
            "it has another algorithm; expected a key on P-256, P-384 or P-521",
        ),
        (
            |mut answer| {
                let mut der = der(CURVE);
                der[60] ^= 1;
                answer.public_key = Some(Blob::new(der));
                answer
            },
            "it is not a point on its curve",
        ),
        (
            |mut answer| {
                answer.public_key = Some(Blob::new([der(CURVE), vec![0]].concat()));
                answer
            },
            "the ECDH public key cannot be used",
        ),
    ];
    for (change, expected) in cases {
        let rule = mock!(Client::get_public_key).then_output(move || {
            let answer = GetPublicKeyOutput::builder().key_id(arn(REGION, CURVE));
            change(answer.key_usage(KeyUsageType::KeyAgreement).public_key(Blob::new(der(CURVE))).build())
        });
        let error = AwsKmsEcdh::fetch_public_key(client(&rule), arn(REGION, CURVE)).await.unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("GetPublicKey with key arn:") && said.contains(expected), "{said}");
        assert!(expected == unnamed || said.contains(unusable), "{said}");
        assert!(!error.is_retryable());
    }
}

fn derived(secret: &[u8]) -> DeriveSharedSecretOutput {
    let answer = DeriveSharedSecretOutput::builder().key_id(arn(REGION, CURVE));
    answer.key_agreement_algorithm(KeyAgreementAlgorithmSpec::Ecdh).shared_secret(Blob::new(secret)).build()
}

/// Returns the provider of a party that is also the other party, with made-up responses.
fn with_itself(rule: &Rule) -> AwsKmsEcdh {
    AwsKmsEcdh::static_keys(client(rule), arn(REGION, CURVE), public(CURVE), public(CURVE)).unwrap()
}

#[tokio::test]
async fn a_request_has_the_key_the_algorithm_and_the_other_partys_public_key_in_der() {
    for backend in Backend::ALL.iter().copied() {
        let rule = mock!(Client::derive_shared_secret)
            .match_requests(|request| {
                *request
                    == DeriveSharedSecretInput::builder()
                        .key_id(arn(REGION, CURVE))
                        .key_agreement_algorithm(KeyAgreementAlgorithmSpec::Ecdh)
                        .public_key(Blob::new(der(CURVE)))
                        .build()
                        .unwrap()
            })
            .then_output(|| derived(&[7; 32]));
        let envelope = Envelope::builder(with_itself(&rule)).backend(backend).build().unwrap();
        let sealed = envelope.seal(b"data", &context()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data");
        assert_eq!(rule.num_calls(), 2);
    }
}

#[tokio::test]
async fn every_invalid_shared_secret_in_a_response_is_refused_on_sealing_and_on_opening() {
    let sealed = {
        let rule = mock!(Client::derive_shared_secret).then_output(|| derived(&[7; 32]));
        seal(with_itself(&rule)).await
    };
    type Answer = fn() -> DeriveSharedSecretOutput;
    let cases: [(Answer, &str); 7] = [
        (
            || {
                let mut answer = derived(&[7; 32]);
                answer.key_id = None;
                answer
            },
            "the response does not name this key",
        ),
        (
            || {
                let mut answer = derived(&[7; 32]);
                answer.key_id = Some(arn(REGION, "another"));
                answer
            },
            "the response does not name this key",
        ),
        (
            || {
                let mut answer = derived(&[7; 32]);
                answer.key_agreement_algorithm = None;
                answer
            },
            "the response does not name the algorithm ECDH",
        ),
        (
            || {
                let mut answer = derived(&[7; 32]);
                answer.key_agreement_algorithm = Some("ECMQV".into());
                answer
            },
            "the response does not name the algorithm ECDH",
        ),
        (
            || {
                let mut answer = derived(&[7; 32]);
                answer.shared_secret = None;
                answer
            },
            "a shared secret of 0 bytes, not 32",
        ),
        (|| derived(&[7; 31]), "a shared secret of 31 bytes, not 32"),
        (|| derived(&[7; 48]), "a shared secret of 48 bytes, not 32"),
    ];
    for (answer, expected) in cases {
        let rule = mock!(Client::derive_shared_secret).then_output(answer);
        let sealing = Envelope::new(with_itself(&rule)).seal(b"data", &context()).await.unwrap_err();
        let SealError::Provider(sealing) = sealing else { panic!("{sealing}") };
        let opening = open(with_itself(&rule), &sealed).await.unwrap_err();
        for error in [&sealing, &opening.attempts()[0]] {
            let expected =
                format!("DeriveSharedSecret with key {}: unexpected response: {expected}", arn(REGION, CURVE));
            assert_eq!((error.kind(), error.to_string()), (Kind::UnexpectedResponse, expected));
            let printed = format!("{error:?}");
            assert!(!printed.contains("7, 7, 7"), "{printed}");
        }
    }
    // A secret of the right length that is not the parties' secret.
    let rule = mock!(Client::derive_shared_secret).then_output(|| derived(&[8; 32]));
    assert_eq!(kinds(&open(with_itself(&rule), &sealed).await.unwrap_err()), [Kind::InvalidCiphertext]);
}

#[tokio::test]
async fn a_shared_secret_in_a_truncated_response_is_not_printed() {
    let cut = || {
        let body = r#"{"SharedSecret":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","KeyId":"arn"#;
        Response::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body))
    };
    let rule = mock!(Client::derive_shared_secret).then_http_response(cut);
    let sealing = Envelope::new(with_itself(&rule)).seal(b"data", &context()).await.unwrap_err();
    let mut said = format!("{sealing} {sealing:?} {sealing:#?}");
    let mut cause = sealing.source();
    while let Some(error) = cause {
        said.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    assert!(!said.contains("BwcHBwc") && !said.contains("7, 7, 7"), "{said}");
    assert!(sealing.is_retryable(), "{sealing}");
}

// Failures of KMS, over HTTP.

#[tokio::test]
async fn each_failure_of_kms_has_its_kind_on_sealing_and_on_opening() {
    let endpoint = endpoint();
    let key = between(&endpoint, CURVE, &other(CURVE)).await.with_timeout(Duration::from_millis(500));
    let sealed = seal(key.clone()).await;
    for (fault, kind) in [
        (Fault::Throttle, Kind::Throttled),
        (Fault::Hang, Kind::TimedOut),
        (Fault::Cut, Kind::Unavailable),
        (Fault::Close, Kind::Unavailable),
        (Fault::OtherKey, Kind::UnexpectedResponse),
        (Fault::Refuse("AccessDeniedException"), Kind::AccessDenied),
        (Fault::Refuse("NotFoundException"), Kind::NotFound),
        (Fault::Refuse("DisabledException"), Kind::KeyUnusable),
        (Fault::Refuse("KMSInvalidStateException"), Kind::KeyUnusable),
        (Fault::Refuse("InvalidKeyUsageException"), Kind::KeyUnusable),
        (Fault::Refuse("KeyUnavailableException"), Kind::Unavailable),
        (Fault::Refuse("KMSInternalException"), Kind::Unavailable),
        (Fault::Refuse("DependencyTimeoutException"), Kind::Unavailable),
        (Fault::Refuse("InvalidGrantTokenException"), Kind::Other),
        (Fault::Refuse("ValidationException"), Kind::Other),
    ] {
        endpoint.script(move |_| fault);
        let sealing = Envelope::new(key.clone()).seal(b"data", &context()).await.unwrap_err();
        let SealError::Provider(sealing) = sealing else { panic!("{sealing}") };
        let opening = open(key.clone(), &sealed).await.unwrap_err();
        let [attempt] = opening.attempts() else { panic!("{opening}") };
        for error in [&sealing, attempt] {
            assert_eq!((error.kind(), error.operation()), (kind, "DeriveSharedSecret"), "{fault:?}: {error}");
            assert_eq!(error.key_id(), arn(REGION, CURVE));
        }
        let fetched = AwsKmsEcdh::fetch_public_key(
            endpoint.client_with(REGION, |config| {
                let limit = Duration::from_millis(500);
                let limit = aws_sdk_kms::config::timeout::TimeoutConfig::builder().operation_timeout(limit).build();
                config.retry_config(aws_sdk_kms::config::retry::RetryConfig::disabled()).timeout_config(limit)
            }),
            arn(REGION, CURVE),
        );
        let ResolveError::Provider(error) = fetched.await.unwrap_err() else { panic!("{fault:?}") };
        assert_eq!((error.kind(), error.operation()), (kind, "GetPublicKey"), "{fault:?}: {error}");
    }
    endpoint.script(|_| Fault::Late(Duration::from_millis(50)));
    open(key, &sealed).await.unwrap();
}

#[tokio::test]
async fn a_key_that_alone_is_unavailable_does_not_keep_another_one_from_opening() {
    let endpoint = endpoint();
    let theirs = other(CURVE);
    let client = endpoint.client(REGION);
    let of = |id: &str, own, other| AwsKmsEcdh::static_keys(client.clone(), arn(REGION, id), own, other).unwrap();
    let partner = fetched(&endpoint, &theirs).await;
    let ours = of(CURVE, public(CURVE), partner.clone());
    let several = || MultiProvider::new(ours.clone()).with(of(&theirs, partner.clone(), public(CURVE)));
    let sealed = seal(ours.clone()).await;
    let ours_fails = |code| {
        move |request: &test_support::kms::Request| match &request.key[..] {
            key if key == arn(REGION, CURVE) => Fault::Refuse(code),
            _ => Fault::None,
        }
    };
    endpoint.script(ours_fails("KeyUnavailableException"));
    assert_eq!(open(several(), &sealed).await.unwrap(), arn(REGION, &theirs));
    // If KMS fails, it gets no second request from the same client.
    endpoint.script(ours_fails("KMSInternalException"));
    let before = endpoint.calls_of("DeriveSharedSecret");
    open(several(), &sealed).await.unwrap_err();
    assert_eq!(endpoint.calls_of("DeriveSharedSecret") - before, 1);
}

#[tokio::test]
async fn a_silent_kms_is_left_at_the_deadline_and_when_the_caller_cancels() {
    let endpoint = endpoint();
    let key = between(&endpoint, CURVE, &other(CURVE)).await;
    let sealed = seal(key.clone()).await;
    endpoint.script(|_| Fault::Hang);
    let timeout = Duration::from_millis(300);
    let limited = Envelope::builder(key.clone()).key_timeout(timeout).build().unwrap();
    for operation in ["seal", "open"] {
        let start = Instant::now();
        let failed = match operation {
            "seal" => limited.seal(b"data", &context()).await.is_err(),
            _ => limited.open(&sealed, &context()).await.is_err(),
        };
        assert!(failed && start.elapsed() >= timeout && start.elapsed() < Duration::from_secs(8), "{operation}");
    }
    // No request after the deadline.
    let (before, data_key, context) = (endpoint.log().len(), SecretKey::from([1; 32]), context());
    let late = EncryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &data_key).with_deadline(Instant::now());
    assert_eq!(key.encrypt_data_key(&late).await.unwrap_err().kind(), Kind::TimedOut);
    assert_eq!(endpoint.log().len(), before);

    let (patient, before) = (Envelope::new(key), endpoint.given_up());
    assert!(tokio::time::timeout(timeout, patient.seal(b"data", &context)).await.is_err());
    assert!(tokio::time::timeout(timeout, patient.open(&sealed, &context)).await.is_err());
    let start = Instant::now();
    while endpoint.given_up() < before + 2 {
        assert!(start.elapsed() < Duration::from_secs(5), "no caller has given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// Hostile messages.

#[tokio::test]
async fn of_sixteen_encrypted_data_keys_with_our_public_key_two_are_tried() {
    let endpoint = endpoint();
    let key = opening(&endpoint, CURVE);
    let genuine = genuine(CURVE).await;
    let junk = with_ciphertext(&genuine, vec![1; genuine.ciphertext.len()]);
    let keys = [vec![junk; 15], vec![genuine]].concat();
    let error = not_decrypted(&key, &keys).await;
    assert_eq!(kinds(&error), [Kind::InvalidCiphertext, Kind::InvalidCiphertext, Kind::NotTried]);
    let last = error.attempts().last().unwrap().to_string();
    assert_eq!(last, "encrypted data keys not tried: 14; the limit for one KMS key is 2 (Limits::tries_per_kms_key)");
    assert_eq!(endpoint.calls_of("DeriveSharedSecret"), 2);

    // A KMS that throttles or does not answer gets one request.
    for (fault, kind) in [(Fault::Throttle, Kind::Throttled), (Fault::Hang, Kind::TimedOut)] {
        endpoint.script(move |_| fault);
        let before = endpoint.calls_of("DeriveSharedSecret");
        let limited = key.clone().with_timeout(Duration::from_millis(300));
        assert_eq!(kinds(&not_decrypted(&limited, &keys).await), [kind]);
        assert_eq!(endpoint.calls_of("DeriveSharedSecret") - before, 1);
    }
}

#[tokio::test]
async fn an_invalid_public_key_or_length_in_a_message_costs_no_request() {
    let endpoint = endpoint();
    for curve in CURVES {
        let genuine = genuine(curve).await;
        let point_len = (genuine.provider_info.len() - 9) / 2;
        let start = genuine.provider_info.len() - point_len;
        // The length of the sender's point, and the point.
        let sender = |point: &[u8]| {
            let len = u32::try_from(point.len()).unwrap().to_be_bytes();
            with_info(&genuine, [&genuine.provider_info[..start - 4], &len, point].concat())
        };
        let point = &genuine.provider_info[start..];
        let not_on_curve = [&[2], &vec![0; point_len - 2][..], &[NOT_ON_CURVE]].concat();
        let der = der(curve);
        let uncompressed = &der[der.len() - (2 * point_len - 1)..];
        let other_curve = if curve == "p256" { "p384" } else { "p256" };
        let of_other_curve = self::genuine(other_curve).await.provider_info;
        let of_other_curve = &of_other_curve[of_other_curve.len() - (of_other_curve.len() - 9) / 2..];
        let out_of_field = [&[2][..], &vec![0xff; point_len - 1]].concat();
        let hybrid = [&[6][..], &uncompressed[1..]].concat();
        let bad_points =
            [&not_on_curve[..], uncompressed, of_other_curve, &out_of_field, &hybrid, &[], &[0], &[2], &der];
        let mut bad: Vec<_> = bad_points.into_iter().map(sender).collect();
        for first in [0, 1, 4, 5, 6] {
            bad.push(sender(&[&[first], &point[1..]].concat()));
        }
        for len in [0, 1, 32, 64, 80, genuine.ciphertext.len() - 1, genuine.ciphertext.len() + 1] {
            bad.push(with_ciphertext(&genuine, [&genuine.ciphertext[..], &[0]].concat()[..len].to_vec()));
        }
        for key in bad {
            for backend in Backend::ALL.iter().copied() {
                let (context, keys) = (context(), [key.clone()]);
                let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &keys);
                let error = opening(&endpoint, curve).decrypt_data_key(&request.with_backend(backend)).await;
                assert_eq!(kinds(&error.unwrap_err()), [Kind::InvalidCiphertext], "{curve} {backend:?} {key:?}");
            }
        }
        // The provider info of nobody.
        let info = &genuine.provider_info;
        let longer = [info, &[0][..]].concat();
        let another_version = [&[2], &info[1..]].concat();
        for info in [&[][..], &[1], &info[..info.len() - 1], &longer, &another_version, &[1, 255, 255, 255, 255]] {
            let error = not_decrypted(&opening(&endpoint, curve), &[with_info(&genuine, info.to_vec())]).await;
            assert_eq!(error.kind(), Kind::NoMatchingKey, "{info:?}");
        }
    }
    assert!(endpoint.log().is_empty());
}

#[tokio::test]
async fn an_encrypted_data_key_with_any_byte_changed_does_not_decrypt() {
    let endpoint = endpoint();
    let (key, genuine) = (opening(&endpoint, CURVE), genuine(CURVE).await);
    let context = context();
    let intact = [genuine.clone()];
    key.decrypt_data_key(&DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &intact)).await.unwrap();
    let changed = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        (0..bytes.len()).map(move |at| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        })
    };
    let infos = changed(&genuine.provider_info).map(|info| with_info(&genuine, info));
    let ciphertexts = changed(&genuine.ciphertext).map(|ciphertext| with_ciphertext(&genuine, ciphertext));
    let mut seen = BTreeMap::new();
    for key_bytes in infos.chain(ciphertexts) {
        let error = not_decrypted(&key, &[key_bytes]).await;
        let kind = error.attempts().first().map_or(error.kind(), ProviderError::kind);
        *seen.entry(format!("{kind:?}")).or_insert(0) += 1;
    }
    // Another recipient, or a malformed provider info: 5 bytes and 33 of the recipient, 4 of the sender's length.
    let expected = [("InvalidCiphertext", 33 + genuine.ciphertext.len()), ("NoMatchingKey", 5 + 33 + 4)];
    assert_eq!(seen, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

// Names.

#[tokio::test]
async fn the_key_is_named_by_its_arn_and_the_secrets_are_not_shown() {
    let endpoint = endpoint();
    let key = between(&endpoint, CURVE, &other(CURVE)).await;
    assert_eq!(key.to_string(), arn(REGION, CURVE));
    let shown = format!("{key:?}");
    assert!(shown.contains(&arn(REGION, CURVE)) && shown.contains("P256"), "{shown}");
}
