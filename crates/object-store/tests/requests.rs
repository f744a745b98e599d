//! The number of requests to the inner store and to the key provider.

#![allow(clippy::single_range_in_vec_init, reason = "one range of several that are possible")]

mod support;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{TryStreamExt, future::try_join_all};
use kms_envelope::{
    DataKeyCache, Envelope, EnvelopeBuilder, KeyProvider, ProviderError,
    message::EncryptedDataKey,
    provider::{DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, StaticBranchKey},
    testing::ScriptedProvider,
};
use support::*;

/// A key provider, a store with it, and an object of 16 frames.
struct Scene {
    keys: ScriptedProvider,
    faulty: Faulty,
    store: EncryptedStore<Faulty>,
    content: Bytes,
}

fn settings_of(keys: &ScriptedProvider) -> StoreSettings {
    StoreSettings::new(Envelope::builder(keys.clone())).header_len(HEADER_LEN).frame_len(FRAME_LEN)
}

async fn scene(e_tags: ETags, change: impl FnOnce(StoreSettings) -> StoreSettings) -> Scene {
    let (keys, faulty) = (ScriptedProvider::new(key(7)), Faulty::new(e_tags));
    let store = EncryptedStore::new(faulty.clone(), change(settings_of(&keys))).unwrap();
    let content = plaintext(1000, 1);
    store.put(&"a".into(), content.clone().into()).await.unwrap();
    assert_eq!((faulty.puts.load(SeqCst), faulty.take_gets().len(), keys.calls().generate), (1, 0, 1));
    Scene { keys, faulty, store, content }
}

impl Scene {
    /// Reads, and returns the number of requests, of calls to decrypt, and of bytes.
    async fn costs(&self, range: GetRange) -> (usize, u64, u64) {
        let (before, keys) = (self.store.stats(), self.keys.calls().decrypt);
        let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
        let read = self.store.get_opts(&"a".into(), options).await.unwrap().bytes().await.unwrap();
        let range = range.as_range(1000).unwrap();
        assert_eq!(read, self.content.slice(range.start as usize..range.end as usize));
        let after = self.store.stats();
        let requests = self.faulty.take_gets().len();
        assert_eq!(requests as u64, after.read_requests - before.read_requests);
        (requests, self.keys.calls().decrypt - keys, after.bytes_read - before.bytes_read)
    }
}

/// The length of this number of frames in a request, which includes 8 bytes in case the last one is the final frame.
const fn frames(count: u64) -> u64 {
    count * STRIDE as u64 + 8
}

const HEADER: u64 = HEADER_LEN as u64;

#[tokio::test]
async fn a_cold_range_is_two_requests_and_a_warm_one_is_one() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    assert_eq!(scene.costs(GetRange::Bounded(500..510)).await, (2, 1, HEADER + frames(1)));
    for (range, bytes) in [
        (GetRange::Bounded(500..510), frames(1)),
        (GetRange::Bounded(60..70), HEADER + frames(2)),
        (GetRange::Bounded(127..129), frames(2)),
        (GetRange::Suffix(1), frames(1) - 24),
        (GetRange::Offset(900), frames(2) - 24),
    ] {
        assert_eq!(scene.costs(range.clone()).await, (1, 0, bytes), "{range:?}");
    }
    assert_eq!(scene.store.stats().cache_hits, 5);
    assert_eq!(scene.store.stats().repeated_reads, 0);
}

#[tokio::test]
async fn a_cold_range_in_the_first_frame_is_one_request() {
    for range in [GetRange::Bounded(0..10), GetRange::Bounded(63..64), GetRange::Bounded(10..300), GetRange::Offset(5)]
    {
        let scene = scene(ETags::Strong, |settings| settings).await;
        let (requests, keys, _) = scene.costs(range).await;
        assert_eq!((requests, keys), (1, 1));
    }
}

#[tokio::test]
async fn a_cold_suffix_is_two_requests_for_at_most_two_frames_more() {
    for len in [1, 40, 41, 64, 200] {
        let scene = scene(ETags::Strong, |settings| settings).await;
        let (requests, keys, bytes) = scene.costs(GetRange::Suffix(len)).await;
        assert_eq!((requests, keys), (2, 1));
        assert!(bytes <= HEADER + frames(len.div_ceil(64) + 1), "{bytes}");
    }
}

#[tokio::test]
async fn without_a_strong_e_tag_each_range_needs_the_header_but_no_key() {
    for e_tags in [ETags::Weak, ETags::Missing] {
        let scene = scene(e_tags, |settings| settings).await;
        let cost = HEADER + frames(1);
        assert_eq!(scene.costs(GetRange::Bounded(500..510)).await, (2, 1, cost));
        assert_eq!(scene.costs(GetRange::Bounded(500..510)).await, (2, 0, cost));
        assert_eq!(scene.store.stats().cache_hits, 0);
    }
}

