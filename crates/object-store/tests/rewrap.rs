//! Moving objects to another key.

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kms_envelope::{
    AlgorithmSuite, EncryptionContext, Envelope, KeyProvider, Limits,
    message::{DetachedKeys, Header},
    provider::MultiProvider,
    testing::{Fault, ScriptedProvider},
};
use kms_envelope_object_store::{RewrapOptions, Rewrapped, v0_14::Inventory};
use proptest::{collection::vec, prelude::*};
use support::*;
use tokio::time::Instant;

const OLD: u8 = 7;
const NEW: u8 = 8;
const THIRD: u8 = 9;

fn settings_with(provider: impl KeyProvider + 'static) -> StoreSettings {
    StoreSettings::new(Envelope::builder(provider))
        .header_len(HEADER_LEN)
        .frame_len(FRAME_LEN)
        .part_len(200)
        .detached_keys(".keys")
}

fn store_with(faulty: &Faulty, provider: impl KeyProvider + 'static) -> EncryptedStore<Faulty> {
    EncryptedStore::new(faulty.clone(), settings_with(provider)).unwrap()
}

fn new_key() -> Envelope {
    Envelope::new(key(NEW))
}

/// Writes objects with the old key.
async fn objects(names: &[&str]) -> Faulty {
    let faulty = Faulty::default();
    let store = store_with(&faulty, key(OLD));
    for (seed, name) in (0..).zip(names) {
        store.put(&Path::from(*name), plaintext(300, seed).into()).await.unwrap();
    }
    faulty.take_gets();
    faulty
}

/// Reads an object with this key only.
async fn read(faulty: &Faulty, byte: u8, location: &str) -> Result<Bytes> {
    store_with(faulty, key(byte)).get(&location.into()).await?.bytes().await
}

fn keys_of(faulty: &Faulty, location: &str) -> Vec<String> {
    let keys = DetachedKeys::parse(&stored(&faulty.inner, location), &Limits::default()).unwrap();
    keys.encrypted_data_keys().iter().map(ToString::to_string).collect()
}

async fn names(faulty: &Faulty) -> Vec<String> {
    let listed: Vec<_> = faulty.inner.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.location.to_string()).collect()
}

