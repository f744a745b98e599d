//! The data-key cache: what it shares, what it never shares, and what happens when the key service misbehaves.

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

use futures_util::{future::join_all, task::noop_waker};
use kms_envelope::{
    AlgorithmSuite, CacheStats, CommitmentPolicy, ConfigError, DataKeyCache, DataKeyCacheBuilder, EncryptionContext,
    Envelope, EnvelopeBuilder, Fault, Limits, LocalKey, ManualClock, MemoryKey, OpenError, ProviderError, Refresh,
    ScriptedProvider, SealError, message::Header,
};
use pollster::block_on;
use proptest::prelude::*;

const AGE: Duration = Duration::from_secs(300);

fn provider() -> ScriptedProvider {
    ScriptedProvider::new(MemoryKey::new().unwrap())
}

fn context() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme")])
}

fn cache() -> DataKeyCache {
    DataKeyCache::builder(AGE).build().unwrap()
}

fn envelope(provider: &ScriptedProvider, cache: &DataKeyCache) -> Envelope {
    Envelope::builder(provider.clone()).cache(cache.clone()).build().unwrap()
}

fn seal(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    block_on(envelope.seal(plaintext, &context())).unwrap()
}

/// The encrypted data key and the message id.
fn keys(sealed: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    (header.encrypted_data_keys()[0].ciphertext.to_vec(), header.message_id().as_bytes().to_vec())
}

/// A wait that a test ends.
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

/// A provider whose answers wait until the gate is open.
fn gated() -> (Gate, ScriptedProvider) {
    let gate = Gate::default();
    let waited = gate.clone();
    (gate, provider().with_delay(move || waited.wait()))
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&noop_waker()))
}

#[test]
fn messages_of_one_context_share_a_data_key_and_nothing_else() {
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
fn a_data_key_seals_as_many_messages_as_it_may() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).max_messages(10).build().unwrap();
    let envelope = envelope(&provider, &cache);
    (0..100).for_each(|_| drop(seal(&envelope, b"data")));
    assert_eq!(provider.calls().generate, 10);
    let sealed = seal(&envelope, b"data");
    // Opening has no such limit.
    (0..100).for_each(|_| drop(block_on(envelope.open(&sealed, &context())).unwrap()));
    assert_eq!(provider.calls().decrypt, 1);
}

#[test]
fn a_data_key_seals_as_many_bytes_as_it_may() {
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).max_bytes(1000).build().unwrap();
    let envelope = envelope(&provider, &cache);
    for (len, calls) in [(600, 1), (400, 1), (0, 1), (1, 2), (1000, 3), (0, 3)] {
        seal(&envelope, &vec![0; len]);
        assert_eq!(provider.calls().generate, calls, "{len}");
    }
    // Longer than a key may seal at all, or of unknown length: a key of its own, and the cache is as it was.
    seal(&envelope, &[0; 1001]);
    drop(block_on(envelope.seal_writer(Vec::new(), &context())).unwrap());
    assert_eq!((provider.calls().generate, cache.stats().bypasses), (5, 2));
    seal(&envelope, b"");
    assert_eq!(provider.calls().generate, 5);
}

