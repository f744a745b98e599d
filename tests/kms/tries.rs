//! How many calls one message may cost: a hostile message, and one with unavailable regions.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_kms::config::retry::RetryConfig;
use futures_util::future::join_all;
use kms_envelope::{
    AlgorithmSuite, AwsKms, DataKeyCache, Envelope, KeyProvider, Limits, OpenError, ProviderError, RawAes, RewrapError,
    SealError,
    message::EncryptedDataKey,
    provider::{
        AwsKmsDiscovery, DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest,
        GeneratedDataKey, MultiProvider, ProviderErrorKind as Kind, SecretKey,
    },
};

use test_support::{
    FixedDataKey, context,
    kms::{Endpoint, Fault, arn},
};

const NEAR: &str = "eu-west-1";
const FAR: &str = "us-east-1";
const FARTHEST: &str = "ap-south-1";
const KEY: &str = "1234abcd";
const NEIGHBOR: &str = "5678abcd";
const REPLICATED: &str = "mrk-5678";
/// Longer than a slow machine needs, and shorter than the default of 10 seconds.
const SOON: Duration = Duration::from_secs(8);

/// Two single-region keys, and a multi-region key in three regions.
fn endpoint() -> Endpoint {
    Endpoint::new([
        (NEAR, KEY),
        (NEAR, NEIGHBOR),
        (FAR, KEY),
        (NEAR, REPLICATED),
        (FAR, REPLICATED),
        (FARTHEST, REPLICATED),
    ])
}

fn key(endpoint: &Endpoint, region: &str, id: &str) -> AwsKms {
    AwsKms::new(endpoint.client(region), arn(region, id)).unwrap()
}

fn replicated(endpoint: &Endpoint) -> AwsKms {
    let key = key(endpoint, NEAR, REPLICATED).with_replica(endpoint.client(FAR), FAR).unwrap();
    key.with_replica(endpoint.client(FARTHEST), FARTHEST).unwrap()
}

fn discovery(endpoint: &Endpoint) -> AwsKmsDiscovery {
    AwsKmsDiscovery::new(|region| endpoint.client(region), [NEAR, FAR, FARTHEST]).unwrap()
}

fn junk(arn: String) -> EncryptedDataKey {
    EncryptedDataKey::new("aws-kms", arn, &b"not what KMS has encrypted"[..])
}

const DATA_KEY: [u8; 32] = [7; 32];

/// Returns a message with these encrypted data keys, in this order.
async fn message(encrypted_data_keys: Vec<EncryptedDataKey>) -> Vec<u8> {
    let provider = FixedDataKey::new(|| SecretKey::from(DATA_KEY)).listing(encrypted_data_keys);
    Envelope::new(provider).seal(b"data", &context()).await.unwrap()
}

/// Returns [`DATA_KEY`] encrypted with this key.
async fn genuine(key: &AwsKms) -> EncryptedDataKey {
    let (context, data_key) = (context(), SecretKey::from(DATA_KEY));
    let request = EncryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &data_key);
    key.encrypt_data_key(&request).await.unwrap().remove(0)
}

/// Returns sixteen encrypted data keys that name this key.
async fn hostile(arn: &str) -> Vec<u8> {
    message(vec![junk(arn.to_owned()); 16]).await
}

async fn opened_by(envelope: &Envelope, message: &[u8]) -> String {
    let opened = envelope.open(message, &context()).await.unwrap();
    assert_eq!(opened.plaintext, b"data");
    opened.info.key_id().to_owned()
}