/// Rewraps everything, and returns the results by location.
async fn rewrap_all(
    store: &EncryptedStore<Faulty>,
    new: &Envelope,
    options: &RewrapOptions,
) -> BTreeMap<String, Result<Rewrapped>> {
    let inventory = Inventory::new(Arc::new(store.inner().clone())).detached_keys(".keys");
    let results = store.rewrap_all(inventory.stream(), new, options);
    results.map_ok(|(listed, result)| (listed.meta.location.to_string(), result)).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_rewrapped_object_opens_with_the_new_key_and_its_bytes_are_the_same() {
    let faulty = objects(&["a"]).await;
    let (before, a) = (stored(&faulty.inner, "a"), Path::from("a"));
    let meta = faulty.inner.head(&a).await.unwrap();
    read(&faulty, NEW, "a").await.unwrap_err();

    let store = store_with(&faulty, key(OLD));
    assert_eq!(store.rewrap(&a, &new_key()).await.unwrap(), Rewrapped::Stored);
    assert_eq!(read(&faulty, NEW, "a").await.unwrap(), plaintext(300, 0));
    assert_eq!(read(&faulty, OLD, "a").await.unwrap(), plaintext(300, 0));
    assert_eq!((stored(&faulty.inner, "a"), faulty.inner.head(&a).await.unwrap()), (before, meta));
    assert_eq!(keys_of(&faulty, "a.keys"), ["tests/key-8"]);
    assert!(
        store_with(&faulty, key(NEW))
            .list(None)
            .all(|meta| async move { meta.unwrap().location.as_ref() == "a" })
            .await
    );
}

#[tokio::test]
async fn a_second_run_writes_nothing_and_makes_one_call_for_each_object() {
    let faulty = objects(&["a", "b"]).await;
    let (old, new) = (ScriptedProvider::new(key(OLD)), ScriptedProvider::new(key(NEW)));
    let (store, envelope) = (store_with(&faulty, old.clone()), Envelope::new(new.clone()));
    let options = RewrapOptions::default();
    for result in rewrap_all(&store, &envelope, &options).await.into_values() {
        assert_eq!(result.unwrap(), Rewrapped::Stored);
    }
    let calls = (old.calls().decrypt, new.calls().encrypt, new.calls().decrypt);
    assert_eq!(calls, (2, 2, 2), "three for each object");
    let puts = faulty.puts.load(SeqCst);
    for result in rewrap_all(&store, &envelope, &options).await.into_values() {
        assert_eq!(result.unwrap(), Rewrapped::Before);
    }
    assert_eq!(store.rewrap(&"a".into(), &envelope).await.unwrap(), Rewrapped::Before);
    let calls = (old.calls().decrypt, new.calls().encrypt, new.calls().decrypt);
    assert_eq!((calls, faulty.puts.load(SeqCst)), ((2, 2, 5), puts));
}

#[tokio::test]
async fn the_result_has_the_version_of_the_detached_keys_that_another_process_stored() {
    let faulty = objects(&["a"]).await;
    let inventory = Inventory::new(Arc::new(faulty.clone())).detached_keys(".keys");
    let inspected: Vec<_> = inventory.stream().try_collect().await.unwrap();
    let store = store_with(&faulty, key(OLD));
    store.rewrap(&"a".into(), &new_key()).await.unwrap();

    let inspected = futures_util::stream::iter(inspected).map(Ok).boxed();
    let (listed, result) =
        store.rewrap_all(inspected, &new_key(), &RewrapOptions::default()).try_next().await.unwrap().unwrap();
    assert_eq!(result.unwrap(), Rewrapped::Before);
    let now: Vec<_> = inventory.list().try_collect().await.unwrap();
    assert!(listed.detached_keys.is_some() && listed.detached_keys == now[0].detached_keys);
}

#[tokio::test]
async fn an_object_that_the_new_key_opens_or_the_old_key_does_not_is_left_as_it_is() {
    let faulty = Faulty::default();
    let both = MultiProvider::new(key(OLD)).with(key(NEW));
    store_with(&faulty, both).put(&"both".into(), "x".into()).await.unwrap();
    store_with(&faulty, key(THIRD)).put(&"third".into(), "x".into()).await.unwrap();
    let puts = faulty.puts.load(SeqCst);
    let old = ScriptedProvider::new(key(OLD));
    let results = rewrap_all(&store_with(&faulty, old.clone()), &new_key(), &RewrapOptions::default()).await;
    let results: Vec<_> = results.into_values().map(Result::unwrap).collect();
    assert_eq!(results, [Rewrapped::Before, Rewrapped::OtherKey]);
    assert_eq!((faulty.puts.load(SeqCst), old.calls().decrypt), (puts, 0));
}

#[tokio::test]
async fn detached_keys_for_other_keys_and_the_old_one_are_kept() {
    let faulty = objects(&["a"]).await;
    let a = Path::from("a");
    let old = store_with(&faulty, key(OLD));
    old.rewrap(&a, &new_key()).await.unwrap();
    old.rewrap(&a, &Envelope::new(key(THIRD))).await.unwrap();
    assert_eq!(keys_of(&faulty, "a.keys"), ["tests/key-9", "tests/key-8"]);
    // The detached key opens the object for the next key, without the key in the header.
    let next = Envelope::new(key(10));
    assert_eq!(store_with(&faulty, key(NEW)).rewrap(&a, &next).await.unwrap(), Rewrapped::Stored);
    assert_eq!(keys_of(&faulty, "a.keys"), ["tests/key-10", "tests/key-9", "tests/key-8"]);
    for byte in [OLD, NEW, THIRD, 10] {
        assert_eq!(read(&faulty, byte, "a").await.unwrap(), plaintext(300, 0), "{byte}");
    }
}

#[tokio::test]
async fn detached_keys_of_another_message_are_replaced_and_anything_else_is_not() {
    let faulty = objects(&["a", "b"]).await;
    let old = store_with(&faulty, key(OLD));
    old.rewrap(&"a".into(), &new_key()).await.unwrap();
    store(&faulty.inner, "b.keys", &stored(&faulty.inner, "a.keys"));
    assert_eq!(old.rewrap(&"b".into(), &new_key()).await.unwrap(), Rewrapped::Stored);
    assert_eq!(read(&faulty, NEW, "b").await.unwrap(), plaintext(300, 1));

    let mine = Bytes::from_static(b"my notes");
    store(&faulty.inner, "a.keys", &mine);
    let error = old.rewrap(&"a".into(), &new_key()).await.unwrap_err();
    assert!(matches!(cause(&error), Error::DetachedKeys { .. }), "{error}");
    assert_eq!(stored(&faulty.inner, "a.keys"), mine);
}

#[tokio::test]
async fn messages_of_other_layouts_and_signed_ones_are_rewrapped() {
    let faulty = Faulty::default();
    let context = EncryptionContext::from([("tenant", "acme"), ("path", "a")]);
    let signing = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    let envelope = Envelope::builder(key(OLD)).suite(signing).frame_len(1000).build().unwrap();
    store(&faulty.inner, "a", &envelope.seal(b"signed", &context).await.unwrap().into());
    let old = store_with(&faulty, key(OLD));
    assert_eq!(old.rewrap(&"a".into(), &new_key()).await.unwrap(), Rewrapped::Stored);
    let keys = DetachedKeys::parse(&stored(&faulty.inner, "a.keys"), &Limits::default()).unwrap();
    let opened = new_key().with_detached_keys(keys).open(&stored(&faulty.inner, "a"), &context).await.unwrap();
    assert_eq!(opened.plaintext, b"signed");
    // It is bound to its path, as all objects of the store.
    store(&faulty.inner, "moved", &stored(&faulty.inner, "a"));
    let error = old.rewrap(&"moved".into(), &new_key()).await.unwrap_err();
    assert!(error.to_string().contains("path"), "{error}");
    assert!(!names(&faulty).await.contains(&"moved.keys".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_rewrapped_is_an_error_and_nothing_is_stored() {
    let faulty = objects(&["a"]).await;
    store(&faulty.inner, "other", &Bytes::from_static(b"PAR1 and more bytes"));
    let old = store_with(&faulty, key(OLD));
    let before = names(&faulty).await;
    let error = async |location: &str, old: &EncryptedStore<Faulty>, new: &Envelope| {
        old.rewrap(&location.into(), new).await.unwrap_err()
    };
    assert!(matches!(error("none", &old, &new_key()).await, object_store::Error::NotFound { .. }));
    assert_eq!(old.rewrap(&"other".into(), &new_key()).await.unwrap(), Rewrapped::NoMessage);
    let failed = error("a.keys", &old, &new_key()).await;
    assert!(matches!(cause(&failed), Error::ReservedName { .. }), "{failed}");
    let plain = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    let failed = error("a", &plain, &new_key()).await;
    assert!(matches!(cause(&failed), Error::NoDetachedKeys { .. }), "{failed}");

    let scripted = |byte, faults: &[Fault]| {
        let provider = ScriptedProvider::new(key(byte));
        provider.script(faults.iter().copied());
        provider
    };
    let failed = error("a", &store_with(&faulty, scripted(OLD, &[Fault::AccessDenied])), &new_key()).await;
    assert!(matches!(cause(&failed), Error::Open { .. }), "{failed}");
    let failed = error("a", &store_with(&faulty, scripted(OLD, &[Fault::WrongKey])), &new_key()).await;
    assert!(matches!(cause(&failed), Error::Open { .. }), "{failed}");
    let failed = error("a", &old, &Envelope::new(scripted(NEW, &[Fault::AccessDenied]))).await;
    assert!(matches!(cause(&failed), Error::Rewrap { .. }), "{failed}");
    for fault in [Fault::AccessDenied, Fault::WrongKey, Fault::InvalidCiphertext] {
        let failed = error("a", &old, &Envelope::new(scripted(NEW, &[Fault::None, fault]))).await;
        assert!(matches!(cause(&failed), Error::Unverified { .. }), "{failed}");
    }
    // Without retries, a call that was throttled is an error that can be repeated.
    let failed = error("a", &old, &Envelope::new(scripted(NEW, &[Fault::None, Fault::Throttled]))).await;
    assert!(cause(&failed).is_retryable(), "{failed}");
    assert_eq!(names(&faulty).await, before);
}

#[tokio::test]
async fn an_object_that_fails_does_not_keep_the_others_from_being_rewrapped() {
    let faulty = objects(&["a", "b", "c", "deleted"]).await;
    let mut broken = stored(&faulty.inner, "b").to_vec();
    broken[HEADER_LEN - 1] ^= 1;
    store(&faulty.inner, "b", &broken.into());
    let inventory = Inventory::new(Arc::new(faulty.clone()));
    let objects: Vec<_> = inventory.stream().try_collect().await.unwrap();
    faulty.inner.delete(&"deleted".into()).await.unwrap();
    let old = store_with(&faulty, key(OLD));
    let options = RewrapOptions::default().concurrency(0);
    let results = old.rewrap_all(futures_util::stream::iter(objects).map(Ok).boxed(), &new_key(), &options);
    let results: BTreeMap<_, _> =
        results.map_ok(|(listed, result)| (listed.meta.location.to_string(), result)).try_collect().await.unwrap();
    for name in ["a", "c"] {
        assert!(matches!(results[name], Ok(Rewrapped::Stored)));
    }
    assert!(matches!(cause(results["b"].as_ref().unwrap_err()), Error::Open { .. }));
    assert!(matches!(results["deleted"].as_ref().unwrap_err(), object_store::Error::NotFound { .. }));
}

#[tokio::test]
async fn an_object_that_is_replaced_meanwhile_is_rewrapped_again() {
    for times in [1, 100] {
        let faulty = objects(&["a"]).await;
        let mut versions = Vec::new();
        for seed in 0..times {
            versions.push(sealed(settings_with(key(OLD)), "a", &plaintext(100, seed)).await);
        }
        let mut versions = versions.into_iter();
        faulty.set(move |get| {
            // After the new keys were stored, when they are read back.
            if get.location.as_ref() == "a.keys"
                && get.answer().is_ok()
                && let Some(version) = versions.next()
            {
                store(get.inner, "a", &version);
            }
            get.answer()
        });
        let result = store_with(&faulty, key(OLD)).rewrap(&"a".into(), &new_key()).await;
        faulty.set(|get| get.answer());
        if times == 1 {
            assert_eq!(result.unwrap(), Rewrapped::Stored);
            assert_eq!(read(&faulty, NEW, "a").await.unwrap(), plaintext(100, 0));
        } else {
            let error = result.unwrap_err();
            assert!(matches!(cause(&error), Error::Changed { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn detached_keys_that_others_store_at_the_same_time_are_not_lost() {
    let faulty = objects(&["a"]).await;
    store_with(&faulty, key(OLD)).rewrap(&"a".into(), &Envelope::new(key(THIRD))).await.unwrap();
    let third = stored(&faulty.inner, "a.keys");
    for replaces in [false, true] {
        if replaces {
            store_with(&faulty, key(OLD)).rewrap(&"a".into(), &Envelope::new(key(11))).await.unwrap();
        } else {
            faulty.inner.delete(&"a.keys".into()).await.unwrap();
        }
        let (third, mut is_first) = (third.clone(), true);
        faulty.set(move |get| {
            let answer = get.answer();
            if get.location.as_ref() == "a.keys" && std::mem::take(&mut is_first) {
                store(get.inner, "a.keys", &third);
            }
            answer
        });
        let result = store_with(&faulty, key(OLD)).rewrap(&"a".into(), &new_key()).await;
        assert_eq!(result.unwrap(), Rewrapped::Stored);
        assert_eq!(keys_of(&faulty, "a.keys"), ["tests/key-8", "tests/key-9"]);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_throttled_are_repeated_and_lose_nothing() {
    let names: Vec<_> = (0..50).map(|number| format!("{number}")).collect();
    let faulty = objects(&names.iter().map(|name| &name[..]).collect::<Vec<_>>()).await;
    let (old, new) = (ScriptedProvider::new(key(OLD)), ScriptedProvider::new(key(NEW)));
    let faults = [Fault::Throttled, Fault::None, Fault::Throttled, Fault::Unavailable];
    for provider in [&old, &new] {
        provider.script(faults.into_iter().cycle().take(100));
    }
    let (store, envelope) = (store_with(&faulty, old.clone()), Envelope::new(new));
    let started = Instant::now();
    for (name, result) in rewrap_all(&store, &envelope, &RewrapOptions::default()).await {
        assert_eq!(result.unwrap(), Rewrapped::Stored, "{name}");
        assert_eq!(read(&faulty, NEW, &name).await.unwrap().len(), 300);
    }
    assert!(started.elapsed() > Duration::from_millis(200), "waits between the attempts");

    // A key service that stays away is an error in the end, and so is one that refuses.
    store_with(&faulty, key(OLD)).put(&"last".into(), "x".into()).await.unwrap();
    old.down_for(Duration::from_secs(1_000_000));
    let results = rewrap_all(&store, &envelope, &RewrapOptions::default().attempts(3)).await;
    assert!(cause(results["last"].as_ref().unwrap_err()).is_retryable());
}

#[tokio::test(start_paused = true)]
async fn calls_are_not_made_faster_than_the_rate() {
    let names: Vec<_> = (0..20).map(|number| format!("{number}")).collect();
    let faulty = objects(&names.iter().map(|name| &name[..]).collect::<Vec<_>>()).await;
    let options = RewrapOptions::default().calls_per_second(6).concurrency(50);
    let started = Instant::now();
    rewrap_all(&store_with(&faulty, key(OLD)), &new_key(), &options).await;
    // 60 calls, of which those of the last object may be made together.
    let seconds = started.elapsed().as_secs_f64();
    assert!((9.0..=11.0).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_resealed_object_has_another_data_key_and_only_the_new_key_opens_it() {
    let faulty = objects(&[]).await;
    let old = store_with(&faulty, key(OLD));
    for len in [0, 100, 200, 201, 5000] {
        let (a, content) = (Path::from("a"), plaintext(len, 1));
        let attributes = Attributes::from_iter([(Attribute::ContentType, "text/plain")]);
        let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
        old.put_opts(&a, content.clone().into(), options).await.unwrap();
        old.rewrap(&a, &new_key()).await.unwrap();
        old.reseal(&a, |_| Envelope::builder(key(NEW))).await.unwrap();
        assert_eq!(read(&faulty, NEW, "a").await.unwrap(), content);
        read(&faulty, OLD, "a").await.unwrap_err();
        assert_eq!(faulty.inner.get(&a).await.unwrap().attributes, attributes);
        let header = Header::parse(&stored(&faulty.inner, "a"), &Limits::default()).unwrap();
        assert_eq!(header.encrypted_data_keys()[0].to_string(), "tests/key-8");
        assert_eq!(
            old.get(&a).await.map(drop).map_err(|error| error.to_string().contains("cannot be opened")),
            Err(true)
        );
    }
}

#[tokio::test]
async fn a_resealed_object_keeps_its_layout_and_its_context() {
    let faulty = Faulty::default();
    let context = EncryptionContext::from([("tenant", "acme"), ("path", "a")]);
    for (header_len, frame_len) in [(Some(700), 10), (None, 4096)] {
        let builder = Envelope::builder(key(OLD)).frame_len(frame_len);
        let builder = if let Some(len) = header_len { builder.header_len(len) } else { builder };
        let message = builder.build().unwrap().seal(&plaintext(500, 1), &context).await.unwrap();
        store(&faulty.inner, "a", &message.clone().into());
        let foreign = EncryptedStore::new(faulty.clone(), settings_with(key(OLD)).look_up_sizes()).unwrap();
        foreign.reseal(&"a".into(), |_| Envelope::builder(key(NEW))).await.unwrap();
        let resealed = stored(&faulty.inner, "a");
        let headers = [&message[..], &resealed].map(|bytes| Header::parse(bytes, &Limits::default()).unwrap());
        assert_eq!((headers[0].len(), message.len()), (headers[1].len(), resealed.len()));
        assert_eq!(headers[0].context(), headers[1].context());
        assert_ne!(headers[0].message_id(), headers[1].message_id());
        assert_eq!(new_key().open(&resealed, &context).await.unwrap().plaintext, plaintext(500, 1));

        let signing = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
        let error = foreign.reseal(&"a".into(), |_| Envelope::builder(key(OLD)).suite(signing)).await.unwrap_err();
        assert!(error.to_string().contains("cannot be opened") || error.to_string().contains("signs"), "{error}");
        assert_eq!(stored(&faulty.inner, "a"), resealed);
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_resealed_stays() {
    // A short object may also be replaced after the last look at its metadata.
    for (len, is_late) in [(100, false), (100, true), (5000, false)] {
        let faulty = Faulty::default();
        let old = store_with(&faulty, key(OLD));
        let a = Path::from("a");
        old.put(&a, plaintext(len, 1).into()).await.unwrap();
        let version = sealed(settings_with(key(OLD)), "a", &plaintext(77, 2)).await;
        let (mut heads, theirs) = (0, version.clone());
        faulty.set(move |get| {
            heads += usize::from(get.options.head);
            let earlier = get.answer();
            if get.options.head && heads == 2 {
                store(get.inner, "a", &theirs);
            }
            if is_late { earlier } else { get.answer() }
        });
        let error = old.reseal(&a, |_| Envelope::builder(key(NEW))).await.unwrap_err();
        assert!(matches!(cause(&error), Error::Changed { .. }), "{error}");
        faulty.set(|get| get.answer());
        assert_eq!(stored(&faulty.inner, "a"), version);
        assert_eq!(names(&faulty).await, ["a"]);
    }
}

#[tokio::test]
async fn a_message_without_padding_is_resealed_with_a_header_of_another_length() {
    let faulty = Faulty::default();
    let context = EncryptionContext::from([("path", "a")]);
    let message = Envelope::new(key(OLD)).seal(b"foreign", &context).await.unwrap();
    store(&faulty.inner, "a", &message.into());
    let foreign = EncryptedStore::new(faulty.clone(), settings_with(key(OLD)).look_up_sizes()).unwrap();
    let new = Arc::new(kms_envelope::RawAes::new("tests", "a much longer name", [NEW; 32]).unwrap());
    foreign.reseal(&"a".into(), |_| Envelope::builder(new.clone())).await.unwrap();
    let opened = Envelope::new(new).open(&stored(&faulty.inner, "a"), &context).await.unwrap();
    assert_eq!(opened.plaintext, b"foreign");
}

#[tokio::test]
async fn a_reseal_whose_answer_was_lost_is_recognized() {
    let faulty = objects(&["a"]).await;
    let resealed = sealed(settings_with(key(NEW)), "a", &plaintext(100, 9)).await;
    let mut is_first = true;
    faulty.set(move |get| {
        if get.options.head && std::mem::take(&mut is_first) {
            store(get.inner, "a", &resealed); // by the earlier request
        }
        get.answer()
    });
    let objects = Inventory::new(Arc::new(faulty.clone())).stream();
    let results =
        store_with(&faulty, key(OLD)).reseal_all(objects, |_| Envelope::builder(key(NEW)), &RewrapOptions::default());
    let results: Vec<_> = results.try_collect().await.unwrap();
    assert_eq!(*results[0].1.as_ref().unwrap(), Rewrapped::Before);
}

#[tokio::test]
async fn an_object_with_the_name_of_the_new_key_that_it_does_not_open_is_not_done() {
    let faulty = Faulty::default();
    let other = kms_envelope::RawAes::new("tests", "key-8", [77; 32]).unwrap();
    store_with(&faulty, other).put(&"a".into(), "x".into()).await.unwrap();
    let results = store_with(&faulty, key(OLD)).reseal_all(
        Inventory::new(Arc::new(faulty.clone())).stream(),
        |_| Envelope::builder(key(NEW)),
        &RewrapOptions::default(),
    );
    let results: Vec<_> = results.try_collect().await.unwrap();
    assert!(matches!(cause(results[0].1.as_ref().unwrap_err()), Error::Open { .. }));
}

#[tokio::test(start_paused = true)]
async fn all_objects_of_the_old_key_are_resealed() {
    let faulty = objects(&["a", "b"]).await;
    store_with(&faulty, key(NEW)).put(&"new".into(), "x".into()).await.unwrap();
    store_with(&faulty, key(THIRD)).put(&"third".into(), "x".into()).await.unwrap();
    store(&faulty.inner, "other", &Bytes::from_static(b"PAR1"));
    let old = ScriptedProvider::new(key(OLD));
    old.script([Fault::Throttled, Fault::Throttled]);
    let (encrypted, new) = (store_with(&faulty, old.clone()), |_: &Header| Envelope::builder(key(NEW)));
    for run in 0..2 {
        let inventory = Inventory::new(Arc::new(faulty.clone())).detached_keys(".keys");
        let results = encrypted.reseal_all(inventory.stream(), new, &RewrapOptions::default());
        let results: BTreeMap<_, _> = results
            .map_ok(|(listed, result)| (listed.meta.location.to_string(), result.unwrap()))
            .try_collect()
            .await
            .unwrap();
        let ours = if run == 0 { Rewrapped::Stored } else { Rewrapped::Before };
        let expected = [
            ("a", ours),
            ("b", ours),
            ("new", Rewrapped::Before),
            ("other", Rewrapped::NoMessage),
            ("third", Rewrapped::OtherKey),
        ];
        assert_eq!(results, expected.map(|(name, result)| (name.to_owned(), result)).into());
    }
    assert_eq!(old.calls().decrypt, 4);
    for name in ["a", "b"] {
        assert_eq!(read(&faulty, NEW, name).await.unwrap().len(), 300);
        read(&faulty, OLD, name).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_failed_reseal_leaves_the_object() {
    let faulty = objects(&["a"]).await;
    let before = stored(&faulty.inner, "a");
    let old = store_with(&faulty, key(OLD));
    let denied = ScriptedProvider::new(key(NEW));
    denied.script([Fault::AccessDenied]);
    old.reseal(&"a".into(), |_| Envelope::builder(denied)).await.unwrap_err();
    *lock(&faulty.uploads.failing_part) = Some(0);
    old.reseal(&"a".into(), |_| Envelope::builder(key(NEW))).await.unwrap_err();
    let mut broken = before.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let broken = Bytes::from(broken);
    store(&faulty.inner, "a", &broken);
    *lock(&faulty.uploads.failing_part) = None;
    old.reseal(&"a".into(), |_| Envelope::builder(key(NEW))).await.unwrap_err();
    assert_eq!(stored(&faulty.inner, "a"), broken);
    assert_eq!(names(&faulty).await, ["a"]);
    assert!(faulty.inner.head(&"a".into()).now_or_never().unwrap().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Requests fail, and objects are replaced, at any time. A last run without failures completes the work.
    #[test]
    fn whatever_fails_or_changes_nothing_is_lost(events in vec(0_u8..20, 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = ["a", "b", "c"];
            let faulty = objects(&names).await;
            let mut versions = Vec::new();
            for seed in 10..16 {
                for name in names {
                    versions.push((name, sealed(settings_with(key(OLD)), name, &plaintext(200, seed)).await));
                }
            }
            let mut events = events.into_iter();
            faulty.set(move |get| match events.next() {
                Some(0..2) => Err(failure()),
                Some(2) => {
                    let answer = get.answer();
                    if let Some((name, version)) = versions.pop() {
                        store(get.inner, name, &version);
                    }
                    answer
                }
                _ => get.answer(),
            });
            let old = store_with(&faulty, key(OLD));
            for _ in 0..3 {
                // Their errors are those of the events.
                rewrap_all(&old, &new_key(), &RewrapOptions::default().concurrency(2)).await;
            }
            faulty.set(|get| get.answer());
            for result in rewrap_all(&old, &new_key(), &RewrapOptions::default()).await.into_values() {
                assert!(matches!(result, Ok(Rewrapped::Stored | Rewrapped::Before)), "{result:?}");
            }
            for result in rewrap_all(&old, &new_key(), &RewrapOptions::default()).await.into_values() {
                assert_eq!(result.unwrap(), Rewrapped::Before);
            }
            for name in names {
                let expected = read(&faulty, OLD, name).await.unwrap();
                assert_eq!(read(&faulty, NEW, name).await.unwrap(), expected);
            }
        });
    }
}
