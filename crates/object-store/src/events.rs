//! Events for `tracing` (feature `tracing`): objects that are opened, repeated reads, and failed uploads. Events contain
//! locations, but never data or keys.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, warn};

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
pub(crate) use none::{none as debug, none as warn};
