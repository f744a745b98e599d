//! Unbuffered standard input and output. A closed stream is an error.

use std::{fs::File, io};

use crate::failure::Failure;

/// Returns standard input, unless it is closed.
pub(crate) fn input() -> Result<File, Failure> {
    let name = "standard input";
    let stdin = stdin().map_err(|error| Failure::reading(name, &error))?;
    if is_closed(&stdin) {
        return Err(Failure::new(CLOSED)
            .of(name)
            .advise("for an empty input, use `< /dev/null`, which opens it for reading only"));
    }
    Ok(stdin)
}

/// Returns standard output, unless it is closed.
pub(crate) fn output() -> Result<File, Failure> {
    let name = "standard output";
    let stdout = stdout().map_err(|error| Failure::writing(name, &error))?;
    if is_closed(&stdout) {
        return Err(Failure::new(CLOSED)
            .of(name)
            .advise("to discard the output, use `> /dev/null`, which opens it for writing only"));
    }
    Ok(stdout)
}

const CLOSED: &str = "it is closed, or the null device opened for both reading and writing";

/// Returns whether the descriptor was closed when the process started. Rust's runtime replaces a closed descriptor with
/// the null device, opened for both reading and writing, which is the only way to tell.
///
/// Shells, systemd, Go and Rust open the null device in one direction only, so `< /dev/null` and `> /dev/null` work.
/// Python's `subprocess.DEVNULL`, Node's `ignore` for output and daemon(3) open it in both directions, and are refused
/// too: this is better than losing the output, or sealing an empty input, with exit status 0.
#[cfg(unix)]
fn is_closed(file: &File) -> bool {
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt},
    };

    use rustix::fs::{OFlags, fcntl_getfl};

    let is_null = match (file.metadata(), fs::metadata("/dev/null")) {
        (Ok(file), Ok(null)) => file.file_type().is_char_device() && file.rdev() == null.rdev(),
        _ => false,
    };
    is_null && fcntl_getfl(file).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
}

#[cfg(not(unix))]
fn is_closed(_: &File) -> bool {
    false
}

fn stdin() -> io::Result<File> {
    #[cfg(unix)]
    let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdin = std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned()?;
    Ok(stdin.into())
}

/// Returns standard output, even if it is closed.
pub(crate) fn stdout() -> io::Result<File> {
    #[cfg(unix)]
    let stdout = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdout = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned()?;
    Ok(stdout.into())
}
