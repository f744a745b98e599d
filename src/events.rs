//! Events for `tracing` (feature `tracing`): requests for data keys, requests to AWS KMS, and their failures; the choice
//! between two ways of opening frames. Events never contain data, keys or encryption contexts.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, trace, warn};

#[cfg(not(feature = "tracing"))]
mod none {
    macro_rules! none {
        ($($(?)? $(%)? $field:ident,)* $text:literal) => {
            $(let _ = &$field;)*
        };
    }
    pub(crate) use none;
}

#[cfg(not(feature = "tracing"))]
pub(crate) use none::{none as debug, none as trace, none as warn};
