//! A long header, parsed in one piece and byte by byte: the cost of reading a header incrementally.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use kms_envelope::{
    EncryptionContext, Limits,
    message::{Header, HeaderReader},
};
use pollster::block_on;

use crate::builder;

pub(crate) fn benches(criterion: &mut Criterion) {
    // 64 KiB in 5,460 pairs: the maximum for names and values of four characters.
    let pairs = (0..5_460).map(|number| (format!("{number:04}"), "a".repeat(4)));
    let context: EncryptionContext = pairs.collect();
    let message = block_on(builder(65_536).build().unwrap().seal(b"data", &context)).unwrap();
    let limits = Limits::default();
    let header_len = Header::parse(&message, &limits).unwrap().len();
    assert!(header_len > 65_000);

    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Bytes(header_len as u64));
    group.bench_function("whole", |bencher| {
        bencher.iter(|| Header::parse(black_box(&message), &limits).unwrap());
    });
    group.bench_function("byte by byte", |bencher| {
        bencher.iter(|| {
            let mut reader = HeaderReader::new(&limits);
            for byte in black_box(&message).chunks(1) {
                if reader.feed(byte).unwrap() == 0 {
                    break;
                }
            }
            reader.finish().unwrap()
        });
    });
    group.finish();
}
