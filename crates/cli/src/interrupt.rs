//! Removes the unfinished output file if a signal ends the process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The temporary file that is being written.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a file that is removed if a signal ends the process. Call [`watch`] first.
pub(crate) fn create<F>(create: impl FnOnce() -> io::Result<F>, path: impl FnOnce(&F) -> &Path) -> io::Result<F> {
    let mut unfinished = unfinished();
    let file = create()?;
    *unfinished = Some(path(&file).to_owned());
    Ok(file)
}

/// Renames the file with `rename`. From then on, a signal does not remove it.
pub(crate) fn complete<T>(rename: impl FnOnce() -> T) -> T {
    let mut unfinished = unfinished();
    let renamed = rename();
    *unfinished = None;
    renamed
}

/// Starts to remove the unfinished file on signals that end the process.
#[cfg(unix)]
pub(crate) fn watch() -> io::Result<()> {
    use std::{future::poll_fn, os::unix::net::UnixStream, process, task::Poll, thread};

    use rustix::process::Signal;
    use signal_hook::low_level::emulate_default_handler;
    use tokio::{
        runtime::Builder,
        signal::unix::{SignalKind, signal},
    };

    let cpu_limit = SignalKind::from_raw(Signal::XCPU.as_raw());
    let mut kinds =
        vec![SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate(), cpu_limit];
    // Signals that the parent ignores stay ignored: `nohup` ignores SIGHUP, shells SIGINT for background jobs.
    let ignored = ignored_signals();
    kinds.retain(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
    // tokio panics if no file descriptors are left for its signals. It needs at most this many.
    drop([UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?]);
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut signals = kinds.iter().copied().map(signal).collect::<io::Result<Vec<_>>>()?;
    // Prevents SIGXFSZ from ending the process: at the file size limit, writing fails with an error instead.
    drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?);
    drop(entered);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let came = runtime.block_on(poll_fn(|context| {
            let came = signals.iter_mut().position(|signal| signal.poll_recv(context).is_ready());
            came.map_or(Poll::Pending, Poll::Ready)
        }));
        // Held until the process ends, so that no file is created or renamed meanwhile.
        let unfinished = unfinished();
        if let Some(path) = &*unfinished {
            let _ = fs::remove_file(path);
        }
        // A shell stops its loop only if the signal itself ended the process.
        let number = kinds[came].as_raw_value();
        let _ = emulate_default_handler(number);
        process::exit(128 + number);
    })?;
    Ok(())
}

/// Returns a bit mask of the ignored signals, with the lowest bit for signal 1. Zero on systems without /proc.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
pub(crate) fn watch() -> io::Result<()> {
    Ok(())
}
