//! Categories of errors.

use std::{error::Error, io, iter, time::Duration};

use super::{ConfigError, OpenError, SealError};
use crate::provider::ProviderError;

/// The category of an error, the same for all operations. A service can map it to an HTTP status.
///
/// | kind | meaning | HTTP status |
/// |---|---|---|
/// | [`Unavailable`](Self::Unavailable) | the key service or the key is not available | 503 with `Retry-After` from `retry_after` if `is_retryable` returns `true`, otherwise 500 |
/// | [`AccessDenied`](Self::AccessDenied) | the caller may not use the key | 403 if the key belongs to the client, otherwise 500 |
/// | [`WrongContext`](Self::WrongContext) | the encryption context does not match | 403, or 404 if a client must not learn that the message exists |
/// | [`WrongKey`](Self::WrongKey) | the message was sealed under another key | 422 |
/// | [`NotAMessage`](Self::NotAMessage) | the input is not a message | 400 |
/// | [`Tampered`](Self::Tampered) | the message was modified, corrupted or truncated | 422 |
/// | [`Refused`](Self::Refused) | a policy or limit does not allow the message | 422 |
/// | [`InvalidInput`](Self::InvalidInput) | an argument or setting is invalid | 400 (416 for a range) if the client chose the input, otherwise 500 |
/// | [`Io`](Self::Io) | reading or writing failed | 502 |
///
/// These statuses assume that the client sent the message. If the service has stored the message itself, the client is
/// not at fault for `WrongKey`, `NotAMessage`, `Tampered` or `Refused`: respond with 500 and raise an alarm.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, ErrorKind, OpenError, RawAes};
///
/// fn status(error: &OpenError) -> u16 {
///     match error.kind() {
///         ErrorKind::Unavailable if error.is_retryable() => 503,
///         ErrorKind::WrongContext => 404,
///         ErrorKind::NotAMessage => 400,
///         ErrorKind::Tampered => 422,
///         _ => 500,
///     }
/// }
///
/// # pollster::block_on(async {
/// let envelope = Envelope::new(RawAes::generate("example", "key")?);
/// let sealed = envelope.seal(b"attack at dawn", &EncryptionContext::from([("tenant", "acme")])).await?;
/// let refused = envelope.open(&sealed, &EncryptionContext::from([("tenant", "other")])).await;
/// assert_eq!(status(&refused.unwrap_err()), 404);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key provider or the random number generator failed. For example, the key service did not respond, throttled
    /// the request or returned an unexpected response, or the key is disabled. Retry if `is_retryable()` returns
    /// `true`.
    Unavailable,
    /// The key provider does not allow the caller to use the key. Fix the key policy or the IAM policy.
    AccessDenied,
    /// The encryption context does not match that of the message. Key services do not distinguish this from an
    /// encrypted data key that is corrupted, or that was encrypted under another key of the same name.
    WrongContext,
    /// The message was sealed under a key that the provider does not have. Configure that key.
    WrongKey,
    /// The input is not a message.
    NotAMessage,
    /// The message was modified, corrupted or truncated. Use another copy.
    Tampered,
    /// A policy or a limit of the envelope does not allow the operation. Change the setting if the message is trusted.
    Refused,
    /// A setting, encryption context, key name, range or buffer is invalid, the key does not exist, or an earlier call
    /// failed or finished the message.
    InvalidInput,
    /// Reading or writing failed.
    Io,
}

impl ErrorKind {
    /// Returns the kind of several failed attempts that are not retryable: the most specific one.
    ///
    /// `WrongKey` is the least specific: providers that are unrelated to the message report it.
    pub(crate) fn of_all(attempts: impl IntoIterator<Item = Self>) -> Option<Self> {
        attempts.into_iter().min_by_key(|kind| match kind {
            Self::AccessDenied => 0,
            Self::WrongContext => 1,
            Self::WrongKey => 3,
            _ => 2,
        })
    }
}

/// Returns the first error of type `E` among the error itself, the errors inside I/O errors, and the sources.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Iterates over the error itself and the errors inside it, from the outermost.
///
/// The `source` of a thiserror variant that is `transparent` skips the error that it wraps. Variants that wrap the
/// error of an operation therefore use `{0}` instead.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&cause| match cause.downcast_ref::<io::Error>() {
        // `source()` of an I/O error skips the error inside.
        Some(error) => error.get_ref().map(|inside| inside as _),
        None => cause.source(),
    })
}

/// The results of `kind()`, `is_retryable()` and `retry_after()` for the error of a reader or stream.
pub(crate) struct Meaning {
    pub(crate) kind: ErrorKind,
    pub(crate) is_retryable: bool,
    pub(crate) retry_after: Option<Duration>,
}

