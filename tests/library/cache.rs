//! The data-key cache: what it shares, what it never shares, and how it handles failures of the key service.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{future::join_all, task::noop_waker};
use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, ConfigError, DataKeyCache, EncryptionContext, Envelope, EnvelopeBuilder,
    KeyProvider, Limits, OpenError, ProviderError, RawAes, SealError,
    cache::{CacheStats, DataKeyCacheBuilder, Refresh},
    message::{EncryptedDataKey, Header},
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        ProviderErrorKind as Kind, SecretKey,
    },
    testing::{Fault, ManualClock, MemoryKey, ScriptedProvider},
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{context, policy_for, seal};

const AGE: Duration = Duration::from_secs(300);

fn provider() -> ScriptedProvider {
    ScriptedProvider::new(MemoryKey::new().unwrap())
}

fn cache() -> DataKeyCache {
    DataKeyCache::builder(AGE).build().unwrap()
}

fn envelope(provider: &ScriptedProvider, cache: &DataKeyCache) -> Envelope {
    Envelope::builder(provider.clone()).cache(cache.clone()).build().unwrap()
}

/// Returns the encrypted data key and the message id.
fn keys(sealed: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    (header.encrypted_data_keys()[0].ciphertext.to_vec(), header.message_id().as_bytes().to_vec())
}

/// Blocks requests until the test lets them continue.
#[derive(Clone, Default)]
struct Gate(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Gate {
    fn open(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        std::future::poll_fn(move |cx| {
            let (open, wakers) = &*gate.0;
            let mut wakers = wakers.lock().unwrap();
            if open.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            wakers.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

/// A provider whose responses wait until the gate is open.
fn gated() -> (Gate, ScriptedProvider) {
    let gate = Gate::default();
    let waited = gate.clone();
    (gate, provider().with_delay(move || waited.wait()))
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&noop_waker()))
}

#[test]
fn messages_with_the_same_context_share_a_data_key_and_nothing_else() {
    let (provider, cache) = (provider(), cache());
    let envelope = envelope(&provider, &cache);
    let sealed: Vec<_> = (0..10).map(|number| seal(&envelope, &[number])).collect();
    let ids: std::collections::BTreeSet<_> = sealed.iter().map(|sealed| keys(sealed).1).collect();
    assert_eq!(ids.len(), 10);
    assert!(sealed.iter().all(|message| keys(message).0 == keys(&sealed[0]).0));
    for (number, message) in (0..).zip(&sealed) {
        assert_eq!(block_on(envelope.open(message, &context())).unwrap().plaintext, [number]);
    }
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (1, 1));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.calls, stats.entries), (18, 2, 2, 2));
}

#[test]
fn a_data_key_seals_at_most_max_messages() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).max_messages(10).build().unwrap();
    let envelope = envelope(&provider, &cache);
    (0..100).for_each(|_| drop(seal(&envelope, b"data")));
    assert_eq!(provider.calls().generate, 10);
    let sealed = seal(&envelope, b"data");
    // Opening is not limited.
    (0..100).for_each(|_| drop(block_on(envelope.open(&sealed, &context())).unwrap()));
    assert_eq!(provider.calls().decrypt, 1);
}

#[test]
fn a_data_key_seals_at_most_max_bytes() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).max_bytes(1000).build().unwrap();
    let envelope = envelope(&provider, &cache);
    for (len, calls) in [(600, 1), (400, 1), (0, 1), (1, 2), (1000, 3), (0, 3)] {
        seal(&envelope, &vec![0; len]);
        assert_eq!(provider.calls().generate, calls, "{len}");
    }
    // Longer than the limit, or of unknown length: the message gets its own data key and the cache does not change.
    seal(&envelope, &[0; 1001]);
    drop(block_on(envelope.seal_writer(Vec::new(), &context())).unwrap());
    assert_eq!((provider.calls().generate, cache.stats().bypasses), (5, 2));
    seal(&envelope, b"");
    assert_eq!(provider.calls().generate, 5);
}

#[test]
fn streams_use_the_cache_if_bytes_are_not_limited() {
    let (provider, cache) = (provider(), cache());
    let envelope = envelope(&provider, &cache);
    for _ in 0..3 {
        let sealed = block_on(envelope.seal_writer(Vec::new(), &context())).unwrap().finish().unwrap();
        block_on(envelope.open_reader(&sealed[..], &context())).unwrap();
        block_on(envelope.range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
    }
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (1, 1));
}

#[test]
fn a_data_key_is_used_until_its_max_age_and_no_longer() {
    let (provider, clock) = (provider(), ManualClock::new());
    let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let sealed = seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    clock.advance(AGE - Duration::from_nanos(1));
    seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (1, 1));
    clock.advance(Duration::from_nanos(1));
    seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (2, 2));
    assert_eq!(cache.stats().expirations, 2);
}

