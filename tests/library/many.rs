//! Sealing and opening many messages at once is the same as doing it one by one.

use std::{ops::Range, time::Duration};

use kms_envelope::{
    AlgorithmSuite, DataKeyCache, EncryptionContext, Envelope, EnvelopeBuilder, ErrorKind, Limits, OpenError,
    SealError,
    cache::CacheStats,
    error::{ContextError, FormatError, LimitError},
    message::{EncryptedDataKey, Header},
    provider::SecretKey,
    stream::Threads,
    testing::{Fault, MemoryKey, ScriptedProvider},
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{FailingRng, FixedDataKey, RepeatingRng, context, plaintext, policy_for};

fn provider() -> ScriptedProvider {
    ScriptedProvider::new(MemoryKey::new().unwrap())
}

fn cache() -> DataKeyCache {
    DataKeyCache::builder(Duration::from_secs(300)).build().unwrap()
}

fn threads() -> Threads {
    Threads::Pool(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().into())
}

/// Returns envelopes with and without a cache, and on one and several threads.
fn builders(provider: &ScriptedProvider) -> Vec<EnvelopeBuilder> {
    let builder = || Envelope::builder(provider.clone());
    vec![builder(), builder().cache(cache()), builder().threads(threads()), builder().cache(cache()).threads(threads())]
}

fn seal_many(
    envelope: &Envelope,
    plaintexts: &[Vec<u8>],
    context: &EncryptionContext,
    out: &mut Vec<u8>,
) -> Vec<Result<Range<usize>, SealError>> {
    block_on(envelope.seal_many(plaintexts.iter().map(|plaintext| (&plaintext[..], context)), out))
}

/// Returns the messages.
fn sealed(envelope: &Envelope, plaintexts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let ranges = seal_many(envelope, plaintexts, &context(), &mut out);
    ranges.into_iter().map(|range| out[range.unwrap()].to_vec()).collect()
}

fn opened(envelope: &Envelope, messages: &[Vec<u8>]) -> Vec<Result<Vec<u8>, OpenError>> {
    let mut out = vec![7; 10_000];
    let messages: Vec<_> = messages.iter().map(|message| (&message[..], context())).collect();
    let results = block_on(envelope.open_many(messages.iter().map(|(message, context)| (*message, context)), &mut out));
    // Nothing is in the buffer but the plaintexts.
    let mut rest = out.clone();
    results.iter().flatten().for_each(|(range, _)| rest[range.clone()].fill(0));
    assert!(rest.iter().all(|byte| *byte == 0));
    results.into_iter().map(|result| result.map(|(range, _)| out[range].to_vec())).collect()
}

fn lens(lens: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    lens.into_iter().map(plaintext).collect()
}

fn encrypted_data_key(message: &[u8]) -> EncryptedDataKey {
    Header::parse(message, &Limits::default()).unwrap().encrypted_data_keys()[0].clone()
}

#[test]
fn messages_of_any_suite_and_length_are_the_same_as_single_ones() {
    let plaintexts = lens([0, 1, 16, 0, 1000, 4096, 4097, 70_000, 300_000]);
    for suite in AlgorithmSuite::all() {
        let provider = provider();
        let single = Envelope::builder(provider.clone()).commitment_policy(policy_for(suite)).build().unwrap();
        for builder in builders(&provider) {
            let envelope = builder.suite(suite).commitment_policy(policy_for(suite)).frame_len(4096).build().unwrap();
            let messages = sealed(&envelope, &plaintexts);
            for ((message, plaintext), opened) in messages.iter().zip(&plaintexts).zip(opened(&envelope, &messages)) {
                assert_eq!(&opened.unwrap(), plaintext, "{suite}");
                assert_eq!(&block_on(single.open(message, &context())).unwrap().plaintext, plaintext, "{suite}");
            }
            let one_by_one: Vec<_> =
                plaintexts.iter().map(|plaintext| block_on(envelope.seal(plaintext, &context())).unwrap()).collect();
            let many = opened(&envelope, &one_by_one);
            assert!(many.into_iter().zip(&plaintexts).all(|(opened, plaintext)| opened.unwrap() == *plaintext));
        }
    }
}

#[test]
fn no_message_is_no_work() {
    for builder in builders(&provider()) {
        let envelope = builder.rng(FailingRng::after(0)).build().unwrap();
        let mut out = b"earlier".to_vec();
        assert!(seal_many(&envelope, &[], &context(), &mut out).is_empty() && out.is_empty());
        out.extend(b"earlier");
        assert!(block_on(envelope.open_many([], &mut out)).is_empty() && out.is_empty());
    }
}

#[test]
fn without_a_cache_or_key_derivation_each_message_has_its_own_data_key() {
    let plaintexts = lens([10; 40]);
    for (suite, is_cached) in
        [(AlgorithmSuite::default(), false), (AlgorithmSuite::Aes256Gcm, false), (AlgorithmSuite::Aes256Gcm, true)]
    {
        let provider = provider();
        let mut builder = Envelope::builder(provider.clone()).suite(suite).commitment_policy(policy_for(suite));
        if is_cached {
            builder = builder.cache(cache());
        }
        let envelope = builder.build().unwrap();
        let messages = sealed(&envelope, &plaintexts);
        assert_eq!(provider.calls().generate, 40);
        let mut keys: Vec<_> = messages.iter().map(|message| encrypted_data_key(message).ciphertext).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 40);
        opened(&envelope, &messages).into_iter().for_each(|opened| drop(opened.unwrap()));
        assert_eq!(provider.calls().decrypt, 40);
    }
}

