//! `AwsKms` with made-up responses: the exact requests, and every response that KMS sends or should never send.

use std::{error::Error, time::Duration};

use aws_sdk_kms::{
    Client,
    config::retry::RetryConfig,
    operation::{
        decrypt::{DecryptInput, DecryptOutput},
        describe_key::{DescribeKeyInput, DescribeKeyOutput},
        encrypt::{EncryptInput, EncryptOutput},
        generate_data_key::{GenerateDataKeyInput, GenerateDataKeyOutput},
    },
    primitives::Blob,
    types::KeyMetadata,
};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;
use kms_envelope::{
    AlgorithmSuite, AwsKms, ConfigError, EncryptionContext, Envelope, ErrorKind, KeyProvider, OpenError, ProviderError,
    RawAes, SealError,
    error::NameReason,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, ProviderErrorKind as Kind, ResolveError,
        SecretKey,
    },
};
use test_support::context;

const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER_ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab";
const KEY: [u8; 32] = [7; 32];
const ENCRYPTED: &[u8] = b"an encrypted data key";

fn client(rules: &[&Rule]) -> Client {
    mock_client!(aws_sdk_kms, RuleMode::MatchAny, rules)
}

fn kms(rules: &[&Rule]) -> AwsKms {
    AwsKms::new(client(rules), ARN).unwrap()
}

fn generated() -> GenerateDataKeyOutput {
    GenerateDataKeyOutput::builder().key_id(ARN).plaintext(Blob::new(KEY)).ciphertext_blob(Blob::new(ENCRYPTED)).build()
}

fn decrypted() -> DecryptOutput {
    DecryptOutput::builder().key_id(ARN).plaintext(Blob::new(KEY)).build()
}

/// Returns an error response in the format of KMS.
fn refusal(code: &str) -> Response {
    let body = format!(r#"{{"__type":"{code}","message":"said KMS"}}"#);
    Response::new(StatusCode::try_from(400).unwrap(), SdkBody::from(body))
}

async fn sealed() -> Vec<u8> {
    let rule = mock!(Client::generate_data_key).then_output(generated);
    Envelope::new(kms(&[&rule])).seal(b"data", &context()).await.unwrap()
}

/// Decrypts one of these encrypted data keys.
async fn decrypt(kms: &AwsKms, keys: &[EncryptedDataKey]) -> Result<DecryptedDataKey, ProviderError> {
    kms.decrypt_data_key(&DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context(), keys)).await
}

fn encrypted_under(arn: &str) -> EncryptedDataKey {
    EncryptedDataKey::new("aws-kms", arn.to_owned(), ENCRYPTED)
}

#[tokio::test]
async fn a_seal_is_one_generate_data_key_and_an_open_one_decrypt_exactly_as_documented() {
    let generate = mock!(Client::generate_data_key)
        .match_requests(|request| {
            *request
                == GenerateDataKeyInput::builder()
                    .key_id(ARN)
                    .number_of_bytes(32)
                    .encryption_context("tenant", "acme")
                    .encryption_context("purpose", "test")
                    .grant_tokens("token")
                    .build()
                    .unwrap()
        })
        .then_output(generated);
    let decrypt = mock!(Client::decrypt)
        .match_requests(|request| {
            *request
                == DecryptInput::builder()
                    .key_id(ARN)
                    .ciphertext_blob(Blob::new(ENCRYPTED))
                    .encryption_context("tenant", "acme")
                    .encryption_context("purpose", "test")
                    .grant_tokens("token")
                    .build()
                    .unwrap()
        })
        .then_output(decrypted);
    let envelope = Envelope::new(kms(&[&generate, &decrypt]).with_grant_tokens(["token"]));
    let sealed = envelope.seal(b"data", &context()).await.unwrap();
    let opened = envelope.open(&sealed, &context()).await.unwrap();
    assert_eq!(opened.plaintext, b"data");
    assert_eq!(*opened.info.encrypted_data_key(), encrypted_under(ARN));
    assert_eq!(opened.info.encrypted_data_key().key_name(), ARN);
    assert_eq!((generate.num_calls(), decrypt.num_calls()), (1, 1));
}

