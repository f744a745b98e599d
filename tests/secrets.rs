//! Keys are no longer in memory after use. The tests search the complete memory of the process for them.

#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    time::Duration,
};

use kms_envelope::{Backend, CommitmentPolicy, DataKeyCache, EncryptionContext, Envelope, provider::SecretKey};
use pollster::block_on;
use rand_core::Rng;
use test_support::{FixedDataKey, rng};

const MASK: u8 = 0xa5;

/// A key that is stored in memory only in masked form.
#[derive(Clone, Copy)]
struct Masked([u8; 32]);

impl Masked {
    /// Creates a key that differs from everything else in memory.
    fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        rng(seed).fill_bytes(&mut key);
        Self(key)
    }

    /// Unmasks the key on the heap, byte by byte.
    fn unmasked(self) -> SecretKey {
        SecretKey::try_from(self.0.iter().map(|byte| black_box(byte ^ MASK)).collect::<Vec<u8>>()).unwrap()
    }

    /// Counts the halves of the key in `memory`, because a copy may be split at the end of what is read.
    fn count_in(self, memory: &[u8]) -> usize {
        let mut found = 0;
        for half in [&self.0[..16], &self.0[16..]] {
            let first = half[0] ^ MASK;
            let mut rest = memory;
            while let Some(at) = rest.iter().position(|byte| *byte == first) {
                rest = &rest[at..];
                if rest.len() >= 16 && half.iter().zip(rest).all(|(masked, byte)| masked ^ MASK == *byte) {
                    found += 1;
                }
                rest = &rest[1..];
            }
        }
        found
    }

    /// Counts the halves of the key in all memory that this process can write to.
    fn count(self) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut buffer = vec![0; 1 << 20];
        let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
        let mut found = 0;
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
            if !access.starts_with("rw") || line.ends_with("[vvar]") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
            while at < end {
                let len = buffer.len().min((end - at) as usize);
                // The buffer contains the bytes read before, so the search skips it.
                if own.contains(&at) {
                    at = own.end.min(end);
                    continue;
                }
                let len = if at < own.start { len.min((own.start - at) as usize) } else { len };
                let Ok(read) = memory.read_at(&mut buffer[..len], at) else { break };
                found += self.count_in(&buffer[..read]);
                if read <= 16 {
                    break;
                }
                // The pieces overlap, so that no copy between two pieces is missed.
                at += if at + read as u64 == end { read as u64 } else { read as u64 - 15 };
            }
        }
        buffer.fill(0);
        found
    }
}

/// The masked key that suite 0478 derives from `Masked::new(10)` with the first message id of `rng(0)`, precomputed.
#[rustfmt::skip]
const DERIVED: Masked = Masked([
    0x89, 0x72, 0xf5, 0x0c, 0x05, 0x6c, 0xab, 0xe9, 0x44, 0xf2, 0x86, 0xa8, 0x75, 0x74, 0xb2, 0xe1,
    0x01, 0x72, 0x00, 0x49, 0xa8, 0x34, 0x62, 0x60, 0x4f, 0xa2, 0xb4, 0x7d, 0x65, 0xdd, 0x1b, 0xd9,
]);

/// A provider that always returns the same data key.
fn same(key: Masked) -> FixedDataKey {
    FixedDataKey::new(move || key.unmasked())
}

/// This is a single test, because the search would find the keys of a concurrent test.
#[test]
fn data_keys_and_dropped_keys_are_not_in_memory_after_use() {
    let key = Masked::new(1);
    let held = key.unmasked();
    assert_eq!(key.count(), 2, "the search finds a key that is there");
    drop(held);
    assert_eq!(key.count(), 0, "SecretKey wipes what it held");

    let context = EncryptionContext::from([("tenant", "acme")]);
    for backend in Backend::ALL.iter().copied() {
        // In suite 0478, other keys are derived from the data key. In suite 0078, it is the AES key itself.
        for policy in [CommitmentPolicy::RequireEncryptRequireDecrypt, CommitmentPolicy::ForbidEncryptAllowDecrypt] {
            let suites = [policy.default_suite(), kms_envelope::AlgorithmSuite::Aes256Gcm];
            for suite in suites.into_iter().filter(|suite| policy.allows_sealing(*suite)) {
                let key = Masked::new(10);
                let envelope = || {
                    let builder = Envelope::builder(same(key)).backend(backend).commitment_policy(policy).suite(suite);
                    builder.rng(rng(0)).build().unwrap()
                };
                let sealed = block_on(envelope().seal(&[1; 100_000], &context)).unwrap();
                assert_eq!(key.count(), 0, "after sealing: {backend:?} {suite}");
                let opened = block_on(envelope().open(&sealed, &context)).unwrap();
                assert_eq!(key.count(), 0, "after opening: {backend:?} {suite}");
                assert_eq!(opened.plaintext, [1; 100_000]);

                // While a message is being sealed, its key is in memory, if that is the data key itself.
                let sealer = block_on(envelope().sealer(&context)).unwrap();
                let is_key = suite.key_derivation() == kms_envelope::message::KeyDerivation::Identity;
                assert_eq!(key.count() > 0, is_key, "while sealing: {backend:?} {suite}");
                let is_derived = suite == kms_envelope::AlgorithmSuite::default();
                assert_eq!(DERIVED.count() > 0, is_derived, "while sealing: {backend:?} {suite}");
                drop(sealer);
                assert_eq!(key.count(), 0, "after the sealer: {backend:?} {suite}");
                assert_eq!(DERIVED.count(), 0, "after the sealer: {backend:?} {suite}");
            }
        }
    }

    // Cached keys are in memory until they are evicted or the cache is cleared, and not after that.
    let (key, other) = (Masked::new(20), EncryptionContext::from([("tenant", "other")]));
    let cache = DataKeyCache::builder(Duration::from_secs(60)).capacity(1).build().unwrap();
    let envelope = Envelope::builder(same(key)).cache(cache.clone()).build().unwrap();
    let sealed = block_on(envelope.seal(b"data", &context)).unwrap();
    assert_eq!(key.count(), 2, "one entry");
    block_on(envelope.open(&sealed, &context)).unwrap();
    assert_eq!(key.count(), 4, "one for sealing, one for opening");
    block_on(envelope.seal(b"data", &other)).unwrap();
    assert_eq!((key.count(), cache.stats().evictions), (4, 1), "another one in its place");
    cache.clear();
    assert_eq!(key.count(), 0, "after clearing the cache");
}
