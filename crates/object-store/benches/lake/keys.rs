//! Requests to KMS for many objects.

use std::{sync::Arc, time::Duration};

use kms_envelope::{
    AwsKms, DataKeyCache, EncryptionContext, Envelope, KeyProvider,
    provider::{
        AwsKmsHierarchical,
        branch_key::{BranchKeys, KmsConfiguration},
    },
    testing::MemoryBranchKeyStore,
};
use kms_envelope_object_store::{
    Binding, StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{ObjectStoreExt, memory::InMemory, path::Path},
    },
};
use test_support::kms::{Endpoint, arn};

const OBJECTS: usize = 1000;
const FOLDERS: usize = 10;
const AGE: Duration = Duration::from_secs(3600);
const REGION: &str = "eu-west-1";

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Uncached,
    Cached,
    Branch,
}

pub(crate) async fn run() {
    println!(
        "Requests to KMS for {OBJECTS} objects in {FOLDERS} folders: to write them, to read them with another process, and \
         to read them again.\n\n| binding | KMS key | KMS key, data-key cache | branch key |\n|---|---|---|---|"
    );
    for binding in [Binding::Path, Binding::Prefix { segments: 1 }, Binding::None] {
        let mut row = format!("| `{binding:?}` |");
        for keys in [Keys::Uncached, Keys::Cached, Keys::Branch] {
            let [written, read, again] = count(binding, keys).await;
            row += &format!(" {written}, {read}, {again} |");
        }
        println!("{row}");
    }
}

async fn count(binding: Binding, keys: Keys) -> [usize; 3] {
    let kms = Endpoint::new([(REGION, "key")]);
    let (client, arn) = (kms.client(REGION), arn(REGION, "key"));
    let configuration = KmsConfiguration::key(client.clone(), &arn).unwrap();
    let branch_keys = BranchKeys::new(MemoryBranchKeyStore::new(), "lake", configuration).unwrap();
    let id = branch_keys.create(&EncryptionContext::new()).await.unwrap();

    // Each process has caches of its own.
    let settings = || {
        let provider: Arc<dyn KeyProvider> = match keys {
            Keys::Branch => Arc::new(AwsKmsHierarchical::builder(branch_keys.clone(), AGE).build(&id).unwrap()),
            _ => Arc::new(AwsKms::new(client.clone(), &*arn).unwrap()),
        };
        let mut envelope = Envelope::builder(provider);
        if keys == Keys::Cached {
            envelope = envelope.cache(DataKeyCache::builder(AGE).build().unwrap());
        }
        StoreSettings::new(envelope).binding(binding)
    };
    let requests = || kms.calls().values().sum::<usize>();
    let locations: Vec<_> = (0..OBJECTS).map(|i| Path::from(format!("{}/{i}", i % FOLDERS))).collect();
    let writer = EncryptedStore::new(InMemory::new(), settings()).unwrap();
    let mut counts = [requests(); 4];
    for location in &locations {
        writer.put(location, vec![7; 100].into()).await.unwrap();
    }
    counts[1] = requests();
    let reader = EncryptedStore::new(writer.inner().fork(), settings()).unwrap();
    for count in &mut counts[2..] {
        for location in &locations {
            assert_eq!(reader.get_range(location, 10..20).await.unwrap(), [7; 10].as_slice());
        }
        *count = requests();
    }
    std::array::from_fn(|i| counts[i + 1] - counts[i])
}
