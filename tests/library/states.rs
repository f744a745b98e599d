//! Every writer and reader is open, finished or failed. Finished and failed are final. What opens is exactly what was
//! acknowledged, or nothing opens.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::Debug,
    future::Future,
    io::{self, BufRead, Cursor, ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use kms_envelope::{
    AlgorithmSuite, Backend, EncryptionContext, Envelope, OpenError, RawAes, SealError,
    error::FormatError,
    message::Header,
    stream::{AsyncReadAt, ReadAt, StreamError, Threads},
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{FailingRng, context, open, plaintext, seal};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

const FRAME_LEN: u32 = 16;

fn envelope() -> Envelope {
    Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap()).frame_len(FRAME_LEN).build().unwrap()
}

fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The result of a call to an inner reader, writer or stream.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Reads or writes at most this many bytes.
    Go(usize),
    Fail(ErrorKind),
    /// Pending, if it is asynchronous.
    Pend,
    /// A false end: more bytes follow later.
    End,
}

/// The position at which a source reported its end.
type End = Arc<Mutex<Option<usize>>>;

/// Bytes behind every interface. Calls follow a script, and then all succeed.
struct Inner {
    bytes: Vec<u8>,
    at: usize,
    script: VecDeque<Turn>,
    /// Whether it has reported its end.
    has_ended: End,
}

impl Inner {
    fn new(bytes: &[u8], script: &[Turn]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, script: script.iter().copied().collect(), has_ended: End::default() }
    }

    fn turn(&mut self) -> Turn {
        self.script.pop_front().unwrap_or(Turn::Go(usize::MAX))
    }

    /// Returns the bytes of this read, at most `max`. `None` means pending.
    fn give(&mut self, max: usize) -> Option<io::Result<Vec<u8>>> {
        let len = match self.turn() {
            Turn::Go(len) => len.clamp(1, max.max(1)),
            Turn::Fail(kind) => return Some(Err(kind.into())),
            Turn::Pend => return None,
            Turn::End => 0,
        };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let given = rest[..rest.len().min(len)].to_vec();
        self.at += given.len();
        if given.is_empty() {
            self.has_ended.lock().unwrap().get_or_insert(self.at);
        }
        Some(Ok(given))
    }

    /// Writes as many of the bytes as the script allows.
    fn accept(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let len = match self.turn() {
            Turn::Go(len) => len.clamp(1, bytes.len()),
            Turn::Fail(kind) => return Some(Err(kind.into())),
            Turn::Pend => return None,
            Turn::End => 0,
        };
        self.bytes.extend_from_slice(&bytes[..len]);
        Some(Ok(len))
    }

    fn flushed(&mut self) -> Option<io::Result<()>> {
        match self.turn() {
            Turn::Go(_) | Turn::End => Some(Ok(())),
            Turn::Fail(kind) => Some(Err(kind.into())),
            Turn::Pend => None,
        }
    }
}

/// A blocking call succeeds on the second attempt.
fn blocking<T>(mut call: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = call() {
            return value;
        }
    }
}

/// A pending call wakes its task at once.
fn polled<T>(value: Option<T>, cx: &mut Context<'_>) -> Poll<T> {
    match value {
        Some(value) => Poll::Ready(value),
        None => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

impl Read for Inner {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let given = blocking(|| self.give(out.len()))?;
        out[..given.len()].copy_from_slice(&given);
        Ok(given.len())
    }
}

impl Seek for Inner {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        blocking(|| self.flushed())?;
        let mut cursor = Cursor::new(&self.bytes);
        cursor.set_position(self.at as u64);
        let position = cursor.seek(position)?;
        self.at = position as usize;
        Ok(position)
    }
}

impl Write for Inner {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(|| self.accept(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(|| self.flushed())
    }
}

impl AsyncRead for Inner {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        polled(self.give(out.remaining()), cx).map_ok(|given| out.put_slice(&given))
    }
}

impl AsyncWrite for Inner {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        polled(self.accept(bytes), cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        polled(self.flushed(), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        polled(self.flushed(), cx)
    }
}

impl Stream for Inner {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        polled(self.give(1 << 20), cx)
            .map(|given| Some(given).filter(|given| !matches!(given, Ok(given) if given.is_empty())))
    }
}

/// Transient errors, for `std` and tokio. Streams have no such errors.
fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

const KINDS: [ErrorKind; 8] = [
    ErrorKind::WouldBlock,
    ErrorKind::TimedOut,
    ErrorKind::Interrupted,
    ErrorKind::Other,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
    ErrorKind::StorageFull,
];

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => (1usize..60).prop_map(Turn::Go),
        2 => prop::sample::select(&KINDS[..3]).prop_map(Turn::Fail),
        1 => prop::sample::select(&KINDS[..]).prop_map(Turn::Fail),
        2 => Just(Turn::Pend),
        1 => Just(Turn::End),
    ]
}

fn script() -> impl Strategy<Value = Vec<Turn>> {
    prop::collection::vec(turn(), 0..30)
}

// Writers.

/// A writer or sink under test. `None` means that the call was pending and is canceled.
trait Writer {
    fn write(&mut self, plaintext: &[u8]) -> Option<io::Result<usize>>;
    fn flush(&mut self) -> Option<io::Result<()>>;
    fn finish(&mut self) -> Option<io::Result<()>>;
    fn target(&self) -> &[u8];
}