#[tokio::test]
async fn an_empty_context_and_no_grant_tokens_are_left_out_of_the_request() {
    let rule = mock!(Client::generate_data_key)
        .match_requests(|request| {
            *request == GenerateDataKeyInput::builder().key_id(ARN).number_of_bytes(32).build().unwrap()
        })
        .then_output(generated);
    Envelope::new(kms(&[&rule])).seal(b"data", &EncryptionContext::new()).await.unwrap();
}

#[tokio::test]
async fn an_existing_data_key_is_encrypted_by_encrypt() {
    let rule = mock!(Client::encrypt)
        .match_requests(|request| {
            *request
                == EncryptInput::builder()
                    .key_id(ARN)
                    .plaintext(Blob::new(KEY))
                    .encryption_context("tenant", "acme")
                    .encryption_context("purpose", "test")
                    .build()
                    .unwrap()
        })
        .then_output(|| EncryptOutput::builder().key_id(ARN).ciphertext_blob(Blob::new(ENCRYPTED)).build());
    let (context, data_key) = (context(), SecretKey::from(KEY));
    let request = EncryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &data_key);
    assert_eq!(kms(&[&rule]).encrypt_data_key(&request).await.unwrap(), [encrypted_under(ARN)]);
}

#[tokio::test]
async fn an_alias_or_a_bare_id_is_resolved_once_and_seals_and_opens() {
    for id in ["alias/invoices", "arn:aws:kms:eu-west-1:111122223333:alias/invoices", &ARN[ARN.len() - 36..]] {
        let describe = mock!(Client::describe_key)
            .match_requests(move |request| *request == DescribeKeyInput::builder().key_id(id).build().unwrap())
            .then_output(|| {
                let key = KeyMetadata::builder().key_id("id").arn(ARN).build().unwrap();
                DescribeKeyOutput::builder().key_metadata(key).build()
            });
        let generate = mock!(Client::generate_data_key)
            .match_requests(|request| request.key_id() == Some(ARN))
            .then_output(generated);
        let decrypt =
            mock!(Client::decrypt).match_requests(|request| request.key_id() == Some(ARN)).then_output(decrypted);
        let kms = AwsKms::resolve(client(&[&describe, &generate, &decrypt]), id).await.unwrap();
        assert_eq!(kms.key_arn(), ARN);
        let envelope = Envelope::new(kms);
        for _ in 0..2 {
            let sealed = envelope.seal(b"data", &context()).await.unwrap();
            assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data");
        }
        assert_eq!(describe.num_calls(), 1);
    }
}

#[tokio::test]
async fn a_key_arn_is_resolved_without_a_request() {
    assert_eq!(AwsKms::resolve(client(&[]), ARN).await.unwrap().key_arn(), ARN);
}

#[tokio::test]
async fn a_key_that_could_seal_but_not_open_is_an_error_at_construction() {
    for id in ["alias/invoices", "arn:aws:kms:eu-west-1:111122223333:alias/invoices", "1234abcd"] {
        let error = AwsKms::new(client(&[]), id).unwrap_err();
        let ConfigError::KmsKeyId { key_id, reason: NameReason::NotKeyArn, .. } = &error else { panic!("{error:?}") };
        assert_eq!(key_id, id);
        assert!(error.to_string().contains("AwsKms::resolve"), "{error}");
    }
    for id in ["", "arn:aws:kms:eu-west-1:1", "arn:aws:s3:::bucket/key", "key/1234"] {
        assert!(AwsKms::new(client(&[]), id).is_err());
        let error = AwsKms::resolve(client(&[]), id).await.unwrap_err();
        assert!(matches!(&error, ResolveError::Config(ConfigError::KmsKeyId { key_id, .. }) if key_id == id));
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidInput, false));
    }
}

#[tokio::test]
async fn an_alias_that_does_not_exist_is_an_error_at_construction() {
    let rule = mock!(Client::describe_key).then_http_response(|| refusal("NotFoundException"));
    let error = AwsKms::resolve(client(&[&rule]), "alias/none").await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidInput, false));
    let ResolveError::Provider(error) = error else { panic!("{error}") };
    assert_eq!((error.kind(), error.operation(), error.key_id()), (Kind::NotFound, "DescribeKey", "alias/none"));
}

