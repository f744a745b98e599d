//! Many small messages at once with a cached data key, compared with a loop over single ones.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput};
use kms_envelope::{Backend, DataKeyCache, Envelope, stream::Threads};
use pollster::block_on;
use rayon::ThreadPoolBuilder;

use crate::{buffer, cached::Free, context};

const COUNT: usize = 1000;

pub(crate) fn benches(criterion: &mut Criterion) {
    for backend in Backend::ALL.iter().copied() {
        for len in [16, 1 << 10, 4 << 10] {
            let mut group = criterion.benchmark_group(format!("many/{backend:?}/{len}"));
            group.throughput(Throughput::Bytes((COUNT * len) as u64));
            let (plaintext, context) = (buffer(len), context());
            let plaintexts: Vec<_> = (0..COUNT).map(|_| (&plaintext[..], &context)).collect();
            let envelope = |threads| {
                let cache = DataKeyCache::builder(Duration::from_secs(3600)).build().unwrap();
                Envelope::builder(Free).backend(backend).cache(cache).threads(threads).build().unwrap()
            };

            let one = envelope(Threads::One);
            let mut out = Vec::new();
            group.bench_function("loop, seal", |bencher| {
                bencher.iter(|| {
                    for (plaintext, context) in black_box(&plaintexts) {
                        block_on(one.seal_into(plaintext, context, &mut out)).unwrap();
                    }
                });
            });
            let sealed = block_on(one.seal(&plaintext, &context)).unwrap();
            let messages: Vec<_> = (0..COUNT).map(|_| (&sealed[..], &context)).collect();
            group.bench_function("loop, open", |bencher| {
                bencher.iter(|| {
                    for (sealed, context) in black_box(&messages) {
                        drop(block_on(one.open_into(sealed, context, &mut out)).unwrap());
                    }
                });
            });
            for threads in [1, 2] {
                let pool = || Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
                let how = if threads == 1 { Threads::One } else { Threads::Pool(pool()) };
                let (envelope, mut out) = (envelope(how), Vec::new());
                let name =
                    |what| if threads == 1 { format!("at once, {what}") } else { format!("at once, {what} 2 threads") };
                group.bench_function(name("seal"), |bencher| {
                    bencher.iter(|| block_on(envelope.seal_many(black_box(&plaintexts).iter().copied(), &mut out)));
                });
                group.bench_function(name("open"), |bencher| {
                    bencher.iter(|| block_on(envelope.open_many(black_box(&messages).iter().copied(), &mut out)));
                });
            }
            group.finish();
        }
    }
}
