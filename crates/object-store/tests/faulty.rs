//! Reads and uploads over a store that fails, or whose answers are wrong.

#![allow(clippy::single_range_in_vec_init, reason = "one range of several that are possible")]

mod support;

use std::{
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::join_all, stream};
use support::*;
use tokio::{sync::Semaphore, time::timeout};

/// A method that reads, and its arguments.
#[derive(Clone, Debug)]
enum Read {
    Full,
    Range(GetRange),
    Ranges(Vec<Range<u64>>),
    Head,
    List,
}

impl Read {
    /// Returns what is read: the bytes, or the length as text.
    async fn of(&self, store: &EncryptedStore<Faulty>) -> Result<Vec<Bytes>> {
        let location = Path::from("a");
        let size = |meta: ObjectMeta| vec![Bytes::from(meta.size.to_string())];
        match self {
            Self::Full => store.get(&location).await?.bytes().await.map(|bytes| vec![bytes]),
            Self::Range(range) => {
                let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
                store.get_opts(&location, options).await?.bytes().await.map(|bytes| vec![bytes])
            }
            Self::Ranges(ranges) => store.get_ranges(&location, ranges).await,
            Self::Head => store.head(&location).await.map(size),
            Self::List => {
                let listed: Vec<_> = store.list(None).try_collect().await?;
                Ok(listed.into_iter().filter(|meta| meta.location == location).flat_map(size).collect())
            }
        }
    }

    fn expected(&self, plaintext: &Bytes) -> Vec<Bytes> {
        let slice = |range: &Range<u64>| plaintext.slice(range.start as usize..range.end as usize);
        match self {
            Self::Full => vec![plaintext.clone()],
            Self::Range(range) => vec![slice(&range.as_range(plaintext.len() as u64).unwrap())],
            Self::Ranges(ranges) => {
                let range = |range: &Range<u64>| range.start..range.end.min(plaintext.len() as u64);
                ranges.iter().map(range).map(|range| slice(&range)).collect()
            }
            Self::Head | Self::List => vec![Bytes::from(plaintext.len().to_string())],
        }
    }

    fn has_bytes(&self) -> bool {
        !matches!(self, Self::Head | Self::List)
    }
}

/// Two versions of an object, and what is read from them.
struct Sample {
    settings: fn() -> StoreSettings,
    plaintexts: [Bytes; 2],
    sealed: [Bytes; 2],
    reads: Vec<Read>,
}

async fn sample(settings: fn() -> StoreSettings, lens: [usize; 2], reads: Vec<Read>) -> Sample {
    let plaintexts = [plaintext(lens[0], 1), plaintext(lens[1], 2)];
    let sealed = [
        support::sealed(settings(), "a", &plaintexts[0]).await,
        support::sealed(settings(), "a", &plaintexts[1]).await,
    ];
    Sample { settings, plaintexts, sealed, reads }
}

fn reads() -> Vec<Read> {
    use GetRange::{Bounded, Offset, Suffix};
    [
        vec![Read::Full, Read::Head, Read::List],
        [
            Bounded(0..10),
            Bounded(0..64),
            Bounded(60..70),
            Bounded(500..501),
            Bounded(64..128),
            Bounded(900..1000),
            Bounded(300..5000),
            Offset(0),
            Offset(130),
            Offset(999),
            Suffix(1),
            Suffix(41),
            Suffix(500),
            Suffix(5000),
        ]
        .map(Read::Range)
        .to_vec(),
        vec![
            Read::Ranges(vec![0..1]),
            Read::Ranges(vec![990..2000, 0..1, 400..500, 450..600, 450..600]),
            Read::Ranges(vec![400..450, 700..800]),
        ],
    ]
    .concat()
}

/// An object of 16 frames, whose second version has the same length.
async fn small() -> Sample {
    sample(settings, [1000, 1000], reads()).await
}

/// An object of which ranges are not fetched with one request.
async fn large() -> Sample {
    let settings = || settings().frame_len(4096);
    let far = vec![2_400_000..2_400_010, 10..20, 1_200_000..1_200_100];
    let reads = vec![
        Read::Ranges(far.clone()),
        Read::Ranges(far[..1].to_vec()),
        Read::Ranges([&far[..1], &far[2..]].concat()),
        Read::Range(GetRange::Bounded(100_000..1_500_000)),
        Read::Range(GetRange::Suffix(10)),
    ];
    sample(settings, [2_500_000, 2_500_000], reads).await
}

