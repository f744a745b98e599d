//! Several regions: keys and their replicas, discovery, and unavailable regions.

use std::time::{Duration, Instant};

use aws_sdk_kms::Client;
use kms_envelope::{
    AwsKms, ConfigError, Envelope, KeyProvider, OpenError, RawAes, SealError,
    message::{EncryptedDataKey, Header},
    provider::{AwsKmsDiscovery, DecryptDataKeyRequest, MultiProvider, ProviderErrorKind as Kind},
};

use test_support::{
    context,
    kms::{ACCOUNT, Endpoint, Fault, arn},
};

const NEAR: &str = "eu-west-1";
const FAR: &str = "us-east-1";
const KEY: &str = "1234abcd";
const REPLICATED: &str = "mrk-5678";

/// Two regions, each with its own key, and a multi-region key in both.
fn endpoint() -> Endpoint {
    Endpoint::new([(NEAR, KEY), (FAR, "0987dcba"), (NEAR, REPLICATED), (FAR, REPLICATED)])
}

async fn seal(provider: impl KeyProvider + 'static) -> Vec<u8> {
    Envelope::new(provider).seal(b"data", &context()).await.unwrap()
}

async fn open(provider: impl KeyProvider + 'static, sealed: &[u8]) -> Result<String, OpenError> {
    let opened = Envelope::new(provider).open(sealed, &context()).await?;
    assert_eq!(opened.plaintext, b"data");
    Ok(opened.info.key_id().to_owned())
}

fn key(endpoint: &Endpoint, region: &str, id: &str) -> AwsKms {
    AwsKms::new(endpoint.client(region), arn(region, id)).unwrap()
}

fn encrypted_data_keys(sealed: &[u8]) -> Vec<EncryptedDataKey> {
    let header = Header::parse(sealed, &Default::default()).unwrap();
    header.encrypted_data_keys().to_vec()
}

#[tokio::test]
async fn a_replica_opens_what_the_primary_sealed_and_says_so() {
    let endpoint = endpoint();
    let sealed = seal(key(&endpoint, FAR, REPLICATED)).await;
    assert_eq!(open(key(&endpoint, NEAR, REPLICATED), &sealed).await.unwrap(), arn(NEAR, REPLICATED));
    let opened = Envelope::new(key(&endpoint, NEAR, REPLICATED)).open(&sealed, &context()).await.unwrap();
    assert_eq!(opened.info.encrypted_data_key().key_name(), arn(FAR, REPLICATED));

    // A single-region key has no replicas, even if another region has a key with the same id.
    let sealed = seal(key(&endpoint, NEAR, KEY)).await;
    let error = open(AwsKms::new(endpoint.client(FAR), arn(FAR, KEY)).unwrap(), &sealed).await.unwrap_err();
    assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::NoMatchingKey), "{error}");
}

#[tokio::test]
async fn when_a_region_fails_its_replica_seals_and_opens() {
    let endpoint = endpoint();
    let both = || key(&endpoint, NEAR, REPLICATED).with_replica(endpoint.client(FAR), FAR).unwrap();
    let sealed = seal(both()).await;
    assert_eq!(open(both(), &sealed).await.unwrap(), arn(NEAR, REPLICATED));
    assert_eq!(endpoint.log().iter().filter(|(_, region)| region == FAR).count(), 0);

    for fault in [Fault::Close, Fault::Throttle, Fault::Cut, Fault::Hang] {
        endpoint.script(move |request| if request.region == NEAR { fault } else { Fault::None });
        let limited = || both().with_timeout(Duration::from_millis(300));
        let start = Instant::now();
        let elsewhere = seal(limited()).await;
        assert_eq!(encrypted_data_keys(&elsewhere)[0].key_name(), arn(FAR, REPLICATED), "{fault:?}");
        assert_eq!(open(limited(), &sealed).await.unwrap(), arn(FAR, REPLICATED));
        let envelope = Envelope::new(limited());
        let header = Header::parse(&sealed, &Default::default()).unwrap();
        envelope.rewrap(&header, &context(), &limited()).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(8), "{fault:?}");
        // Messages sealed in the other region open here when this region is available again.
        endpoint.script(|_| Fault::None);
        assert_eq!(open(both(), &elsewhere).await.unwrap(), arn(NEAR, REPLICATED));
    }

    endpoint.script(|_| Fault::Throttle);
    let error = Envelope::new(both()).seal(b"data", &context()).await.unwrap_err();
    let SealError::Provider(error) = error else { panic!("{error}") };
    assert_eq!((error.kind(), error.attempts().len()), (Kind::AllRegionsFailed, 2));
    assert!(error.to_string().contains(NEAR) && error.to_string().contains(FAR), "{error}");
    let error = open(both(), &sealed).await.unwrap_err();
    let OpenError::Provider(error) = error else { panic!("{error}") };
    assert_eq!((error.kind(), error.attempts().len(), error.is_retryable()), (Kind::NoneDecrypted, 2, true));
}