#[test]
fn calls_are_concurrent_and_at_most_16_at_a_time() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    let (now, max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (now.clone(), max.clone());
    let provider = provider().with_delay(move || {
        let (now, max) = counters.clone();
        max.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        async move {
            let mut is_first = true;
            std::future::poll_fn(|cx| {
                if std::mem::take(&mut is_first) {
                    cx.waker().wake_by_ref();
                    return std::task::Poll::Pending;
                }
                std::task::Poll::Ready(())
            })
            .await;
            now.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let envelope = Envelope::new(provider);
    let messages = sealed(&envelope, &lens([10; 100]));
    assert_eq!(max.swap(0, Ordering::SeqCst), 16);
    opened(&envelope, &messages).into_iter().for_each(|opened| drop(opened.unwrap()));
    assert_eq!(max.load(Ordering::SeqCst), 16);
}

#[test]
fn a_run_splits_where_a_data_key_reaches_a_limit() {
    for (max_messages, max_bytes) in [(3, u64::MAX), (1 << 32, 25), (2, 1000), (1, 1)] {
        let plaintexts = lens([10, 0, 10, 30, 5, 10, 10, 1, 1, 30, 2]);
        let envelope = |provider: &ScriptedProvider| {
            let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(max_messages).max_bytes(max_bytes);
            let cache = cache.build().unwrap();
            (Envelope::builder(provider.clone()).cache(cache.clone()).build().unwrap(), cache)
        };
        let (in_loop, at_once) = (provider(), provider());
        let ((one, one_cache), (many, many_cache)) = (envelope(&in_loop), envelope(&at_once));
        let one_by_one: Vec<_> =
            plaintexts.iter().map(|plaintext| block_on(one.seal(plaintext, &context())).unwrap()).collect();
        let messages = sealed(&many, &plaintexts);
        let shared = |messages: &[Vec<u8>]| -> Vec<bool> {
            messages.windows(2).map(|pair| encrypted_data_key(&pair[0]) == encrypted_data_key(&pair[1])).collect()
        };
        assert_eq!(shared(&messages), shared(&one_by_one));
        assert_eq!(at_once.calls(), in_loop.calls());
        let counts = |stats: CacheStats| (stats.hits, stats.misses, stats.waits, stats.bypasses, stats.expirations);
        assert_eq!(counts(many_cache.stats()), counts(one_cache.stats()));
    }
}

#[test]
fn messages_with_equal_contexts_share_a_data_key_wherever_they_are() {
    let provider = provider();
    let cache = cache();
    let envelope = Envelope::builder(provider.clone()).cache(cache.clone()).build().unwrap();
    let contexts: Vec<_> = (0..30).map(|number| EncryptionContext::from([("n", (number % 3).to_string())])).collect();
    let mut out = Vec::new();
    let ranges = block_on(envelope.seal_many(contexts.iter().map(|context| (&b"data"[..], context)), &mut out));
    let ranges: Vec<_> = ranges.into_iter().map(Result::unwrap).collect();
    assert_eq!(ranges.iter().map(|range| range.start).collect::<Vec<_>>(), {
        let ends = ranges.iter().map(|range| range.end);
        [0].into_iter().chain(ends).take(30).collect::<Vec<_>>()
    });
    assert_eq!((provider.calls().generate, cache.stats().hits, cache.stats().misses), (3, 27, 3));
    let mut plaintexts = Vec::new();
    let messages = ranges.iter().zip(&contexts).map(|(range, context)| (&out[range.clone()], context));
    for (result, context) in block_on(envelope.open_many(messages, &mut plaintexts)).into_iter().zip(&contexts) {
        let (range, info) = result.unwrap();
        assert_eq!((&plaintexts[range], info.context()), (&b"data"[..], context));
    }
    assert_eq!(provider.calls().decrypt, 3);
}

#[test]
fn a_failure_of_sealing_affects_only_its_own_message() {
    for is_cached in [false, true] {
        let provider = provider();
        let mut builder = Envelope::builder(provider.clone()).limits(Limits::default().with_header_len(2000));
        if is_cached {
            builder = builder.cache(cache());
        }
        let envelope = builder.build().unwrap();
        let (good, reserved) = (context(), EncryptionContext::from([("aws-crypto-a", "b")]));
        let (long, longest) =
            (EncryptionContext::from([("a", "b".repeat(2000))]), EncryptionContext::from([("a", "b".repeat(70_000))]));
        let contexts = [&good, &reserved, &good, &long, &longest, &good];
        let mut out = vec![9; 5000];
        let results = block_on(envelope.seal_many(contexts.map(|context| (&b"data"[..], context)), &mut out));
        assert!(matches!(results[1], Err(SealError::Context(ContextError::ReservedName { .. }))));
        assert!(matches!(results[3], Err(SealError::Limit(LimitError::HeaderLen { .. }))));
        assert!(matches!(results[4], Err(SealError::Context(ContextError::TooLong { .. }))));
        for index in [0, 2, 5] {
            let message = &out[results[index].clone().unwrap()];
            assert_eq!(block_on(envelope.open(message, &good)).unwrap().plaintext, b"data");
        }
        let total: usize = results.iter().flatten().map(Range::len).sum();
        assert_eq!(out.len(), total);
    }
}

#[test]
fn a_failed_call_fails_for_the_messages_that_wait_for_it() {
    let provider = provider();
    provider.script([Fault::Throttled]);
    let envelope = Envelope::new(provider.clone());
    let mut out = Vec::new();
    let results = seal_many(&envelope, &lens([5; 5]), &context(), &mut out);
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert!(results.iter().flatten().all(|range| block_on(envelope.open(&out[range.clone()], &context())).is_ok()));

    // With a cache, one call serves all messages with the same context, and others are not affected.
    provider.script([Fault::Throttled]);
    let envelope = Envelope::builder(provider.clone()).cache(cache()).build().unwrap();
    let other = EncryptionContext::new();
    let contexts = [context(), other.clone(), context(), context()];
    let calls = provider.calls().generate;
    let results = block_on(envelope.seal_many(contexts.iter().map(|context| (&b"data"[..], context)), &mut out));
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(provider.calls().generate - calls, 2);
    assert_eq!(block_on(envelope.open(&out[results[1].clone().unwrap()], &other)).unwrap().plaintext, b"data");
}

#[test]
fn a_failed_call_for_a_message_that_is_too_long_for_the_cache_affects_no_other() {
    let provider = provider();
    let cache = DataKeyCache::builder(Duration::from_secs(300)).max_bytes(100).build().unwrap();
    let envelope = Envelope::builder(provider.clone()).cache(cache).build().unwrap();
    block_on(envelope.seal(b"", &context())).unwrap();
    provider.script([Fault::Throttled]);
    let results = seal_many(&envelope, &lens([10, 200, 10, 10]), &context(), &mut Vec::new());
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    // The first data key is used up, and the call for another fails for the messages before the long one.
    provider.script([Fault::Throttled]);
    let results = seal_many(&envelope, &lens([90, 90, 200, 90]), &context(), &mut Vec::new());
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, true, true]);
}

#[test]
fn a_failure_of_opening_affects_only_its_own_message() {
    for builder in builders(&provider()) {
        let envelope = builder.frame_len(16).build().unwrap();
        let plaintexts = lens((0..12).map(|number| number * 7));
        let good = sealed(&envelope, &plaintexts);
        let header_len = Header::parse(&good[0], &Limits::default()).unwrap().len();
        let mut messages = good.clone();
        messages[1].truncate(header_len - 1);
        messages[2].truncate(header_len + 20);
        *messages[3].last_mut().unwrap() ^= 1;
        messages[4][40] ^= 1;
        messages[5][header_len - 1] ^= 1;
        messages[6].push(0);
        messages[7][header_len + 25] ^= 1;
        messages[8].clear();
        let results = opened(&envelope, &messages);
        for (index, (result, plaintext)) in results.iter().zip(&plaintexts).enumerate() {
            let single = block_on(envelope.open(&messages[index], &context()));
            match (result, single) {
                (Ok(opened), Ok(single)) => assert_eq!((opened, opened), (plaintext, &single.plaintext)),
                (Err(error), Err(single)) => assert_eq!(error.to_string(), single.to_string()),
                (result, single) => panic!("{index}: {result:?} {single:?}"),
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4);
        assert!(matches!(results[8], Err(OpenError::Format(FormatError::Truncated(_)))));
        // All messages of the run fail.
        assert!(opened(&envelope, &messages[1..8]).iter().all(Result::is_err));
    }
}

#[test]
fn messages_that_share_an_encrypted_data_key_are_checked_one_by_one() {
    // The encrypted data key is not bound to the context.
    let key = || FixedDataKey::new(|| SecretKey::from([7; 32]));
    let contexts = ["0", "1"].map(|number| EncryptionContext::from([("tenant", "acme"), ("number", number)]));
    let seal = |number: usize, frame_len| {
        let envelope = Envelope::builder(key()).frame_len(frame_len).build().unwrap();
        block_on(envelope.seal(b"data", &contexts[number])).unwrap()
    };
    let messages = [seal(0, 4096), seal(0, 4096), seal(1, 4096), seal(0, 1 << 20), seal(0, 8192)];
    let limits = Limits::default().with_frame_len(65_536);
    let envelope = Envelope::builder(key()).cache(cache()).limits(limits).build().unwrap();
    let open = |expected: &EncryptionContext| {
        let mut out = Vec::new();
        let results = block_on(envelope.open_many(messages.iter().map(|message| (&message[..], expected)), &mut out));
        results
            .into_iter()
            .map(|result| Some(result.ok()?.1.context().get("number").unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let found = |numbers: [Option<&str>; 5]| numbers.map(|number| number.map(str::to_owned)).to_vec();
    // Without a data key in the cache, and with one.
    for _ in 0..2 {
        let tenant = EncryptionContext::from([("tenant", "acme")]);
        assert_eq!(open(&tenant), found([Some("0"), Some("0"), Some("1"), None, Some("0")]));
        assert_eq!(open(&contexts[0]), found([Some("0"), Some("0"), None, None, Some("0")]));
        assert_eq!(open(&contexts[1]), found([None, None, Some("1"), None, None]));
    }
}

#[test]
fn a_wrong_context_fails_for_its_own_message() {
    let envelope = Envelope::builder(provider()).cache(cache()).build().unwrap();
    let messages = sealed(&envelope, &lens([4, 4]));
    let contexts = [EncryptionContext::from([("tenant", "other")]), context()];
    let mut out = Vec::new();
    let results = block_on(envelope.open_many(messages.iter().map(Vec::as_slice).zip(&contexts), &mut out));
    assert!(matches!(results[0], Err(OpenError::Context(ContextError::ValueDiffers { .. }))));
    assert_eq!(out[results[1].as_ref().unwrap().0.clone()], plaintext(4));
}

#[test]
fn of_messages_that_are_alike_each_is_checked_against_its_own_expected_context() {
    let envelope = Envelope::builder(provider()).cache(cache()).build().unwrap();
    let messages = sealed(&envelope, &lens([4; 4]));
    let (right, wrong) = (context(), EncryptionContext::from([("tenant", "other")]));
    let open = || {
        let messages = messages.iter().map(Vec::as_slice).zip([&right, &wrong, &right, &wrong]);
        let results = block_on(envelope.open_many(messages, &mut Vec::new()));
        results.into_iter().map(|result| result.map_err(|error| error.kind()).err()).collect::<Vec<_>>()
    };
    let wrong_context = Some(ErrorKind::WrongContext);
    // Without a data key in the cache, and with one.
    for _ in 0..2 {
        assert_eq!(open(), [None, wrong_context, None, wrong_context]);
    }
}

#[test]
fn a_message_of_one_frame_with_a_byte_more_or_a_changed_tag_is_refused_and_nothing_of_it_is_released() {
    for builder in builders(&provider()) {
        let envelope = builder.build().unwrap();
        // Neighbors that open, so that a data key is cached.
        let mut messages = sealed(&envelope, &lens([30; 5]));
        messages[1].push(0);
        *messages[3].last_mut().unwrap() ^= 1;
        // It also requires that the buffer has nothing but the plaintexts.
        let results = opened(&envelope, &messages);
        let is_refused = |index: usize, error: &OpenError| match index {
            1 => matches!(error, OpenError::Format(FormatError::TrailingBytes)),
            3 => matches!(error, OpenError::FrameTag { sequence: 1 }),
            _ => false,
        };
        for (index, (message, result)) in messages.iter().zip(results).enumerate() {
            let mut plaintext = vec![7; 100];
            let single = block_on(envelope.open(message, &context()));
            let into = block_on(envelope.open_into(message, &context(), &mut plaintext));
            match (result, single, into) {
                (Ok(_), Ok(_), Ok(_)) => assert!([0, 2, 4].contains(&index)),
                (Err(many), Err(single), Err(into)) => {
                    assert!([many, single, into].iter().all(|error| is_refused(index, error)), "{index}");
                    assert!(plaintext.is_empty());
                }
                results => panic!("{index}: {results:?}"),
            }
        }
    }
}

#[test]
fn a_generator_that_repeats_a_message_id_is_refused_for_the_later_message() {
    for builder in builders(&provider()) {
        let envelope = builder.rng(RepeatingRng).build().unwrap();
        let mut out = Vec::new();
        let results = seal_many(&envelope, &lens([3; 6]), &context(), &mut out);
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(range) => assert!(index != 3 && block_on(envelope.open(&out[range], &context())).is_ok()),
                Err(error) => assert!(matches!(error, SealError::RepeatedMessageId) && index == 3),
            }
        }
    }
}

#[test]
fn a_generator_that_fails_fails_for_every_message() {
    // FixedDataKey and KMS need no randomness in this process, but the message ids do.
    let key = test_support::FixedDataKey::new(|| kms_envelope::provider::SecretKey::from([7; 32]));
    let envelope = Envelope::builder(key).rng(FailingRng::after(0)).build().unwrap();
    let mut out = vec![1; 10];
    let results = seal_many(&envelope, &lens([3; 3]), &context(), &mut out);
    assert!(results.iter().all(|result| matches!(result, Err(SealError::Random(_)))) && out.is_empty());
}

#[test]
fn a_buffer_that_is_reused_keeps_its_memory_and_nothing_of_earlier_messages() {
    let envelope = Envelope::builder(provider()).cache(cache()).build().unwrap();
    let (many, few) = (lens([1000; 20]), lens([10; 2]));
    let mut out = Vec::new();
    seal_many(&envelope, &many, &context(), &mut out);
    let (memory, capacity) = (out.as_ptr(), out.capacity());
    let ranges = seal_many(&envelope, &few, &context(), &mut out);
    assert_eq!((out.as_ptr(), out.capacity()), (memory, capacity));
    assert_eq!(out.len(), ranges.last().unwrap().as_ref().unwrap().end);
}

#[test]
fn a_run_that_is_canceled_leaves_the_buffer_empty_and_the_envelope_usable() {
    let provider = provider().with_delay(std::future::pending::<()>);
    let envelope = Envelope::new(provider);
    let (plaintexts, context, mut out) = (lens([3; 3]), context(), vec![1; 10]);
    {
        let messages = plaintexts.iter().map(|plaintext| (&plaintext[..], &context));
        let mut run = std::pin::pin!(envelope.seal_many(messages, &mut out));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(run.as_mut().poll(&mut cx).is_pending());
    }
    assert!(out.is_empty() && out.capacity() == 0);
}

#[test]
fn the_futures_can_move_between_threads() {
    fn is_send(_: impl Send) {}
    let envelope = Envelope::new(provider());
    let (context, mut out, mut other) = (context(), Vec::new(), Vec::new());
    is_send(envelope.seal_many([(&b"data"[..], &context)], &mut out));
    is_send(envelope.open_many([(&b"data"[..], &context)], &mut other));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_run_is_the_same_as_a_loop(
        items in prop::collection::vec((0usize..300, 0u8..3), 0..30),
        max_messages in 1u64..8,
        max_bytes in 100u64..2000,
        is_parallel: bool,
        changed in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..4),
    ) {
        let new = || {
            let provider = provider();
            let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(max_messages).max_bytes(max_bytes);
            let cache = cache.build().unwrap();
            let threads = if is_parallel { threads() } else { Threads::One };
            let builder = Envelope::builder(provider.clone()).cache(cache.clone()).threads(threads).frame_len(64);
            (builder.build().unwrap(), provider, cache)
        };
        let contexts: Vec<_> = (0..3).map(|number| EncryptionContext::from([("n", number.to_string())])).collect();
        let plaintexts: Vec<_> = items.iter().map(|(len, context)| (plaintext(*len), &contexts[usize::from(*context)])).collect();
        let ((one, one_provider, one_cache), (many, many_provider, many_cache)) = (new(), new());
        for (plaintext, context) in &plaintexts {
            block_on(one.seal(plaintext, context)).unwrap();
        }
        let mut out = Vec::new();
        let ranges = block_on(many.seal_many(plaintexts.iter().map(|(plaintext, context)| (&plaintext[..], *context)), &mut out));
        prop_assert_eq!(one_provider.calls(), many_provider.calls());
        let counts = |stats: CacheStats| (stats.hits, stats.misses, stats.waits, stats.bypasses, stats.calls);
        prop_assert_eq!(counts(one_cache.stats()), counts(many_cache.stats()));
        let mut messages: Vec<_> = ranges.into_iter().map(|range| out[range.unwrap()].to_vec()).collect();
        for (index, at) in changed {
            if !messages.is_empty() {
                let message = index.get(&messages).len();
                let index = index.index(messages.len());
                messages[index][at.index(message)] ^= 1;
            }
        }
        let mut opened = Vec::new();
        let pairs = messages.iter().zip(&plaintexts).map(|(message, (_, context))| (&message[..], *context));
        let results = block_on(many.open_many(pairs, &mut opened));
        for ((result, message), (plaintext, context)) in results.into_iter().zip(&messages).zip(&plaintexts) {
            match (result, block_on(many.open(message, context))) {
                (Ok((range, info)), Ok(single)) => {
                    prop_assert_eq!((&opened[range], &single.plaintext), (&plaintext[..], plaintext));
                    prop_assert_eq!(info.message_id(), single.info.message_id());
                    prop_assert_eq!(info.context(), *context);
                }
                (Err(error), Err(single)) => prop_assert_eq!(error.to_string(), single.to_string()),
                (result, single) => prop_assert!(false, "{:?} {:?}", result, single),
            }
        }
    }
}
