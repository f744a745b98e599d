//! What is read and what is written: files, pipes, devices.

use std::{
    collections::VecDeque,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf, is_separator},
};

use kms_envelope::{
    Limits,
    message::{Header, HeaderReader},
};
use tempfile::NamedTempFile;

use crate::{failure::Failure, interrupt, progress::Progress};

/// How much is read and written at once, at most.
pub(crate) const PIECE: usize = 1 << 20;

/// What is read.
#[derive(Debug)]
pub(crate) struct Input {
    file: File,
    name: String,
    /// Where the message begins in the file.
    start: u64,
    len: Option<u64>,
    progress: Option<Progress>,
}

impl Input {
    /// Opens a file, or takes standard input.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        let cannot_read = |error: io::Error| Failure::reading(&name, &error);
        let mut file = path.map_or_else(stdin, File::open).map_err(cannot_read)?;
        let metadata = file.metadata().map_err(cannot_read)?;
        if metadata.is_dir() {
            return Err(Failure::new("this is a directory, and only files are read")
                .of(&name)
                .advise("pack it with `tar` first"));
        }
        // Standard input may have been read in part.
        let start = if metadata.is_file() { file.stream_position().unwrap_or(0) } else { 0 };
        // Files of /proc claim to be empty.
        let len = metadata.len().checked_sub(start).filter(|len| metadata.is_file() && *len > 0);
        Ok(Self { file, name, start, len, progress: None })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The bytes that are left, where they are known without reading them.
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }

    /// Shows how much has been read, where that does not get in the way of what is typed or of `output`.
    pub(crate) fn show_progress(&mut self, output: Option<&Output>) {
        let wanted = !self.file.is_terminal() && !output.is_some_and(Output::is_terminal);
        self.progress = Some(Progress::new(self.len, wanted));
    }

    /// Reads a piece, which is empty at the end only.
    pub(crate) fn read_piece(&mut self, piece: &mut [u8]) -> Result<usize, Failure> {
        loop {
            match self.read(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| Failure::reading(&self.name, &error)),
            }
        }
    }

    /// Reads a message's header and nothing beyond.
    pub(crate) fn read_header(&mut self) -> Result<Header, Failure> {
        let mut header = HeaderReader::new(&Limits::default());
        let mut piece = [0; 1024];
        while header.needed() > 0 {
            let room = header.needed().min(piece.len());
            match self.read_piece(&mut piece[..room])? {
                0 => break,
                len => header.feed(&piece[..len]).map_err(|error| Failure::from(error).of(&self.name))?,
            };
        }
        header.finish().map_err(|error| Failure::from(error).of(&self.name))
    }

    /// Reads to the end. Returns how many bytes that were, and the last of them, at most `keep`.
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
        let read = self.file.seek(SeekFrom::Start(self.start + offset)).and_then(|_| self.file.read_exact(out));
        read.map_err(|error| Failure::reading(&self.name, &error))
    }
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(out)?;
        if let Some(progress) = &self.progress {
            progress.advance(len);
        }
        Ok(len)
    }
}

/// What is written. A file has its name only after [`finish`](Self::finish); dropped before, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Output {
    target: Target,
    name: String,
}

#[derive(Debug)]
enum Target {
    /// Standard output, a pipe or a device.
    Direct(File),
    /// A file beside the one that it is to become.
    Beside { temporary: NamedTempFile, path: PathBuf },
}

