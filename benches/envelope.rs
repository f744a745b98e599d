//! Sealing and opening of whole buffers, beside the bare AES-256-GCM of the same backend on the same frames.
//!
//! `cargo bench --bench envelope`

use std::{hint::black_box, time::Duration};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, aead::inout::InOutBuf};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kms_envelope::{Backend, EncryptionContext, Envelope, LocalKey};
use pollster::block_on;

const FRAME_LEN: usize = 65_536;

/// AES-256-GCM as the backend's crate offers it: plaintext and room for the ciphertext and a tag.
type Aead = Box<dyn Fn(&[u8; 12], &[u8], &mut [u8])>;

fn bare(backend: Backend) -> Aead {
    match backend {
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc => {
            use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
            Box::new(move |iv, plaintext, out| {
                let (ciphertext, tag) = out.split_at_mut(plaintext.len());
                key.seal_out_of_place_scatter(Nonce::from(iv), Aad::from([0; 76]), plaintext, ciphertext, &[], tag)
                    .unwrap();
            })
        }
        _ => {
            let key = Aes256Gcm::new(&[7; 32].into());
            Box::new(move |iv, plaintext, out| {
                let (ciphertext, tag) = out.split_at_mut(plaintext.len());
                let buffer = InOutBuf::new(plaintext, ciphertext).unwrap();
                tag.copy_from_slice(&key.encrypt_inout_detached(iv.into(), &[0; 76], buffer).unwrap());
            })
        }
    }
}

fn whole_buffers(criterion: &mut Criterion) {
    let context = EncryptionContext::from([("tenant", "acme")]);
    let backends = [
        #[cfg(feature = "aws-lc")]
        Backend::AwsLc,
        Backend::RustCrypto,
    ];
    for backend in backends {
        for (name, len) in [("1 KiB", 1 << 10), ("64 KiB", 64 << 10), ("16 MiB", 16 << 20)] {
            let mut group = criterion.benchmark_group(format!("{backend:?}/{name}"));
            group.throughput(Throughput::Bytes(len as u64));
            let plaintext = vec![1; len];
            let key = LocalKey::generate("bench", "key").unwrap();
            let envelope = Envelope::builder(key).backend(backend).build().unwrap();
            let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();

            let aead = bare(backend);
            let mut out = vec![0; len + 16 * len.div_ceil(FRAME_LEN)];
            group.bench_function(BenchmarkId::from_parameter("bare AES-256-GCM"), |bencher| {
                bencher.iter(|| {
                    for (frame, out) in plaintext.chunks(FRAME_LEN).zip(out.chunks_mut(FRAME_LEN + 16)) {
                        aead(&[0; 12], black_box(frame), out);
                    }
                });
            });
            group.bench_function(BenchmarkId::from_parameter("seal"), |bencher| {
                bencher.iter(|| block_on(envelope.seal(black_box(&plaintext), &context)).unwrap());
            });
            group.bench_function(BenchmarkId::from_parameter("open"), |bencher| {
                bencher.iter(|| block_on(envelope.open(black_box(&sealed), &context)).unwrap());
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = whole_buffers
}
criterion_main!(benches);
