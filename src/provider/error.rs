//! The error of key providers.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use crate::error::{Cause, ErrorKind, RandomError};

/// A [`KeyProvider`](crate::KeyProvider) failed to generate, encrypt or decrypt a data key.
///
/// [`kind`](Self::kind) returns the kind of failure, and [`is_retryable`](Self::is_retryable) returns whether the same
/// request may succeed later. To create one in your own key provider:
///
/// ```
/// use std::time::Duration;
/// use kms_envelope::{ProviderError, provider::ProviderErrorKind};
///
/// let error = ProviderError::new(ProviderErrorKind::Throttled, "Decrypt", "invoices")
///     .with_source("429 Too Many Requests")
///     .with_retry_after(Duration::from_secs(2));
///
/// assert!(error.is_retryable());
/// assert_eq!(
///     error.to_string(),
///     "Decrypt with key invoices: too many requests; retry later, or request a higher quota",
/// );
/// assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "429 Too Many Requests");
/// ```
#[derive(Clone, Debug)]
pub struct ProviderError(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    kind: ProviderErrorKind,
    operation: &'static str,
    key_id: String,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    attempts: Vec<ProviderError>,
    source: Option<Cause>,
}

/// The kind of failure in a [`ProviderError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderErrorKind {
    /// The caller is not allowed to use the key for this operation. Allow it in the key policy or an IAM policy.
    AccessDenied,
    /// The key does not exist. Check its id, account and region.
    NotFound,
    /// The key is disabled, pending deletion, or of a type that does not support this operation. Enable the key, or use
    /// another one.
    KeyUnusable,
    /// The encrypted data key could not be decrypted: it is corrupted, or belongs to another key or encryption context.
    InvalidCiphertext,
    /// The encrypted data key could not be decrypted: it is corrupted, or belongs to another key. The encryption
    /// context is not the cause.
    IncorrectKey,
    /// The key service throttled the request. Retryable.
    Throttled,
    /// The key service did not respond, or failed. Retryable.
    Unavailable,
    /// The key service did not respond in time. Retryable.
    TimedOut,
    /// The provider does not support this operation. The [detail](ProviderError::detail) contains the reason.
    Unsupported,
    /// The key service returned an invalid response. The [detail](ProviderError::detail) describes it.
    UnexpectedResponse,
    /// None of the message's encrypted data keys belongs to this provider. The [detail](ProviderError::detail) lists
    /// the provider and key of each. Configure one of those keys.
    NoMatchingKey,
    /// Some encrypted data keys were not tried, because too many others under the same KMS key had failed: see
    /// [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key). An error of this kind is the last of the
    /// attempts of a [`NoneDecrypted`](Self::NoneDecrypted) error.
    NotTried,
    /// Some of the encrypted data keys belong to this provider, but it could not decrypt any of them. The
    /// [attempts](ProviderError::attempts) contain the error of each, in order.
    NoneDecrypted,
    /// The requests failed in every region of a multi-region key. The [attempts](ProviderError::attempts) contain the
    /// error of each region, in order.
    AllRegionsFailed,
    /// An item of a branch key store exists already, or another caller has changed it in the meantime. Nothing was
    /// written. The [detail](ProviderError::detail) says which.
    Conflict,
    /// The random number generator failed.
    Random,
    /// Another error. See the [source](Error::source).
    Other,
}

impl ProviderError {
    /// Creates an error of `operation`, such as `Decrypt`, with the key `key_id`.
    pub fn new(kind: ProviderErrorKind, operation: &'static str, key_id: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind,
            operation,
            key_id: key_id.into(),
            detail: None,
            retry_after: None,
            attempts: Vec::new(),
            source: None,
        }))
    }

    /// Adds a detail, which is appended to the error's text.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the cause, such as the service's response: an error of any type, or a string.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds how long to wait before a retry, if the service specified it.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: impl Into<Option<Duration>>) -> Self {
        self.0.retry_after = retry_after.into();
        self
    }

    /// Adds the errors of the keys or regions that were tried, in order.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<ProviderError>) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Returns the category of the error, for example to choose an HTTP status.
    ///
    /// For several attempts, it is [`Unavailable`](ErrorKind::Unavailable) if any of them is retryable. Otherwise, it
    /// is the most specific kind: `AccessDenied`, then `WrongContext`, then any other kind, and `WrongKey` last.
    pub fn error_kind(&self) -> ErrorKind {
        if self.is_retryable() {
            return ErrorKind::Unavailable;
        }
        let of_attempts = || ErrorKind::of_all(self.attempts().iter().map(Self::error_kind));
        self.kind().error_kind().or_else(of_attempts).unwrap_or(ErrorKind::Unavailable)
    }

    /// Returns the kind of failure.
    pub fn kind(&self) -> ProviderErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed, such as `GenerateDataKey`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the key, or the provider if the error is not about a single key.
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// Returns the detail that is appended to the error's text, if any.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns how long to wait before a retry, if the service specified it. For several attempts, returns the shortest
    /// time.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after.or_else(|| self.attempts().iter().filter_map(Self::retry_after).min())
    }

    /// Returns the error of each key or region that was tried, in order. Empty if only one was tried.
    pub fn attempts(&self) -> &[ProviderError] {
        &self.0.attempts
    }

    /// Returns whether the same request may succeed if it is repeated later. For several attempts, returns whether any
    /// of them may.
    pub fn is_retryable(&self) -> bool {
        use ProviderErrorKind::{Throttled, TimedOut, Unavailable};
        matches!(self.kind(), Throttled | Unavailable | TimedOut) || self.attempts().iter().any(Self::is_retryable)
    }
}