#[test]
fn age_counts_from_the_start_of_the_request() {
    let clock = ManualClock::new();
    let late = clock.clone();
    let provider = provider().with_delay(move || {
        late.advance(AGE);
        std::future::ready(())
    });
    let cache = DataKeyCache::builder(AGE).clock(clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    (0..3).for_each(|_| drop(seal(&envelope, b"data")));
    assert_eq!((provider.calls().generate, cache.stats().entries), (3, 0));
}

#[test]
fn a_key_that_has_expired_on_arrival_evicts_no_other() {
    let (clock, is_late) = (ManualClock::new(), Arc::new(AtomicBool::new(false)));
    let (time, late) = (clock.clone(), is_late.clone());
    let provider = provider().with_delay(move || {
        if late.load(Ordering::SeqCst) {
            time.advance(AGE / 2);
        }
        std::future::ready(())
    });
    let cache = DataKeyCache::builder(AGE / 2).capacity(1).clock(clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    is_late.store(true, Ordering::SeqCst);
    block_on(envelope.seal(b"data", &EncryptionContext::from([("tenant", "late")]))).unwrap();
    assert_eq!((cache.stats().entries, cache.stats().evictions), (0, 0));
    is_late.store(false, Ordering::SeqCst);
    seal(&envelope, b"data");
    assert_eq!(cache.stats().entries, 1);
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).capacity(2).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let seal_for = |tenant: &str| {
        block_on(envelope.seal(b"data", &EncryptionContext::from([("tenant", tenant)]))).unwrap();
        provider.calls().generate
    };
    assert_eq!(["a", "b", "a", "c", "a", "b"].map(seal_for), [1, 2, 2, 3, 3, 4]);
    assert_eq!((cache.stats().evictions, cache.stats().entries), (2, 2));
}

#[test]
fn a_cache_holds_at_most_its_capacity_in_entries() {
    for capacity in (1..=300).chain([1000]) {
        let cache = DataKeyCache::builder(AGE).capacity(capacity).build().unwrap();
        let envelope = envelope(&provider(), &cache);
        let seal_for = |number: usize| {
            block_on(envelope.seal(b"", &EncryptionContext::from([("number", number.to_string())]))).unwrap();
            (cache.stats().entries, cache.stats().evictions)
        };
        for number in 1..capacity {
            seal_for(number);
        }
        assert_eq!(seal_for(0), (capacity as u64, 0));
        assert_eq!(seal_for(capacity), (capacity as u64, 1));
    }
}

/// Returns a context whose entries use slightly more than this many bytes.
fn long_context(name: usize, len: usize) -> EncryptionContext {
    EncryptionContext::from([(name.to_string(), "v".repeat(len))])
}

#[test]
fn a_cache_holds_at_most_its_capacity_in_bytes() {
    const KIB: usize = 1 << 10;
    let seal_all = |cache: &DataKeyCache, contexts: &[EncryptionContext]| {
        let envelope = envelope(&provider(), cache);
        contexts.iter().for_each(|context| drop(block_on(envelope.seal(b"", context)).unwrap()));
        cache.stats()
    };
    let contexts: Vec<_> = (0..100).map(|number| long_context(number, 10 * KIB)).collect();
    let one = seal_all(&cache(), &contexts[..1]).bytes;
    // The context is stored in the key and in the value.
    assert!((20 * KIB as u64..22 * KIB as u64).contains(&one), "{one}");

    let bounded = |bytes: u64| DataKeyCache::builder(AGE).capacity_bytes(bytes as usize).build().unwrap();
    let small = contexts.iter().skip(10).take(10).cloned().collect::<Vec<_>>();
    let ten = seal_all(&cache(), &small).bytes;
    let cache = bounded(ten);
    let stats = seal_all(&cache, &small);
    assert_eq!((stats.entries, stats.bytes, stats.evictions), (10, ten, 0));
    let stats = seal_all(&cache, &small[..1]);
    assert_eq!((stats.entries, stats.bytes, stats.evictions), (10, ten, 1));
    // With one byte less, one entry less fits. An entry that exceeds the limit by itself evicts no others.
    let stats = seal_all(&bounded(ten - 1), &small);
    assert_eq!((stats.entries, stats.evictions), (9, 1));
    let stats = seal_all(&bounded(one), &[contexts[0].clone(), long_context(1, 10 * KIB + 1)]);
    assert_eq!((stats.entries, stats.bytes, stats.evictions), (1, one, 0));

    // The default is 16 KiB for each entry, but at least 1 MiB.
    let by_default = |capacity| DataKeyCache::builder(AGE).capacity(capacity).build().unwrap();
    let fitting = |bytes: u64| bytes / one;
    assert_eq!(seal_all(&by_default(1), &contexts).entries, 1);
    assert_eq!(seal_all(&by_default(60), &contexts).entries, fitting(1 << 20));
    assert_eq!(seal_all(&by_default(80), &contexts).entries, fitting((80 * 16) << 10));
    assert_eq!(seal_all(&by_default(usize::MAX), &contexts).entries, 100);
    cache.clear();
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn the_capacity_in_bytes_also_applies_to_opening() {
    let cache = DataKeyCache::builder(AGE).capacity_bytes(50_000).build().unwrap();
    let provider = provider();
    let envelope = envelope(&provider, &cache);
    for number in 0..20 {
        let context = long_context(number, 10_000);
        let sealed = block_on(Envelope::new(provider.clone()).seal(b"", &context)).unwrap();
        block_on(envelope.open(&sealed, &context)).unwrap();
        assert!(cache.stats().bytes <= 50_000);
    }
    // The context is stored in the key and in the value.
    assert_eq!((cache.stats().entries, cache.stats().evictions), (2, 18));
}

#[test]
fn a_new_entry_removes_at_most_64_expired_ones() {
    let clock = ManualClock::new();
    let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
    let envelope = envelope(&provider(), &cache);
    let seal_for = |number: usize| block_on(envelope.seal(b"", &long_context(number, 1))).unwrap();
    (0..200).for_each(|number| drop(seal_for(number)));
    clock.advance(AGE);
    seal_for(200);
    assert_eq!((cache.stats().entries, cache.stats().expirations), (137, 64));
    cache.remove_expired();
    assert_eq!((cache.stats().entries, cache.stats().expirations, cache.stats().evictions), (1, 200, 0));
}

#[test]
fn expired_entries_can_be_removed_and_so_can_all_entries() {
    let clock = ManualClock::new();
    let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
    let envelope = envelope(&provider(), &cache);
    let sealed = seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    cache.remove_expired();
    assert_eq!(cache.stats().entries, 2);
    clock.advance(AGE);
    cache.remove_expired();
    assert_eq!(cache.stats().entries, 0);
    seal(&envelope, b"data");
    assert_eq!(cache.stats().entries, 1);
    cache.clear();
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn a_request_that_is_pending_when_the_cache_is_cleared_is_not_kept() {
    let (gate, provider) = gated();
    let cache = cache();
    let envelope = envelope(&provider, &cache);
    let context = context();
    let mut first = pin!(envelope.seal(b"data", &context));
    assert!(poll_once(first.as_mut()).is_pending());
    cache.clear();
    let mut second = pin!(envelope.seal(b"data", &context));
    assert!(poll_once(second.as_mut()).is_pending());
    gate.open();
    block_on(first).unwrap();
    assert_eq!(cache.stats().entries, 0);
    block_on(second).unwrap();
    assert_eq!((cache.stats().entries, provider.calls().generate), (1, 2));
}

#[test]
fn concurrent_callers_for_the_same_key_make_one_request() {
    for limit in [1 << 32, 100] {
        let (gate, provider) = gated();
        let cache = DataKeyCache::builder(AGE).max_messages(limit).build().unwrap();
        let envelope = envelope(&provider, &cache);
        let context = context();
        let mut seals = pin!(join_all((0..1000).map(|_| envelope.seal(b"data", &context))));
        assert!(poll_once(seals.as_mut()).is_pending());
        assert_eq!((provider.calls().generate, cache.stats().waits), (1, 999));
        gate.open();
        let sealed = block_on(seals);
        let sealed = sealed.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(provider.calls().generate, 1000_u64.div_ceil(limit));
        let opened = block_on(join_all(sealed.iter().map(|message| envelope.open(message, &context))));
        assert!(opened.into_iter().all(|opened| opened.unwrap().plaintext == b"data"));
        assert_eq!(provider.calls().decrypt, 1000_u64.div_ceil(limit));
    }
}

#[test]
fn a_failed_request_fails_for_all_waiting_callers_and_is_not_kept() {
    let (gate, provider) = gated();
    provider.script([Fault::Throttled]);
    let cache = cache();
    let envelope = envelope(&provider, &cache);
    let context = context();
    let mut seals = pin!(join_all((0..10).map(|_| envelope.seal(b"data", &context))));
    assert!(poll_once(seals.as_mut()).is_pending());
    gate.open();
    for refused in block_on(seals) {
        let Err(SealError::Provider(error)) = refused else { panic!("{refused:?}") };
        assert!(error.kind() == Kind::Throttled && error.is_retryable());
        assert!(std::error::Error::source(&error).is_some());
    }
    assert_eq!((cache.stats().calls, cache.stats().failures, cache.stats().entries), (1, 1, 0));
    seal(&envelope, b"data");
    assert_eq!(provider.calls().generate, 2);
}

#[test]
fn when_the_first_caller_is_canceled_the_others_get_their_key() {
    for canceled in 0..3 {
        let (gate, provider) = gated();
        let envelope = envelope(&provider, &cache());
        let context = context();
        let mut seals: Vec<_> = (0..3).map(|_| Some(Box::pin(envelope.seal(b"data", &context)))).collect();
        for seal in seals.iter_mut().flatten() {
            assert!(poll_once(seal.as_mut()).is_pending());
        }
        seals[canceled] = None;
        gate.open();
        for sealed in block_on(join_all(seals.into_iter().flatten())) {
            sealed.unwrap();
        }
        assert_eq!(provider.calls().generate, 1);
    }
}

#[test]
fn when_all_callers_are_canceled_the_next_one_starts_a_new_request() {
    let (gate, provider) = gated();
    let cache = cache();
    let envelope = envelope(&provider, &cache);
    let context = context();
    for _ in 0..100 {
        let mut seals = pin!(join_all((0..3).map(|_| envelope.seal(b"data", &context))));
        assert!(poll_once(seals.as_mut()).is_pending());
    }
    gate.open();
    seal(&envelope, b"data");
    assert_eq!((provider.calls().generate, cache.stats().entries), (101, 1));
}

#[test]
fn a_provider_that_panics_fails_for_waiting_callers_and_no_others() {
    let panics = Arc::new(AtomicBool::new(true));
    let flag = panics.clone();
    let provider = provider().with_delay(move || {
        let panics = flag.load(Ordering::SeqCst);
        async move { assert!(!panics, "as the test wants") }
    });
    let envelope = envelope(&provider, &cache());
    let context = context();
    for refused in block_on(join_all((0..3).map(|_| envelope.seal(b"data", &context)))) {
        assert!(refused.unwrap_err().to_string().contains("panicked"));
    }
    panics.store(false, Ordering::SeqCst);
    seal(&envelope, b"data");
}

#[test]
fn cached_keys_remain_usable_while_the_key_service_fails() {
    let clock = ManualClock::new();
    let provider = provider().with_clock(clock.clone());
    let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let sealed = seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    provider.down_for(2 * AGE);
    clock.advance(AGE / 2);
    let other = seal(&envelope, b"data");
    block_on(envelope.open(&other, &context())).unwrap();
    clock.advance(AGE / 2);
    let error = block_on(envelope.seal(b"data", &context())).unwrap_err();
    assert!(matches!(&error, SealError::Provider(e) if e.kind() == Kind::Unavailable));
    let error = block_on(envelope.open(&sealed, &context())).unwrap_err();
    assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::Unavailable));
    clock.advance(AGE);
    seal(&envelope, b"data");
}

/// Collects renewals, which the test runs.
#[derive(Clone, Default)]
struct Background(Arc<Mutex<Vec<Refresh>>>);

impl Background {
    fn builder(&self, clock: &ManualClock) -> DataKeyCacheBuilder {
        let tasks = self.0.clone();
        DataKeyCache::builder(AGE).clock(clock.clone()).refresh_ahead(AGE / 3, move |task| {
            tasks.lock().unwrap().push(task);
        })
    }

    fn run(&self) -> usize {
        let tasks = std::mem::take(&mut *self.0.lock().unwrap());
        let count = tasks.len();
        tasks.into_iter().for_each(block_on);
        count
    }
}

#[test]
fn a_key_is_renewed_in_the_background_before_it_expires() {
    let (clock, background) = (ManualClock::new(), Background::default());
    let provider = provider().with_clock(clock.clone());
    let cache = background.builder(&clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let first = keys(&seal(&envelope, b"data")).0;
    clock.advance(AGE * 2 / 3 - Duration::from_nanos(1));
    seal(&envelope, b"data");
    assert_eq!(background.run(), 0);
    clock.advance(Duration::from_nanos(1));
    // No caller waits, and one renewal is enough.
    for _ in 0..3 {
        assert_eq!(keys(&seal(&envelope, b"data")).0, first);
    }
    assert_eq!(provider.calls().generate, 1);
    assert_eq!(background.run(), 1);
    assert_eq!(provider.calls().generate, 2);
    assert_ne!(keys(&seal(&envelope, b"data")).0, first);
    clock.advance(AGE / 3);
    let sealed = seal(&envelope, b"data");
    assert_eq!((background.run(), provider.calls().generate), (0, 2));

    // The same on opening.
    block_on(envelope.open(&sealed, &context())).unwrap();
    clock.advance(AGE - Duration::from_nanos(1));
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!((background.run(), provider.calls().decrypt), (1, 2));
    clock.advance(AGE / 3);
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!(provider.calls().decrypt, 2);
}

#[test]
fn a_failed_renewal_is_repeated_after_a_pause_and_callers_are_not_affected() {
    let (clock, background) = (ManualClock::new(), Background::default());
    let provider = provider().with_clock(clock.clone());
    let cache = background.builder(&clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    seal(&envelope, b"data");
    clock.advance(AGE * 2 / 3);
    provider.down_for(AGE / 6);
    for _ in 0..30 {
        seal(&envelope, b"data");
        background.run();
        clock.advance(AGE / 100);
    }
    // Every 12 seconds in the first 50 seconds, then once successfully.
    assert_eq!((provider.calls().generate, cache.stats().failures), (7, 5));
}

#[test]
fn a_renewal_that_is_never_run_does_not_stop_the_next_request() {
    let (clock, background) = (ManualClock::new(), Background::default());
    let provider = provider();
    let cache = background.builder(&clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    seal(&envelope, b"data");
    clock.advance(AGE * 2 / 3);
    seal(&envelope, b"data");
    // Dropped, like by a runtime that shuts down, or kept but never run.
    background.0.lock().unwrap().clear();
    seal(&envelope, b"data");
    clock.advance(AGE / 3);
    seal(&envelope, b"data");
    assert_eq!(provider.calls().generate, 2);
}

#[test]
fn a_max_age_of_duration_max_never_expires() {
    let provider = provider();
    for builder in [
        DataKeyCache::builder(Duration::MAX),
        DataKeyCache::builder(Duration::MAX).refresh_ahead(Duration::from_secs(1), |_| panic!("never")),
        DataKeyCache::builder(Duration::MAX).refresh_ahead(Duration::MAX - Duration::from_nanos(1), drop),
    ] {
        let envelope = envelope(&provider, &builder.build().unwrap());
        (0..3).for_each(|_| drop(seal(&envelope, b"data")));
    }
    provider.down_for(Duration::MAX);
    assert!(block_on(Envelope::new(provider.clone()).seal(b"data", &context())).is_err());
}

#[test]
fn signed_messages_also_share_the_signing_key() {
    let (provider, cache) = (provider(), cache());
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    let envelope = Envelope::builder(provider.clone()).suite(suite).cache(cache.clone()).build().unwrap();
    let opened: Vec<_> =
        (0..3u8).map(|number| block_on(envelope.open(&seal(&envelope, &[number]), &context())).unwrap()).collect();
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (1, 1));
    assert_eq!(opened[0].info.context(), opened[2].info.context());
    assert_eq!(opened[2].plaintext, [2]);
}

#[test]
fn suites_without_key_derivation_are_never_cached() {
    let (provider, cache) = (provider(), cache());
    for suite in AlgorithmSuite::all() {
        let policy = if suite.is_committing() {
            CommitmentPolicy::RequireEncryptRequireDecrypt
        } else {
            CommitmentPolicy::ForbidEncryptAllowDecrypt
        };
        let envelope = Envelope::builder(provider.clone()).suite(suite).commitment_policy(policy);
        let envelope = envelope.cache(cache.clone()).build().unwrap();
        let before = provider.calls();
        let sealed = [seal(&envelope, b"1"), seal(&envelope, b"2")];
        for (message, expected) in sealed.iter().zip([b"1", b"2"]) {
            assert_eq!(block_on(envelope.open(message, &context())).unwrap().plaintext, expected);
        }
        let calls = if suite.key_derivation() == kms_envelope::message::KeyDerivation::Identity { 2 } else { 1 };
        let after = provider.calls();
        assert_eq!((after.generate - before.generate, after.decrypt - before.decrypt), (calls, calls), "{suite}");
    }
    let stats = cache.stats();
    // Three suites make a request for each message. Eight make one request for sealing and one for opening.
    assert_eq!((stats.bypasses, stats.calls, stats.failures, stats.entries), (12, 28, 0, 16));
}

#[test]
fn requests_that_bypass_the_cache_are_counted_with_their_failures() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).max_bytes(1).build().unwrap();
    let envelope = envelope(&provider, &cache);
    provider.script([Fault::None, Fault::Throttled]);
    block_on(envelope.seal(b"long", &context())).unwrap();
    block_on(envelope.seal(b"long", &context())).unwrap_err();
    let stats = cache.stats();
    assert_eq!((stats.bypasses, stats.calls, stats.failures, stats.misses), (2, 2, 1, 0));
}

#[test]
fn an_envelope_shares_entries_only_with_its_clones() {
    let (provider, cache) = (provider(), cache());
    let (one, other) = (envelope(&provider, &cache), envelope(&provider, &cache));
    let sealed = seal(&one, b"data");
    seal(&one.clone(), b"data");
    assert_eq!(provider.calls().generate, 1);
    seal(&other, b"data");
    assert_eq!(provider.calls().generate, 2);
    block_on(one.open(&sealed, &context())).unwrap();
    block_on(other.open(&sealed, &context())).unwrap();
    assert_eq!(provider.calls().decrypt, 2);
}

#[test]
fn a_modified_message_is_refused_with_and_without_a_cached_key() {
    let (provider, cache) = (provider(), cache());
    let envelope = envelope(&provider, &cache);
    let sealed = seal(&envelope, b"data");
    block_on(envelope.open(&sealed, &context())).unwrap();
    for index in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[index] ^= 1;
        assert!(block_on(envelope.open(&changed, &context())).is_err(), "{index}");
    }
    block_on(envelope.open(&sealed, &context())).unwrap();
}

