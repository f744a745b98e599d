//! Where messages are: what can be read at any place.

#[cfg(any(unix, windows))]
use std::fs::File;
use std::{
    io,
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::Bytes;

use crate::stream::buffer::buffer_len;

/// A source of a message's bytes that can be read at any position: a file, or bytes in memory.
pub trait ReadAt {
    /// Reads bytes from `offset` on, at most as many as `out` has room for, and returns their number. 0 means that the
    /// source ends there.
    ///
    /// # Errors
    /// Returns the errors of the source.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.deref().read_at(out, offset)
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.deref().read_at(out, offset)
    }
}

/// Does not move the file's cursor.
#[cfg(unix)]
impl ReadAt for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, out, offset)
    }
}

/// Moves the file's cursor.
#[cfg(windows)]
impl ReadAt for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, out, offset)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for &R {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        R::read_at(self, out, offset)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for Arc<R> {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        R::read_at(self, out, offset)
    }
}

/// The bytes of a range: fewer where the source ends.
pub(super) fn read_range(source: &(impl ReadAt + ?Sized), range: &Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len(range)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match source.read_at(&mut bytes[filled..], range.start.saturating_add(filled as u64)) {
            Ok(0) => break,
            // A source that says it read more than it was asked for cannot make the rest of this panic.
            Ok(len) => filled = filled.saturating_add(len).min(bytes.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A source of a message's bytes that can be read asynchronously at any position, such as an object in a store.
///
/// ```
/// use std::{io, ops::Range};
///
/// use bytes::Bytes;
/// use kms_envelope::stream::AsyncReadAt;
///
/// struct Object {
///     url: String,
/// }
///
/// # async fn get(_: &str, _: (&str, String)) -> io::Result<Bytes> { Ok(Bytes::new()) }
/// impl AsyncReadAt for Object {
///     async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
///         // With the HTTP client of your choice.
///         get(&self.url, ("range", format!("bytes={}-{}", range.start, range.end - 1))).await
///     }
/// }
/// ```
pub trait AsyncReadAt {
    /// Reads the bytes of a range, which is never empty. Fewer bytes mean that the source ends there; more are ignored.
    ///
    /// Several calls can be in progress at the same time.
    ///
    /// # Errors
    /// Returns the errors of the source.
    fn read_range(&self, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Shares the memory.
impl AsyncReadAt for Bytes {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(end(range.start).min(end(range.end))..end(range.end)))
    }
}

/// Reads on the threads that tokio keeps for blocking work, so it is an error to read outside of tokio's runtime.
///
/// Concurrent reads do not disturb each other. On Unix, the file's cursor stays where it is; on Windows, reads move it.
/// Writes through this value must be flushed before.
#[cfg(all(feature = "tokio", any(unix, windows)))]
impl AsyncReadAt for tokio::fs::File {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        #[cfg(unix)]
        let file = std::os::fd::AsFd::as_fd(self).try_clone_to_owned()?;
        #[cfg(windows)]
        let file = std::os::windows::io::AsHandle::as_handle(self).try_clone_to_owned()?;
        let file = File::from(file);
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            io::Error::other("a file of tokio can be read only within tokio's runtime: call this in one of its tasks")
        })?;
        Ok(runtime.spawn_blocking(move || read_range(&file, &range)).await??.into())
    }
}

impl<R: AsyncReadAt + ?Sized> AsyncReadAt for &R {
    fn read_range(&self, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send {
        R::read_range(self, range)
    }
}

impl<R: AsyncReadAt + ?Sized> AsyncReadAt for Arc<R> {
    fn read_range(&self, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send {
        R::read_range(self, range)
    }
}

/// The bytes of a range: never more than it has.
pub(super) async fn read_range_async(source: &impl AsyncReadAt, range: &Range<u64>) -> io::Result<Bytes> {
    let mut bytes = source.read_range(range.clone()).await?;
    bytes.truncate(len(range)?);
    Ok(bytes)
}

fn len(range: &Range<u64>) -> io::Result<usize> {
    buffer_len(range.end.saturating_sub(range.start)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a range that is longer than memory was asked of the source")
    })
}
