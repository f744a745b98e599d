//! The keys of one message, derived from its data key (specification, `framework/algorithm-suites.md`, "Key
//! Derivation").

use zeroize::Zeroizing;

use super::{
    AesGcm, Backend, SecretKey,
    key_derivation::{HkdfOutput, hkdf},
    with_wiped_stack,
};
use crate::{
    message::MessageId,
    suite::{AlgorithmSuite, COMMITMENT_LEN, KeyDerivation, MAX_KEY_LEN},
};

/// The encryption key and the commitment of one message.
#[derive(Debug)]
pub(crate) struct MessageKeys {
    /// Encrypts the body and authenticates the header.
    pub(crate) encryption: AesGcm,
    /// Stored in the header and compared on opening. Present if the suite has key commitment.
    pub(crate) commitment: Option<[u8; COMMITMENT_LEN]>,
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
                return Self { encryption: AesGcm::new(backend, data_key.expose()), commitment: None };
            }
            KeyDerivation::Hkdf(hash) => hash,
        };
        with_wiped_stack::<8_192, _>(|| {
            let (suite_id, data_key) = (suite.id().to_be_bytes(), data_key.expose());
            let mut encryption = Zeroizing::new([0; MAX_KEY_LEN]);
            let encryption = &mut encryption[..suite.data_key_len()];
            let commitment = if suite.is_committing() {
                let mut commitment = [0; COMMITMENT_LEN];
                let outputs: &mut [HkdfOutput<'_>] =
                    &mut [(&[&suite_id, b"DERIVEKEY"], encryption), (&[b"COMMITKEY"], &mut commitment)];
                hkdf(backend, hash, id.as_bytes(), data_key, outputs);
                Some(commitment)
            } else {
                let id = if dialect == Dialect::Net400 { &[] } else { id.as_bytes() };
                hkdf(backend, hash, &[], data_key, &mut [(&[&suite_id, id], encryption)]);
                None
            };
            Self { encryption: AesGcm::new_unwiped(backend, encryption), commitment }
        })
    }
}