/// A response, and the text of the error that refuses it.
type Case<A> = (fn() -> A, &'static str);

#[tokio::test]
async fn invalid_responses_to_generate_data_key_are_refused() {
    let cases: [Case<GenerateDataKeyOutput>; 6] = [
        (|| GenerateDataKeyOutput::builder().build(), "16, 24 or 32"),
        (
            || {
                let short = Blob::new([7; 16]);
                GenerateDataKeyOutput::builder().key_id(ARN).plaintext(short).ciphertext_blob(Blob::new("e")).build()
            },
            "a data key of 16 bytes, not 32",
        ),
        (
            || {
                let short = Blob::new([7; 31]);
                GenerateDataKeyOutput::builder().key_id(ARN).plaintext(short).ciphertext_blob(Blob::new("e")).build()
            },
            "a key of 31 bytes",
        ),
        (
            || GenerateDataKeyOutput::builder().plaintext(Blob::new(KEY)).ciphertext_blob(Blob::new("e")).build(),
            "does not name this key",
        ),
        (
            || {
                let key = GenerateDataKeyOutput::builder().plaintext(Blob::new(KEY));
                key.key_id(OTHER_ARN).ciphertext_blob(Blob::new("e")).build()
            },
            "does not name this key",
        ),
        (|| GenerateDataKeyOutput::builder().key_id(ARN).plaintext(Blob::new(KEY)).build(), "no encrypted data key"),
    ];
    for (answer, expected) in cases {
        let rule = mock!(Client::generate_data_key).then_output(answer);
        let error = Envelope::new(kms(&[&rule])).seal(b"data", &context()).await.unwrap_err();
        assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::UnexpectedResponse), "{error}");
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[tokio::test]
async fn invalid_responses_to_decrypt_are_refused() {
    let cases: [Case<DecryptOutput>; 4] = [
        (|| DecryptOutput::builder().plaintext(Blob::new(KEY)).build(), "the response names the key (none)"),
        (|| DecryptOutput::builder().key_id(OTHER_ARN).plaintext(Blob::new(KEY)).build(), OTHER_ARN),
        (|| DecryptOutput::builder().key_id(ARN).plaintext(Blob::new([7; 24])).build(), "24 bytes, not 32"),
        (|| DecryptOutput::builder().key_id(ARN).build(), "16, 24 or 32"),
    ];
    for (answer, expected) in cases {
        let rule = mock!(Client::decrypt).then_output(answer);
        let error = Envelope::new(kms(&[&rule])).open(&sealed().await, &context()).await.unwrap_err();
        let OpenError::Provider(all) = &error else { panic!("{error}") };
        let [attempt] = all.attempts() else { panic!("{error}") };
        assert_eq!((attempt.kind(), attempt.operation()), (Kind::UnexpectedResponse, "Decrypt"));
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[tokio::test]
async fn a_wrong_data_key_from_kms_does_not_open_the_message() {
    let rule = mock!(Client::decrypt)
        .then_output(|| DecryptOutput::builder().key_id(ARN).plaintext(Blob::new([8; 32])).build());
    let opened = Envelope::new(kms(&[&rule])).open(&sealed().await, &context()).await;
    assert!(matches!(opened, Err(OpenError::Commitment)));
}

#[tokio::test]
async fn encrypted_data_keys_of_other_keys_are_skipped() {
    let rule = mock!(Client::decrypt).then_output(decrypted);
    let kms = kms(&[&rule]);
    let local = EncryptedDataKey::new("tests", &b"key"[..], &b"c"[..]);
    let not_mine = [local.clone(), encrypted_under(OTHER_ARN), encrypted_under(""), encrypted_under("no ARN")];
    let error = decrypt(&kms, &not_mine).await.unwrap_err();
    assert_eq!((error.kind(), error.key_id()), (Kind::NoMatchingKey, ARN));
    let found = not_mine.map(|key| key.to_string()).join(", ");
    assert_eq!(error.detail(), Some(&*found));
    assert_eq!(rule.num_calls(), 0);

    let found = decrypt(&kms, &[local, encrypted_under(OTHER_ARN), encrypted_under(ARN)]).await.unwrap();
    assert_eq!((found.index, found.plaintext.expose()), (2, &KEY[..]));
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test]
async fn a_second_encrypted_data_key_is_tried_when_the_first_fails() {
    let rule = mock!(Client::decrypt)
        .sequence()
        .http_response(|| refusal("InvalidCiphertextException"))
        .output(decrypted)
        .build();
    let found = decrypt(&kms(&[&rule]), &[encrypted_under(ARN), encrypted_under(ARN)]).await.unwrap();
    assert_eq!(found.index, 1);
}

/// Returns the errors of a seal and of an open if KMS responds with this code.
async fn refused_with(code: &'static str) -> [ProviderError; 2] {
    let generate = mock!(Client::generate_data_key).then_http_response(move || refusal(code));
    let decrypt = mock!(Client::decrypt).then_http_response(move || refusal(code));
    let client = mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[&generate, &decrypt], |config| {
        config.retry_config(RetryConfig::disabled())
    });
    let envelope = Envelope::new(AwsKms::new(client, ARN).unwrap());
    let SealError::Provider(sealing) = envelope.seal(b"data", &context()).await.unwrap_err() else { panic!() };
    let OpenError::Provider(opening) = envelope.open(&sealed().await, &context()).await.unwrap_err() else { panic!() };
    assert_eq!(opening.kind(), Kind::NoneDecrypted);
    [sealing, opening.attempts()[0].clone()]
}

#[tokio::test]
async fn errors_of_kms_keep_their_source_and_report_whether_to_retry() {
    let cases: [(&str, Kind, bool); 14] = [
        ("AccessDeniedException", Kind::AccessDenied, false),
        ("NotFoundException", Kind::NotFound, false),
        ("DisabledException", Kind::KeyUnusable, false),
        ("KMSInvalidStateException", Kind::KeyUnusable, false),
        ("InvalidKeyUsageException", Kind::KeyUnusable, false),
        ("InvalidCiphertextException", Kind::InvalidCiphertext, false),
        ("IncorrectKeyException", Kind::IncorrectKey, false),
        ("ThrottlingException", Kind::Throttled, true),
        ("LimitExceededException", Kind::Throttled, true),
        ("KMSInternalException", Kind::Unavailable, true),
        ("DependencyTimeoutException", Kind::Unavailable, true),
        ("KeyUnavailableException", Kind::Unavailable, true),
        ("InvalidGrantTokenException", Kind::Other, false),
        ("SomethingNewException", Kind::Other, false),
    ];
    for (code, expected, retryable) in cases {
        for error in refused_with(code).await {
            assert_eq!(error.kind(), expected, "{code}: {error:?}");
            assert_eq!(error.is_retryable(), retryable, "{code}");
            assert!(error.to_string().contains(ARN), "{error}");
            let sources = std::iter::successors(error.source(), |error| (*error).source());
            let sources: Vec<_> = sources.map(ToString::to_string).collect();
            assert!(sources.iter().any(|source| source.contains("said KMS")), "{sources:?}");
        }
    }
}

#[tokio::test]
async fn a_retry_after_header_is_passed_on_if_it_is_a_number_of_seconds() {
    for (header, expected) in [("3", Some(3)), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)] {
        let throttled = move || {
            let mut answer = refusal("ThrottlingException");
            answer.headers_mut().insert("retry-after", header);
            answer
        };
        let generate = mock!(Client::generate_data_key).then_http_response(throttled);
        let decrypt = mock!(Client::decrypt).then_http_response(throttled);
        let client = mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[&generate, &decrypt], |config| {
            config.retry_config(RetryConfig::disabled())
        });
        let envelope = Envelope::new(AwsKms::new(client, ARN).unwrap());
        let SealError::Provider(sealing) = envelope.seal(b"data", &context()).await.unwrap_err() else { panic!() };
        let opening = envelope.open(&sealed().await, &context()).await.unwrap_err();
        let OpenError::Provider(opening) = opening else { panic!("{opening}") };
        for error in [sealing, opening] {
            assert_eq!(
                (error.retry_after(), error.is_retryable()),
                (expected.map(Duration::from_secs), true),
                "{header}"
            );
        }
    }
}

