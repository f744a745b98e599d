//! Shells for `std::io`.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use super::{
    MessageInfo, Opener, Sealer,
    buffer::{OpenBuffer, SealBuffer},
};
use crate::{
    error::{OpenError, SealError},
    message::Geometry,
};

/// Seals everything that is written to it, into a writer.
///
/// Made by [`Envelope::seal_writer`](crate::Envelope::seal_writer). It holds about one megabyte, whatever the
/// message's length. Call [`finish`](Self::finish) at the end: a writer that is dropped without it leaves a message
/// that every reader refuses as truncated. `flush` passes on the frames that are complete.
#[derive(Debug)]
pub struct SealWriter<W> {
    inner: W,
    buffer: SealBuffer,
}

impl<W: Write> SealWriter<W> {
    pub(crate) fn new(inner: W, sealer: Sealer) -> Self {
        Self { inner, buffer: SealBuffer::new(sealer) }
    }

    /// Writes the end of the message, flushes, and gives the writer inside back.
    ///
    /// # Errors
    /// Those of the writer inside. The message is not complete then.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_untaken()?;
        self.buffer.finish()?;
        self.write_untaken()?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// The writer inside.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn write_untaken(&mut self) -> io::Result<()> {
        while !self.buffer.untaken().is_empty() {
            match self.inner.write(self.buffer.untaken()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.buffer.take(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for SealWriter<W> {
    /// An error means that nothing of `plaintext` was taken: what had been taken before is kept, and a further call
    /// goes on where this one stopped.
    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.write_untaken()?;
        Ok(self.buffer.seal(plaintext)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_untaken()?;
        self.inner.flush()
    }
}

/// Reads the message that the plaintext of a reader becomes: sealing for those who pull.
///
/// Made by [`Envelope::seal_reader`](crate::Envelope::seal_reader). It holds about two megabytes, whatever the
/// message's length. The message is complete when it reports the end (`Ok(0)`).
#[derive(Debug)]
pub struct SealReader<R> {
    inner: R,
    buffer: SealBuffer,
}

impl<R: Read> SealReader<R> {
    pub(crate) fn new(inner: R, sealer: Sealer) -> Self {
        Self { inner, buffer: SealBuffer::new(sealer) }
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
            return Ok(0);
        }
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for SealReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.untaken().is_empty() && !self.buffer.is_finished() {
            let len = match self.inner.read(self.buffer.space()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.buffer.seal_space(len)?;
        }
        Ok(self.buffer.untaken())
    }

    fn consume(&mut self, len: usize) {
        self.buffer.take(len);
    }
}

/// Reads the plaintext of a message from a reader.
///
/// Made by [`Envelope::open_reader`](crate::Envelope::open_reader). It holds about two megabytes, or two frames where
/// they are longer. Every byte it gives is authenticated, and it reports the end (`Ok(0)`) only when the message's
/// end has been proven and nothing follows it. After an error it fails for good: what was read until then is
/// authentic, but not all, and must not be taken for the whole.
///
/// It is [`BufRead`], which saves a copy, and [`Seek`] where the reader inside is.
#[derive(Debug)]
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
    pub(crate) fn new(inner: R, header_len: usize, opener: Opener) -> Self {
        let buffer = OpenBuffer::new(opener);
        Self { inner, buffer, header_len: header_len as u64, body_read: 0, seekable: None }
    }

    /// What is authenticated of the message besides its plaintext.
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
            return Ok(0);
        }
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for OpenReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.buffer.unread().is_empty() {
            let len = match self.inner.read(self.buffer.space()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.body_read += len as u64;
            self.buffer.open(len)?;
            if len == 0 {
                break;
            }
        }
        Ok(self.buffer.unread())
    }

    fn consume(&mut self, len: usize) {
        self.buffer.consume(len);
    }
}

/// Positions are those of the plaintext. The first seek reads the message's length from the reader inside, which must
/// end where the message does, and proves it by the final frame. A message that is signed or has no frames cannot be
/// sought in. A seek past the end is allowed, and reads nothing.
impl<R: Read + Seek> Seek for OpenReader<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
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
        self.inner.seek(SeekFrom::Start(start + frame.sealed.start))?;
        self.body_read = frame.sealed.start - self.header_len;
        self.buffer.restart(frame.sequence, frame.plaintext.start, target)?;
        Ok(target)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
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
        self.buffer.opener().check_seekable()?;
        let here = self.inner.stream_position()?;
        let start = here
            .checked_sub(self.header_len + self.body_read)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the reader inside was moved"))?;
        let end = self.inner.seek(SeekFrom::End(0))?;
        let frame_len = self.buffer.opener().cipher().frame_len_nonzero();
        let geometry =
            Geometry::of_sealed(self.header_len, frame_len, 0, end.saturating_sub(start)).map_err(OpenError::from)?;
        let frame = geometry.final_frame();
        self.inner.seek(SeekFrom::Start(start + frame.sealed.start))?;
        let mut sealed = Vec::new();
        self.inner.by_ref().take(frame.sealed.end - frame.sealed.start).read_to_end(&mut sealed)?;
        self.buffer.opener().cipher().prove(&frame, &sealed)?;
        self.inner.seek(SeekFrom::Start(here))?;
        self.seekable = Some((start, geometry));
        Ok((start, geometry))
    }
}
