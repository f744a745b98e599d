//! Several ranges in one call, and ranges as streams: the requests that they make, their memory, and their errors.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    ops::Range,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kms_envelope::{
    Envelope, OpenError, RawAes,
    error::FormatError,
    message::FRAME_OVERHEAD,
    stream::{AsyncRangeReader, AsyncReadAt, RangeReader, RangeStream, ReadAt, Threads},
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{context, header, plaintext};

fn envelope(frame_len: u32, threads: Threads) -> Envelope {
    let key = RawAes::new("tests", "key", [7; 32]).unwrap();
    Envelope::builder(key).frame_len(frame_len).threads(threads).build().unwrap()
}

fn seal(frame_len: u32, plaintext: &[u8]) -> Bytes {
    test_support::seal(&envelope(frame_len, Threads::One), plaintext).into()
}

/// Returns the position in the message of the frame with this number.
fn frame(sealed: &[u8], sequence: u32) -> Range<u64> {
    header(sealed).geometry(sealed.len() as u64).unwrap().frame(sequence).unwrap().sealed
}

/// Returns the message with a modified byte in the frame with this number.
fn damaged(sealed: &Bytes, sequence: u32) -> Bytes {
    let mut changed = sealed.to_vec();
    changed[frame(sealed, sequence).end as usize - 20] ^= 1;
    changed.into()
}

fn reader<S: ReadAt>(source: S, sealed_len: usize) -> RangeReader<S> {
    block_on(envelope(1, Threads::One).range_reader(source, sealed_len as u64, &context())).unwrap()
}

fn async_reader<S: AsyncReadAt + Sync>(source: S, sealed_len: usize) -> AsyncRangeReader<S> {
    block_on(envelope(1, Threads::One).async_range_reader(source, sealed_len as u64, &context())).unwrap()
}

fn slices(plaintext: &[u8], ranges: &[Range<u64>]) -> Vec<Vec<u8>> {
    ranges.iter().map(|range| plaintext[range.start as usize..range.end as usize].to_vec()).collect()
}

/// Polls a future once.
fn now<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn next<S: AsyncReadAt + Send + Sync + 'static>(stream: &mut RangeStream<S>) -> Poll<Option<Result<Bytes, OpenError>>> {
    stream.poll_next_unpin(&mut Context::from_waker(Waker::noop()))
}

/// How a [`Source`] responds to a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Right,
    Fail,
    /// With this many bytes too few.
    Short(usize),
    /// With this many extra bytes, which are not those of the message.
    Long(usize),
}

const NEVER: usize = usize::MAX;

/// A message in a store that records every request, and responds when the test allows it.
struct Source {
    message: Bytes,
    /// The number of polls that each request takes, by its number.
    delay: fn(usize) -> usize,
    requests: Mutex<Vec<Range<u64>>>,
    answers: Mutex<VecDeque<Answer>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl Source {
    fn new(message: Bytes) -> Arc<Self> {
        Self::delayed(message, |_| 0)
    }

    fn delayed(message: Bytes, delay: fn(usize) -> usize) -> Arc<Self> {
        Arc::new(Self {
            message,
            delay,
            requests: Mutex::default(),
            answers: Mutex::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        })
    }

    fn taken(&self) -> Vec<Range<u64>> {
        self.most_running.store(0, SeqCst);
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn answer(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let start = self.message.len().min(range.start as usize);
        let end = self.message.len().min(range.end as usize);
        let bytes = self.message.slice(start..end);
        match self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Right) {
            Answer::Right => Ok(bytes),
            Answer::Fail => Err(io::Error::other("the store is gone")),
            Answer::Short(less) => Ok(bytes.slice(..bytes.len().saturating_sub(less))),
            Answer::Long(more) => Ok([&bytes[..], &vec![0xaa; more]].concat().into()),
        }
    }
}

impl ReadAt for Source {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let range = offset..offset + out.len() as u64;
        self.requests.lock().unwrap().push(range.clone());
        let bytes = self.answer(&range)?;
        let len = bytes.len().min(out.len());
        out[..len].copy_from_slice(&bytes[..len]);
        Ok(bytes.len())
    }
}

/// Counts a request as running until the value is dropped.
struct Running<'a>(&'a Source);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl AsyncReadAt for Source {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(range.clone());
            requests.len() - 1
        };
        self.most_running.fetch_max(self.running.fetch_add(1, SeqCst) + 1, SeqCst);
        let _running = Running(self);
        let mut left = (self.delay)(number);
        if left == NEVER {
            std::future::pending::<()>().await;
        }
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.answer(&range)
    }
}

