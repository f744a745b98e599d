//! Signed messages. The hash for the signature limits them; with several threads, one hashes while others encrypt.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput};
use kms_envelope::{AlgorithmSuite, stream::Threads};
use pollster::block_on;
use rayon::ThreadPoolBuilder;
use sha2::{Digest, Sha384};

use crate::{MIB, buffer, builder, context};

const LEN: usize = 64 * MIB;
const FRAME_LEN: usize = 65_536;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signed");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
    let (plaintext, context) = (buffer(LEN), context());
    let (mut sealed, mut opened) = (buffer(LEN), buffer(LEN));
    group.bench_function("bare SHA-384", |bencher| {
        bencher.iter(|| {
            let mut digest = Sha384::new();
            black_box(&plaintext).chunks(MIB).for_each(|piece| digest.update(piece));
            digest.finalize()
        });
    });
    for (name, suite, threads) in [
        ("0478", AlgorithmSuite::Aes256GcmHkdfSha512Commit, 1),
        ("0578", AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384, 1),
        ("0578 2 threads", AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384, 2),
    ] {
        let pool = || Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        let how = if threads == 1 { Threads::One } else { Threads::Pool(pool()) };
        let envelope = builder(FRAME_LEN).suite(suite).threads(how).build().unwrap();
        group.bench_function(format!("seal {name}"), |bencher| {
            bencher.iter(|| block_on(envelope.seal_into(black_box(&plaintext), &context, &mut sealed)).unwrap());
        });
        group.bench_function(format!("open {name}"), |bencher| {
            bencher.iter(|| block_on(envelope.open_into(black_box(&sealed), &context, &mut opened)).unwrap());
        });
    }
    group.finish();

    // The cost of a signature, which does not depend on the length of the message.
    let mut group = criterion.benchmark_group("signed/1024");
    group.throughput(Throughput::Bytes(1024));
    for backend in crate::BACKENDS {
        let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
        let envelope = builder(FRAME_LEN).suite(suite).backend(*backend).build().unwrap();
        let sealed = block_on(envelope.seal(&plaintext[..1024], &context)).unwrap();
        group.bench_function(format!("seal 0578 {backend:?}"), |bencher| {
            bencher.iter(|| block_on(envelope.seal(black_box(&plaintext[..1024]), &context)).unwrap());
        });
        group.bench_function(format!("open 0578 {backend:?}"), |bencher| {
            bencher.iter(|| block_on(envelope.open(black_box(&sealed), &context)).unwrap());
        });
    }
    group.finish();
}
