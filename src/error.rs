//! Error types, one for each operation.
//!
//! The errors of sealing, opening, rewrapping and resealing have these methods:
//! - `kind()` returns an [`ErrorKind`], which a service can map to an HTTP status.
//! - `is_retryable()` returns whether the same call may succeed if it is repeated later.
//! - `retry_after()` returns how long to wait before that, if the key service specified it.
//!
//! A decryption error reveals which check failed, but nothing about the data. The text of an error may leave out its
//! causes, such as the error of the AWS SDK. To log them, walk [`std::error::Error::source`].

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
    config::{NameReason, NotFips},
    context::ContextError,
    data_key::DataKeyError,
    format::{FormatError, HeaderError, LimitError},
};

/// The cause of an error: a shared error of any type.
///
/// It is cheap to clone, because concurrent callers that share a failed call to a key provider receive the same cause.
/// Any error or string converts into a `Cause` with `into`. A `Cause` dereferences to [`std::error::Error`].
#[derive(Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

// Not an error itself, so that `source()` returns the inner error, ready to be downcast.
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

impl RandomError {
    pub(crate) fn repeats() -> Self {
        Self("it repeats its output".into())
    }
}
