//! The branch keys that a key provider caches.

use std::{collections::BTreeMap, sync::LazyLock};

use kms_envelope::{
    Backend, EncryptionContext, Envelope,
    provider::{
        AwsKmsHierarchical,
        branch_key::{BranchKeyItem, BranchKeys, KmsConfiguration},
    },
    testing::{ManualClock, MemoryBranchKeyStore},
};
use test_support::kms::{Endpoint, arn};
use tokio::runtime::{Builder, Runtime};

use super::*;

const REGION: &str = "eu-west-1";
const AGE: Duration = Duration::from_secs(300);

/// Runs a future that sends requests, in a deep stack frame like [`block_on`].
fn block_on_requests<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());
    deep(|| RUNTIME.block_on(future))
}

/// Returns the branch keys in a store, with a KMS whose keys are the same in each process.
fn branch_keys(store: &MemoryBranchKeyStore) -> BranchKeys {
    let kms = Endpoint::new([(REGION, "key")]);
    let configuration = KmsConfiguration::key(kms.client(REGION), arn(REGION, "key")).unwrap();
    BranchKeys::new(store.clone(), "tests", configuration).unwrap()
}

fn tenant(tenant: &str) -> EncryptionContext {
    EncryptionContext::from([("tenant", tenant)])
}

#[test]
fn a_cached_branch_key_is_not_in_memory_after_eviction_expiry_clearing_and_dropping() {
    let _alone = alone();
    let store = MemoryBranchKeyStore::new();
    let keys = branch_keys(&store);
    for id in ["acme", "other"] {
        block_on_requests(keys.create_with_id(id, &tenant(id))).unwrap();
    }
    let items = store.items();
    let active = items.iter().find(|item| item.branch_key_id == "acme" && item.item_type == BranchKeyItem::ACTIVE);
    let BranchKeyItem { ciphertext, attributes, .. } = active.unwrap();
    let arguments = format!("{} {}", hex(ciphertext), serde_json::to_string(attributes).unwrap());
    let [key] = computed_by("branch_keys::prints_a_masked_branch_key", &arguments);
    assert_eq!(key.count(), 0, "after creating");

    for backend in Backend::ALL.iter().copied() {
        let clock = ManualClock::new();
        let provider = |capacity| {
            let builder = AwsKmsHierarchical::builder(keys.clone(), AGE).capacity(capacity).clock(clock.clone());
            let provider = builder.build_by_context(|context| context.get("tenant").map(str::to_owned).ok_or("none"));
            let provider = provider.unwrap();
            let envelope = Envelope::builder(provider.clone()).backend(backend).build().unwrap();
            (provider, envelope)
        };
        let seal = |envelope: &Envelope, id| block_on_requests(envelope.seal(b"data", &tenant(id))).unwrap();
        // Each entry has two pieces of 16 bytes.
        let (small, envelope) = provider(1);
        let sealed = seal(&envelope, "acme");
        assert_eq!(key.count(), 2, "cached: {backend:?}");
        seal(&envelope, "other");
        assert_eq!((key.count(), small.stats().evictions), (0, 1), "evicted: {backend:?}");

        let (provider, envelope) = provider(10);
        let use_it = || {
            seal(&envelope, "acme");
            block_on_requests(envelope.open(&sealed, &tenant("acme"))).unwrap();
            assert_eq!(key.count(), 4, "once for sealing, once for opening: {backend:?}");
        };
        use_it();
        clock.advance(AGE);
        provider.remove_expired();
        assert_eq!(key.count(), 0, "expired: {backend:?}");
        use_it();
        provider.clear();
        assert_eq!(key.count(), 0, "cleared: {backend:?}");
        use_it();
        drop(provider);
        deep(|| drop(envelope));
        assert_eq!(key.count(), 0, "dropped: {backend:?}");
    }

    let read = block_on_requests(keys.active("acme")).unwrap();
    assert_eq!(key.count(), 2, "read");
    drop(read);
    drop((keys, store));
    assert_eq!(key.count(), 0, "after dropping all");
}

#[test]
#[ignore = "`computed_by` runs it in a process of its own"]
fn prints_a_masked_branch_key() {
    let arguments = env::var("SECRETS_OF").unwrap();
    let (ciphertext, attributes) = arguments.split_once(' ').unwrap();
    let attributes: BTreeMap<String, String> = serde_json::from_str(attributes).unwrap();
    let store = MemoryBranchKeyStore::new();
    store.put(BranchKeyItem::new("acme", BranchKeyItem::ACTIVE, unhex(ciphertext), 1, attributes));
    print(block_on_requests(branch_keys(&store).active("acme")).unwrap().key().expose());
}