/// Checks the requests of a plan: complete frames of this message, none of them twice.
fn check_requests(sealed: &[u8], requests: &[Range<u64>], piece_len: u64) -> Result<(), TestCaseError> {
    let geometry = header(sealed).geometry(sealed.len() as u64).unwrap();
    let frames: Vec<_> = (1..=geometry.frame_count()).filter_map(|number| geometry.frame(number)).collect();
    let mut sorted = requests.to_vec();
    sorted.sort_by_key(|request| request.start);
    prop_assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start), "a frame is fetched twice: {:?}", sorted);
    for request in &sorted {
        let whole =
            frames.iter().filter(|frame| frame.sealed.start >= request.start && frame.sealed.end <= request.end);
        let whole: Vec<_> = whole.collect();
        prop_assert_eq!(
            whole.iter().map(|frame| frame.sealed.end - frame.sealed.start).sum::<u64>(),
            request.end - request.start
        );
        // The head of the final frame is longer.
        prop_assert!(whole.len() == 1 || request.end - request.start <= piece_len + 8, "{:?} {}", request, piece_len);
    }
    Ok(())
}

proptest! {
    #[test]
    fn ranges_return_those_parts_of_the_plaintext_in_the_callers_order(
        len in 0usize..400, frame_len in 1u32..50, piece_len in 0u64..400, gap in 0u64..200, concurrency in 0usize..5,
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12),
        threads in prop::sample::select(&[Threads::One, Threads::Global][..]),
    ) {
        let plaintext = plaintext(len);
        let sealed = seal(frame_len, &plaintext);
        let ranges: Vec<_> = ranges.iter().map(|(a, b)| {
            let (a, b) = (a.index(len + 1) as u64, b.index(len + 1) as u64);
            a.min(b)..a.max(b)
        }).collect();
        let expected = slices(&plaintext, &ranges);
        let envelope = envelope(1, threads);

        let source = Source::new(sealed.clone());
        let reader = block_on(envelope.range_reader(source.clone(), sealed.len() as u64, &context())).unwrap();
        let reader = reader.with_piece_len(piece_len).with_coalesced_gap(gap);
        source.taken();
        prop_assert_eq!(&reader.read_ranges(&ranges).unwrap(), &expected);
        let requests = source.taken();
        check_requests(&sealed, &requests, piece_len)?;
        prop_assert!(requests.is_sorted_by_key(|request| request.start));

        // Responses arrive out of order.
        let source = Source::delayed(sealed.clone(), |number| 7 - number % 7);
        let later = block_on(envelope.async_range_reader(source.clone(), sealed.len() as u64, &context())).unwrap();
        let later = later.with_piece_len(piece_len).with_coalesced_gap(gap).with_concurrency(concurrency);
        source.taken();
        prop_assert_eq!(&block_on(later.read_ranges(&ranges)).unwrap(), &expected);
        prop_assert!(source.most_running.load(SeqCst) <= concurrency.max(1));
        prop_assert_eq!(source.taken(), requests);

        for (range, expected) in ranges.iter().zip(expected) {
            prop_assert_eq!(&reader.read(range.clone()).unwrap(), &expected);
            prop_assert_eq!(&block_on(later.read(range.clone())).unwrap(), &expected);
            let mut out = vec![0xaa; expected.len()];
            block_on(later.read_into(range.start, &mut out)).unwrap();
            prop_assert_eq!(&out, &expected);
        }
    }

    #[test]
    fn a_stream_of_a_range_returns_that_part_of_the_plaintext(
        len in 0usize..400, frame_len in 1u32..50, piece_len in 0u64..400, readahead in 0usize..4,
        start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let plaintext = plaintext(len);
        let sealed = seal(frame_len, &plaintext);
        let (start, end) = (start.index(len + 1), end.index(len + 1));
        let (start, end) = (start.min(end), start.max(end));
        let source = Source::delayed(sealed.clone(), |number| 7 - number % 7);
        let reader = async_reader(source.clone(), sealed.len()).with_piece_len(piece_len).with_readahead(readahead);
        source.taken();
        let stream = reader.stream(start as u64..end as u64).unwrap();
        let pieces: Vec<Bytes> = block_on(stream.try_collect()).unwrap();
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
        prop_assert_eq!(&pieces.concat(), &plaintext[start..end]);
        prop_assert!(source.most_running.load(SeqCst) <= readahead + 1);
        let requests = source.taken();
        prop_assert_eq!(requests.len(), pieces.len());
        check_requests(&sealed, &requests, piece_len)?;
        prop_assert!(requests.is_sorted_by_key(|request| request.start));
    }

    #[test]
    fn with_any_response_of_the_source_ranges_and_streams_are_correct_or_fail(
        len in 0usize..300, frame_len in 1u32..50, piece_len in 0u64..300,
        answers in prop::collection::vec(prop_oneof![
            3 => Just(Answer::Right), 1 => Just(Answer::Fail), 1 => (1usize..60).prop_map(Answer::Short),
            1 => (1usize..60).prop_map(Answer::Long),
        ], 0..8),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let plaintext = plaintext(len);
        let sealed = seal(frame_len, &plaintext);
        let ranges: Vec<_> = ranges.iter().map(|(a, b)| {
            let (a, b) = (a.index(len + 1) as u64, b.index(len + 1) as u64);
            a.min(b)..a.max(b)
        }).collect();
        let expected = slices(&plaintext, &ranges);
        let source = Source::new(sealed.clone());
        let blocking = reader(source.clone(), sealed.len()).with_piece_len(piece_len);
        let later = async_reader(source.clone(), sealed.len()).with_piece_len(piece_len);
        let script = || *source.answers.lock().unwrap() = answers.iter().copied().collect();

        script();
        if let Ok(read) = blocking.read_ranges(&ranges) {
            prop_assert_eq!(&read, &expected);
        }
        script();
        if let Ok(read) = block_on(later.read_ranges(&ranges)) {
            prop_assert_eq!(&read, &expected);
        }
        script();
        let mut stream = later.stream(ranges[0].clone()).unwrap();
        let mut streamed = Vec::new();
        let ended = loop {
            match block_on(stream.next()) {
                Some(Ok(piece)) => streamed.extend_from_slice(&piece),
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        prop_assert!(expected[0].starts_with(&streamed));
        prop_assert_eq!(ended, streamed.len() == expected[0].len());
    }
}

#[test]
fn ranges_in_the_same_or_adjacent_frames_make_one_request() {
    let plaintext = plaintext(100_000);
    let sealed = seal(1000, &plaintext);
    let source = Source::new(sealed.clone());
    let reader = reader(source.clone(), sealed.len()).with_coalesced_gap(0);
    let later = async_reader(source.clone(), sealed.len()).with_coalesced_gap(0);
    source.taken();
    let run = |first, last| frame(&sealed, first).start..frame(&sealed, last).end;
    for (ranges, requests) in [
        // The same frame; the same range.
        (vec![10..20, 900..950, 10..20], vec![run(1, 1)]),
        // Adjacent frames, in any order.
        (vec![1500..2500, 999..1000, 2999..3001], vec![run(1, 4)]),
        // A range within another, and one after it.
        (vec![5000..9000, 6000..6001, 8500..9500], vec![run(6, 10)]),
        // With a frame in between.
        (vec![2000..2001, 0..1], vec![run(1, 1), run(3, 3)]),
        // The end.
        (vec![99_999..100_000, 98_000..98_001], vec![run(99, 100)]),
        (vec![0..0, 100_000..100_000, 5..5], vec![]),
        (vec![], vec![]),
    ] {
        let expected = slices(&plaintext, &ranges);
        assert_eq!(reader.read_ranges(&ranges).unwrap(), expected, "{ranges:?}");
        assert_eq!(source.taken(), requests, "{ranges:?}");
        assert_eq!(block_on(later.read_ranges(&ranges)).unwrap(), expected, "{ranges:?}");
        assert_eq!(source.taken(), requests, "{ranges:?}");
    }
}

#[test]
fn a_gap_is_fetched_if_it_is_not_longer_than_the_setting_and_fits_into_the_piece() {
    let plaintext = plaintext(100_000);
    let sealed = seal(1000, &plaintext);
    let source = Source::new(sealed.clone());
    let run = |first, last| frame(&sealed, first).start..frame(&sealed, last).end;
    let stride = 1000 + FRAME_OVERHEAD as u64;
    let ranges = [4000..4001, 0..1]; // The frames 1 and 5.
    let expected = slices(&plaintext, &ranges);
    for (gap, piece_len, merged) in [
        (3 * stride - 1, u64::MAX, false),
        (3 * stride, u64::MAX, true),
        (u64::MAX, 5 * stride, true),
        (u64::MAX, 5 * stride - 1, false),
    ] {
        let requests = if merged { vec![run(1, 5)] } else { vec![run(1, 1), run(5, 5)] };
        let reader = reader(source.clone(), sealed.len()).with_coalesced_gap(gap).with_piece_len(piece_len);
        source.taken();
        assert_eq!(reader.read_ranges(&ranges).unwrap(), expected);
        assert_eq!(source.taken(), requests, "{gap} {piece_len}");
        let later = async_reader(source.clone(), sealed.len()).with_coalesced_gap(gap).with_piece_len(piece_len);
        source.taken();
        assert_eq!(block_on(later.read_ranges(&ranges)).unwrap(), expected);
        assert_eq!(source.taken(), requests, "{gap} {piece_len}");
    }

    // The content of a gap's frames does not matter, because they are not opened.
    let source = Source::new(damaged(&sealed, 3));
    let reader = reader(source.clone(), sealed.len());
    source.taken();
    assert_eq!(reader.read_ranges(&ranges).unwrap(), expected);
    assert_eq!(source.taken(), [run(1, 5)], "by default, 3 KB are not worth another request");
}

#[test]
fn by_default_eight_requests_of_a_megabyte_run_at_once() {
    let plaintext = plaintext(20_000_000);
    let sealed = seal(65_536, &plaintext);
    let source = Source::delayed(sealed.clone(), |number| 100 - number);
    let reader = async_reader(source.clone(), sealed.len());
    source.taken();
    assert!(block_on(reader.read(1..19_999_999)).unwrap() == plaintext[1..19_999_999]);
    assert_eq!(source.most_running.load(SeqCst), 8);
    let requests = source.taken();
    assert!(requests.iter().all(|request| request.end - request.start <= 1 << 20), "{requests:?}");
    assert_eq!(requests.len(), 21);

    let one = reader.clone().with_concurrency(0).with_piece_len(4 << 20);
    assert!(block_on(one.read(1..19_999_999)).unwrap() == plaintext[1..19_999_999]);
    assert_eq!(source.most_running.load(SeqCst), 1);
    assert_eq!(source.taken().len(), 5);
}

#[test]
fn several_threads_open_the_frames_of_ranges_and_streams() {
    let plaintext = plaintext(5_000_000);
    let sealed = seal(4096, &plaintext);
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap());
    let ranges = [4_000_000..5_000_000, 17..3_000_001, 2_000_000..2_000_001, 1_000_000..4_500_000];
    for threads in [Threads::Global, Threads::Pool(pool)] {
        let (envelope, context) = (envelope(1, threads), context());
        block_on(async {
            let (len, expected) = (sealed.len() as u64, slices(&plaintext, &ranges));
            let reader = envelope.range_reader(&sealed, len, &context).await.unwrap();
            assert!(reader.read_ranges(&ranges).unwrap() == expected);
            assert!(reader.read(ranges[1].clone()).unwrap() == expected[1]);
            let later = envelope.async_range_reader(sealed.clone(), len, &context).await.unwrap();
            assert!(later.read_ranges(&ranges).await.unwrap() == expected);
            let pieces: Vec<_> = later.stream(ranges[1].clone()).unwrap().try_collect().await.unwrap();
            assert!(pieces.concat() == expected[1]);

            // The error names the first of several modified frames, with any number of threads.
            let changed = damaged(&damaged(&sealed, 240), 150);
            let reader = envelope.range_reader(&changed, len, &context).await.unwrap();
            let error = reader.read_ranges(&ranges).unwrap_err();
            assert!(matches!(error, OpenError::FrameTag { sequence: 150 }), "{error:?}");
        });
    }
}

