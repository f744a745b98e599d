//! Messages of 1 KiB with a cached branch key, compared with a cached data key and with a local AES key without a cache.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput};
use kms_envelope::{
    Backend, DataKeyCache, Envelope, KeyProvider, RawAes,
    provider::{
        AwsKmsHierarchical,
        branch_key::{BranchKeys, KmsConfiguration},
    },
    testing::MemoryBranchKeyStore,
};
use pollster::block_on;
use test_support::kms::{Endpoint, arn};
use tokio::runtime;

use crate::{buffer, cached::Free, context, small::on_threads};

const LEN: usize = 1 << 10;
const AGE: Duration = Duration::from_secs(3600);
const REGION: &str = "eu-west-1";

pub(crate) fn benches(criterion: &mut Criterion) {
    // Requests are sent only to create and to cache the branch key.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kms = Endpoint::new([(REGION, "key")]);
    let configuration = KmsConfiguration::key(kms.client(REGION), arn(REGION, "key")).unwrap();
    let keys = BranchKeys::new(MemoryBranchKeyStore::new(), "bench", configuration).unwrap();
    let id = runtime.block_on(keys.create(&context())).unwrap();
    let (plaintext, context) = (buffer(LEN), context());

    for backend in Backend::ALL.iter().copied() {
        let envelope = |provider: Arc<dyn KeyProvider>| Envelope::builder(provider).backend(backend);
        let branch_key = AwsKmsHierarchical::builder(keys.clone(), AGE).build(&id).unwrap();
        let cases = [
            ("RawAes", envelope(Arc::new(RawAes::generate("bench", "key").unwrap()))),
            ("cached data key", envelope(Arc::new(Free)).cache(DataKeyCache::builder(AGE).build().unwrap())),
            ("cached branch key", envelope(Arc::new(branch_key.clone()))),
        ];
        let cases = cases.map(|(name, builder)| {
            let envelope = builder.build().unwrap();
            let sealed = runtime.block_on(envelope.seal(&plaintext, &context)).unwrap();
            runtime.block_on(envelope.open(&sealed, &context)).unwrap();
            (name, envelope, sealed)
        });
        for threads in [1, 2] {
            let mut group = criterion.benchmark_group(format!("branch key/{backend:?}/{threads}"));
            group.throughput(Throughput::Bytes((LEN * threads) as u64));
            for (name, envelope, sealed) in &cases {
                group.bench_function(format!("{name}, seal"), |bencher| {
                    on_threads(bencher, threads, Vec::new, |out| {
                        block_on(envelope.seal_into(black_box(&plaintext), &context, out)).unwrap();
                    });
                });
                group.bench_function(format!("{name}, open"), |bencher| {
                    on_threads(bencher, threads, Vec::new, |out| {
                        drop(block_on(envelope.open_into(black_box(sealed), &context, out)).unwrap());
                    });
                });
            }
            group.finish();
        }
        assert_eq!(branch_key.stats().calls, 2);
    }
}
