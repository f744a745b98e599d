//! Output to files, pipes, devices and objects.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf, is_separator},
};

use tempfile::NamedTempFile;

#[cfg(feature = "stores")]
use crate::stores::{Location, Upload};
use crate::{
    console::Console,
    failure::Failure,
    input::Input,
    interrupt,
    permissions::{permit_as_new, take_over},
    place::Place,
    standard,
};

/// The output of a command. A file or an object appears under its name only after [`finish`](Self::finish). If the value
/// is dropped before that, nothing remains.
#[derive(Debug)]
pub(crate) struct Output {
    target: Target,
    name: String,
    written: u64,
    console: Console,
}

#[derive(Debug)]
enum Target {
    /// Standard output, a pipe or a device.
    Direct(File),
    /// A temporary file in the directory of `path`, which is renamed to `path` at the end, and the file that it
    /// replaces. SIGKILL, a signal that is not watched, or a power loss leaves the temporary file behind. Only its
    /// owner can read it.
    Beside { temporary: NamedTempFile, path: PathBuf, existing: Option<File> },
    /// An object, and its path if it is in a local folder.
    #[cfg(feature = "stores")]
    Object { upload: Upload, path: Option<PathBuf> },
}

impl Output {
    /// Prepares to write to a file, an object, or standard output, without changing anything there yet.
    pub(crate) fn create(place: Option<&Place>, input: &Input, console: Console) -> Result<Self, Failure> {
        let name = place.map_or_else(|| "standard output".to_owned(), Place::to_string);
        let target = match place.map(|place| (place, place.file())) {
            Some((_, Some(path))) => Target::for_path(&path).map_err(|error| Failure::writing(&name, &error))?,
            #[cfg(feature = "stores")]
            Some((Place::Object(url), None)) => {
                watch().map_err(|error| Failure::writing(&name, &error))?;
                Target::Object { upload: Upload::new(&Location::parse_object(url)?, input.len()), path: None }
            }
            _ => Target::Direct(standard::output()?),
        };
        let this = Self { target, name, written: 0, console };
        if this.is_also(input) {
            return Err(Failure::new("this is also the input")
                .of(&this.name)
                .advise("choose another output file with -o"));
        }
        Ok(this)
    }

    /// Prepares to write an object, also in a local folder.
    #[cfg(feature = "stores")]
    pub(crate) fn to_object(location: &Location, upload: Upload, console: Console) -> Result<Self, Failure> {
        let name = location.url.to_string();
        watch().map_err(|error| Failure::writing(&name, &error))?;
        let path = Place::Object(location.url.clone()).file().map(|path| path.into_owned());
        Ok(Self { target: Target::Object { upload, path }, name, written: 0, console })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(&self.target, Target::Direct(file) if file.is_terminal())
    }

    /// Fails if this is a terminal, because the output is binary.
    pub(crate) fn refuse_terminal(&self) -> Result<(), Failure> {
        if self.is_terminal() {
            return Err(Failure::new("this is a terminal, and the output is binary")
                .of(&self.name)
                .advise("write to a file with `-o FILE`, or write to the terminal anyway with `-o -`"));
        }
        Ok(())
    }

    /// Returns whether writing would change the input that is still to be read. Writing to a temporary file does not.
    fn is_also(&self, input: &Input) -> bool {
        match &self.target {
            #[cfg(feature = "stores")]
            Target::Object { .. } => false,
            Target::Beside { .. } => false,
            Target::Direct(file) => match (file.metadata().ok(), input.metadata()) {
                (Some(output), Some(input)) => holds_data(&output) && is_same(&output, &input),
                _ => false,
            },
        }
    }