impl Writer for kms_envelope::stream::SealWriter<Inner> {
    fn write(&mut self, plaintext: &[u8]) -> Option<io::Result<usize>> {
        Some(Write::write(self, plaintext))
    }

    fn flush(&mut self) -> Option<io::Result<()>> {
        Some(Write::flush(self))
    }

    fn finish(&mut self) -> Option<io::Result<()>> {
        Some(self.try_finish())
    }

    fn target(&self) -> &[u8] {
        &self.get_ref().bytes
    }
}

impl Writer for kms_envelope::stream::AsyncSealWriter<Inner> {
    fn write(&mut self, plaintext: &[u8]) -> Option<io::Result<usize>> {
        poll_once(|cx| Pin::new(self).poll_write(cx, plaintext))
    }

    fn flush(&mut self) -> Option<io::Result<()>> {
        poll_once(|cx| Pin::new(self).poll_flush(cx))
    }

    fn finish(&mut self) -> Option<io::Result<()>> {
        poll_once(|cx| Pin::new(self).poll_shutdown(cx))
    }

    fn target(&self) -> &[u8] {
        &self.get_ref().bytes
    }
}

fn writers(envelope: &Envelope, script: &[Turn]) -> [(&'static str, Box<dyn Writer>); 2] {
    let inner = || Inner::new(&[], script);
    [
        ("SealWriter", Box::new(block_on(envelope.seal_writer(inner(), &context())).unwrap())),
        ("AsyncSealWriter", Box::new(block_on(envelope.seal_async_writer(inner(), &context())).unwrap())),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Write(usize),
    Flush,
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// A call to finish it has started and not returned.
    Finishing,
    Finished,
    Failed,
}

/// Performs one operation, and checks its result against the state and the bytes acknowledged so far.
fn operate(
    writer: &mut dyn Writer,
    operation: Operation,
    state: &mut State,
    acknowledged: &mut Vec<u8>,
) -> Result<(), TestCaseError> {
    let before = *state;
    let result = match operation {
        Operation::Write(len) => {
            let bytes = &plaintext(len);
            writer.write(bytes).map(|written| written.map(|written| acknowledged.extend(&bytes[..written])))
        }
        Operation::Flush => writer.flush(),
        Operation::Finish => writer.finish(),
    };
    match (before, operation, &result) {
        (State::Failed, _, result) => prop_assert!(matches!(result, Some(Err(_))), "{operation:?} {result:?}"),
        (State::Finished, Operation::Write(_), result) => {
            let refused = matches!(result, Some(Err(error)) if error.kind() == ErrorKind::BrokenPipe);
            prop_assert!(refused, "{result:?}");
            return Ok(());
        }
        (State::Finished, _, result) => prop_assert!(matches!(result, Some(Ok(()))), "{operation:?} {result:?}"),
        _ => {}
    }
    if matches!(operation, Operation::Finish) && before == State::Open {
        *state = State::Finishing;
    }
    match (&result, operation) {
        (Some(Err(error)), _) if before == State::Finishing && is_finished(error) => {}
        (Some(Err(error)), _) if !is_transient(error.kind()) => *state = State::Failed,
        (Some(Ok(())), Operation::Finish) => *state = State::Finished,
        _ => {}
    }
    Ok(())
}

/// Returns whether a write was refused because the message has been finished.
fn is_finished(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(SealError::Finished))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_written_message_opens_to_exactly_what_was_acknowledged(
        script in script(),
        operations in prop::collection::vec(
            prop_oneof![6 => (1usize..50).prop_map(Operation::Write), 1 => Just(Operation::Flush), 1 => Just(Operation::Finish)],
            0..30,
        ),
    ) {
        for (name, mut writer) in writers(&envelope(), &script) {
            let (mut state, mut acknowledged) = (State::Open, Vec::new());
            for operation in &operations {
                operate(&mut *writer, *operation, &mut state, &mut acknowledged)?;
            }
            if state != State::Finished {
                prop_assert!(open(&envelope(), writer.target()).map_or(true, |opened| opened == acknowledged), "{name}");
            }
            for _ in 0..50 {
                operate(&mut *writer, Operation::Finish, &mut state, &mut acknowledged)?;
            }
            match state {
                State::Finished => prop_assert_eq!(open(&envelope(), writer.target()).unwrap(), acknowledged, "{}", name),
                State::Failed => {
                    // If only the last step, a flush, has failed, the message is complete.
                    prop_assert!(open(&envelope(), writer.target()).map_or(true, |opened| opened == acknowledged), "{name}");
                }
                state => prop_assert!(false, "{name} {state:?}"),
            }
        }
    }
}

// Readers.

/// A reader or stream under test. An empty piece is its end. `None` means that the call was pending and is canceled.
type Reader = Box<dyn FnMut(usize) -> Option<Result<Vec<u8>, Failure>>>;

#[derive(Debug)]
struct Failure {
    text: String,
    is_transient: bool,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { text: error.to_string(), is_transient: is_transient(error.kind()) }
    }
}