impl Output {
    /// Makes ready to write to a path, or to standard output. Nothing is changed there yet.
    pub(crate) fn create(path: Option<&Path>, input: &Input) -> Result<Self, Failure> {
        let name = path.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        let target = match path {
            Some(path) => Target::for_path(path),
            None => stdout().map(Target::Direct),
        };
        let this = Self { target: target.map_err(|error| Failure::writing(&name, &error))?, name };
        if this.is_also(input) {
            return Err(Failure::new("this is the input as well").of(&this.name).advise("give another file with -o"));
        }
        Ok(this)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn is_terminal(&self) -> bool {
        matches!(&self.target, Target::Direct(file) if file.is_terminal())
    }

    /// Whether writing would change what is still to be read. What is written beside a file does not.
    fn is_also(&self, input: &Input) -> bool {
        match &self.target {
            Target::Beside { .. } => false,
            Target::Direct(file) => match (file.metadata(), input.file.metadata()) {
                (Ok(output), Ok(input)) => holds_data(&output) && is_same(&output, &input),
                _ => false,
            },
        }
    }

    /// Fails where this would replace one of these files, which are still needed.
    pub(crate) fn spare<'a>(&self, needed: impl IntoIterator<Item = &'a Path>, what: &str) -> Result<(), Failure> {
        let Target::Beside { path, .. } = &self.target else { return Ok(()) };
        // It may not be there, and then nothing is replaced.
        let Ok(replaced) = fs::canonicalize(path) else { return Ok(()) };
        if needed.into_iter().any(|needed| fs::canonicalize(needed).is_ok_and(|needed| needed == replaced)) {
            return Err(Failure::new(format!("this is {what}")).of(&self.name).advise("give another file with -o"));
        }
        Ok(())
    }

    /// The end: everything is on the disk, and the file gets its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Target::Beside { temporary, path } = self.target else { return Ok(()) };
        temporary
            .as_file()
            .sync_all()
            .and_then(|()| interrupt::complete(|| temporary.persist(path)).map(drop).map_err(|error| error.error))
            .map_err(|error| Failure::writing(&self.name, &error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            Target::Direct(file) => file.write(bytes),
            Target::Beside { temporary, .. } => temporary.as_file_mut().write(bytes),
        }
    }

    /// Nothing is buffered here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target {
    fn for_path(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) => {
                // Such as /dev/stdout, whatever it stands for: an open file must not be replaced by another.
                let stdout = stdout()?;
                if stdout.metadata().is_ok_and(|stdout| is_same(&stdout, &metadata)) {
                    return Ok(Self::Direct(stdout));
                }
                // Asks for permission: renaming a file to this name would not.
                let existing = OpenOptions::new().write(true).open(path)?;
                if !metadata.is_file() {
                    return Ok(Self::Direct(existing));
                }
                // A symbolic link stays one.
                Self::beside(fs::canonicalize(path)?, Some(&metadata))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(io::Error::new(error.kind(), "it is a symbolic link to nothing"));
                }
                if path.to_string_lossy().ends_with(is_separator) {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                Self::beside(path.to_owned(), None)
            }
            Err(error) => Err(error),
        }
    }

    /// A file in the same folder, that may be read by those who may read `existing`, or by whom the umask lets.
    fn beside(path: PathBuf, existing: Option<&Metadata>) -> io::Result<Self> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".kms-envelope-").suffix(".tmp");
        #[cfg(unix)]
        let permissions = {
            use std::os::unix::fs::PermissionsExt;
            let mode = existing.map(|existing| existing.permissions().mode() & 0o777);
            builder.permissions(fs::Permissions::from_mode(mode.unwrap_or(0o666)));
            mode.map(fs::Permissions::from_mode)
        };
        #[cfg(not(unix))]
        let permissions: Option<fs::Permissions> = existing.and(None);
        // The error names the temporary file, which says nothing to anybody.
        let temporary = interrupt::create(|| builder.tempfile_in(folder), NamedTempFile::path).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, format!("no file can be made in the folder {}: {kind}", folder.display()))
        })?;
        // Exactly those of the existing file, whatever the umask.
        if let Some(permissions) = permissions {
            temporary.as_file().set_permissions(permissions)?;
        }
        Ok(Self::Beside { temporary, path })
    }
}

/// Whether what is written to it can be read from it again.
fn holds_data(metadata: &Metadata) -> bool {
    #[cfg(unix)]
    let is_block_device = std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type());
    #[cfg(not(unix))]
    let is_block_device = false;
    metadata.is_file() || is_block_device
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    false
}

/// Standard input without a buffer.
fn stdin() -> io::Result<File> {
    #[cfg(unix)]
    let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdin = std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned()?;
    Ok(stdin.into())
}

/// Standard output without a buffer that looks for ends of lines.
fn stdout() -> io::Result<File> {
    #[cfg(unix)]
    let stdout = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdout = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned()?;
    Ok(stdout.into())
}
