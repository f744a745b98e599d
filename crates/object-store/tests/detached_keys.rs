//! Detached keys beside objects.

mod support;

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kms_envelope::{
    Envelope, Limits, OpenError, ProviderError,
    message::Header,
    provider::ProviderErrorKind,
    testing::{Fault, ScriptedProvider},
};
use support::*;

/// An object that the old key opens, with detached keys for the new one.
struct Scene {
    faulty: Faulty,
    content: Bytes,
    keys: Bytes,
}

fn settings_with(byte: u8) -> StoreSettings {
    StoreSettings::new(Envelope::builder(key(byte))).header_len(HEADER_LEN).frame_len(FRAME_LEN).part_len(200)
}

const OLD: u8 = 7;
const NEW: u8 = 8;

impl Scene {
    async fn new(binding: Binding) -> Self {
        let scene = Self { faulty: Faulty::default(), content: plaintext(1000, 1), keys: Bytes::new() };
        scene.old(binding).put(&"a".into(), scene.content.clone().into()).await.unwrap();
        let keys = rewrapped(&stored(&scene.faulty.inner, "a")).await;
        store(&scene.faulty.inner, "a.keys", &keys);
        Self { keys, ..scene }
    }

    fn with(&self, settings: StoreSettings) -> EncryptedStore<Faulty> {
        EncryptedStore::new(self.faulty.clone(), settings).unwrap()
    }

    fn old(&self, binding: Binding) -> EncryptedStore<Faulty> {
        self.with(settings_with(OLD).binding(binding).detached_keys(".keys"))
    }

    fn new_key(&self, binding: Binding) -> EncryptedStore<Faulty> {
        self.with(settings_with(NEW).binding(binding).detached_keys(".keys"))
    }

    async fn names(&self) -> Vec<String> {
        let listed: Vec<_> = self.faulty.inner.list(None).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
    }
}

/// Encrypts the data key of an object under the new key.
async fn rewrapped(sealed: &[u8]) -> Bytes {
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    let envelope = Envelope::builder(key(OLD)).build().unwrap();
    envelope.rewrap(&header, header.context(), &key(NEW)).await.unwrap().to_bytes().into()
}

async fn get(store: &EncryptedStore<Faulty>, location: &str) -> Result<Bytes> {
    store.get(&location.into()).await?.bytes().await
}

#[tokio::test]
async fn a_store_with_only_the_new_key_reads_with_detached_keys() {
    let scene = Scene::new(Binding::Path).await;
    let range = GetOptions { range: Some(GetRange::Suffix(5)), ..GetOptions::default() };
    let store = scene.new_key(Binding::Path);
    assert_eq!(get(&store, "a").await.unwrap(), scene.content);
    for _ in 0..2 {
        assert_eq!(store.get_range(&"a".into(), 500..510).await.unwrap(), scene.content.slice(500..510));
        assert_eq!(store.get_ranges(&"a".into(), &[0..3, 999..1000]).await.unwrap()[1], scene.content.slice(999..));
        let suffix = store.get_opts(&"a".into(), range.clone()).await.unwrap().bytes().await.unwrap();
        assert_eq!(suffix, scene.content.slice(995..));
        store.clear_cache().await;
    }
    assert!(get(&scene.with(settings_with(NEW)), "a").await.is_err(), "the setting is needed");
}

#[tokio::test]
async fn detached_keys_are_requested_only_if_the_header_has_no_key_that_can_be_decrypted() {
    let scene = Scene::new(Binding::Path).await;
    let keys = |gets: Vec<(Path, GetOptions)>| gets.iter().filter(|(path, _)| path.as_ref() == "a.keys").count();
    get(&scene.old(Binding::Path), "a").await.unwrap();
    assert_eq!(keys(scene.faulty.take_gets()), 0);
    let store = scene.new_key(Binding::Path);
    for requests in [1, 0] {
        store.get_range(&"a".into(), 500..510).await.unwrap();
        assert_eq!(keys(scene.faulty.take_gets()), requests);
    }

    // The key provider may decrypt them later.
    let provider = ScriptedProvider::new(key(OLD));
    provider.script([Fault::Throttled]);
    let settings = StoreSettings::new(Envelope::builder(provider)).header_len(HEADER_LEN).frame_len(FRAME_LEN);
    let store = scene.with(settings.detached_keys(".keys"));
    assert!(cause(&get(&store, "a").await.unwrap_err()).is_retryable());
    assert_eq!(keys(scene.faulty.take_gets()), 0);
    get(&store, "a").await.unwrap();
}

#[tokio::test]
async fn keys_for_others_do_not_hide_why_the_key_in_the_header_is_refused() {
    let scene = Scene::new(Binding::Path).await;
    let provider = ScriptedProvider::new(key(OLD));
    provider.script([Fault::AccessDenied]);
    let settings = StoreSettings::new(Envelope::builder(provider)).header_len(HEADER_LEN).frame_len(FRAME_LEN);
    let error = get(&scene.with(settings.detached_keys(".keys")), "a").await.unwrap_err();
    let Error::Open { source, .. } = cause(&error) else { panic!("{error}") };
    let is_denied = |error: &ProviderError| error.kind() == ProviderErrorKind::AccessDenied;
    assert!(matches!(&**source, OpenError::Provider(error) if is_denied(error)), "{source}");
}

