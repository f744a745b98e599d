//! Removes the unfinished output if a signal ends the process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Removes what is being written.
type Undo = Box<dyn FnOnce() + Send>;

static UNFINISHED: Mutex<Option<Undo>> = Mutex::new(None);

fn unfinished() -> MutexGuard<'static, Option<Undo>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a file that is removed if a signal ends the process. Call [`watch`] first.
pub(crate) fn create<F>(create: impl FnOnce() -> io::Result<F>, path: impl FnOnce(&F) -> &Path) -> io::Result<F> {
    let mut unfinished = unfinished();
    let file = create()?;
    let path: PathBuf = path(&file).to_owned();
    *unfinished = Some(Box::new(move || drop(fs::remove_file(path))));
    Ok(file)
}

/// Sets what a signal that ends the process does before. Call [`watch`] first.
#[cfg(feature = "stores")]
pub(crate) fn undo_with(undo: impl FnOnce() + Send + 'static) {
    *unfinished() = Some(Box::new(undo));
}

/// Forgets what a signal would do.
#[cfg(feature = "stores")]
pub(crate) fn forget() {
    *unfinished() = None;
}

/// Waits for the first signal that asks the process to end. The next one ends it.
#[cfg(feature = "stores")]
pub(crate) async fn asked_to_end() {
    wait_for_signal().await;
    tokio::spawn(async {
        wait_for_signal().await;
        std::process::exit(130);
    });
}

#[cfg(all(feature = "stores", unix))]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        // The signal then ends the process, as it does without this.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

#[cfg(all(feature = "stores", not(unix)))]
async fn wait_for_signal() {
    let _ = tokio::signal::ctrl_c().await;
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
        let mut unfinished = unfinished();
        if let Some(undo) = unfinished.take() {
            undo();
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
