//! The kinds of errors in real situations, as a service sees them.

use std::{
    convert::Infallible,
    error::Error,
    io::{self, Read, Seek, SeekFrom, Write},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, ErrorKind, Limits, OpenError, ProviderError, RawAes,
    ResealError, RewrapError, SealError,
    provider::{MultiProvider, ProviderErrorKind},
    stream::StreamError,
    testing::{Fault, MemoryKey, ScriptedProvider},
};
use pollster::block_on;
use test_support::{context, open, seal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn key(name: &str, byte: u8) -> RawAes {
    RawAes::new("tests", name, [byte; 32]).unwrap()
}

fn envelope() -> Envelope {
    Envelope::builder(key("key", 7)).frame_len(16).build().unwrap()
}

fn kind_of(opened: Result<Vec<u8>, OpenError>) -> (ErrorKind, bool) {
    let error = opened.unwrap_err();
    (error.kind(), error.is_retryable())
}

// Situations.

#[test]
fn a_context_that_the_message_or_only_the_key_refuses_is_a_wrong_context() {
    let other = EncryptionContext::from([("tenant", "other"), ("purpose", "test")]);
    let sealed = seal(&envelope(), b"data");
    let stored = block_on(envelope().open(&sealed, &other)).map(|opened| opened.plaintext);
    assert_eq!(kind_of(stored), (ErrorKind::WrongContext, false));

    let secret = Envelope::builder(key("key", 7)).required_context(["tenant"]).build().unwrap();
    let not_stored = block_on(secret.open(&seal(&secret, b"data"), &other)).map(|opened| opened.plaintext);
    assert_eq!(kind_of(not_stored), (ErrorKind::WrongContext, false));
}

#[test]
fn a_key_with_another_name_is_a_wrong_key_also_among_several() {
    let sealed = seal(&envelope(), b"data");
    let several = MultiProvider::new(key("x", 1)).with(key("y", 2));
    for wrong in [Envelope::new(key("other", 7)), Envelope::new(several)] {
        assert_eq!(kind_of(open(&wrong, &sealed)), (ErrorKind::WrongKey, false));
    }
}

#[test]
fn bytes_that_are_not_a_message_are_distinguished_from_a_truncated_or_modified_message() {
    let sealed = seal(&envelope(), &[1; 50]);
    for junk in [&b"hello"[..], b"\x80", b"AgV4...", &[0; 100]] {
        assert_eq!(kind_of(open(&envelope(), junk)), (ErrorKind::NotAMessage, false), "{junk:?}");
    }
    for len in 0..sealed.len() {
        assert_eq!(kind_of(open(&envelope(), &sealed[..len])), (ErrorKind::Tampered, false), "{len}");
    }
    assert_eq!(kind_of(open(&envelope(), &[&sealed[..], b"x"].concat())), (ErrorKind::Tampered, false));
    // Any change in the body.
    let header_len = test_support::header(&sealed).len();
    for at in header_len..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(kind_of(open(&envelope(), &changed)), (ErrorKind::Tampered, false), "{at}");
    }
}

#[test]
fn a_modified_header_is_never_reported_as_a_fault_of_the_key_service_or_of_the_caller() {
    let sealed = seal(&envelope(), b"data");
    for at in 0..test_support::header(&sealed).len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let (kind, is_retryable) = kind_of(open(&envelope(), &changed));
        let expected = [
            ErrorKind::NotAMessage,
            ErrorKind::Tampered,
            ErrorKind::WrongContext,
            ErrorKind::WrongKey,
            ErrorKind::Refused,
        ];
        assert!(expected.contains(&kind) && !is_retryable, "{at}: {kind:?}");
    }
}

#[test]
fn limits_and_policies_are_reported_as_refused() {
    let mut limits = Limits::default();
    limits.frame_len = 15;
    let strict = Envelope::builder(key("key", 7)).limits(limits).frame_len(1).build().unwrap();
    assert_eq!(kind_of(open(&strict, &seal(&envelope(), b"data"))), (ErrorKind::Refused, false));

    let old = Envelope::builder(key("key", 7))
        .commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt)
        .suite(AlgorithmSuite::Aes256GcmHkdfSha256)
        .build()
        .unwrap();
    assert_eq!(kind_of(open(&envelope(), &seal(&old, b"data"))), (ErrorKind::Refused, false));
}

