//! What can go wrong with a key.

use thiserror::Error;

use crate::error::{Cause, RandomError};

/// A key provider could not do its part: see [`KeyProvider`](crate::KeyProvider).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The caller may not use the key in this way.
    #[error("{operation} with key {key_id}: access denied; allow it in the key policy or an IAM policy")]
    AccessDenied {
        /// What was asked for, such as `GenerateDataKey`.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// There is no such key.
    #[error("{operation} with key {key_id}: the key does not exist; check the id, the account and the region")]
    NotFound {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The key is disabled, pending deletion, or of a kind that cannot do this.
    #[error("{operation} with key {key_id}: the key's state or kind does not allow it; enable it, or use another")]
    KeyUnusable {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The encrypted data key does not decrypt: it is damaged, of another key, or of another encryption context.
    #[error(
        "{operation} with key {key_id}: the encrypted data key is damaged, or belongs to another key or encryption context"
    )]
    InvalidCiphertext {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer, where there is a service.
        source: Option<Cause>,
    },
    /// Too many requests. A retry makes sense.
    #[error("{operation} with key {key_id}: too many requests; retry later, or ask for a higher quota")]
    Throttled {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// The service's answer.
        source: Cause,
    },
    /// The service did not answer, or failed. A retry makes sense.
    #[error("{operation} with key {key_id}: the key service did not answer or failed; retry, and check the network")]
    Unavailable {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What happened.
        source: Cause,
    },
    /// There was no answer in time. A retry makes sense.
    #[error("{operation} with key {key_id}: no answer in time; retry, check the network, or allow more time")]
    TimedOut {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What took how long.
        source: Cause,
    },
    /// A multi-region key's region failed, and so did all that stand in for it.
    #[error("{operation} failed in every region: {}", join(attempts))]
    AllRegionsFailed {
        /// What was asked for.
        operation: &'static str,
        /// What happened in each, in order.
        attempts: Vec<ProviderError>,
    },
    /// The provider does not do this at all.
    #[error("{operation} with {key_id} is not possible: {why}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// The provider or its key.
        key_id: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The service answered something that it must not answer.
    #[error("{operation} with key {key_id}: the answer cannot be right: {what}")]
    UnexpectedResponse {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What is wrong with it.
        what: String,
    },
    /// None of the message's encrypted data keys belongs to this provider.
    #[error("none of the message's encrypted data keys is for {provider}; they are for: {}", found.join(", "))]
    NoMatchingKey {
        /// The provider and its key.
        provider: String,
        /// The provider and key of each encrypted data key.
        found: Vec<String>,
    },
    /// Encrypted data keys belong to this provider, but it could decrypt none of them.
    #[error("no encrypted data key could be decrypted: {}", join(attempts))]
    NoneDecrypted {
        /// What happened with each, in order.
        attempts: Vec<ProviderError>,
    },
    /// Some encrypted data keys were left alone, since others under the same KMS key had failed. It comes last among the
    /// attempts of [`NoneDecrypted`](Self::NoneDecrypted).
    #[error(
        "encrypted data keys not tried: {count}; the limit under one KMS key is {limit} (Limits::tries_per_kms_key)"
    )]
    NotTried {
        /// How many.
        count: usize,
        /// How many under one KMS key may be tried: [`Limits::tries_per_kms_key`](crate::Limits::tries_per_kms_key).
        limit: u16,
    },
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Anything else.
    #[error("{operation} with key {key_id} failed")]
    Other {
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key_id: String,
        /// What happened.
        source: Cause,
    },
}

impl ProviderError {
    /// Whether the same request may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::TimedOut { .. } => true,
            Self::NoneDecrypted { attempts } | Self::AllRegionsFailed { attempts, .. } => {
                attempts.iter().any(Self::is_retryable)
            }
            _ => false,
        }
    }
}

fn join(errors: &[ProviderError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
