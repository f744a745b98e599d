use std::io::{self, Read, Write};

/// A reader or writer that passes at most this many bytes per call.
#[derive(Debug)]
pub struct Pieces<T>(pub T, pub usize);

impl<T: Read> Read for Pieces<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = out.len().min(self.1);
        self.0.read(&mut out[..len])
    }
}

impl<T: Write> Write for Pieces<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(self.1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