#[test]
fn failures_of_the_key_service_have_different_kinds() {
    let kms = ScriptedProvider::new(MemoryKey::new().unwrap());
    let envelope = Envelope::new(kms.clone());
    let sealed = seal(&envelope, b"data");
    for (fault, kind, is_retryable) in [
        (Fault::Throttled, ErrorKind::Unavailable, true),
        (Fault::Unavailable, ErrorKind::Unavailable, true),
        (Fault::AccessDenied, ErrorKind::AccessDenied, false),
        (Fault::InvalidCiphertext, ErrorKind::WrongContext, false),
        (Fault::WrongKey, ErrorKind::Tampered, false),
    ] {
        kms.script([fault]);
        assert_eq!(kind_of(open(&envelope, &sealed)), (kind, is_retryable), "{fault:?}");
    }
    kms.script([Fault::Throttled]);
    let error = block_on(envelope.seal(b"data", &context())).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true));
    assert!(error.retry_after().is_some());
}

#[test]
fn an_invalid_context_and_a_call_after_the_end_are_invalid_input() {
    let reserved = EncryptionContext::from([("aws-crypto-x", "y")]);
    let error = block_on(envelope().seal(b"data", &reserved)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let sealed = seal(&envelope(), b"data");
    let reader = block_on(envelope().range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
    assert_eq!(reader.read(0..100).unwrap_err().kind(), ErrorKind::InvalidInput);
}

// Errors of readers, writers and streams.

/// Returns the error itself, and the error as other code may wrap it, several times.
fn assert_truncated(mut error: io::Error) {
    for _ in 0..3 {
        assert_eq!(OpenError::from_io(&error).map(OpenError::kind), Some(ErrorKind::Tampered), "{error:?}");
        assert!(SealError::from_io(&error).is_none());
        error = io::Error::other(error);
    }
}

fn assert_finished(mut error: io::Error) {
    for _ in 0..3 {
        assert!(matches!(SealError::from_io(&error), Some(SealError::Finished)), "{error:?}");
        assert!(OpenError::from_io(&error).is_none());
        error = io::Error::other(error);
    }
}

fn truncated() -> Vec<u8> {
    let mut sealed = seal(&envelope(), &[1; 100]);
    sealed.pop();
    sealed
}

#[test]
fn errors_can_be_recovered_from_std_readers_and_writers() {
    let sealed = truncated();
    let opened = || block_on(envelope().open_reader(io::Cursor::new(&sealed), &context())).unwrap();
    assert_truncated(io::copy(&mut opened(), &mut io::sink()).unwrap_err());
    assert_truncated(opened().read_to_end(&mut Vec::new()).unwrap_err());
    assert_truncated(opened().seek(SeekFrom::End(0)).unwrap_err());

    // A reader that seals the output of an opening reader: the error is that of opening.
    let resealed = block_on(envelope().reseal_reader(&sealed[..], &context(), &envelope())).unwrap();
    assert_truncated(io::copy(&mut { resealed }, &mut io::sink()).unwrap_err());

    let mut writer = block_on(envelope().seal_writer(Vec::new(), &context())).unwrap();
    writer.try_finish().unwrap();
    assert_finished(writer.write_all(b"more").unwrap_err());
    assert_finished(io::copy(&mut &b"more"[..], &mut writer).unwrap_err());
}

#[tokio::test]
async fn errors_can_be_recovered_from_tokio_readers_and_writers() {
    let sealed = truncated();
    let mut opened = envelope().open_async_reader(&sealed[..], &context()).await.unwrap();
    assert_truncated(tokio::io::copy(&mut opened, &mut tokio::io::sink()).await.unwrap_err());
    let mut opened = envelope().open_async_reader(&sealed[..], &context()).await.unwrap();
    assert_truncated(opened.read_to_end(&mut Vec::new()).await.unwrap_err());
    let opened = envelope().open_async_reader(&sealed[..], &context()).await.unwrap();
    let mut buffered = tokio::io::BufReader::new(opened);
    assert_truncated(buffered.read_to_end(&mut Vec::new()).await.unwrap_err());

    let mut writer = envelope().seal_async_writer(Vec::new(), &context()).await.unwrap();
    writer.shutdown().await.unwrap();
    assert_finished(writer.write_all(b"more").await.unwrap_err());
}

#[tokio::test]
async fn errors_can_be_recovered_from_streams_as_io_errors() {
    let sealed = truncated();
    let pieces = || stream::iter(sealed.chunks(40).map(Ok::<_, Infallible>));
    let opened = envelope().open_stream(pieces(), &context()).await.unwrap();
    let error = opened.try_for_each(|_| async { Ok(()) }).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable(), error.retry_after()), (ErrorKind::Tampered, false, None));
    assert_truncated(error.into());

    // An I/O error of the inner stream is passed on, and any other error can be found inside.
    let failed = |error| stream::iter([Err::<&[u8], io::Error>(error)]);
    let reset = failed(io::ErrorKind::ConnectionReset.into());
    let error = envelope().seal_stream(reset, &context()).await.unwrap().next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Io, false));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionReset);
    let error = io::Error::from(StreamError::Source("gone"));
    assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::Other, "gone".to_owned()));
}