impl ProviderErrorKind {
    /// Returns the category of the kind, unless it depends on the attempts.
    fn error_kind(self) -> Option<ErrorKind> {
        match self {
            Self::AccessDenied => Some(ErrorKind::AccessDenied),
            Self::InvalidCiphertext => Some(ErrorKind::WrongContext),
            Self::IncorrectKey | Self::NoMatchingKey => Some(ErrorKind::WrongKey),
            Self::NotTried => Some(ErrorKind::Refused),
            Self::NotFound | Self::Unsupported | Self::Conflict => Some(ErrorKind::InvalidInput),
            Self::KeyUnusable
            | Self::Throttled
            | Self::Unavailable
            | Self::TimedOut
            | Self::UnexpectedResponse
            | Self::Random
            | Self::Other => Some(ErrorKind::Unavailable),
            Self::NoneDecrypted | Self::AllRegionsFailed => None,
        }
    }
}

impl From<RandomError> for ProviderError {
    fn from(error: RandomError) -> Self {
        Self::new(ProviderErrorKind::Random, "GenerateRandom", "").with_source(error.0)
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ProviderErrorKind as Kind;
        let Parts { kind, operation, key_id, detail, attempts, .. } = &*self.0;
        match kind {
            Kind::AccessDenied => {
                write!(f, "{operation} with key {key_id}: access denied; allow it in the key policy or an IAM policy")
            }
            Kind::NotFound => write!(
                f,
                "{operation} with key {key_id}: the key does not exist; check the id, the account and the region"
            ),
            Kind::KeyUnusable => write!(
                f,
                "{operation} with key {key_id}: the key's state or type does not allow this; enable the key, or use another one"
            ),
            Kind::InvalidCiphertext => write!(
                f,
                "{operation} with key {key_id}: the encrypted data key is corrupted, or belongs to another key or \
                 encryption context"
            ),
            Kind::IncorrectKey => {
                write!(
                    f,
                    "{operation} with key {key_id}: the encrypted data key is corrupted, or belongs to another key"
                )
            }
            Kind::Throttled => {
                write!(f, "{operation} with key {key_id}: too many requests; retry later, or request a higher quota")
            }
            Kind::Unavailable => write!(
                f,
                "{operation} with key {key_id}: the key service did not respond, or failed; retry, and check the network"
            ),
            Kind::TimedOut => write!(
                f,
                "{operation} with key {key_id}: no response in time; retry, check the network, or increase the timeout"
            ),
            Kind::Unsupported => write!(f, "{operation} with {key_id} is not supported"),
            Kind::UnexpectedResponse => write!(f, "{operation} with key {key_id}: unexpected response"),
            Kind::NoMatchingKey => write!(f, "none of the message's encrypted data keys is for {key_id}"),
            Kind::NotTried => write!(f, "encrypted data keys not tried"),
            Kind::NoneDecrypted => write!(f, "no encrypted data key could be decrypted"),
            Kind::AllRegionsFailed => write!(f, "{operation} failed in every region"),
            Kind::Conflict => {
                write!(f, "{operation} with key {key_id}: nothing was written, because of a conflict")
            }
            Kind::Random => write!(f, "the random number generator failed"),
            Kind::Other => write!(f, "{operation} with key {key_id} failed"),
        }?;
        if let Some(detail) = detail {
            let before = if *kind == Kind::NoMatchingKey { "; they are for" } else { "" };
            write!(f, "{before}: {detail}")?;
        }
        for (at, attempt) in attempts.iter().enumerate() {
            write!(f, "{}{attempt}", if at == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl Error for ProviderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|cause| &**cause as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [(ProviderErrorKind, ErrorKind, bool); 15] = {
        use ErrorKind as To;
        use ProviderErrorKind as From;
        [
            (From::AccessDenied, To::AccessDenied, false),
            (From::NotFound, To::InvalidInput, false),
            (From::KeyUnusable, To::Unavailable, false),
            (From::InvalidCiphertext, To::WrongContext, false),
            (From::IncorrectKey, To::WrongKey, false),
            (From::Throttled, To::Unavailable, true),
            (From::Unavailable, To::Unavailable, true),
            (From::TimedOut, To::Unavailable, true),
            (From::Unsupported, To::InvalidInput, false),
            (From::UnexpectedResponse, To::Unavailable, false),
            (From::NoMatchingKey, To::WrongKey, false),
            (From::NotTried, To::Refused, false),
            (From::Conflict, To::InvalidInput, false),
            (From::Random, To::Unavailable, false),
            (From::Other, To::Unavailable, false),
        ]
    };

    fn error(kind: ProviderErrorKind) -> ProviderError {
        ProviderError::new(kind, "Decrypt", "the-key")
    }

    #[test]
    fn each_kind_has_its_category_and_temporary_ones_are_retryable() {
        for (kind, expected, is_retryable) in ALL {
            let alone = error(kind);
            for all in [ProviderErrorKind::NoneDecrypted, ProviderErrorKind::AllRegionsFailed] {
                let all = error(all).with_attempts(vec![alone.clone()]);
                assert_eq!((all.error_kind(), all.is_retryable()), (expected, is_retryable), "{kind:?}");
            }
            assert_eq!((alone.error_kind(), alone.is_retryable()), (expected, is_retryable), "{kind:?}");
        }
        let none = error(ProviderErrorKind::NoneDecrypted);
        assert_eq!((none.error_kind(), none.is_retryable()), (ErrorKind::Unavailable, false));
    }

    #[test]
    fn the_text_names_what_failed_on_what_and_why() {
        for (kind, _, _) in ALL {
            let text = error(kind).with_detail("the detail").to_string();
            // These two kinds are not about a single key.
            let has_no_key = matches!(kind, ProviderErrorKind::NotTried | ProviderErrorKind::Random);
            assert!(has_no_key || text.contains("the-key"), "{text}");
            assert!(text.ends_with(": the detail"), "{text}");
        }
        let attempts = ["a", "b"].map(|key| ProviderError::new(ProviderErrorKind::Other, "Decrypt", key));
        let all = error(ProviderErrorKind::AllRegionsFailed).with_attempts(attempts.into());
        let expected = "Decrypt failed in every region: Decrypt with key a failed; Decrypt with key b failed";
        assert_eq!(all.to_string(), expected);
    }

    #[test]
    fn the_source_is_the_cause_of_the_random_number_generator() {
        let random = ProviderError::from(RandomError("no entropy".into()));
        assert_eq!(random.to_string(), "the random number generator failed");
        assert_eq!(random.source().unwrap().to_string(), "no entropy");
    }

    fn attempts() -> impl Strategy<Value = Vec<ProviderError>> {
        let one = (0..ALL.len(), prop::option::of(0..9u64))
            .prop_map(|(at, seconds)| error(ALL[at].0).with_retry_after(seconds.map(Duration::from_secs)));
        let nested = one.prop_recursive(2, 8, 3, |inner| {
            let inner = prop::collection::vec(inner, 1..4);
            inner.prop_map(|attempts| error(ProviderErrorKind::NoneDecrypted).with_attempts(attempts))
        });
        prop::collection::vec(nested, 1..6)
    }

    /// Returns the attempts that have no attempts of their own.
    fn leaves(attempts: &[ProviderError]) -> Vec<&ProviderError> {
        let of = |attempt| {
            if ProviderError::attempts(attempt).is_empty() { vec![attempt] } else { leaves(attempt.attempts()) }
        };
        attempts.iter().flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn the_most_specific_of_several_attempts_counts(
            attempts in attempts(),
        ) {
            let all = error(ProviderErrorKind::AllRegionsFailed).with_attempts(attempts.clone());
            let leaves = leaves(&attempts);
            let has = |kind| leaves.iter().any(|leaf| leaf.error_kind() == kind);
            let expected = if leaves.iter().any(|leaf| leaf.is_retryable()) {
                ErrorKind::Unavailable
            } else if has(ErrorKind::AccessDenied) {
                ErrorKind::AccessDenied
            } else if has(ErrorKind::WrongContext) {
                ErrorKind::WrongContext
            } else {
                let others = leaves.iter().map(|leaf| leaf.error_kind()).find(|kind| *kind != ErrorKind::WrongKey);
                others.unwrap_or(ErrorKind::WrongKey)
            };
            prop_assert_eq!(all.error_kind(), expected);
            prop_assert_eq!(all.is_retryable(), leaves.iter().any(|leaf| leaf.is_retryable()));
            prop_assert_eq!(all.retry_after(), leaves.iter().filter_map(|leaf| leaf.retry_after()).min());
        }
    }
}
