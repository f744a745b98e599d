//! Sealing and opening piece by piece: readers, writers, streams, ranges, and the I/O-free core.
//!
//! The methods of [`Envelope`](crate::Envelope) create these types:
//!
//! | I/O | seal | open | read a range |
//! |---|---|---|---|
//! | `std::io` | [`SealWriter`], [`SealReader`] | [`OpenReader`] | [`RangeReader`] |
//! | tokio (feature `tokio`) | [`AsyncSealWriter`], [`AsyncSealReader`] | [`AsyncOpenReader`] | [`AsyncRangeReader`] |
//! | streams of `Bytes` (feature `stream`) | [`SealStream`] | [`OpenStream`] | [`RangeStream`] |
//! | your own | [`Sealer`] | [`Opener`] | [`RangeOpener`] |
//!
//! All of them use a bounded amount of memory, regardless of the message's length. They release only authenticated
//! plaintext, and report success at the end only if the message is complete. After an error that is not transient,
//! readers, writers and streams of a complete message return an error from every later call.
//!
//! [`Sealer`] and [`Opener`] implement the format and do no I/O. The other types add I/O and buffers to them.

mod body;
mod buffer;
#[cfg(feature = "stream")]
pub(crate) mod bytes_stream;
mod frame_cipher;
#[cfg(feature = "parallel")]
mod hash_queue;
mod hashing;
mod opener;
mod poll_budget;
pub(crate) mod range;
mod sealer;
mod signature;
pub(crate) mod std_io;
mod threads;
#[cfg(feature = "tokio")]
pub(crate) mod tokio_io;

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