#[test]
fn a_wrong_key_is_never_kept() {
    for policy in [CommitmentPolicy::RequireEncryptRequireDecrypt, CommitmentPolicy::ForbidEncryptAllowDecrypt] {
        let (provider, cache) = (provider(), cache());
        let envelope = Envelope::builder(provider.clone()).commitment_policy(policy).cache(cache.clone());
        let envelope = envelope.build().unwrap();
        let sealed = seal(&envelope, b"data");
        cache.clear();
        provider.script([Fault::WrongKey]);
        let refused = block_on(envelope.open(&sealed, &context()));
        assert!(matches!(refused, Err(OpenError::Commitment | OpenError::HeaderTag)), "{refused:?}");
        assert_eq!((cache.stats().entries, provider.calls().decrypt), (0, 1));
        for _ in 0..2 {
            block_on(envelope.open(&sealed, &context())).unwrap();
        }
        assert_eq!((cache.stats().entries, provider.calls().decrypt), (1, 2));
    }
}

/// A provider whose encrypted data keys are letters. Each letter decrypts to the data key that repeats it. The provider
/// decrypts the first letter in the alphabet, or in the list. Capital letters belong to another provider.
#[derive(Debug)]
struct Letters {
    /// The data key of the next messages, and the encrypted data keys that they list.
    seals: Mutex<(char, String)>,
    by_alphabet: bool,
    asked: Mutex<Vec<String>>,
}