#[tokio::test]
async fn the_client_retries_throttled_requests() {
    let rule = mock!(Client::generate_data_key)
        .sequence()
        .http_response(|| refusal("ThrottlingException"))
        .times(2)
        .output(generated)
        .build();
    let client = mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[&rule], |config| {
        config.retry_config(RetryConfig::standard()) // Older versions of the AWS SDK do not retry by default.
    });
    Envelope::new(AwsKms::new(client, ARN).unwrap()).seal(b"data", &context()).await.unwrap();
    assert_eq!(rule.num_calls(), 3);
}

#[tokio::test]
async fn a_response_that_is_not_from_kms_is_unavailable_and_retryable() {
    let garbage = || Response::new(StatusCode::try_from(200).unwrap(), SdkBody::from("<html>"));
    let gateway = || Response::new(StatusCode::try_from(503).unwrap(), SdkBody::from("<html>"));
    let forbidden = || Response::new(StatusCode::try_from(403).unwrap(), SdkBody::from("<html>"));
    for answer in [garbage, gateway, forbidden] {
        let rule = mock!(Client::generate_data_key).then_http_response(answer);
        let client = mock_client!(aws_sdk_kms, RuleMode::MatchAny, &[&rule], |config| {
            config.retry_config(RetryConfig::disabled())
        });
        let error = Envelope::new(AwsKms::new(client, ARN).unwrap()).seal(b"data", &context()).await.unwrap_err();
        let SealError::Provider(error) = error else { panic!("{error:?}") };
        assert!(error.kind() == Kind::Unavailable && error.is_retryable());
    }
}

