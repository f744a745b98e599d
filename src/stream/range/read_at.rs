//! Sources of messages that can be read at any offset.

#[cfg(any(unix, windows))]
use std::fs::File;
use std::{
    io,
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::Bytes;

use crate::stream::buffer::buffer_len;

/// A source of a message that can be read at any offset, such as a file or bytes in memory.
///
/// ```
/// use std::{io, sync::Mutex};
///
/// use kms_envelope::stream::ReadAt;
///
/// /// A source that can seek.
/// struct Seekable<R>(Mutex<R>);
///
/// impl<R: io::Read + io::Seek> ReadAt for Seekable<R> {
///     fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
///         let mut source = self.0.lock().map_err(|_| io::Error::other("another thread has panicked"))?;
///         source.seek(io::SeekFrom::Start(offset))?;
///         source.read(out)
///     }
/// }
/// ```
pub trait ReadAt {
    /// Reads bytes at `offset` into `out`, and returns their number.
    ///
    /// The number may be less than the length of `out`. 0 means that the source has no bytes at `offset` or after it.
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

/// Leaves the file's cursor unchanged.
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

/// Reads a range. The result is shorter if the source ends before.
pub(super) fn read_range(source: &(impl ReadAt + ?Sized), range: &Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len(range)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match source.read_at(&mut bytes[filled..], range.start.saturating_add(filled as u64)) {
            Ok(0) => break,
            // A source that reports more bytes than requested must not cause a panic here.
            Ok(len) => filled = filled.saturating_add(len).min(bytes.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// An asynchronous source of a message that can be read at any offset, such as an object in a store.
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
    /// Reads a range, which is never empty.
    ///
    /// A shorter result means that the source ends there. Extra bytes are ignored. Calls can run concurrently.
    ///
    /// # Errors
    /// Returns the errors of the source.
    fn read_range(&self, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Returns slices without copying.
impl AsyncReadAt for Bytes {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(end(range.start).min(end(range.end))..end(range.end)))
    }
}

/// Reads on tokio's blocking thread pool. Outside of a tokio runtime, reads return an error.
///
/// Concurrent reads do not affect each other. Reads leave the file's cursor unchanged on Unix, and move it on Windows.
/// Flush earlier writes through this value first.
#[cfg(all(feature = "tokio", any(unix, windows)))]
impl AsyncReadAt for tokio::fs::File {
    async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        #[cfg(unix)]
        let file = std::os::fd::AsFd::as_fd(self).try_clone_to_owned()?;
        #[cfg(windows)]
        let file = std::os::windows::io::AsHandle::as_handle(self).try_clone_to_owned()?;
        let file = File::from(file);
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            io::Error::other(
                "a tokio file cannot be read outside of a tokio runtime; call this from a task of the runtime",
            )
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

/// Reads a range. The result is shorter if the source ends before, and never longer.
pub(super) async fn read_range_async(source: &impl AsyncReadAt, range: &Range<u64>) -> io::Result<Bytes> {
    let mut bytes = source.read_range(range.clone()).await?;
    bytes.truncate(len(range)?);
    Ok(bytes)
}

fn len(range: &Range<u64>) -> io::Result<usize> {
    buffer_len(range.end.saturating_sub(range.start)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the range is longer than this platform can address")
    })
}
