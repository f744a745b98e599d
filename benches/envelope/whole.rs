//! Whole buffers into reused memory, on one thread and on several.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput};
use kms_envelope::stream::Threads;
use pollster::block_on;
use rayon::ThreadPoolBuilder;

use crate::{BACKENDS, MIB, bare::Aead, buffer, builder, context};

const LEN: usize = 64 * MIB;

pub(crate) fn benches(criterion: &mut Criterion) {
    for backend in BACKENDS {
        for frame_len in [4096, 65_536, 1 << 20] {
            let mut group = criterion.benchmark_group(format!("whole/{backend:?}/{frame_len}"));
            group.throughput(Throughput::Bytes(LEN as u64));
            let (plaintext, context) = (buffer(LEN), context());

            let mut out = buffer(LEN);
            group.bench_function("memcpy", |bencher| bencher.iter(|| out.copy_from_slice(black_box(&plaintext))));
            let aead = Aead::new(*backend);
            let mut sealed = buffer(Aead::sealed_len(LEN, frame_len));
            group.bench_function("bare seal", |bencher| {
                bencher.iter(|| aead.seal(black_box(&plaintext), frame_len, &mut sealed));
            });
            group.bench_function("bare open", |bencher| {
                bencher.iter(|| aead.open(black_box(&sealed), frame_len, &mut out));
            });
            for threads in [1, 2] {
                let pool = || Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
                let how = if threads == 1 { Threads::One } else { Threads::Pool(pool()) };
                let envelope = builder(frame_len).backend(*backend).threads(how).build().unwrap();
                let name =
                    |what: &str| if threads == 1 { what.to_owned() } else { format!("{what} {threads} threads") };
                group.bench_function(name("seal"), |bencher| {
                    bencher
                        .iter(|| block_on(envelope.seal_into(black_box(&plaintext), &context, &mut sealed)).unwrap());
                });
                group.bench_function(name("open"), |bencher| {
                    bencher.iter(|| block_on(envelope.open_into(black_box(&sealed), &context, &mut out)).unwrap());
                });
            }
            group.finish();
        }
    }
}
