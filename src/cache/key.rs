//! The keys of entries and requests. Each is hashed once, outside the lock.

use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use bytes::BufMut;

use crate::message::EncryptedDataKey;

/// Serializes everything that an entry or a request depends on. Keys are compared in full, not only by hash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    hash: u64,
    bytes: Box<[u8]>,
    /// The offset of the encrypted data keys in `bytes`.
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

/// A borrowed key. The prefix is self-delimiting, so two keys are equal only if both parts are equal.
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

/// The keys for looking up one message: those of the entries that it can use, and that of its request.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The prefix, followed by all encrypted data keys.
    bytes: Vec<u8>,
    prefix_len: usize,
    hash: u64,
    /// The hash of each entry key, and the range of its encrypted data keys in `bytes`. Empty if there is only one
    /// entry key: it is then the same as the request key.
    entry_keys: Vec<(u64, Range<usize>)>,
}

impl Lookup {
    /// Creates one entry key for each group of encrypted data keys, and a request key for all groups. `bytes` contains
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
        let mut entry_keys = Vec::with_capacity(if is_single { 0 } else { groups.len() });
        for group in groups {
            let start = bytes.len();
            group.iter().flat_map(EncryptedDataKey::fields).for_each(|field| put_part(&mut bytes, field));
            if !is_single {
                let mut hasher = hasher.clone();
                hasher.write(&bytes[start..]);
                entry_keys.push((hasher.finish(), start..bytes.len()));
            }
        }
        if is_single {
            hasher.write(&bytes[prefix_len..]);
        }
        entry_keys.iter().for_each(|(hash, _)| hasher.write_u64(*hash));
        Self { bytes, prefix_len, hash: hasher.finish(), entry_keys }
    }

    /// Returns the entry keys and their indexes, starting at index `from`.
    pub(super) fn entry_keys(&self, from: usize) -> impl Iterator<Item = (usize, KeyRef<'_>)> {
        (from..self.entry_keys.len().max(1)).map(|index| (index, self.entry_key(index)))
    }

    pub(super) fn entry_key(&self, index: usize) -> KeyRef<'_> {
        self.entry_keys.get(index).map_or(self.request_key(), |(hash, range)| self.key(*hash, range.clone()))
    }

    /// Returns the key of the message's request.
    pub(super) fn request_key(&self) -> KeyRef<'_> {
        self.key(self.hash, self.prefix_len..self.bytes.len())
    }

    fn key(&self, hash: u64, encrypted_data_keys: Range<usize>) -> KeyRef<'_> {
        let encrypted_data_keys = &self.bytes[encrypted_data_keys];
        KeyRef { hash, prefix: &self.bytes[..self.prefix_len], encrypted_data_keys }
    }
}

/// Appends the length of a part and the part.
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
                assert_eq!(lookup.entry_keys(0).count(), list.len());
                assert_eq!(lookup.entry_keys(1).count(), list.len() - 1);
                hashes.insert(lookup.request_key().hash);
                hashes.extend(lookup.entry_keys(0).map(|(_, key)| key.hash));
            }
        }
        // For each prefix: the entry keys of three letters, two of which are also request keys, and the request keys of
        // three longer lists.
        assert_eq!(hashes.len(), 2 * (3 + 3));
    }
}
