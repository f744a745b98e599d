//! Shells for `std::io`.

use std::io::{self, BufRead, Read, Write};

use super::{
    MessageInfo, Opener, Sealer,
    buffer::{OpenBuffer, SealBuffer},
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

/// Reads the plaintext of a message from a reader.
///
/// Made by [`Envelope::open_reader`](crate::Envelope::open_reader). It holds about two megabytes, or two frames where
/// they are longer. Every byte it gives is authenticated, and it reports the end (`Ok(0)`) only when the message's
/// end has been proven and nothing follows it. After an error it fails for good: what was read until then is
/// authentic, but not all, and must not be taken for the whole.
///
/// It is [`BufRead`], which saves a copy.
#[derive(Debug)]
pub struct OpenReader<R> {
    inner: R,
    buffer: OpenBuffer,
}

impl<R: Read> OpenReader<R> {
    pub(crate) fn new(inner: R, opener: Opener) -> Self {
        Self { inner, buffer: OpenBuffer::new(opener) }
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
