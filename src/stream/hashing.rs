//! The digest of a message that is being sealed or opened.

use std::fmt;

use super::Threads;
#[cfg(feature = "parallel")]
use super::hash_queue::{HashQueue, Update};
use crate::crypto::Digest;

/// Hashes a message: in the calling thread, or with several threads in one of them.
pub(super) enum Hasher {
    Inline(Digest),
    #[cfg(feature = "parallel")]
    Queue(HashQueue<Digest>),
}

impl Hasher {
    pub(super) fn new(digest: Digest, threads: &Threads) -> Self {
        match threads.count() {
            #[cfg(feature = "parallel")]
            2.. => Self::Queue(HashQueue::new(digest, threads.clone())),
            _ => Self::Inline(digest),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Inline(digest) => digest.update(bytes),
            #[cfg(feature = "parallel")]
            Self::Queue(queue) => queue.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Inline(digest) => digest,
            #[cfg(feature = "parallel")]
            Self::Queue(queue) => queue.finish(),
        }
    }
}

#[cfg(feature = "parallel")]
impl Update for Digest {
    fn update(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}
