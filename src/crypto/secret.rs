//! Plaintext keys in memory.

use std::fmt;

use zeroize::Zeroizing;

use super::Randomness;
use crate::{
    error::{ConfigError, RandomError},
    suite::AlgorithmSuite,
};

/// A plaintext AES key of 16, 24 or 32 bytes.
///
/// The bytes are zeroized when the key is dropped, and `Debug` does not print them. They are stored on the heap, so
/// that moving the key does not copy them.
///
/// ```
/// use kms_envelope::provider::SecretKey;
///
/// let key = SecretKey::from([7; 32]);
/// assert_eq!(key.len(), 32);
/// assert_eq!(format!("{key:?}"), "SecretKey(32 bytes)");
/// assert!(SecretKey::try_from(vec![7; 15]).is_err());
/// ```
pub struct SecretKey(Zeroizing<Vec<u8>>);

impl SecretKey {
    /// Returns the key's bytes. The caller must zeroize any copies of them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the length in bytes: 16, 24 or 32.
    #[expect(clippy::len_without_is_empty, reason = "a key is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Generates a random data key of the [length](AlgorithmSuite::data_key_len) that the suite requires.
    ///
    /// Implementations of [`KeyProvider`](crate::KeyProvider) call this with the suite and the randomness of a request.
    ///
    /// # Errors
    /// Returns [`RandomError`] if the source of randomness fails.
    pub fn generate(suite: AlgorithmSuite, randomness: Randomness<'_>) -> Result<Self, RandomError> {
        Self::filled(suite.data_key_len(), |out| randomness.fill(out))
    }

    /// Creates a key of `len` bytes and lets `fill` fill them. `len` must be an AES key length.
    pub(crate) fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Moves the bytes without copying them. Zeroizes them if the length is wrong.
impl TryFrom<Zeroizing<Vec<u8>>> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ConfigError> {
        match bytes.len() {
            16 | 24 | 32 => Ok(Self(bytes)),
            len => Err(ConfigError::KeyLen(len)),
        }
    }
}

/// Moves the bytes without copying them. Zeroizes them if the length is wrong.
impl TryFrom<Vec<u8>> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, ConfigError> {
        Zeroizing::new(bytes).try_into()
    }
}

/// Copies the bytes. The caller must zeroize the original.
impl TryFrom<&[u8]> for SecretKey {
    type Error = ConfigError;

    fn try_from(bytes: &[u8]) -> Result<Self, ConfigError> {
        bytes.to_vec().try_into()
    }
}

impl From<[u8; 32]> for SecretKey {
    /// Copies the bytes. The caller must zeroize the original.
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
    fn a_key_has_an_aes_key_length() {
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