#[tokio::test]
async fn replicas_are_for_multi_region_keys_and_each_region_once() {
    let endpoint = endpoint();
    let with = |id, region: &str| key(&endpoint, NEAR, id).with_replica(endpoint.client(region), region);
    for (refused, why) in [
        (with(KEY, FAR), "mrk-"),
        (with(REPLICATED, NEAR), "already been added"),
        (with(REPLICATED, ""), "not a valid region name"),
        (with(REPLICATED, "eu:west"), "not a valid region name"),
        (with(REPLICATED, "eu west/1"), "not a valid region name"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, ConfigError::KmsKeys { .. }) && error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn several_keys_seal_together_and_each_opens() {
    let endpoint = endpoint();
    let mut asked = Vec::new();
    let asked = std::sync::Mutex::new(&mut asked);
    let client = |region: &str| {
        asked.lock().unwrap().push(region.to_owned());
        endpoint.client(region)
    };
    let arns = [arn(NEAR, KEY), arn(FAR, "0987dcba"), arn(FAR, REPLICATED)];
    let sealed = seal(AwsKms::multi(client, arns.clone()).unwrap()).await;
    assert_eq!(**asked.lock().unwrap(), [NEAR, FAR]);
    assert_eq!(
        endpoint.calls().into_iter().collect::<Vec<_>>(),
        [("Encrypt".into(), 2), ("GenerateDataKey".into(), 1)]
    );
    let names: Vec<_> = encrypted_data_keys(&sealed).iter().map(EncryptedDataKey::key_name).collect();
    assert_eq!(names, arns);
    assert_eq!(open(key(&endpoint, NEAR, KEY), &sealed).await.unwrap(), arns[0]);
    assert_eq!(open(key(&endpoint, FAR, "0987dcba"), &sealed).await.unwrap(), arns[1]);
    assert_eq!(open(key(&endpoint, NEAR, REPLICATED), &sealed).await.unwrap(), arn(NEAR, REPLICATED));

    // The first key that can opens the message. If its region hangs, the next one does.
    let all = || {
        let keys = AwsKms::multi(|region| endpoint.client(region), arns.clone()).unwrap();
        keys.with_timeout(Duration::from_millis(300)).with_grant_tokens(["token"])
    };
    assert_eq!(open(all(), &sealed).await.unwrap(), arns[0]);
    endpoint.script(|request| if request.region == NEAR { Fault::Hang } else { Fault::None });
    let start = Instant::now();
    assert_eq!(open(all(), &sealed).await.unwrap(), arns[1]);
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(endpoint.grant_tokens()[6..].iter().all(|tokens| *tokens == serde_json::json!(["token"])));
    // All keys must encrypt the data key, or sealing fails.
    assert!(Envelope::new(all()).seal(b"data", &context()).await.is_err());
}

#[test]
fn duplicate_keys_and_an_empty_list_are_refused_with_their_names() {
    let endpoint = endpoint();
    let refused = |arns: &[String]| AwsKms::multi(|region| endpoint.client(region), arns).unwrap_err().to_string();
    assert!(refused(&[]).contains("no key was specified"));
    assert!(refused(&["alias/a".into()]).contains("AwsKms::resolve"));
    let said = refused(&[arn(NEAR, REPLICATED), arn(NEAR, KEY), arn(FAR, REPLICATED)]);
    assert!(said.contains(&arn(NEAR, REPLICATED)) && said.contains(&arn(FAR, REPLICATED)), "{said}");
    assert!(!said.contains(KEY), "{said}");
    assert!(refused(&[arn(NEAR, KEY), arn(NEAR, KEY)]).contains(KEY));
}

fn discovery(endpoint: &Endpoint, regions: &[&str]) -> AwsKmsDiscovery {
    AwsKmsDiscovery::new(|region| -> Client { endpoint.client(region) }, regions.iter().copied()).unwrap()
}

#[tokio::test]
async fn discovery_opens_with_any_key_that_the_message_names() {
    let endpoint = endpoint();
    for (region, id) in [(NEAR, KEY), (FAR, "0987dcba")] {
        let sealed = seal(key(&endpoint, region, id)).await;
        assert_eq!(open(discovery(&endpoint, &[NEAR, FAR]), &sealed).await.unwrap(), arn(region, id));
        // Not in a region without the key.
        let other = if region == NEAR { FAR } else { NEAR };
        let before = endpoint.log().len();
        let error = open(discovery(&endpoint, &[other]), &sealed).await.unwrap_err();
        assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::NoMatchingKey), "{error}");
        assert!(error.to_string().contains(&format!("any KMS key in {other}")), "{error}");
        assert_eq!(endpoint.log().len(), before);
    }
}