impl Letters {
    fn new(by_alphabet: bool) -> Arc<Self> {
        Arc::new(Self { seals: Mutex::default(), by_alphabet, asked: Mutex::default() })
    }

    /// Returns the lists of all requests to decrypt since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn seal(self: &Arc<Self>, suite: AlgorithmSuite, data_key: char, list: &str) -> Vec<u8> {
        *self.seals.lock().unwrap() = (data_key, list.into());
        let envelope = Envelope::builder(self.clone()).suite(suite);
        let envelope = envelope.commitment_policy(policy_for(suite)).build().unwrap();
        block_on(envelope.seal(&[data_key as u8], &context())).unwrap()
    }
}

fn letter(letter: char) -> EncryptedDataKey {
    EncryptedDataKey::new("letters", "info", vec![letter as u8])
}

fn key_of(letter: char) -> SecretKey {
    SecretKey::from([letter as u8; 32])
}

impl std::fmt::Display for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("letters")
    }
}

#[async_trait]
impl KeyProvider for Letters {
    async fn generate_data_key(&self, _: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let seals = self.seals.lock().unwrap();
        Ok(GeneratedDataKey::new(key_of(seals.0), seals.1.chars().map(letter).collect()))
    }

    async fn encrypt_data_key(&self, _: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        unreachable!("nobody asks")
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let list: Vec<_> = request.encrypted_data_keys.iter().map(|key| char::from(key.ciphertext[0])).collect();
        self.asked.lock().unwrap().push(list.iter().collect());
        let ours = list.iter().enumerate().filter(|(_, letter)| letter.is_ascii_lowercase());
        let chosen = ours.min_by_key(|(index, letter)| if self.by_alphabet { **letter as usize } else { *index });
        let (index, letter) = chosen.ok_or_else(|| request.none_decrypted("letters", Vec::new()))?;
        Ok(DecryptedDataKey::new(key_of(*letter), index, letter.to_string()))
    }
}