/// Returns the error of each encrypted data key.
async fn attempts(envelope: &Envelope, message: &[u8]) -> Vec<ProviderError> {
    match envelope.open(message, &context()).await {
        Err(OpenError::Provider(error)) if error.kind() == Kind::NoneDecrypted => error.attempts().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn kinds(attempts: &[ProviderError]) -> Vec<Kind> {
    attempts.iter().map(ProviderError::kind).collect()
}

fn within(timeout: Duration, provider: impl KeyProvider + 'static) -> Envelope {
    Envelope::builder(provider).key_timeout(timeout).build().unwrap()
}

fn decrypts_in(endpoint: &Endpoint, region: &str) -> usize {
    endpoint.log().iter().filter(|(operation, at)| operation == "Decrypt" && at == region).count()
}

// A hostile message.

#[tokio::test]
async fn of_sixteen_invalid_encrypted_data_keys_under_one_key_two_are_tried() {
    let message = hostile(&arn(NEAR, KEY)).await;
    type Make = fn(&Endpoint) -> Box<dyn KeyProvider>;
    let providers: [Make; 3] = [
        |endpoint| Box::new(key(endpoint, NEAR, KEY)),
        |endpoint| Box::new(discovery(endpoint)),
        // Two providers that would both try each encrypted data key.
        |endpoint| Box::new(MultiProvider::new(key(endpoint, NEAR, KEY)).with(discovery(endpoint))),
    ];
    for provider in providers {
        let endpoint = endpoint();
        let provider = std::sync::Arc::<dyn KeyProvider>::from(provider(&endpoint));
        let error = Envelope::new(provider).open(&message, &context()).await.unwrap_err();
        assert_eq!(endpoint.calls_of("Decrypt"), 2, "{error}");
        let said = error.to_string();
        assert!(said.contains("not tried: 14") && said.contains("Limits::tries_per_kms_key"), "{said}");
    }
    let endpoint = endpoint();
    let attempts = attempts(&Envelope::new(key(&endpoint, NEAR, KEY)), &message).await;
    assert_eq!(kinds(&attempts), [Kind::InvalidCiphertext, Kind::InvalidCiphertext, Kind::NotTried]);
    assert_eq!(attempts[2].detail(), Some("14; the limit for one KMS key is 2 (Limits::tries_per_kms_key)"));
}

#[tokio::test]
async fn a_throttling_kms_gets_one_request_with_the_clients_retries_for_any_message() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Throttle);
    let retries = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(1));
    let client = endpoint.client_with(NEAR, |config| config.retry_config(retries));
    let envelope = Envelope::new(AwsKms::new(client, arn(NEAR, KEY)).unwrap());
    let attempts = attempts(&envelope, &hostile(&arn(NEAR, KEY)).await).await;
    assert_eq!(kinds(&attempts), [Kind::Throttled], "{attempts:?}");
    assert_eq!(endpoint.calls_of("Decrypt"), 3);
}

#[tokio::test]
async fn a_silent_kms_gets_one_request_for_a_hostile_message_which_fails_at_the_deadline() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let timeout = Duration::from_millis(500);
    let envelope = within(timeout, key(&endpoint, NEAR, KEY));
    let message = hostile(&arn(NEAR, KEY)).await;
    let start = Instant::now();
    let attempts = attempts(&envelope, &message).await;
    assert!(start.elapsed() >= timeout && start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(kinds(&attempts), [Kind::TimedOut], "{attempts:?}");
    assert_eq!(endpoint.calls_of("Decrypt"), 1);
}

#[tokio::test]
async fn the_caller_can_set_the_limit_on_tries() {
    let endpoint = endpoint();
    let ours = key(&endpoint, NEAR, KEY);
    let mut keys = vec![junk(arn(NEAR, KEY)); 4];
    keys.push(genuine(&ours).await);
    let message = message(keys).await;
    for (tries_per_kms_key, decrypts) in [(0, 0), (1, 1), (4, 4), (5, 5), (u16::MAX, 5)] {
        let limits = Limits::default().with_tries_per_kms_key(tries_per_kms_key);
        let before = endpoint.calls_of("Decrypt");
        // Also with a cache, which makes its requests in another place.
        let cache = DataKeyCache::builder(Duration::from_secs(300)).build().unwrap();
        let cached = Envelope::builder(ours.clone()).limits(limits).cache(cache).build().unwrap();
        for envelope in [Envelope::builder(ours.clone()).limits(limits).build().unwrap(), cached] {
            let opened = envelope.open(&message, &context()).await;
            assert_eq!(opened.is_ok(), tries_per_kms_key >= 5, "{tries_per_kms_key}: {opened:?}");
        }
        assert_eq!(endpoint.calls_of("Decrypt") - before, 2 * decrypts);
    }
}

