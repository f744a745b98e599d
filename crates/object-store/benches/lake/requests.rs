//! Requests and bytes of each operation.

use bytes::Bytes;
use futures_util::TryStreamExt;
use kms_envelope_object_store::{
    StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, path::Path},
    },
};

use crate::{GIB, KIB, MIB, PART, counting::Counting, local_key, read_all, upload};

const OBJECTS: u64 = 100_000;

enum Operation {
    Write,
    Head,
    Read(Option<GetRange>),
    Ranges { distance: u64 },
}

impl Operation {
    async fn run(&self, store: &dyn ObjectStore, location: &Path) {
        match self {
            Self::Write => {
                let part = Bytes::from(vec![7; PART as usize]);
                upload(store, location, GIB, |_| part.clone()).await.unwrap();
            }
            Self::Head => assert_eq!(store.head(location).await.unwrap().size, GIB),
            Self::Read(None) => assert_eq!(read_all(store, location).await.unwrap(), GIB),
            Self::Read(Some(range)) => {
                let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
                let bytes = store.get_opts(location, options).await.unwrap().bytes().await.unwrap();
                assert!(bytes == vec![7; bytes.len()] && bytes.len() as u64 == 64 * KIB);
            }
            Self::Ranges { distance } => {
                let ranges: Vec<_> = (1..=8).map(|i| i * distance + 1..i * distance + 1 + 64 * KIB).collect();
                assert!(store.get_ranges(location, &ranges).await.unwrap().iter().all(|range| **range == [7; 65536]));
            }
        }
    }
}

pub(crate) async fn run() {
    let operations = [
        ("write 1 GiB in parts of 8 MiB", Operation::Write),
        ("`head`", Operation::Head),
        ("a range of 64 KiB", Operation::Read(Some(GetRange::Bounded(500 * MIB + 1..500 * MIB + 1 + 64 * KIB)))),
        ("the last 64 KiB", Operation::Read(Some(GetRange::Suffix(64 * KIB)))),
        ("`get_ranges`: 8 of 64 KiB, far apart", Operation::Ranges { distance: 100 * MIB }),
        ("`get_ranges`: 8 of 64 KiB, near each other", Operation::Ranges { distance: 256 * KIB }),
        ("read 1 GiB", Operation::Read(None)),
    ];
    println!("| operation | plain | first time | again |\n|---|---|---|---|");
    let (plain, sealed, location) = (Counting::default(), Counting::default(), Path::from("data/part-0.parquet"));
    for (name, operation) in operations {
        let store = EncryptedStore::new(sealed.clone(), StoreSettings::new(local_key())).unwrap();
        operation.run(&plain, &location).await;
        operation.run(&store, &location).await;
        let (first, first_keys) = (sealed.take(), store.stats().data_keys);
        operation.run(&store, &location).await;
        let (again, again_keys) = (sealed.take(), store.stats().data_keys - first_keys);
        let keys = |count| if count == 0 { String::new() } else { format!(", {count} key") };
        println!("| {name} | {} | {first}{} | {again}{} |", plain.take(), keys(first_keys), keys(again_keys));
    }
    list().await;
}

async fn list() {
    let (plain, sealed) = (Counting::default(), Counting::default());
    let store = EncryptedStore::new(sealed.clone(), StoreSettings::new(local_key())).unwrap();
    for index in 0..OBJECTS {
        let (location, payload) = (Path::from(format!("data/{index}")), vec![7; index as usize % 2000]);
        plain.put(&location, payload.clone().into()).await.unwrap();
        store.put(&location, payload.into()).await.unwrap();
    }
    plain.take();
    sealed.take();
    let before = store.stats();
    let looking = EncryptedStore::new(sealed.clone(), StoreSettings::new(local_key()).look_up_sizes()).unwrap();
    let lists: [(&str, &Counting, &dyn ObjectStore); 3] =
        [("plain", &plain, &plain), ("encrypted", &sealed, &store), ("encrypted, looks up sizes", &sealed, &looking)];
    println!("\n| list of {OBJECTS} objects | requests | time |\n|---|---|---|");
    for (name, counting, store) in lists {
        let start = std::time::Instant::now();
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        println!("| {name} | {} | {:.0} ms |", counting.take(), start.elapsed().as_secs_f64() * 1e3);
        let sizes: u64 = listed.iter().map(|meta| meta.size).sum();
        assert_eq!((listed.len() as u64, sizes), (OBJECTS, (0..OBJECTS).map(|index| index % 2000).sum()));
    }
    assert_eq!(store.stats(), before);
}