#[test]
fn an_error_names_a_range_outside_the_plaintext_before_anything_is_fetched() {
    for len in [0, 100] {
        let sealed = seal(16, &plaintext(len));
        let source = Source::new(sealed.clone());
        let blocking = reader(source.clone(), sealed.len());
        let later = async_reader(source.clone(), sealed.len());
        assert_eq!((blocking.len(), later.len()), (len as u64, len as u64));
        assert_eq!((blocking.is_empty(), later.is_empty()), (len == 0, len == 0));
        source.taken();
        let len = len as u64;
        #[expect(clippy::reversed_empty_ranges)]
        for wrong in [0..len + 1, len + 1..len + 1, 1..0, u64::MAX - 1..u64::MAX, u64::MAX..u64::MAX] {
            let ranges = [0..len, wrong.clone()];
            for error in [
                blocking.read_ranges(&ranges).unwrap_err(),
                block_on(later.read_ranges(&ranges)).unwrap_err(),
                block_on(later.read(wrong.clone())).unwrap_err(),
                later.stream(wrong.clone()).unwrap_err(),
            ] {
                let OpenError::OutOfRange { range, plaintext_len } = &error else { panic!("{error:?}") };
                assert_eq!((range, *plaintext_len), (&wrong, len));
                let text = error.to_string();
                assert!(text.contains(&wrong.start.to_string()) && text.contains(&len.to_string()), "{text}");
            }
        }
        assert!(block_on(later.read_into(len, &mut [0])).is_err());
        assert_eq!(source.taken(), []);
        assert_eq!(blocking.read_ranges(&[0..0, len..len]).unwrap(), [b"", b""]);
        assert_eq!(block_on(later.read_ranges(&[0..0, len..len])).unwrap(), [b"", b""]);
        assert!(block_on(later.stream(len..len).unwrap().next()).is_none());
    }
}

