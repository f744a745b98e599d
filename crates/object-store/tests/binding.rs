//! Objects that were moved, changed, or written with other settings, and names that programs do not see.

mod support;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::{AlgorithmSuite, Envelope, ErrorKind, Limits, message::Header};
use kms_envelope_object_store::SettingsError;
use object_store::local::LocalFileSystem;
use support::*;
use url::Url;

async fn get<T: ObjectStore>(store: &EncryptedStore<T>, location: &str) -> Result<Bytes> {
    store.get(&location.into()).await?.bytes().await
}

/// Reads the bytes 70 to 80 with each method that opens frames.
async fn errors<T: ObjectStore>(store: &EncryptedStore<T>, location: &str) -> Vec<object_store::Error> {
    let location = Path::from(location);
    let suffix = GetOptions { range: Some(GetRange::Suffix(5)), ..GetOptions::default() };
    vec![
        store.get(&location).await.unwrap_err(),
        store.get_range(&location, 70..80).await.unwrap_err(),
        store.get_ranges(&location, &[70..80, 0..3]).await.unwrap_err(),
        store.get_ranges(&location, std::slice::from_ref(&(70..80))).await.unwrap_err(),
        store.get_opts(&location, suffix).await.unwrap_err(),
    ]
}

#[track_caller]
fn are_tampered(errors: &[object_store::Error]) {
    for error in errors {
        assert!(matches!(cause(error), Error::Open { .. }), "{error}");
    }
}

