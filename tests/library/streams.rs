//! Every method of sealing and opening produces the same bytes: whole buffers, readers, writers, streams and ranges,
//! with one thread or several, with either backend.

use std::{
    cell::RefCell,
    convert::Infallible,
    io::{self, BufRead, Cursor, Read, Seek, SeekFrom, Write},
    marker::PhantomPinned,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::{
    AlgorithmSuite, Backend, CommitmentPolicy, EncryptionContext, Envelope, EnvelopeBuilder, OpenError, RawAes,
    SealError,
    error::FormatError,
    message::FRAME_OVERHEAD,
    provider::SecretKey,
    stream::{AsyncReadAt, ReadAt, StreamError, Threads},
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{Pieces, context, plaintext, rng, seal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

fn threads() -> [Threads; 3] {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    [Threads::One, Threads::Global, Threads::Pool(Arc::new(pool))]
}

/// Returns an envelope whose first message is always the same.
fn fixed(frame_len: u32) -> EnvelopeBuilder {
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    Envelope::builder(key).rng(rng(0)).frame_len(frame_len)
}

fn envelope(frame_len: u32) -> Envelope {
    fixed(frame_len).build().unwrap()
}

/// Returns the message from every method of sealing, in pieces of this length.
pub(crate) fn sealed_by_every_method(
    make: &dyn Fn() -> Envelope,
    plaintext: &[u8],
    piece_len: usize,
) -> Vec<(&'static str, Vec<u8>)> {
    let context = context();
    let mut roads = vec![("seal", block_on(make().seal(plaintext, &context)).unwrap())];

    let mut reused = vec![0xaa; 100_000];
    block_on(make().seal_into(plaintext, &context, &mut reused)).unwrap();
    roads.push(("seal_into", reused));

    let mut writer = block_on(make().seal_writer(Vec::new(), &context)).unwrap();
    plaintext.chunks(piece_len).for_each(|piece| writer.write_all(piece).unwrap());
    roads.push(("seal_writer", writer.finish().unwrap()));

    let mut reader = block_on(make().seal_reader(Pieces(plaintext, piece_len), &context)).unwrap();
    assert_eq!(reader.sealed_len(plaintext.len() as u64).unwrap(), roads[0].1.len() as u64);
    let mut sealed = Vec::new();
    reader.read_to_end(&mut sealed).unwrap();
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    roads.push(("seal_reader", sealed));

    let pieces = plaintext.chunks(piece_len).map(Bytes::copy_from_slice).map(Ok::<_, Infallible>);
    let stream = block_on(make().seal_stream(stream::iter(pieces), &context)).unwrap();
    assert_eq!(stream.sealed_len(plaintext.len() as u64).unwrap(), roads[0].1.len() as u64);
    roads.push(("seal_stream", block_on(stream.try_collect::<Vec<_>>()).unwrap().concat()));

    block_on(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut writer = make().seal_async_writer(Vec::new(), &context).await.unwrap();
        for piece in plaintext.chunks(piece_len) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
        roads.push(("seal_async_writer", writer.into_inner()));

        let mut reader = make().seal_async_reader(plaintext, &context).await.unwrap();
        let mut sealed = Vec::new();
        reader.read_to_end(&mut sealed).await.unwrap();
        roads.push(("seal_async_reader", sealed));
    });
    roads
}

/// Returns the plaintext or the error's text from every method of opening, in pieces of this length.
pub(crate) fn opened_by_every_method(
    envelope: &Envelope,
    sealed: &[u8],
    piece_len: usize,
) -> Vec<(&'static str, Result<Vec<u8>, String>)> {
    let context = context();
    let text = |error: &dyn std::error::Error| error.to_string();
    let io_text = |error: io::Error| error.downcast::<OpenError>().unwrap().to_string();
    let whole = block_on(envelope.open(sealed, &context)).map(|opened| opened.plaintext).map_err(|e| text(&e));
    let mut roads = vec![("open", whole)];

    let mut reused = vec![0xaa; 100_000];
    let opened = block_on(envelope.open_into(sealed, &context, &mut reused));
    roads.push(("open_into", opened.map(|_| reused).map_err(|e| text(&e))));

    let read = block_on(envelope.open_reader(Pieces(sealed, piece_len), &context)).map_err(|e| text(&e));
    let read = read.and_then(|mut reader| {
        let mut plaintext = Vec::new();
        reader.read_to_end(&mut plaintext).map(|_| plaintext).map_err(io_text)
    });
    roads.push(("open_reader", read));

    let pieces = sealed.chunks(piece_len).map(Bytes::copy_from_slice).map(Ok::<_, Infallible>);
    let opened = block_on(async {
        let stream = envelope.open_stream(stream::iter(pieces), &context).await?;
        Ok(stream.try_collect::<Vec<_>>().await?.concat())
    });
    roads.push(("open_stream", opened.map_err(|e: StreamError<Infallible>| text(&e))));

    let opened = block_on(async {
        use tokio::io::AsyncReadExt;
        let mut reader = envelope.open_async_reader(sealed, &context).await.map_err(|e| text(&e))?;
        let mut plaintext = Vec::new();
        reader.read_to_end(&mut plaintext).await.map(|_| plaintext).map_err(io_text)
    });
    roads.push(("open_async_reader", opened));
    roads
}

#[test]
fn every_method_every_backend_and_any_threads_produce_the_same_bytes() {
    for (frame_len, len, piece_len) in [(16, 1000, 7), (4096, 1_000_000, 10_000), (65_536, 5_000_001, 1_500_000)] {
        let plaintext = plaintext(len);
        let expected = seal(&envelope(frame_len), &plaintext);
        for backend in Backend::ALL.iter().copied() {
            for threads in threads() {
                let make = || fixed(frame_len).backend(backend).threads(threads.clone()).build().unwrap();
                for (method, sealed) in sealed_by_every_method(&make, &plaintext, piece_len) {
                    assert!(sealed == expected, "{method} {backend:?} {threads:?} {frame_len}");
                }
                for (method, opened) in opened_by_every_method(&make(), &expected, piece_len) {
                    assert!(opened.as_ref() == Ok(&plaintext), "{method} {backend:?} {threads:?} {frame_len}");
                }
            }
        }
    }
}

#[test]
fn the_error_names_the_first_of_several_modified_frames_with_any_threads() {
    let mut sealed = seal(&envelope(4096), &plaintext(2_000_000));
    let body = sealed.len() - 2_000_000 / 4096 * (4096 + FRAME_OVERHEAD);
    for frame in [400, 150, 300] {
        sealed[body + frame * (4096 + FRAME_OVERHEAD)] ^= 1;
    }
    let errors: Vec<_> = threads()
        .into_iter()
        .map(|threads| {
            let envelope = fixed(4096).threads(threads).build().unwrap();
            block_on(envelope.open(&sealed, &context())).unwrap_err().to_string()
        })
        .collect();
    assert!(errors[0].contains("frame 15"), "{errors:?}");
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
}

proptest! {
    #[test]
    fn any_message_of_any_suite_has_the_same_result_with_every_method(
        suite in proptest::sample::select(AlgorithmSuite::all().collect::<Vec<_>>()),
        len in 0usize..300, frame_len in 1u32..50, piece_len in 1usize..100,
        change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let plaintext = plaintext(len);
        let policy = match suite.is_committing() {
            true => CommitmentPolicy::RequireEncryptAllowDecrypt,
            false => CommitmentPolicy::ForbidEncryptAllowDecrypt,
        };
        let make = || fixed(frame_len).suite(suite).commitment_policy(policy);
        let mut sealed = block_on(make().build().unwrap().seal(&plaintext, &context())).unwrap();
        if let Some((at, value)) = change {
            let at = at.index(sealed.len());
            sealed[at] = value;
        }
        if let Some(cut) = cut {
            sealed.truncate(cut.index(sealed.len()) + 1);
        }
        let mut expected = None;
        for backend in Backend::ALL.iter().copied() {
            for threads in [Threads::One, Threads::Global] {
                let envelope = make().backend(backend).threads(threads).build().unwrap();
                for (method, opened) in opened_by_every_method(&envelope, &sealed, piece_len) {
                    let expected = expected.get_or_insert_with(|| opened.clone());
                    prop_assert_eq!(&opened, expected, "{} {:?}", method, backend);
                }
                let ranged = block_on(envelope.range_reader(&sealed[..], sealed.len() as u64, &context()));
                if let (Ok(reader), Some(Ok(whole))) = (ranged, &expected) {
                    prop_assert_eq!(&reader.read(0..reader.len()).unwrap(), whole);
                }
            }
        }
    }

    #[test]
    fn a_seekable_reader_behaves_like_a_cursor_over_the_plaintext(
        len in 0usize..300, frame_len in 1u32..50, in_front in 0usize..20,
        steps in proptest::collection::vec((0u8..4, -400i64..400, 0usize..100), 1..20),
    ) {
        let plaintext = plaintext(len);
        let file = [vec![0; in_front], seal(&envelope(frame_len), &plaintext)].concat();
        let mut source = Cursor::new(file);
        source.set_position(in_front as u64);
        let mut reader = block_on(envelope(frame_len).open_reader(source, &context())).unwrap();
        let mut cursor = Cursor::new(&plaintext);
        for (kind, offset, read_len) in steps {
            let position = match kind {
                0 => SeekFrom::Start(offset.unsigned_abs()),
                1 => SeekFrom::Current(offset),
                2 => SeekFrom::End(offset),
                _ => SeekFrom::Current(0),
            };
            match (reader.seek(position), cursor.seek(position)) {
                (Ok(one), Ok(two)) => prop_assert_eq!(one, two),
                (Err(_), Err(_)) => {}
                (one, two) => prop_assert!(false, "{one:?} {two:?}"),
            }
            prop_assert_eq!(reader.stream_position().unwrap(), cursor.position());
            let (mut one, mut two) = (Vec::new(), Vec::new());
            reader.by_ref().take(read_len as u64).read_to_end(&mut one).unwrap();
            cursor.by_ref().take(read_len as u64).read_to_end(&mut two).unwrap();
            prop_assert_eq!(one, two);
        }
    }

    #[test]
    fn a_range_returns_that_part_of_the_plaintext(
        len in 0u64..300, frame_len in 1u32..50, start in 0u64..320, range_len in 0u64..320,
    ) {
        let plaintext = plaintext(len as usize);
        let sealed = seal(&envelope(frame_len), &plaintext);
        let reader = block_on(envelope(frame_len).range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
        prop_assert_eq!(reader.len(), len);
        let range = start..start + range_len;
        let sealed_len = sealed.len() as u64;
        let later = block_on(async {
            let reader = envelope(frame_len).async_range_reader(Counted::new(sealed.clone()), sealed_len, &context()).await;
            reader.unwrap().read(range.clone()).await
        });
        if range.end <= len {
            let expected = &plaintext[start as usize..range.end as usize];
            prop_assert_eq!(&reader.read(range).unwrap()[..], expected);
            prop_assert_eq!(&later.unwrap()[..], expected);
        } else {
            for refused in [reader.read(range.clone()), later] {
                let named = matches!(refused, Err(OpenError::OutOfRange { plaintext_len, .. }) if plaintext_len == len);
                prop_assert!(named);
            }
        }
    }
}

/// Counts reads and bytes.
#[derive(Debug)]
struct Counted {
    message: Vec<u8>,
    reads: Mutex<Vec<Range<u64>>>,
}

impl Counted {
    fn new(message: Vec<u8>) -> Self {
        Self { message, reads: Mutex::default() }
    }

    fn taken(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }
}

impl ReadAt for Counted {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.message.read_at(out, offset)?;
        self.reads.lock().unwrap().push(offset..offset + len as u64);
        Ok(len)
    }
}

impl AsyncReadAt for Counted {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.reads.lock().unwrap().push(range.clone());
        let end = self.message.len().min(range.end as usize);
        Ok(Bytes::copy_from_slice(&self.message[end.min(range.start as usize)..end]))
    }
}

#[test]
fn a_range_reads_the_header_once_the_end_once_and_the_frames_it_needs() {
    let sealed = seal(&envelope(65_536), &plaintext(10_000_000));
    let len = sealed.len() as u64;
    let source = Counted::new(sealed);
    let reader = block_on(envelope(65_536).range_reader(&source, len, &context())).unwrap();
    let reads = source.taken();
    assert_eq!(reads.len(), 2, "{reads:?}");
    assert_eq!((reads[0].clone(), reads[1].end), (0..4096, len));

    assert_eq!(reader.read(1_000_000..1_065_536).unwrap(), plaintext(1_065_536)[1_000_000..]);
    let read: u64 = source.taken().iter().map(|range| range.end - range.start).sum();
    assert_eq!(read, 2 * (65_536 + FRAME_OVERHEAD as u64));
    assert!(reader.read(5..5).unwrap().is_empty() && source.taken().is_empty());
}

#[test]
fn a_long_range_is_read_in_parts_and_concurrently() {
    let plaintext = plaintext(10_000_000);
    let sealed = seal(&envelope(4096), &plaintext);
    let reader = block_on(envelope(4096).range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
    std::thread::scope(|scope| {
        for start in [0, 1, 4095, 4096, 3_000_000] {
            let (reader, plaintext) = (&reader, &plaintext);
            scope.spawn(move || {
                assert!(reader.read(start..9_999_999).unwrap() == plaintext[start as usize..9_999_999]);
            });
        }
    });
}

#[test]
fn a_long_range_is_read_a_megabyte_at_a_time_and_no_frame_twice() {
    let sealed = seal(&envelope(4096), &plaintext(5_000_000));
    let len = sealed.len() as u64;
    let source = Arc::new(Counted::new(sealed));
    let reader = block_on(envelope(4096).range_reader(source.clone(), len, &context())).unwrap();
    source.taken();
    assert!(reader.read(5000..4_900_000).unwrap() == plaintext(4_900_000)[5000..]);
    let reads = source.taken();
    assert_eq!(reads.len(), 5, "{reads:?}");
    assert!(reads.iter().all(|read| read.end - read.start <= (1 << 20) + (1 << 20) / 100), "{reads:?}");
    assert!(reads.windows(2).all(|pair| pair[0].end == pair[1].start), "{reads:?}");
}

#[test]
fn a_wrong_message_length_is_refused_before_a_plaintext_length_is_reported() {
    let sealed = seal(&envelope(16), &plaintext(100));
    let open = |bytes: &[u8], len: u64| {
        block_on(envelope(16).range_reader(bytes, len, &context())).map(|reader| reader.len()).unwrap_err()
    };
    for wrong in (0..sealed.len() as u64 + 100).filter(|len| *len != sealed.len() as u64) {
        // Both if the source has the given length and if it does not.
        let mut bytes = sealed.clone();
        bytes.resize(wrong as usize, 0);
        open(&bytes, wrong);
        open(&sealed, wrong);
    }
    let whole_frames_less = sealed.len() as u64 - (16 + FRAME_OVERHEAD as u64);
    let error = open(&sealed[..whole_frames_less as usize], whole_frames_less);
    assert!(error.to_string().contains("frame 6"), "{error}");
    assert!(matches!(open(&sealed, 100), OpenError::Format(FormatError::Truncated(_))));
}

#[test]
fn a_modified_frame_fails_only_the_ranges_that_contain_it() {
    let mut sealed = seal(&envelope(16), &plaintext(100));
    let at = sealed.len() - 40 - 4 - 3 * (16 + FRAME_OVERHEAD) + 20;
    sealed[at] ^= 1;
    let reader = block_on(envelope(16).range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
    assert_eq!(reader.read(0..48).unwrap(), plaintext(48));
    assert_eq!(reader.read(64..100).unwrap(), plaintext(100)[64..]);
    for range in [48..64, 47..49, 63..64, 0..100] {
        assert!(matches!(reader.read(range), Err(OpenError::FrameTag { sequence: 4 })));
    }
    let mut out = [0xaa; 100];
    assert!(reader.read_into(0, &mut out).is_err());
    assert_eq!(out, [0; 100]);
}

#[test]
fn a_seek_in_a_truncated_message_or_one_with_trailing_bytes_is_refused() {
    let sealed = seal(&envelope(16), &plaintext(100));
    for changed in [&sealed[..sealed.len() - 1], &sealed[..sealed.len() - 48], &[&sealed[..], b"!"].concat()] {
        let mut reader = block_on(envelope(16).open_reader(Cursor::new(changed), &context())).unwrap();
        let error = reader.seek(SeekFrom::Start(20)).unwrap_err();
        assert!(error.downcast::<OpenError>().is_ok());
    }
}

#[test]
fn a_seek_does_not_revive_a_failed_reader() {
    let mut sealed = seal(&envelope(16), &plaintext(100));
    let at = sealed.len() - 100;
    sealed[at] ^= 1;
    let mut reader = block_on(envelope(16).open_reader(Cursor::new(sealed), &context())).unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(matches!(reader.seek(SeekFrom::Start(0)).unwrap_err().downcast(), Ok(OpenError::FailedBefore)));
}

#[test]
fn signed_and_non_framed_messages_have_no_ranges() {
    for (file, expected) in [("0578/framed-len-129", "is signed"), ("0478/non-framed-len-129", "has no frames")] {
        let message = std::fs::read(test_support::fixtures::path(&format!("{file}.msg"))).unwrap();
        let refused =
            block_on(envelope(16).range_reader(&message[..], message.len() as u64, &EncryptionContext::new()));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");

        let key = RawAes::new("fixtures", "aes-256", SecretKey::try_from((0..32).collect::<Vec<_>>()).unwrap());
        let envelope = Envelope::new(key.unwrap());
        let mut reader = block_on(envelope.open_reader(Cursor::new(message), &EncryptionContext::new())).unwrap();
        let error = reader.seek(SeekFrom::Start(5)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        // It can still be read from its start.
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 129);
    }
}

#[test]
fn after_its_inner_stream_fails_a_stream_fails_for_good() {
    let failing = |pieces: Vec<Vec<u8>>| stream::iter(pieces.into_iter().map(Ok).chain([Err("gone")]));
    let context = context();
    block_on(async {
        let mut sealing = envelope(16).seal_stream(failing(vec![plaintext(100)]), &context).await.unwrap();
        assert!(sealing.next().await.unwrap().is_ok());
        assert!(matches!(sealing.next().await, Some(Err(StreamError::Source("gone")))));
        for _ in 0..3 {
            let next = sealing.next().await;
            assert!(matches!(next, Some(Err(StreamError::Seal(SealError::FailedBefore)))), "{next:?}");
        }

        let sealed = seal(&envelope(16), &plaintext(100));
        let half = sealed[..sealed.len() - 50].to_vec();
        let mut opening = envelope(16).open_stream(failing(vec![half]), &context).await.unwrap();
        assert_eq!(opening.info().context(), &context);
        assert!(opening.next().await.unwrap().is_ok());
        assert!(matches!(opening.next().await, Some(Err(StreamError::Source("gone")))));
        for _ in 0..3 {
            let next = opening.next().await;
            assert!(matches!(next, Some(Err(StreamError::Open(OpenError::FailedBefore)))), "{next:?}");
        }

        let refused = envelope(16).open_stream(failing(vec![sealed[..50].to_vec()]), &context).await;
        assert!(matches!(refused, Err(StreamError::Source("gone"))));
    });
}

#[test]
fn a_seal_reader_is_buffered_and_passes_errors_on_without_losing_anything() {
    struct FailsOnce<'a>(&'a [u8], bool);
    impl Read for FailsOnce<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if !self.1 && self.0.len() < 50 {
                self.1 = true;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let len = out.len().min(10);
            self.0.read(&mut out[..len])
        }
    }
    let plaintext = plaintext(100);
    let mut reader = block_on(envelope(16).seal_reader(FailsOnce(&plaintext, false), &context())).unwrap();
    let mut sealed = Vec::new();
    assert_eq!(reader.read_to_end(&mut sealed).unwrap_err().kind(), io::ErrorKind::TimedOut);
    loop {
        let piece = reader.fill_buf().unwrap();
        if piece.is_empty() {
            break;
        }
        sealed.extend_from_slice(piece);
        let len = piece.len();
        reader.consume(len);
    }
    assert_eq!(sealed, seal(&envelope(16), &plaintext));
}

/// Passes at most this many bytes per call, is interrupted before each call, and fails once at one position.
struct Flaky<T> {
    inner: T,
    piece_len: usize,
    at: usize,
    fail_at: Option<usize>,
    interrupted: bool,
}

impl<T> Flaky<T> {
    fn new(inner: T, piece_len: usize, fail_at: usize) -> Self {
        Self { inner, piece_len, at: 0, fail_at: Some(fail_at), interrupted: false }
    }

    /// Returns how many of `len` bytes this call passes.
    fn allowed(&mut self, len: usize) -> io::Result<usize> {
        if self.fail_at == Some(self.at) {
            self.fail_at = None;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "flaky"));
        }
        let until_failure = self.fail_at.map_or(usize::MAX, |fail_at| fail_at - self.at);
        Ok(len.min(self.piece_len).min(until_failure))
    }

    fn interrupt(&mut self) -> io::Result<()> {
        self.interrupted = !self.interrupted;
        if self.interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

impl<T: Read> Read for Flaky<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.interrupt()?;
        let len = self.allowed(out.len())?;
        let read = self.inner.read(&mut out[..len])?;
        self.at += read;
        Ok(read)
    }
}

