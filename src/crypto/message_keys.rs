//! From a data key to the keys of one message. Specification: `framework/algorithm-suites.md`, "Key Derivation".

use zeroize::Zeroizing;

use super::{AesGcm, Backend, SecretKey, key_derivation::hkdf};
use crate::{
    message::MessageId,
    suite::{AlgorithmSuite, HashAlgorithm},
};

/// What a data key becomes for one message.
#[derive(Debug)]
pub(crate) struct MessageKeys {
    /// Encrypts the frames and authenticates the header.
    pub(crate) encryption: AesGcm,
    /// Goes into the header, to be compared on opening.
    pub(crate) commitment: [u8; 32],
}

impl MessageKeys {
    /// For a suite with key commitment, whose data keys have 32 bytes.
    pub(crate) fn derive(backend: Backend, suite: AlgorithmSuite, data_key: &SecretKey, id: &MessageId) -> Self {
        let mut encryption = Zeroizing::new(vec![0; suite.data_key_len()]);
        let mut commitment = [0; 32];
        hkdf(
            HashAlgorithm::Sha512,
            id.as_bytes(),
            data_key.expose(),
            &mut [(&[&suite.id().to_be_bytes(), b"DERIVEKEY"], &mut encryption), (&[b"COMMITKEY"], &mut commitment)],
        );
        let encryption = SecretKey::try_from(encryption).expect("a data key has a length of AES");
        Self { encryption: AesGcm::new(backend, &encryption), commitment }
    }
}
