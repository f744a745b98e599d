//! The keys of entries and requests. Each is hashed once, outside the lock.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use crate::{context::EncryptionContext, message::EncryptedDataKeys, suite::AlgorithmSuite};

/// The data that an entry depends on, in addition to the encrypted data keys.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) partition: u64,
    pub(super) suite: AlgorithmSuite,
    pub(super) contexts: Contexts<'a>,
}

/// The contexts that an entry depends on.
#[derive(Debug)]
pub(super) enum Contexts<'a> {
    Sealing {
        context: &'a EncryptionContext,
        /// The names of the pairs that are not stored.
        required: &'a BTreeSet<String>,
    },
    Opening {
        /// The pairs that the message stores, serialized.
        stored: &'a [u8],
        /// The other pairs.
        not_stored: &'a EncryptionContext,
    },
}

impl Subject<'_> {
    /// Passes all parts to `sink`. The numbers and lengths of parts are in front of them, so different subjects always
    /// have different bytes, and none starts with the bytes of another.
    fn feed(&self, sink: &mut dyn FnMut(&[u8])) {
        let (kind, pairs, other) = match self.contexts {
            Contexts::Sealing { context, required } => (0, context, required.len()),
            Contexts::Opening { stored, not_stored } => (1, not_stored, stored.len()),
        };
        // In one piece, because each call costs more than the bytes.
        let mut start = [0; 8 + 1 + 2 + 16];
        start[..8].copy_from_slice(&self.partition.to_be_bytes());
        start[8] = kind;
        start[9..11].copy_from_slice(&self.suite.id().to_be_bytes());
        start[11..].copy_from_slice(&two_lens(pairs.len(), other));
        sink(&start);
        for (name, value) in pairs {
            sink(&two_lens(name.len(), value.len()));
            sink(name.as_bytes());
            sink(value.as_bytes());
        }
        match self.contexts {
            Contexts::Sealing { required, .. } => {
                for name in required {
                    sink(&two_lens(name.len(), 0));
                    sink(name.as_bytes());
                }
            }
            Contexts::Opening { stored, .. } => sink(stored),
        }
    }
}

fn two_lens(one: usize, other: usize) -> [u8; 16] {
    let mut lens = [0; 16];
    lens[..8].copy_from_slice(&(one as u64).to_be_bytes());
    lens[8..].copy_from_slice(&(other as u64).to_be_bytes());
    lens
}

/// The bytes of everything that an entry or a request depends on. Keys are compared in full, not only by hash.
#[derive(Debug)]
pub(super) struct Key {
    hash: u64,
    bytes: Box<[u8]>,
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

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for Key {}

/// A borrowed key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyRef<'a> {
    hash: u64,
    parts: Parts<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    Stored(&'a [u8]),
    Of(&'a Subject<'a>, EncryptedDataKeys<'a>),
}

impl KeyRef<'_> {
    #[cfg(test)]
    pub(super) fn with_hash(self, hash: u64) -> Self {
        Self { hash, ..self }
    }

    pub(super) fn to_key(self) -> Arc<Key> {
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
pub(super) struct Hashed(u64);

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

pub(super) type BuildHashed = BuildHasherDefault<Hashed>;

/// Allows searching a map of owned keys with a borrowed key.
pub(super) trait AsKey {
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
pub(super) struct Lookup<'a> {
    subject: Subject<'a>,
    encrypted_data_keys: EncryptedDataKeys<'a>,
    hash: u64,
    /// The hash of each entry key, and its encrypted data key. Empty if there is only one entry key: it is then the
    /// same as the request key.
    entry_keys: Vec<(u64, EncryptedDataKeys<'a>)>,
}

impl<'a> Lookup<'a> {
    /// Creates a request key for all encrypted data keys. If `is_each`, creates one entry key for each of them,
    /// otherwise one for all.
    pub(super) fn new(
        hasher: &RandomState,
        subject: Subject<'a>,
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
    pub(super) fn entry_keys(&self, from: usize) -> impl Iterator<Item = (usize, KeyRef<'_>)> {
        (from..self.entry_keys.len().max(1)).map(|index| (index, self.entry_key(index)))
    }

    pub(super) fn entry_key(&self, index: usize) -> KeyRef<'_> {
        let (hash, key) = self.entry_keys.get(index).copied().unwrap_or((self.hash, self.encrypted_data_keys));
        self.key(hash, key)
    }

    /// Returns the encrypted data keys of an entry key.
    pub(super) fn encrypted_data_keys(&self, index: usize) -> EncryptedDataKeys<'a> {
        self.entry_keys.get(index).map_or(self.encrypted_data_keys, |(_, key)| *key)
    }

    /// Returns the key of the message's request.
    pub(super) fn request_key(&self) -> KeyRef<'_> {
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

    #[test]
    fn hashes_cover_the_subject_and_every_encrypted_data_key() {
        let hasher = RandomState::new();
        let mut hashes = HashSet::new();
        let empty = EncryptionContext::new();
        for partition in [1, 2] {
            for list in ["a", "b", "ab", "ba", "abc"] {
                let list: Vec<_> = list.chars().map(|text| EncryptedDataKey::new("id", "", text.to_string())).collect();
                let serialized = EncryptedDataKeys::serialize(&list);
                let contexts = Contexts::Opening { stored: b"", not_stored: &empty };
                let subject = Subject { partition, suite: AlgorithmSuite::default(), contexts };
                let lookup = Lookup::new(&hasher, subject, EncryptedDataKeys::new(&serialized), true);
                assert_eq!(lookup.entry_keys(0).count(), list.len());
                assert_eq!(lookup.entry_keys(1).count(), list.len() - 1);
                hashes.insert(lookup.request_key().hash);
                hashes.extend(lookup.entry_keys(0).map(|(_, key)| key.hash));
                assert_eq!(lookup.request_key().to_key().as_key(), lookup.request_key());
            }
        }
        // For each partition: the entry keys of three letters, two of which are also request keys, and the request keys
        // of three longer lists.
        assert_eq!(hashes.len(), 2 * (3 + 3));
    }

    #[test]
    fn different_subjects_have_different_bytes() {
        let context = |pairs: &[(&str, &str)]| pairs.iter().collect::<EncryptionContext>();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let contexts = [context(&[]), context(&[("a", "")]), context(&[("", "a")]), context(&[("a", ""), ("b", "")])];
        let required = [names(&[]), names(&["a"]), names(&["a", "b"]), names(&["ab"])];
        let stored = contexts.each_ref().map(|context| context.serialize().unwrap());
        let mut all = Vec::new();
        for context in &contexts {
            all.extend(required.iter().map(|required| Contexts::Sealing { context, required }));
            all.extend(stored.iter().map(|stored| Contexts::Opening { stored, not_stored: context }));
        }
        let suite = AlgorithmSuite::default();
        let subjects: Vec<_> = all.into_iter().map(|contexts| Subject { partition: 0, suite, contexts }).collect();
        let hash = 0;
        for (index, one) in subjects.iter().enumerate() {
            let one = KeyRef { hash, parts: Parts::Of(one, EncryptedDataKeys::NONE) }.to_key();
            for (other_index, other) in subjects.iter().enumerate() {
                let other = KeyRef { hash, parts: Parts::Of(other, EncryptedDataKeys::NONE) };
                assert_eq!(one.as_key() == other, index == other_index, "{other:?}");
                assert_eq!(other == one.as_key(), index == other_index, "{other:?}");
                assert!(index == other_index || !other.to_bytes().starts_with(&one.bytes), "{other:?}");
            }
        }
    }
}
