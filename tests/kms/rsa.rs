//! RSA keys in KMS. Sealing uses the public key in this process, opening calls KMS.

use std::time::{Duration, Instant};

use kms_envelope::{
    AlgorithmSuite, ConfigError, EncryptionContext, Envelope, KeyProvider, OpenError, SealError,
    message::EncryptedDataKey,
    provider::{AwsKmsRsa, DecryptDataKeyRequest, MultiProvider, ProviderErrorKind as Kind, RsaPadding},
};

use test_support::{
    context,
    fixtures::{RSA_PRIVATE as PRIVATE, RSA_PUBLIC as PUBLIC},
    kms::{Endpoint, Fault, Rsa, arn},
};

const REGION: &str = "eu-west-1";
const ID: &str = "5ea1ed00";

fn endpoint() -> Endpoint {
    Endpoint::with_rsa([(REGION, ID)], Some(Rsa::of_fixtures()))
}

fn key(endpoint: &Endpoint, padding: RsaPadding) -> AwsKmsRsa {
    AwsKmsRsa::new(endpoint.client(REGION), arn(REGION, ID), padding).unwrap()
}

#[tokio::test]
async fn sealing_makes_no_request_and_opening_one() {
    for padding in [RsaPadding::OaepSha1, RsaPadding::OaepSha256] {
        let endpoint = endpoint();
        let envelope = Envelope::new(key(&endpoint, padding).with_public_key_pem(PUBLIC).unwrap());
        let sealed = envelope.seal(b"data", &context()).await.unwrap();
        assert!(endpoint.log().is_empty());
        let opened = Envelope::new(key(&endpoint, padding)).open(&sealed, &context()).await.unwrap();
        assert_eq!((&opened.plaintext[..], opened.info.key_id()), (&b"data"[..], &*arn(REGION, ID)));
        assert_eq!(opened.info.encrypted_data_key().provider_id, "aws-kms-rsa");
        assert_eq!(endpoint.calls_of("Decrypt"), 1);
    }
}

#[tokio::test]
async fn the_public_key_can_be_fetched_from_kms() {
    let endpoint = endpoint();
    let key = key(&endpoint, RsaPadding::OaepSha256).fetch_public_key().await.unwrap();
    let envelope = Envelope::new(key);
    let sealed = envelope.seal(b"data", &context()).await.unwrap();
    assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    assert_eq!(endpoint.calls().into_iter().collect::<Vec<_>>(), [("Decrypt".into(), 1), ("GetPublicKey".into(), 1)]);

    let symmetric = Endpoint::new([(REGION, ID)]);
    let refused = AwsKmsRsa::new(symmetric.client(REGION), arn(REGION, ID), RsaPadding::OaepSha256).unwrap();
    let error = refused.fetch_public_key().await.unwrap_err();
    assert!(error.to_string().starts_with("GetPublicKey with key arn:"), "{error}");
}

