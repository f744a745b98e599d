//! Keys are no longer in memory after use. The tests search the complete memory of the process for them.

#![cfg(target_os = "linux")]

#[cfg(all(feature = "aws-kms", feature = "branch-key", feature = "mock"))]
mod branch_keys;
mod keys;

use std::{
    env,
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hmac::{
    Hmac, KeyInit, Mac,
    digest::{Digest, block_api::BlockSizeUser, common::hazmat::SerializableState},
};
use kms_envelope::{
    AlgorithmSuite, Backend, CommitmentPolicy, DataKeyCache, EncryptionContext, Envelope,
    message::{HashAlgorithm, KeyDerivation},
    provider::SecretKey,
};
use rand_core::Rng;
use sha2::{Sha256, Sha384, Sha512};
use test_support::{FixedDataKey, header, rng};

const MASK: u8 = 0xa5;

/// Lets one test run at a time, because a search would find the keys of a concurrent test.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a future in a deep stack frame, so that the search does not overwrite what the future leaves on the stack.
fn block_on<F: Future>(future: F) -> F::Output {
    deep(|| pollster::block_on(future))
}

#[inline(never)]
fn deep<T>(work: impl FnOnce() -> T) -> T {
    let above = [0_u8; 65_536];
    black_box(&above);
    let result = work();
    black_box(&above);
    result
}

/// A secret that is stored in memory only in masked form.
#[derive(Clone)]
struct Masked(Vec<u8>);

impl Masked {
    /// Creates a key of 32 bytes that differs from everything else in memory.
    fn new(seed: u64) -> Self {
        Self::with_len(seed, 32)
    }

    fn with_len(seed: u64, len: usize) -> Self {
        let mut key = vec![0; len];
        rng(seed).fill_bytes(&mut key);
        Self(key)
    }

    /// Unmasks the secret, byte by byte.
    fn write_to(&self, out: &mut [u8]) {
        out.iter_mut().zip(&self.0).for_each(|(out, byte)| *out = black_box(byte ^ MASK));
    }

    /// Unmasks the secret on the heap.
    fn unmasked(&self) -> SecretKey {
        let mut key = vec![0; self.0.len()];
        self.write_to(&mut key);
        SecretKey::try_from(key).unwrap()
    }

    /// Counts the pieces of 16 bytes of the secret in `memory`, because a copy may be split at the end of what is read.
    fn count_in(&self, memory: &[u8]) -> usize {
        let mut found = 0;
        for piece in self.0.chunks_exact(16) {
            let first = piece[0] ^ MASK;
            let mut rest = memory;
            while let Some(at) = rest.iter().position(|byte| *byte == first) {
                rest = &rest[at..];
                if rest.len() >= 16 && piece.iter().zip(rest).all(|(masked, byte)| masked ^ MASK == *byte) {
                    found += 1;
                }
                rest = &rest[1..];
            }
        }
        found
    }

    /// Like [`count`](Self::count), for a secret that is a number, which libraries store in either byte order.
    fn count_number(&self) -> usize {
        self.count() + Self(self.0.iter().rev().copied().collect()).count()
    }

    /// Counts the pieces of the secret in all memory that this process can write to.
    fn count(&self) -> usize {
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

/// The secrets of one message, besides its data key.
struct Derived {
    /// The key that encrypts the message.
    encryption: Masked,
    /// The pseudorandom key of HKDF, and the inner and outer states of HMAC with it. The encryption key can be derived
    /// from each of them.
    intermediate: [Masked; 3],
}

/// Returns the secrets that an ignored test computes and [prints](print). It runs in another process, because this one must
/// not contain them.
fn computed_by<const N: usize>(test: &str, arguments: &str) -> [Masked; N] {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("SECRETS_OF", arguments)
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let secrets = output.lines().filter_map(|line| line.strip_prefix("masked ")).map(|line| Masked(unhex(line)));
    secrets.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("not {N} secrets in {output}"))
}

/// Prints a secret for [`computed_by`].
fn print(secret: &[u8]) {
    println!("\nmasked {}", hex(&secret.iter().map(|byte| byte ^ MASK).collect::<Vec<_>>()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn derived(seed: u64, suite: AlgorithmSuite, message: &[u8]) -> Derived {
    let arguments = format!("{seed} {suite} {}", header(message).message_id());
    let [encryption, intermediate @ ..]: [_; 4] = computed_by("prints_the_masked_secrets_of_a_message", &arguments);
    Derived { encryption, intermediate }
}

#[test]
#[ignore = "`computed_by` runs it in a process of its own"]
fn prints_the_masked_secrets_of_a_message() {
    let arguments = env::var("SECRETS_OF").unwrap();
    let [seed, suite, id] = arguments.split(' ').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let suite = AlgorithmSuite::from_id(u16::from_str_radix(suite, 16).unwrap()).unwrap();
    let id = unhex(id);
    let data_key = Masked::new(seed.parse().unwrap()).unmasked();
    let suite_id = suite.id().to_be_bytes();
    let (salt, info) = if suite.is_committing() {
        (&id[..], [&suite_id[..], b"DERIVEKEY"].concat())
    } else {
        (&[][..], [&suite_id[..], &id].concat())
    };
    let secrets = match suite.key_derivation() {
        KeyDerivation::Hkdf(HashAlgorithm::Sha256) => {
            secrets_of::<Sha256, Hmac<Sha256>>(salt, data_key.expose(), &info)
        }
        KeyDerivation::Hkdf(HashAlgorithm::Sha384) => {
            secrets_of::<Sha384, Hmac<Sha384>>(salt, data_key.expose(), &info)
        }
        KeyDerivation::Hkdf(HashAlgorithm::Sha512) => {
            secrets_of::<Sha512, Hmac<Sha512>>(salt, data_key.expose(), &info)
        }
        other => panic!("{other:?}"),
    };
    secrets.iter().for_each(|secret| print(secret));
}

/// Returns the encryption key, the pseudorandom key, and the states of HMAC, as the words of the states are in memory.
fn secrets_of<D: Digest + BlockSizeUser + SerializableState, M: Mac + KeyInit>(
    salt: &[u8],
    data_key: &[u8],
    info: &[u8],
) -> [Vec<u8>; 4] {
    let hmac = |key: &[u8], message: &[u8]| {
        <M as KeyInit>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec()
    };
    let pseudorandom_key = hmac(salt, data_key);
    let encryption = hmac(&pseudorandom_key, &[info, &[1]].concat())[..32].to_vec();
    let [inner, outer] = [0x36, 0x5c].map(|pad| {
        let mut block = vec![pad; D::block_size()];
        block.iter_mut().zip(&pseudorandom_key).for_each(|(pad, byte)| *pad ^= byte);
        let state_len = D::block_size() / 2;
        D::new_with_prefix(block).serialize()[..state_len].to_vec()
    });
    [encryption, pseudorandom_key, inner, outer]
}

/// A provider that always returns the same data key.
fn same(key: &Masked) -> FixedDataKey {
    let key = key.clone();
    FixedDataKey::new(move || key.unmasked())
}

#[test]
fn data_keys_and_dropped_keys_are_not_in_memory_after_use() {
    let _alone = alone();
    let key = Masked::new(1);
    let held = key.unmasked();
    assert_eq!(key.count(), 2, "the search finds a key that is there");
    drop(held);
    assert_eq!(key.count(), 0, "SecretKey wipes what it held");

    let context = EncryptionContext::from([("tenant", "acme")]);
    for backend in Backend::ALL.iter().copied() {
        // The suites differ in whether and with which hash they derive other keys from the data key.
        for (policy, suite) in [
            (CommitmentPolicy::ForbidEncryptAllowDecrypt, AlgorithmSuite::Aes256Gcm),
            (CommitmentPolicy::ForbidEncryptAllowDecrypt, AlgorithmSuite::Aes256GcmHkdfSha256),
            (CommitmentPolicy::ForbidEncryptAllowDecrypt, AlgorithmSuite::Aes256GcmHkdfSha384EcdsaP384),
            (CommitmentPolicy::RequireEncryptRequireDecrypt, AlgorithmSuite::Aes256GcmHkdfSha512Commit),
        ] {
            let what = format!("{backend:?} {suite}");
            let key = Masked::new(10);
            let envelope = || {
                let builder = Envelope::builder(same(&key)).backend(backend).commitment_policy(policy).suite(suite);
                builder.rng(rng(0)).build().unwrap()
            };
            for len in [16, 100_000] {
                let plaintext = vec![1; len];
                // With the same random numbers, the second message has the same keys. They are computed before it is
                // sealed, so that nothing overwrites what sealing leaves in memory.
                let sealed = block_on(envelope().seal(&plaintext, &context)).unwrap();
                let derives = suite.key_derivation() != KeyDerivation::Identity;
                let derived = derives.then(|| derived(10, suite, &sealed));
                let assert_none = |when: &str| {
                    assert_eq!(key.count(), 0, "the data key, {when}: {what}");
                    if let Some(Derived { encryption, intermediate: [pseudorandom_key, inner, outer] }) = &derived {
                        assert_eq!(encryption.count(), 0, "the encryption key, {when}: {what}");
                        assert_eq!(pseudorandom_key.count(), 0, "the pseudorandom key, {when}: {what}");
                        assert_eq!((inner.count(), outer.count()), (0, 0), "the states of HMAC, {when}: {what}");
                    }
                };
                assert_none("before sealing");
                let again = block_on(envelope().seal(&plaintext, &context)).unwrap();
                assert_none("after sealing");
                assert_eq!(header(&again).message_id(), header(&sealed).message_id());
                let opened = block_on(envelope().open(&sealed, &context)).unwrap();
                assert_none("after opening");
                assert_eq!(opened.plaintext, plaintext);

                // While a message is being sealed, only its encryption key is in memory.
                let sealer = block_on(envelope().sealer(&context)).unwrap();
                assert_eq!(key.count() > 0, !derives, "while sealing: {what}");
                if let Some(Derived { encryption, intermediate }) = &derived {
                    // One copy. An expanded key of RustCrypto contains one half twice.
                    assert!((2..=3).contains(&encryption.count()), "while sealing: {what}");
                    assert_eq!(intermediate.each_ref().map(Masked::count), [0; 3], "while sealing: {what}");
                }
                deep(|| drop(sealer));
                assert_none("after the sealer");
            }
        }
    }

    // Cached keys are in memory until they are evicted or the cache is cleared, and not after that.
    let (key, other) = (Masked::new(20), EncryptionContext::from([("tenant", "other")]));
    let cache = DataKeyCache::builder(Duration::from_secs(60)).capacity(1).build().unwrap();
    let envelope = Envelope::builder(same(&key)).cache(cache.clone()).build().unwrap();
    let sealed = block_on(envelope.seal(b"data", &context)).unwrap();
    assert_eq!(key.count(), 2, "one entry");
    block_on(envelope.open(&sealed, &context)).unwrap();
    assert_eq!(key.count(), 4, "one for sealing, one for opening");
    block_on(envelope.seal(b"data", &other)).unwrap();
    assert_eq!((key.count(), cache.stats().evictions), (4, 1), "another one in its place");
    cache.clear();
    assert_eq!(key.count(), 0, "after clearing the cache");
}
