//! The keys of one message, derived from its data key (specification, `framework/algorithm-suites.md`, "Key
//! Derivation").

use zeroize::Zeroizing;

use super::{AesGcm, Backend, SecretKey, key_derivation::hkdf};
use crate::{
    message::MessageId,
    suite::{AlgorithmSuite, KeyDerivation},
};

/// The encryption key and the commitment of one message.
#[derive(Debug)]
pub(crate) struct MessageKeys {
    /// Encrypts the body and authenticates the header.
    pub(crate) encryption: AesGcm,
    /// Stored in the header and compared on opening. Present if the suite has key commitment.
    pub(crate) commitment: Option<[u8; 32]>,
}

/// A variant of the key derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The key derivation of the specification.
    Specification,
    /// The key derivation of version 4.0.0 of AWS's SDK for .NET, which omitted the message id for suites without key commitment.
    Net400,
}

impl MessageKeys {
    /// Derives the keys. `data_key` must have the suite's length.
    pub(crate) fn derive(
        backend: Backend,
        suite: AlgorithmSuite,
        data_key: &SecretKey,
        id: &MessageId,
        dialect: Dialect,
    ) -> Self {
        let hash = match suite.key_derivation() {
            KeyDerivation::Identity => {
                return Self { encryption: AesGcm::new(backend, data_key), commitment: None };
            }
            KeyDerivation::Hkdf(hash) => hash,
        };
        let mut encryption = Zeroizing::new(vec![0; suite.data_key_len()]);
        let suite_id = suite.id().to_be_bytes();
        let commitment = if suite.is_committing() {
            let mut commitment = [0; 32];
            let outputs: &mut [(&[&[u8]], &mut [u8])] =
                &mut [(&[&suite_id, b"DERIVEKEY"], &mut encryption), (&[b"COMMITKEY"], &mut commitment)];
            hkdf(hash, id.as_bytes(), data_key.expose(), outputs);
            Some(commitment)
        } else {
            let id = if dialect == Dialect::Net400 { &[] } else { id.as_bytes() };
            hkdf(hash, &[], data_key.expose(), &mut [(&[&suite_id, id], &mut encryption)]);
            None
        };
        let encryption = SecretKey::try_from(encryption).expect("the suite's key length is an AES key length");
        Self { encryption: AesGcm::new(backend, &encryption), commitment }
    }
}