impl From<StreamError<io::Error>> for Failure {
    fn from(error: StreamError<io::Error>) -> Self {
        Self { text: error.to_string(), is_transient: false }
    }
}

fn of_std(mut reader: impl Read + 'static) -> Reader {
    Box::new(move |len| {
        let mut piece = vec![0; len];
        Some(reader.read(&mut piece).map_err(Failure::from).map(|read| {
            piece.truncate(read);
            piece
        }))
    })
}

/// Reads a part of the buffered bytes at a time.
fn of_buffered(mut reader: impl BufRead + 'static) -> Reader {
    Box::new(move |len| {
        let piece = match reader.fill_buf() {
            Ok(buffered) => buffered[..buffered.len().min(len)].to_vec(),
            Err(error) => return Some(Err(error.into())),
        };
        reader.consume(piece.len());
        Some(Ok(piece))
    })
}

fn of_async_buffered(mut reader: impl AsyncBufRead + Unpin + 'static) -> Reader {
    Box::new(move |len| {
        let filled = poll_once(|cx| {
            Pin::new(&mut reader).poll_fill_buf(cx).map_ok(|buffered| buffered[..buffered.len().min(len)].to_vec())
        })?;
        Some(filled.map_err(Failure::from).inspect(|piece| Pin::new(&mut reader).consume(piece.len())))
    })
}

fn of_tokio(mut reader: impl AsyncRead + Unpin + 'static) -> Reader {
    Box::new(move |len| {
        let mut piece = vec![0; len];
        let mut out = ReadBuf::new(&mut piece);
        let read = poll_once(|cx| Pin::new(&mut reader).poll_read(cx, &mut out))?;
        Some(read.map_err(Failure::from).map(|()| out.filled().to_vec()))
    })
}

fn of_stream(mut stream: impl Stream<Item = Result<Bytes, StreamError<io::Error>>> + Unpin + 'static) -> Reader {
    Box::new(move |_| {
        let next = poll_once(|cx| Pin::new(&mut stream).poll_next(cx))?;
        Some(next.transpose().map_err(Failure::from).map(|piece| piece.unwrap_or_default().to_vec()))
    })
}

/// Reads to the end or to a final error, and checks that it stays so. Returns the bytes read, and whether it ended.
fn read_all(name: &str, reader: &mut Reader, lens: &[usize]) -> Result<(Vec<u8>, bool), TestCaseError> {
    let (mut all, mut ended) = (Vec::new(), None);
    for len in lens.iter().cycle().take(3000) {
        let Some(read) = reader(*len) else { continue };
        match (read, ended) {
            (Ok(piece), None) if piece.is_empty() => ended = Some(true),
            (Ok(piece), None) => all.extend(piece),
            (Err(failure), None) if failure.is_transient => {}
            (Err(_), None) => ended = Some(false),
            // Once more.
            (Ok(piece), Some(true)) => {
                prop_assert!(piece.is_empty(), "{name} continues after its end");
                return Ok((all, true));
            }
            (Err(failure), Some(false)) => {
                prop_assert!(!failure.is_transient, "{name}");
                return Ok((all, false));
            }
            (read, Some(_)) => prop_assert!(false, "{name} has ended, and then: {read:?}"),
        }
    }
    prop_assert!(false, "{} does not end", name);
    Ok((all, false))
}

/// Returns each reader or stream that seals what it reads, with the position at which its source ended.
fn sealing_readers(envelope: &Envelope, plaintext: &[u8], script: &[Turn]) -> Vec<(&'static str, Reader, End)> {
    let make = || {
        let inner = Inner::new(plaintext, script);
        let ended = inner.has_ended.clone();
        (inner, ended)
    };
    let mut readers: Vec<(_, Reader, _)> = Vec::new();
    let (inner, ended) = make();
    readers.push(("SealReader", of_std(block_on(envelope.seal_reader(inner, &context())).unwrap()), ended));
    let (inner, ended) = make();
    let reader = block_on(envelope.seal_reader(inner, &context())).unwrap();
    readers.push(("SealReader, buffered", of_buffered(reader), ended));
    let (inner, ended) = make();
    let reader = block_on(envelope.seal_async_reader(inner, &context())).unwrap();
    readers.push(("AsyncSealReader", of_tokio(reader), ended));
    let (inner, ended) = make();
    let reader = block_on(envelope.seal_async_reader(inner, &context())).unwrap();
    readers.push(("AsyncSealReader, buffered", of_async_buffered(reader), ended));
    let (inner, ended) = make();
    readers.push(("SealStream", of_stream(block_on(envelope.seal_stream(inner, &context())).unwrap()), ended));
    readers
}

