//! Readers and writers for `std::io`.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use super::{
    MessageInfo,
    buffer::{OpenBuffer, SealBuffer, debug_without_inner},
};
use crate::{
    error::{OpenError, SealError, kind::is_transient},
    message::{Geometry, Header, HeaderReader, Limits},
};

/// Reads a message's header, and no byte after it.
pub(crate) fn read_header(reader: &mut impl Read, limits: &Limits) -> Result<Header, OpenError> {
    let mut header = HeaderReader::new(limits);
    let mut piece = [0; 1024];
    while header.needed() > 0 {
        let max = header.needed().min(piece.len());
        match reader.read(&mut piece[..max]) {
            Ok(0) => break,
            Ok(len) => header.feed(&piece[..len]).map(drop)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(header.finish()?)
}

/// A writer that encrypts what is written to it, and writes the message to an inner writer.
///
/// Created by [`Envelope::seal_writer`](crate::Envelope::seal_writer). Call [`finish`](Self::finish) at the end. A
/// writer that is dropped without it leaves a truncated message, which cannot be opened.
///
/// It holds at most one frame and one [stream buffer](crate::EnvelopeBuilder::stream_buffer_len), regardless of the
/// message's length. `flush` writes the complete frames that are followed by more plaintext, and flushes the inner
/// writer. The last frame is written by `finish`.
///
/// # Errors
/// Errors of the inner writer with the kind `WouldBlock`, `TimedOut` or `Interrupted` are transient: the call has
/// consumed nothing and can be repeated. After any other error, and after the end of the message, every further write
/// returns an error of the kind [`BrokenPipe`](io::ErrorKind::BrokenPipe) that contains a [`SealError`].
pub struct SealWriter<W> {
    inner: W,
    buffer: SealBuffer,
    /// Whether the end of the message has been written and flushed.
    is_finished: bool,
}

impl<W: Write> SealWriter<W> {
    pub(crate) fn new(inner: W, buffer: SealBuffer) -> Self {
        Self { inner, buffer, is_finished: false }
    }

    /// Writes the end of the message, flushes, and returns the inner writer.
    ///
    /// # Errors
    /// Returns the errors of the inner writer, and any [`SealError`]. The message is then incomplete and cannot be
    /// opened. If the inner writer has transient errors, use [`try_finish`](Self::try_finish), which can be repeated.
    pub fn finish(mut self) -> io::Result<W> {
        self.try_finish()?;
        Ok(self.inner)
    }

    /// Like [`finish`](Self::finish), but does not consume the writer, so the call can be repeated after a transient
    /// error.
    ///
    /// After a success, further calls have no effect.
    ///
    /// # Errors
    /// Same as [`finish`](Self::finish).
    pub fn try_finish(&mut self) -> io::Result<()> {
        if !self.is_finished {
            self.write_output()?;
            self.buffer.finish()?;
            self.flush()?;
            self.is_finished = true;
        }
        Ok(())
    }

    /// Returns a reference to the inner writer.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn write_output(&mut self) -> io::Result<()> {
        loop {
            let output = self.buffer.output()?;
            if output.is_empty() {
                return Ok(());
            }
            match self.inner.write(output) {
                Ok(0) => return Err(self.buffer.failed(io::ErrorKind::WriteZero.into())),
                Ok(len) => self.buffer.consume(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.buffer.failed(error)),
            }
        }
    }
}

impl<W: Write> Write for SealWriter<W> {
    /// On error, no byte of `plaintext` has been consumed.
    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.buffer.check_open()?;
        self.write_output()?;
        Ok(self.buffer.seal(plaintext)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_finished {
            return Ok(());
        }
        self.write_output()?;
        loop {
            match self.inner.flush() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                flushed => return flushed.map_err(|error| self.buffer.failed(error)),
            }
        }
    }
}

/// A reader that yields the encrypted form of what it reads from an inner reader.
///
/// Created by [`Envelope::seal_reader`](crate::Envelope::seal_reader). The message is complete when the reader returns
/// `Ok(0)`.
///
/// It holds at most one frame and two [stream buffers](crate::EnvelopeBuilder::stream_buffer_len), regardless of the
/// message's length. It implements [`BufRead`], which avoids a copy.
///
/// # Errors
/// Errors of the inner reader with the kind `WouldBlock`, `TimedOut` or `Interrupted` are transient: nothing is lost,
/// and the call can be repeated. After any other error, every further read returns an error, and the message stays
/// truncated.
pub struct SealReader<R> {
    inner: R,
    buffer: SealBuffer,
}

impl<R: Read> SealReader<R> {
    pub(crate) fn new(inner: R, buffer: SealBuffer) -> Self {
        Self { inner, buffer }
    }

    /// Returns the length in bytes of the entire message for a plaintext of `plaintext_len` bytes.
    ///
    /// # Errors
    /// Returns [`SealError::TooLong`] if the plaintext needs more frames than a message can have.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.buffer.sealed_len(plaintext_len)
    }
}

impl<R: Read> Read for SealReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(self.buffer.output().map(|_| 0)?);
        }
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for SealReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.output()?.is_empty() && !self.buffer.is_finished() {
            match self.inner.read(self.buffer.input()) {
                Ok(len) => self.buffer.seal_input(len)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.buffer.failed(error)),
            }
        }
        Ok(self.buffer.output()?)
    }

    fn consume(&mut self, len: usize) {
        self.buffer.consume(len);
    }
}

