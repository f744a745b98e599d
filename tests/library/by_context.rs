//! Tests of key providers chosen by context: a key for each tenant.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use kms_envelope::{
    AlgorithmSuite, DataKeyCache, EncryptionContext, Envelope, OpenError, ProviderError, RawAes, SealError,
    message::EncryptedDataKey,
    provider::{ByContext, MultiProvider, ProviderErrorKind},
};
use pollster::block_on;
use test_support::header;

fn local(name: &str) -> RawAes {
    RawAes::new("tests", name, [name.as_bytes()[0]; 32]).unwrap()
}

fn names(keys: &[EncryptedDataKey]) -> Vec<String> {
    keys.iter().map(EncryptedDataKey::key_name).collect()
}

fn tenant(name: &str) -> EncryptionContext {
    EncryptionContext::from([("tenant", name), ("purpose", "tests")])
}

/// A key for each tenant. Counts the choices; each choice takes this many polls.
fn by_tenant(polls: usize) -> (ByContext<1>, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let keys = ByContext::new(["tenant"], move |[tenant]| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut left = polls;
        let ready = poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        async move {
            ready.await;
            match &tenant[..] {
                "away" => Err(ProviderError::new(ProviderErrorKind::Throttled, "GetItem", "table")),
                name => Ok(local(name)),
            }
        }
    });
    (keys, calls)
}

fn seal_for(envelope: &Envelope, name: &str) -> Vec<u8> {
    block_on(envelope.seal(b"data", &tenant(name))).unwrap()
}