#[tokio::test]
async fn discovery_asks_the_nearest_region_first_and_the_next_when_it_fails() {
    let endpoint = endpoint();
    let sealed = seal(key(&endpoint, FAR, REPLICATED)).await;
    assert_eq!(open(discovery(&endpoint, &[NEAR, FAR]), &sealed).await.unwrap(), arn(NEAR, REPLICATED));
    assert_eq!(open(discovery(&endpoint, &[FAR, NEAR]), &sealed).await.unwrap(), arn(FAR, REPLICATED));
    endpoint.script(|request| if request.region == NEAR { Fault::Hang } else { Fault::None });
    let limited = discovery(&endpoint, &[NEAR, FAR]).with_timeout(Duration::from_millis(300));
    let start = Instant::now();
    assert_eq!(open(limited, &sealed).await.unwrap(), arn(FAR, REPLICATED));
    assert!(start.elapsed() < Duration::from_secs(8));
    // A region without a replica counts as a region that fails.
    endpoint.script(|_| Fault::None);
    assert_eq!(open(discovery(&endpoint, &["eu-north-1", FAR]), &sealed).await.unwrap(), arn(FAR, REPLICATED));
}

#[tokio::test]
async fn discovery_leaves_keys_of_other_partitions_and_accounts_alone() {
    let endpoint = endpoint();
    let sealed = seal(key(&endpoint, NEAR, KEY)).await;
    let filtered = |partition, account| discovery(&endpoint, &[NEAR]).with_filter(partition, ["999999999999", account]);
    assert!(open(filtered("aws", ACCOUNT), &sealed).await.is_ok());
    let before = endpoint.log().len();
    for (partition, account) in [("aws-cn", ACCOUNT), ("aws", "444455556666")] {
        let error = open(filtered(partition, account), &sealed).await.unwrap_err();
        assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::NoMatchingKey), "{error}");
    }
    assert_eq!(endpoint.log().len(), before);
}

#[tokio::test]
async fn discovery_does_not_seal() {
    let endpoint = endpoint();
    let error = Envelope::new(discovery(&endpoint, &[NEAR])).seal(b"data", &context()).await.unwrap_err();
    assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::Unsupported));
    assert!(error.to_string().contains("seal with AwsKms"), "{error}");
    // It can open as one of several providers. It refuses to seal even after a key that seals.
    let several = MultiProvider::new(key(&endpoint, NEAR, KEY)).with(discovery(&endpoint, &[NEAR]));
    assert!(Envelope::new(several).seal(b"data", &context()).await.is_err());
    assert_eq!(endpoint.calls_of("Encrypt"), 0);
}

