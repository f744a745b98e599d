//! What can go wrong with a key.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use crate::error::{Cause, RandomError};

/// A key provider could not do its part: see [`KeyProvider`](crate::KeyProvider).
///
/// [`kind`](Self::kind) tells what happened, [`is_retryable`](Self::is_retryable) whether the same request may succeed
/// later. A provider outside of this crate makes one in a line:
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
/// assert_eq!(error.to_string(), "Decrypt with key invoices: too many requests; retry later, or ask for a higher quota");
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

/// What a [`ProviderError`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderErrorKind {
    /// The caller may not use the key in this way.
    AccessDenied,
    /// There is no such key.
    NotFound,
    /// The key is disabled, pending deletion, or of a kind that cannot do this.
    KeyUnusable,
    /// The encrypted data key does not decrypt: it is damaged, of another key, or of another encryption context.
    InvalidCiphertext,
    /// The encrypted data key does not decrypt, which the encryption context has no part in: it is damaged, or of
    /// another key.
    IncorrectKey,
    /// Too many requests. A retry makes sense.
    Throttled,
    /// The service did not answer, or failed. A retry makes sense.
    Unavailable,
    /// There was no answer in time. A retry makes sense.
    TimedOut,
    /// The provider does not do this at all. The [detail](ProviderError::detail) says why.
    Unsupported,
    /// The service answered something that it must not answer. The [detail](ProviderError::detail) says what.
    UnexpectedResponse,
    /// None of the message's encrypted data keys belongs to this provider. The [detail](ProviderError::detail) names the
    /// provider and key of each.
    NoMatchingKey,
    /// Some encrypted data keys were left alone, since others under the same KMS key had failed: see
    /// [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key). It comes last among the attempts of
    /// [`NoneDecrypted`](Self::NoneDecrypted).
    NotTried,
    /// Encrypted data keys belong to this provider, but it could decrypt none of them. The
    /// [attempts](ProviderError::attempts) say what happened with each, in order.
    NoneDecrypted,
    /// A multi-region key's region failed, and so did all that stand in for it. The
    /// [attempts](ProviderError::attempts) say what happened in each, in order.
    AllRegionsFailed,
    /// The random number generator failed.
    Random,
    /// Anything else. The source says what.
    Other,
}

impl ProviderError {
    /// Creates an error of a provider that was asked for `operation`, such as `Decrypt`, with the key `key_id`.
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

    /// Adds what happened, in words that the error's own text ends with.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the cause, such as the service's answer: an error of any type, or a text.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds how long the service wants to be left alone before a retry, if it has said so.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: impl Into<Option<Duration>>) -> Self {
        self.0.retry_after = retry_after.into();
        self
    }

    /// Adds what happened with each of several keys that were tried, in order.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<ProviderError>) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Returns what happened.
    pub fn kind(&self) -> ProviderErrorKind {
        self.0.kind
    }

    /// Returns what the provider was asked for, such as `GenerateDataKey`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the key, or the provider where it is not about a single key.
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// Returns what the error's text ends with, if it says more than the kind does.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns how long the service wants to be left alone before a retry, if it has said so: of several attempts, the
    /// shortest time.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after.or_else(|| self.attempts().iter().filter_map(Self::retry_after).min())
    }

    /// Returns one error for each key or region that was tried, in order, where there were several to try.
    pub fn attempts(&self) -> &[ProviderError] {
        &self.0.attempts
    }

    /// Returns whether the same request may succeed when it is made again later: of several attempts, whether any may.
    pub fn is_retryable(&self) -> bool {
        use ProviderErrorKind::{Throttled, TimedOut, Unavailable};
        matches!(self.kind(), Throttled | Unavailable | TimedOut) || self.attempts().iter().any(Self::is_retryable)
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
                "{operation} with key {key_id}: the key's state or kind does not allow it; enable it, or use another"
            ),
            Kind::InvalidCiphertext => write!(
                f,
                "{operation} with key {key_id}: the encrypted data key is damaged, or belongs to another key or \
                 encryption context"
            ),
            Kind::IncorrectKey => {
                write!(f, "{operation} with key {key_id}: the encrypted data key is damaged, or belongs to another key")
            }
            Kind::Throttled => {
                write!(f, "{operation} with key {key_id}: too many requests; retry later, or ask for a higher quota")
            }
            Kind::Unavailable => write!(
                f,
                "{operation} with key {key_id}: the key service did not answer or failed; retry, and check the network"
            ),
            Kind::TimedOut => write!(
                f,
                "{operation} with key {key_id}: no answer in time; retry, check the network, or allow more time"
            ),
            Kind::Unsupported => write!(f, "{operation} with {key_id} is not possible"),
            Kind::UnexpectedResponse => write!(f, "{operation} with key {key_id}: the answer cannot be right"),
            Kind::NoMatchingKey => write!(f, "none of the message's encrypted data keys is for {key_id}"),
            Kind::NotTried => write!(f, "encrypted data keys not tried"),
            Kind::NoneDecrypted => write!(f, "no encrypted data key could be decrypted"),
            Kind::AllRegionsFailed => write!(f, "{operation} failed in every region"),
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
