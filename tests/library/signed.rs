//! Signed messages with several threads: a task hashes while the caller encrypts, and nothing else changes.

use std::{
    io::{BufRead, Read, Write, sink},
    sync::Arc,
};

use kms_envelope::{
    AlgorithmSuite, Backend, Envelope, EnvelopeBuilder, OpenError, RawAes,
    error::FormatError,
    message::{FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD},
    stream::Threads,
};
use pollster::block_on;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use test_support::{context, header, open, plaintext, seal};

/// Several times as long as the bytes that can wait to be hashed.
const LEN: usize = 5_000_001;
const FRAME_LEN: usize = 65_536;

fn pool(threads: usize) -> Arc<ThreadPool> {
    Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

fn threads() -> [Threads; 5] {
    [Threads::One, Threads::Global, Threads::Pool(pool(1)), Threads::Pool(pool(2)), Threads::Pool(pool(4))]
}

fn builder(threads: Threads) -> EnvelopeBuilder {
    Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap())
        .suite(AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384)
        .frame_len(FRAME_LEN as u32)
        .threads(threads)
}

fn envelope(threads: Threads) -> Envelope {
    builder(threads).build().unwrap()
}

fn seal_in_pieces(envelope: &Envelope, plaintext: &[u8], piece_len: usize) -> Vec<u8> {
    let mut writer = block_on(envelope.seal_writer(Vec::new(), &context())).unwrap();
    plaintext.chunks(piece_len).for_each(|piece| writer.write_all(piece).unwrap());
    writer.finish().unwrap()
}

/// Returns the plaintext that a reader releases, and its error.
fn read_in_pieces(envelope: &Envelope, sealed: &[u8], piece_len: usize) -> (Vec<u8>, Option<String>) {
    let pieces = test_support::Pieces(sealed, piece_len);
    let mut plaintext = Vec::new();
    let read = block_on(envelope.open_reader(pieces, &context()))
        .map_err(|error| error.to_string())
        .and_then(|mut reader| reader.read_to_end(&mut plaintext).map_err(|error| error.to_string()));
    (plaintext, read.err())
}

#[test]
fn a_short_message_without_its_signature_is_truncated() {
    let envelope = envelope(Threads::One);
    let sealed = seal(&envelope, b"data");
    let frame_end = header(&sealed).len() + FINAL_FRAME_OVERHEAD + 4;
    let is_truncated =
        |error: OpenError| matches!(error, OpenError::Format(FormatError::Truncated(at)) if at == "the signature");
    for len in frame_end..sealed.len() {
        let (message, context, mut buffer) = (&sealed[..len], context(), Vec::new());
        assert!(is_truncated(block_on(envelope.open(message, &context)).unwrap_err()), "{len}");
        let results = block_on(envelope.open_many([(message, &context)], &mut buffer));
        results.into_iter().for_each(|result| assert!(is_truncated(result.unwrap_err()), "{len}"));
        assert!(buffer.iter().all(|byte| *byte == 0), "{len}");
    }
    assert_eq!(open(&envelope, &sealed).unwrap(), b"data");
}

#[cfg(feature = "rust-crypto")]
#[test]
fn the_bytes_are_the_same_with_any_threads() {
    for frame_len in [4096, 65_536, 1 << 21] {
        let plaintext = plaintext(LEN);
        // Only this backend signs with the envelope's random numbers.
        let make = |threads| {
            let builder = builder(threads).frame_len(frame_len).backend(Backend::RustCrypto);
            builder.rng(test_support::rng(0)).build().unwrap()
        };
        let expected = seal(&make(Threads::One), &plaintext);
        for threads in threads() {
            assert!(seal(&make(threads.clone()), &plaintext) == expected, "{threads:?}");
            for piece_len in [10_000, 65_536, 3_000_000] {
                assert!(seal_in_pieces(&make(threads.clone()), &plaintext, piece_len) == expected, "{threads:?}");
            }
        }
    }
}

#[test]
fn a_message_opens_or_fails_in_the_same_way_with_any_threads() {
    let plaintext = plaintext(LEN);
    let sealed = seal(&envelope(Threads::One), &plaintext);
    let body = header(&sealed).len();
    let last_frame = body + LEN / FRAME_LEN * (FRAME_LEN + FRAME_OVERHEAD);
    let footer = last_frame + 4 + 4 + 12 + 4 + LEN % FRAME_LEN + 16;
    let flips =
        [body - 1, body + 5000, last_frame - 1, last_frame + 100, footer - 1, footer, footer + 40, sealed.len() - 1];
    let flipped = flips.map(|at| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        changed
    });
    let cut = [last_frame, footer - 1, footer, footer + 1, sealed.len() - 1].map(|len| sealed[..len].to_vec());
    let longer = [&sealed[..], &[0]].concat();
    let envelopes = threads().map(envelope);
    for message in [&[sealed.clone(), longer][..], &flipped, &cut].concat() {
        let opened = envelopes.each_ref().map(|envelope| open(envelope, &message).map_err(|error| error.to_string()));
        assert!(opened.iter().all(|other| *other == opened[0]));
        assert_eq!(opened[0].is_ok(), message == sealed);
        for piece_len in [10_000, 65_536, 3_000_000] {
            for envelope in &envelopes {
                let (released, error) = read_in_pieces(envelope, &message, piece_len);
                assert_eq!(error.as_ref(), opened[0].as_ref().err());
                // The last frame is withheld until the signature has been verified.
                let end = LEN / FRAME_LEN * FRAME_LEN;
                assert!(plaintext.starts_with(&released) && (error.is_none() || released.len() <= end));
            }
        }
    }
}

/// Seals and opens a message with all methods.
fn round_trip(envelope: &Envelope, plaintext: &[u8]) {
    assert!(open(envelope, &seal(envelope, plaintext)).unwrap() == plaintext);
    let sealed = seal_in_pieces(envelope, plaintext, 65_536);
    assert!(read_in_pieces(envelope, &sealed, 65_536) == (plaintext.to_vec(), None));
}

#[test]
fn calls_in_all_threads_of_a_pool_at_once_do_not_wait_for_each_other() {
    let plaintext = plaintext(LEN);
    for size in 1..=3 {
        let pool = pool(size);
        for threads in [Threads::Global, Threads::Pool(pool.clone())] {
            let envelope = envelope(threads);
            pool.install(|| (0..3 * size).into_par_iter().for_each(|_| round_trip(&envelope, &plaintext)));
        }
    }
}

#[test]
fn many_threads_outside_a_pool_share_it() {
    let plaintext = plaintext(LEN);
    let envelope = envelope(Threads::Pool(pool(2)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| round_trip(&envelope, &plaintext));
        }
    });
}

#[test]
fn a_writer_or_reader_that_is_dropped_midway_leaves_its_pool_usable() {
    let plaintext = plaintext(LEN);
    let pool = pool(2);
    let envelope = envelope(Threads::Pool(pool.clone()));
    let sealed = seal(&envelope, &plaintext);
    for _ in 0..20 {
        let mut writer = block_on(envelope.seal_writer(sink(), &context())).unwrap();
        writer.write_all(&plaintext[..LEN / 2]).unwrap();
        drop(writer);
        let mut reader = block_on(envelope.open_reader(&sealed[..], &context())).unwrap();
        assert!(!reader.fill_buf().unwrap().is_empty());
    }
    // Both threads of the pool are free again.
    pool.broadcast(|_| ());
    round_trip(&envelope, &plaintext);
}
