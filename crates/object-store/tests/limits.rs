//! An inner store that limits the number of requests: those of one operation must not wait for each other.

mod support;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use kms_envelope::{Envelope, Limits, message::Header};
use object_store::limit::LimitStore;
use support::*;
use tokio::time::timeout;

fn store(requests: usize, settings: StoreSettings) -> EncryptedStore<LimitStore<Arc<InMemory>>> {
    store_over(Arc::default(), requests, settings)
}

fn store_over(
    inner: Arc<InMemory>,
    requests: usize,
    settings: StoreSettings,
) -> EncryptedStore<LimitStore<Arc<InMemory>>> {
    EncryptedStore::new(LimitStore::new(inner, requests), settings).unwrap()
}

/// Fails if an operation does not end.
async fn ends<T>(operation: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), operation).await.expect("requests must not wait for each other")
}

#[tokio::test]
async fn cold_ranges_need_one_request_at_a_time() {
    let store = store(1, settings());
    let content = plaintext(1000, 1);
    store.put(&"a".into(), content.clone().into()).await.unwrap();
    let range = async |start: u64| {
        store.clear_cache().await;
        let far = store.get_range(&"a".into(), start..start + 100).await.unwrap();
        let several = store.get_ranges(&"a".into(), &[900..910, start..start + 1]).await.unwrap();
        (far, several)
    };
    for (start, (far, several)) in [0, 500].into_iter().zip(ends(join_all([0, 500].map(range))).await) {
        assert_eq!(far, content.slice(start..start + 100));
        assert_eq!(several, [content.slice(900..910), content.slice(start..=start)]);
    }
}

#[tokio::test]
async fn copies_that_are_longer_than_the_parts_in_flight_need_one_request_at_a_time() {
    let store = store(1, settings().parts_in_flight(2));
    let content = plaintext(10_000, 1);
    store.put(&"a".into(), content.clone().into()).await.unwrap();
    let copy = async |to: u64| store.copy(&"a".into(), &to.to_string().into()).await.unwrap();
    ends(join_all((0..3).map(copy))).await;
    ends(store.rename_if_not_exists(&"a".into(), &"b".into())).await.unwrap();
    for name in ["0", "1", "2", "b"] {
        assert_eq!(ends(store.get(&name.into())).await.unwrap().bytes().await.unwrap(), content);
    }
}

#[tokio::test]
async fn reads_and_deletions_with_detached_keys_need_one_request_at_a_time() {
    let inner = Arc::new(InMemory::new());
    let content = plaintext(2000, 1);
    store_over(inner.clone(), 1, settings()).put(&"a".into(), content.clone().into()).await.unwrap();
    let header = Header::parse(&stored(&inner, "a"), &Limits::default()).unwrap();
    let old = Envelope::new(key(7));
    let keys = old.rewrap(&header, header.context(), &key(8)).await.unwrap().to_bytes();
    support::store(&inner, "a.keys", &keys.into());

    let settings = StoreSettings::new(Envelope::builder(key(8))).header_len(HEADER_LEN).frame_len(FRAME_LEN);
    let store = store_over(inner.clone(), 1, settings.detached_keys(".keys"));
    let a = Path::from("a");
    assert_eq!(ends(async { store.get(&a).await.unwrap().bytes().await.unwrap() }).await, content);
    store.clear_cache().await;
    assert_eq!(ends(store.get_range(&a, 1000..1010)).await.unwrap(), content.slice(1000..1010));
    store.clear_cache().await;
    assert_eq!(ends(store.get_ranges(&a, &[0..9, 1000..1010])).await.unwrap()[1], content.slice(1000..1010));
    ends(store.delete(&a)).await.unwrap();
    assert_eq!(inner.list(None).count().await, 0);
}
