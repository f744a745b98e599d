//! Objects that the store did not write, with and without a look at each header.

#![allow(clippy::single_range_in_vec_init, reason = "one range of several that are possible")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kms_envelope::{Envelope, RawAes, provider::SecretKey};
use support::*;

/// Messages that AWS's Encryption SDK for Python wrote. It ends a plaintext that fills its last frame with an empty one.
macro_rules! message {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!("../../../tests/fixtures/", $name)))
    };
}

fn fixture_settings() -> StoreSettings {
    let key = SecretKey::try_from((0..32).collect::<Vec<u8>>()).unwrap();
    let envelope = Envelope::builder(RawAes::new("fixtures", "aes-256", key).unwrap());
    StoreSettings::new(envelope).binding(Binding::None).header_len(HEADER_LEN).frame_len(FRAME_LEN)
}

fn fixture_plaintext(len: usize) -> Bytes {
    (0..len).map(|index| (7 * index % 256) as u8).collect()
}

async fn get<T: ObjectStore>(store: &EncryptedStore<T>, location: &str) -> Result<Bytes> {
    store.get(&location.into()).await?.bytes().await
}

#[tokio::test]
async fn messages_of_another_writer_are_read_if_sizes_are_looked_up() {
    for (message, len) in [
        (message!("0478/aes-256-frame-128-len-0.msg"), 0),
        (message!("0478/aes-256-frame-128-len-384.msg"), 384),
        (message!("0478/aes-256-frame-128-len-5000.msg"), 5000),
    ] {
        let inner = Arc::new(InMemory::new());
        store(&inner, "a", &message);
        let content = fixture_plaintext(len);
        let looking = EncryptedStore::new(inner.clone(), fixture_settings().look_up_sizes()).unwrap();
        let listed: Vec<_> = looking.list(None).try_collect().await.unwrap();
        assert_eq!((listed.len(), listed[0].size), (1, len as u64));
        assert_eq!(looking.head(&"a".into()).await.unwrap().size, len as u64);
        for _ in 0..2 {
            assert_eq!(get(&looking, "a").await.unwrap(), content);
            for range in [0..1, 100..200, 120..130, 383..384, 256..384, 300..100_000, 0..100_000] {
                let expected = content.get(range.start..range.end.min(len)).map(Bytes::copy_from_slice);
                let range = range.start as u64..range.end as u64;
                let one = looking.get_range(&"a".into(), range.clone()).await.ok();
                let several = looking.get_ranges(&"a".into(), &[range]).await.ok().map(|mut several| several.remove(0));
                assert_eq!(one, expected.clone().filter(|_| len > 0));
                assert_eq!(several, expected.filter(|_| len > 0));
            }
        }
        let fixed = EncryptedStore::new(inner, fixture_settings()).unwrap();
        let error = get(&fixed, "a").await.unwrap_err();
        assert!(matches!(cause(&error), Error::HeaderLen { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_message_that_is_cut_between_two_frames_is_an_error_for_reads_to_its_end() {
    let message = message!("0478/aes-256-frame-128-len-384.msg");
    let inner = Arc::new(InMemory::new());
    let content = fixture_plaintext(384);
    // The header, two of three frames, and as many bytes as an empty final frame has.
    let cut = message.len() - 40 - 160 + 40;
    store(&inner, "a", &message.slice(..cut));
    let looking = EncryptedStore::new(inner, fixture_settings().look_up_sizes()).unwrap();
    let location = Path::from("a");
    assert_eq!(looking.head(&location).await.unwrap().size, 256, "sizes are not authenticated");
    assert_eq!(looking.get_range(&location, 100..200).await.unwrap(), content.slice(100..200));
    assert!(get(&looking, "a").await.is_err());
    assert!(looking.get_range(&location, 100..384).await.is_err());
    assert!(looking.get_ranges(&location, &[100..384]).await.is_err());
    assert!(looking.get_ranges(&location, &[0..10, 200..300, 5..50]).await.is_err());
    for range in [GetRange::Offset(200), GetRange::Suffix(10)] {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let read = async { looking.get_opts(&location, options).await?.bytes().await };
        assert!(read.await.is_err());
    }
}

#[tokio::test]
async fn files_that_are_not_messages_are_listed_with_their_own_length() {
    let faulty = Faulty::default();
    for (location, bytes) in [
        ("_SUCCESS", Bytes::new()),
        ("short", Bytes::from_static(b"x")),
        ("text", Bytes::from(vec![b'x'; 5000])),
        ("cut", message!("0478/aes-256-frame-128-len-384.msg").slice(..100)),
        ("zeros", Bytes::from(vec![0; 100])),
    ] {
        store(&faulty.inner, location, &bytes);
    }
    let sizes = async |settings| {
        let store = EncryptedStore::new(faulty.clone(), settings).unwrap();
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        for meta in &listed {
            assert_eq!(store.head(&meta.location).await.unwrap().size, meta.size);
            assert!(get(&store, meta.location.as_ref()).await.is_err(), "{}", meta.location);
            assert!(store.get_range(&meta.location, 0..1).await.is_err());
            assert!(store.get_ranges(&meta.location, &[0..1]).await.is_err());
        }
        listed.into_iter().map(|meta| meta.size).collect::<Vec<_>>()
    };
    assert_eq!(sizes(fixture_settings().look_up_sizes()).await, [0, 100, 1, 5000, 100]);
    let computed = sizes(fixture_settings()).await;
    assert_eq!([computed[0], computed[1], computed[2], computed[4]], [0, 100, 1, 100]);
}

#[tokio::test]
async fn a_list_that_looks_up_sizes_omits_objects_that_vanish_and_fails_with_its_requests() {
    let faulty = Faulty::default();
    let looking = EncryptedStore::new(faulty.clone(), settings().look_up_sizes()).unwrap();
    for location in ["a", "b"] {
        looking.put(&location.into(), "content".into()).await.unwrap();
    }
    let list = async || looking.list(None).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>().await;
    faulty.set(|mut get| {
        if get.location.as_ref() == "a" {
            get.location = "gone".into();
        }
        get.answer()
    });
    assert_eq!(list().await.unwrap(), ["b"]);
    faulty.set(|get| if get.number == 0 { Err(failure()) } else { get.answer() });
    assert!(list().await.is_err());
    faulty.set(|get| get.answer_in(|body| vec![Ok(body.slice(..body.len() / 2))]));
    assert!(list().await.is_err(), "a short answer is not an object of another kind");
}

#[tokio::test]
async fn messages_that_ranges_cannot_be_read_from_are_refused() {
    let inner = Arc::new(InMemory::new());
    store(&inner, "signed", &message!("0578/framed-len-384.msg"));
    store(&inner, "non-framed", &message!("0578/non-framed-len-129.msg"));
    for settings in [fixture_settings(), fixture_settings().look_up_sizes()] {
        let store = EncryptedStore::new(inner.clone(), settings).unwrap();
        for location in ["signed", "non-framed"] {
            assert!(get(&store, location).await.is_err());
            assert!(store.get_range(&location.into(), 0..1).await.is_err());
        }
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
    }
}
