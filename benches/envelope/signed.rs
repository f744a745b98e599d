//! Signed messages. The hash for the signature limits them; with several threads, one hashes while another encrypts.

use std::{
    hint::black_box,
    io::{BufRead, Write, sink},
    sync::Arc,
};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use kms_envelope::{AlgorithmSuite, Backend, Envelope, stream::Threads};
use pollster::block_on;
use rayon::ThreadPoolBuilder;

use crate::{BACKENDS, MIB, bare, buffer, builder, context};

const LEN: usize = 64 * MIB;
const FRAME_LEN: usize = 65_536;
const PIECE: usize = 65_536;

pub(crate) fn benches(criterion: &mut Criterion) {
    for backend in BACKENDS {
        long(criterion, *backend);
    }
    small(criterion);
}

fn long(criterion: &mut Criterion, backend: Backend) {
    let mut group = criterion.benchmark_group(format!("signed/{backend:?}"));
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
    let plaintext = buffer(LEN);
    let (mut sealed, mut opened) = (buffer(LEN), buffer(LEN));
    group.bench_function("bare SHA-384", |bencher| bencher.iter(|| bare::sha384(backend, black_box(&plaintext))));
    for (name, suite, threads) in [
        ("0478", AlgorithmSuite::Aes256GcmHkdfSha512Commit, 1),
        ("0578", AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384, 1),
        ("0578 2 threads", AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384, 2),
    ] {
        let pool = || Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        let how = if threads == 1 { Threads::One } else { Threads::Pool(pool()) };
        let envelope = builder(FRAME_LEN).backend(backend).suite(suite).threads(how).build().unwrap();
        group.bench_function(format!("seal {name}"), |bencher| {
            bencher.iter(|| block_on(envelope.seal_into(black_box(&plaintext), &context(), &mut sealed)).unwrap());
        });
        group.bench_function(format!("open {name}"), |bencher| {
            bencher.iter(|| block_on(envelope.open_into(black_box(&sealed), &context(), &mut opened)).unwrap());
        });
        if suite.signature().is_some() && backend == Backend::default() {
            streams(&mut group, name, &envelope, &plaintext, &sealed);
        }
    }
    group.finish();
}

fn streams(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    envelope: &Envelope,
    plaintext: &[u8],
    message: &[u8],
) {
    group.bench_function(format!("std seal {name}"), |bencher| {
        bencher.iter(|| {
            let mut writer = block_on(envelope.seal_writer(sink(), &context())).unwrap();
            plaintext.chunks(PIECE).for_each(|piece| writer.write_all(black_box(piece)).unwrap());
            writer.finish().unwrap()
        });
    });
    group.bench_function(format!("std open {name}"), |bencher| {
        bencher.iter(|| {
            let mut reader = block_on(envelope.open_reader(black_box(message), &context())).unwrap();
            loop {
                let len = reader.fill_buf().unwrap().len();
                if len == 0 {
                    break;
                }
                reader.consume(len);
            }
        });
    });
}

/// The cost of a signature, which does not depend on the length of the message.
fn small(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signed/1024");
    group.throughput(Throughput::Bytes(1024));
    let (plaintext, context) = (buffer(1024), context());
    for backend in BACKENDS {
        let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
        let envelope = builder(FRAME_LEN).suite(suite).backend(*backend).build().unwrap();
        let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();
        group.bench_function(format!("seal 0578 {backend:?}"), |bencher| {
            bencher.iter(|| block_on(envelope.seal(black_box(&plaintext), &context)).unwrap());
        });
        group.bench_function(format!("open 0578 {backend:?}"), |bencher| {
            bencher.iter(|| block_on(envelope.open(black_box(&sealed), &context)).unwrap());
        });
    }
    group.finish();
}