#[test]
fn a_buffer_is_wiped_after_any_error() {
    let sealed = seal(16, &plaintext(160));
    let (reader, later) = (reader(&sealed, sealed.len()), async_reader(sealed.clone(), sealed.len()));
    let opener = block_on(envelope(1, Threads::One).range_opener(&header(&sealed), sealed.len() as u64, &context()));
    let opener = opener.unwrap();
    let frames = opener.sealed_range(&(0..10)).unwrap();
    let frames = &sealed[frames.start as usize..frames.end as usize];
    let is_refused_and_wiped = |read: &dyn Fn(&mut [u8]) -> Result<(), OpenError>| {
        let mut out = [1; 10];
        read(&mut out).is_err() && out == [0; 10]
    };
    assert!(is_refused_and_wiped(&|out| reader.read_into(155, out)));
    assert!(is_refused_and_wiped(&|out| block_on(later.read_into(155, out))));
    assert!(is_refused_and_wiped(&|out| opener.open(&(155..165), frames, out)));
    assert!(is_refused_and_wiped(&|out| opener.open(&(0..9), frames, out)));
    assert!(is_refused_and_wiped(&|out| opener.open(&(0..10), &frames[..20], out)));
    assert!(is_refused_and_wiped(&|out| opener.open(&(5..5), &[], out)));
}