#[tokio::test]
async fn the_last_of_sixteen_different_keys_opens_in_discovery_mode() {
    let endpoint = endpoint();
    let mut keys: Vec<_> = (0..15).map(|number| junk(arn(NEAR, &format!("no-{number}")))).collect();
    keys.push(genuine(&key(&endpoint, NEAR, KEY)).await);
    assert_eq!(opened_by(&Envelope::new(discovery(&endpoint)), &message(keys).await).await, arn(NEAR, KEY));
    assert_eq!(endpoint.calls_of("Decrypt"), 16);
}

#[tokio::test]
async fn the_replicas_of_a_key_count_as_one_key_and_other_keys_do_not() {
    let endpoint = endpoint();
    let replicas = (0..8).map(|number| junk(arn(&format!("region-{number}"), REPLICATED)));
    // The same id in two regions, but not a multi-region key: two different keys.
    let single = [NEAR, FAR, NEAR, FAR, NEAR, FAR].map(|region| junk(arn(region, KEY)));
    let attempts =
        attempts(&Envelope::new(discovery(&endpoint)), &message(replicas.chain(single).collect()).await).await;
    assert_eq!((decrypts_in(&endpoint, NEAR), decrypts_in(&endpoint, FAR), endpoint.log().len()), (4, 2, 6));
    let last = attempts.last().unwrap();
    assert_eq!(last.kind(), Kind::NotTried);
    assert!(last.to_string().contains("not tried: 8; the limit for one KMS key is 2"), "{last}");
}

// Unavailable regions.

#[tokio::test]
async fn with_two_of_three_replicas_down_the_third_seals_and_opens_within_one_deadline() {
    let timeout = Duration::from_secs(3);
    for fault in [Fault::Close, Fault::Throttle, Fault::Cut, Fault::Hang, Fault::Refuse("KMSInternalException")] {
        let endpoint = endpoint();
        let sealed = Envelope::new(replicated(&endpoint)).seal(b"data", &context()).await.unwrap();
        endpoint.script(move |request| if request.region == FARTHEST { Fault::None } else { fault });
        let start = Instant::now();
        let elsewhere = within(timeout, replicated(&endpoint)).seal(b"data", &context()).await.unwrap();
        assert!(start.elapsed() < timeout, "{fault:?}");
        let start = Instant::now();
        let envelopes = [within(timeout, replicated(&endpoint)), within(timeout, discovery(&endpoint))];
        let opening = envelopes.iter().flat_map(|by| [opened_by(by, &sealed), opened_by(by, &elsewhere)]);
        assert_eq!(join_all(opening).await, vec![arn(FARTHEST, REPLICATED); 4], "{fault:?}");
        assert!(start.elapsed() < timeout, "{fault:?}");
    }
}

#[tokio::test]
async fn a_region_that_does_not_respond_is_called_once_and_does_not_count() {
    let endpoint = endpoint();
    let mut keys = vec![junk(arn(NEAR, REPLICATED))];
    keys.push(genuine(&key(&endpoint, FAR, REPLICATED)).await);
    let message = message(keys).await;
    endpoint.script(|request| if request.region == NEAR { Fault::Close } else { Fault::None });
    assert_eq!(opened_by(&Envelope::new(replicated(&endpoint)), &message).await, arn(FAR, REPLICATED));
    assert_eq!((decrypts_in(&endpoint, NEAR), decrypts_in(&endpoint, FAR)), (1, 2));
}