/// Returns each reader or stream that opens what it reads, if the header arrives.
fn opening_readers(envelope: &Envelope, sealed: &[u8], script: &[Turn]) -> Vec<(&'static str, Reader)> {
    // The header arrives without errors.
    let header_len = Header::parse(sealed, &Default::default()).map_or(0, |header| header.len());
    let inner = || {
        let mut inner = Inner::new(sealed, &[]);
        inner.script.extend(std::iter::repeat_n(Turn::Go(1), header_len));
        inner.script.extend(script);
        inner
    };
    let mut readers: Vec<(_, Reader)> = Vec::new();
    if let Ok(reader) = block_on(envelope.open_reader(inner(), &context())) {
        readers.push(("OpenReader", of_std(reader)));
    }
    if let Ok(reader) = block_on(envelope.open_reader(inner(), &context())) {
        readers.push(("OpenReader, buffered", of_buffered(reader)));
    }
    if let Ok(reader) = block_on(envelope.open_async_reader(inner(), &context())) {
        readers.push(("AsyncOpenReader", of_tokio(reader)));
    }
    if let Ok(reader) = block_on(envelope.open_async_reader(inner(), &context())) {
        readers.push(("AsyncOpenReader, buffered", of_async_buffered(reader)));
    }
    if let Ok(stream) = block_on(envelope.open_stream(inner(), &context())) {
        readers.push(("OpenStream", of_stream(stream)));
    }
    readers
}

