//! From a data key to the keys of one message. Specification: `framework/algorithm-suites.md`, "Key Derivation".

use zeroize::Zeroizing;

use super::{AesGcm, Backend, SecretKey, key_derivation::hkdf};
use crate::{
    message::MessageId,
    suite::{AlgorithmSuite, KeyDerivation},
};

/// What a data key becomes for one message.
#[derive(Debug)]
pub(crate) struct MessageKeys {
    /// Encrypts the body and authenticates the header.
    pub(crate) encryption: AesGcm,
    /// Goes into the header, to be compared on opening, where the suite has it.
    pub(crate) commitment: Option<[u8; 32]>,
}

/// Who derives a message's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// What the specification says, and everybody does.
    Specification,
    /// AWS's SDK for .NET 4.0.0, which left the message id out where there is no commitment.
    Net400,
}

impl MessageKeys {
    /// The data key has the suite's length.
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
        let encryption = SecretKey::try_from(encryption).expect("a data key has a length of AES");
        Self { encryption: AesGcm::new(backend, &encryption), commitment }
    }
}