#[tokio::test]
async fn a_ciphertext_that_kms_calls_invalid_is_not_tried_in_another_region() {
    let endpoint = endpoint();
    let sealed = Envelope::new(replicated(&endpoint)).seal(b"data", &context()).await.unwrap();
    let invalid =
        [("InvalidCiphertextException", Kind::InvalidCiphertext), ("IncorrectKeyException", Kind::IncorrectKey)];
    for (code, kind) in invalid {
        endpoint.script(move |request| if request.region == NEAR { Fault::Refuse(code) } else { Fault::None });
        for envelope in [Envelope::new(replicated(&endpoint)), Envelope::new(discovery(&endpoint))] {
            let attempts = attempts(&envelope, &sealed).await;
            assert_eq!(kinds(&attempts), [kind], "{attempts:?}");
        }
    }
    assert_eq!((decrypts_in(&endpoint, NEAR), decrypts_in(&endpoint, FAR)), (4, 0));
}

#[tokio::test]
async fn an_error_that_depends_on_the_region_is_tried_in_another_one_and_counts_once() {
    for fault in [
        Fault::Refuse("AccessDeniedException"),
        Fault::Refuse("DisabledException"),
        Fault::Refuse("NotFoundException"),
        Fault::Refuse("SomethingNewException"),
        Fault::OtherKey,
    ] {
        let endpoint = endpoint();
        let keys = vec![junk(arn(NEAR, REPLICATED)), genuine(&key(&endpoint, FAR, REPLICATED)).await];
        let message = message(keys).await;
        endpoint.script(move |request| match &request.region[..] {
            FARTHEST => Fault::None,
            _ => fault,
        });
        for envelope in [Envelope::new(replicated(&endpoint)), Envelope::new(discovery(&endpoint))] {
            assert_eq!(opened_by(&envelope, &message).await, arn(FARTHEST, REPLICATED), "{fault:?}");
        }
        // The invalid ones too, unless a region has called them invalid before.
        let expected = if fault == Fault::OtherKey { 2 } else { 4 };
        assert_eq!(decrypts_in(&endpoint, FARTHEST), expected, "{fault:?}");
    }
}

// One deadline for all requests.