#[tokio::test]
async fn keys_that_are_missing_or_of_another_message_are_ignored() {
    let scene = Scene::new(Binding::Path).await;
    let other = sealed(settings_with(OLD), "a", &scene.content).await;
    for keys in [Some(rewrapped(&other).await), None] {
        match keys {
            Some(keys) => store(&scene.faulty.inner, "a.keys", &keys),
            None => scene.faulty.inner.delete(&"a.keys".into()).await.unwrap(),
        }
        let error = get(&scene.new_key(Binding::Path), "a").await.unwrap_err();
        assert!(matches!(cause(&error), Error::Open { .. }), "{error}");
        get(&scene.old(Binding::Path), "a").await.unwrap();
    }
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_an_error() {
    let scene = Scene::new(Binding::Path).await;
    let long = [&scene.keys[..], &vec![0; 2 << 20]].concat();
    for keys in [&scene.keys[..20], b"", b"not keys", &long] {
        store(&scene.faulty.inner, "a.keys", &Bytes::copy_from_slice(keys));
        let error = get(&scene.new_key(Binding::Path), "a").await.unwrap_err();
        assert!(matches!(cause(&error), Error::DetachedKeys { .. }), "{error}");
    }
    scene.faulty.set(|get| if get.location.as_ref() == "a.keys" { Err(failure()) } else { get.answer() });
    let error = get(&scene.new_key(Binding::Path), "a").await.unwrap_err();
    assert!(matches!(cause(&error), Error::DetachedKeys { .. }), "{error}");
}

#[tokio::test]
async fn each_byte_of_the_keys_that_changes_is_an_error() {
    let scene = Scene::new(Binding::Path).await;
    for at in 0..scene.keys.len() {
        let mut changed = scene.keys.to_vec();
        changed[at] ^= 1 << (at % 8);
        store(&scene.faulty.inner, "a.keys", &changed.into());
        assert!(get(&scene.new_key(Binding::Path), "a").await.is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn keys_are_deleted_with_their_object_and_ignored_if_it_is_replaced() {
    for change in 0..3 {
        let scene = Scene::new(Binding::Path).await;
        let store = scene.old(Binding::Path);
        let a = Path::from("a");
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        assert!(store.put_opts(&a, "x".into(), create).await.is_err());
        let mut upload = store.put_multipart(&a).await.unwrap();
        upload.put_part("new".into()).await.unwrap();
        assert_eq!(scene.names().await, ["a", "a.keys"], "nothing was written");
        match change {
            0 => drop(store.put(&a, "new".into()).await.unwrap()),
            1 => drop(upload.complete().await.unwrap()),
            _ => store.delete(&a).await.unwrap(),
        }
        assert_eq!(scene.names().await, if change == 2 { vec![] } else { vec!["a", "a.keys"] });
        if change < 2 {
            assert_eq!(get(&store, "a").await.unwrap(), "new");
            assert!(get(&scene.new_key(Binding::Path), "a").await.is_err());
        }
    }
}

#[tokio::test]
async fn keys_follow_an_object_that_is_copied_or_renamed_as_it_is() {
    for renames in [false, true] {
        let scene = Scene::new(Binding::None).await;
        let store = scene.new_key(Binding::None);
        let (a, b) = (Path::from("a"), Path::from("b"));
        if renames {
            store.rename(&a, &b).await.unwrap();
            assert_eq!(scene.names().await, ["b", "b.keys"]);
        } else {
            store.copy(&a, &b).await.unwrap();
            assert_eq!(scene.names().await, ["a", "a.keys", "b", "b.keys"]);
        }
        assert_eq!(get(&store, "b").await.unwrap(), scene.content);
        // The keys that the destination had are ignored.
        scene.old(Binding::None).put(&"c".into(), "c".into()).await.unwrap();
        let refused = store.copy_if_not_exists(&"c".into(), &b).await;
        assert!(refused.is_err() && scene.names().await.contains(&"b.keys".to_owned()));
        store.copy(&"c".into(), &b).await.unwrap();
        assert_eq!(get(&scene.old(Binding::None), "b").await.unwrap(), "c");
        assert!(get(&store, "b").await.is_err());
    }
}

#[tokio::test]
async fn an_object_that_is_sealed_for_another_path_needs_no_detached_keys() {
    let scene = Scene::new(Binding::Path).await;
    let store = scene.new_key(Binding::Path);
    support::store(&scene.faulty.inner, "b", &Bytes::from_static(b"older"));
    support::store(&scene.faulty.inner, "b.keys", &scene.keys);
    store.copy(&"a".into(), &"b".into()).await.unwrap();
    assert_eq!(scene.names().await, ["a", "a.keys", "b", "b.keys"]);
    store.rename_if_not_exists(&"a".into(), &"c".into()).await.unwrap();
    assert_eq!(scene.names().await, ["b", "b.keys", "c"]);
    for location in ["b", "c"] {
        assert_eq!(get(&scene.with(settings_with(NEW)), location).await.unwrap(), scene.content);
    }
    assert!(scene.faulty.puts.load(SeqCst) > 0);
}

#[tokio::test]
async fn an_object_whose_keys_cannot_be_copied_is_not_renamed() {
    let scene = Scene::new(Binding::None).await;
    let store = scene.new_key(Binding::None);
    scene.faulty.set(|get| if get.location.as_ref() == "a.keys" { Err(failure()) } else { get.answer() });
    let (a, b) = (Path::from("a"), Path::from("b"));
    assert!(store.rename(&a, &b).await.is_err());
    assert!(store.copy_if_not_exists(&a, &b).await.is_err());
    assert_eq!(scene.names().await, ["a", "a.keys"]);
    scene.faulty.set(|get| get.answer());
    store.rename(&a, &b).await.unwrap();
    assert_eq!(get(&store, "b").await.unwrap(), scene.content);
    assert_eq!(scene.names().await, ["b", "b.keys"]);
}
