//! The keys of entries and flights, hashed once, outside of the lock.

use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use bytes::BufMut;

use crate::message::EncryptedDataKey;

/// Everything that an entry or a flight depends on. Keys are compared in full, not only by hash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    hash: u64,
    bytes: Box<[u8]>,
    /// The position of the encrypted data keys in `bytes`.
    prefix_len: usize,
}

impl Key {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A borrowed key. The prefix is self-delimiting, so two keys are the same exactly if both parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRef<'a> {
    hash: u64,
    prefix: &'a [u8],
    encrypted_data_keys: &'a [u8],
}

impl KeyRef<'_> {
    #[cfg(test)]
    pub(super) fn with_hash(self, hash: u64) -> Self {
        Self { hash, ..self }
    }

    pub(super) fn to_key(self) -> Arc<Key> {
        let bytes = [self.prefix, self.encrypted_data_keys].concat().into();
        Arc::new(Key { hash: self.hash, bytes, prefix_len: self.prefix.len() })
    }
}

/// Allows searching a map of owned keys with a borrowed key.
pub(super) trait AsKey {
    fn as_key(&self) -> KeyRef<'_>;
}

impl AsKey for Key {
    fn as_key(&self) -> KeyRef<'_> {
        let (prefix, encrypted_data_keys) = self.bytes.split_at(self.prefix_len);
        KeyRef { hash: self.hash, prefix, encrypted_data_keys }
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

/// The keys that one message looks for: its candidates for an entry, and the key of its flight.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The prefix, followed by all encrypted data keys.
    bytes: Vec<u8>,
    prefix_len: usize,
    hash: u64,
    /// The hash of each candidate, and the position of its encrypted data keys. Empty if there is one: its key is that
    /// of the flight.
    candidates: Vec<(u64, Range<usize>)>,
}

impl Lookup {
    /// Makes one candidate from each group of encrypted data keys, and the flight's key from all of them. `bytes` holds
    /// the prefix.
    pub(super) fn new<'a>(
        hasher: &RandomState,
        mut bytes: Vec<u8>,
        groups: impl ExactSizeIterator<Item = &'a [EncryptedDataKey]>,
    ) -> Self {
        let prefix_len = bytes.len();
        let mut hasher = hasher.build_hasher();
        hasher.write(&bytes);
        let is_single = groups.len() == 1;
        let mut candidates = Vec::with_capacity(if is_single { 0 } else { groups.len() });
        for group in groups {
            let start = bytes.len();
            group.iter().flat_map(EncryptedDataKey::fields).for_each(|field| put_part(&mut bytes, field));
            if !is_single {
                let mut hasher = hasher.clone();
                hasher.write(&bytes[start..]);
                candidates.push((hasher.finish(), start..bytes.len()));
            }
        }
        if is_single {
            hasher.write(&bytes[prefix_len..]);
        }
        candidates.iter().for_each(|(hash, _)| hasher.write_u64(*hash));
        Self { bytes, prefix_len, hash: hasher.finish(), candidates }
    }

    /// Returns the candidates from this index on, each with its index.
    pub(super) fn candidates(&self, from: usize) -> impl Iterator<Item = (usize, KeyRef<'_>)> {
        (from..self.candidates.len().max(1)).map(|index| (index, self.candidate(index)))
    }

    pub(super) fn candidate(&self, index: usize) -> KeyRef<'_> {
        self.candidates.get(index).map_or(self.flight(), |(hash, range)| self.key(*hash, range.clone()))
    }

    /// Returns the key of the flight.
    pub(super) fn flight(&self) -> KeyRef<'_> {
        self.key(self.hash, self.prefix_len..self.bytes.len())
    }

    fn key(&self, hash: u64, encrypted_data_keys: Range<usize>) -> KeyRef<'_> {
        let encrypted_data_keys = &self.bytes[encrypted_data_keys];
        KeyRef { hash, prefix: &self.bytes[..self.prefix_len], encrypted_data_keys }
    }
}

/// Appends a part after its length.
pub(super) fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.put_u64(part.len() as u64);
    bytes.put_slice(part);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hashes_cover_the_prefix_and_every_encrypted_data_key() {
        let hasher = RandomState::new();
        let mut hashes = HashSet::new();
        for prefix in [b"one", b"two"] {
            for list in ["a", "b", "ab", "ba", "abc"] {
                let list: Vec<_> = list.chars().map(|text| EncryptedDataKey::new("id", "", text.to_string())).collect();
                let lookup = Lookup::new(&hasher, prefix.to_vec(), list.chunks(1));
                assert_eq!(lookup.candidates(0).count(), list.len());
                assert_eq!(lookup.candidates(1).count(), list.len() - 1);
                hashes.insert(lookup.flight().hash);
                hashes.extend(lookup.candidates(0).map(|(_, key)| key.hash));
            }
        }
        // For each prefix: three letters, the first two of which are lists too, and three longer lists.
        assert_eq!(hashes.len(), 2 * (3 + 3));
    }
}