#[test]
fn a_modified_frame_fails_only_the_ranges_that_need_it() {
    let plaintext = plaintext(160);
    let sealed = damaged(&seal(16, &plaintext), 4); // The bytes 48 to 64.
    let len = sealed.len();
    let (reader, later) = (reader(&sealed, len), async_reader(sealed.clone(), len).with_piece_len(0));
    let outside = [64..160, 0..48, 64..65, 47..48];
    assert_eq!(reader.read_ranges(&outside).unwrap(), slices(&plaintext, &outside));
    assert_eq!(block_on(later.read_ranges(&outside)).unwrap(), slices(&plaintext, &outside));
    for inside in [[0..160, 100..101], [0..10, 63..64], [48..49, 0..160]] {
        for read in [reader.read_ranges(&inside), block_on(later.read_ranges(&inside))] {
            assert!(matches!(read, Err(OpenError::FrameTag { sequence: 4 })), "{read:?}");
        }
    }
    let mut out = [0xaa; 160];
    assert!(block_on(later.read_into(0, &mut out)).is_err());
    assert_eq!(out, [0; 160]);

    // A stream returns the frames before it, and none from there on.
    let mut stream = later.stream(10..160).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match block_on(stream.next()).unwrap() {
            Ok(piece) => read.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, OpenError::FrameTag { sequence: 4 }));
    assert_eq!(read, plaintext[10..48]);
    for _ in 0..3 {
        assert!(matches!(block_on(stream.next()), Some(Err(OpenError::FailedBefore))));
    }
    // Ranges that do not need the frame can still be read.
    let rest: Vec<_> = block_on(later.stream(64..160).unwrap().try_collect()).unwrap();
    assert_eq!(rest.concat(), plaintext[64..]);
}

#[test]
fn swapped_frames_are_refused() {
    let sealed = seal(16, &plaintext(160));
    let (two, three) = (frame(&sealed, 2), frame(&sealed, 3));
    let at = |range: &Range<u64>| range.start as usize..range.end as usize;
    let swapped =
        [&sealed[..two.start as usize], &sealed[at(&three)], &sealed[at(&two)], &sealed[three.end as usize..]];
    let swapped = Bytes::from(swapped.concat());
    let len = swapped.len();
    assert!(reader(&swapped, len).read_ranges(&[0..10, 20..40]).is_err());
    assert!(block_on(async_reader(swapped.clone(), len).read_ranges(&[0..10, 20..40])).is_err());
    assert!(block_on(async_reader(swapped, len).stream(20..40).unwrap().next()).unwrap().is_err());
}