#[derive(Clone, Debug)]
enum Change {
    None,
    Flip(prop::sample::Index),
    Cut(prop::sample::Index),
    Append,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_message_from_a_sealing_reader_opens_to_exactly_what_its_source_returned(
        len in 0usize..200, script in script(), lens in prop::collection::vec(1usize..100, 1..5),
    ) {
        let plaintext = plaintext(len);
        for (name, mut reader, source_ended) in sealing_readers(&envelope(), &plaintext, &script) {
            let (sealed, ended) = read_all(name, &mut reader, &lens)?;
            if ended {
                let given = source_ended.lock().unwrap().unwrap();
                prop_assert_eq!(&open(&envelope(), &sealed).unwrap()[..], &plaintext[..given], "{}", name);
            } else {
                prop_assert!(open(&envelope(), &sealed).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn readers_that_open_return_the_complete_plaintext_or_a_final_error(
        len in 0usize..200, script in script(), lens in prop::collection::vec(1usize..100, 1..5),
        change in prop_oneof![
            Just(Change::None),
            any::<prop::sample::Index>().prop_map(Change::Flip),
            any::<prop::sample::Index>().prop_map(Change::Cut),
            Just(Change::Append),
        ],
    ) {
        let plaintext = plaintext(len);
        let mut sealed = seal(&envelope(), &plaintext);
        match change {
            Change::None => {}
            Change::Flip(at) => {
                let at = at.index(sealed.len());
                sealed[at] ^= 1;
            }
            Change::Cut(at) => sealed.truncate(at.index(sealed.len())),
            Change::Append => sealed.push(0),
        }
        for (name, mut reader) in opening_readers(&envelope(), &sealed, &script) {
            let (opened, ended) = read_all(name, &mut reader, &lens)?;
            prop_assert!(plaintext.starts_with(&opened), "{name}");
            if ended {
                // A source that reports its end at the end of the message has not revealed the trailing bytes.
                let told_less = matches!(change, Change::Append) && script.iter().any(|turn| matches!(turn, Turn::End));
                prop_assert!(matches!(change, Change::None) || told_less, "{name}");
                prop_assert_eq!(opened.len(), plaintext.len(), "{}", name);
            }
        }
    }

    #[test]
    fn a_reader_that_seeks_is_a_cursor_over_the_plaintext_until_it_fails_for_good(
        len in 0usize..200, script in script(),
        steps in prop::collection::vec((0u8..4, -250i64..250, 0usize..60), 1..30),
    ) {
        let plaintext = plaintext(len);
        let mut inner = Inner::new(&seal(&envelope(), &plaintext), &[]);
        let header_len = Header::parse(&inner.bytes, &Default::default()).unwrap().len();
        inner.script.extend(std::iter::repeat_n(Turn::Go(1), header_len));
        // A false end truncates the message, which is an error. Here, all errors are the source's.
        inner.script.extend(script.iter().filter(|turn| !matches!(turn, Turn::End)));
        let mut reader = block_on(envelope().open_reader(inner, &context())).unwrap();
        let mut cursor = Cursor::new(&plaintext);
        let mut failed = false;
        for (kind, offset, read_len) in steps {
            let position = match kind {
                0 => SeekFrom::Start(offset.unsigned_abs()),
                1 => SeekFrom::Current(offset),
                _ => SeekFrom::End(offset),
            };
            let (one, two) = if kind == 3 {
                let (mut one, mut two) = (vec![0; read_len], vec![0; read_len]);
                let read = reader.read(&mut one);
                if let Ok(read) = read {
                    // It may return fewer bytes, but not none.
                    let expected = Read::read(&mut cursor, &mut two[..read]).unwrap();
                    prop_assert_eq!((read, &one[..read]), (expected, &two[..read]));
                    prop_assert!(read > 0 || read_len == 0 || cursor.position() >= len as u64);
                }
                (read.map(|_| cursor.position()), Ok(cursor.position()))
            } else {
                let before = cursor.position();
                let sought = reader.seek(position);
                let expected = cursor.seek(position);
                if sought.is_err() {
                    cursor.set_position(before);
                }
                (sought, expected)
            };
            match one {
                Ok(position) => {
                    prop_assert!(!failed, "continues after a failure");
                    prop_assert_eq!(position, two.unwrap());
                    prop_assert_eq!(reader.stream_position().unwrap(), cursor.position());
                }
                Err(error) if failed => prop_assert!(!is_transient(error.kind()) || kind == 3 && read_len == 0),
                Err(error) if error.kind() == ErrorKind::InvalidInput => prop_assert!(two.is_err()),
                Err(error) => failed = !is_transient(error.kind()),
            }
            if failed {
                prop_assert!(reader.stream_position().is_err() && reader.read(&mut [0]).is_err());
            }
        }
    }
}

/// Returns envelopes whose streams work on batches, with one thread or several, with a signature or without.
fn long() -> impl Strategy<Value = Envelope> {
    let suites = [AlgorithmSuite::Aes256GcmHkdfSha512Commit, AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384];
    (prop::sample::select(suites.to_vec()), prop::sample::select(vec![4096, 1 << 20]), any::<bool>()).prop_map(
        |(suite, frame_len, parallel)| {
            let builder = Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap());
            #[cfg(feature = "parallel")]
            let threads = if parallel { Threads::Global } else { Threads::One };
            #[cfg(not(feature = "parallel"))]
            let (threads, _) = (Threads::One, parallel);
            builder.suite(suite).frame_len(frame_len).threads(threads).build().unwrap()
        },
    )
}

/// Like [`script`], with reads of up to a few hundred kilobytes.
fn long_script() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![3 => (1usize..700_000).prop_map(Turn::Go), 1 => turn()];
    prop::collection::vec(turn, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn long_messages_follow_the_same_rules_signed_or_not_with_one_thread_or_several(
        envelope in long(), len in 0usize..5 << 20, script in long_script(),
        lens in prop::collection::vec(1usize..700_000, 1..5), change in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let plaintext = plaintext(len);
        for (name, mut writer) in writers(&envelope, &script) {
            let (mut state, mut acknowledged) = (State::Open, Vec::new());
            for len in lens.iter().cycle().take(2 * lens.len() + 3) {
                operate(&mut *writer, Operation::Write(*len), &mut state, &mut acknowledged)?;
            }
            for _ in 0..50 {
                operate(&mut *writer, Operation::Finish, &mut state, &mut acknowledged)?;
            }
            let opened = open(&envelope, writer.target());
            prop_assert!(opened.is_ok() || state == State::Failed, "{name}");
            prop_assert!(opened.map_or(true, |opened| opened == acknowledged), "{name}");
        }
        for (name, mut reader, source_ended) in sealing_readers(&envelope, &plaintext, &script) {
            let (sealed, ended) = read_all(name, &mut reader, &[700_000])?;
            match open(&envelope, &sealed) {
                Ok(opened) => prop_assert!(ended && opened == plaintext[..source_ended.lock().unwrap().unwrap()], "{name}"),
                Err(_) => prop_assert!(!ended, "{name}"),
            }
        }
        let mut sealed = block_on(envelope.seal(&plaintext, &context())).unwrap();
        if let Some(at) = change {
            let at = at.index(sealed.len());
            sealed[at] ^= 1;
        }
        for (name, mut reader) in opening_readers(&envelope, &sealed, &script) {
            let (opened, ended) = read_all(name, &mut reader, &[700_000])?;
            prop_assert!(plaintext.starts_with(&opened), "{name}");
            prop_assert!(!ended || change.is_none() && opened.len() == plaintext.len(), "{name}");
        }
    }
}

/// A source of ranges that follows a script.
struct Ranges(Mutex<Inner>);

impl ReadAt for Ranges {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap();
        inner.at = offset as usize;
        Read::read(&mut *inner, out)
    }
}

impl AsyncReadAt for Ranges {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // Fewer bytes would mean the end of the source.
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], range.start + filled as u64)? {
                0 => break,
                len => filled += len,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A range reader has no state, so a call after an error depends only on the source.
    #[test]
    fn a_range_is_correct_or_an_error_whatever_its_source_does(
        len in 0usize..200, script in script(), ranges in prop::collection::vec((0u64..210, 0u64..210), 1..10),
    ) {
        let plaintext = plaintext(len);
        let sealed = seal(&envelope(), &plaintext);
        let source = || {
            let mut inner = Inner::new(&sealed, &[Turn::Go(usize::MAX), Turn::Go(usize::MAX)]);
            inner.script.extend(&script);
            Ranges(Mutex::new(inner))
        };
        let sealed_len = sealed.len() as u64;
        let reader = block_on(envelope().range_reader(source(), sealed_len, &context())).unwrap();
        let async_reader = block_on(envelope().async_range_reader(source(), sealed_len, &context())).unwrap();
        type Read<'a> = &'a dyn Fn(Range<u64>) -> Result<Vec<u8>, OpenError>;
        let reads: [Read<'_>; 2] = [&|range| reader.read(range), &|range| block_on(async_reader.read(range))];
        for read in reads {
            for (start, end) in &ranges {
                let expected = plaintext.get(*start as usize..*end as usize);
                match read(*start..*end) {
                    Ok(read) => prop_assert_eq!(Some(&read[..]), expected),
                    Err(OpenError::OutOfRange { .. }) => prop_assert!(expected.is_none()),
                    Err(error) => prop_assert!(expected.is_some(), "{}", error),
                }
            }
            // When the source works again, so does the reader.
            let whole = (0..script.len() + 1).find_map(|_| read(0..len as u64).ok());
            prop_assert_eq!(whole, Some(plaintext.clone()));
        }
    }
}

// The table of docs/design.md: what follows an error of the source or target.

#[test]
fn a_transient_error_loses_nothing_and_any_other_is_final_for_every_reader_and_writer() {
    let plaintext = plaintext(100);
    let sealed = seal(&envelope(), &plaintext);
    for kind in KINDS {
        let script = [Turn::Go(20), Turn::Fail(kind), Turn::Go(7)];
        for (name, mut writer) in writers(&envelope(), &script) {
            let (mut rest, mut errors) = (&plaintext[..], 0);
            while !rest.is_empty() && errors < 3 {
                match writer.write(rest).unwrap() {
                    Ok(len) => rest = &rest[len..],
                    Err(_) => errors += 1,
                }
            }
            let finished = loop {
                match writer.finish().unwrap() {
                    Err(error) if is_transient(error.kind()) => errors += 1,
                    finished => break finished.is_ok(),
                }
            };
            assert_eq!(finished, is_transient(kind), "{name} {kind}");
            assert!(errors < 2 || !finished, "{name} {kind}");
            assert_eq!(open(&envelope(), writer.target()).is_ok(), finished, "{name} {kind}");
            if finished {
                assert_eq!(open(&envelope(), writer.target()).unwrap(), plaintext);
            }
        }
        for (name, mut reader, _) in sealing_readers(&envelope(), &plaintext, &script) {
            let (read, ended) = read_all(name, &mut reader, &[1000]).unwrap();
            assert_eq!(ended, is_transient(kind) && name != "SealStream", "{name} {kind}");
            assert_eq!(open(&envelope(), &read).is_ok(), ended, "{name} {kind}");
        }
        for (name, mut reader) in opening_readers(&envelope(), &sealed, &script) {
            let (read, ended) = read_all(name, &mut reader, &[1000]).unwrap();
            assert_eq!(ended, is_transient(kind) && name != "OpenStream", "{name} {kind}");
            assert_eq!(read == plaintext, ended, "{name} {kind}");
        }
    }
}

#[test]
fn a_refused_message_stays_refused_for_every_reader_and_writer_even_if_its_source_continues() {
    let sealed = seal(&envelope(), &plaintext(100));
    for script in [&[Turn::End][..], &[Turn::Go(70), Turn::End]] {
        for (name, mut reader) in opening_readers(&envelope(), &sealed, script) {
            let mut errors = Vec::new();
            for _ in 0..10 {
                match reader(1000).unwrap() {
                    Ok(piece) => assert!(errors.is_empty() && !piece.is_empty(), "{name} continues after an error"),
                    Err(failure) => errors.push(failure.text),
                }
            }
            assert!(errors[0].contains("truncated") && errors[1].contains("failed earlier"), "{name} {errors:?}");
        }
    }
}

#[test]
fn a_message_that_has_ended_stays_ended_even_if_its_source_continues() {
    let message = seal(&envelope(), b"data");
    let source = [&message[..], b"more"].concat();
    let mut reader = block_on(envelope().open_reader(Inner::new(&source, &[]), &context())).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    let body_len = message.len() - Header::parse(&message, &Default::default()).unwrap().len();
    for (name, mut reader) in opening_readers(&envelope(), &source, &[Turn::Go(body_len), Turn::End]) {
        assert_eq!(reader(10).unwrap().expect(name), b"data", "{name}");
        assert_eq!(reader(10).unwrap().unwrap(), b"", "{name}");
        assert_eq!(reader(10).unwrap().unwrap(), b"", "{name}");
    }
}

// Regression tests.

#[test]
fn nothing_is_written_after_the_end_of_a_message() {
    block_on(async {
        let mut writer = envelope().seal_async_writer(Vec::new(), &context()).await.unwrap();
        writer.write_all(b"first").await.unwrap();
        writer.shutdown().await.unwrap();
        let error = writer.write_all(b"SECOND PART").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(matches!(error.downcast(), Ok(SealError::Finished)));
        writer.shutdown().await.unwrap();
        assert_eq!(open(&envelope(), &writer.into_inner()).unwrap(), b"first");
    });
    let mut writer = block_on(envelope().seal_writer(Vec::new(), &context())).unwrap();
    writer.write_all(b"first").unwrap();
    writer.try_finish().unwrap();
    let error = writer.write_all(b"SECOND PART").unwrap_err();
    assert!(error.kind() == ErrorKind::BrokenPipe && is_finished(&error));
    assert_eq!(open(&envelope(), &writer.finish().unwrap()).unwrap(), b"first");
}

/// Returns an envelope that signs, and whose random generator can be made to fail. AWS-LC has its own for signatures.
#[cfg(feature = "rust-crypto")]
fn signing() -> (FailingRng, Envelope) {
    let rng = FailingRng::after(usize::MAX);
    let envelope = Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap())
        .suite(AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384)
        .backend(Backend::RustCrypto)
        .rng(rng.clone())
        .build()
        .unwrap();
    (rng, envelope)
}

#[cfg(feature = "rust-crypto")]
#[test]
fn after_a_failed_finish_every_later_call_fails() {
    let (rng, envelope) = signing();
    let context = context();
    let mut reader = block_on(envelope.seal_reader(&b"data"[..], &context)).unwrap();
    let mut async_reader = block_on(envelope.seal_async_reader(&b"data"[..], &context)).unwrap();
    let mut writer = block_on(envelope.seal_writer(Vec::new(), &context)).unwrap();
    let mut async_writer = block_on(envelope.seal_async_writer(Vec::new(), &context)).unwrap();
    let source = stream::iter([Ok::<_, io::Error>(&b"data"[..])]);
    let mut sealing = block_on(envelope.seal_stream(source, &context)).unwrap();
    writer.write_all(b"data").unwrap();
    block_on(async_writer.write_all(b"data")).unwrap();
    rng.fail();
    for round in 0..3 {
        let mut out = Vec::new();
        let errors = [
            reader.read_to_end(&mut out).unwrap_err(),
            block_on(async_reader.read_to_end(&mut out)).unwrap_err(),
            writer.try_finish().unwrap_err(),
            block_on(async_writer.shutdown()).unwrap_err(),
        ];
        for error in errors {
            let error = error.downcast::<SealError>().unwrap();
            assert_eq!(matches!(error, SealError::Random(_)), round == 0, "{error}");
            assert_eq!(matches!(error, SealError::FailedBefore), round > 0, "{error}");
        }
        // The header is written, and the end fails.
        let last = loop {
            match block_on(sealing.next()) {
                Some(Ok(_)) => assert_eq!(round, 0),
                last => break last,
            }
        };
        assert!(matches!(last, Some(Err(StreamError::Seal(_)))), "{last:?}");
    }
    assert_eq!(writer.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(block_on(async_writer.write(b"more")).unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(writer.flush().is_err() && block_on(async_writer.flush()).is_err());
    assert!(matches!(open(&envelope, writer.get_ref()), Err(OpenError::Format(FormatError::Truncated(_)))));
    assert!(writer.finish().is_err());
}

#[test]
fn sealed_len_still_works_after_the_message_is_finished() {
    let mut reader = block_on(envelope().seal_reader(&b"data"[..], &context())).unwrap();
    let before = reader.sealed_len(4).unwrap();
    let mut sealed = Vec::new();
    reader.read_to_end(&mut sealed).unwrap();
    assert_eq!((reader.sealed_len(4).unwrap(), sealed.len() as u64), (before, before));
}

/// A stream that is always pending.
#[derive(Debug)]
struct Silent;

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("silent")
    }
}

#[async_trait::async_trait]
impl kms_envelope::KeyProvider for Silent {
    async fn generate_data_key(
        &self,
        _: &kms_envelope::provider::GenerateDataKeyRequest<'_>,
    ) -> Result<kms_envelope::provider::GeneratedDataKey, kms_envelope::ProviderError> {
        std::future::pending().await
    }

