//! Messages of 1 KiB with the data-key cache, compared with a data key that costs nothing; misses in full caches;
//! rewrapping.

use std::{hint::black_box, time::Duration};

use async_trait::async_trait;
use criterion::{Criterion, Throughput};
use kms_envelope::{
    DataKeyCache, EncryptionContext, Envelope, KeyProvider, Limits, ProviderError, RawAes,
    message::{EncryptedDataKey, Header},
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        SecretKey,
    },
};
use pollster::block_on;

use crate::{MIB, buffer, builder, context, small::on_threads};

const LEN: usize = 1 << 10;

/// A provider that returns the same data key for every message, at no cost.
#[derive(Debug)]
pub(crate) struct Free;

impl std::fmt::Display for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bench")
    }
}

#[async_trait]
impl KeyProvider for Free {
    async fn generate_data_key(&self, _: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        // The lengths are those of KMS.
        let encrypted = EncryptedDataKey::new("bench", &[1; 75][..], &[2; 184][..]);
        Ok(GeneratedDataKey::new(SecretKey::from([7; 32]), vec![encrypted]))
    }

    async fn encrypt_data_key(&self, _: &EncryptDataKeyRequest<'_>) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        unreachable!("the benchmarks do not encrypt data keys")
    }

    async fn decrypt_data_key(&self, _: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        Ok(DecryptedDataKey::new(SecretKey::from([7; 32]), 0, "bench"))
    }
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let (plaintext, context) = (buffer(LEN), context());
    let cache = DataKeyCache::builder(Duration::from_secs(3600)).build().unwrap();
    let without = Envelope::new(Free);
    let with = Envelope::builder(Free).cache(cache).build().unwrap();
    let sealed = block_on(without.seal(&plaintext, &context)).unwrap();
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("cached/{threads}"));
        group.throughput(Throughput::Bytes((LEN * threads) as u64));
        for (name, envelope) in [("without provider", &without), ("cached", &with)] {
            group.bench_function(format!("{name}, seal"), |bencher| {
                on_threads(
                    bencher,
                    threads,
                    || (),
                    |()| drop(block_on(envelope.seal(black_box(&plaintext), &context)).unwrap()),
                );
            });
            group.bench_function(format!("{name}, open"), |bencher| {
                on_threads(
                    bencher,
                    threads,
                    || (),
                    |()| drop(block_on(envelope.open(black_box(&sealed), &context)).unwrap()),
                );
            });
        }
        group.finish();
    }

    // Each message has its own context, so each adds an entry and evicts another.
    let mut group = criterion.benchmark_group("cached/miss");
    for capacity in [1_000, 60_000] {
        let cache = DataKeyCache::builder(Duration::from_secs(3600)).capacity(capacity).build().unwrap();
        let envelope = Envelope::builder(Free).cache(cache.clone()).build().unwrap();
        let mut number = 0;
        let mut seal = || {
            number += 1;
            let context = EncryptionContext::from([("number", number.to_string())]);
            block_on(envelope.seal(black_box(&[]), &context)).unwrap()
        };
        (0..capacity).for_each(|_| drop(seal()));
        assert_eq!(cache.stats().entries, capacity as u64);
        group.bench_function(format!("{capacity} entries"), |bencher| bencher.iter(&mut seal));
    }
    group.finish();

    let mut group = criterion.benchmark_group("rewrap");
    let old = builder(65_536).build().unwrap();
    let new = RawAes::generate("bench", "new").unwrap();
    for (name, len) in [("1 KiB", LEN), ("1 GiB", 1024 * MIB)] {
        let sealed = block_on(old.seal(&buffer(len), &context)).unwrap();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let header = Header::parse(black_box(&sealed), &Limits::default()).unwrap();
                block_on(old.rewrap(&header, &context, &new)).unwrap()
            });
        });
    }
    group.finish();
}
