//! Small messages, with a provider and with a cached data key, compared with the bare primitives that a message with a
//! cached data key needs.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use criterion::{Bencher, Criterion, Throughput};
use kms_envelope::{Backend, DataKeyCache, Envelope, Limits, message::Header};
use pollster::block_on;

use crate::{
    bare::{Aead, Primitives},
    buffer, builder,
    cached::Free,
    context,
};

const FRAME_LEN: usize = 65_536;

/// The length of the authentication of a header of version 2: the tag.
const TAG_LEN: usize = 16;

/// Runs a closure on `count` threads at once. The measured time is that of one message on each thread.
pub(crate) fn on_threads<T>(
    bencher: &mut Bencher<'_>,
    count: usize,
    start: impl Fn() -> T + Sync,
    run: impl Fn(&mut T) + Sync,
) {
    bencher.iter_custom(|iterations| {
        let begin = Instant::now();
        thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    let mut state = start();
                    (0..iterations).for_each(|_| run(&mut state));
                });
            }
        });
        begin.elapsed()
    });
}

pub(crate) fn benches(criterion: &mut Criterion) {
    for backend in Backend::ALL.iter().copied() {
        with_provider(criterion, backend);
        let sealed = block_on(Envelope::new(Free).seal(&[], &context())).unwrap();
        let header_len = Header::parse(&sealed, &Limits::default()).unwrap().len() - TAG_LEN;
        primitives(criterion, backend, header_len);
        for len in [16, 1 << 10, 4 << 10] {
            for threads in [1, 2] {
                cached(criterion, backend, header_len, len, threads);
            }
        }
    }
}

/// Messages that each call the provider, a local AES key.
fn with_provider(criterion: &mut Criterion, backend: Backend) {
    for len in [16, 1 << 10, 64 << 10] {
        let mut group = criterion.benchmark_group(format!("small/{backend:?}/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        let (plaintext, context) = (buffer(len), context());

        let aead = Aead::new(backend);
        let mut sealed = buffer(Aead::sealed_len(len, FRAME_LEN));
        group.bench_function("bare seal", |bencher| {
            bencher.iter(|| aead.seal(black_box(&plaintext), FRAME_LEN, &mut sealed));
        });
        let envelope = builder(FRAME_LEN).backend(backend).build().unwrap();
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

/// The bare primitives, one by one.
fn primitives(criterion: &mut Criterion, backend: Backend, header_len: usize) {
    let mut group = criterion.benchmark_group(format!("small/{backend:?}/primitives"));
    let mut bare = Primitives::new(backend, header_len, 0);
    group.bench_function("bare 32 random bytes", |bencher| bencher.iter(|| bare.random()));
    group.bench_function("bare HKDF", |bencher| bencher.iter(|| bare.hkdf()));
    let key = [7; 32];
    group.bench_function("bare key schedule", |bencher| bencher.iter(|| Aead::with_key(backend, black_box(&key))));
    let aead = Aead::with_key(backend, &key);
    group.bench_function("bare header tag", |bencher| bencher.iter(|| bare.header_tag(&aead)));
    for len in [16, 1 << 10, 4 << 10] {
        let mut bare = Primitives::new(backend, header_len, len);
        let plaintext = buffer(len);
        group.bench_function(format!("bare GCM, {len} bytes"), |bencher| {
            bencher.iter(|| bare.gcm_seal(&aead, black_box(&plaintext)));
        });
    }
    group.finish();
}

/// Messages with a cached data key, beside everything that they need.
fn cached(criterion: &mut Criterion, backend: Backend, header_len: usize, len: usize, threads: usize) {
    let mut group = criterion.benchmark_group(format!("small/{backend:?}/cached/{len}/{threads}"));
    group.throughput(Throughput::Bytes((len * threads) as u64));
    let (plaintext, context) = (buffer(len), context());
    let cache = DataKeyCache::builder(Duration::from_secs(3600)).build().unwrap();
    let envelope = Envelope::builder(Free).backend(backend).cache(cache).build().unwrap();
    let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();
    let bare = || Primitives::new(backend, header_len, len);

    group.bench_function("bare seal", |bencher| {
        on_threads(bencher, threads, bare, |bare| bare.seal(black_box(&plaintext)));
    });
    group.bench_function("seal", |bencher| {
        on_threads(bencher, threads, Vec::new, |out| {
            block_on(envelope.seal_into(black_box(&plaintext), &context, out)).unwrap();
        });
    });
    group.bench_function("bare open", |bencher| on_threads(bencher, threads, bare, |bare| bare.open()));
    group.bench_function("open", |bencher| {
        on_threads(bencher, threads, Vec::new, |out| {
            drop(block_on(envelope.open_into(black_box(&sealed), &context, out)).unwrap());
        });
    });
    group.finish();
}