    async fn encrypt_data_key(
        &self,
        _: &kms_envelope::provider::EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<kms_envelope::message::EncryptedDataKey>, kms_envelope::ProviderError> {
        std::future::pending().await
    }

    async fn decrypt_data_key(
        &self,
        _: &kms_envelope::provider::DecryptDataKeyRequest<'_>,
    ) -> Result<kms_envelope::provider::DecryptedDataKey, kms_envelope::ProviderError> {
        std::future::pending().await
    }
}

#[test]
fn a_canceled_or_failed_call_leaves_no_bytes_of_another_message_in_its_buffer() {
    let silent = Envelope::new(Silent);
    let (sealed, context) = (seal(&envelope(), b"another message"), context());
    let (mut plaintext, mut message) = (b"a secret".to_vec(), b"a message".to_vec());
    {
        let mut opening = pin!(silent.open_into(&sealed, &context, &mut plaintext));
        let mut sealing = pin!(silent.seal_into(b"data", &context, &mut message));
        assert!(poll_once(|cx| opening.as_mut().poll(cx)).is_none());
        assert!(poll_once(|cx| sealing.as_mut().poll(cx)).is_none());
    }
    assert!(plaintext.is_empty() && message.is_empty());

    let (mut plaintext, mut message) = (b"a secret".to_vec(), b"a message".to_vec());
    assert!(block_on(envelope().open_into(&sealed[..sealed.len() - 1], &context, &mut plaintext)).is_err());
    let reserved = EncryptionContext::from([("aws-crypto-name", "value")]);
    assert!(block_on(envelope().seal_into(b"data", &reserved, &mut message)).is_err());
    assert!(plaintext.is_empty() && message.is_empty());
}

#[test]
fn no_reader_or_writer_prints_its_contents() {
    const SECRET: &[u8] = b"attack at dawn";
    let (envelope, context) = (envelope(), context());
    let sealed = seal(&envelope, SECRET);
    let printed = |stream: &dyn Debug| format!("{stream:?} {stream:#?}");
    let mut open_reader = block_on(envelope.open_reader(Cursor::new(&sealed), &context)).unwrap();
    assert_eq!(open_reader.read(&mut [0; 3]).unwrap(), 3);
    let mut writer = block_on(envelope.seal_writer(SECRET.to_vec(), &context)).unwrap();
    writer.write_all(SECRET).unwrap();
    let source = stream::iter([Ok::<_, io::Error>(SECRET)]);
    let message = stream::iter([Ok::<_, io::Error>(sealed.clone())]);
    for printed in [
        printed(&block_on(envelope.seal_reader(SECRET, &context)).unwrap()),
        printed(&block_on(envelope.seal_reader(Cursor::new(SECRET), &context)).unwrap()),
        printed(&writer),
        printed(&open_reader),
        printed(&block_on(envelope.seal_async_reader(SECRET, &context)).unwrap()),
        printed(&block_on(envelope.seal_async_writer(SECRET.to_vec(), &context)).unwrap()),
        printed(&block_on(envelope.open_async_reader(&sealed[..], &context)).unwrap()),
        printed(&block_on(envelope.seal_stream(source, &context)).unwrap()),
        printed(&block_on(envelope.open_stream(message, &context)).unwrap()),
        printed(&block_on(envelope.range_reader(&sealed[..], sealed.len() as u64, &context)).unwrap()),
    ] {
        // The plaintext as text and as a list of numbers, and the first bytes of the message.
        for inside in ["attack", "97, 116, 116", "97,\n", "[2, 4, 120"] {
            assert!(!printed.contains(inside), "{inside:?} is in {printed}");
        }
        assert!(printed.contains("frame_len"), "{printed}");
    }
}

#[test]
fn one_poll_processes_a_limited_number_of_pieces_and_then_lets_other_tasks_run() {
    let polled = Rc::new(RefCell::new(0));
    // Sources that are always ready: endless empty pieces, or single bytes of a long frame.
    let envelope = Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap()).frame_len(2 << 20).build().unwrap();
    let long = block_on(envelope.seal(&plaintext(2 << 20), &context())).unwrap();
    let counted = |pieces: Vec<Vec<u8>>| {
        let counter = polled.clone();
        stream::iter(pieces).map(move |piece| {
            *counter.borrow_mut() += 1;
            Ok::<_, io::Error>(piece)
        })
    };
    let most = || std::mem::take(&mut *polled.borrow_mut());