fn context(sealed: &[u8]) -> Vec<(String, String)> {
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    header.context().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn objects_that_are_moved_or_exchanged_do_not_open() {
    let inner = Arc::new(InMemory::new());
    let store = EncryptedStore::new(inner.clone(), settings()).unwrap();
    let (one, two) = (plaintext(200, 1), plaintext(200, 2));
    store.put(&"dir/a".into(), one.clone().into()).await.unwrap();
    store.put(&"dir/b".into(), two.clone().into()).await.unwrap();
    assert_eq!(get(&store, "dir/a").await.unwrap(), one);

    inner.copy(&"dir/a".into(), &"dir/c".into()).await.unwrap();
    are_tampered(&errors(&store, "dir/c").await);
    let (a, b) = (stored(&inner, "dir/a"), stored(&inner, "dir/b"));
    support::store(&inner, "dir/a", &b);
    support::store(&inner, "dir/b", &a);
    are_tampered(&errors(&store, "dir/a").await);
    are_tampered(&errors(&store, "dir/b").await);
    // Back in their places, they open.
    support::store(&inner, "dir/a", &a);
    assert_eq!(get(&store, "dir/a").await.unwrap(), one);
    assert_eq!(context(&a), [("path".into(), "dir/a".into())]);
}

#[tokio::test]
async fn an_exchanged_object_does_not_open_from_a_cache_either() {
    for e_tags in [ETags::Strong, ETags::Constant, ETags::Weak, ETags::Missing] {
        let faulty = Faulty::new(e_tags);
        let store = EncryptedStore::new(faulty.clone(), settings()).unwrap();
        for (location, seed) in [("a", 1), ("b", 2)] {
            store.put(&location.into(), plaintext(200, seed).into()).await.unwrap();
            assert_eq!(get(&store, location).await.unwrap(), plaintext(200, seed));
        }
        support::store(&faulty.inner, "b", &stored(&faulty.inner, "a"));
        are_tampered(&errors(&store, "b").await);
    }
}

#[tokio::test]
async fn a_prefix_binds_to_its_first_segments() {
    let inner = Arc::new(InMemory::new());
    let settings = || settings().binding(Binding::Prefix { segments: 1 }).base("s3://bucket/");
    let store = EncryptedStore::new(inner.clone(), settings()).unwrap();
    let content = plaintext(200, 1);
    store.put(&"t/x/a".into(), content.clone().into()).await.unwrap();
    store.put(&"root".into(), content.clone().into()).await.unwrap();
    for (from, to, opens) in [
        ("t/x/a", "t/b", true),
        ("t/x/a", "t/y/z/b", true),
        ("t/x/a", "t2/x/a", false),
        ("t/x/a", "a", false),
        ("root", "other", true),
        ("root", "root/a", false),
    ] {
        inner.copy(&from.into(), &to.into()).await.unwrap();
        assert_eq!(get(&store, to).await.is_ok(), opens, "{from} as {to}");
        if !opens {
            are_tampered(&errors(&store, to).await);
        }
    }
    assert_eq!(context(&stored(&inner, "t/x/a")), [("path-prefix".into(), "s3://bucket/t".into())]);
    // Copies of the store itself are sealed again where they have to be.
    store.copy(&"t/x/a".into(), &"u/a".into()).await.unwrap();
    assert_eq!(get(&store, "u/a").await.unwrap(), content);
}

#[tokio::test]
async fn an_empty_prefix_needs_no_base() {
    let store = EncryptedStore::new(InMemory::new(), settings().binding(Binding::Prefix { segments: 2 })).unwrap();
    store.put(&"root".into(), "content".into()).await.unwrap();
    assert_eq!(get(&store, "root").await.unwrap(), "content");
}

#[tokio::test]
async fn without_a_binding_an_object_opens_under_any_path() {
    let inner = Arc::new(InMemory::new());
    let store = EncryptedStore::new(inner.clone(), settings().binding(Binding::None).base("base")).unwrap();
    store.put(&"t/a".into(), "content".into()).await.unwrap();
    inner.copy(&"t/a".into(), &"b".into()).await.unwrap();
    assert_eq!(get(&store, "b").await.unwrap(), "content");
    assert_eq!(context(&stored(&inner, "b")), []);
}

#[tokio::test]
async fn stores_with_another_binding_base_or_context_do_not_open_the_object() {
    let inner = Arc::new(InMemory::new());
    let store = |settings| EncryptedStore::new(inner.clone(), settings).unwrap();
    let own = || settings().base("s3://one").context([("tenant", "acme")].into());
    store(own()).put(&"t/a".into(), plaintext(200, 1).into()).await.unwrap();
    assert!(get(&store(own().base("s3://one/")), "t/a").await.is_ok());
    for other in [
        own().base("s3://two"),
        own().base(""),
        own().context([("tenant", "other")].into()),
        own().binding(Binding::Prefix { segments: 1 }),
    ] {
        are_tampered(&errors(&store(other), "t/a").await);
    }
    // Unbound, the path does not matter.
    assert!(get(&store(own().binding(Binding::None)), "t/a").await.is_ok());
}

#[tokio::test]
async fn a_store_for_a_url_binds_to_the_url() {
    let folder = tempfile::tempdir().unwrap();
    let url = Url::from_file_path(folder.path().canonicalize().unwrap()).unwrap();
    let object = Url::parse(&format!("{url}/a%20b")).unwrap();
    let (store, path) = EncryptedStore::parse_url_opts(&object, [("", ""); 0], settings()).unwrap();
    let content = plaintext(200, 1);
    store.put(&path, content.clone().into()).await.unwrap();

    let files = || LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let same = EncryptedStore::new(files(), settings().base(url.as_str())).unwrap();
    assert_eq!(get(&same, "a b").await.unwrap(), content);
    let other = EncryptedStore::new(files(), settings().base("file:///other")).unwrap();
    are_tampered(&errors(&other, "a b").await);

    // A base of the settings takes precedence.
    let (named, path) = EncryptedStore::parse_url_opts(&object, [("", ""); 0], settings().base("lake")).unwrap();
    assert!(matches!(cause(&named.get(&path).await.unwrap_err()), Error::Open { .. }));
    let error = EncryptedStore::parse_url_opts(&url, [("", ""); 0], settings().part_len(0)).unwrap_err();
    assert!(error.to_string().contains("at least one part"), "{error}");
    let unknown = Url::parse("ftp://host/a").unwrap();
    assert!(EncryptedStore::parse_url_opts(&unknown, [("", ""); 0], settings()).is_err());
}

#[tokio::test]
async fn paths_of_every_length_are_bound() {
    let inner = Arc::new(InMemory::new());
    let content = plaintext(100, 1);
    for header_len in [300, 400] {
        // The lengths grow in one store, and fall in the other.
        for lens in [(1..250).collect::<Vec<usize>>(), (1..250).rev().collect()] {
            let store = EncryptedStore::new(inner.clone(), settings().header_len(header_len)).unwrap();
            let mut hashed = 0;
            for len in lens {
                let location = "p".repeat(len);
                store.put(&location[..].into(), content.clone().into()).await.unwrap();
                assert_eq!(get(&store, &location).await.unwrap(), content, "{len}");
                let sealed = stored(&inner, &location);
                let [(name, value)] = context(&sealed).try_into().unwrap();
                assert!(name == "path" && value == location || name == "path-sha256" && value.len() == 64, "{name}");
                hashed += usize::from(name == "path-sha256");
                if len == 249 || len == 2 {
                    support::store(&inner, "moved", &sealed);
                    are_tampered(&errors(&store, "moved").await);
                }
            }
            assert!((10..240).contains(&hashed), "{hashed} of 249 paths are hashed");
        }
    }
}

#[tokio::test]
async fn a_name_without_a_prefix_is_hashed_if_the_base_is_long() {
    let settings = settings().base("b".repeat(400)).binding(Binding::Prefix { segments: 1 });
    let store = EncryptedStore::new(InMemory::new(), settings).unwrap();
    for location in ["folder/a", "a"] {
        store.put(&location.into(), "content".into()).await.unwrap();
        assert_eq!(get(&store, location).await.unwrap(), "content");
    }
}

#[tokio::test]
async fn a_copy_to_the_same_name_has_another_data_key() {
    for binding in [Binding::Path, Binding::None] {
        for len in [100, 2000] {
            let store = EncryptedStore::new(InMemory::new(), settings().binding(binding)).unwrap();
            let (a, content) = (Path::from("a"), plaintext(len, 1));
            store.put(&a, content.clone().into()).await.unwrap();
            let before = stored(store.inner(), "a");
            store.copy(&a, &a).await.unwrap();
            assert_ne!(stored(store.inner(), "a").slice(..HEADER_LEN), before.slice(..HEADER_LEN));
            assert_eq!(get(&store, "a").await.unwrap(), content);
            assert!(matches!(
                store.copy_if_not_exists(&a, &a).await.unwrap_err(),
                object_store::Error::AlreadyExists { .. }
            ));
        }
    }
}

#[tokio::test]
async fn a_header_that_is_too_short_for_any_path_is_an_error() {
    let store = EncryptedStore::new(InMemory::new(), settings().header_len(150)).unwrap();
    for location in ["a", &"p".repeat(300)] {
        let error = store.put(&location.into(), "content".into()).await.unwrap_err();
        assert!(matches!(cause(&error), Error::HeaderTooShort { header_len: 150, .. }), "{error}");
        assert!(store.put_multipart(&location.into()).await.is_err());
    }
}

/// The sealed form of 25 bytes in three frames, and how a store reads it.
const SMALL: usize = 25;

fn small_settings() -> StoreSettings {
    settings().header_len(300).frame_len(10)
}

/// Reads a small object that was changed. Returns whether a full read succeeds, and each range.
async fn read_changed(
    content: &Bytes,
    sealed: &Bytes,
    changed: &Bytes,
    is_warm: bool,
) -> (bool, Vec<(Range<u64>, bool)>) {
    let faulty = Faulty::new(ETags::Constant);
    support::store(&faulty.inner, "a", sealed);
    let store = EncryptedStore::new(faulty.clone(), small_settings()).unwrap();
    if is_warm {
        get(&store, "a").await.unwrap();
    }
    support::store(&faulty.inner, "a", changed);
    let full = get(&store, "a").await;
    assert!(full.as_ref().map_or(true, |full| full == content), "wrong bytes");
    let mut ranges = Vec::new();
    for range in [0..3, 5..15, 10..20, 12..13, 21..25, 15..99] {
        let expected = content.slice(range.start as usize..SMALL.min(range.end as usize));
        let one = store.get_range(&"a".into(), range.clone()).await;
        let several = store.get_ranges(&"a".into(), std::slice::from_ref(&range)).await;
        assert!(one.as_ref().map_or(true, |one| *one == expected), "wrong bytes");
        assert!(several.as_ref().map_or(true, |several| *several == [expected]), "wrong bytes");
        ranges.push((range, one.is_ok() || several.is_ok()));
    }
    (full.is_ok(), ranges)
}

#[tokio::test]
async fn each_byte_that_changes_is_noticed_by_the_reads_that_touch_it() {
    let content = plaintext(SMALL, 1);
    let sealed = sealed(small_settings(), "a", &content).await;
    let body = |at: usize| at.checked_sub(300).map(|at| (at / 42).min(2));
    for at in 0..sealed.len() {
        for is_warm in [false, true] {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1 << (at % 8);
            let (full, ranges) = read_changed(&content, &sealed, &changed.into(), is_warm).await;
            // A header that is known is not read again.
            let is_needed = body(at).is_some() || !is_warm;
            assert!(!is_needed || !full, "byte {at}, warm: {is_warm}");
            for (range, is_ok) in ranges {
                let frames = (range.start / 10) as usize..=((range.end.min(25) - 1) / 10) as usize;
                let is_touched = body(at).map_or(!is_warm, |frame| frames.contains(&frame));
                assert_eq!(is_ok, !is_touched, "byte {at}, {range:?}, warm: {is_warm}");
            }
        }
    }
}

#[tokio::test]
async fn an_object_that_is_truncated_or_longer_is_an_error() {
    let content = plaintext(SMALL, 2);
    let sealed = sealed(small_settings(), "a", &content).await;
    for is_warm in [false, true] {
        for len in 0..sealed.len() {
            let (full, ranges) = read_changed(&content, &sealed, &sealed.slice(..len), is_warm).await;
            assert!(!full, "{len}");
            for (range, is_ok) in ranges {
                // A frame that is there is authentic. Its position is, too.
                let end = 300 + 42 * (range.end.div_ceil(10) as usize);
                assert!(!is_ok || len >= end && range.end <= 20, "{len}, {range:?}");
            }
        }
        for more in [1, 8, 42, 50, 1000] {
            let longer: Bytes = [&sealed[..], &vec![1; more]].concat().into();
            assert!(!read_changed(&content, &sealed, &longer, is_warm).await.0, "{more}");
        }
    }
}

#[tokio::test]
async fn an_object_with_another_layout_is_named() {
    let inner = Arc::new(InMemory::new());
    let store = |header_len, frame_len| {
        let settings = settings().header_len(header_len).frame_len(frame_len);
        EncryptedStore::new(inner.clone(), settings).unwrap()
    };
    let writer = store(400, 100);
    writer.put(&"a".into(), plaintext(5000, 1).into()).await.unwrap();
    for (reader, text) in [
        (store(512, 100), "has a header of 400 bytes, and those of this store have 512"),
        (store(300, 100), "has a header of more bytes, and those of this store have 300"),
        (store(400, 64), "has frames of 100 bytes, and those of this store have frames of 64 bytes"),
        (store(400, 1000), "has frames of 100 bytes, and those of this store have frames of 1000 bytes"),
    ] {
        for error in errors(&reader, "a").await {
            assert!(cause(&error).to_string().contains(text), "{error}");
            assert_eq!(cause(&error).kind(), ErrorKind::Refused);
        }
        assert!(reader.head(&"a".into()).await.is_ok());
        assert_eq!(reader.list(None).count().await, 1);
    }
}

#[test]
fn settings_that_are_not_valid_are_refused() {
    let refused = |settings| EncryptedStore::new(InMemory::new(), settings).unwrap_err();
    for suite in AlgorithmSuite::all() {
        let policy = match suite.is_committing() {
            true => kms_envelope::CommitmentPolicy::RequireEncryptRequireDecrypt,
            false => kms_envelope::CommitmentPolicy::ForbidEncryptAllowDecrypt,
        };
        let settings = StoreSettings::new(Envelope::builder(key(7)).commitment_policy(policy).suite(suite));
        let built = EncryptedStore::new(InMemory::new(), settings);
        let is_refused = matches!(&built, Err(SettingsError::SignedSuite(refused)) if *refused == suite);
        assert_eq!(is_refused, suite.signature().is_some(), "{suite}");
        assert!(is_refused || built.is_ok());
    }
    for (settings, text) in [
        (settings().frame_len(0), "frame length is 0"),
        (settings().part_len(0), "at least one part"),
        (settings().part_len(usize::MAX), "at most 5 GiB"),
        (settings().parts_in_flight(0), "at least one part"),
        (settings().detached_keys(""), "suffix of detached keys"),
        (settings().detached_keys("/keys"), "suffix of detached keys"),
        (settings().context([("path", "x")].into()), "pair `path`"),
        (settings().context([("path-sha256", "x")].into()), "pair `path-sha256`"),
        (settings().binding(Binding::Prefix { segments: 1 }).context([("path-prefix", "x")].into()), "pair"),
    ] {
        let error = refused(settings);
        assert!(matches!(&error, SettingsError::Invalid(_)) && error.to_string().contains(text), "{error}");
    }
    let envelope = StoreSettings::new(Envelope::builder(key(7)).limits(Limits::new().with_frame_len(10)));
    assert!(matches!(refused(envelope), SettingsError::Envelope(_)));
    // Pairs that the binding does not set are allowed.
    let settings = settings().binding(Binding::None).context([("path", "x")].into());
    assert!(EncryptedStore::new(InMemory::new(), settings).is_ok());
}

#[tokio::test]
async fn reserved_names_are_refused_and_not_listed() {
    let staging = "dir/.kms-envelope-staging-1";
    let inner = Arc::new(InMemory::new());
    let store = EncryptedStore::new(inner.clone(), settings().detached_keys(".keys")).unwrap();
    store.put(&"dir/a".into(), "content".into()).await.unwrap();
    for name in [staging, "dir/a.keys"] {
        let (name, a) = (Path::from(name), Path::from("dir/a"));
        for result in [
            store.put(&name, "x".into()).await.map(drop),
            store.put_multipart(&name).await.map(drop),
            store.copy(&a, &name).await,
            store.copy(&name, &a).await,
            store.rename(&a, &name).await,
            store.rename_if_not_exists(&name, &a).await,
        ] {
            assert!(matches!(cause(&result.unwrap_err()), Error::ReservedName { .. }));
        }
        support::store(&inner, name.as_ref(), &Bytes::from_static(b"hidden"));
        for result in [
            store.get(&name).await.map(drop),
            store.head(&name).await.map(drop),
            store.get_range(&name, 0..1).await.map(drop),
            store.get_ranges(&name, &[0..1, 2..3]).await.map(drop),
            store.delete(&name).await,
        ] {
            assert!(matches!(cause(&result.unwrap_err()), Error::ReservedName { .. }));
        }
        let both = stream::iter([Ok("dir/b".into()), Ok(name.clone())]).boxed();
        support::store(&inner, "dir/b", &Bytes::from_static(b"shown"));
        let deleted: Vec<_> = store.delete_stream(both).collect().await;
        assert!(deleted.len() == 2 && deleted[0].is_ok() && deleted[1].is_err(), "{deleted:?}");
        assert_eq!(stored(&inner, name.as_ref()), "hidden");
    }
    let names = |listed: Vec<ObjectMeta>| listed.into_iter().map(|meta| meta.location.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.list(None).try_collect().await.unwrap()), ["dir/a"]);
    assert_eq!(names(store.list_with_offset(None, &"dir".into()).try_collect().await.unwrap()), ["dir/a"]);
    assert_eq!(names(store.list_with_delimiter(Some(&"dir".into())).await.unwrap().objects), ["dir/a"]);
    // Without the setting, the name is one like any other.
    let plain = EncryptedStore::new(inner.clone(), settings()).unwrap();
    plain.put(&"dir/a.keys".into(), "x".into()).await.unwrap();
    assert_eq!(plain.list(None).count().await, 2);
}

