//! A digest that another thread computes.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Threads, buffer::extend_within};

/// The number of bytes that are hashed at once.
const CHUNK_LEN: usize = 64 << 10;

/// The capacity of a chunk as long as it is not longer, for short messages.
const SHORT_LEN: usize = 4 << 10;

/// The maximum number of chunks that wait to be hashed.
const CHUNKS_MAX: usize = 16;

/// The number of waiting chunks that are worth a task.
const CHUNKS_FOR_TASK: usize = 2;

/// The maximum number of chunks that a task hashes, so that other work of the pool does not wait for the end of a long
/// message.
const CHUNKS_OF_TASK: usize = 2 * CHUNKS_MAX;

/// The number of waiting chunks at which a caller that waits for space continues. It sleeps and wakes only once for
/// many chunks, and the task always has some.
const CHUNKS_TO_RESUME: usize = CHUNKS_MAX / 2;

/// A digest that is updated by a task in a thread pool, while the caller only copies the bytes.
///
/// The task may start late or never, if all threads of the pool are busy. Until it has started, the caller hashes
/// whenever the queue is full. A task that has started only hashes, so the caller can safely wait for it.
pub(super) struct HashQueue<D> {
    /// The bytes that are not queued yet, because they are fewer than a chunk.
    chunk: Vec<u8>,
    shared: Arc<Shared<D>>,
    threads: Threads,
}

pub(super) trait Update: Send + 'static {
    fn update(&mut self, bytes: &[u8]);
}

struct Shared<D> {
    state: Mutex<State<D>>,
    /// Wakes the caller or the task. They never wait at the same time.
    changed: Condvar,
}

struct State<D> {
    /// The chunks to hash.
    chunks: VecDeque<Vec<u8>>,
    /// Empty chunks, for reuse.
    spare: Vec<Vec<u8>>,
    /// `None` while one of the threads hashes, and if hashing has panicked.
    digest: Option<D>,
    has_panicked: bool,
    task: Task,
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    None,
    Spawned,
    Started,
}

impl<D: Update> HashQueue<D> {
    pub(super) fn new(digest: D, threads: Threads) -> Self {
        let state = Mutex::new(State {
            chunks: VecDeque::new(),
            spare: Vec::new(),
            digest: Some(digest),
            has_panicked: false,
            task: Task::None,
        });
        Self { chunk: Vec::new(), shared: Arc::new(Shared { state, changed: Condvar::new() }), threads }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(CHUNK_LEN - self.chunk.len()));
            let is_short = self.chunk.len() + piece.len() <= SHORT_LEN;
            extend_within(&mut self.chunk, piece, if is_short { SHORT_LEN } else { CHUNK_LEN });
            bytes = rest;
            if self.chunk.len() == CHUNK_LEN {
                self.push_chunk();
            }
        }
    }

    fn push_chunk(&mut self) {
        let chunk = mem::take(&mut self.chunk);
        let mut state = self.shared.lock();
        if state.chunks.len() == CHUNKS_MAX {
            state = self.wait_until(state, |state| state.chunks.len() <= CHUNKS_TO_RESUME);
        }
        state.chunks.push_back(chunk);
        let spare = state.spare.pop();
        drop(self.with_task(state));
        self.chunk = spare.unwrap_or_default();
    }

    /// Spawns a task if there is none, and enough chunks wait.
    fn with_task<'a>(&'a self, mut state: MutexGuard<'a, State<D>>) -> MutexGuard<'a, State<D>> {
        if state.chunks.len() < CHUNKS_FOR_TASK || state.task != Task::None {
            return state;
        }
        state.task = Task::Spawned;
        drop(state);
        let shared = self.shared.clone();
        self.threads.spawn(move || shared.run_task());
        self.shared.lock()
    }

    /// Returns once the condition holds, which must be the case if no chunks wait and no thread hashes. Hashes chunks
    /// unless a task has started.
    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<D>>,
        condition: impl Fn(&State<D>) -> bool,
    ) -> MutexGuard<'a, State<D>> {
        while !condition(&state) {
            assert!(!state.has_panicked, "hashing the message has panicked");
            state = self.with_task(state);
            if state.task == Task::Started {
                state = self.shared.wait(state);
            } else {
                state = self.shared.hash_chunk(state);
                self.shared.changed.notify_one();
            }
        }
        state
    }

    /// Hashes the bytes that still wait, and returns the digest.
    pub(super) fn finish(mut self) -> D {
        let mut state = self.shared.lock();
        state.chunks.push_back(mem::take(&mut self.chunk));
        let is_done = |state: &State<D>| state.chunks.is_empty() && state.digest.is_some();
        state = self.wait_until(state, is_done);
        state.digest.take().expect("the digest is there")
    }
}