const COMMITTING: AlgorithmSuite = AlgorithmSuite::Aes256GcmHkdfSha512Commit;
const NOT_COMMITTING: AlgorithmSuite = AlgorithmSuite::Aes256GcmHkdfSha256;

/// Returns an envelope that opens messages of this suite with a cache.
fn opening(provider: &Arc<Letters>, suite: AlgorithmSuite, cache: &DataKeyCache) -> Envelope {
    let envelope = Envelope::builder(provider.clone()).commitment_policy(policy_for(suite)).cache(cache.clone());
    envelope.build().unwrap()
}

/// Returns the plaintext of a message, and the index of the encrypted data key that opened it.
fn open(envelope: &Envelope, sealed: &[u8]) -> Result<(char, usize), OpenError> {
    let mut plaintext = Vec::new();
    let info = block_on(envelope.open_into(sealed, &context(), &mut plaintext))?;
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    let index = info.encrypted_data_key_index();
    assert_eq!(info.encrypted_data_key(), &header.encrypted_data_keys()[index]);
    assert_eq!(info.key_id().as_bytes(), &info.encrypted_data_key().ciphertext[..]);
    Ok((char::from(plaintext[0]), index))
}

#[test]
fn messages_that_have_an_encrypted_data_key_in_common_share_its_entry() {
    let (provider, cache) = (Letters::new(false), cache());
    let envelope = opening(&provider, COMMITTING, &cache);
    for (list, index) in [("Xa", 1), ("a", 0), ("aX", 0), ("XYa", 2), ("Za", 1), ("Xa", 1), ("aa", 0)] {
        let sealed = provider.seal(COMMITTING, 'a', list);
        assert_eq!(open(&envelope, &sealed).unwrap(), ('a', index), "{list}");
    }
    assert_eq!(provider.asked(), ["Xa"]);
    assert_eq!(cache.stats().entries, 1);
}

#[test]
fn without_commitment_a_warm_cache_opens_what_a_cold_one_opens_and_nothing_else() {
    let provider = Letters::new(false);
    let lists = ["ab", "ba", "a", "b", "Xab", "bX", "Xba"];
    let messages: Vec<_> = lists
        .iter()
        .flat_map(|list| ['a', 'b'].map(|data_key| (list, data_key)))
        .map(|(list, data_key)| provider.seal(NOT_COMMITTING, data_key, list))
        .collect();
    let cold = messages.iter().map(|message| open(&opening(&provider, NOT_COMMITTING, &cache()), message).ok());
    let cold: Vec<_> = cold.collect();
    // Messages whose first letter is that of their data key.
    assert_eq!(cold.iter().flatten().count(), lists.len());
    let cache = cache();
    let envelope = opening(&provider, NOT_COMMITTING, &cache);
    for _ in 0..3 {
        let warm: Vec<_> = messages.iter().map(|message| open(&envelope, message).ok()).collect();
        assert_eq!(warm, cold);
    }
    assert_eq!(cache.stats().entries, lists.len() as u64);
}