/// A reader that yields the plaintext of the message in an inner reader.
///
/// Created by [`Envelope::open_reader`](crate::Envelope::open_reader). Every byte that it returns is authenticated. It
/// returns `Ok(0)` only after it has verified the end of the message and that no bytes follow it. For signed messages,
/// see [`Opener`](super::Opener#signed-messages).
///
/// It holds at most one frame and two [stream buffers](crate::EnvelopeBuilder::stream_buffer_len), which grow with the
/// data that arrives. It implements [`BufRead`], which avoids a copy, and [`Seek`] if the inner reader does.
///
/// # Errors
/// Errors of the inner reader with the kind `WouldBlock`, `TimedOut` or `Interrupted` are transient: nothing is lost,
/// and the call can be repeated. Any other error of the inner reader, and any [`OpenError`] about the message, is
/// final: every further read returns an error. The plaintext read before is authentic, but must not be treated as
/// complete.
pub struct OpenReader<R> {
    inner: R,
    buffer: OpenBuffer,
    header_len: u64,
    /// The number of bytes of the message's body that have been read.
    body_read: u64,
    /// The offset of the message in the inner reader, and its geometry, once a seek has verified it.
    seekable: Option<(u64, Geometry)>,
}

impl<R: Read> OpenReader<R> {
    pub(crate) fn new(inner: R, header_len: usize, buffer: OpenBuffer) -> Self {
        Self { inner, buffer, header_len: header_len as u64, body_read: 0, seekable: None }
    }

    /// Returns the message's metadata.
    pub fn info(&self) -> &MessageInfo {
        self.buffer.opener().info()
    }

    /// Returns a reference to the inner reader.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(self.buffer.unread().map(|_| 0)?);
        }
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for OpenReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.needs_more()? {
            match self.inner.read(self.buffer.input()) {
                Ok(len) => {
                    self.body_read += len as u64;
                    self.buffer.open(len)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.buffer.failed(error)),
            }
        }
        Ok(self.buffer.unread()?)
    }

    fn consume(&mut self, len: usize) {
        self.buffer.consume(len);
    }
}

debug_without_inner!(SealWriter<W>: buffer, SealReader<R>: buffer, OpenReader<R>: buffer);

/// Seeks in the plaintext.
///
/// The first seek determines the length of the message from the end of the inner reader, and verifies it with the final
/// frame, so the inner reader must end with the message. A seek past the end is allowed; reads there return `Ok(0)`.
///
/// Messages that are signed or not framed do not support seeking: the error contains [`OpenError::NotSeekable`]. A
/// transient error leaves the position unchanged.
impl<R: Read + Seek> Seek for OpenReader<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.buffer.opener().check_not_failed()?;
        let (start, geometry) = self.prove_geometry()?;
        let target = match position {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => geometry.plaintext_len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position().checked_add_signed(offset),
        };
        let target = target.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "cannot seek to a negative position or beyond 2^64 bytes")
        })?;
        // A position at or past the end means the final frame, which has been verified.
        let frame = geometry.frame_of_offset(target).unwrap_or_else(|| geometry.final_frame());
        let here = start + self.header_len + self.body_read;
        self.or_back_to(here, |this| this.inner.seek(SeekFrom::Start(start + frame.sealed.start)))?;
        self.body_read = frame.sealed.start - self.header_len;
        self.buffer.restart(frame.sequence, frame.plaintext.start, target)?;
        Ok(target)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        self.buffer.opener().check_not_failed()?;
        Ok(self.position())
    }
}

impl<R> OpenReader<R> {
    fn position(&self) -> u64 {
        self.buffer.position()
    }
}

impl<R: Read + Seek> OpenReader<R> {
    /// Returns the offset of the message in the inner reader, and its geometry, verified with the final frame.
    fn prove_geometry(&mut self) -> io::Result<(u64, Geometry)> {
        if let Some(seekable) = self.seekable {
            return Ok(seekable);
        }
        self.buffer.opener().seekable()?;
        let here = self.inner.stream_position().map_err(|error| self.buffer.failed(error))?;
        let start = here.checked_sub(self.header_len + self.body_read).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot seek: the inner reader's position was changed by other code",
            )
        })?;
        let geometry = self.or_back_to(here, |this| {
            let geometry = this.geometry_from(start)?;
            this.inner.seek(SeekFrom::Start(here))?;
            Ok(geometry)
        })?;
        self.seekable = Some((start, geometry));
        Ok((start, geometry))
    }

    /// Returns the geometry of the message at offset `start`, verified with the final frame. Moves the inner reader.
    fn geometry_from(&mut self, start: u64) -> io::Result<Geometry> {
        let end = self.inner.seek(SeekFrom::End(0))?;
        let cipher = self.buffer.opener().seekable()?;
        let sealed_len = end.saturating_sub(start);
        let geometry = Geometry::of_sealed(self.header_len, cipher.frame_len_nonzero(), 0, sealed_len);
        let geometry = geometry.map_err(OpenError::from)?;
        let frame = geometry.final_frame();
        self.inner.seek(SeekFrom::Start(start + frame.sealed.start))?;
        let mut sealed = Vec::new();
        self.inner.by_ref().take(frame.sealed.end - frame.sealed.start).read_to_end(&mut sealed)?;
        cipher.prove(&frame, &sealed)?;
        Ok(geometry)
    }

    /// Runs `work`, which moves the inner reader. After a transient error, moves it back to `here`. After any other
    /// error, or if it cannot be moved back, the message has failed.
    fn or_back_to<T>(&mut self, here: u64, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        work(self).map_err(|error| {
            if is_transient(&error) && self.inner.seek(SeekFrom::Start(here)).is_err() {
                return self.buffer.failed(io::Error::other(error));
            }
            self.buffer.failed(error)
        })
    }
}