#[tokio::test]
async fn a_stream_that_seals_an_opening_stream_fails_with_the_error_of_opening() {
    let sealed = truncated();
    let resealed = || async {
        let pieces = stream::iter(sealed.chunks(40).map(Ok::<_, Infallible>));
        let opened = envelope().open_stream(pieces, &context()).await.unwrap();
        let resealed = envelope().seal_stream(opened, &context()).await.unwrap();
        resealed.try_for_each(|_| async { Ok(()) }).await.unwrap_err()
    };
    assert_eq!((resealed().await.kind(), resealed().await.is_retryable()), (ErrorKind::Tampered, false));
    assert_truncated(resealed().await.into());
    assert_truncated(io::Error::other(resealed().await));
}

#[test]
fn an_operations_error_can_be_recovered_from_errors_that_wrap_it() {
    let open = || OpenError::Signature;
    let opens: [Box<dyn Error + Send + Sync>; 4] = [
        StreamError::<Infallible>::Open(open()).into(),
        StreamError::Source(io::Error::other(StreamError::<Infallible>::Open(open()))).into(),
        RewrapError::from(open()).into(),
        ResealError::from(open()).into(),
    ];
    opens.into_iter().for_each(|error| assert_truncated(io::Error::other(error)));

    let seal = || SealError::Finished;
    let seals: [Box<dyn Error + Send + Sync>; 4] = [
        StreamError::<Infallible>::Seal(seal()).into(),
        StreamError::Source(io::Error::other(StreamError::<Infallible>::Seal(seal()))).into(),
        RewrapError::Keys(seal()).into(),
        ResealError::from(seal()).into(),
    ];
    seals.into_iter().for_each(|error| assert_finished(io::Error::other(error)));
}

/// Returns the meaning of an I/O error from a reader, and checks that it is the same from a stream.
fn meaning(error: impl Fn() -> io::Error) -> (ErrorKind, bool, Option<Duration>) {
    let (reader, stream) = (OpenError::Io(error()), StreamError::Source(error()));
    let meaning = (reader.kind(), reader.is_retryable(), reader.retry_after());
    assert_eq!((stream.kind(), stream.is_retryable(), stream.retry_after()), meaning);
    meaning
}

#[test]
fn an_error_of_the_source_has_the_meaning_of_the_error_inside() {
    let wait = Duration::from_secs(3);
    let throttled = || ProviderError::new(ProviderErrorKind::Throttled, "Decrypt", "key").with_retry_after(wait);
    let unavailable = (ErrorKind::Unavailable, true, Some(wait));
    assert_eq!(meaning(|| io::Error::other(throttled())), unavailable);
    assert_eq!(meaning(|| SealError::from(throttled()).into()), unavailable);
    assert_eq!(meaning(|| OpenError::from(throttled()).into()), unavailable);
    assert_eq!(meaning(|| io::Error::other(ResealError::from(SealError::from(throttled())))), unavailable);
    assert_eq!(meaning(|| io::Error::other(RewrapError::Encrypt(throttled()))), unavailable);
    assert_eq!(meaning(|| SealError::Finished.into()), (ErrorKind::InvalidInput, false, None));
    assert_eq!(meaning(|| OpenError::Signature.into()), (ErrorKind::Tampered, false, None));

    assert_eq!(meaning(|| io::ErrorKind::TimedOut.into()), (ErrorKind::Io, true, None));
    assert_eq!(meaning(|| io::ErrorKind::ConnectionReset.into()), (ErrorKind::Io, false, None));
}

#[cfg(feature = "aws-kms")]
#[test]
fn an_error_of_the_source_has_the_meaning_of_a_resolve_error_inside() {
    use kms_envelope::{ConfigError, provider::ResolveError};
    let denied = || ProviderError::new(ProviderErrorKind::AccessDenied, "DescribeKey", "key");
    assert_eq!(meaning(|| io::Error::other(ResolveError::from(denied()))), (ErrorKind::AccessDenied, false, None));
    let config = || ResolveError::from(ConfigError::KeyLen(1));
    assert_eq!(meaning(|| io::Error::other(config())), (ErrorKind::InvalidInput, false, None));
}

#[test]
fn nothing_is_recovered_from_an_unrelated_error() {
    for error in [io::Error::from(io::ErrorKind::NotFound), io::Error::other("gone"), io::Error::from_raw_os_error(2)] {
        assert!(OpenError::from_io(&error).is_none() && SealError::from_io(&error).is_none());
        assert_eq!(OpenError::from(error).kind(), ErrorKind::Io);
    }
}