    let nothing = counted(vec![Vec::new(); 100_000]);
    let context = context();
    let mut opening = pin!(envelope.open_stream(nothing, &context));
    assert!(poll_once(|cx| opening.as_mut().poll(cx)).is_none());
    assert!((1..=256).contains(&most()));

    let bytes = counted(long.iter().map(|byte| vec![*byte]).collect());
    let mut opened = block_on(envelope.open_stream(bytes, &context)).unwrap();
    most();
    assert!(poll_once(|cx| Pin::new(&mut opened).poll_next(cx)).is_none());
    assert!((1..=256).contains(&most()));
    assert_eq!(block_on(opened.next()).unwrap().unwrap().len(), 2 << 20);

    // The same for bytes.
    let parts = counted(long.chunks(100_000).map(<[u8]>::to_vec).collect());
    let mut opened = block_on(envelope.open_stream(parts, &context)).unwrap();
    most();
    assert!(poll_once(|cx| Pin::new(&mut opened).poll_next(cx)).is_none());
    assert!((9..=11).contains(&most()));

    let mut sealing = block_on(envelope.seal_stream(counted(vec![vec![1]; 100_000]), &context)).unwrap();
    assert!(block_on(sealing.next()).unwrap().is_ok()); // The header.
    most();
    assert!(poll_once(|cx| Pin::new(&mut sealing).poll_next(cx)).is_none());
    assert!((1..=256).contains(&most()));

