//! An inner store that limits the number of requests: those of one operation must not wait for each other.

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use object_store::limit::LimitStore;
use support::*;
use tokio::time::timeout;

fn store(requests: usize, settings: StoreSettings) -> EncryptedStore<LimitStore<InMemory>> {
    EncryptedStore::new(LimitStore::new(InMemory::new(), requests), settings).unwrap()
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
