//! The memory for an object of 10 GiB in a local folder.

use bytes::Bytes;
use futures_util::TryStreamExt;
use kms_envelope_object_store::{
    StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path},
    },
};

use crate::{GIB, MIB, local_key, position, upload};

const LEN: u64 = 10 * GIB;
const LIMIT: u64 = 200 * MIB;

pub(crate) async fn run() {
    let folder = tempfile::tempdir().unwrap();
    let inner = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let store = EncryptedStore::new(inner, StoreSettings::new(local_key())).unwrap();
    let location = Path::from("data/part-0.parquet");

    println!("| step | peak memory so far |\n|---|---|\n| start | {} |", peak());
    upload(&store, &location, LEN, content).await.unwrap();
    println!("| `put_multipart` of 10 GiB | {} |", peak());
    let (mut stream, mut offset) = (store.get(&location).await.unwrap().into_stream(), 0);
    while let Some(piece) = stream.try_next().await.unwrap() {
        let next = offset + piece.len() as u64;
        assert!(piece == content(offset..next));
        offset = next;
    }
    assert_eq!(offset, LEN);
    println!("| `get` of 10 GiB | {} |", peak());
    for index in 0..1000 {
        let start = position(index, LEN - MIB);
        assert!(store.get_range(&location, start..start + MIB).await.unwrap() == content(start..start + MIB));
    }
    println!("| 1,000 times `get_range` of 1 MiB | {} |", peak());
    for index in 0..100 {
        let starts = (0..16).map(|i| position(index * 16 + i, LEN - MIB));
        let ranges: Vec<_> = starts.map(|start| start..start + MIB).collect();
        let read = store.get_ranges(&location, &ranges).await.unwrap();
        assert!(read.iter().zip(ranges).all(|(read, range)| *read == content(range)));
    }
    println!("| 100 times `get_ranges` of 16 of 1 MiB | {} |", peak());
    // The cache keeps the headers of all of these.
    for index in 0..1000 {
        let small = Path::from(format!("small/{index}"));
        store.put(&small, content(0..MIB).into()).await.unwrap();
        assert!(store.get(&small).await.unwrap().bytes().await.unwrap() == content(0..MIB));
    }
    println!("| 1,000 objects of 1 MiB, written and read | {} |", peak());
    let bytes = high_water_mark();
    assert!(bytes < LIMIT, "{bytes} bytes, and the limit is {LIMIT}");
}

/// Returns a range of the object: its blocks of 8 bytes are their numbers.
fn content(range: std::ops::Range<u64>) -> Bytes {
    let blocks = range.start / 8..range.end.div_ceil(8);
    let bytes: Vec<u8> = blocks.flat_map(u64::to_le_bytes).collect();
    let skipped = (range.start % 8) as usize;
    Bytes::from(bytes).slice(skipped..skipped + (range.end - range.start) as usize)
}

fn peak() -> String {
    format!("{:.0} MiB", high_water_mark() as f64 / MIB as f64)
}

/// Returns the largest amount of memory that this process has had, in bytes.
fn high_water_mark() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
