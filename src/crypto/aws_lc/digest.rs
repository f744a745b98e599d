//! SHA-2 by AWS-LC.

pub(crate) use aws_lc_rs::digest::Context as Digest;
use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512};

use crate::suite::HashAlgorithm;

pub(crate) fn start(algorithm: HashAlgorithm) -> Digest {
    Digest::new(algorithm_of(algorithm))
}

pub(super) fn algorithm_of(algorithm: HashAlgorithm) -> &'static Algorithm {
    match algorithm {
        HashAlgorithm::Sha256 => &SHA256,
        HashAlgorithm::Sha384 => &SHA384,
        HashAlgorithm::Sha512 => &SHA512,
    }
}