/// The result of a read over a faulty store.
struct Outcome {
    /// The versions that the result is from. Both have the same length, for example.
    result: Result<[bool; 2]>,
    requests: usize,
    repeated: u64,
    text: String,
}

impl Outcome {
    #[track_caller]
    fn is_right(&self) -> &Self {
        assert!(self.result.is_ok(), "{}: {:?}", self.text, self.result);
        self
    }

    #[track_caller]
    fn fails(&self) -> &Self {
        assert!(self.result.is_err(), "{}: no error", self.text);
        self
    }
}

/// Reads over a store that holds the first version and whose answers are those of the hook. Whatever it does, the read ends
/// with an error or with the bytes of one version.
async fn outcome(
    sample: &Sample,
    read: &Read,
    is_warm: bool,
    e_tags: ETags,
    hook: impl FnMut(Get<'_>) -> Result<GetResult> + Send + 'static,
) -> Outcome {
    let faulty = Faulty::new(e_tags);
    store(&faulty.inner, "a", &sample.sealed[0]);
    let store = EncryptedStore::new(faulty.clone(), (sample.settings)()).unwrap();
    if is_warm {
        store.get_range(&"a".into(), 0..1).await.unwrap();
    }
    faulty.set(hook);
    faulty.take_gets();
    let result = timeout(Duration::from_secs(20), read.of(&store)).await.expect("the read must end");
    let text = format!("{read:?}, warm: {is_warm}, {e_tags:?}");
    let result = result.map(|found| {
        let is_of = [0, 1].map(|version| found == read.expected(&sample.plaintexts[version]));
        assert!(is_of != [false; 2], "{text}: wrong bytes");
        is_of
    });
    let repeated = store.stats().repeated_reads;
    assert!(repeated <= 1, "{text}: repeated {repeated} times");
    Outcome { result, requests: faulty.take_gets().len(), repeated, text }
}

/// Makes every read of the sample, warm and cold.
async fn outcomes<H: FnMut(Get<'_>) -> Result<GetResult> + Send + 'static>(
    sample: &Sample,
    hook: impl Fn() -> H,
) -> Vec<(Read, Outcome)> {
    let mut outcomes = Vec::new();
    for read in &sample.reads {
        for is_warm in [false, true] {
            outcomes.push((read.clone(), outcome(sample, read, is_warm, ETags::Strong, hook()).await));
        }
    }
    outcomes
}

#[tokio::test]
async fn every_read_returns_the_right_bytes_whatever_the_e_tags_are() {
    for sample in [small().await, large().await] {
        for read in &sample.reads {
            for e_tags in [ETags::Strong, ETags::Weak, ETags::Constant, ETags::Missing] {
                for is_warm in [false, true] {
                    let outcome = outcome(&sample, read, is_warm, e_tags, |get| get.answer()).await;
                    assert!(outcome.is_right().result.as_ref().unwrap()[0], "{}", outcome.text);
                    assert_eq!(outcome.repeated, 0, "{}", outcome.text);
                }
            }
        }
    }
}

#[tokio::test]
async fn pieces_of_any_length_are_joined() {
    fn pieces(len: usize) -> impl Fn(Bytes) -> Vec<Result<Bytes>> + Copy {
        move |body| body.chunks(len).flat_map(|piece| [Bytes::copy_from_slice(piece), Bytes::new()]).map(Ok).collect()
    }
    let sample = small().await;
    for len in [1, 7, 95, 96, 97, 200, 511, 513, 600, 5000] {
        for (_, outcome) in outcomes(&sample, || move |get| get.answer_in(pieces(len))).await {
            outcome.is_right();
        }
    }
}

#[tokio::test]
async fn a_request_that_fails_makes_the_read_fail_or_is_repeated() {
    let sample = small().await;
    for failing in 0..4 {
        let hook = move || move |get: Get<'_>| if get.number == failing { Err(failure()) } else { get.answer() };
        for (_, outcome) in outcomes(&sample, hook).await {
            if outcome.requests <= failing {
                outcome.is_right();
            } else if outcome.repeated == 0 {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn an_object_that_vanishes_is_not_found() {
    let sample = small().await;
    let gone = |location: &Path| object_store::Error::NotFound { path: location.to_string(), source: "gone".into() };
    for (read, outcome) in outcomes(&sample, || move |get: Get<'_>| Err(gone(&get.location))).await {
        if !matches!(read, Read::List) {
            assert!(matches!(outcome.result, Err(object_store::Error::NotFound { .. })), "{}", outcome.text);
            assert_eq!(outcome.repeated, 0);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_truncated_is_an_error() {
    let sample = small().await;
    for missing in [1, 7, 8, 9, 40, 96, 104, 500, 2000] {
        let hook = move || {
            move |get: Get<'_>| get.answer_in(|body| vec![Ok(body.slice(..body.len().saturating_sub(missing)))])
        };
        for (read, outcome) in outcomes(&sample, hook).await {
            // Requests may include 8 bytes after a frame, in case it is the final one.
            if read.has_bytes() && missing > 8 {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_returns_no_wrong_bytes() {
    let sample = small().await;
    for more in [1, 8, 96, 5000] {
        let hook =
            move || move |get: Get<'_>| get.answer_in(|body| vec![Ok([&body[..], &vec![7; more]].concat().into())]);
        outcomes(&sample, hook).await;
    }
}

#[tokio::test]
async fn a_stream_that_fails_in_the_middle_is_an_error() {
    let sample = small().await;
    for after in [0, 1, 100, 600] {
        let hook = move || {
            move |get: Get<'_>| {
                let fail = |body: Bytes| vec![Ok(body.slice(..body.len().min(after))), Err(failure())];
                if get.options.head { get.answer() } else { get.answer_in(fail) }
            }
        };
        for (read, outcome) in outcomes(&sample, hook).await {
            if after < 90 && read.has_bytes() {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn pieces_that_are_duplicated_swapped_or_missing_are_an_error() {
    fn pieces(body: &Bytes) -> Vec<Bytes> {
        body.chunks(STRIDE).map(Bytes::copy_from_slice).collect()
    }
    let changes: [fn(&mut Vec<Bytes>); 4] = [
        |pieces| pieces.insert(0, pieces[0].clone()),
        |pieces| pieces.insert(pieces.len(), pieces[pieces.len() - 1].clone()),
        |pieces| pieces.swap(7, 8),
        |pieces| drop(pieces.remove(0)),
    ];
    let sample = small().await;
    for (index, change) in changes.into_iter().enumerate() {
        let hook = || {
            move |get: Get<'_>| {
                get.answer_in(|body| {
                    let mut pieces = pieces(&body);
                    if pieces.len() > 8 {
                        change(&mut pieces);
                    }
                    pieces.into_iter().map(Ok).collect()
                })
            }
        };
        for (read, outcome) in outcomes(&sample, hook).await {
            // What follows the last frame of a range is not used.
            if matches!(read, Read::Full) && index != 1 {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn each_bit_that_changes_in_a_body_is_an_error_or_was_not_needed() {
    let sample = small().await;
    for place in 0..40 {
        let hook = move || {
            move |get: Get<'_>| {
                get.answer_in(|body| {
                    let mut body = body.to_vec();
                    let at = body.len() * place / 40;
                    body.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (place % 8));
                    vec![Ok(body.into())]
                })
            }
        };
        for (read, outcome) in outcomes(&sample, hook).await {
            if matches!(read, Read::Full) && outcome.text.contains("warm: false") {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn the_bytes_of_another_object_are_an_error() {
    let sample = small().await;
    let other = sealed(settings(), "b", &sample.plaintexts[1]).await;
    for keeps_meta in [false, true] {
        let other = other.clone();
        let hook = || {
            let other = other.clone();
            move |mut get: Get<'_>| {
                let own = get.answer()?;
                store(get.inner, "b", &other);
                get.location = "b".into();
                let mut answer = get.answer()?;
                if keeps_meta {
                    answer.meta = own.meta;
                }
                answer.meta.location = "a".into();
                Ok(answer)
            }
        };
        for (read, outcome) in outcomes(&sample, hook).await {
            if read.has_bytes() {
                outcome.fails();
            }
        }
    }
}

#[tokio::test]
async fn wrong_sizes_return_no_wrong_bytes() {
    let sample = small().await;
    let len = sample.sealed[0].len() as u64;
    let stride = STRIDE as u64;
    for size in [0, 1, 511, 512, 513, len - stride, len - 8, len - 1, len + 1, len + 8, len + stride, 1 << 40, u64::MAX]
    {
        let hook = move || {
            move |get: Get<'_>| {
                let mut answer = get.answer()?;
                answer.meta.size = size;
                Ok(answer)
            }
        };
        for (read, outcome) in outcomes(&Sample { reads: only_bytes(), ..clone(&sample) }, hook).await {
            if matches!(read, Read::Full | Read::Range(GetRange::Suffix(_) | GetRange::Offset(_))) {
                outcome.fails();
            }
        }
    }
}

fn only_bytes() -> Vec<Read> {
    reads().into_iter().filter(Read::has_bytes).collect()
}

fn clone(sample: &Sample) -> Sample {
    let Sample { settings, plaintexts, sealed, reads } = sample;
    Sample { settings: *settings, plaintexts: plaintexts.clone(), sealed: sealed.clone(), reads: reads.clone() }
}

#[tokio::test]
async fn wrong_ranges_return_no_wrong_bytes() {
    let changes: [fn(Range<u64>) -> Range<u64>; 10] = [
        |range| range.start + 1..range.end + 1,
        |range| range.start.saturating_sub(1)..range.end,
        |range| range.start + STRIDE as u64..range.end + STRIDE as u64,
        |range| range.start..range.end + 1,
        |range| range.start..range.end - 1,
        |_| 0..0,
        |range| range.end..range.start,
        |range| 0..range.end - range.start,
        |_| u64::MAX - 1..u64::MAX,
        |_| 0..u64::MAX,
    ];
    for sample in [Sample { reads: only_bytes(), ..small().await }, large().await] {
        for change in changes {
            let hook = || {
                move |get: Get<'_>| {
                    let mut answer = get.answer()?;
                    answer.range = change(answer.range);
                    Ok(answer)
                }
            };
            outcomes(&sample, hook).await;
        }
        // The store ignores the range, and says so.
        let hook = || {
            move |mut get: Get<'_>| {
                get.options.range = None;
                get.answer()
            }
        };
        outcomes(&sample, hook).await;
        // Or it does not say so.
        let hook = || {
            move |mut get: Get<'_>| {
                let range = get.answer()?.range;
                get.options.range = None;
                let mut answer = get.answer()?;
                answer.range = range;
                Ok(answer)
            }
        };
        outcomes(&sample, hook).await;
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_once_is_read_anew_once() {
    let different = sample(settings, [1000, 300], reads_within(300)).await;
    for sample in [small().await, large().await, different] {
        for e_tags in [ETags::Strong, ETags::Weak, ETags::Constant, ETags::Missing] {
            for read in &sample.reads {
                for (is_warm, before) in [false, true].into_iter().flat_map(|warm| (0..5).map(move |n| (warm, n))) {
                    let new = sample.sealed[1].clone();
                    let replace = move |get: Get<'_>| {
                        if get.number == before {
                            store(get.inner, "a", &new);
                        }
                        get.answer()
                    };
                    let outcome = outcome(&sample, read, is_warm, e_tags, replace).await;
                    outcome.is_right();
                    assert!(outcome.requests <= 10);
                    if e_tags == ETags::Strong && is_warm && before == 0 && read.has_bytes() {
                        assert!(outcome.result.as_ref().unwrap()[1] && outcome.repeated == 1, "{}", outcome.text);
                    }
                }
            }
        }
    }
}

/// Returns the reads that are possible in an object of this length.
fn reads_within(len: u64) -> Vec<Read> {
    let is_within = |read: &Read| match read {
        Read::Range(GetRange::Bounded(range)) => range.start < len,
        Read::Range(GetRange::Offset(offset)) => *offset < len,
        Read::Ranges(ranges) => ranges.iter().all(|range| range.start < len),
        _ => true,
    };
    reads().into_iter().filter(is_within).collect()
}

#[tokio::test]
async fn an_object_that_is_replaced_all_the_time_is_an_error_or_one_version() {
    for sample in [small().await, large().await] {
        for e_tags in [ETags::Strong, ETags::Weak, ETags::Constant, ETags::Missing] {
            for read in &sample.reads {
                for is_warm in [false, true] {
                    let versions = sample.sealed.clone();
                    let replace = move |get: Get<'_>| {
                        store(get.inner, "a", &versions[(get.number + 1) % 2]);
                        get.answer()
                    };
                    let outcome = outcome(&sample, read, is_warm, e_tags, replace).await;
                    // A repeated read that needs two requests gets two versions again.
                    if let Err(error) = &outcome.result {
                        assert_eq!(outcome.repeated, 1, "{}", outcome.text);
                        assert!(e_tags != ETags::Strong || matches!(cause(error), Error::Changed { .. }), "{error}");
                    }
                    let needs_two = matches!(read, Read::Range(GetRange::Suffix(_)));
                    assert!(!needs_two || outcome.result.is_err(), "{}", outcome.text);
                }
            }
        }
    }
}

#[tokio::test]
async fn an_out_of_range_read_of_a_shorter_version_is_an_error() {
    let sample = sample(settings, [1000, 300], vec![]).await;
    for read in [
        Read::Range(GetRange::Bounded(900..901)),
        Read::Range(GetRange::Offset(300)),
        Read::Ranges(vec![1..2, 300..301]),
    ] {
        for is_warm in [false, true] {
            let new = sample.sealed[1].clone();
            let replace = move |get: Get<'_>| {
                store(get.inner, "a", &new);
                get.answer()
            };
            outcome(&sample, &read, is_warm, ETags::Strong, replace).await.fails();
        }
    }
}

#[tokio::test]
async fn conditions_of_the_caller_hold_for_every_version_that_is_read() {
    let sample = small().await;
    for range in [None, Some(GetRange::Suffix(5)), Some(GetRange::Bounded(500..600))] {
        for is_warm in [false, true] {
            let faulty = Faulty::default();
            store(&faulty.inner, "a", &sample.sealed[0]);
            let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
            let location = Path::from("a");
            let if_match = encrypted.head(&location).await.unwrap().e_tag;
            let options = GetOptions { if_match, range: range.clone(), ..GetOptions::default() };
            if is_warm {
                encrypted.get_opts(&location, options.clone()).await.unwrap().bytes().await.unwrap();
            }
            let new = sample.sealed[1].clone();
            faulty.set(move |get| {
                store(get.inner, "a", &new);
                get.answer()
            });
            let read = encrypted.get_opts(&location, options).await;
            assert!(matches!(read, Err(object_store::Error::Precondition { .. })), "{read:?}");
        }
    }
}

#[tokio::test]
async fn an_error_of_a_stream_is_its_end() {
    let sample = large().await;
    let faulty = Faulty::default();
    store(&faulty.inner, "a", &sample.sealed[0]);
    let store = EncryptedStore::new(faulty.clone(), (sample.settings)()).unwrap();
    faulty.set(|get| {
        get.answer_in(|body| {
            let mut body = body.to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            vec![Ok(body.into())]
        })
    });
    let mut stream = store.get(&"a".into()).await.unwrap().into_stream();
    let mut read = Vec::new();
    let error = loop {
        match stream.try_next().await {
            Ok(piece) => read.extend_from_slice(&piece.expect("no end before the error")),
            Err(error) => break error,
        }
    };
    assert!(matches!(cause(&error), Error::Open { .. }));
    assert!(!read.is_empty() && sample.plaintexts[0].starts_with(&read));
    assert!(stream.try_next().await.unwrap().is_none());
}

/// Starts an upload over a store without faults.
async fn upload(settings: StoreSettings) -> (Faulty, EncryptedStore<Faulty>, Box<dyn MultipartUpload>) {
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings).unwrap();
    let upload = store.put_multipart(&"a".into()).await.unwrap();
    (faulty, store, upload)
}

async fn is_missing(store: &EncryptedStore<Faulty>) -> bool {
    let read = store.get(&"a".into()).await;
    let listed: Vec<_> = store.inner().inner.list(None).try_collect().await.unwrap();
    matches!(read, Err(object_store::Error::NotFound { .. })) && listed.is_empty()
}

#[tokio::test]
async fn parts_have_equal_lengths_whatever_the_parts_of_the_caller_are() {
    for lens in [vec![], vec![0], vec![1; 700], vec![5000], vec![64; 10], vec![3, 0, 900, 1, 64, 200]] {
        let (faulty, store, mut upload) = upload(settings()).await;
        let content = plaintext(lens.iter().sum(), 3);
        let mut rest = content.clone();
        for len in lens {
            upload.put_part(rest.split_to(len).into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        let parts = lock(&faulty.uploads.part_lens).clone();
        let (last, others) = parts.split_last().unwrap();
        assert!(others.iter().all(|len| *len == 200) && (1..=200).contains(last), "{parts:?}");
        assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
        let sealed = sealed(settings(), "a", &content).await;
        assert_eq!(parts.iter().sum::<usize>(), sealed.len(), "not the message of a single put");
    }
}

#[tokio::test]
async fn parts_are_written_in_the_order_of_the_calls() {
    let content = plaintext(1000, 4);
    let pieces: Vec<_> = (0..10).map(|index| content.slice(index * 100..(index + 1) * 100)).collect();
    // In reverse order, at the same time, only the last one, and none.
    for order in 0..4 {
        let (_, store, mut upload) = upload(settings()).await;
        let mut parts: Vec<_> = pieces.iter().map(|piece| upload.put_part(piece.clone().into())).collect();
        match order {
            0 => {
                for part in parts.into_iter().rev() {
                    part.await.unwrap();
                }
            }
            1 => drop(join_all(parts).await),
            2 => parts.pop().unwrap().await.unwrap(),
            _ => {}
        }
        upload.complete().await.unwrap();
        assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content, "{order}");
    }
}

#[tokio::test]
async fn parts_may_be_dropped_half_way() {
    let content = plaintext(5000, 5);
    let (faulty, store, mut upload) = upload(settings().parts_in_flight(2)).await;
    let gate = Arc::new(Semaphore::new(0));
    *lock(&faulty.uploads.gate) = Some(gate.clone());
    for piece in content.chunks(500) {
        let mut part = upload.put_part(Bytes::copy_from_slice(piece).into());
        for _ in 0..3 {
            let _ = futures_util::poll!(&mut part);
            gate.add_permits(1);
            tokio::task::yield_now().await;
        }
    }
    gate.add_permits(10_000);
    upload.complete().await.unwrap();
    assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
}

#[tokio::test]
async fn a_part_that_nobody_polls_any_more_does_not_stop_the_others() {
    let content = plaintext(3000, 6);
    let (faulty, store, mut upload) = upload(settings().parts_in_flight(1)).await;
    let gate = Arc::new(Semaphore::new(0));
    *lock(&faulty.uploads.gate) = Some(gate.clone());
    let mut first = upload.put_part(content.slice(..1000).into());
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut second = upload.put_part(content.slice(1000..2000).into());
    assert!(futures_util::poll!(&mut second).is_pending());
    gate.add_permits(10_000);
    let third = upload.put_part(content.slice(2000..).into());
    timeout(Duration::from_secs(20), third).await.expect("the first parts must not hold the upload").unwrap();
    timeout(Duration::from_secs(20), upload.complete()).await.expect("the upload must complete").unwrap();
    assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
    drop((first, second));
}

#[tokio::test]
async fn no_more_parts_are_in_flight_than_set() {
    for most in [1, 3, 8] {
        let (faulty, store, mut upload) = upload(settings().parts_in_flight(most)).await;
        let gate = Arc::new(Semaphore::new(0));
        *lock(&faulty.uploads.gate) = Some(gate.clone());
        let content = plaintext(10_000, 7);
        let parts: Vec<_> =
            content.chunks(100).map(|piece| upload.put_part(Bytes::copy_from_slice(piece).into())).collect();
        let mut parts = join_all(parts);
        for _ in 0..5 {
            assert!(futures_util::poll!(&mut parts).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(faulty.uploads.in_flight.load(SeqCst), most);
        gate.add_permits(10_000);
        parts.await.into_iter().for_each(|part| part.unwrap());
        upload.complete().await.unwrap();
        assert_eq!(faulty.uploads.most_in_flight.load(SeqCst), most);
        assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
    }
}

#[tokio::test]
async fn a_part_resolves_once_its_bytes_are_buffered() {
    let (faulty, _, mut upload) = upload(settings().parts_in_flight(4)).await;
    *lock(&faulty.uploads.gate) = Some(Arc::new(Semaphore::new(0)));
    // The header and frames of 100 bytes are three parts, of which none is uploaded.
    let part = upload.put_part(plaintext(100, 8).into());
    timeout(Duration::from_secs(20), part).await.expect("the part must not wait for its upload").unwrap();
}

#[tokio::test]
async fn a_part_that_fails_is_an_error_of_the_upload_and_of_all_later_calls() {
    for failing in 0..4 {
        let (faulty, store, mut upload) = upload(settings()).await;
        *lock(&faulty.uploads.failing_part) = Some(failing);
        let parts: Vec<_> =
            plaintext(1000, 9).chunks(100).map(|piece| upload.put_part(Bytes::copy_from_slice(piece).into())).collect();
        let mut has_failed = false;
        for part in parts {
            let result = part.await;
            assert!(result.is_err() || !has_failed, "a part succeeds after another failed");
            has_failed |= result.is_err();
            tokio::task::yield_now().await;
        }
        assert!(upload.complete().await.is_err());
        assert!(matches!(cause(&upload.complete().await.unwrap_err()), Error::UploadFailed { .. }));
        let part = upload.put_part("more".into()).await;
        assert!(matches!(cause(&part.unwrap_err()), Error::UploadFailed { .. }));
        assert_eq!(faulty.uploads.completed.load(SeqCst), 0);
        upload.abort().await.unwrap();
        assert_eq!(faulty.uploads.aborted.load(SeqCst), 1);
        assert!(is_missing(&store).await);
        for ended in [upload.abort().await, upload.complete().await.map(drop), upload.put_part("x".into()).await] {
            assert!(matches!(cause(&ended.unwrap_err()), Error::UploadEnded { .. }));
        }
    }
}

#[tokio::test]
async fn an_upload_that_cannot_be_completed_leaves_no_object() {
    let (faulty, store, mut upload) = upload(settings()).await;
    faulty.uploads.complete_fails.store(true, SeqCst);
    upload.put_part(plaintext(1000, 10).into()).await.unwrap();
    assert!(upload.complete().await.is_err());
    faulty.uploads.complete_fails.store(false, SeqCst);
    assert!(upload.complete().await.is_err(), "a failure stays one");
    faulty.uploads.abort_fails.store(true, SeqCst);
    assert!(upload.abort().await.is_err());
    assert!(is_missing(&store).await);
}

#[tokio::test]
async fn an_upload_that_is_dropped_or_aborted_leaves_no_object_and_no_request() {
    for is_aborted in [false, true] {
        let (faulty, store, mut upload) = upload(settings().parts_in_flight(3)).await;
        *lock(&faulty.uploads.gate) = Some(Arc::new(Semaphore::new(0)));
        let part = upload.put_part(plaintext(150, 11).into());
        part.await.unwrap();
        tokio::task::yield_now().await;
        assert!(faulty.uploads.in_flight.load(SeqCst) > 0);
        if is_aborted {
            upload.abort().await.unwrap();
        }
        drop(upload);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(faulty.uploads.in_flight.load(SeqCst), 0);
        assert!(is_missing(&store).await);
    }
}

#[tokio::test]
async fn a_completion_that_is_dropped_can_be_repeated() {
    let (faulty, store, mut upload) = upload(settings()).await;
    let gate = Arc::new(Semaphore::new(0));
    *lock(&faulty.uploads.gate) = Some(gate.clone());
    let content = plaintext(1000, 12);
    let part = upload.put_part(content.clone().into());
    for _ in 0..4 {
        assert!(futures_util::poll!(Pin::new(&mut upload.complete())).is_pending());
        gate.add_permits(1);
        tokio::task::yield_now().await;
    }
    gate.add_permits(1000);
    upload.complete().await.unwrap();
    drop(part);
    assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
}

#[test]
fn an_upload_needs_no_runtime() {
    let content = plaintext(5000, 13);
    let uploaded = async {
        let (_, store, mut upload) = upload(settings().parts_in_flight(2)).await;
        for piece in content.chunks(700) {
            upload.put_part(Bytes::copy_from_slice(piece).into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        store.get_range(&"a".into(), 100..4000).await.unwrap()
    };
    // Nothing waits for a timer or another task.
    let mut uploaded = Box::pin(uploaded);
    let bytes = (0..10_000).find_map(|_| uploaded.as_mut().now_or_never()).expect("no progress");
    assert_eq!(bytes, content.slice(100..4000));
}

#[tokio::test]
async fn an_upload_to_an_object_store_writer_completes() {
    let (_, store, upload) = upload(settings()).await;
    let content = plaintext(30_000, 14);
    let mut writer = WriteMultipart::new_with_chunk_size(upload, 1000);
    for piece in content.chunks(333) {
        writer.wait_for_capacity(2).await.unwrap();
        writer.write(piece);
    }
    writer.finish().await.unwrap();
    assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
}

#[tokio::test]
async fn the_key_provider_fails_and_no_object_is_written() {
    use kms_envelope::{
        Envelope,
        testing::{Fault, ScriptedProvider},
    };
    let provider = ScriptedProvider::new(key(7));
    let settings = StoreSettings::new(Envelope::builder(provider.clone())).header_len(HEADER_LEN);
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings).unwrap();
    provider.script([Fault::Throttled, Fault::AccessDenied]);
    let error = store.put(&"a".into(), "x".into()).await.unwrap_err();
    assert!(cause(&error).is_retryable());
    assert!(!cause(&store.put_multipart(&"a".into()).await.unwrap_err()).is_retryable());
    assert!(is_missing(&store).await);
    store.put(&"a".into(), "x".into()).await.unwrap();

    // An error of the key provider is not kept.
    provider.script([Fault::Unavailable, Fault::WrongKey]);
    assert!(cause(&store.get(&"a".into()).await.unwrap_err()).is_retryable());
    assert!(store.get(&"a".into()).await.is_err());
    assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_parts_of_concurrent_uploads_all_end() {
    let uploads = (0..60).map(|seed: usize| {
        tokio::spawn(async move {
            let (faulty, store, mut upload) = upload(settings().parts_in_flight(1 + seed % 3)).await;
            let gate = Arc::new(Semaphore::new(0));
            *lock(&faulty.uploads.gate) = Some(gate.clone());
            let content = plaintext(4000 + seed * 50, seed as u32);
            let parts: Vec<_> = content
                .chunks(130)
                .map(|piece| tokio::spawn(upload.put_part(Bytes::copy_from_slice(piece).into())))
                .collect();
            let opening = tokio::spawn(async move {
                for _ in 0..200 {
                    gate.add_permits(1);
                    tokio::task::yield_now().await;
                }
            });
            let completed = async {
                if seed.is_multiple_of(2) {
                    join_all(parts).await.into_iter().for_each(|part| part.unwrap().unwrap());
                }
                upload.complete().await.unwrap();
            };
            timeout(Duration::from_secs(20), completed).await.expect("the upload must end");
            opening.await.unwrap();
            assert_eq!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap(), content);
        })
    });
    join_all(uploads).await.into_iter().for_each(|upload| upload.unwrap());
}

#[tokio::test]
async fn an_answer_with_more_than_was_requested_is_not_read() {
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    store.put(&"a".into(), plaintext(2000, 1).into()).await.unwrap();
    let pieces = Arc::new(AtomicUsize::new(0));
    let counter = pieces.clone();
    faulty.set(move |get| {
        let (mut answer, counter) = (get.answer()?, counter.clone());
        answer.range.end = u64::MAX;
        answer.payload = GetResultPayload::Stream(
            stream::repeat_with(move || {
                counter.fetch_add(1, SeqCst);
                Ok(Bytes::from_static(&[0; 1024]))
            })
            .boxed(),
        );
        Ok(answer)
    });
    let error = store.get_range(&"a".into(), 1000..1010).await.unwrap_err();
    assert!(matches!(cause(&error), Error::WrongRange { .. }), "{error}");
    assert!(pieces.load(SeqCst) < 10);
}

#[tokio::test]
async fn a_size_that_the_inner_store_made_up_needs_no_memory() {
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    store.put(&"a".into(), plaintext(2000, 1).into()).await.unwrap();
    faulty.set(|get| {
        let mut answer = get.answer()?;
        answer.meta.size = HEADER_LEN as u64 + (1 << 40) * STRIDE as u64 + 40;
        Ok(answer)
    });
    for range in [0..u64::MAX, 100..u64::MAX] {
        assert!(store.get_ranges(&"a".into(), &[range]).await.is_err());
    }
}

#[tokio::test]
async fn looked_up_metadata_is_that_of_one_version() {
    let faulty = Faulty::default();
    let store = EncryptedStore::new(faulty.clone(), settings().look_up_sizes()).unwrap();
    let a = Path::from("a");
    store.put(&a, plaintext(2000, 1).into()).await.unwrap();
    let old = store.head(&a).await.unwrap();
    let new = sealed(settings(), "a", &plaintext(77, 2)).await;
    faulty.set(move |get| {
        let answer = get.answer();
        if get.number == 0 {
            support::store(get.inner, "a", &new);
        }
        answer
    });
    let found = store.head(&a).await.unwrap();
    assert_eq!(found, store.head(&a).await.unwrap());
    assert_eq!((old.size, found.size), (2000, 77));
}

#[tokio::test]
async fn an_upload_that_failed_does_not_keep_what_it_is_passed() {
    for aborts in [false, true] {
        let faulty = Faulty::default();
        *faulty.uploads.failing_part.lock().unwrap() = Some(0);
        let store = EncryptedStore::new(faulty.clone(), settings()).unwrap();
        let mut upload = store.put_multipart(&"a".into()).await.unwrap();
        let queued = Arc::new([1u8; 5000]);
        // Not polled.
        drop(upload.put_part(Bytes::from_owner(Owner(queued.clone())).into()));
        assert_eq!(Arc::strong_count(&queued), 2);
        if aborts {
            upload.abort().await.unwrap();
        } else {
            assert!(upload.complete().await.is_err());
        }
        drop(upload.put_part(Bytes::from_owner(Owner(queued.clone())).into()));
        assert_eq!(Arc::strong_count(&queued), 1);
    }
}

struct Owner(Arc<[u8; 5000]>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &*self.0
    }
}
