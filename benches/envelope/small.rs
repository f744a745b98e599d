//! Small messages: the fixed cost of a message.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use pollster::block_on;

use crate::{BACKENDS, bare::Aead, buffer, builder, context};

const FRAME_LEN: usize = 65_536;

pub(crate) fn benches(criterion: &mut Criterion) {
    for backend in BACKENDS {
        for len in [16, 1 << 10, 64 << 10] {
            let mut group = criterion.benchmark_group(format!("small/{backend:?}/{len}"));
            group.throughput(Throughput::Bytes(len as u64));
            let (plaintext, context) = (buffer(len), context());

            let aead = Aead::new(*backend);
            let mut sealed = buffer(Aead::sealed_len(len, FRAME_LEN));
            group.bench_function("bare seal", |bencher| {
                bencher.iter(|| aead.seal(black_box(&plaintext), FRAME_LEN, &mut sealed));
            });
            let envelope = builder(FRAME_LEN).backend(*backend).build().unwrap();
            group.bench_function("seal", |bencher| {
                bencher.iter(|| block_on(envelope.seal(black_box(&plaintext), &context)).unwrap());
            });
            let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();
            group.bench_function("open", |bencher| {
                bencher.iter(|| block_on(envelope.open(black_box(&sealed), &context)).unwrap());
            });
            group.finish();
        }
    }
}