#[test]
fn an_object_that_is_shorter_than_its_given_length_is_truncated() {
    let sealed = seal(16, &plaintext(160));
    // Truncated after the reader was created, as when an object is replaced.
    for cut in [frame(&sealed, 5).start, frame(&sealed, 5).start + 1, frame(&sealed, 5).end - 1] {
        for piece_len in [0, 1 << 20] {
            let source = Source::new(sealed.clone());
            let reader = reader(source.clone(), sealed.len()).with_piece_len(piece_len);
            let later = async_reader(source.clone(), sealed.len()).with_piece_len(piece_len);
            // The request that contains the frame: the fifth, or the only one.
            let (before, end) = if piece_len == 0 { (4, frame(&sealed, 5).end) } else { (0, sealed.len() as u64) };
            let shorten = || {
                let mut answers = source.answers.lock().unwrap();
                answers.clear();
                answers.extend(vec![Answer::Right; before]);
                answers.push_back(Answer::Short((end - cut) as usize));
                // The response of a blocking source to a read of the rest.
                answers.push_back(Answer::Short(usize::MAX));
            };
            shorten();
            let error = reader.read_ranges(&[0..80, 80..160]).unwrap_err();
            assert!(matches!(&error, OpenError::Format(FormatError::Truncated(at)) if at == "frame 5"), "{error}");
            shorten();
            let error = block_on(later.read_ranges(&[0..80, 80..160])).unwrap_err();
            assert!(matches!(error, OpenError::Format(FormatError::Truncated(_))), "{error}");
            shorten();
            let mut stream = later.stream(0..160).unwrap();
            let error = loop {
                if let Err(error) = block_on(stream.next()).unwrap() {
                    break error;
                }
            };
            assert!(matches!(error, OpenError::Format(FormatError::Truncated(_))), "{error}");
        }
    }
    for cut in [1, 100, sealed.len() - 1] {
        let cut = sealed.slice(..cut);
        for len in [cut.len(), sealed.len()] {
            let opened = block_on(envelope(1, Threads::One).async_range_reader(cut.clone(), len as u64, &context()));
            assert!(opened.is_err(), "{} {len}", cut.len());
        }
    }
}

#[test]
fn extra_bytes_from_the_source_are_ignored() {
    let plaintext = plaintext(160);
    let sealed = seal(16, &plaintext);
    let source = Source::new(sealed.clone());
    source.answers.lock().unwrap().extend([Answer::Long(1000); 4]);
    let later = async_reader(source.clone(), sealed.len());
    assert_eq!(block_on(later.read(0..160)).unwrap(), plaintext);
    source.answers.lock().unwrap().extend([Answer::Long(usize::MAX >> 40); 4]);
    // A blocking source that reports more bytes than the buffer has.
    let blocking = reader(source.clone(), sealed.len());
    assert_eq!(blocking.read(0..160).unwrap(), plaintext);
}

#[test]
fn a_failed_source_ends_a_stream_for_good_and_a_new_stream_can_continue() {
    let plaintext = plaintext(160);
    let sealed = seal(16, &plaintext);
    let source = Source::new(sealed.clone());
    let reader = async_reader(source.clone(), sealed.len()).with_piece_len(0);
    source.answers.lock().unwrap().extend([Answer::Right, Answer::Right, Answer::Fail]);
    let mut stream = reader.stream(0..160).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match block_on(stream.next()).unwrap() {
            Ok(piece) => read.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, OpenError::Io(error) if error.to_string() == "the store is gone"), "{error:?}");
    assert_eq!(read, plaintext[..32]);
    source.taken();
    for _ in 0..3 {
        assert!(matches!(block_on(stream.next()), Some(Err(OpenError::FailedBefore))));
    }
    assert_eq!(source.taken(), [], "a stream that has failed fetches nothing more");
    let rest: Vec<_> = block_on(reader.stream(32..160).unwrap().try_collect()).unwrap();
    assert_eq!(rest.concat(), plaintext[32..]);
}

#[test]
fn a_stream_whose_source_panicked_does_not_end_normally() {
    let plaintext = plaintext(160);
    let sealed = seal(16, &plaintext);
    for delay in [
        |number| if number == 9 { panic!("a request fails so") } else { 0 },
        |number| {
            if number == 4 { panic!("a request fails so") } else { 3 }
        },
    ] {
        let source = Source::delayed(sealed.clone(), delay);
        source.requests.lock().unwrap().resize(20, 0..0);
        let reader = async_reader(source.clone(), sealed.len()).with_piece_len(0);
        source.taken();
        let mut stream = reader.stream(0..160).unwrap();
        let mut read = Vec::new();
        let error = loop {
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next(&mut stream))) {
                Ok(Poll::Ready(Some(Ok(piece)))) => read.extend_from_slice(&piece),
                Ok(Poll::Ready(Some(Err(error)))) => break error,
                Ok(Poll::Ready(None)) => panic!("{} bytes of 160, and no error", read.len()),
                Ok(Poll::Pending) | Err(_) => {}
            }
        };
        assert!(matches!(error, OpenError::FailedBefore), "{error:?}");
        assert!(plaintext.starts_with(&read) && read.len() < 160);
    }
}