impl<D> Drop for HashQueue<D> {
    /// Ends the task, and frees the memory even if it starts much later.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.chunks = VecDeque::new();
        state.spare = Vec::new();
    }
}

impl<D> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<D>>) -> MutexGuard<'a, State<D>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Update> Shared<D> {
    /// Hashes until no chunks wait, or as many as one task may hash.
    fn run_task(&self) {
        let mut state = self.lock();
        state.task = Task::Started;
        let mut hashed = 0;
        while !state.chunks.is_empty() && !state.has_panicked && hashed < CHUNKS_OF_TASK {
            if state.digest.is_none() {
                // The caller is hashing a chunk.
                state = self.wait(state);
                continue;
            }
            state = self.hash_chunk(state);
            hashed += 1;
            if state.chunks.len() == CHUNKS_TO_RESUME {
                self.changed.notify_one();
            }
        }
        state.task = Task::None;
        self.changed.notify_one();
    }

    /// Hashes the first chunk. No other thread may be hashing.
    fn hash_chunk<'a>(&'a self, mut state: MutexGuard<'a, State<D>>) -> MutexGuard<'a, State<D>> {
        let Some(mut digest) = state.digest.take() else { return state };
        let mut chunk = state.chunks.pop_front().unwrap_or_default();
        drop(state);
        let digest = catch_unwind(AssertUnwindSafe(|| {
            digest.update(&chunk);
            digest
        }));
        chunk.clear();
        state = self.lock();
        state.spare.push(chunk);
        state.digest = digest.ok();
        state.has_panicked = state.digest.is_none();
        state
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::resume_unwind,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use rayon::{ThreadPool, ThreadPoolBuilder};

    use super::*;

    /// A digest that keeps the bytes, and calls a function before each update.
    struct Recorder<F>(Vec<u8>, F);

    impl<F: FnMut() + Send + 'static> Update for Recorder<F> {
        fn update(&mut self, bytes: &[u8]) {
            self.1();
            self.0.extend_from_slice(bytes);
        }
    }

    fn pool(threads: usize) -> Arc<ThreadPool> {
        Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
    }

    /// Keeps the thread of a pool of one thread busy until the sender is dropped.
    fn busy(pool: &ThreadPool) -> Sender<()> {
        let (release, released) = channel::<()>();
        let (started, has_started) = channel();
        pool.spawn(move || {
            started.send(()).unwrap();
            released.recv().unwrap_err();
        });
        has_started.recv().unwrap();
        release
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index / 251) as u8 ^ index as u8).collect()
    }

    #[test]
    fn all_bytes_are_hashed_in_order_in_pieces_of_any_length() {
        for threads in [Threads::One, Threads::Global, Threads::Pool(pool(1)), Threads::Pool(pool(2))] {
            for len in [0, 1, CHUNK_LEN, 40 * CHUNK_LEN + 1] {
                for piece_len in [1000, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 17 * CHUNK_LEN, usize::MAX] {
                    let mut queue = HashQueue::new(Recorder(Vec::new(), || {}), threads.clone());
                    bytes(len).chunks(piece_len).for_each(|piece| queue.update(piece));
                    assert!(queue.finish().0 == bytes(len), "{threads:?} {len} {piece_len}");
                }
            }
        }
    }

    #[test]
    fn the_caller_hashes_while_all_threads_are_busy_and_a_task_that_starts_too_late_has_nothing_to_do() {
        let pool = pool(1);
        let release = busy(&pool);
        let caller = std::thread::current().id();
        let is_caller = move || assert_eq!(std::thread::current().id(), caller);
        let mut queue = HashQueue::new(Recorder(Vec::new(), is_caller), Threads::Pool(pool.clone()));
        let shared = Arc::downgrade(&queue.shared);
        queue.update(&bytes(5 * CHUNKS_MAX * CHUNK_LEN));
        assert!(queue.finish().0 == bytes(5 * CHUNKS_MAX * CHUNK_LEN));
        // The task is still in the pool's queue, but keeps no memory.
        let shared_by_task = shared.upgrade().unwrap();
        let state = shared_by_task.lock();
        assert_eq!((state.chunks.capacity(), state.spare.capacity()), (0, 0));
        drop(state);
        drop((shared_by_task, release));
        pool.install(|| {});
        assert!(shared.upgrade().is_none());
    }

    /// Returns a queue whose task has started, and hashes a chunk for each message until the sender is dropped.
    fn started() -> (HashQueue<impl Update>, Sender<()>, Receiver<()>) {
        let ((step, steps), (started, has_started)) = (channel(), channel());
        let on_update = move || {
            started.send(()).ok();
            steps.recv().ok();
        };
        let mut queue = HashQueue::new(Recorder(Vec::new(), on_update), Threads::Pool(pool(2)));
        queue.update(&bytes(CHUNKS_FOR_TASK * CHUNK_LEN));
        has_started.recv().unwrap();
        (queue, step, has_started)
    }

    #[test]
    fn a_full_queue_holds_the_caller_until_the_task_has_hashed_some_of_it() {
        let (mut queue, step, has_started) = started();
        let shared = queue.shared.clone();
        let (updated, has_updated) = channel();
        let caller = std::thread::spawn(move || {
            queue.update(&bytes(2 * CHUNKS_MAX * CHUNK_LEN));
            updated.send(()).unwrap();
            drop(queue.finish());
        });
        for _ in 0..CHUNKS_MAX {
            assert!(has_updated.try_recv().is_err());
            assert!(shared.lock().chunks.len() <= CHUNKS_MAX);
            step.send(()).unwrap();
            has_started.recv().unwrap();
        }
        drop(step);
        caller.join().unwrap();
        assert!(has_updated.try_recv().is_ok());
    }

    #[test]
    fn other_work_of_the_pool_does_not_wait_for_the_end_of_the_message() {
        let pool = pool(1);
        // Hashing is slower than the caller, so there are always chunks that wait.
        let on_update = || std::thread::sleep(std::time::Duration::from_millis(1));
        let mut queue = HashQueue::new(Recorder(Vec::new(), on_update), Threads::Pool(pool.clone()));
        let chunk = bytes(CHUNK_LEN);
        queue.update(&bytes(CHUNKS_MAX * CHUNK_LEN));
        let (done, is_done) = channel();
        pool.spawn(move || done.send(()).unwrap());
        let mut chunks = 0;
        while is_done.try_recv().is_err() {
            queue.update(&chunk);
            chunks += 1;
            assert!(chunks < 4 * CHUNKS_OF_TASK, "the job still waits");
        }
        assert_eq!(queue.finish().0.len(), (CHUNKS_MAX + chunks) * CHUNK_LEN);
    }

    #[test]
    fn a_dropped_queue_does_not_wait_for_its_task_which_then_ends() {
        let (mut queue, step, has_started) = started();
        queue.update(&bytes(CHUNKS_MAX / 2 * CHUNK_LEN));
        drop(queue);
        step.send(()).unwrap();
        // The task drops the digest, and with it the sender, after the chunk that it was hashing.
        assert!(has_started.recv().is_err());
    }

    #[test]
    fn a_panic_of_the_digest_in_either_thread_reaches_the_caller() {
        for is_busy in [false, true] {
            for good in [0, 1, 3 * CHUNKS_MAX] {
                let pool = pool(1);
                let release = is_busy.then(|| busy(&pool));
                let mut updates = 0;
                let on_update = move || {
                    updates += 1;
                    if updates > good {
                        resume_unwind(Box::new("a panic"));
                    }
                };
                let mut queue = HashQueue::new(Recorder(Vec::new(), on_update), Threads::Pool(pool));
                let result = catch_unwind(AssertUnwindSafe(move || {
                    queue.update(&bytes(4 * CHUNKS_MAX * CHUNK_LEN));
                    queue.finish().0
                }));
                assert!(result.is_err(), "{is_busy} {good}");
                drop(release);
            }
        }
    }
}