impl Meaning {
    /// Returns the results for the error of this crate that the error contains, or otherwise for an I/O error.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error).find_map(Self::of_own).unwrap_or_else(|| Self {
            kind: ErrorKind::Io,
            is_retryable: find(error).is_some_and(is_transient),
            retry_after: None,
        })
    }

    fn of_own(error: &(dyn Error + 'static)) -> Option<Self> {
        let (kind, is_retryable, retry_after) = if let Some(error) = error.downcast_ref::<OpenError>() {
            (error.kind(), error.is_retryable(), error.retry_after())
        } else if let Some(error) = error.downcast_ref::<SealError>() {
            (error.kind(), error.is_retryable(), error.retry_after())
        } else if let Some(error) = error.downcast_ref::<ProviderError>() {
            (error.error_kind(), error.is_retryable(), error.retry_after())
        } else {
            let error = error.downcast_ref::<ConfigError>()?;
            (error.kind(), error.is_retryable(), None)
        };
        Some(Self { kind, is_retryable, retry_after })
    }
}

/// Returns whether an error of a reader or writer is transient: no data is lost, and the caller can repeat the call.
/// Any other error ends the message, because a reader that continues after it may have skipped data.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{
            ConfigError, ContextError, DataKeyError, FormatError, HeaderError, LimitError, OpenError, RandomError,
            ResealError, RewrapError, SealError,
        },
        message::MessageId,
        provider::{ProviderError, ProviderErrorKind},
        suite::{AlgorithmSuite, CommitmentPolicy, MessageVersion},
    };

    fn provider(kind: ProviderErrorKind) -> ProviderError {
        ProviderError::new(kind, "Decrypt", "key")
    }

    fn formats() -> Vec<(FormatError, ErrorKind)> {
        vec![
            (FormatError::Base64, ErrorKind::NotAMessage),
            (FormatError::Version(0), ErrorKind::NotAMessage),
            (FormatError::Type(0), ErrorKind::NotAMessage),
            (FormatError::Suite { id: 0, version: 1 }, ErrorKind::NotAMessage),
            (FormatError::DetachedKeys(""), ErrorKind::NotAMessage),
            (FormatError::Truncated("".into()), ErrorKind::Tampered),
            (FormatError::Context(""), ErrorKind::Tampered),
            (FormatError::PublicKey(""), ErrorKind::Tampered),
            (FormatError::EncryptedDataKeys(""), ErrorKind::Tampered),
            (FormatError::Field { field: "", value: 0 }, ErrorKind::Tampered),
            (FormatError::Sequence { expected: 1, found: 2 }, ErrorKind::Tampered),
            (FormatError::FinalFrameLen { len: 2, frame_len: 1 }, ErrorKind::Tampered),
            (FormatError::Misplaced { sequence: 1 }, ErrorKind::Tampered),
            (FormatError::TrailingBytes, ErrorKind::Tampered),
            (FormatError::Length { sealed_len: 1, header_len: 1, frame_len: 1 }, ErrorKind::Tampered),
            (FormatError::FooterLenNeeded, ErrorKind::InvalidInput),
        ]
    }

    fn contexts() -> Vec<(ContextError, ErrorKind)> {
        let name = || "tenant".to_owned();
        vec![
            (ContextError::ValueDiffers { name: name() }, ErrorKind::WrongContext),
            (ContextError::PairMissing { name: name() }, ErrorKind::WrongContext),
            (ContextError::TooLong { len: 65536 }, ErrorKind::InvalidInput),
            (ContextError::ReservedName { name: name() }, ErrorKind::InvalidInput),
            (ContextError::RequiredNameMissing { name: name() }, ErrorKind::InvalidInput),
        ]
    }

    fn limit() -> LimitError {
        LimitError::FrameLen { len: 2, limit: 1 }
    }

    fn random() -> RandomError {
        RandomError("none".into())
    }

    fn seals() -> Vec<(SealError, ErrorKind)> {
        let mut all = vec![
            (provider(ProviderErrorKind::Throttled).into(), ErrorKind::Unavailable),
            (provider(ProviderErrorKind::AccessDenied).into(), ErrorKind::AccessDenied),
            (DataKeyError::NotEncrypted.into(), ErrorKind::Unavailable),
            (limit().into(), ErrorKind::Refused),
            (random().into(), ErrorKind::Unavailable),
            (SealError::RepeatedMessageId, ErrorKind::Unavailable),
            (SealError::HeaderLen { header_len: 1, needed: 2 }, ErrorKind::InvalidInput),
            (SealError::TooLong { frame_len: 1 }, ErrorKind::InvalidInput),
            (SealError::TooLongForMemory { len: 1 }, ErrorKind::InvalidInput),
            (SealError::OutputTooShort { len: 1, needed: 2 }, ErrorKind::InvalidInput),
            (SealError::Finished, ErrorKind::InvalidInput),
            (SealError::FailedBefore, ErrorKind::InvalidInput),
        ];
        all.extend(contexts().into_iter().map(|(error, kind)| (error.into(), kind)));
        all
    }

    fn opens() -> Vec<(OpenError, ErrorKind)> {
        let (suite, policy) = (AlgorithmSuite::default(), CommitmentPolicy::default());
        let id = MessageId::from_bytes(MessageVersion::V1, &[0; 16]);
        let inside = |error: OpenError| io::Error::other(io::Error::from(error));
        let mut all = vec![
            (provider(ProviderErrorKind::InvalidCiphertext).into(), ErrorKind::WrongContext),
            (provider(ProviderErrorKind::NoMatchingKey).into(), ErrorKind::WrongKey),
            (DataKeyError::Panicked.into(), ErrorKind::Unavailable),
            (limit().into(), ErrorKind::Refused),
            (OpenError::CommitmentPolicy { suite, policy }, ErrorKind::Refused),
            (OpenError::SignedStream, ErrorKind::Refused),
            (OpenError::NotSeekable { what: "is signed" }, ErrorKind::InvalidInput),
            (OpenError::DetachedKeys { keys: id, message: id }, ErrorKind::InvalidInput),
            (OpenError::Commitment, ErrorKind::Tampered),
            (OpenError::HeaderTag, ErrorKind::Tampered),
            (OpenError::FrameTag { sequence: 1 }, ErrorKind::Tampered),
            (OpenError::Signature, ErrorKind::Tampered),
            (OpenError::OutOfRange { range: 1..2, plaintext_len: 1 }, ErrorKind::InvalidInput),
            (OpenError::FailedBefore, ErrorKind::InvalidInput),
            (OpenError::TooLongForMemory { len: 1 }, ErrorKind::InvalidInput),
            (OpenError::OutputTooShort { len: 1, needed: 2 }, ErrorKind::InvalidInput),
            (io::Error::from(io::ErrorKind::NotFound).into(), ErrorKind::Io),
            // A reader that opens, in a reader that opens.
            (inside(OpenError::Signature).into(), ErrorKind::Tampered),
        ];
        all.extend(formats().into_iter().map(|(error, kind)| (error.into(), kind)));
        all.extend(contexts().into_iter().map(|(error, kind)| (error.into(), kind)));
        all
    }

    #[test]
    fn each_error_of_an_operation_has_its_kind() {
        for (error, kind) in seals() {
            assert_eq!(error.kind(), kind, "{error:?}");
        }
        for (error, kind) in opens() {
            assert_eq!(error.kind(), kind, "{error:?}");
        }
        for (error, kind) in formats() {
            assert_eq!(HeaderError::from(error).kind(), kind);
        }
        assert_eq!((limit().kind(), HeaderError::from(limit()).kind()), (ErrorKind::Refused, ErrorKind::Refused));
        assert_eq!(DataKeyError::NotEncrypted.kind(), ErrorKind::Unavailable);
        for (error, kind) in opens() {
            assert_eq!(RewrapError::from(error).kind(), kind);
        }
        for (error, kind) in opens() {
            assert_eq!(ResealError::from(error).kind(), kind);
        }
        for (error, kind) in seals() {
            assert_eq!(ResealError::from(error.clone()).kind(), kind);
            assert_eq!(RewrapError::Keys(error).kind(), kind);
        }
        let encrypt = RewrapError::Encrypt(provider(ProviderErrorKind::AccessDenied));
        assert_eq!(encrypt.kind(), ErrorKind::AccessDenied);
    }

    #[test]
    fn only_temporary_errors_of_the_key_service_or_the_source_are_retryable() {
        for (error, _) in seals() {
            assert_eq!(error.is_retryable(), matches!(&error, SealError::Provider(e) if e.is_retryable()), "{error:?}");
        }
        for (error, _) in opens() {
            assert!(!error.is_retryable(), "{error:?}");
        }
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::Interrupted] {
            assert!(OpenError::from(io::Error::from(kind)).is_retryable());
        }
        let wait = std::time::Duration::from_secs(3);
        let throttled = || provider(ProviderErrorKind::Throttled).with_retry_after(wait);
        let inside = io::Error::from(OpenError::from(throttled()));
        let opens = [OpenError::from(throttled()), inside.into()];
        for error in opens {
            assert_eq!((error.is_retryable(), error.retry_after()), (true, Some(wait)));
            let error = RewrapError::from(error);
            assert_eq!((error.is_retryable(), error.retry_after()), (true, Some(wait)));
        }
        let error = RewrapError::Encrypt(throttled());
        assert_eq!((error.is_retryable(), error.retry_after()), (true, Some(wait)));
        let error = ResealError::from(SealError::from(throttled()));
        assert_eq!((error.is_retryable(), error.retry_after()), (true, Some(wait)));
    }

    #[test]
    fn invalid_settings_are_invalid_input() {
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let errors = [
            (ConfigError::FrameLen { len: 0, max: 1 }, ErrorKind::InvalidInput),
            (ConfigError::HeaderLen { len: 0, min: 1, max: 2 }, ErrorKind::InvalidInput),
            (ConfigError::KeyFileIo { path: "".into(), action: "read", source: source() }, ErrorKind::Io),
            (random().into(), ErrorKind::Unavailable),
        ];
        for (error, kind) in errors {
            assert_eq!((error.kind(), error.is_retryable()), (kind, false), "{error:?}");
        }
    }
}
