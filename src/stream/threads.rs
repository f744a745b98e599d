//! Work on many frames, on one thread or several.

/// The threads that encrypt and decrypt the frames of a message.
///
/// Pass it to [`EnvelopeBuilder::threads`](crate::EnvelopeBuilder::threads). Messages are the same for any number of
/// threads. With several threads, streams have longer [buffers](crate::EnvelopeBuilder::stream_buffer_len) by default,
/// and a signed message takes up to 1.2 MiB more, for bytes that wait to be hashed.
#[cfg_attr(
    feature = "parallel",
    doc = r#"
```
use kms_envelope::{Envelope, RawAes, stream::Threads};

let envelope = Envelope::builder(RawAes::generate("example", "key")?).threads(Threads::Global).build()?;
# Ok::<(), Box<dyn std::error::Error>>(())
```"#
)]
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Threads {
    /// Only the calling thread. The default.
    #[default]
    One,
    /// The threads of [rayon](https://docs.rs/rayon)'s global pool, or of the pool that the calling thread belongs to.
    #[cfg(feature = "parallel")]
    Global,
    /// The threads of this pool.
    #[cfg(feature = "parallel")]
    Pool(std::sync::Arc<rayon::ThreadPool>),
}

/// The minimum number of bytes in a separate task: with fewer, the task costs more time than it saves.
#[cfg(feature = "parallel")]
pub(super) const TASK: usize = 128 << 10;

impl Threads {
    /// Returns the number of threads.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One => 1,
            #[cfg(feature = "parallel")]
            Self::Global => rayon::current_num_threads(),
            #[cfg(feature = "parallel")]
            Self::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs the task in one of the threads, without waiting for it.
    #[cfg(feature = "parallel")]
    pub(crate) fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        match self {
            Self::One => task(),
            Self::Global => rayon::spawn(task),
            Self::Pool(pool) => pool.spawn(task),
        }
    }

    /// Returns the number of bytes to seal or open at once while one of the threads hashes: a task for each of the
    /// others.
    pub(crate) fn batch_len(&self) -> usize {
        match self {
            Self::One => 0,
            #[cfg(feature = "parallel")]
            _ => TASK * (self.count() - 1).clamp(1, 4),
        }
    }

    /// Calls `work` with the index and each pair of pieces of `input` and `out`, which have these lengths. Returns the
    /// error with the lowest index.
    pub(crate) fn each<E: Send>(
        &self,
        (input, input_len): (&[u8], usize),
        (out, out_len): (&mut [u8], usize),
        work: impl Fn(usize, &[u8], &mut [u8]) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        match self {
            #[cfg(feature = "parallel")]
            Self::Global if input.len() > TASK.max(input_len) => {
                each_parallel((input, input_len), (out, out_len), work)
            }
            #[cfg(feature = "parallel")]
            Self::Pool(pool) if input.len() > TASK.max(input_len) => {
                pool.install(|| each_parallel((input, input_len), (out, out_len), work))
            }
            _ => {
                let pairs = input.chunks_exact(input_len).zip(out.chunks_exact_mut(out_len));
                pairs.enumerate().try_for_each(|(index, (input, out))| work(index, input, out))
            }
        }
    }

    /// Calls `work` with each item. `len` is the number of bytes to process for all items. Returns the error of the
    /// first item in order that failed.
    pub(crate) fn each_item<T: Send, E: Send>(
        &self,
        items: &mut [T],
        len: usize,
        work: impl Fn(&mut T) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        match self {
            #[cfg(feature = "parallel")]
            Self::Global if len > TASK => each_item_parallel(items, len, work),
            #[cfg(feature = "parallel")]
            Self::Pool(pool) if len > TASK => pool.install(|| each_item_parallel(items, len, work)),
            _ => {
                let _ = len;
                items.iter_mut().try_for_each(work)
            }
        }
    }
}

#[cfg(feature = "parallel")]
fn each_item_parallel<T: Send, E: Send>(
    items: &mut [T],
    len: usize,
    work: impl Fn(&mut T) -> Result<(), E> + Send + Sync,
) -> Result<(), E> {
    use rayon::prelude::*;

    let min_len = (items.len().saturating_mul(TASK) / len).max(1);
    items.par_iter_mut().with_min_len(min_len).map(work).find_first(Result::is_err).unwrap_or(Ok(()))
}

#[cfg(feature = "parallel")]
fn each_parallel<E: Send>(
    (input, input_len): (&[u8], usize),
    (out, out_len): (&mut [u8], usize),
    work: impl Fn(usize, &[u8], &mut [u8]) -> Result<(), E> + Send + Sync,
) -> Result<(), E> {
    use rayon::prelude::*;

    let pairs = input.par_chunks_exact(input_len).zip(out.par_chunks_exact_mut(out_len));
    let results = pairs.with_min_len(TASK.div_ceil(input_len)).enumerate();
    let first_error = results.map(|(index, (input, out))| work(index, input, out)).find_first(Result::is_err);
    first_error.unwrap_or(Ok(()))
}