#[tokio::test]
async fn a_data_key_in_a_truncated_response_is_not_printed() {
    let cut = || {
        let body =
            r#"{"CiphertextBlob":"AAAA","Plaintext":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","KeyId":"arn"#;
        Response::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body))
    };
    let generate = mock!(Client::generate_data_key).then_http_response(cut);
    let decrypt = mock!(Client::decrypt).then_http_response(cut);
    let envelope = Envelope::new(kms(&[&generate, &decrypt]));
    let sealing = envelope.seal(b"data", &context()).await.unwrap_err();
    let opening = envelope.open(&sealed().await, &context()).await.unwrap_err();
    for printed in [format!("{sealing:?} {sealing:#?} {sealing}"), format!("{opening:?} {opening:#?} {opening}")] {
        assert!(!printed.contains("BwcHBwc") && !printed.contains("7, 7, 7"), "{printed}");
    }
}

#[tokio::test]
async fn an_unreachable_endpoint_is_unavailable_and_retryable() {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version_latest()
        .region(aws_sdk_kms::config::Region::new("eu-west-1"))
        .credentials_provider(aws_sdk_kms::config::Credentials::for_tests())
        .endpoint_url("http://127.0.0.1:1")
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .timeout_config(
            aws_sdk_kms::config::timeout::TimeoutConfig::builder().operation_timeout(Duration::from_secs(20)).build(),
        )
        .retry_config(RetryConfig::disabled())
        .build();
    let kms = AwsKms::new(Client::from_conf(config), ARN).unwrap();
    let error = Envelope::new(kms).seal(b"data", &context()).await.unwrap_err();
    let SealError::Provider(error) = error else { panic!("{error:?}") };
    assert!(error.kind() == Kind::Unavailable && error.is_retryable());
}

#[tokio::test]
async fn kms_reports_that_a_message_was_sealed_with_a_local_key() {
    let local = Envelope::new(RawAes::generate("tests", "local").unwrap());
    let sealed = local.seal(b"data", &context()).await.unwrap();
    let error = Envelope::new(kms(&[])).open(&sealed, &context()).await.unwrap_err();
    assert!(error.to_string().contains("they are for: tests/local"), "{error}");
}

#[tokio::test]
async fn an_error_of_the_sdk_that_quotes_the_request_does_not_show_the_data_key() {
    use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};

    let data_key = SecretKey::from(KEY);
    let base64 = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    for endpoint in ["localhost:4566", "foo", "http://127.0.0.1:1/a b", "http://127.0.0.1:1"] {
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "tests"))
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint);
        let key = AwsKms::new(Client::from_conf(config.build()), ARN).unwrap();
        let (suite, context) = (AlgorithmSuite::default(), EncryptionContext::from([("tenant", "a`b")]));
        let request = EncryptDataKeyRequest::new(suite, &context, &data_key);
        let error = key.encrypt_data_key(&request).await.unwrap_err();

        let mut said = format!("{error} {error:?}");
        let mut cause = error.source();
        assert!(cause.is_some(), "{endpoint}");
        while let Some(error) = cause {
            said.push_str(&format!(" {error} {error:?}"));
            cause = error.source();
        }
        assert!(!said.contains(base64) && !said.contains("Plaintext") && !said.contains("7, 7, 7"), "{said}");
        if endpoint == "localhost:4566" {
            assert!(said.contains("endpoint must contain scheme"), "{said}");
        }
    }
}
