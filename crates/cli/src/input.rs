//! Input from files, pipes, devices and objects.

use std::{
    collections::VecDeque,
    fs::{File, Metadata},
    io::{self, IsTerminal, Read, Seek, SeekFrom},
};

use kms_envelope::{
    Limits,
    message::{DetachedKeys, Header, HeaderReader},
};

#[cfg(feature = "stores")]
use crate::stores::{Download, Location};
use crate::{console::Console, failure::Failure, place::Place, progress::Progress, standard};

/// The maximum number of bytes to read or write at once.
pub(crate) const PIECE: usize = 1 << 20;

/// The first bytes of detached keys. No message begins with them.
const DETACHED_KEYS: [u8; 4] = *b"KEDK";

/// The start of an input.
#[derive(Debug)]
pub(crate) enum Start {
    Message(Header),
    DetachedKeys(DetachedKeys),
}

/// The input of a command.
#[derive(Debug)]
pub(crate) struct Input {
    source: Source,
    name: String,
    len: Option<u64>,
    console: Console,
    progress: Option<Progress>,
}

#[derive(Debug)]
enum Source {
    File {
        file: File,
        /// The offset of the message in the file.
        start: u64,
    },
    #[cfg(feature = "stores")]
    Object(Box<Download>),
}

impl Input {
    /// Opens a file, an object, or standard input.
    pub(crate) fn open(place: Option<&Place>, console: Console) -> Result<Self, Failure> {
        let name = place.map_or_else(|| "standard input".to_owned(), Place::to_string);
        let cannot_read = |error: io::Error| Failure::reading(&name, &error);
        let mut file = match place.map(|place| (place, place.file())) {
            Some((_, Some(path))) => File::open(path).map_err(cannot_read)?,
            #[cfg(feature = "stores")]
            Some((Place::Object(url), None)) => {
                return Ok(Self::of_object(Download::start(Location::parse_object(url)?)?, console));
            }
            _ => standard::input()?,
        };
        let metadata = file.metadata().map_err(cannot_read)?;
        if metadata.is_dir() {
            return Err(Failure::new("this is a directory, not a file").of(&name).advise("pack it with `tar` first"));
        }
        // Another process may have read part of standard input.
        let start = if metadata.is_file() { file.stream_position().unwrap_or(0) } else { 0 };
        // Files in /proc report a length of zero.
        let len = metadata.len().checked_sub(start).filter(|len| metadata.is_file() && *len > 0);
        Ok(Self { source: Source::File { file, start }, name, len, console, progress: None })
    }

    #[cfg(feature = "stores")]
    fn of_object(object: Download, console: Console) -> Self {
        let (name, len) = (object.url().to_string(), Some(object.len()));
        Self { source: Source::Object(object.into()), name, len, console, progress: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file's metadata, unless the input is an object.
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        match &self.source {
            Source::File { file, .. } => file.metadata().ok(),
            #[cfg(feature = "stores")]
            Source::Object(_) => None,
        }
    }

    /// Returns the number of remaining bytes, if it is known without reading them.
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }

    /// Shows the progress of reading, unless the input is typed on a terminal.
    pub(crate) fn show_progress(&mut self) {
        let is_terminal = match &self.source {
            Source::File { file, .. } => file.is_terminal(),
            #[cfg(feature = "stores")]
            Source::Object(_) => false,
        };
        let wanted = !self.console.quiet && !is_terminal;
        self.progress = Some(Progress::new(self.len, wanted));
    }

    /// Reads a piece. Returns 0 only at the end.
    pub(crate) fn read_piece(&mut self, piece: &mut [u8]) -> Result<usize, Failure> {
        loop {
            match self.read(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| Failure::reading(&self.name, &error)),
            }
        }
    }

    /// Fills `out` as far as there is input. Returns the number of bytes.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read_piece(&mut out[filled..])? {
                0 => break,
                len => filled += len,
            }
        }
        Ok(filled)
    }

    /// Reads a message's header but not beyond it, or detached keys to their end.
    pub(crate) fn read_start(&mut self) -> Result<Start, Failure> {
        // Every header is longer than this.
        let mut start = [0; DETACHED_KEYS.len()];
        let len = self.fill(&mut start)?;
        if start != DETACHED_KEYS {
            return self.read_header_after(&start[..len]).map(Start::Message);
        }
        let mut keys = vec![0; Limits::default().header_len + 1];
        keys[..len].copy_from_slice(&start);
        let len = len + self.fill(&mut keys[len..])?;
        parse_detached(&keys[..len]).map(Start::DetachedKeys).map_err(|failure| failure.of(&self.name))
    }

    /// Reads a message's header but not beyond it.
    pub(crate) fn read_header(&mut self) -> Result<Header, Failure> {
        match self.read_start()? {
            Start::Message(header) => Ok(header),
            Start::DetachedKeys(_) => Err(Failure::new("these are detached keys, not a message")
                .of(&self.name)
                .advise("pass the message, and these keys with --keys")),
        }
    }

    /// Reads the rest of a header that begins with `start`.
    fn read_header_after(&mut self, start: &[u8]) -> Result<Header, Failure> {
        let mut header = HeaderReader::new(&Limits::default());
        header.feed(start).map_err(|error| Failure::from(error).of(&self.name))?;
        let mut piece = [0; 1024];
        while header.needed() > 0 {
            let len = header.needed().min(piece.len());
            match self.read_piece(&mut piece[..len])? {
                0 => break,
                len => header.feed(&piece[..len]).map_err(|error| Failure::from(error).of(&self.name))?,
            };
        }
        header.finish().map_err(|error| Failure::from(error).of(&self.name))
    }

    /// Reads to the end. Returns the number of bytes, and at most the last `keep` of them.
    pub(crate) fn count(&mut self, keep: usize) -> Result<(u64, Vec<u8>), Failure> {
        let mut piece = vec![0; PIECE];
        let (mut count, mut end) = (0, VecDeque::new());
        loop {
            let len = self.read_piece(&mut piece)?;
            if len == 0 {
                return Ok((count, end.into()));
            }
            count += len as u64;
            let kept = &piece[len.saturating_sub(keep)..len];
            end.drain(..(end.len() + kept.len()).saturating_sub(keep));
            end.extend(kept);
        }
    }

    /// Fills `out` with the bytes at this offset in the message. Only for an input whose [`len`](Self::len) is known.
    pub(crate) fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
        let read = match &mut self.source {
            Source::File { file, start } => {
                file.seek(SeekFrom::Start(*start + offset)).and_then(|_| file.read_exact(out))
            }
            #[cfg(feature = "stores")]
            Source::Object(object) => object.read_at(offset, out),
        };
        read.map_err(|error| Failure::reading(&self.name, &error))
    }
}

/// Parses detached keys, which are at most as long as the longest header.
pub(crate) fn parse_detached(keys: &[u8]) -> Result<DetachedKeys, Failure> {
    let limits = Limits::default();
    if keys.len() > limits.header_len {
        return Err(Failure::new(format!(
            "it is longer than {} bytes, the limit for detached keys",
            limits.header_len
        )));
    }
    Ok(DetachedKeys::parse(keys, &limits)?)
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = match &mut self.source {
            Source::File { file, .. } => file.read(out)?,
            #[cfg(feature = "stores")]
            Source::Object(object) => object.read(out)?,
        };
        if let Some(progress) = &self.progress {
            progress.advance(len);
        }
        Ok(len)
    }
}
