//! How often memory is asked for, and how much: nothing per frame, little per message, and never what a stranger's
//! message claims to need.

use std::io::{self, Read, Write, sink};

use allocation_counter::{AllocationInfo, measure};
use kms_envelope::{Backend, EncryptionContext, Envelope, LocalKey};
use pollster::block_on;

const BACKENDS: &[Backend] = &[
    #[cfg(feature = "aws-lc")]
    Backend::AwsLc,
    Backend::RustCrypto,
];

const FRAME_LEN: usize = 4096;

fn envelope(backend: Backend) -> Envelope {
    let key = LocalKey::new("tests", "key", [7; 32]).unwrap();
    Envelope::builder(key).frame_len(FRAME_LEN as u32).backend(backend).build().unwrap()
}

fn context() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme")])
}

/// Of the second time: the first one may set up what stays.
fn counted(mut run: impl FnMut()) -> AllocationInfo {
    run();
    measure(run)
}

#[test]
fn a_buffer_that_is_long_enough_is_used_again_and_no_frame_allocates() {
    for backend in BACKENDS {
        let envelope = envelope(*backend);
        let context = context();
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        let mut counts = [1, 10, 1000].map(|frames| {
            let plaintext = vec![1; frames * FRAME_LEN];
            let sealing = counted(|| block_on(envelope.seal_into(&plaintext, &context, &mut sealed)).unwrap());
            let opening = counted(|| drop(block_on(envelope.open_into(&sealed, &context, &mut opened)).unwrap()));
            assert!(opened == plaintext);
            (sealing, opening)
        });
        println!("{backend:?}: {:?}", counts[0]);
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
        let (sealing, opening) = &mut counts[0];
        assert!(sealing.count_total <= 30 && opening.count_total <= 30, "{sealing:?} {opening:?}");
        assert!(sealing.bytes_max < 4096 && opening.bytes_max < 4096, "{sealing:?} {opening:?}");
    }
}

#[test]
fn a_stream_allocates_its_buffers_and_nothing_per_frame() {
    let envelope = envelope(Backend::default());
    let context = context();
    let counts = [1000, 3000].map(|frames| {
        let len = (frames * FRAME_LEN) as u64;
        let mut sealed = Vec::with_capacity(len as usize * 2);
        let sealing = measure(|| {
            let mut reader = block_on(envelope.seal_reader(io::repeat(1).take(len), &context)).unwrap();
            reader.read_to_end(&mut sealed).unwrap();
        });
        let writing = measure(|| {
            let mut writer = block_on(envelope.seal_writer(sink(), &context)).unwrap();
            (0..frames).for_each(|_| writer.write_all(&[1; FRAME_LEN]).unwrap());
            writer.finish().unwrap();
        });
        let opening = measure(|| {
            let mut reader = block_on(envelope.open_reader(&sealed[..], &context)).unwrap();
            assert_eq!(io::copy(&mut reader, &mut sink()).unwrap(), len);
        });
        [sealing, writing, opening]
    });
    assert_eq!(counts[0], counts[1]);
    for info in &counts[0] {
        assert!(info.count_total < 80 && info.bytes_max < 2 * 1024 * 1024 + 100_000, "{info:?}");
    }
}

#[test]
fn a_range_into_a_buffer_allocates_no_more_than_what_it_reads() {
    let envelope = envelope(Backend::default());
    let context = context();
    let sealed = block_on(envelope.seal(&vec![1; 1000 * FRAME_LEN], &context)).unwrap();
    let reader = block_on(envelope.range_reader(&sealed[..], sealed.len() as u64, &context)).unwrap();
    let mut out = vec![0; 10 * FRAME_LEN];
    let info = counted(|| reader.read_into(100, &mut out).unwrap());
    println!("{info:?}");
    assert!(info.count_total <= 3 && info.bytes_max <= 20 * FRAME_LEN as u64, "{info:?}");
}
