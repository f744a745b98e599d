//! Keys in memory.

use std::fmt;

use zeroize::Zeroizing;

use super::Randomness;
use crate::{
    error::{ConfigError, RandomError},
    suite::AlgorithmSuite,
};

/// An AES key in the clear: 16, 24 or 32 bytes, wiped from memory when dropped, and never printed.
///
/// It holds its bytes on the heap, so that moving it leaves no copy behind.
pub struct SecretKey(Zeroizing<Vec<u8>>);

impl SecretKey {
    /// The key's bytes. Copies made of them are the caller's to wipe.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The length in bytes: 16, 24 or 32.
    #[expect(clippy::len_without_is_empty, reason = "a key is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Generates a random data key of the [length](AlgorithmSuite::data_key_len) that a suite takes.
    ///
    /// Key providers call it with the suite and the randomness of a request.
    ///
    /// # Errors
    /// [`RandomError`] if the source of randomness fails.
    pub fn generate(suite: AlgorithmSuite, randomness: Randomness<'_>) -> Result<Self, RandomError> {
        Self::filled(suite.data_key_len(), |out| randomness.fill(out))
    }

    /// A key of `len` bytes that `fill` fills.
    pub(crate) fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Takes the bytes over without copying them. Where the length is wrong, they are wiped.
impl TryFrom<Zeroizing<Vec<u8>>> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ConfigError> {
        match bytes.len() {
            16 | 24 | 32 => Ok(Self(bytes)),
            len => Err(ConfigError::KeyLen(len)),
        }
    }
}

/// Takes the bytes over without copying them. Where the length is wrong, they are wiped.
impl TryFrom<Vec<u8>> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, ConfigError> {
        Zeroizing::new(bytes).try_into()
    }
}

/// Copies the bytes; the original is the caller's to wipe.
impl TryFrom<&[u8]> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: &[u8]) -> Result<Self, ConfigError> {
        bytes.to_vec().try_into()
    }
}

impl From<[u8; 32]> for SecretKey {
    /// Copies the bytes; the original is the caller's to wipe.
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_length_of_aes() {
        for len in 0..=64 {
            let key = SecretKey::try_from(vec![7; len]);
            assert_eq!(key.is_ok(), matches!(len, 16 | 24 | 32), "{len}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", SecretKey::from([0x41; 32])), "SecretKey(32 bytes)");
    }
}
