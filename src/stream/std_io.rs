//! Shells for `std::io`.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use super::{
    MessageInfo,
    buffer::{OpenBuffer, SealBuffer, debug_without_inner},
};
use crate::{
    error::{OpenError, SealError, kind::may_pass},
    message::{Geometry, Header, HeaderReader, Limits},
};

/// Reads a message's header, and nothing beyond.
pub(crate) fn read_header(reader: &mut impl Read, limits: &Limits) -> Result<Header, OpenError> {
    let mut header = HeaderReader::new(limits);
    let mut piece = [0; 1024];
    while header.needed() > 0 {
        let room = header.needed().min(piece.len());
        match reader.read(&mut piece[..room]) {
            Ok(0) => break,
            Ok(len) => header.feed(&piece[..len]).map(drop)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(header.finish()?)
}

/// Seals everything that is written to it, into a writer.
///
/// Made by [`Envelope::seal_writer`](crate::Envelope::seal_writer). It holds one frame and one
/// [stream buffer](crate::EnvelopeBuilder::stream_buffer_len), whatever the message's length. Call
/// [`finish`](Self::finish) at the end: a writer that is dropped without it leaves a message that every reader refuses
/// as truncated. `flush` passes on the frames that are complete.
///
/// # Errors
/// An error of the writer inside that may pass (`WouldBlock`, `TimedOut`, `Interrupted`) loses nothing: the call took
/// nothing, and can be made again. After any other error, and after the end of the message, every further write is an
/// error of the kind [`BrokenPipe`](io::ErrorKind::BrokenPipe), with a [`SealError`] inside.
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

    /// Writes the end of the message, flushes, and returns the writer inside.
    ///
    /// # Errors
    /// Those of the writer inside, and [`SealError`]. The message is not complete then, and does not open. Where an
    /// error may pass, use [`try_finish`](Self::try_finish).
    pub fn finish(mut self) -> io::Result<W> {
        self.try_finish()?;
        Ok(self.inner)
    }

    /// Writes the end of the message and flushes, as [`finish`](Self::finish) does, and keeps the writer: for targets
    /// whose errors may pass, after which this can be called again. After it has succeeded, it has no effect.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn try_finish(&mut self) -> io::Result<()> {
        if !self.is_finished {
            self.write_untaken()?;
            self.buffer.finish()?;
            self.flush()?;
            self.is_finished = true;
        }
        Ok(())
    }

    /// The writer inside.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn write_untaken(&mut self) -> io::Result<()> {
        loop {
            let untaken = self.buffer.untaken()?;
            if untaken.is_empty() {
                return Ok(());
            }
            match self.inner.write(untaken) {
                Ok(0) => return Err(self.buffer.failed(io::ErrorKind::WriteZero.into())),
                Ok(len) => self.buffer.take(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.buffer.failed(error)),
            }
        }
    }
}

impl<W: Write> Write for SealWriter<W> {
    /// An error means that nothing of `plaintext` was taken.
    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.buffer.check_open()?;
        self.write_untaken()?;
        Ok(self.buffer.seal(plaintext)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_finished {
            return Ok(());
        }
        self.write_untaken()?;
        loop {
            match self.inner.flush() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                flushed => return flushed.map_err(|error| self.buffer.failed(error)),
            }
        }
    }
}

/// Reads the message that the plaintext of a reader becomes: sealing for those who pull.
///
/// Made by [`Envelope::seal_reader`](crate::Envelope::seal_reader). It holds one frame and two
/// [stream buffers](crate::EnvelopeBuilder::stream_buffer_len), whatever the message's length. The message is complete
/// when it reports the end (`Ok(0)`).
///
/// # Errors
/// An error of the reader inside that may pass (`WouldBlock`, `TimedOut`, `Interrupted`) loses nothing: reading can go
/// on. After any other error, every further read is an error: the message has no end, and does not open.
pub struct SealReader<R> {
    inner: R,
    buffer: SealBuffer,
}

impl<R: Read> SealReader<R> {
    pub(crate) fn new(inner: R, buffer: SealBuffer) -> Self {
        Self { inner, buffer }
    }