#[test]
fn a_stream_fetches_ahead_up_to_the_setting_and_only_after_it_is_polled() {
    let sealed = seal(16, &plaintext(160));
    for readahead in 0..4 {
        let source = Source::delayed(sealed.clone(), |_| 3);
        let reader = async_reader(source.clone(), sealed.len()).with_piece_len(0).with_readahead(readahead);
        source.taken();
        let mut stream = reader.stream(0..160).unwrap();
        assert_eq!(source.requests.lock().unwrap().len(), 0);
        assert!(next(&mut stream).is_pending());
        assert_eq!(source.requests.lock().unwrap().len(), readahead + 1);
        for given in 1..=10 {
            while next(&mut stream).is_pending() {}
            assert_eq!(source.requests.lock().unwrap().len(), 10.min(given + readahead), "{readahead}");
        }
        assert!(matches!(next(&mut stream), Poll::Ready(None)));
        assert!(matches!(next(&mut stream), Poll::Ready(None)), "an end stays one");
        assert_eq!(source.most_running.load(SeqCst), readahead + 1);
    }
}

#[test]
fn a_dropped_stream_or_read_drops_its_requests_and_makes_no_more() {
    let sealed = seal(16, &plaintext(160));
    let source = Source::delayed(sealed.clone(), |number| if number < 4 { 0 } else { NEVER });
    let reader = async_reader(source.clone(), sealed.len()).with_piece_len(0);
    source.taken();
    let mut stream = reader.stream(0..160).unwrap();
    (0..2).for_each(|_| assert!(matches!(next(&mut stream), Poll::Ready(Some(Ok(_))))));
    assert_eq!(source.requests.lock().unwrap().len(), 4);
    while !next(&mut stream).is_pending() {}
    assert!(source.running.load(SeqCst) > 0);
    drop(stream);
    assert_eq!(source.running.load(SeqCst), 0);
    source.taken();

    // These requests could have been answered.
    source.requests.lock().unwrap().resize(4, 0..0);
    assert!(now(reader.read_ranges(&[0..160, 5..6])).is_pending());
    assert_eq!((source.taken().len(), source.running.load(SeqCst)), (4 + 8, 0));
}

#[test]
fn a_read_from_a_source_that_is_always_ready_lets_other_tasks_run() {
    let plaintext = plaintext(5_000_000);
    let sealed = seal(65_536, &plaintext);
    let reader = async_reader(sealed.clone(), sealed.len());
    let mut read = pin!(reader.read(0..5_000_000));
    let mut polls = 0;
    let read = block_on(poll_fn(|cx| {
        polls += 1;
        read.poll_unpin(cx)
    }));
    assert!(read.unwrap() == plaintext && polls > 2, "{polls}");
}

#[test]
fn a_read_of_ranges_that_overlap_lets_other_tasks_run() {
    let plaintext = plaintext(900_000);
    let sealed = seal(65_536, &plaintext);
    let reader = async_reader(sealed.clone(), sealed.len());
    let ranges: Vec<_> = (0..20).map(|start| start..900_000).collect();
    let mut read = pin!(reader.read_ranges(&ranges));
    let mut polls = 0;
    let read = block_on(poll_fn(|cx| {
        polls += 1;
        read.poll_unpin(cx)
    }));
    assert!(read.unwrap() == slices(&plaintext, &ranges));
    // 18 MB, at most one piece and 1 MiB in each poll.
    assert!(polls >= 9, "{polls}");
}

