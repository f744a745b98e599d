//! How often the library allocates, and how much: nothing per frame, little per message, and never as much as an
//! untrusted message claims to need.

use std::{
    io::{self, Read, Write, sink},
    ops::Range,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use futures_util::FutureExt;
#[cfg(feature = "stream")]
use kms_envelope::AlgorithmSuite;
use kms_envelope::{
    Backend, DataKeyCache, EncryptionContext, Envelope, Limits, RawAes, provider::SecretKey, stream::AsyncReadAt,
};
use pollster::block_on;
use test_support::{FixedDataKey, Pieces, context, fixtures};

const FRAME_LEN: usize = 4096;

fn envelope(backend: Backend) -> Envelope {
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    Envelope::builder(key).frame_len(FRAME_LEN as u32).backend(backend).build().unwrap()
}

/// Measures the second run, because the first one may allocate what is kept for later calls.
fn counted(mut run: impl FnMut()) -> AllocationInfo {
    run();
    measure(run)
}

#[test]
fn a_buffer_that_is_long_enough_is_reused_and_no_frame_allocates() {
    for backend in Backend::ALL.iter().copied() {
        let envelope = envelope(backend);
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
fn a_message_with_a_cached_data_key_allocates_at_most_twice() {
    for backend in Backend::ALL.iter().copied() {
        // The HKDF of AWS-LC's FIPS module copies its salt.
        let hkdf = if backend.is_fips() { 2 } else { 0 };
        // Required pairs are authenticated together with a copy of the header.
        for (required, sealing_max, opening_max) in [(&[][..], 2, 2), (&["tenant"], 3, 7)] {
            let cache = DataKeyCache::builder(Duration::from_secs(300)).build().unwrap();
            let key = RawAes::new("tests", "key", [7; 32]).unwrap();
            let builder = Envelope::builder(key).required_context(required.iter().copied());
            let envelope = builder.backend(backend).cache(cache.clone()).build().unwrap();
            let context = EncryptionContext::from([("tenant", "acme"), ("purpose", "invoices")]);
            let (mut sealed, mut opened) = (Vec::new(), Vec::new());
            for len in [0, 16, 1 << 10, 4 << 10] {
                let plaintext = vec![1; len];
                // `block_on` would allocate.
                let sealing = counted(|| {
                    envelope.seal_into(&plaintext, &context, &mut sealed).now_or_never().unwrap().unwrap();
                });
                // The first run adds the entry for opening, which later messages share.
                let opening = counted(|| {
                    drop(envelope.open_into(&sealed, &context, &mut opened).now_or_never().unwrap().unwrap());
                });
                assert!(opened == plaintext);
                println!("{backend:?} {required:?} {len}: {sealing:?} {opening:?}");
                assert!(sealing.count_total <= sealing_max + hkdf, "{sealing:?}");
                assert!(opening.count_total <= opening_max + hkdf, "{opening:?}");
            }
            assert_eq!(cache.stats().calls, 2);
        }
    }
}

#[test]
fn a_stream_allocates_its_buffers_and_nothing_per_frame() {
    let envelope = envelope(Backend::default());
    let context = context();
    // The provider creates its cipher on the first request and keeps it.
    block_on(envelope.seal(b"", &context)).unwrap();
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
    assert!(info.count_total <= 4 && info.bytes_max <= 20 * FRAME_LEN as u64, "{info:?}");
}

#[test]
fn a_frame_that_many_ranges_need_is_opened_once() {
    let envelope = envelope(Backend::default());
    let context = context();
    let sealed = block_on(envelope.seal(&vec![1; 10 * FRAME_LEN], &context)).unwrap();
    let reader = block_on(envelope.range_reader(&sealed[..], sealed.len() as u64, &context)).unwrap();
    // A frame that is needed only in part is opened into separate memory.
    let ranges: Vec<_> = (0..1000).map(|start| start..start + 5).collect();
    let info = counted(|| drop(reader.read_ranges(&ranges).unwrap()));
    println!("{info:?}");
    assert!(info.bytes_total < 500_000, "{info:?}");
}

/// A source that allocates its responses, like an object store does.
struct Copied(Vec<u8>);

impl AsyncReadAt for Copied {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        Ok(Bytes::copy_from_slice(&self.0[range.start as usize..range.end as usize]))
    }
}

#[test]
fn ranges_that_overlap_take_little_memory_besides_the_result() {
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    let envelope = Envelope::builder(key).frame_len(1).build().unwrap();
    let context = context();
    let sealed = block_on(envelope.seal(&[1; 2000], &context)).unwrap();
    let len = sealed.len() as u64;
    let ranges: Vec<_> = (0..500).map(|start| start..2000 - start).collect();
    let result_len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    // One request, and one for each frame.
    for piece_len in [1 << 20, 0] {
        let reader = block_on(envelope.range_reader(&sealed[..], len, &context)).unwrap().with_piece_len(piece_len);
        let later = block_on(envelope.async_range_reader(Copied(sealed.clone()), len, &context)).unwrap();
        let later = later.with_piece_len(piece_len);
        for info in [
            counted(|| drop(reader.read_ranges(&ranges).unwrap())),
            counted(|| drop(block_on(later.read_ranges(&ranges)).unwrap())),
        ] {
            assert!(info.bytes_max < result_len + 1_000_000, "{piece_len}: {info:?}");
        }
    }
}

#[test]
fn ranges_and_streams_of_them_hold_as_many_pieces_as_documented() {
    const MIB: u64 = 1 << 20;
    let envelope = envelope(Backend::default());
    let context = context();
    let sealed = block_on(envelope.seal(&vec![1; 30 << 20], &context)).unwrap();
    let len = sealed.len() as u64;
    let reader = block_on(envelope.async_range_reader(Copied(sealed), len, &context)).unwrap();
    let ranges = [0..10 << 20, 15 << 20..30 << 20];
    let info = counted(|| drop(block_on(reader.read_ranges(&ranges)).unwrap()));
    assert!(info.bytes_max < 25 * MIB + 8 * MIB + MIB / 2, "{info:?}");
    let few = reader.clone().with_concurrency(2);
    let info = counted(|| drop(block_on(few.read_ranges(&ranges)).unwrap()));
    assert!(info.bytes_max < 25 * MIB + 2 * MIB + MIB / 2, "{info:?}");
    #[cfg(feature = "stream")]
    for readahead in [0, 2, 5] {
        let reader = reader.clone().with_readahead(readahead as usize);
        let info = counted(|| {
            let mut stream = reader.stream(5..30 << 20).unwrap();
            while let Some(piece) = block_on(futures_util::StreamExt::next(&mut stream)) {
                assert!(!piece.unwrap().is_empty());
            }
        });
        assert!(info.bytes_max < (readahead + 2) * MIB + MIB / 2, "{info:?}");
    }
}

// Lengths claimed by untrusted messages.

/// Returns the start of a version 2 header with this context and these encrypted data keys.
fn start_of_header(suite: u16, keys: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2];
    bytes.extend(suite.to_be_bytes());
    bytes.extend([7; 32]);
    bytes.extend([0, 0]);
    bytes.extend(keys);
    bytes
}

/// An attacker who has a data key.
fn known_key() -> FixedDataKey {
    FixedDataKey::new(|| SecretKey::from([7; 32]))
}

/// Returns the maximum memory that opening the message takes with any method. Opening must fail.
fn memory_to_refuse(message: &[u8]) -> u64 {
    let envelope = Envelope::builder(known_key()).build().unwrap();
    let context = EncryptionContext::new();
    let whole = measure(|| assert!(block_on(envelope.open(message, &context)).is_err()));
    let streamed = measure(|| {
        let read =
            block_on(envelope.open_reader(message, &context)).map(|mut reader| io::copy(&mut reader, &mut sink()));
        assert!(!matches!(read, Ok(Ok(_))));
    });
    let ranged = measure(|| {
        let reader = block_on(envelope.range_reader(message, message.len() as u64, &context));
        assert!(!matches!(reader.map(|reader| reader.read(0..1)), Ok(Ok(_))));
    });
    whole.bytes_max.max(streamed.bytes_max).max(ranged.bytes_max)
}

#[test]
fn lengths_that_a_message_claims_allocate_no_memory() {
    let one_key = b"\0\x01\0\x01p\0\x01i\0\x01c";
    let long_frames = [&start_of_header(0x0478, one_key)[..], b"\x02\xff\xff\xff\xff", &[0; 1000]].concat();
    let many_keys = [&start_of_header(0x0478, b"\xff\xff")[..], &[0; 1000]].concat();
    let long_key = [&start_of_header(0x0478, b"\0\x01\xff\xff")[..], &[0; 1000]].concat();
    let long_context = [&[2, 4, 0x78][..], &[7; 32], b"\xff\xff\xff\xff", &[0; 1000]].concat();
    for message in [long_frames, many_keys, long_key, long_context] {
        assert!(memory_to_refuse(&message) < 16 << 10);
    }
}

#[test]
fn an_authentic_header_with_false_lengths_allocates_no_more_than_the_limits() {
    // The sealer may use the key, so the header is authentic, but the body claims false lengths.
    let limits = Limits::default().with_frame_len(u32::MAX);
    let envelope = Envelope::builder(known_key()).frame_len(16 << 20).limits(limits).build().unwrap();
    let message = block_on(envelope.seal(b"data", &EncryptionContext::new())).unwrap();
    // The final frame has 4 bytes and claims 16 MiB.
    let mut claims = message.clone();
    let at = message.len() - 16 - 4 - 4;
    claims[at..at + 4].copy_from_slice(&(16u32 << 20).to_be_bytes());
    // A stream has one buffer of one frame for input, and one for output.
    assert!(memory_to_refuse(&claims) < 2 * (16 << 20) + (64 << 10));

    // A body without frames that claims 64 GiB, or as much as the limit allows.
    for claimed in [64u64 << 30, 64 << 20] {
        let header_len = message.len() - 4 - 40;
        let body = [&[0; 12][..], &claimed.to_be_bytes(), &[0; 500]].concat();
        let mut claims = [&message[..header_len], &body].concat();
        // The header's tag does not match it, so both the whole buffer and the stream are refused for their tag.
        let content_type = header_len - 16 - 32 - 5;
        claims[content_type..content_type + 5].copy_from_slice(&[1, 0, 0, 0, 0]);
        assert!(memory_to_refuse(&claims) < 16 << 10);
    }
    let envelope = Envelope::new(fixtures::key());
    let mut message = fixtures::message("0478/non-framed-len-129");
    let at = message.len() - 16 - 129 - 8;
    message[at..at + 8].copy_from_slice(&(64u64 << 20).to_be_bytes());
    let info = measure(|| {
        let mut reader = block_on(envelope.open_reader(&message[..], &EncryptionContext::new())).unwrap();
        assert!(io::copy(&mut reader, &mut sink()).is_err());
    });
    // Only the buffers of a stream, not the claimed length.
    assert!(info.bytes_max < (2 << 20) + (64 << 10), "{info:?}");
}

#[cfg(feature = "parallel")]
#[test]
fn neither_threads_nor_claimed_lengths_allocate_memory_before_the_body_arrives() {
    use kms_envelope::stream::Threads;

    let pool = std::sync::Arc::new(rayon::ThreadPoolBuilder::new().num_threads(64).build().unwrap());
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    let envelope = Envelope::builder(key).frame_len(16 << 20).threads(Threads::Pool(pool)).build().unwrap();
    let context = EncryptionContext::new();
    let message = block_on(envelope.seal(b"data", &context)).unwrap();
    for len in message.len() - 44..=message.len() {
        let info = measure(|| {
            let mut reader = block_on(envelope.open_reader(&message[..len], &context)).unwrap();
            assert_eq!(reader.read_to_end(&mut Vec::new()).is_ok(), len == message.len());
        });
        assert!(info.bytes_max < 1 << 20, "{info:?}");
    }
    // Sealing does not allocate before plaintext arrives, either.
    let info = measure(|| {
        block_on(envelope.seal_writer(sink(), &context)).unwrap().finish().unwrap();
        block_on(envelope.seal_reader(io::empty(), &context)).unwrap().read_to_end(&mut Vec::new()).unwrap();
    });
    assert!(info.bytes_max < 1 << 20, "{info:?}");
}

#[cfg(feature = "parallel")]
#[test]
fn the_bytes_that_wait_to_be_hashed_in_another_thread_are_bounded() {
    use kms_envelope::{AlgorithmSuite, stream::Threads};

    const MIB: u64 = 1 << 20;
    let pool = std::sync::Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    let envelope = Envelope::builder(key)
        .suite(AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384)
        .threads(Threads::Pool(pool))
        .build()
        .unwrap();
    let context = context();
    let (mut sealed, mut opened) = (Vec::new(), Vec::new());
    // Whole buffers, which are reused, and short messages, which need no task.
    for (len, max) in [(40 << 20, MIB + MIB / 4), (1000, 10_000)] {
        let plaintext = vec![1; len];
        let sealing = counted(|| block_on(envelope.seal_into(&plaintext, &context, &mut sealed)).unwrap());
        let opening = counted(|| drop(block_on(envelope.open_into(&sealed, &context, &mut opened)).unwrap()));
        assert!(sealing.bytes_max < max && opening.bytes_max < max, "{len} {sealing:?} {opening:?}");
    }
    let plaintext = vec![1; 40 << 20];
    let writing = measure(|| {
        let mut writer = block_on(envelope.seal_writer(sink(), &context)).unwrap();
        plaintext.chunks(64 << 10).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap();
    });
    assert!(writing.bytes_max < MIB + MIB / 2, "{writing:?}");
}

#[test]
fn the_length_of_stream_buffers_bounds_the_memory_of_readers_and_writers() {
    let context = context();
    let plaintext = vec![1; 20 << 20];
    let sealed = block_on(envelope(Backend::default()).seal(&plaintext, &context)).unwrap();
    for len in [4096, 16 << 10, 100_000, 1 << 20, 4 << 20] {
        let key = RawAes::new("tests", "key", [7; 32]).unwrap();
        let envelope = Envelope::builder(key).frame_len(FRAME_LEN as u32).stream_buffer_len(len).build().unwrap();
        let bounded = |info: AllocationInfo, buffers: usize| {
            let frames = (len / (FRAME_LEN + 32)).max(1);
            let (least, most) = (buffers * frames * FRAME_LEN, buffers * len.max(FRAME_LEN + 32) + FRAME_LEN + 4000);
            assert!((least as u64..most as u64).contains(&info.bytes_max), "{len} {buffers} {info:?}");
        };
        bounded(
            measure(|| {
                let mut writer = block_on(envelope.seal_writer(sink(), &context)).unwrap();
                writer.write_all(&plaintext).unwrap();
                writer.finish().unwrap();
            }),
            1,
        );
        bounded(
            measure(|| {
                let mut reader = block_on(envelope.seal_reader(&plaintext[..], &context)).unwrap();
                io::copy(&mut reader, &mut sink()).unwrap();
            }),
            2,
        );
        bounded(
            measure(|| {
                let mut reader = block_on(envelope.open_reader(&sealed[..], &context)).unwrap();
                io::copy(&mut reader, &mut sink()).unwrap();
            }),
            2,
        );
    }
    // Bytes that do not arrive need no memory, even with long buffers.
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    let envelope = Envelope::builder(key).stream_buffer_len(1 << 30).build().unwrap();
    let info = measure(|| {
        let mut reader = block_on(envelope.open_reader(&sealed[..100_000], &context)).unwrap();
        assert!(io::copy(&mut reader, &mut sink()).is_err());
    });
    assert!(info.bytes_max < 1 << 20, "{info:?}");
}

#[test]
fn long_frames_take_as_many_buffers_as_documented_and_no_more_than_arrives() {
    const LONG: usize = 8 << 20;
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    let envelope = Envelope::builder(key).frame_len(LONG as u32).build().unwrap();
    let context = EncryptionContext::new();
    let plaintext = vec![1; 3 * LONG];
    let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();
    let frames = |count: u64| count * LONG as u64 + (1 << 20);
    let opening = measure(|| {
        let mut reader = block_on(envelope.open_reader(&sealed[..], &context)).unwrap();
        io::copy(&mut reader, &mut sink()).unwrap();
    });
    assert!(opening.bytes_max < frames(3), "{opening:?}");
    let sealing = measure(|| {
        let mut reader = block_on(envelope.seal_reader(&plaintext[..], &context)).unwrap();
        io::copy(&mut reader, &mut sink()).unwrap();
    });
    assert!(sealing.bytes_max < frames(3), "{sealing:?}");
    let writing = measure(|| {
        let mut writer = block_on(envelope.seal_writer(sink(), &context)).unwrap();
        writer.write_all(&plaintext).unwrap();
        writer.finish().unwrap();
    });
    assert!(writing.bytes_max < frames(2), "{writing:?}");

    // Part of a frame, in pieces of any length: the assembled bytes, and a second copy while the buffer grows.
    for piece_len in [1000, 1 << 20] {
        let arrived = 2 << 20;
        let info = measure(|| {
            let mut reader = block_on(envelope.open_reader(Pieces(&sealed[..arrived], piece_len), &context)).unwrap();
            assert!(reader.read(&mut [0]).is_err());
        });
        assert!(info.bytes_max < 4 * arrived as u64, "{piece_len} {info:?}");
    }
}

#[cfg(feature = "stream")]
#[test]
fn a_stream_in_small_pieces_allocates_in_proportion_to_what_arrives_whatever_the_frame_length() {
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};

    let context = context();
    for suite in [AlgorithmSuite::Aes256GcmHkdfSha512Commit, AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384] {
        let key = RawAes::new("tests", "key", [7; 32]).unwrap();
        let envelope = Envelope::builder(key).frame_len(4 << 20).suite(suite).build().unwrap();
        // Complete frames, the start of a frame, and the footer, in small pieces.
        let sealed = Bytes::from(block_on(envelope.seal(&vec![1; 9 << 20], &context)).unwrap());
        let pieces = (0..sealed.len()).step_by(1024).map(|at| sealed.slice(at..sealed.len().min(at + 1024)));
        let info = measure(|| {
            let pieces = stream::iter(pieces).map(Ok::<_, io::Error>);
            let opened = block_on(block_on(envelope.open_stream(pieces, &context)).unwrap().count());
            assert!((2..=4).contains(&opened), "{opened}");
        });
        // Each byte is counted once when assembled (at most doubled by growth), once in the plaintext, once held back.
        assert!(info.bytes_total < 6 * sealed.len() as u64, "{info:?}");
        assert!(info.bytes_max < 4 * (4 << 20) + (1 << 20), "{info:?}");
    }
}
