//! Sealing and opening piece by piece.
//!
//! [`Sealer`] and [`Opener`] hold the logic and do no I/O: bytes in, bytes out, an explicit end. The other types are
//! thin shells over them. Under them sits a stateless cipher for single frames.

mod body;
mod buffer;
#[cfg(feature = "stream")]
pub(crate) mod bytes_stream;
mod frame_cipher;
mod opener;
pub(crate) mod range;
mod sealer;
mod signature;
pub(crate) mod std_io;
mod threads;
#[cfg(feature = "tokio")]
pub(crate) mod tokio_io;
mod turn;

pub(crate) use buffer::{BUFFER_LENS, OpenBuffer, SealBuffer, buffer_len, default_buffer_len};
#[cfg(feature = "stream")]
pub use bytes_stream::{OpenStream, SealStream, StreamError};
pub use opener::{MessageInfo, Opener};
pub(crate) use opener::{OpenerParts, authenticate, seekable};
#[cfg(feature = "stream")]
pub use range::RangeStream;
pub use range::{AsyncRangeReader, AsyncReadAt, RangeOpener, RangeReader, ReadAt};
pub use sealer::Sealer;
pub(crate) use sealer::SealerParts;
pub use std_io::{OpenReader, SealReader, SealWriter};
pub use threads::Threads;
#[cfg(feature = "tokio")]
pub use tokio_io::{AsyncOpenReader, AsyncSealReader, AsyncSealWriter};