#[test]
fn a_message_opens_even_if_another_messages_cached_data_key_fails_its_commitment() {
    let (provider, cache) = (Letters::new(true), cache());
    let envelope = opening(&provider, COMMITTING, &cache);
    assert_eq!(open(&envelope, &provider.seal(COMMITTING, 'x', "x")).unwrap(), ('x', 0));
    assert_eq!(open(&envelope, &provider.seal(COMMITTING, 'y', "y")).unwrap(), ('y', 0));
    provider.asked();
    let sealed = provider.seal(COMMITTING, 'b', "xyb");
    for _ in 0..3 {
        assert_eq!(open(&envelope, &sealed).unwrap(), ('b', 2));
    }
    // Only the first time.
    assert_eq!(provider.asked(), ["xyb"]);
    let stats = cache.stats();
    // Both wrong data keys each time, and then the right one.
    assert_eq!((stats.hits, stats.misses, stats.calls, stats.entries), (8, 3, 3, 3));
    let (none, mut out) = (EncryptionContext::new(), Vec::new());
    for result in block_on(envelope.open_many([(&sealed[..], &none); 2], &mut out)) {
        assert_eq!(
            (&out[result.as_ref().unwrap().0.clone()], result.unwrap().1.encrypted_data_key_index()),
            (&b"b"[..], 2)
        );
    }
    assert_eq!((cache.stats().hits, cache.stats().misses), (8 + 2 * 3, 3));

    // A message that does not open without a cache fails with the same error with a cache.
    let sealed = provider.seal(COMMITTING, 'z', "xyb");
    assert!(matches!(open(&envelope, &sealed), Err(OpenError::Commitment)));
    assert_eq!(provider.asked(), ["xyb"]);
    // With one encrypted data key, the key provider could return only the same data key.
    let sealed = provider.seal(COMMITTING, 'z', "x");
    assert!(matches!(open(&envelope, &sealed), Err(OpenError::Commitment)));
    assert!(provider.asked().is_empty());
    assert_eq!(cache.stats().entries, 3);
}

#[test]
fn messages_that_fail_to_open_do_not_change_the_cache() {
    let (provider, cache) = (provider(), cache());
    let envelope = envelope(&provider, &cache);
    let contexts: Vec<_> = (0..10).map(|number| long_context(number, 10)).collect();
    let sealed: Vec<_> = contexts.iter().map(|context| block_on(envelope.seal(b"data", context)).unwrap()).collect();
    let open = |sealed: &[u8], context| block_on(envelope.open(sealed, context));
    contexts.iter().zip(&sealed).skip(1).for_each(|(context, sealed)| drop(open(sealed, context).unwrap()));

    // Three more encrypted data keys of 57,000 bytes, in 2,000 variations. The header's version, suite, message id and
    // context come before their count.
    let message = &sealed[0];
    let count_at = 1 + 2 + 32 + 2 + usize::from(u16::from_be_bytes([message[35], message[36]]));
    assert_eq!(message[count_at..][..2], [0, 1]);
    let mut hostile = message[..count_at].to_vec();
    hostile.extend([0, 4]);
    let keys_at = hostile.len();
    for _ in 0..3 {
        for field in [&b"junk"[..], b"info", &[0; 57_000]] {
            hostile.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
            hostile.extend(field);
        }
    }
    let varied_at = hostile.len() - 4;
    hostile.extend(&message[count_at + 2..]);
    let mut fails = |number: u32| {
        hostile[varied_at..][..4].copy_from_slice(&number.to_be_bytes());
        assert!(matches!(open(&hostile, &contexts[0]), Err(OpenError::HeaderTag)));
    };
    assert_eq!(keys_at, count_at + 2);
    let (before, calls) = (cache.stats(), provider.calls());
    (0..1000).for_each(&mut fails);
    let after = cache.stats();
    assert_eq!((after.entries, after.bytes, after.evictions), (before.entries, before.bytes, 0));
    assert_eq!(provider.calls().decrypt, calls.decrypt + 1000);

    // After the encrypted data key that they share is cached, they cause no request.
    open(message, &contexts[0]).unwrap();
    let (before, calls) = (cache.stats(), provider.calls());
    (1000..2000).for_each(&mut fails);
    contexts.iter().zip(&sealed).for_each(|(context, sealed)| drop(open(sealed, context).unwrap()));
    let after = cache.stats();
    assert_eq!((after.entries, after.bytes, after.evictions), (before.entries, before.bytes, 0));
    assert_eq!(provider.calls(), calls);
}

#[test]
fn callers_that_arrive_while_a_key_is_being_verified_make_no_further_request() {
    for (waited, cleared, requests, entries) in
        [(Duration::ZERO, false, 1, 1), (AGE, false, 2, 1), (Duration::ZERO, true, 1, 0)]
    {
        let (clock, gate, provider) = (ManualClock::new(), Gate::default(), provider());
        let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
        let envelope = envelope(&provider, &cache);
        let context = context();
        let good = seal(&envelope, b"data");
        cache.clear();
        let waits = gate.clone();
        let provider = provider.with_delay(move || waits.wait());
        let mut bad = good.clone();
        let header = Header::parse(&good, &Limits::default()).unwrap();
        bad[header.len() - 1] ^= 1;

        let mut first = pin!(envelope.open(&bad, &context));
        let mut second = pin!(envelope.open(&good, &context));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        gate.open();
        // The request has completed, and the second caller has not yet verified its data key.
        assert!(matches!(poll_once(first.as_mut()), Poll::Ready(Err(OpenError::HeaderTag))));
        clock.advance(waited);
        if cleared {
            cache.clear();
            assert_eq!(block_on(second).unwrap().plaintext, b"data");
        } else {
            assert_eq!(block_on(envelope.open(&good, &context)).unwrap().plaintext, b"data");
            assert_eq!(block_on(second).unwrap().plaintext, b"data");
        }
        assert_eq!((provider.calls().decrypt, cache.stats().entries), (requests, entries));
    }
}

#[test]
fn threads_that_open_at_once_make_one_request() {
    const THREADS: usize = 4;
    let (provider, cache) = (provider(), cache());
    let sealing = Envelope::new(provider.clone());
    let envelope = envelope(&provider, &cache);
    for round in 0..200 {
        let context = long_context(round, 1);
        let sealed = block_on(sealing.seal(b"data", &context)).unwrap();
        let start = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(block_on(envelope.open(&sealed, &context)).unwrap().plaintext, b"data");
                });
            }
        });
        assert_eq!(provider.calls().decrypt, round as u64 + 1);
    }
}