    /// The length of the whole message for a plaintext of this length, in bytes.
    ///
    /// # Errors
    /// [`SealError::TooLong`] where a message cannot have so many frames.
    pub fn sealed_len(&self, plaintext_len: u64) -> Result<u64, SealError> {
        self.buffer.sealed_len(plaintext_len)
    }
}

impl<R: Read> Read for SealReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(self.buffer.untaken().map(|_| 0)?);
        }
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for SealReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.untaken()?.is_empty() && !self.buffer.is_finished() {
            match self.inner.read(self.buffer.space()) {
                Ok(len) => self.buffer.seal_space(len)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.buffer.failed(error)),
            }
        }
        Ok(self.buffer.untaken()?)
    }

    fn consume(&mut self, len: usize) {
        self.buffer.take(len);
    }
}

/// Reads the plaintext of a message from a reader.
///
/// Made by [`Envelope::open_reader`](crate::Envelope::open_reader). It holds one frame and two
/// [stream buffers](crate::EnvelopeBuilder::stream_buffer_len), and its memory grows with what arrives. Every byte it
/// gives is authenticated, and it reports the end (`Ok(0)`) only when the message's end has been proven and nothing
/// follows it.
///
/// It is [`BufRead`], which saves a copy, and [`Seek`] where the reader inside is.
///
/// # Errors
/// An error of the reader inside that may pass (`WouldBlock`, `TimedOut`, `Interrupted`) loses nothing: reading can go
/// on. Any other error of it, and any [`OpenError`] about the message, is final, and every further read is an error:
/// what was read until then is authentic, but not all, and must not be taken for the whole.
pub struct OpenReader<R> {
    inner: R,
    buffer: OpenBuffer,
    header_len: u64,
    /// How much of the message's body has been read.
    body_read: u64,
    /// Where the message begins in the reader inside, and its geometry, once a seek has proven it.
    seekable: Option<(u64, Geometry)>,
}

impl<R: Read> OpenReader<R> {
    pub(crate) fn new(inner: R, header_len: usize, buffer: OpenBuffer) -> Self {
        Self { inner, buffer, header_len: header_len as u64, body_read: 0, seekable: None }
    }

    /// Returns what is known of the message besides its plaintext.
    pub fn info(&self) -> &MessageInfo {
        self.buffer.opener().info()
    }

    /// The reader inside.
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
            match self.inner.read(self.buffer.space()) {
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

/// Positions are those of the plaintext. The first seek reads the message's length from the reader inside, which must
/// end where the message does, and proves it by the final frame. A message that is signed or has no frames cannot be
/// sought in. A seek past the end is allowed, and reads nothing. An error that may pass leaves the position as it was.
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
            io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the plaintext, or beyond 2^64 bytes")
        })?;
        // At the end or past it: to the end of the final frame, which has been proven.
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
    /// Where the message begins, and its geometry, proven by the final frame.
    fn prove_geometry(&mut self) -> io::Result<(u64, Geometry)> {
        if let Some(seekable) = self.seekable {
            return Ok(seekable);
        }
        self.buffer.opener().seekable()?;
        let here = self.inner.stream_position().map_err(|error| self.buffer.failed(error))?;
        let start = here
            .checked_sub(self.header_len + self.body_read)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the reader inside was moved"))?;
        let geometry = self.or_back_to(here, |this| {
            let geometry = this.geometry_from(start)?;
            this.inner.seek(SeekFrom::Start(here))?;
            Ok(geometry)
        })?;
        self.seekable = Some((start, geometry));
        Ok((start, geometry))
    }

    /// The geometry of the message that begins at `start`, proven by the final frame. Moves the reader inside.
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

    /// Moves the reader inside. After an error that may pass, it is put back to where reading goes on; after any other,
    /// and where that fails, the message has failed.
    fn or_back_to<T>(&mut self, here: u64, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        work(self).map_err(|error| {
            if may_pass(&error) && self.inner.seek(SeekFrom::Start(here)).is_err() {
                return self.buffer.failed(io::Error::other(error));
            }
            self.buffer.failed(error)
        })
    }
}