impl<T: Write> Write for Flaky<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt()?;
        let len = self.allowed(bytes.len())?;
        self.at += len;
        self.inner.write(&bytes[..len])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Read + Unpin> AsyncRead for Flaky<T> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = self.allowed(out.remaining())?;
        let mut piece = vec![0; len];
        let len = self.inner.read(&mut piece)?;
        self.at += len;
        out.put_slice(&piece[..len]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flaky<Vec<u8>> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let len = self.allowed(bytes.len())?;
        self.at += len;
        self.inner.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Repeats `step` until it reports the end, also after an error. Returns whether it failed.
fn persist(mut step: impl FnMut() -> io::Result<bool>) -> bool {
    let mut failed = false;
    loop {
        match step() {
            Ok(true) => return failed,
            Ok(false) => {}
            Err(error) => {
                assert_eq!(error.to_string(), "flaky");
                assert!(!failed);
                failed = true;
            }
        }
    }
}

/// Collects everything that `read` returns, also after an error.
fn read_all(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> (Vec<u8>, bool) {
    let (mut all, mut piece) = (Vec::new(), [0; 11]);
    let failed = persist(|| {
        let len = read(&mut piece)?;
        all.extend_from_slice(&piece[..len]);
        Ok(len == 0)
    });
    (all, failed)
}

const FLAKY_FRAME_LEN: u32 = 16;

#[test]
fn after_a_source_fails_anywhere_reading_continues_and_nothing_is_lost() {
    use tokio::io::AsyncReadExt;
    let (plaintext, context) = (plaintext(40), context());
    let sealed = seal(&envelope(FLAKY_FRAME_LEN), &plaintext);
    let make = || envelope(FLAKY_FRAME_LEN);
    for piece_len in [1, 7, 1000] {
        for fail_at in 0..=plaintext.len() {
            let source = || Flaky::new(&plaintext[..], piece_len, fail_at);
            let mut reader = block_on(make().seal_reader(source(), &context)).unwrap();
            assert_eq!(read_all(|out| reader.read(out)), (sealed.clone(), true), "{piece_len} {fail_at}");
            let mut reader = block_on(make().seal_async_reader(source(), &context)).unwrap();
            assert_eq!(read_all(|out| block_on(reader.read(out))), (sealed.clone(), true), "{piece_len} {fail_at}");
        }
        for fail_at in 0..=sealed.len() {
            let source = || Flaky::new(&sealed[..], piece_len, fail_at);
            match block_on(make().open_reader(source(), &context)) {
                Ok(mut reader) => {
                    assert_eq!(read_all(|out| reader.read(out)), (plaintext.clone(), true), "{piece_len} {fail_at}");
                }
                // Before the end of the header.
                Err(error) => {
                    assert!(matches!(&error, OpenError::Io(error) if error.to_string() == "flaky"), "{error}")
                }
            }
            match block_on(make().open_async_reader(source(), &context)) {
                Ok(mut reader) => {
                    let read = read_all(|out| block_on(reader.read(out)));
                    assert_eq!(read, (plaintext.clone(), true), "{piece_len} {fail_at}");
                }
                Err(error) => {
                    assert!(matches!(&error, OpenError::Io(error) if error.to_string() == "flaky"), "{error}")
                }
            }
        }
    }
}

#[test]
fn after_a_target_fails_anywhere_writing_continues_and_nothing_is_lost() {
    use tokio::io::AsyncWriteExt;
    let (plaintext, context) = (plaintext(40), context());
    let sealed = seal(&envelope(FLAKY_FRAME_LEN), &plaintext);
    for piece_len in [1, 7, 1000] {
        for fail_at in 0..sealed.len() {
            let target = || Flaky::new(Vec::new(), piece_len, fail_at);
            let mut writer = block_on(envelope(FLAKY_FRAME_LEN).seal_writer(target(), &context)).unwrap();
            let mut left = &plaintext[..];
            persist(|| {
                let len = writer.write(&left[..left.len().min(11)])?;
                left = &left[len..];
                Ok(left.is_empty())
            });
            // `finish` consumes the writer, so the message is lost if it fails, as documented.
            match writer.finish() {
                Ok(target) => assert_eq!(target.inner, sealed, "{piece_len} {fail_at}"),
                Err(error) => assert_eq!(error.to_string(), "flaky"),
            }

            let mut writer = block_on(envelope(FLAKY_FRAME_LEN).seal_async_writer(target(), &context)).unwrap();
            let mut left = &plaintext[..];
            let failed_writing = persist(|| {
                let len = block_on(writer.write(&left[..left.len().min(11)]))?;
                left = &left[len..];
                Ok(left.is_empty())
            });
            let failed_ending = persist(|| block_on(writer.shutdown()).map(|()| true));
            assert!(failed_writing != failed_ending);
            assert_eq!(writer.into_inner().inner, sealed, "{piece_len} {fail_at}");
        }
    }
}

/// A reader or writer that is not `Unpin`.
struct Pinned<T>(RefCell<T>, PhantomPinned);

impl<T> Pinned<T> {
    fn new(inner: T) -> Self {
        Self(RefCell::new(inner), PhantomPinned)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Pinned<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, out)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Pinned<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

/// A stream that is not `Unpin`, because it contains a future.
fn pinned_stream(bytes: &[u8]) -> impl stream::Stream<Item = io::Result<Vec<u8>>> {
    stream::unfold(bytes.to_vec(), |mut rest| async move {
        let piece: Vec<u8> = rest.drain(..rest.len().min(7)).collect();
        std::future::ready(()).await;
        (!piece.is_empty()).then_some((Ok(piece), rest))
    })
}

#[test]
fn every_asynchronous_method_accepts_types_that_are_not_unpin() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn all(pieces: impl stream::Stream<Item = Result<Bytes, StreamError<io::Error>>>) -> Vec<u8> {
        pieces.map(Result::unwrap).collect::<Vec<_>>().await.concat()
    }
    async fn read(mut reader: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        all
    }
    let (plaintext, context) = (plaintext(100), context());
    let sealed = seal(&envelope(16), &plaintext);
    let envelope = || envelope(16);
    block_on(async {
        assert_eq!(all(envelope().seal_stream(pinned_stream(&plaintext), &context).await.unwrap()).await, sealed);
        assert_eq!(all(envelope().open_stream(pinned_stream(&sealed), &context).await.unwrap()).await, plaintext);

        let reader = envelope().seal_async_reader(Pinned::new(&plaintext[..]), &context).await.unwrap();
        assert_eq!(read(reader).await, sealed);
        let reader = envelope().open_async_reader(Pinned::new(&sealed[..]), &context).await.unwrap();
        assert_eq!(read(reader).await, plaintext);
        let new = envelope();
        let reader = envelope().reseal_async_reader(Pinned::new(&sealed[..]), &context, &new).await.unwrap();
        assert_eq!(read(reader).await, sealed);

        let mut writer = envelope().seal_async_writer(Pinned::new(Vec::new()), &context).await.unwrap();
        writer.write_all(&plaintext).await.unwrap();
        writer.shutdown().await.unwrap();
        assert_eq!(*writer.get_ref().0.borrow(), sealed);
    });
}