#[tokio::test]
async fn several_silent_keys_share_one_deadline() {
    let endpoint = endpoint();
    let arns = [arn(NEAR, KEY), arn(FAR, KEY), arn(FARTHEST, REPLICATED)];
    let several = || AwsKms::multi(|region| endpoint.client(region), arns.clone()).unwrap();
    let sealed = Envelope::new(several()).seal(b"data", &context()).await.unwrap();
    endpoint.script(|_| Fault::Hang);
    let timeout = Duration::from_millis(500);
    let start = Instant::now();
    let attempts = attempts(&within(timeout, several()), &sealed).await;
    assert!(start.elapsed() >= timeout && start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!((attempts.len(), endpoint.calls_of("Decrypt")), (3, 3));
    // The first key has half of the time, and the second one half of the rest.
    endpoint.script(|request| if request.region == FARTHEST { Fault::None } else { Fault::Hang });
    assert_eq!(opened_by(&within(Duration::from_secs(2), several()), &sealed).await, arns[2]);

    endpoint.script(|_| Fault::Hang);
    let start = Instant::now();
    within(timeout, several()).seal(b"data", &context()).await.unwrap_err();
    assert!(start.elapsed() >= timeout && start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_region_that_throttles_is_not_called_again_for_another_of_several_keys() {
    let endpoint = endpoint();
    let arns = [arn(NEAR, KEY), arn(NEAR, NEIGHBOR), arn(FAR, KEY)];
    let several = || AwsKms::multi(|region| endpoint.client(region), arns.clone()).unwrap();
    let sealed = Envelope::new(several()).seal(b"data", &context()).await.unwrap();
    endpoint.script(|request| if request.region == NEAR { Fault::Throttle } else { Fault::None });
    assert_eq!(opened_by(&Envelope::new(several()), &sealed).await, arns[2]);
    assert_eq!((decrypts_in(&endpoint, NEAR), decrypts_in(&endpoint, FAR)), (1, 1));
    // A request that was not sent has the same error.
    endpoint.script(|_| Fault::Throttle);
    let attempts = attempts(&Envelope::new(several()), &sealed).await;
    for (attempt, arn) in attempts.iter().zip(&arns) {
        let [error] = attempt.attempts() else { panic!("{attempt}") };
        assert_eq!((error.kind(), error.key_id(), error.is_retryable()), (Kind::Throttled, &**arn, true), "{error}");
        let source = std::error::Error::source(error).unwrap();
        assert_eq!(source.to_string().starts_with("not sent"), *arn == arns[1], "{error}");
    }
    assert_eq!((attempts.len(), decrypts_in(&endpoint, NEAR), decrypts_in(&endpoint, FAR)), (3, 2, 2));
}

/// Another client may reach the region by another network path, or with other credentials.
#[tokio::test]
async fn another_client_is_tried_in_the_region_that_did_not_respond_to_the_first() {
    let (away, there) = (endpoint(), endpoint());
    let sealed = Envelope::new(key(&there, NEAR, KEY)).seal(b"data", &context()).await.unwrap();
    away.script(|_| Fault::Close);
    let both = MultiProvider::new(key(&away, NEAR, KEY)).with(key(&there, NEAR, KEY));
    assert_eq!(opened_by(&Envelope::new(both), &sealed).await, arn(NEAR, KEY));
    assert_eq!((away.calls_of("Decrypt"), there.calls_of("Decrypt")), (1, 1));
}

#[tokio::test]
async fn the_clones_of_a_client_are_one_client() {
    let endpoint = endpoint();
    let client = endpoint.client(NEAR);
    let key = |id| AwsKms::new(client.clone(), arn(NEAR, id)).unwrap();
    let both = || MultiProvider::new(key(KEY)).with(key(NEIGHBOR));
    let sealed = Envelope::new(both()).seal(b"data", &context()).await.unwrap();
    endpoint.script(|_| Fault::Throttle);
    attempts(&Envelope::new(both()), &sealed).await;
    assert_eq!(endpoint.calls_of("Decrypt"), 1);
    // Also with a wrapper that passes on a copy of the list.
    let copied = || MultiProvider::new(RawAes::generate("tests", "local").unwrap()).with(Copied(both()));
    attempts(&Envelope::new(copied()), &sealed).await;
    assert_eq!(endpoint.calls_of("Decrypt"), 2);
}

/// For example, a custom key store may be disconnected.
#[tokio::test]
async fn an_unavailable_key_does_not_affect_other_keys_of_its_region() {
    let endpoint = endpoint();
    let arns = [arn(NEAR, KEY), arn(NEAR, NEIGHBOR)];
    let several = || AwsKms::multi(|region| endpoint.client(region), arns.clone()).unwrap();
    let sealed = Envelope::new(several()).seal(b"data", &context()).await.unwrap();
    endpoint.script(|request| match request.key.ends_with(KEY) {
        true => Fault::Refuse("KeyUnavailableException"),
        false => Fault::None,
    });
    assert_eq!(opened_by(&Envelope::new(several()), &sealed).await, arns[1]);
    assert_eq!(opened_by(&Envelope::new(discovery(&endpoint)), &sealed).await, arns[1]);
    // KMS has responded, so the limit of two applies here too. Another region may have the key.
    let before = endpoint.calls_of("Decrypt");
    let refused = attempts(&Envelope::new(key(&endpoint, NEAR, KEY)), &hostile(&arns[0]).await).await;
    assert_eq!(kinds(&refused[..2]), [Kind::Unavailable, Kind::Unavailable]);
    assert_eq!(endpoint.calls_of("Decrypt") - before, 2);
    let sealed = Envelope::new(replicated(&endpoint)).seal(b"data", &context()).await.unwrap();
    endpoint.script(|request| match request.region == NEAR {
        true => Fault::Refuse("KeyUnavailableException"),
        false => Fault::None,
    });
    assert_eq!(opened_by(&Envelope::new(replicated(&endpoint)), &sealed).await, arn(FAR, REPLICATED));
}

/// Calls the inner provider with a copy of the encrypted data keys.
#[derive(Debug)]
struct Copied<P>(P);

impl<P: std::fmt::Display> std::fmt::Display for Copied<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl<P: KeyProvider> KeyProvider for Copied<P> {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.0.generate_data_key(request).await
    }

    async fn encrypt_data_key(&self, it: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.0.encrypt_data_key(it).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let copy = request.encrypted_data_keys.to_vec();
        let mut request = *request;
        request.encrypted_data_keys = &copy;
        self.0.decrypt_data_key(&request).await
    }
}

/// Calls the inner provider with only the last of the encrypted data keys.
#[derive(Debug)]
struct Last<P>(P);

impl<P: std::fmt::Display> std::fmt::Display for Last<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl<P: KeyProvider> KeyProvider for Last<P> {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.0.generate_data_key(request).await
    }

    async fn encrypt_data_key(&self, it: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.0.encrypt_data_key(it).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let mut request = *request;
        let before = request.encrypted_data_keys.len() - 1;
        request.encrypted_data_keys = &request.encrypted_data_keys[before..];
        let mut found = self.0.decrypt_data_key(&request).await?;
        found.index += before;
        Ok(found)
    }
}

#[tokio::test]
async fn results_for_one_list_of_keys_are_not_applied_to_another_list() {
    let endpoint = endpoint();
    let ours = key(&endpoint, NEAR, KEY);
    let mut keys = vec![junk(arn(NEAR, KEY)); 15];
    keys.push(genuine(&ours).await);
    let both = MultiProvider::new(ours.clone()).with(Last(ours));
    assert_eq!(opened_by(&Envelope::new(both), &message(keys).await).await, arn(NEAR, KEY));
    assert_eq!(endpoint.calls_of("Decrypt"), 3);
}

#[tokio::test]
async fn the_shorter_of_deadline_and_own_timeout_ends_a_request() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let long = Duration::from_secs(60);
    let timeouts = aws_sdk_kms::config::timeout::TimeoutConfig::builder().operation_timeout(long).build();
    let client = endpoint.client_with(NEAR, |config| config.timeout_config(timeouts));
    let key = AwsKms::new(client, arn(NEAR, KEY)).unwrap();
    let short = Duration::from_millis(300);
    for envelope in [
        within(short, key.clone()),
        within(short, key.clone().with_timeout(long)),
        within(long, key.with_timeout(short)),
    ] {
        let start = Instant::now();
        let error = envelope.seal(b"data", &context()).await.unwrap_err();
        assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::TimedOut), "{error}");
        assert!(start.elapsed() >= short && start.elapsed() < SOON, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn after_the_deadline_no_request_is_sent_and_duration_max_means_no_limit() {
    let endpoint = endpoint();
    let sealed = Envelope::new(replicated(&endpoint)).seal(b"data", &context()).await.unwrap();
    let before = endpoint.log().len();
    let none = within(Duration::ZERO, replicated(&endpoint));
    let error = none.seal(b"data", &context()).await.unwrap_err();
    let SealError::Provider(error) = error else { panic!() };
    assert_eq!(error.kind(), Kind::AllRegionsFailed);
    for attempts in [error.attempts(), &attempts(&none, &sealed).await] {
        assert_eq!(kinds(attempts), [Kind::TimedOut; 3]);
    }
    assert_eq!(endpoint.log().len(), before);

    // A provider that makes no requests ignores the deadline.
    let local = within(Duration::ZERO, RawAes::generate("tests", "local").unwrap());
    let by_local = local.seal(b"data", &context()).await.unwrap();
    local.open(&by_local, &context()).await.unwrap();

    endpoint
        .script(|request| if request.region == NEAR { Fault::Close } else { Fault::Late(Duration::from_millis(50)) });
    let endless = within(Duration::MAX, replicated(&endpoint));
    endless.seal(b"data", &context()).await.unwrap();
    assert_eq!(opened_by(&endless, &sealed).await, arn(FAR, REPLICATED));
}

#[tokio::test]
async fn a_provider_that_is_used_without_a_deadline_takes_ten_seconds_in_all() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let (context, keys) = (context(), [junk(arn(NEAR, REPLICATED))]);
    let request = DecryptDataKeyRequest::new(AlgorithmSuite::default(), &context, &keys);
    let (key, start) = (replicated(&endpoint), Instant::now());
    let (sealed, opened) = tokio::join!(
        async { key.generate_data_key(&GenerateDataKeyRequest::new(AlgorithmSuite::default(), &context)).await },
        key.decrypt_data_key(&request),
    );
    let (sealing, opening) = (sealed.unwrap_err(), opened.unwrap_err());
    assert_eq!((sealing.kind(), sealing.attempts().len()), (Kind::AllRegionsFailed, 3));
    assert_eq!((opening.kind(), opening.attempts().len()), (Kind::NoneDecrypted, 3));
    let ten = Duration::from_secs(10);
    assert!(start.elapsed() >= ten && start.elapsed() < ten + SOON, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_request_that_a_cache_shares_has_its_own_deadline() {
    let endpoint = endpoint();
    let cached = |timeout, max_messages| {
        let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(max_messages).build().unwrap();
        Envelope::builder(key(&endpoint, NEAR, KEY)).cache(cache).key_timeout(timeout).build().unwrap()
    };
    // Each data key seals one message. Of four callers, three wait for a request, then start one or wait again.
    // Together, this takes longer than the limit of a single request.
    endpoint.script(|_| Fault::Late(Duration::from_millis(300)));
    let (envelope, context, start) = (cached(Duration::from_secs(1), 1), context(), Instant::now());
    for sealed in join_all((0..4).map(|_| envelope.seal(b"data", &context))).await {
        sealed.unwrap();
    }
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(endpoint.calls_of("GenerateDataKey"), 4);

    // A caller that joins later has only the remaining time of the request.
    endpoint.script(|_| Fault::Hang);
    let (envelope, start) = (cached(Duration::from_millis(1000), 1 << 32), Instant::now());
    let late = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let joined = Instant::now();
        envelope.seal(b"data", &context).await.unwrap_err();
        joined.elapsed()
    };
    let (first, late) = tokio::join!(envelope.seal(b"data", &context), late);
    first.unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(1000) && late < Duration::from_millis(900), "{late:?}");
    assert_eq!(endpoint.calls_of("GenerateDataKey"), 5);

    // The same on opening.
    endpoint.script(|_| Fault::None);
    let sealed = Envelope::new(key(&endpoint, NEAR, KEY)).seal(b"data", &context).await.unwrap();
    endpoint.script(|_| Fault::Hang);
    let start = Instant::now();
    let late = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let joined = Instant::now();
        envelope.open(&sealed, &context).await.unwrap_err();
        joined.elapsed()
    };
    let (first, late) = tokio::join!(envelope.open(&sealed, &context), late);
    first.unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(1000) && late < Duration::from_millis(900), "{late:?}");
    assert_eq!(endpoint.calls_of("Decrypt"), 1);
}

#[tokio::test]
async fn rewrapping_has_one_deadline_for_both_requests() {
    let endpoint = endpoint();
    let old = |timeout| within(timeout, key(&endpoint, NEAR, KEY));
    let sealed = old(SOON).seal(b"data", &context()).await.unwrap();
    let header = kms_envelope::message::Header::parse(&sealed, &Limits::default()).unwrap();
    // Each request alone would meet the deadline.
    endpoint.script(|_| Fault::Late(Duration::from_millis(500)));
    let new = key(&endpoint, FAR, KEY);
    let error = old(Duration::from_millis(900)).rewrap(&header, &context(), &new).await.unwrap_err();
    assert!(matches!(&error, RewrapError::Encrypt(e) if e.kind() == Kind::TimedOut), "{error:?}");
    assert_eq!((endpoint.calls_of("Decrypt"), endpoint.calls_of("Encrypt")), (1, 1));
    old(SOON).rewrap(&header, &context(), &new).await.unwrap();
}
