//! Measures the costs of an encrypted store beside those of the store that it encrypts. `.ci/lake` runs all parts.

use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kms_envelope::{Envelope, EnvelopeBuilder, RawAes};
use kms_envelope_object_store::v0_14::object_store::{ObjectStore, ObjectStoreExt, Result, WriteMultipart, path::Path};

mod counting;
mod keys;
mod memory;
mod requests;
mod throughput;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The length of the parts that are passed to uploads.
const PART: u64 = 8 * MIB;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Cargo adds `--bench`.
    for part in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        match &*part {
            "requests" => runtime.block_on(requests::run()),
            "throughput" => runtime.block_on(throughput::run()),
            "keys" => runtime.block_on(keys::run()),
            "memory" => runtime.block_on(memory::run()),
            other => panic!("{other} is none of requests, throughput, keys and memory"),
        }
    }
}

fn local_key() -> EnvelopeBuilder {
    Envelope::builder(RawAes::new("lake", "key", [7; 32]).unwrap())
}

/// Uploads `len` bytes, of which `part` returns each part.
async fn upload(store: &dyn ObjectStore, location: &Path, len: u64, part: impl Fn(Range<u64>) -> Bytes) -> Result<()> {
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(location).await?, PART as usize);
    for start in (0..len).step_by(PART as usize) {
        upload.wait_for_capacity(8).await?;
        upload.put(part(start..len.min(start + PART)));
    }
    upload.finish().await.map(drop)
}

/// Reads all of an object, and copies it, as a program would at least.
async fn read_all(store: &dyn ObjectStore, location: &Path) -> Result<u64> {
    let (mut stream, mut copy, mut len) = (store.get(location).await?.into_stream(), Copy::new(), 0);
    while let Some(piece) = stream.try_next().await? {
        copy.copy(&piece);
        len += piece.len() as u64;
    }
    Ok(len)
}

/// A small buffer into which data is copied piece by piece.
struct Copy(Vec<u8>);

impl Copy {
    fn new() -> Self {
        Self(vec![0; 64 << 10])
    }

    fn copy(&mut self, data: &[u8]) {
        for piece in data.chunks(self.0.len()) {
            std::hint::black_box(&mut self.0)[..piece.len()].copy_from_slice(piece);
        }
    }
}

/// Returns the start of the `index`th range, which is not aligned to anything.
fn position(index: u64, len: u64) -> u64 {
    index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % len
}
