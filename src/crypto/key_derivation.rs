//! HKDF (RFC 5869), by the RustCrypto crates for both backends: AWS-LC's binding extracts anew for each expansion,
//! which makes it the slower one, and leaves the pseudorandom key to its own care.

use hkdf::Hkdf;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use crate::suite::HashAlgorithm;

/// One extraction, and an expansion for each pair of info and output.
pub(super) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [(&[&[u8]], &mut [u8])]) {
    /// A macro, since the trait bounds of a function generic over the hash would be longer than its body.
    macro_rules! with {
        ($hash:ty) => {{
            let (mut pseudorandom_key, hkdf) = Hkdf::<$hash>::extract(Some(salt), input);
            pseudorandom_key.zeroize();
            for (info, output) in outputs {
                hkdf.expand_multi_info(info, output).expect("no output is longer than 255 hashes");
            }
        }};
    }
    match hash {
        HashAlgorithm::Sha256 => with!(Sha256),
        HashAlgorithm::Sha384 => with!(Sha384),
        HashAlgorithm::Sha512 => with!(Sha512),
    }
}