    /// Reads one byte at a time.
    struct Bytewise<'a>(&'a [u8], Rc<RefCell<usize>>);
    impl AsyncRead for Bytewise<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            *this.1.borrow_mut() += 1;
            let len = this.0.len().min(1);
            out.put_slice(&this.0[..len]);
            this.0 = &this.0[len..];
            Poll::Ready(Ok(()))
        }
    }
    let mut reader = block_on(envelope.open_async_reader(Bytewise(&long, polled.clone()), &context)).unwrap();
    most();
    assert!(poll_once(|cx| Pin::new(&mut reader).poll_read(cx, &mut ReadBuf::new(&mut [0; 10]))).is_none());
    assert!((1..=256).contains(&most()));
    let plaintext = plaintext(100_000);
    let mut reader = block_on(envelope.seal_async_reader(Bytewise(&plaintext, polled.clone()), &context)).unwrap();
    assert_eq!(block_on(reader.read(&mut [0; 1000])).unwrap(), reader.sealed_len(0).unwrap() as usize - 40);
    most();
    assert!(poll_once(|cx| Pin::new(&mut reader).poll_read(cx, &mut ReadBuf::new(&mut [0; 10]))).is_none());
    assert!((1..=256).contains(&most()));

    /// Writes one byte at a time.
    struct Slow(Rc<RefCell<usize>>);
    impl AsyncWrite for Slow {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            *self.0.borrow_mut() += 1;
            Poll::Ready(Ok(bytes.len().min(1)))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let mut writer = block_on(envelope.seal_async_writer(Slow(polled.clone()), &context)).unwrap();
    block_on(writer.write_all(&plaintext)).unwrap();
    most();
    assert!(poll_once(|cx| Pin::new(&mut writer).poll_shutdown(cx)).is_none());
    assert!((1..=512).contains(&most())); // The header may come first.
    block_on(writer.shutdown()).unwrap();
}