#[test]
fn a_renewal_for_opening_uses_the_same_encrypted_data_key_and_accepts_no_other_data_key() {
    for (suite, asked) in [(COMMITTING, "b"), (NOT_COMMITTING, "bXa")] {
        let (clock, background) = (ManualClock::new(), Background::default());
        let letters = Letters::new(false);
        let provider = ScriptedProvider::new(letters.clone());
        let cache = background.builder(&clock).build().unwrap();
        let envelope = Envelope::builder(provider.clone()).commitment_policy(policy_for(suite)).cache(cache.clone());
        let envelope = envelope.build().unwrap();
        let sealed = letters.seal(suite, 'b', "bXa");
        open(&envelope, &sealed).unwrap();
        assert_eq!(letters.asked(), ["bXa"]);

        // A renewal that returns another data key counts as failed.
        clock.advance(AGE * 2 / 3);
        provider.script([Fault::WrongKey]);
        open(&envelope, &sealed).unwrap();
        assert_eq!((background.run(), cache.stats().failures), (1, 1));
        assert_eq!(letters.asked(), [asked]);
        assert_eq!(open(&envelope, &sealed).unwrap(), ('b', 0));
        assert_eq!(background.run(), 0);

        // It is repeated after a tenth of the time.
        clock.advance(AGE / 30);
        let bytes = cache.stats().bytes;
        open(&envelope, &sealed).unwrap();
        assert_eq!((background.run(), cache.stats().failures), (1, 1));
        assert_eq!(letters.asked(), [asked]);
        clock.advance(AGE / 2);
        assert_eq!(open(&envelope, &sealed).unwrap(), ('b', 0));
        assert!(letters.asked().is_empty());
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.bytes, stats.calls, stats.expirations), (1, bytes, 3, 0));
    }
}

/// Calls the cache when it is dropped, which a provider's future may do.
struct Nosy(DataKeyCache);

impl Drop for Nosy {
    fn drop(&mut self) {
        self.0.stats();
    }
}

#[test]
fn a_canceled_request_can_call_the_cache_when_it_is_dropped() {
    for clears in [false, true] {
        let cache = cache();
        let nosy = cache.clone();
        let provider = provider().with_delay(move || {
            let nosy = Nosy(nosy.clone());
            async move {
                let _nosy = nosy;
                std::future::pending::<()>().await;
            }
        });
        let envelope = envelope(&provider, &cache);
        let context = context();
        {
            let mut seal = pin!(envelope.seal(b"data", &context));
            assert!(poll_once(seal.as_mut()).is_pending());
            if clears {
                cache.clear();
            }
        }
        assert_eq!(cache.stats().calls, 1);
    }
}

#[test]
fn invalid_limits_are_refused() {
    let spawn = |_: Refresh| {};
    let cases: [(DataKeyCacheBuilder, &str); 7] = [
        (DataKeyCache::builder(Duration::ZERO), "max_age"),
        (DataKeyCache::builder(AGE).max_messages(0), "max_messages"),
        (DataKeyCache::builder(AGE).max_messages((1 << 32) + 1), "max_messages"),
        (DataKeyCache::builder(AGE).capacity(0), "capacity must"),
        (DataKeyCache::builder(AGE).capacity_bytes(0), "capacity_bytes"),
        (DataKeyCache::builder(AGE).refresh_ahead(AGE, spawn), "refresh_ahead"),
        (DataKeyCache::builder(AGE).refresh_ahead(2 * AGE, spawn), "refresh_ahead"),
    ];
    for (builder, expected) in cases {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, ConfigError::Cache { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(DataKeyCache::builder(AGE).max_messages(1 << 32).max_bytes(0).build().is_ok());
}

#[test]
fn threads_that_seal_and_open_at_once_never_get_a_wrong_key() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).capacity(3).max_messages(50).build().unwrap();
    let envelope = envelope(&provider, &cache);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let envelope = &envelope;
            scope.spawn(move || {
                for number in 0..500 {
                    let context = EncryptionContext::from([("tenant", ((number + thread) % 5).to_string())]);
                    let sealed = block_on(envelope.seal(b"data", &context)).unwrap();
                    assert_eq!(block_on(envelope.open(&sealed, &context)).unwrap().plaintext, b"data");
                }
            });
        }
    });
    let stats = cache.stats();
    assert!(stats.hits + stats.misses + stats.waits >= 4000, "{stats:?}");
    assert_eq!(stats.calls, provider.calls().generate + provider.calls().decrypt);
}

#[test]
fn nothing_secret_is_in_debug() {
    let key = RawAes::new("tests", "key", [0x41; 32]).unwrap();
    let cache = cache();
    let envelope = Envelope::builder(key).cache(cache.clone()).build().unwrap();
    seal(&envelope, b"data");
    let printed = format!("{cache:?} {cache:#?} {envelope:?}");
    assert!(printed.contains("max_age") && !printed.contains("65, 65") && !printed.contains("acme"), "{printed}");
}

/// Everything that an entry for sealing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealing {
    suite: AlgorithmSuite,
    pairs: EncryptionContext,
    required: std::collections::BTreeSet<String>,
}

fn sealing() -> impl Strategy<Value = Sealing> {
    let suite = prop::sample::select(vec![
        AlgorithmSuite::Aes256GcmHkdfSha512Commit,
        AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384,
    ]);
    (suite, prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3), any::<u8>()).prop_map(
        |(suite, pairs, required)| {
            let names = pairs.keys().enumerate().filter(|(index, _)| required >> index & 1 == 1);
            let required = names.map(|(_, name)| name.clone()).collect();
            Sealing { suite, required, pairs: pairs.into_iter().collect() }
        },
    )
}

/// An operation on a cache.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Seals a message with one of the contexts.
    Seal(usize),
    Advance(u32),
    RemoveExpired,
    Clear,
}

/// The simplest possible model of a cache.
#[derive(Default)]
struct Model {
    /// Context, time of the request, number of messages. The least recently used entry is first.
    entries: Vec<(usize, u32, u64)>,
    now: u32,
    hits: u64,
    misses: u64,
    evictions: u64,
    expirations: u64,
}