/// A source that responds up to a position in the message, and counts the polls of its requests.
struct Arriving {
    message: Bytes,
    arrived: AtomicUsize,
    polls: AtomicUsize,
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Arriving {
    fn arrive(&self, end: u64) {
        self.arrived.store(end as usize, SeqCst);
        let later = self.waiting.lock().unwrap().split_off(&end);
        std::mem::replace(&mut *self.waiting.lock().unwrap(), later).into_values().for_each(Waker::wake);
    }
}

impl AsyncReadAt for Arriving {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let range = range.start as usize..range.end as usize;
        poll_fn(|cx| {
            self.polls.fetch_add(1, SeqCst);
            if range.end <= self.arrived.load(SeqCst) {
                return Poll::Ready(());
            }
            self.waiting.lock().unwrap().insert(range.start as u64, cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(self.message.slice(range))
    }
}

#[test]
fn a_stream_polls_only_the_requests_that_can_continue() {
    let plaintext = plaintext(1600);
    let sealed = seal(16, &plaintext);
    let (arrived, polls) = (sealed.len().into(), 0.into());
    let source = Arc::new(Arriving { message: sealed.clone(), arrived, polls, waiting: Mutex::default() });
    let reader = async_reader(source.clone(), sealed.len()).with_piece_len(0).with_readahead(usize::MAX);
    source.arrive(0);
    source.polls.store(0, SeqCst);
    let mut stream = reader.stream(0..1600).unwrap();
    assert!(next(&mut stream).is_pending());
    for (expected, sequence) in plaintext.chunks(16).zip(1..) {
        source.arrive(frame(&sealed, sequence).end);
        let Poll::Ready(Some(Ok(piece))) = next(&mut stream) else { panic!("the piece is there") };
        assert_eq!(piece, expected);
    }
    assert!(matches!(next(&mut stream), Poll::Ready(None)));
    // 100 requests, each polled twice when it is made, and once when its response is ready.
    let polls = source.polls.load(SeqCst);
    assert!(polls <= 300, "{polls}");
}

#[test]
fn nothing_of_a_source_is_printed() {
    let sealed = seal(16, &plaintext(160));
    let reader = async_reader(sealed.clone(), sealed.len());
    let stream = reader.stream(0..160).unwrap();
    for printed in [format!("{reader:?}"), format!("{stream:?}")] {
        assert!(printed.contains("RangeOpener") && !printed.contains("source"), "{printed}");
    }
}

/// For example, the body of an HTTP response is sent to another thread.
#[test]
fn a_stream_is_send_and_static_if_its_source_is() {
    let plaintext = plaintext(1000);
    let sealed = seal(16, &plaintext);
    let stream = async_reader(Source::new(sealed.clone()), sealed.len()).stream(10..1000).unwrap();
    let read = std::thread::spawn(move || block_on(stream.try_collect::<Vec<_>>()).unwrap().concat());
    assert_eq!(read.join().unwrap(), plaintext[10..]);
}

mod files {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_at_any_position_and_its_cursor_does_not_move() {
        let plaintext = plaintext(100_000);
        let sealed = seal(1000, &plaintext);
        let mut file = file(&sealed);
        file.seek(SeekFrom::Start(7)).unwrap();
        let ranges = [50_000..60_001, 0..1, 99_999..100_000];
        let shared = Arc::new(file.try_clone().unwrap());
        assert_eq!(reader(&file, sealed.len()).read_ranges(&ranges).unwrap(), slices(&plaintext, &ranges));
        assert_eq!(reader(shared, sealed.len()).read(5..99_999).unwrap(), plaintext[5..99_999]);
        if cfg!(unix) {
            assert_eq!(file.stream_position().unwrap(), 7);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ranges_of_one_tokio_file_are_read_concurrently_and_its_cursor_does_not_move() {
        let plaintext = plaintext(3_000_000);
        let sealed = seal(4096, &plaintext);
        let mut inner = file(&sealed);
        inner.seek(SeekFrom::Start(7)).unwrap();
        let mut same = inner.try_clone().unwrap();
        let file = tokio::fs::File::from_std(inner);
        let envelope = envelope(1, Threads::One);
        let reader = envelope.async_range_reader(file, sealed.len() as u64, &context()).await.unwrap();
        let reader = reader.with_piece_len(100_000).with_coalesced_gap(0);
        let tasks: Vec<_> = (0..20u64)
            .map(|number| {
                let (reader, plaintext) = (reader.clone(), plaintext.clone());
                tokio::spawn(async move {
                    let ranges = [number * 100_000..2_999_999, 5..number * 1000 + 5, 2_000_000..2_000_001];
                    assert!(reader.read_ranges(&ranges).await.unwrap() == slices(&plaintext, &ranges));
                    let pieces: Vec<_> = reader.stream(ranges[0].clone()).unwrap().try_collect().await.unwrap();
                    assert!(pieces.concat() == plaintext[ranges[0].start as usize..2_999_999]);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        if cfg!(unix) {
            assert_eq!(same.stream_position().unwrap(), 7);
        }
        let mut first = [0; 10];
        same.seek(SeekFrom::Start(0)).unwrap();
        same.read_exact(&mut first).unwrap();
        assert_eq!(first, sealed[..10]);
    }

    #[test]
    fn a_tokio_file_outside_of_a_runtime_is_an_error() {
        let sealed = seal(16, &plaintext(160));
        let file = tokio::fs::File::from_std(file(&sealed));
        let envelope = envelope(1, Threads::One);
        let error = block_on(envelope.async_range_reader(file, sealed.len() as u64, &context())).unwrap_err();
        assert!(matches!(&error, OpenError::Io(error) if error.to_string().contains("tokio runtime")), "{error:?}");
    }

    #[tokio::test]
    async fn a_tokio_file_that_ends_early_or_cannot_be_read_is_an_error() {
        let sealed = seal(16, &plaintext(160));
        let open = async |file, len| {
            let file = tokio::fs::File::from_std(file);
            envelope(1, Threads::One).async_range_reader(file, len as u64, &context()).await.map(drop)
        };
        let error = open(file(&sealed[..sealed.len() - 1]), sealed.len()).await.unwrap_err();
        assert!(matches!(error, OpenError::Format(FormatError::Truncated(_))), "{error}");
        let write_only = std::fs::OpenOptions::new().write(true).open(tempfile::NamedTempFile::new().unwrap()).unwrap();
        let error = open(write_only, sealed.len()).await.unwrap_err();
        assert!(matches!(error, OpenError::Io(_)), "{error}");
    }
}
