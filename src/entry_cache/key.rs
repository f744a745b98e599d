//! The keys of entries and requests. Each is hashed once, outside the lock.

use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use crate::message::EncryptedDataKeys;

/// The data that an entry depends on, in addition to the encrypted data keys.
pub(crate) trait Subject: fmt::Debug + Send + Sync {
    /// Passes all parts to `sink`. Different subjects in the same cache must have different bytes, none of which may
    /// start with the bytes of another.
    fn feed(&self, sink: &mut dyn FnMut(&[u8]));
}

/// The bytes of everything that an entry or a request depends on. Keys are compared in full, not only by hash.
#[derive(Debug)]
pub(crate) struct Key {
    hash: u64,
    bytes: Box<[u8]>,
}

impl Key {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for Key {}

/// A borrowed key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    hash: u64,
    parts: Parts<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    Stored(&'a [u8]),
    Of(&'a dyn Subject, EncryptedDataKeys<'a>),
}

impl KeyRef<'_> {
    #[cfg(test)]
    pub(crate) fn with_hash(self, hash: u64) -> Self {
        Self { hash, ..self }
    }

    pub(crate) fn to_key(self) -> Arc<Key> {
        Arc::new(Key { hash: self.hash, bytes: self.to_bytes().into() })
    }

    fn feed(&self, sink: &mut dyn FnMut(&[u8])) {
        match self.parts {
            Parts::Stored(bytes) => sink(bytes),
            Parts::Of(subject, encrypted_data_keys) => {
                subject.feed(sink);
                sink(encrypted_data_keys.as_bytes());
            }
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        self.feed(&mut |part| bytes.extend_from_slice(part));
        bytes
    }

    fn has_bytes(&self, bytes: &[u8]) -> bool {
        let mut rest = Some(bytes);
        self.feed(&mut |part| rest = rest.and_then(|rest| rest.strip_prefix(part)));
        rest.is_some_and(<[u8]>::is_empty)
    }
}

impl PartialEq for KeyRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && match (self.parts, other.parts) {
                (_, Parts::Stored(bytes)) => self.has_bytes(bytes),
                (Parts::Stored(bytes), _) => other.has_bytes(bytes),
                // A map only compares a key with those that it stores.
                _ => self.to_bytes() == other.to_bytes(),
            }
    }
}

/// The hasher of maps with these keys, which contain their hash.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys write only their hash")
    }
}

pub(crate) type BuildHashed = BuildHasherDefault<Hashed>;

/// Allows searching a map of owned keys with a borrowed key.
pub(crate) trait AsKey {
    fn as_key(&self) -> KeyRef<'_>;
}

impl AsKey for Key {
    fn as_key(&self) -> KeyRef<'_> {
        KeyRef { hash: self.hash, parts: Parts::Stored(&self.bytes) }
    }
}

impl AsKey for KeyRef<'_> {
    fn as_key(&self) -> KeyRef<'_> {
        *self
    }
}

impl<'a> Borrow<dyn AsKey + 'a> for Arc<Key> {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        &**self
    }
}

impl Hash for dyn AsKey + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.as_key().hash);
    }
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for dyn AsKey + '_ {}

/// The keys for looking up one message: those of the entries that it can use, and that of its request.
#[derive(Debug)]
pub(crate) struct Lookup<'a, S> {
    subject: S,
    encrypted_data_keys: EncryptedDataKeys<'a>,
    hash: u64,
    /// The hash of each entry key, and its encrypted data key. Empty if there is only one entry key: it is then the
    /// same as the request key.
    entry_keys: Vec<(u64, EncryptedDataKeys<'a>)>,
}

impl<'a, S: Subject> Lookup<'a, S> {
    /// Creates a request key for all encrypted data keys. If `is_each`, creates one entry key for each of them,
    /// otherwise one for all.
    pub(crate) fn new(
        hasher: &RandomState,
        subject: S,
        encrypted_data_keys: EncryptedDataKeys<'a>,
        is_each: bool,
    ) -> Self {
        let mut hasher = hasher.build_hasher();
        subject.feed(&mut |part| hasher.write(part));
        let mut entry_keys = Vec::new();
        if is_each && encrypted_data_keys.iter().nth(1).is_some() {
            entry_keys.extend(encrypted_data_keys.iter().map(|key| {
                let mut hasher = hasher.clone();
                hasher.write(key.as_bytes());
                (hasher.finish(), key)
            }));
        }
        if entry_keys.is_empty() {
            hasher.write(encrypted_data_keys.as_bytes());
        }
        entry_keys.iter().for_each(|(hash, _)| hasher.write_u64(*hash));
        Self { subject, encrypted_data_keys, hash: hasher.finish(), entry_keys }
    }

    /// Returns the entry keys and their indexes, starting at index `from`.
    pub(crate) fn entry_keys(&self, from: usize) -> impl Iterator<Item = (usize, KeyRef<'_>)> {
        (from..self.entry_keys.len().max(1)).map(|index| (index, self.entry_key(index)))
    }

    pub(crate) fn entry_key(&self, index: usize) -> KeyRef<'_> {
        let (hash, key) = self.entry_keys.get(index).copied().unwrap_or((self.hash, self.encrypted_data_keys));
        self.key(hash, key)
    }

    /// Returns the encrypted data keys of an entry key.
    pub(crate) fn encrypted_data_keys(&self, index: usize) -> EncryptedDataKeys<'a> {
        self.entry_keys.get(index).map_or(self.encrypted_data_keys, |(_, key)| *key)
    }

    /// Returns the key of the message's request.
    pub(crate) fn request_key(&self) -> KeyRef<'_> {
        self.key(self.hash, self.encrypted_data_keys)
    }

    fn key(&self, hash: u64, encrypted_data_keys: EncryptedDataKeys<'a>) -> KeyRef<'_> {
        KeyRef { hash, parts: Parts::Of(&self.subject, encrypted_data_keys) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::message::EncryptedDataKey;

    impl Subject for &str {
        fn feed(&self, sink: &mut dyn FnMut(&[u8])) {
            sink(self.as_bytes());
        }
    }

    #[test]
    fn hashes_cover_the_subject_and_every_encrypted_data_key() {
        let hasher = RandomState::new();
        let mut hashes = HashSet::new();
        for subject in ["1", "2"] {
            for list in ["a", "b", "ab", "ba", "abc"] {
                let list: Vec<_> = list.chars().map(|text| EncryptedDataKey::new("id", "", text.to_string())).collect();
                let serialized = EncryptedDataKeys::serialize(&list);
                let lookup = Lookup::new(&hasher, subject, EncryptedDataKeys::new(&serialized), true);
                assert_eq!(lookup.entry_keys(0).count(), list.len());
                assert_eq!(lookup.entry_keys(1).count(), list.len() - 1);
                hashes.insert(lookup.request_key().hash);
                hashes.extend(lookup.entry_keys(0).map(|(_, key)| key.hash));
                assert_eq!(lookup.request_key().to_key().as_key(), lookup.request_key());
            }
        }
        // For each subject: the entry keys of three letters, two of which are also request keys, and the request keys
        // of three longer lists.
        assert_eq!(hashes.len(), 2 * (3 + 3));
    }
}
