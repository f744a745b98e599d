//! What can go wrong, split by operation.
//!
//! Each error of an operation answers `kind()`, an [`ErrorKind`] that a service can map to a status,
//! `is_retryable()` and `retry_after()`.
//!
//! An error of decryption says which check failed, and never anything about the data. The sources are kept: walk
//! [`std::error::Error::source`] for the cause, such as the error of the AWS SDK.

pub(crate) mod config;
mod context;
mod data_key;
mod format;
pub(crate) mod kind;
pub(crate) mod open;
pub(crate) mod rewrap;
pub(crate) mod seal;

use std::{error::Error as StdError, fmt, ops::Deref, sync::Arc};

use thiserror::Error;

pub(crate) use self::{
    config::ConfigError,
    kind::ErrorKind,
    open::OpenError,
    rewrap::{ResealError, RewrapError},
    seal::SealError,
};
pub use self::{
    config::NameReason,
    context::ContextError,
    data_key::DataKeyError,
    format::{FormatError, HeaderError, LimitError},
};

/// The cause of an error, of whatever type. Shared: all who waited for a request that failed are told the same.
///
/// Any error becomes one by `into`, and so does a text. It dereferences to [`std::error::Error`].
#[derive(Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

// Not an error itself, so that `source()` of an error gives what is inside, ready to be downcast.
impl Deref for Cause {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The random number generator failed.
#[derive(Clone, Debug, Error)]
#[error("the random number generator failed")]
pub struct RandomError(#[source] pub(crate) Cause);
