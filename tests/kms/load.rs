//! Many concurrent callers and a faulty KMS, over HTTP: all results are correct, and all errors are as documented.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_kms::{Client, config::retry::RetryConfig};
use futures_util::{StreamExt, future::join_all, stream};
use kms_envelope::{
    AwsKms, DataKeyCache, Envelope, OpenError, ProviderError, SealError,
    provider::{ProviderErrorKind as Kind, ResolveError},
};

use test_support::{
    context,
    kms::{Endpoint, Fault, arn},
};

const REGION: &str = "eu-west-1";
const ID: &str = "1234abcd";

fn endpoint() -> Endpoint {
    Endpoint::new([(REGION, ID)])
}

fn kms(client: Client) -> AwsKms {
    AwsKms::new(client, arn(REGION, ID)).unwrap()
}

fn cached(kms: AwsKms, max_messages: u64) -> (Envelope, DataKeyCache) {
    let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(max_messages).build().unwrap();
    (Envelope::builder(kms).cache(cache.clone()).build().unwrap(), cache)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_seals_at_once_with_a_cold_cache_are_one_request() {
    let endpoint = endpoint();
    let (envelope, _) = cached(kms(endpoint.client(REGION)), 1 << 32);
    let tasks = (0..1000u32).map(|number| {
        let envelope = envelope.clone();
        tokio::spawn(async move { envelope.seal(&number.to_be_bytes(), &context()).await.unwrap() })
    });
    let sealed: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(endpoint.calls_of("GenerateDataKey"), 1);

    let (reader, cache) = cached(kms(endpoint.client(REGION)), 1 << 32);
    let tasks = (0..1000u32).zip(sealed).map(|(number, message)| {
        let reader = reader.clone();
        tokio::spawn(async move {
            assert_eq!(reader.open(&message, &context()).await.unwrap().plaintext, number.to_be_bytes());
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    assert_eq!(endpoint.calls_of("Decrypt"), 1);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.hits + stats.waits), (1, 999));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_seals_with_ten_thousand_for_a_key_are_ten_requests() {
    let endpoint = endpoint();
    let (envelope, _) = cached(kms(endpoint.client(REGION)), 10_000);
    let (reader, _) = cached(kms(endpoint.client(REGION)), 1);
    let tasks = (0..8u32).map(|task| {
        let (envelope, reader) = (envelope.clone(), reader.clone());
        tokio::spawn(async move {
            for number in 0..12_500u32 {
                let plaintext = (task * 12_500 + number).to_be_bytes();
                let sealed = envelope.seal(&plaintext, &context()).await.unwrap();
                assert_eq!(reader.open(&sealed, &context()).await.unwrap().plaintext, plaintext);
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    assert_eq!((endpoint.calls_of("GenerateDataKey"), endpoint.calls_of("Decrypt")), (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_second_request_is_throttled_each_seal_succeeds_or_reports_it() {
    let endpoint = Arc::new(endpoint());
    endpoint.script(|request| if request.number % 2 == 0 { Fault::Throttle } else { Fault::None });
    let retries = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(1));
    let client = endpoint.client_with(REGION, |config| config.retry_config(retries));
    let envelope = Envelope::new(kms(client));
    let results: Vec<_> = stream::iter(0..300u32)
        .map(|number| {
            let envelope = envelope.clone();
            async move {
                let sealed = match envelope.seal(&number.to_be_bytes(), &context()).await {
                    Ok(sealed) => sealed,
                    Err(SealError::Provider(error)) => return Err(error),
                    Err(error) => panic!("{error}"),
                };
                match envelope.open(&sealed, &context()).await {
                    Ok(opened) => assert_eq!(opened.plaintext, number.to_be_bytes()),
                    Err(OpenError::Provider(error)) => return Err(error),
                    Err(error) => panic!("{error}"),
                }
                Ok(())
            }
        })
        .buffer_unordered(20)
        .collect()
        .await;
    let (right, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    for error in refused.into_iter().flat_map(Result::err) {
        let is_throttled = |error: &ProviderError| error.kind() == Kind::Throttled;
        let attempts = if error.attempts().is_empty() { std::slice::from_ref(&error) } else { error.attempts() };
        assert!(attempts.iter().all(is_throttled) && error.is_retryable(), "{error:?}");
    }
    assert!(right.len() >= 50, "{}", right.len());

    // With a cache, one data key is enough, and the client's retries fetch it.
    let retries = RetryConfig::standard().with_max_attempts(10).with_initial_backoff(Duration::from_millis(1));
    let (envelope, cache) = cached(kms(endpoint.client_with(REGION, |config| config.retry_config(retries))), 1 << 32);
    let context = context();
    for sealed in join_all((0..300).map(|_| envelope.seal(b"data", &context))).await {
        assert_eq!(envelope.open(&sealed.unwrap(), &context).await.unwrap().plaintext, b"data");
    }
    assert_eq!(cache.stats().failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_hides_a_five_second_outage_and_without_one_calls_fail_within_the_deadline() {
    let endpoint = endpoint();
    let (envelope, cache) = cached(kms(endpoint.client(REGION)), 1 << 32);
    let without = Envelope::new(kms(endpoint.client(REGION)).with_timeout(Duration::from_millis(500)));
    let before = envelope.seal(b"before", &context()).await.unwrap();
    envelope.open(&before, &context()).await.unwrap();

    // First, nothing listens on the port. Then, a server accepts connections but does not respond.
    let start = Instant::now();
    let outage = Duration::from_secs(5);
    endpoint.script(move |_| if start.elapsed() < outage / 2 { Fault::Close } else { Fault::Hang });
    let (mut served, mut said) = (0, BTreeSet::new());
    while start.elapsed() < outage {
        let sealed = envelope.seal(b"during", &context()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"during");
        served += 1;
        if served % 100 != 0 {
            continue;
        }
        let asked = Instant::now();
        let sealing = without.seal(b"during", &context()).await.unwrap_err();
        let opening = without.open(&before, &context()).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        let (SealError::Provider(sealing), OpenError::Provider(opening)) = (sealing, opening) else { panic!() };
        for error in [sealing, opening] {
            assert!(error.is_retryable(), "{error}");
            said.insert(error.to_string());
        }
    }
    assert!(served > 1000, "{served}");
    for expected in ["did not respond, or failed", "no response in time"] {
        assert_eq!(said.iter().filter(|said| said.contains(expected)).count(), 2, "{said:?}");
    }
    assert_eq!(cache.stats().calls, 2);

    endpoint.script(|_| Fault::None);
    let after = without.seal(b"after", &context()).await.unwrap();
    assert_eq!(without.open(&after, &context()).await.unwrap().plaintext, b"after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_request_ends_at_its_deadline_for_all_waiting_callers() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let (envelope, cache) = cached(kms(endpoint.client(REGION)).with_timeout(Duration::from_millis(300)), 1 << 32);
    let start = Instant::now();
    let context = context();
    for refused in join_all((0..100).map(|_| envelope.seal(b"data", &context))).await {
        let Err(SealError::Provider(error)) = refused else { panic!("{refused:?}") };
        assert!(error.kind() == Kind::TimedOut && error.source().is_some());
    }
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(5));
    assert_eq!((endpoint.calls_of("GenerateDataKey"), cache.stats().failures), (1, 1));
}

#[tokio::test]
async fn the_clients_own_timeout_applies_unless_another_is_set() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let timeout = |limit| aws_sdk_kms::config::timeout::TimeoutConfig::builder().operation_timeout(limit).build();
    let client = endpoint.client_with(REGION, |config| {
        config.retry_config(RetryConfig::disabled()).timeout_config(timeout(Duration::from_millis(200)))
    });
    for (kms, limit) in
        [(kms(client.clone()), 200), (kms(client.clone()).with_timeout(Duration::from_millis(700)), 700)]
    {
        let start = Instant::now();
        let error = Envelope::new(kms).seal(b"data", &context()).await.unwrap_err();
        assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::TimedOut), "{error}");
        let (elapsed, limit) = (start.elapsed(), Duration::from_millis(limit));
        // Much less than the default of 10 seconds.
        assert!(elapsed >= limit && elapsed < Duration::from_secs(8), "{elapsed:?}");
    }
    let Err(ResolveError::Provider(error)) = AwsKms::resolve(client, "alias/invoices").await else { panic!() };
    assert_eq!((error.kind(), error.operation()), (Kind::TimedOut, "DescribeKey"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_caller_cancels_its_request() {
    let endpoint = endpoint();
    endpoint.script(|_| Fault::Hang);
    let uncached = Envelope::new(kms(endpoint.client(REGION)));
    let (cached, _) = cached(kms(endpoint.client(REGION)), 1 << 32);
    for envelope in [uncached, cached] {
        let before = endpoint.given_up();
        let context = context();
        let both = join_all([envelope.seal(b"data", &context), envelope.seal(b"data", &context)]);
        assert!(tokio::time::timeout(Duration::from_millis(200), both).await.is_err());
        let start = Instant::now();
        while endpoint.given_up() == before {
            assert!(start.elapsed() < Duration::from_secs(5), "no caller has given up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_response_is_not_used_as_a_key_and_not_printed() {
    let endpoint = endpoint();
    let envelope = Envelope::new(kms(endpoint.client(REGION)));
    let sealed = envelope.seal(b"data", &context()).await.unwrap();
    endpoint.script(|_| Fault::Cut);
    let sealing = envelope.seal(b"data", &context()).await.unwrap_err();
    let opening = envelope.open(&sealed, &context()).await.unwrap_err();
    let is_expected = |error: &ProviderError| error.kind() == Kind::Unavailable && error.is_retryable();
    assert!(matches!(&sealing, SealError::Provider(error) if is_expected(error)));
    assert!(matches!(&opening, OpenError::Provider(error) if error.is_retryable()));
    let printed = format!("{sealing:?} {sealing} {opening:?} {opening}");
    assert!(!printed.contains("Plaintext"), "{printed}");

    // The client's retries handle it, if they are enabled.
    endpoint.script(|request| if request.number % 2 == 0 { Fault::Cut } else { Fault::None });
    let retries = RetryConfig::standard().with_max_attempts(5).with_initial_backoff(Duration::from_millis(1));
    let envelope = Envelope::new(kms(endpoint.client_with(REGION, |config| config.retry_config(retries))));
    for _ in 0..10 {
        let sealed = envelope.seal(b"data", &context()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &context()).await.unwrap().plaintext, b"data");
    }
}

#[tokio::test]
async fn a_key_is_renewed_on_the_runtime_before_it_expires() {
    let endpoint = endpoint();
    let cache = DataKeyCache::builder(Duration::from_secs(20))
        .refresh_ahead(Duration::from_millis(19_900), |task| drop(tokio::spawn(task)))
        .build()
        .unwrap();
    let envelope = Envelope::builder(kms(endpoint.client(REGION))).cache(cache.clone()).build().unwrap();
    envelope.seal(b"data", &context()).await.unwrap();
    let start = Instant::now();
    while endpoint.calls_of("GenerateDataKey") < 2 {
        envelope.seal(b"data", &context()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() < Duration::from_secs(15), "not renewed");
    }
    assert_eq!((cache.stats().misses, cache.stats().waits), (1, 0));
}