#[tokio::test]
async fn copies_that_are_longer_than_a_part_appear_when_they_are_complete() {
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings().part_len(100)).unwrap();
    let content = plaintext(1000, 3);
    store.put(&"a".into(), content.clone().into()).await.unwrap();
    store.copy_if_not_exists(&"a".into(), &"b".into()).await.unwrap();
    assert_eq!(get(&store, "b").await.unwrap(), content);
    let again = store.copy_if_not_exists(&"a".into(), &"b".into()).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })));
    // The source cannot be read to its end, or a part fails.
    let (sealed, count) = (stored(&faulty.inner, "a"), async || faulty.inner.list(None).count().await);
    support::store(&faulty.inner, "a", &sealed.slice(..sealed.len() - 1));
    for creates in [false, true] {
        let mode = if creates { CopyMode::Create } else { CopyMode::Overwrite };
        let options = CopyOptions { mode, ..CopyOptions::default() };
        assert!(store.copy_opts(&"a".into(), &"c".into(), options).await.is_err());
        assert_eq!(count().await, 2);
    }
    support::store(&faulty.inner, "a", &sealed);
    *lock(&faulty.uploads.failing_part) = Some(lock(&faulty.uploads.part_lens).len() + 3);
    assert!(store.rename_if_not_exists(&"a".into(), &"c".into()).await.is_err());
    *lock(&faulty.uploads.failing_part) = None;
    faulty.uploads.complete_fails.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(store.rename(&"a".into(), &"c".into()).await.is_err());
    assert_eq!(count().await, 2);
    assert_eq!(get(&store, "a").await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_concurrent_commits_one_wins() {
    for (binding, part_len) in [(Binding::Path, 100), (Binding::Path, 5000), (Binding::None, 100)] {
        let settings = settings().binding(binding).part_len(part_len);
        let store = EncryptedStore::new(Arc::new(InMemory::new()), settings).unwrap();
        let contents: Vec<_> = (0..8).map(|seed| plaintext(1000, seed)).collect();
        for (index, content) in contents.iter().enumerate() {
            store.put(&format!("tmp/{index}").into(), content.clone().into()).await.unwrap();
        }
        let commits: Vec<_> = stream::iter(0..8)
            .map(|index| {
                let store = store.clone();
                tokio::spawn(async move {
                    let from = Path::from(format!("tmp/{index}"));
                    store.rename_if_not_exists(&from, &"log/1.json".into()).await.is_ok()
                })
            })
            .buffer_unordered(8)
            .map(|done| done.unwrap())
            .collect()
            .await;
        assert_eq!(commits.iter().filter(|won| **won).count(), 1);
        let committed = get(&store, "log/1.json").await.unwrap();
        let left = store.list(Some(&"tmp".into())).count().await;
        assert!(contents.contains(&committed) && left == 7);
    }
}