    /// Fails if this would replace or modify one of these files, which are still needed.
    pub(crate) fn spare<'a>(&self, needed: impl IntoIterator<Item = &'a Path>, what: &str) -> Result<(), Failure> {
        // If the path does not exist, nothing is replaced.
        let (path, changed) = match &self.target {
            Target::Beside { path, .. } => (fs::canonicalize(path).ok(), fs::metadata(path).ok()),
            #[cfg(feature = "stores")]
            Target::Object { path: None, .. } => return Ok(()),
            #[cfg(feature = "stores")]
            Target::Object { path: Some(path), .. } => (fs::canonicalize(path).ok(), fs::metadata(path).ok()),
            Target::Direct(file) => (None, file.metadata().ok().filter(holds_data)),
        };
        // A file can have several canonical paths, for example through a bind mount.
        let is_changed = |needed: &Path| {
            path.is_some() && fs::canonicalize(needed).ok() == path
                || changed.as_ref().is_some_and(|changed| fs::metadata(needed).is_ok_and(|it| is_same(&it, changed)))
        };
        if needed.into_iter().any(is_changed) {
            return Err(Failure::new(format!("this is {what}"))
                .of(&self.name)
                .advise("choose another output file with -o"));
        }
        Ok(())
    }

    /// Flushes everything to the disk, and renames the file.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let (temporary, path, existing) = match self.target {
            Target::Direct(_) => return Ok(()),
            #[cfg(feature = "stores")]
            Target::Object { upload, .. } => {
                return upload.finish().map_err(|error| Failure::writing(&self.name, &error));
            }
            Target::Beside { temporary, path, existing } => (temporary, path, existing),
        };
        let file = temporary.as_file();
        let cannot_write = |error: io::Error| Failure::writing(&self.name, &error);
        // The data first, which can take long: until then, only the owner can read the file.
        file.sync_all().map_err(cannot_write)?;
        let permitted = match existing {
            // The permissions of the file that was opened at the start, including changes since then, and not those of
            // another file that has been given its name.
            Some(existing) => take_over(file, &existing),
            None => permit_as_new(file, folder_of(&path)),
        };
        file.sync_all().map_err(cannot_write)?;
        // Fails for example for a bind-mounted file, or another user's file in /tmp.
        interrupt::complete(|| temporary.persist(&path)).map_err(|error| {
            cannot_write(error.error).advise("if the file cannot be replaced, redirect standard output to it: `> FILE`")
        })?;
        if let Err(error) = sync_folder(&path) {
            self.console.warn(&format!("{}: written, but a power loss may still undo it: {error}", self.name));
        }
        if let Err(lost) = permitted {
            self.console.warn(&format!("{}: {lost}", self.name));
        }
        Ok(())
    }

    /// Adds a warning to the failure if output already went to a pipe or device, where it cannot be removed.
    pub(crate) fn abandon(self, failure: Failure) -> Failure {
        match self.target {
            Target::Direct(_) if self.written > 0 => failure.and(&format!(
                "the {} bytes already written to {} are incomplete and must be discarded",
                self.written, self.name
            )),
            _ => failure,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.target {
            Target::Direct(file) => file.write(bytes),
            Target::Beside { temporary, .. } => temporary.as_file_mut().write(bytes),
            #[cfg(feature = "stores")]
            Target::Object { upload, .. } => upload.write(bytes),
        }?;
        self.written += written as u64;
        Ok(written)
    }

    /// Does nothing: the output is not buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target {
    fn for_path(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) => {
                // For example /dev/stdout: an open file must not be replaced by another.
                let stdout = standard::stdout()?;
                if stdout.metadata().is_ok_and(|stdout| is_same(&stdout, &metadata)) {
                    return Ok(Self::Direct(stdout));
                }
                // Checks the permission to write, which renaming a file to this name would not check.
                let existing = OpenOptions::new().write(true).open(path)?;
                if !metadata.is_file() {
                    return Ok(Self::Direct(existing));
                }
                if is_descriptor(path) {
                    // Other processes that have it open would continue with the file that was replaced.
                    let what = "it is an open file, which would be replaced; redirect standard output to it instead";
                    return Err(io::Error::other(what));
                }
                // A symbolic link remains one.
                Self::beside(fs::canonicalize(path)?, Some(existing))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(io::Error::new(error.kind(), "it is a symbolic link whose target does not exist"));
                }
                if path.to_string_lossy().ends_with(is_separator) {
                    return Err(io::Error::new(error.kind(), "the directory does not exist"));
                }
                Self::beside(path.to_owned(), None)
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a temporary file in the same directory.
    fn beside(path: PathBuf, existing: Option<File>) -> io::Result<Self> {
        let folder = folder_of(&path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".kms-envelope-").suffix(".tmp");
        watch()?;
        // The name of the temporary file in the error means nothing to the user.
        let temporary = interrupt::create(|| builder.tempfile_in(folder), NamedTempFile::path).map_err(|error| {
            let text = error.to_string();
            let why = text.split(" at path ").next().unwrap_or(&text);
            io::Error::new(error.kind(), format!("cannot create a file in the directory {}: {why}", folder.display()))
        })?;
        Ok(Self::Beside { temporary, path, existing })
    }
}

fn watch() -> io::Result<()> {
    interrupt::watch().map_err(|error| io::Error::new(error.kind(), format!("cannot watch for signals: {error}")))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns whether this names an open file by its number, such as `/dev/stderr`, `/dev/fd/3` or `/proc/self/fd/3`.
fn is_descriptor(path: &Path) -> bool {
    let is_in_proc = |path: &Path| {
        fs::canonicalize(folder_of(path)).is_ok_and(|folder| folder.starts_with("/proc") && folder.ends_with("fd"))
    };
    is_in_proc(path) || fs::read_link(path).is_ok_and(|target| is_in_proc(&folder_of(path).join(target)))
}

/// Flushes the new name of a file to the disk.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path)).and_then(|folder| folder.sync_all()) {
        // A directory that can be written to but not listed, or a file system that cannot flush directories.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns whether data that is written to it can be read back.
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