#[test]
fn each_tenants_messages_are_sealed_and_opened_with_that_tenants_key() {
    let (keys, calls) = by_tenant(0);
    let envelope = Envelope::new(keys);
    for name in ["acme", "bolt"] {
        let sealed = seal_for(&envelope, name);
        assert_eq!(header(&sealed).encrypted_data_keys()[0].key_name(), name);
        let opened = block_on(Envelope::new(local(name)).open(&sealed, &tenant(name))).unwrap();
        assert_eq!(opened.plaintext, b"data");
        assert_eq!(block_on(envelope.open(&sealed, &tenant(name))).unwrap().info.key_id(), format!("tests/{name}"));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn a_message_of_another_tenant_than_expected_is_refused_before_a_key_is_chosen() {
    let (keys, calls) = by_tenant(0);
    let envelope = Envelope::new(keys);
    let sealed = block_on(Envelope::new(local("bolt")).seal(b"data", &tenant("bolt"))).unwrap();
    let expected = EncryptionContext::from([("tenant", "acme")]);
    assert!(matches!(block_on(envelope.open(&sealed, &expected)), Err(OpenError::Context(_))));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    // For a pair that the caller does not expect, the message's value is used.
    assert!(block_on(envelope.open(&sealed, &EncryptionContext::new())).is_ok());
}

#[test]
fn a_context_without_the_name_is_refused_before_a_key_is_chosen() {
    let (keys, calls) = by_tenant(0);
    let error = block_on(Envelope::new(keys).seal(b"data", &EncryptionContext::from([("user", "alice")]))).unwrap_err();
    let expected =
        "by-context/tenant is not supported: the encryption context has no \"tenant\" pair, which selects the key";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[test]
fn a_key_is_chosen_once_for_a_tenant_whatever_other_pairs_the_context_has() {
    let (keys, calls) = by_tenant(0);
    // The context of a signed message contains its public key, which is different each time.
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    let envelope = Envelope::builder(keys).suite(suite).build().unwrap();
    for number in 0..5 {
        let mut context = tenant("acme");
        context.insert("number", number.to_string());
        let sealed = block_on(envelope.seal(b"data", &context)).unwrap();
        assert_eq!(block_on(envelope.open(&sealed, &context)).unwrap().plaintext, b"data");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn concurrent_requests_share_one_choice_for_each_tenant() {
    // In one task.
    let (keys, calls) = by_tenant(10);
    let envelope = Envelope::new(keys);
    let contexts: Vec<_> = ["acme", "bolt", "acme", "acme", "bolt"].map(tenant).into();
    let sealed = block_on(join_all(contexts.iter().map(|context| envelope.seal(b"data", context))));
    assert!(sealed.iter().all(Result::is_ok));
    assert_eq!(calls.load(Ordering::SeqCst), 2);

    // On several threads.
    let (keys, calls) = by_tenant(1000);
    let envelope = Envelope::new(keys);
    thread::scope(|scope| {
        for number in 0..16 {
            let envelope = &envelope;
            scope.spawn(move || seal_for(envelope, ["acme", "bolt", "coil", "dune"][number % 4]));
        }
    });
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[test]
fn the_most_recently_used_providers_are_kept_up_to_the_capacity() {
    let (keys, calls) = by_tenant(0);
    let envelope = Envelope::new(keys.with_capacity(2));
    for (name, expected) in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4), ("c", 5), ("b", 5)] {
        seal_for(&envelope, name);
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{name}");
    }
    // At least one.
    let (keys, calls) = by_tenant(0);
    let envelope = Envelope::new(keys.with_capacity(0));
    for (name, expected) in [("a", 1), ("a", 1), ("b", 2), ("a", 3)] {
        seal_for(&envelope, name);
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{name}");
    }
    // Any number is valid.
    let (keys, _) = by_tenant(0);
    seal_for(&Envelope::new(keys.with_capacity(usize::MAX)), "a");
}

#[test]
fn a_failed_choice_is_not_kept_and_all_waiting_requests_get_its_error() {
    let (keys, calls) = by_tenant(5);
    let envelope = Envelope::new(keys);
    let context = tenant("away");
    for round in 1..3 {
        let sealed = block_on(join_all([(); 3].map(|()| envelope.seal(b"data", &context))));
        for error in sealed.into_iter().map(Result::unwrap_err) {
            assert!(matches!(&error, SealError::Provider(error) if error.is_retryable()), "{error:?}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), round);
    }
}

#[test]
fn a_choice_that_panics_fails_for_all_waiting_requests_and_the_next_one_chooses_again() {
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for panics_when_polled in [false, true] {
        let (begun, begins) = mpsc::channel();
        let (panic, panics) = mpsc::channel::<()>();
        let (calls, panics) = (Arc::new(AtomicUsize::new(0)), Mutex::new(panics));
        let (counted, panics) = (calls.clone(), Arc::new(panics));
        let keys = ByContext::new(["tenant"], move |[tenant]| {
            let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            let (begun, panics) = (begun.clone(), panics.clone());
            let may_panic = move |now: bool| {
                if is_first && now {
                    begun.send(()).unwrap();
                    panics.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
                    panic!("a test's");
                }
            };
            may_panic(!panics_when_polled);
            async move {
                may_panic(panics_when_polled);
                Ok::<_, ProviderError>(local(&tenant))
            }
        });
        let envelope = Arc::new(Envelope::new(keys));

        // Another thread is inside the function when this one starts to wait.
        let others = envelope.clone();
        let other = thread::spawn(move || others.seal(b"data", &tenant("acme")).now_or_never());
        begins.recv_timeout(Duration::from_secs(10)).unwrap();
        let (context, wakes) = (tenant("acme"), Arc::new(Wakes(AtomicUsize::new(0))));
        let mut waits = Box::pin(envelope.seal(b"data", &context));
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        panic.send(()).unwrap();
        let other = other.join().expect("an error instead of the panic").unwrap();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        let Poll::Ready(one) = waits.as_mut().poll(&mut cx) else { panic!("it has been woken for nothing") };
        for sealed in [one, other] {
            let error = sealed.unwrap_err();
            assert!(matches!(&error, SealError::Provider(error) if !error.is_retryable()), "{error:?}");
            let expected = "ChooseKey with key tenant=acme failed: the function passed to ByContext::new panicked";
            assert!(error.to_string().ends_with(expected), "{error}");
        }

        assert!(matches!(envelope.seal(b"data", &context).now_or_never(), Some(Ok(_))));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn choices_that_fail_or_are_pending_do_not_count_toward_the_capacity_and_leave_nothing_behind() {
    let (keys, calls) = by_tenant(10);
    let keys = Arc::new(keys.with_capacity(2));
    let envelope = Envelope::new(keys.clone());
    let holds = |kept, in_progress| {
        let text = format!("{keys:?}");
        assert!(text.contains(&format!("kept: {kept}, in_progress: {in_progress}, ..")), "{text}");
    };
    for name in ["acme", "bolt"] {
        seal_for(&envelope, name);
    }
    for _ in 0..3 {
        block_on(envelope.seal(b"data", &tenant("away"))).unwrap_err();
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    holds(2, 0);

    // More pending calls than the capacity, with two waiting requests for each.
    let contexts = ["coil", "dune", "echo"].map(tenant);
    let begin = || {
        let mut sealing: Vec<_> = [&contexts, &contexts]
            .into_iter()
            .flatten()
            .map(|context| Box::pin(envelope.seal(b"data", context)))
            .collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sealing.iter_mut().all(|one| one.as_mut().poll(&mut cx).is_pending()));
        sealing
    };
    let mut sealing = begin();
    holds(2, 3);
    for name in ["acme", "bolt"] {
        seal_for(&envelope, name);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 8);
    // All waiting requests are dropped, first one of each call.
    sealing.drain(..3);
    holds(2, 3);
    drop(sealing);
    holds(2, 0);

    // Calls that `clear` removed return a provider to their waiting requests only.
    let sealing = begin();
    keys.clear();
    holds(0, 0);
    assert!(block_on(join_all(sealing)).iter().all(Result::is_ok));
    assert_eq!(calls.load(Ordering::SeqCst), 11);
    holds(0, 0);
    // The providers of other calls are kept for later requests, up to the capacity.
    assert!(block_on(join_all(begin())).iter().all(Result::is_ok));
    assert_eq!(calls.load(Ordering::SeqCst), 14);
    holds(2, 0);
}

#[test]
fn the_error_of_a_choice_is_the_source_of_an_error_that_names_the_tenant() {
    let keys = ByContext::new(["tenant", "purpose"], |[_, _]| async {
        Err::<RawAes, _>(std::io::Error::other("no such row"))
    });
    let error = block_on(Envelope::new(keys).seal(b"data", &tenant("acme"))).unwrap_err();
    let SealError::Provider(error) = error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), "ChooseKey with key tenant=acme, purpose=tests failed");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such row");
}

#[cfg(feature = "aws-kms")]
#[test]
fn a_tenant_without_a_kms_key_is_distinguished_from_an_unavailable_kms() {
    use kms_envelope::{
        ConfigError, ErrorKind, ProviderError,
        provider::{ProviderErrorKind, ResolveError},
    };

    let kind = |error: fn() -> ResolveError| {
        let keys = ByContext::new(["tenant"], move |[_]| async move { Err::<RawAes, _>(error()) });
        let error = block_on(Envelope::new(keys).seal(b"data", &tenant("acme"))).unwrap_err();
        (error.kind(), error.is_retryable())
    };
    let missing = || ProviderError::new(ProviderErrorKind::NotFound, "DescribeKey", "alias/acme").into();
    assert_eq!(kind(missing), (ErrorKind::InvalidInput, false));
    let away = || ProviderError::new(ProviderErrorKind::Unavailable, "DescribeKey", "alias/acme").into();
    assert_eq!(kind(away), (ErrorKind::Unavailable, true));
    assert_eq!(kind(|| ConfigError::KeyLen(1).into()), (ErrorKind::InvalidInput, false));
}

#[test]
fn a_choice_continues_when_its_first_caller_is_dropped_and_is_canceled_with_the_last() {
    let (calls, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Mutex::new(false));
    struct Ends(Arc<AtomicUsize>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (counted, ends, opened) = (calls.clone(), ended.clone(), gate.clone());
    let keys = ByContext::new(["tenant"], move |[tenant]| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (ends, opened) = (Ends(ends.clone()), opened.clone());
        async move {
            poll_fn(|_| if *opened.lock().unwrap() { Poll::Ready(()) } else { Poll::Pending }).await;
            drop(ends);
            Ok::<_, ProviderError>(local(&tenant))
        }
    });
    let envelope = Envelope::new(keys);
    let context = tenant("acme");
    let seal = || Box::pin(envelope.seal(b"data", &context));
    let mut cx = Context::from_waker(Waker::noop());

    let (mut first, mut second) = (seal(), seal());
    assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert_eq!((calls.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (1, 0));
    drop(second);
    assert_eq!((calls.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (1, 1), "no caller waits any more");

    let (mut first, mut second) = (seal(), seal());
    assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
    drop(first);
    *gate.lock().unwrap() = true;
    assert!(second.as_mut().poll(&mut cx).is_ready());
    block_on(seal()).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "what the second waited for is kept");
}

#[test]
fn after_clear_every_key_is_chosen_again() {
    let (keys, calls) = by_tenant(0);
    let keys = Arc::new(keys);
    let envelope = Envelope::new(keys.clone());
    for expected in 1..3 {
        seal_for(&envelope, "acme");
        seal_for(&envelope, "acme");
        assert_eq!(calls.load(Ordering::SeqCst), expected);
        keys.clear();
    }
}

#[test]
fn keys_by_context_work_in_a_multi_provider_for_rewrapping_and_with_a_cache() {
    // As one of several providers, for sealing and for opening.
    let several = || MultiProvider::new(local("x")).with(by_tenant(0).0);
    let sealed = seal_for(&Envelope::new(several()), "acme");
    assert_eq!(names(header(&sealed).encrypted_data_keys()), ["x", "acme"]);
    for opening in [several(), MultiProvider::new(local("y")).with(by_tenant(0).0)] {
        assert_eq!(block_on(Envelope::new(opening).open(&sealed, &tenant("acme"))).unwrap().plaintext, b"data");
    }

    // As the new key of a rewrapped message, and as the old one.
    let old = Envelope::new(local("old"));
    let sealed = seal_for(&old, "acme");
    let rewrapped = block_on(old.rewrap(&header(&sealed), &tenant("acme"), &by_tenant(0).0)).unwrap();
    assert_eq!(names(rewrapped.encrypted_data_keys()), ["acme"]);
    let new = Envelope::new(by_tenant(0).0).with_detached_keys(rewrapped);
    assert_eq!(block_on(new.open(&sealed, &tenant("acme"))).unwrap().plaintext, b"data");
    let back = block_on(new.rewrap(&header(&sealed), &tenant("acme"), &local("old"))).unwrap();
    assert_eq!(names(back.encrypted_data_keys()), ["old"]);

    // Behind a cache of data keys: each tenant has its own.
    let cache = DataKeyCache::builder(Duration::from_secs(60)).build().unwrap();
    let (keys, calls) = by_tenant(0);
    let envelope = Envelope::builder(keys).cache(cache.clone()).build().unwrap();
    for _ in 0..3 {
        for name in ["acme", "bolt"] {
            let sealed = seal_for(&envelope, name);
            assert_eq!(names(header(&sealed).encrypted_data_keys()), [name]);
            block_on(envelope.open(&sealed, &tenant(name))).unwrap();
        }
    }
    assert_eq!((cache.stats().calls, calls.load(Ordering::SeqCst)), (4, 2));
}
