//! Sealing and opening piece by piece.
//!
//! [`Sealer`] and [`Opener`] hold the logic and do no I/O: bytes in, bytes out, an explicit end. The other types are
//! thin shells over them. Under them sits a stateless cipher for single frames.

mod buffer;
mod frame_cipher;
mod opener;
mod sealer;
mod std_io;
#[cfg(feature = "tokio")]
mod tokio_io;

pub(crate) use opener::unsupported_suite;
pub use opener::{MessageInfo, Opener};
pub use sealer::Sealer;
pub(crate) use sealer::SealerParts;
pub use std_io::{OpenReader, SealWriter};
#[cfg(feature = "tokio")]
pub use tokio_io::{AsyncOpenReader, AsyncSealWriter};