#[tokio::test]
async fn discovery_needs_regions() {
    let endpoint = endpoint();
    for regions in [&[][..], &[""], &[NEAR, NEAR]] {
        let refused = AwsKmsDiscovery::new(|region| endpoint.client(region), regions.iter().copied());
        assert!(matches!(refused, Err(ConfigError::KmsKeys { .. })));
    }
}

#[tokio::test]
async fn discovery_makes_no_request_for_an_encrypted_data_key_without_a_key_arn() {
    let endpoint = endpoint();
    let keys = ["", "alias/a", "arn:aws:kms:eu-west-1:1:alias/a", "arn:aws:s3:eu-west-1:1:key/a", "\u{fffd}"];
    let mut keys: Vec<_> =
        keys.iter().map(|info| EncryptedDataKey::new("aws-kms", info.as_bytes(), &b"c"[..])).collect();
    keys.push(EncryptedDataKey::new("aws-kms", &b"\xff"[..], &b"c"[..]));
    keys.push(EncryptedDataKey::new("aws-kms-rsa", arn(NEAR, KEY), &b"c"[..]));
    let context = context();
    let request = DecryptDataKeyRequest::new(Default::default(), &context, &keys);
    let refused = discovery(&endpoint, &[NEAR, FAR]).decrypt_data_key(&request).await;
    assert!(matches!(&refused, Err(e) if e.kind() == Kind::NoMatchingKey));
    assert!(endpoint.log().is_empty());
}

/// This needs a KMS in which keys can be disabled.
#[tokio::test]
async fn a_rewrapped_message_opens_when_its_old_key_is_disabled() {
    let endpoint = endpoint();
    let old = Envelope::new(key(&endpoint, NEAR, KEY));
    let sealed = old.seal(b"data", &context()).await.unwrap();
    let header = Header::parse(&sealed, &Default::default()).unwrap();
    let keys = old.rewrap(&header, &context(), &key(&endpoint, FAR, "0987dcba")).await.unwrap();
    endpoint.disable(KEY);
    let error = old.open(&sealed, &context()).await.unwrap_err();
    assert!(error.to_string().contains("the key's state or type"), "{error}");
    let new = Envelope::new(key(&endpoint, FAR, "0987dcba")).with_detached_keys(keys);
    assert_eq!(new.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    assert_eq!(endpoint.calls_of("Encrypt"), 1);
}

#[tokio::test]
async fn a_local_key_can_be_combined_with_kms() {
    let endpoint = endpoint();
    let local = || RawAes::new("tests", "local", [1; 32]).unwrap();
    let sealed = seal(MultiProvider::new(key(&endpoint, NEAR, KEY)).with(local())).await;
    endpoint.script(|_| Fault::Close);
    let both = MultiProvider::new(key(&endpoint, NEAR, KEY)).with(local());
    assert_eq!(open(both, &sealed).await.unwrap(), "tests/local");
}

#[tokio::test]
async fn grant_tokens_go_with_every_request_of_every_region() {
    let endpoint = endpoint();
    let key = key(&endpoint, NEAR, REPLICATED).with_replica(endpoint.client(FAR), FAR).unwrap();
    let envelope = Envelope::new(key.clone().with_grant_tokens(["one", "two"]));
    let sealed = envelope.seal(b"data", &context()).await.unwrap();
    endpoint.script(|request| if request.region == NEAR { Fault::Close } else { Fault::None });
    envelope.open(&sealed, &context()).await.unwrap();
    open(discovery(&endpoint, &[NEAR, FAR]).with_grant_tokens(["one", "two"]), &sealed).await.unwrap();
    assert_eq!(endpoint.grant_tokens(), vec![serde_json::json!(["one", "two"]); 5]);
    // Tokens set before the replica also apply to it.
    let replicated = AwsKms::new(endpoint.client(NEAR), arn(NEAR, REPLICATED)).unwrap().with_grant_tokens(["three"]);
    seal(replicated.with_replica(endpoint.client(FAR), FAR).unwrap()).await;
    assert_eq!(endpoint.grant_tokens()[5..], vec![serde_json::json!(["three"]); 2]);
}