impl Model {
    fn remove_expired(&mut self, max_age: u32) {
        let before = self.entries.len();
        self.entries.retain(|(_, fetched, _)| self.now - fetched < max_age);
        self.expirations += (before - self.entries.len()) as u64;
    }

    fn seal(
        &mut self,
        context: usize,
        max_age: u32,
        max_messages: u64,
        capacity: usize,
        fits: impl Fn(&[usize]) -> bool,
    ) {
        if let Some(at) = self.entries.iter().position(|(of, ..)| *of == context) {
            let (_, fetched, messages) = self.entries.remove(at);
            if self.now - fetched < max_age && messages < max_messages {
                self.entries.push((context, fetched, messages + 1));
                self.hits += 1;
                return;
            }
            self.expirations += 1;
        }
        self.misses += 1;
        self.remove_expired(max_age);
        if !fits(&[context]) {
            return;
        }
        self.entries.push((context, self.now, 1));
        let contexts = |entries: &[(usize, u32, u64)]| entries.iter().map(|(of, ..)| *of).collect::<Vec<_>>();
        while self.entries.len() > capacity || !fits(&contexts(&self.entries)) {
            self.entries.remove(0);
            self.evictions += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_cache_behaves_like_a_simple_model(
        capacity in 1_usize..6,
        capacity_bytes in 1_000_usize..12_000,
        max_age in 1_u32..20,
        max_messages in 1_u64..5,
        steps in prop::collection::vec(
            prop_oneof![
                12 => (0_usize..8).prop_map(Step::Seal),
                4 => (0_u32..8).prop_map(Step::Advance),
                1 => Just(Step::RemoveExpired),
                1 => Just(Step::Clear),
            ],
            1..200,
        ),
    ) {
        let second = Duration::from_secs(1);
        let context = |number| long_context(number, number * 200);
        let costs: Vec<_> = (0..8).map(|number| {
            let cache = cache();
            block_on(envelope(&provider(), &cache).seal(b"", &context(number))).unwrap();
            cache.stats().bytes
        }).collect();
        let bytes = |contexts: &[usize]| contexts.iter().map(|of| costs[*of]).sum::<u64>();
        let clock = ManualClock::new();
        let builder = DataKeyCache::builder(second * max_age).clock(clock.clone()).max_messages(max_messages);
        let cache = builder.capacity(capacity).capacity_bytes(capacity_bytes).build().unwrap();
        let envelope = envelope(&provider(), &cache);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Seal(number) => {
                    block_on(envelope.seal(b"", &context(number))).unwrap();
                    model.seal(number, max_age, max_messages, capacity, |of| bytes(of) <= capacity_bytes as u64);
                }
                Step::Advance(seconds) => {
                    clock.advance(second * seconds);
                    model.now += seconds;
                }
                Step::RemoveExpired => {
                    cache.remove_expired();
                    model.remove_expired(max_age);
                }
                Step::Clear => {
                    cache.clear();
                    model.entries.clear();
                }
            }
            let mut expected = CacheStats::default();
            (expected.hits, expected.misses, expected.calls) = (model.hits, model.misses, model.misses);
            (expected.evictions, expected.expirations) = (model.evictions, model.expirations);
            let contexts: Vec<_> = model.entries.iter().map(|(of, ..)| *of).collect();
            (expected.entries, expected.bytes) = (contexts.len() as u64, bytes(&contexts));
            prop_assert_eq!(cache.stats(), expected, "after {:?}", step);
        }
    }

    /// All envelopes share a cache. Suites and required names are settings of an envelope, so each has its own entries.
    #[test]
    fn entries_are_shared_only_if_everything_they_depend_on_is_equal(of in prop::collection::vec(sealing(), 2..12)) {
        let (provider, cache) = (provider(), cache());
        let mut envelopes: Vec<((AlgorithmSuite, _), Envelope)> = Vec::new();
        let mut seen: Vec<(Sealing, Vec<u8>)> = Vec::new();
        for sealing in of {
            let settings = (sealing.suite, sealing.required.clone());
            let index = envelopes.iter().position(|(of, _)| *of == settings).unwrap_or_else(|| {
                let builder: EnvelopeBuilder = Envelope::builder(provider.clone()).suite(settings.0);
                let envelope = builder.required_context(settings.1.clone()).cache(cache.clone()).build().unwrap();
                envelopes.push((settings, envelope));
                envelopes.len() - 1
            });
            let envelope = &envelopes[index].1;
            let sealed = block_on(envelope.seal(b"data", &sealing.pairs)).unwrap();
            prop_assert_eq!(block_on(envelope.open(&sealed, &sealing.pairs)).unwrap().plaintext, b"data");
            let key = keys(&sealed).0;
            for (other, other_key) in &seen {
                prop_assert_eq!(*other == sealing, *other_key == key, "{:?} {:?}", other, sealing);
            }
            seen.push((sealing, key));
        }
        let mut different = Vec::new();
        seen.iter().for_each(|(sealing, _)| if !different.contains(&sealing) { different.push(sealing) });
        prop_assert_eq!(provider.calls().generate, different.len() as u64);
        prop_assert_eq!(provider.calls().decrypt, different.len() as u64);
    }

    #[test]
    fn contexts_that_differ_in_one_byte_never_share_an_entry(
        name in "[a-z]{1,8}", value in "[a-z]{1,8}", index: prop::sample::Index, byte in b'a'..=b'z',
    ) {
        let (provider, cache) = (provider(), cache());
        let envelope = envelope(&provider, &cache);
        let mut text = format!("{name}={value}").into_bytes();
        let at = index.index(text.len());
        prop_assume!(text[at] != b'=' && text[at] != byte);
        text[at] = byte;
        let text = String::from_utf8(text).unwrap();
        let (other_name, other_value) = text.split_once('=').unwrap();
        let one = block_on(envelope.seal(b"data", &EncryptionContext::from([(&name, &value)]))).unwrap();
        let other = block_on(envelope.seal(b"data", &EncryptionContext::from([(other_name, other_value)]))).unwrap();
        prop_assert_ne!(keys(&one).0, keys(&other).0);
        prop_assert_eq!(cache.stats(), { let mut stats = CacheStats::default(); stats.misses = 2; stats.calls = 2; stats.entries = 2; stats.bytes = cache.stats().bytes; stats });
    }
}