#[test]
fn streams_use_the_cache_where_bytes_are_not_limited() {
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
fn a_data_key_serves_until_its_age_and_not_a_moment_longer() {
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
    assert_eq!(provider.calls().generate, 3);
}

#[test]
fn the_least_recently_used_leaves_first() {
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
fn a_large_cache_never_holds_more_than_its_capacity() {
    for capacity in [127, 128, 1000, 1025] {
        let cache = DataKeyCache::builder(AGE).capacity(capacity).build().unwrap();
        let envelope = envelope(&provider(), &cache);
        for number in 0..3 * capacity {
            let context = EncryptionContext::from([("number", number.to_string())]);
            block_on(envelope.seal(b"", &context)).unwrap();
            assert!(cache.stats().entries <= capacity as u64);
        }
        assert!(cache.stats().entries > capacity as u64 * 9 / 10);
    }
}

#[test]
fn what_has_expired_can_be_removed_and_everything_can() {
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
fn what_was_on_its_way_when_the_cache_was_cleared_is_not_kept() {
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
fn many_who_want_the_same_key_make_one_request() {
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
fn a_request_that_fails_fails_all_who_wait_for_it_and_is_not_kept() {
    let (gate, provider) = gated();
    provider.script([Fault::Throttled]);
    let cache = cache();
    let envelope = envelope(&provider, &cache);
    let context = context();
    let mut seals = pin!(join_all((0..10).map(|_| envelope.seal(b"data", &context))));
    assert!(poll_once(seals.as_mut()).is_pending());
    gate.open();
    for refused in block_on(seals) {
        let Err(SealError::Provider(error @ ProviderError::Throttled { .. })) = refused else { panic!("{refused:?}") };
        assert!(error.is_retryable());
        assert!(std::error::Error::source(&error).is_some());
    }
    assert_eq!((cache.stats().calls, cache.stats().failures, cache.stats().entries), (1, 1, 0));
    seal(&envelope, b"data");
    assert_eq!(provider.calls().generate, 2);
}

#[test]
fn when_the_caller_who_leads_gives_up_the_others_get_their_key() {
    for cancelled in 0..3 {
        let (gate, provider) = gated();
        let envelope = envelope(&provider, &cache());
        let context = context();
        let mut seals: Vec<_> = (0..3).map(|_| Some(Box::pin(envelope.seal(b"data", &context)))).collect();
        for seal in seals.iter_mut().flatten() {
            assert!(poll_once(seal.as_mut()).is_pending());
        }
        seals[cancelled] = None;
        gate.open();
        for sealed in block_on(join_all(seals.into_iter().flatten())) {
            sealed.unwrap();
        }
        assert_eq!(provider.calls().generate, 1);
    }
}

#[test]
fn when_all_give_up_the_next_caller_begins_anew() {
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
fn a_provider_that_panics_fails_those_who_wait_and_no_others() {
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
fn keys_that_are_there_serve_while_the_key_service_fails() {
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
    assert!(matches!(error, SealError::Provider(ProviderError::Unavailable { .. })));
    let error = block_on(envelope.open(&sealed, &context())).unwrap_err();
    assert!(matches!(error, OpenError::Provider(ProviderError::Unavailable { .. })));
    clock.advance(AGE);
    seal(&envelope, b"data");
}

/// Renewals, which run when the test says so.
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
fn a_key_is_renewed_in_the_background_before_its_age() {
    let (clock, background) = (ManualClock::new(), Background::default());
    let provider = provider().with_clock(clock.clone());
    let cache = background.builder(&clock).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let first = keys(&seal(&envelope, b"data")).0;
    clock.advance(AGE * 2 / 3 - Duration::from_nanos(1));
    seal(&envelope, b"data");
    assert_eq!(background.run(), 0);
    clock.advance(Duration::from_nanos(1));
    // Nobody waits, and one renewal is enough.
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

    // On opening too.
    block_on(envelope.open(&sealed, &context())).unwrap();
    clock.advance(AGE - Duration::from_nanos(1));
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!((background.run(), provider.calls().decrypt), (1, 2));
    clock.advance(AGE / 3);
    block_on(envelope.open(&sealed, &context())).unwrap();
    assert_eq!(provider.calls().decrypt, 2);
}

#[test]
fn a_renewal_that_fails_is_tried_again_after_a_pause_and_nobody_notices() {
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
    // Every 12 of the first 50 seconds, then once with success.
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
    // Dropped, as by a runtime that shuts down; and kept, but not run.
    background.0.lock().unwrap().clear();
    seal(&envelope, b"data");
    clock.advance(AGE / 3);
    seal(&envelope, b"data");
    assert_eq!(provider.calls().generate, 2);
}

#[test]
fn a_key_may_serve_for_ever() {
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
fn signed_messages_share_the_signing_key_too() {
    let (provider, cache) = (provider(), cache());
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    let envelope = Envelope::builder(provider.clone()).suite(suite).cache(cache.clone()).build().unwrap();
    let opened: Vec<_> =
        (0..3u8).map(|number| block_on(envelope.open(&seal(&envelope, &[number]), &context())).unwrap()).collect();
    assert_eq!((provider.calls().generate, provider.calls().decrypt), (1, 1));
    assert_eq!(opened[0].context, opened[2].context);
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
        let calls = if suite.key_derivation() == kms_envelope::KeyDerivation::Identity { 2 } else { 1 };
        let after = provider.calls();
        assert_eq!((after.generate - before.generate, after.decrypt - before.decrypt), (calls, calls), "{suite}");
    }
    assert_eq!(cache.stats().bypasses, 12);
}

#[test]
fn an_envelope_uses_the_entries_of_its_clones_and_of_no_other() {
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
fn a_message_that_was_changed_is_refused_with_a_cached_key_as_without() {
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
fn a_wrong_key_is_not_taken_for_good_for_longer_than_its_age() {
    let clock = ManualClock::new();
    let provider = provider();
    let cache = DataKeyCache::builder(AGE).clock(clock.clone()).build().unwrap();
    let envelope = envelope(&provider, &cache);
    let sealed = seal(&envelope, b"data");
    provider.script([Fault::WrongKey]);
    for _ in 0..2 {
        assert!(matches!(block_on(envelope.open(&sealed, &context())), Err(OpenError::Commitment)));
    }
    clock.advance(AGE);
    block_on(envelope.open(&sealed, &context())).unwrap();
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let spawn = |_: Refresh| {};
    let cases: [(DataKeyCacheBuilder, &str); 6] = [
        (DataKeyCache::builder(Duration::ZERO), "max_age"),
        (DataKeyCache::builder(AGE).max_messages(0), "max_messages"),
        (DataKeyCache::builder(AGE).max_messages((1 << 32) + 1), "max_messages"),
        (DataKeyCache::builder(AGE).capacity(0), "capacity"),
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
    let key = LocalKey::new("tests", "key", [0x41; 32]).unwrap();
    let cache = cache();
    let envelope = Envelope::builder(key).cache(cache.clone()).build().unwrap();
    seal(&envelope, b"data");
    let printed = format!("{cache:?} {cache:#?} {envelope:?}");
    assert!(printed.contains("max_age") && !printed.contains("65, 65") && !printed.contains("acme"), "{printed}");
}

/// What an entry depends on, for sealing.
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// All of these share a cache; suites and required names are settings of an envelope, so each has its own.
    #[test]
    fn entries_are_shared_where_all_is_the_same_and_nowhere_else(of in prop::collection::vec(sealing(), 2..12)) {
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
    fn contexts_that_differ_in_one_byte_never_share(
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