#[tokio::test]
async fn a_full_read_is_one_request() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    for calls in [1, 0] {
        let before = scene.keys.calls().decrypt;
        let read = scene.store.get(&"a".into()).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, scene.content);
        assert_eq!((scene.faulty.take_gets().len(), scene.keys.calls().decrypt - before), (1, calls));
    }
    assert_eq!(scene.store.stats().bytes_read, 2 * stored(&scene.faulty.inner, "a").len() as u64);
}

#[tokio::test]
async fn eight_ranges_near_each_other_are_one_request_and_far_ones_are_one_each() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let near: Vec<_> = (0..8).rev().map(|index| index * 100 + 70..index * 100 + 80).collect();
    for (requests, keys) in [(2, 1), (1, 0)] {
        let before = scene.keys.calls().decrypt;
        let read = scene.store.get_ranges(&"a".into(), &near).await.unwrap();
        for (range, read) in near.iter().zip(read) {
            assert_eq!(read, scene.content.slice(range.start as usize..range.end as usize));
        }
        assert_eq!((scene.faulty.take_gets().len(), scene.keys.calls().decrypt - before), (requests, keys));
    }

    let long = plaintext(9_000_000, 2);
    let store = EncryptedStore::new(scene.faulty.clone(), settings_of(&scene.keys).frame_len(65_536)).unwrap();
    store.put(&"long".into(), long.clone().into()).await.unwrap();
    let far: Vec<_> = (0..7).map(|index| 300_000 + index * 1_200_000..300_010 + index * 1_200_000).collect();
    let far = [&far[..], &[300_100..300_200]].concat();
    for requests in [8, 7] {
        let before = store.stats().bytes_read;
        let read = store.get_ranges(&"long".into(), &far).await.unwrap();
        for (range, read) in far.iter().zip(read) {
            assert_eq!(read, long.slice(range.start as usize..range.end as usize));
        }
        assert_eq!(scene.faulty.take_gets().len(), requests);
        assert_eq!(store.stats().bytes_read - before, 7 * (65_536 + 40) + if requests == 8 { HEADER } else { 0 });
    }
}

#[tokio::test]
async fn ranges_of_a_known_object_are_one_call_for_the_bytes_of_their_frames() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let ranges = [500..510, 990..2000, 70..80];
    let (mut calls, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let before = scene.store.stats().bytes_read;
        let read = scene.store.get_ranges(&"a".into(), &ranges).await.unwrap();
        assert_eq!(read, [500..510, 990..1000, 70..80].map(|range| scene.content.slice(range)));
        calls.push(scene.faulty.ranges.swap(0, SeqCst));
        bytes.push(scene.store.stats().bytes_read - before);
    }
    let (sealed, start) = (stored(&scene.faulty.inner, "a").len() as u64, HEADER + STRIDE as u64);
    assert_eq!((calls, bytes), (vec![0, 1], vec![HEADER + sealed - start, sealed - start]));
    assert_eq!(scene.store.stats().repeated_reads, 0);
}

#[tokio::test]
async fn a_range_beyond_the_end_is_requested_again_only_if_the_cache_may_be_out_of_date() {
    for (range, looks_up) in
        [1000..1010, 1_000_000..1_000_001].into_iter().flat_map(|r| [(r.clone(), false), (r, true)])
    {
        for (is_one, is_warm) in [(true, false), (false, false), (true, true), (false, true)] {
            let change = |settings: StoreSettings| if looks_up { settings.look_up_sizes() } else { settings };
            let Scene { store, .. } = scene(ETags::Strong, change).await;
            if is_warm {
                store.get_range(&"a".into(), 0..1).await.unwrap();
            }
            let read = match is_one {
                true => store.get_range(&"a".into(), range.clone()).await.map(drop),
                false => store.get_ranges(&"a".into(), &[0..1, range.clone()]).await.map(drop),
            };
            assert!(read.is_err());
            assert_eq!(store.stats().repeated_reads, u64::from(is_warm), "{range:?} {looks_up} {is_one}");
        }
    }
}

#[tokio::test]
async fn lists_and_metadata_need_no_request_for_objects_and_no_key() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let sealed = stored(&scene.faulty.inner, "a");
    for index in 0..5000 {
        store(&scene.faulty.inner, &format!("many/{index}"), &sealed.slice(..sealed.len() - index % 20));
    }
    let listed: Vec<_> = scene.store.list(Some(&"many".into())).try_collect().await.unwrap();
    let size = |meta: &ObjectMeta| {
        let index: u64 = meta.location.filename().unwrap().parse().unwrap();
        1000 - index % 20
    };
    assert_eq!(listed.len(), 5000);
    assert!(listed.iter().all(|meta| meta.size == size(meta)));
    assert_eq!(scene.store.list_with_delimiter(Some(&"many".into())).await.unwrap().objects.len(), 5000);
    assert_eq!((scene.faulty.take_gets().len(), scene.faulty.lists.load(SeqCst)), (0, 2));
    assert_eq!(scene.store.head(&"a".into()).await.unwrap().size, 1000);
    assert_eq!((scene.faulty.take_gets().len(), scene.keys.calls().decrypt), (1, 0));
}

