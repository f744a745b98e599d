//! Rates beside those of the plain store, in turns.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use kms_envelope_object_store::{
    StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path},
    },
};

use crate::{Copy, KIB, MIB, PART, local_key, position, read_all, upload};

const LEN: u64 = 128 * MIB;
/// Longer objects would measure how fast the inner store gets memory.
const WRITTEN: u64 = 16 * MIB;
const READ: &str = "data/part-0.parquet";
const RANGE: u64 = 64 * KIB;
const ROUNDS: usize = 15;
const OPERATIONS: [&str; 4] = ["write", "read", "64 KiB at random", "8 ranges of 64 KiB"];

pub(crate) async fn run() {
    let folder = tempfile::tempdir().unwrap();
    println!("MB/s in {ROUNDS} rounds: the median, the best (its ratio to the best of the plain store).\n");
    table("memory", |_| InMemory::new()).await;
    table("local folder", |name| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        LocalFileSystem::new_with_prefix(path).unwrap()
    })
    .await;
}

async fn table<T: ObjectStore>(title: &str, inner: impl Fn(&str) -> T) {
    let encrypted = |name: &str, frame_len: u64| -> Arc<dyn ObjectStore> {
        let settings = StoreSettings::new(local_key()).frame_len(frame_len as u32);
        Arc::new(EncryptedStore::new(inner(name), settings).unwrap())
    };
    let stores: [(&str, Arc<dyn ObjectStore>); 3] = [
        ("plain", Arc::new(inner("plain"))),
        ("frames of 16 KiB", encrypted("16", 16 * KIB)),
        ("frames of 64 KiB", encrypted("64", 64 * KIB)),
    ];
    for (_, store) in &stores {
        write(&**store, &Path::from(READ), LEN).await;
    }
    let mut rates = BTreeMap::<_, Vec<f64>>::new();
    for round in 0..=ROUNDS {
        for operation in OPERATIONS {
            for (name, store) in &stores {
                let start = Instant::now();
                let bytes = measure(operation, &**store, round as u64).await;
                let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e6;
                // The first round fills the caches.
                if round > 0 {
                    rates.entry((operation, *name)).or_default().push(rate);
                }
            }
        }
    }
    println!("| {title} | {} |\n|---|---|---|---|---|", OPERATIONS.join(" | "));
    for (name, _) in &stores {
        let cells = OPERATIONS.map(|operation| {
            let [best, plain] = [*name, "plain"].map(|name| sorted(&rates[&(operation, name)])[ROUNDS - 1]);
            let median = sorted(&rates[&(operation, *name)])[ROUNDS / 2];
            format!("{median:.0}, {best:.0} ({:.2})", best / plain)
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
}

/// Returns the number of bytes that were read or written.
async fn measure(operation: &str, store: &dyn ObjectStore, round: u64) -> u64 {
    let location = Path::from(READ);
    match operation {
        "write" => {
            for _ in 0..8 {
                write(store, &Path::from("data/written"), WRITTEN).await;
            }
            8 * WRITTEN
        }
        "read" => read_all(store, &location).await.unwrap(),
        "64 KiB at random" => {
            let mut copy = Copy::new();
            for index in 0..2000 {
                let start = position(round * 10_000 + index, LEN - RANGE);
                copy.copy(&store.get_range(&location, start..start + RANGE).await.unwrap());
            }
            2000 * RANGE
        }
        _ => {
            let mut copy = Copy::new();
            for index in 0..250 {
                let starts = (0..8).map(|i| position(round * 10_000 + index * 8 + i, LEN - RANGE));
                let ranges: Vec<_> = starts.map(|start| start..start + RANGE).collect();
                for range in store.get_ranges(&location, &ranges).await.unwrap() {
                    copy.copy(&range);
                }
            }
            250 * 8 * RANGE
        }
    }
}

async fn write(store: &dyn ObjectStore, location: &Path, len: u64) {
    let part = Bytes::from(vec![7; PART as usize]);
    upload(store, location, len, |_| part.clone()).await.unwrap();
}

fn sorted(rates: &[f64]) -> Vec<f64> {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates
}
