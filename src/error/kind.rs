//! What errors mean to a service.

use std::{error::Error, io, iter, time::Duration};

use super::{ConfigError, OpenError, SealError};
use crate::provider::ProviderError;

/// What an error means to a service, whichever operation it comes from.
///
/// | kind | HTTP status that fits |
/// |---|---|
/// | [`Unavailable`](Self::Unavailable) | 503 where `is_retryable` returns true, with `Retry-After` from `retry_after`; else 500 |
/// | [`AccessDenied`](Self::AccessDenied) | 403 where the key belongs to the service's client; else 500 |
/// | [`WrongContext`](Self::WrongContext) | 403, or 404 where a client must not learn that the message exists |
/// | [`WrongKey`](Self::WrongKey) | 422 |
/// | [`NotAMessage`](Self::NotAMessage) | 400 |
/// | [`Tampered`](Self::Tampered) | 422 |
/// | [`Refused`](Self::Refused) | 422 |
/// | [`InvalidInput`](Self::InvalidInput) | 400 (416 for a range) where a client chose the input; else 500 |
/// | [`Io`](Self::Io) | 502 |
///
/// Where the message is from the service's own store, every kind of error but `Unavailable` and `WrongContext` is
/// the service's: 500, and an alarm.
///
/// ```
/// use kms_envelope::{EncryptionContext, Envelope, ErrorKind, OpenError, RawAes};
///
/// fn status(error: &OpenError) -> u16 {
///     match error.kind() {
///         ErrorKind::Unavailable if error.is_retryable() => 503,
///         ErrorKind::WrongContext => 404,
///         ErrorKind::NotAMessage | ErrorKind::Tampered => 422,
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
    /// The key provider could not do its part: it did not answer, has too many requests, its key is disabled, its
    /// answer cannot be right, or it failed in another way. Or the random number generator failed.
    Unavailable,
    /// The key provider does not let the caller use the key.
    AccessDenied,
    /// The encryption context is not the message's. Also where an encrypted data key does not decrypt for another
    /// reason, which key services do not tell apart: it is damaged, or under another key of the same name.
    WrongContext,
    /// The message was sealed under another key than the provider's.
    WrongKey,
    /// The bytes are not a message.
    NotAMessage,
    /// The message was changed or is not whole.
    Tampered,
    /// A policy or a limit of the envelope does not allow it.
    Refused,
    /// The caller asked for something that cannot be: in a setting, an encryption context, a key's name, a range or a
    /// buffer. Also a key that does not exist, and a call after one that failed or finished.
    InvalidInput,
    /// Reading or writing failed.
    Io,
}

impl ErrorKind {
    /// Returns what several attempts that all failed for good mean together: of the most telling kind, the first.
    ///
    /// That another provider than the message's has no key for it says the least.
    pub(crate) fn of_all(attempts: impl IntoIterator<Item = Self>) -> Option<Self> {
        attempts.into_iter().min_by_key(|kind| match kind {
            Self::AccessDenied => 0,
            Self::WrongContext => 1,
            Self::WrongKey => 3,
            _ => 2,
        })
    }
}

/// Returns the first error of this type: the error itself, what is inside an I/O error, or a source.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns the error itself and what is inside it, level by level.
///
/// The source of an error that is `transparent` for thiserror skips the error that it wraps. So the errors that wrap one
/// of an operation use `{0}` instead.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&cause| match cause.downcast_ref::<io::Error>() {
        // Its source is not what is inside, but the source of that.
        Some(error) => error.get_ref().map(|inside| inside as _),
        None => cause.source(),
    })
}

/// What the error of a reader or stream means to a service.
pub(crate) struct Meaning {
    pub(crate) kind: ErrorKind,
    pub(crate) is_retryable: bool,
    pub(crate) retry_after: Option<Duration>,
}

impl Meaning {
    /// Returns what this crate's error inside means, and where there is none, that of an I/O error.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error).find_map(Self::of_own).unwrap_or_else(|| Self {
            kind: ErrorKind::Io,
            is_retryable: find(error).is_some_and(may_pass),
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

/// Returns whether an error of a reader or writer may pass: then nothing is lost, and the same call can be made again.
/// Any other ends the message, since nobody knows what a reader that goes on after it has left out.
pub(crate) fn may_pass(error: &io::Error) -> bool {
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
    fn what_the_key_service_or_the_source_may_get_over_is_retryable_and_nothing_else() {
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
    fn settings_that_cannot_be_are_the_callers_mistake() {
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let errors = [
            (ConfigError::FrameLen { len: 0, max: 1 }, ErrorKind::InvalidInput),
            (ConfigError::KeyFileIo { path: "".into(), action: "read", source: source() }, ErrorKind::Io),
            (random().into(), ErrorKind::Unavailable),
        ];
        for (error, kind) in errors {
            assert_eq!((error.kind(), error.is_retryable()), (kind, false), "{error:?}");
        }
    }
}