#[tokio::test]
async fn a_list_that_looks_up_sizes_makes_one_request_for_each_object() {
    let scene = scene(ETags::Strong, StoreSettings::look_up_sizes).await;
    scene.store.put(&"b".into(), "123".into()).await.unwrap();
    let listed: Vec<_> = scene.store.list(None).map_ok(|meta| meta.size).try_collect().await.unwrap();
    assert_eq!((listed, scene.faulty.take_gets().len(), scene.keys.calls().decrypt), (vec![1000, 3], 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_concurrent_cold_reads_of_one_object_make_one_call_for_its_key() {
    for e_tags in [ETags::Strong, ETags::Missing] {
        let scene = scene(e_tags, |settings| settings).await;
        let scene = Scene { keys: scene.keys.with_delay(|| tokio::time::sleep(Duration::from_millis(20))), ..scene };
        let reads = (0..100).map(|index| {
            let store = scene.store.clone();
            tokio::spawn(async move { store.get_range(&"a".into(), index * 9..index * 9 + 10).await.unwrap() })
        });
        for (index, read) in try_join_all(reads).await.unwrap().into_iter().enumerate() {
            assert_eq!(read, scene.content.slice(index * 9..index * 9 + 10));
        }
        assert_eq!(scene.keys.calls().decrypt, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_16_keys_are_requested_at_the_same_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let scene = scene(ETags::Strong, |settings| settings).await;
    for index in 0..1000 {
        scene.store.put(&format!("{index}").into(), format!("object {index}").into()).await.unwrap();
    }
    let (current, seen) = (now.clone(), most.clone());
    let keys = scene.keys.with_delay(move || {
        let (current, seen) = (current.clone(), seen.clone());
        async move {
            seen.fetch_max(current.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            current.fetch_sub(1, SeqCst);
        }
    });
    let reads = (0..1000).map(|index| {
        let store = scene.store.clone();
        tokio::spawn(async move { store.get(&format!("{index}").into()).await.unwrap().bytes().await.unwrap() })
    });
    for (index, read) in try_join_all(reads).await.unwrap().into_iter().enumerate() {
        assert_eq!(read, format!("object {index}"));
    }
    assert_eq!((keys.calls().decrypt, most.load(SeqCst)), (1000, 16));
}

#[tokio::test]
async fn a_read_that_is_dropped_while_its_key_is_requested_does_not_stop_others() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let closed = gate.clone();
    let keys = scene.keys.clone().with_delay(move || {
        let closed = closed.clone();
        async move { closed.acquire().await.unwrap().forget() }
    });
    for _ in 0..40 {
        let location = Path::from("a");
        let mut read = Box::pin(scene.store.get(&location));
        assert!(futures_util::poll!(&mut read).is_pending());
    }
    gate.add_permits(1);
    let read = tokio::time::timeout(Duration::from_secs(20), scene.store.get(&"a".into())).await;
    assert_eq!(read.expect("dropped reads must free their places").unwrap().bytes().await.unwrap(), scene.content);
    assert_eq!(keys.calls().decrypt, 41);
}

#[tokio::test]
async fn a_key_is_requested_again_after_its_age() {
    let decrypts = async |scene: &Scene, reads: usize| {
        let before = scene.keys.calls().decrypt;
        for _ in 0..reads {
            scene.costs(GetRange::Bounded(500..510)).await;
        }
        scene.keys.calls().decrypt - before
    };
    let never = scene(ETags::Strong, |settings| settings.cache_max_age(Duration::ZERO)).await;
    assert_eq!(decrypts(&never, 3).await, 3);
    let empty = scene(ETags::Strong, |settings| settings.cache_capacity(0)).await;
    assert_eq!(decrypts(&empty, 3).await, 3);
    let forever = scene(ETags::Strong, |settings| settings.cache_max_age(Duration::MAX)).await;
    assert_eq!(decrypts(&forever, 3).await, 1);
    forever.store.clear_cache().await;
    assert_eq!(decrypts(&forever, 3).await, 1);

    // Reads do not make a key younger.
    let short = scene(ETags::Strong, |settings| settings.cache_max_age(Duration::from_millis(40))).await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(100) {
        decrypts(&short, 1).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(short.keys.calls().decrypt >= 2);
}

#[tokio::test]
async fn a_key_that_is_revoked_opens_nothing_after_its_age() {
    let scene = scene(ETags::Strong, |settings| settings.cache_max_age(Duration::from_millis(5))).await;
    scene.costs(GetRange::Bounded(0..10)).await;
    scene.keys.down_for(Duration::MAX);
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.store.remove_expired().await;
    assert!(scene.store.get_range(&"a".into(), 0..10).await.is_err());
}

/// A key provider that counts its calls.
#[derive(Debug)]
struct Counted<K>(K, Arc<AtomicUsize>);

impl<K> fmt::Display for Counted<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

#[async_trait::async_trait]
impl<K: KeyProvider> KeyProvider for Counted<K> {
    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> std::result::Result<Vec<EncryptedDataKey>, ProviderError> {
        self.1.fetch_add(1, SeqCst);
        self.0.encrypt_data_key(request).await
    }

    async fn decrypt_data_key(
        &self,
        request: &DecryptDataKeyRequest<'_>,
    ) -> std::result::Result<DecryptedDataKey, ProviderError> {
        self.1.fetch_add(1, SeqCst);
        self.0.decrypt_data_key(request).await
    }
}

/// Writes and reads 40 objects in 4 folders, each with a new store, and returns the calls to the key provider.
async fn calls(binding: Binding, envelope: impl Fn() -> EnvelopeBuilder, calls: &AtomicUsize) -> (usize, usize) {
    let inner = Arc::new(InMemory::new());
    let store = || {
        let settings = StoreSettings::new(envelope()).binding(binding).header_len(HEADER_LEN).frame_len(FRAME_LEN);
        EncryptedStore::new(inner.clone(), settings).unwrap()
    };
    let objects: Vec<_> =
        (0..40).map(|index| (Path::from(format!("{}/{index}", index % 4)), plaintext(300, index))).collect();
    let writer = store();
    for (location, content) in &objects {
        writer.put(location, content.clone().into()).await.unwrap();
    }
    let written = calls.swap(0, SeqCst);
    let reader = store();
    for (location, content) in &objects {
        assert_eq!(reader.get_range(location, 100..200).await.unwrap(), content.slice(100..200));
    }
    (written, calls.swap(0, SeqCst))
}

#[tokio::test]
async fn calls_to_the_key_provider_depend_on_the_binding_and_the_cache() {
    let count = Arc::new(AtomicUsize::new(0));
    let plain = || Envelope::builder(Counted(key(7), count.clone()));
    let cached = || {
        let cache = DataKeyCache::builder(Duration::from_secs(60)).max_messages(1000).build().unwrap();
        plain().cache(cache)
    };
    let prefix = Binding::Prefix { segments: 1 };
    for (binding, without_cache, with_cache) in
        [(Binding::Path, (40, 40), (40, 40)), (prefix, (40, 40), (4, 4)), (Binding::None, (40, 40), (1, 1))]
    {
        assert_eq!(calls(binding, plain, &count).await, without_cache, "{binding:?}");
        assert_eq!(calls(binding, cached, &count).await, with_cache, "{binding:?} with a cache");
        let branch = || Envelope::builder(StaticBranchKey::new("branch", [1; 16], [2; 32]).unwrap());
        assert_eq!(calls(binding, branch, &count).await, (0, 0), "{binding:?} under a branch key");
    }
}

/// Bytes that tell when they are dropped.
struct Dropped(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Dropped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.1.fetch_add(1, SeqCst);
    }
}

#[tokio::test]
async fn the_cache_keeps_only_the_header_of_an_answer() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = dropped.clone();
    scene
        .faulty
        .set(move |get| get.answer_in(|body| vec![Ok(Bytes::from_owner(Dropped(body.to_vec(), counter.clone())))]));
    let answers = || dropped.swap(0, SeqCst);
    scene.store.get_ranges(&"a".into(), &[0..10]).await.unwrap();
    assert_eq!(answers(), 1);
    scene.store.clear_cache().await;
    scene.store.get_range(&"a".into(), 500..510).await.unwrap();
    assert_eq!(answers(), 2);
    scene.store.clear_cache().await;
    drop(scene.store.get(&"a".into()).await.unwrap().bytes().await.unwrap());
    assert_eq!(answers(), 1);
}

#[tokio::test]
async fn the_text_of_a_store_has_no_objects_and_no_keys() {
    let scene = scene(ETags::Strong, |settings| settings).await;
    let before = format!("{:?}", scene.store).len();
    for index in 0..100 {
        let location = Path::from(format!("secret-name-{index}"));
        scene.store.put(&location, "content".into()).await.unwrap();
        scene.store.get(&location).await.unwrap();
    }
    let text = format!("{:?}", scene.store);
    assert!(text.len() < before + 100 && !text.contains("secret-name"), "{text}");
    assert!(!text.contains("7, 7, 7, 7"), "the key is shown");
    assert_eq!(scene.store.to_string(), "EncryptedStore(Faulty)");
}
