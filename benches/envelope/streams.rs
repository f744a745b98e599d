//! Streams in memory, in pieces of 64 KiB, compared with a copy and the bare cipher.

use std::{
    hint::black_box,
    io::{BufRead, Write, sink},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::{StreamExt, stream};
use kms_envelope::Backend;
use pollster::block_on;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::{MIB, bare::Aead, buffer, builder, context};

const LEN: usize = 64 * MIB;
const FRAME_LEN: usize = 65_536;
const PIECE: usize = 65_536;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("streams");
    group.throughput(Throughput::Bytes(LEN as u64));
    let (plaintext, context) = (buffer(LEN), context());
    let envelope = builder(FRAME_LEN).build().unwrap();
    let message = block_on(envelope.seal(&plaintext, &context)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pieces = |bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        (0..bytes.len()).step_by(PIECE).map(|at| bytes.slice(at..bytes.len().min(at + PIECE))).collect::<Vec<_>>()
    };
    let (plaintext_pieces, message_pieces) = (pieces(&plaintext), pieces(&message));

    let aead = Aead::new(Backend::default());
    let (mut batch, mut copied) = (buffer(Aead::sealed_len(MIB, FRAME_LEN)), buffer(MIB));
    // A stream copies each byte once and encrypts it once.
    group.bench_function("copy and bare seal", |bencher| {
        bencher.iter(|| {
            for piece in black_box(&plaintext).chunks(MIB) {
                copied.copy_from_slice(piece);
                aead.seal(&copied, FRAME_LEN, &mut batch);
            }
        });
    });
    group.bench_function("std seal", |bencher| {
        bencher.iter(|| {
            let mut writer = block_on(envelope.seal_writer(sink(), &context)).unwrap();
            plaintext.chunks(PIECE).for_each(|piece| writer.write_all(black_box(piece)).unwrap());
            writer.finish().unwrap()
        });
    });
    group.bench_function("std open", |bencher| {
        bencher.iter(|| {
            let mut reader = block_on(envelope.open_reader(black_box(&message[..]), &context)).unwrap();
            loop {
                let len = reader.fill_buf().unwrap().len();
                if len == 0 {
                    break;
                }
                reader.consume(len);
            }
        });
    });
    group.bench_function("tokio seal", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut writer = envelope.seal_async_writer(tokio::io::sink(), &context).await.unwrap();
                for piece in plaintext.chunks(PIECE) {
                    writer.write_all(black_box(piece)).await.unwrap();
                }
                writer.shutdown().await.unwrap();
            });
        });
    });
    group.bench_function("tokio open", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut reader = envelope.open_async_reader(black_box(&message[..]), &context).await.unwrap();
                loop {
                    let len = reader.fill_buf().await.unwrap().len();
                    if len == 0 {
                        break;
                    }
                    reader.consume(len);
                }
            });
        });
    });
    let source = |pieces: &[Bytes]| stream::iter(pieces.to_vec()).map(Ok::<_, std::io::Error>);
    group.bench_function("stream seal", |bencher| {
        bencher.iter(|| {
            block_on(async {
                let mut sealed = envelope.seal_stream(source(&plaintext_pieces), &context).await.unwrap();
                while let Some(piece) = sealed.next().await {
                    black_box(piece.unwrap());
                }
            });
        });
    });
    group.bench_function("stream open", |bencher| {
        bencher.iter(|| {
            block_on(async {
                let mut opened = envelope.open_stream(source(&message_pieces), &context).await.unwrap();
                while let Some(piece) = opened.next().await {
                    black_box(piece.unwrap());
                }
            });
        });
    });
    group.finish();
    small_pieces(criterion);
}

/// Frames that are assembled from many pieces.
fn small_pieces(criterion: &mut Criterion) {
    const LEN: usize = 16 * MIB;
    let mut group = criterion.benchmark_group("streams/pieces of 1 KiB");
    group.throughput(Throughput::Bytes(LEN as u64));
    let (plaintext, context) = (buffer(LEN), context());
    for frame_len in [65_536, LEN] {
        let envelope = builder(frame_len).build().unwrap();
        let message = Bytes::from(block_on(envelope.seal(&plaintext, &context)).unwrap());
        group.bench_function(format!("open/{frame_len}"), |bencher| {
            bencher.iter(|| {
                let pieces = (0..message.len()).step_by(1024).map(|at| message.slice(at..message.len().min(at + 1024)));
                let source = stream::iter(pieces).map(Ok::<_, std::io::Error>);
                block_on(async {
                    let mut opened = envelope.open_stream(source, &context).await.unwrap();
                    while let Some(piece) = opened.next().await {
                        black_box(piece.unwrap());
                    }
                });
            });
        });
    }
    group.finish();
}