#[tokio::test]
async fn the_context_is_bound_to_the_data_key() {
    let endpoint = endpoint();
    let key = key(&endpoint, RsaPadding::OaepSha256).with_public_key_pem(PUBLIC).unwrap();
    let writer = Envelope::builder(key.clone()).required_context(["tenant"]).build().unwrap();
    let sealed = writer.seal(b"data", &context()).await.unwrap();
    assert_eq!(writer.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    let error = writer.open(&sealed, &EncryptionContext::from([("tenant", "other")])).await.unwrap_err();
    let OpenError::Provider(error) = error else { panic!("{error}") };
    let [attempt] = error.attempts() else { panic!("{error}") };
    assert_eq!(attempt.kind(), Kind::InvalidCiphertext);
}

#[tokio::test]
async fn another_padding_does_not_open() {
    let endpoint = endpoint();
    let writer = key(&endpoint, RsaPadding::OaepSha256).with_public_key_pem(PUBLIC).unwrap();
    let sealed = Envelope::new(writer).seal(b"data", &context()).await.unwrap();
    let reader = Envelope::new(key(&endpoint, RsaPadding::OaepSha1));
    assert!(matches!(reader.open(&sealed, &context()).await, Err(OpenError::Provider(_))));
}

#[tokio::test]
async fn of_many_encrypted_data_keys_that_name_an_rsa_key_two_are_tried() {
    let endpoint = endpoint();
    let (context, junk) = (context(), EncryptedDataKey::new("aws-kms-rsa", arn(REGION, ID), vec![1; 256]));
    let keys = vec![junk; 16];
    let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &keys);
    let key = key(&endpoint, RsaPadding::OaepSha256);
    let error = key.decrypt_data_key(&request).await.unwrap_err();
    let [_, _, last] = error.attempts() else { panic!("{error}") };
    assert_eq!(last.kind(), Kind::NotTried);
    assert!(last.to_string().contains("not tried: 14; the limit for one KMS key is 2"), "{last}");
    assert_eq!(endpoint.calls_of("Decrypt"), 2);

    endpoint.script(|_| Fault::Hang);
    let (start, timeout) = (Instant::now(), Duration::from_millis(300));
    key.decrypt_data_key(&request.with_deadline(start + timeout)).await.unwrap_err();
    assert!(start.elapsed() >= timeout && start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(endpoint.calls_of("Decrypt"), 3);
}

/// An encrypted data key can be invalid with one padding and valid with another.
#[tokio::test]
async fn a_reader_with_two_paddings_opens_messages_of_both() {
    let endpoint = endpoint();
    for padding in [RsaPadding::OaepSha1, RsaPadding::OaepSha256] {
        let writer = key(&endpoint, padding).with_public_key_pem(PUBLIC).unwrap();
        let sealed = Envelope::new(writer).seal(b"data", &context()).await.unwrap();
        let [one, other] = [RsaPadding::OaepSha1, RsaPadding::OaepSha256].map(|padding| key(&endpoint, padding));
        let reader = Envelope::new(MultiProvider::new(one).with(other));
        assert_eq!(reader.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    }
}

#[tokio::test]
async fn suites_that_sign_are_refused_on_sealing_and_on_opening() {
    let endpoint = endpoint();
    let key = key(&endpoint, RsaPadding::OaepSha256).with_public_key_pem(PUBLIC).unwrap();
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    let envelope = Envelope::builder(key).suite(suite).build().unwrap();
    let error = envelope.seal(b"data", &context()).await.unwrap_err();
    assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::Unsupported), "{error}");

    let local = kms_envelope::RawAes::generate("tests", "key").unwrap();
    let signed = Envelope::builder(local).suite(suite).build().unwrap().seal(b"data", &context()).await.unwrap();
    let error = envelope.open(&signed, &context()).await.unwrap_err();
    assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::Unsupported), "{error}");
    assert!(endpoint.log().is_empty());
}

#[tokio::test]
async fn without_the_public_key_the_error_explains_how_to_get_it() {
    let endpoint = endpoint();
    let error = Envelope::new(key(&endpoint, RsaPadding::OaepSha256)).seal(b"data", &context()).await.unwrap_err();
    assert!(format!("{:?}", error).contains("fetch_public_key"), "{error:?}");
    assert!(key(&endpoint, RsaPadding::OaepSha256).with_public_key_pem(PRIVATE).is_err());
}

#[tokio::test]
async fn paddings_and_names_that_kms_does_not_support_are_refused() {
    let endpoint = endpoint();
    for padding in [RsaPadding::Pkcs1v15, RsaPadding::OaepSha384, RsaPadding::OaepSha512] {
        let refused = AwsKmsRsa::new(endpoint.client(REGION), arn(REGION, ID), padding);
        assert!(matches!(refused, Err(ConfigError::KmsKeys { .. })));
    }
    let refused = AwsKmsRsa::new(endpoint.client(REGION), "alias/rsa", RsaPadding::OaepSha256);
    assert!(matches!(refused, Err(ConfigError::KmsKeyId { .. })));
}
