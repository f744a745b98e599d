//! Reads of ranges from a long message in memory.

use std::{hint::black_box, io::Read};

use criterion::{Criterion, Throughput};
use kms_envelope::Backend;
use pollster::block_on;

use crate::{MIB, bare::Aead, buffer, builder, context};

const LEN: u64 = 1 << 30;
const RANGE: usize = 65_536;

pub(crate) fn benches(criterion: &mut Criterion) {
    for frame_len in [4096, 65_536] {
        let mut group = criterion.benchmark_group(format!("ranges/{frame_len}"));
        group.throughput(Throughput::Bytes(RANGE as u64));
        let (envelope, context) = (builder(frame_len).build().unwrap(), context());
        let plaintext = std::io::repeat(1).take(LEN);
        let mut message = Vec::with_capacity(LEN as usize + 16 * MIB);
        block_on(envelope.seal_reader(plaintext, &context)).unwrap().read_to_end(&mut message).unwrap();

        // As many frames as a range at any position overlaps.
        let aead = Aead::new(Backend::default());
        let frames_len = RANGE + frame_len;
        let (mut out, mut sealed) = (buffer(frames_len), buffer(Aead::sealed_len(frames_len, frame_len)));
        aead.seal(&out, frame_len, &mut sealed);
        group.bench_function("bare open", |bencher| {
            bencher.iter(|| aead.open(black_box(&sealed), frame_len, &mut out));
        });
        let reader = block_on(envelope.range_reader(&message[..], message.len() as u64, &context)).unwrap();
        let mut out = buffer(RANGE);
        // The step has no factor in common with the length, so the ranges spread over the whole message.
        let mut start = 0;
        group.bench_function("read", |bencher| {
            bencher.iter(|| {
                start = (start + 617_283_951) % (LEN - RANGE as u64);
                reader.read_into(black_box(start), &mut out).unwrap();
            });
        });
        group.finish();
    }
}
