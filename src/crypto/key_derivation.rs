//! HKDF (RFC 5869) and KBKDF (NIST SP 800-108).
//!
//! Both backends use the RustCrypto crates. AWS-LC's binding of HKDF is slower, because it repeats the extraction for
//! each expansion, and does not let us zeroize the pseudorandom key.

use hkdf::Hkdf;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use crate::suite::HashAlgorithm;

/// Extracts once, then expands for each pair of info and output.
pub(super) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [(&[&[u8]], &mut [u8])]) {
    /// A macro, because the trait bounds of a generic function would be longer than its body.
    macro_rules! with {
        ($hash:ty) => {{
            let (mut pseudorandom_key, hkdf) = Hkdf::<$hash>::extract(Some(salt), input);
            pseudorandom_key.zeroize();
            for (info, output) in outputs {
                hkdf.expand_multi_info(info, output).expect("an output is at most 255 hashes long");
            }
        }};
    }
    match hash {
        HashAlgorithm::Sha256 => with!(Sha256),
        HashAlgorithm::Sha384 => with!(Sha384),
        HashAlgorithm::Sha512 => with!(Sha512),
    }
}

/// KBKDF in counter mode with HMAC (NIST SP 800-108r1, section 4.1), with 32-bit counter and length.
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
pub(crate) mod kbkdf {
    use hmac::{
        Hmac,
        digest::{common::KeySizeUser, consts},
    };
    use kbkdf::{Counter, Kbkdf, Params};
    use zeroize::{Zeroize, Zeroizing};

    /// Derives 32 bytes with SHA-256.
    #[cfg(feature = "branch-key")]
    pub(crate) fn sha256(key: &[u8], label: &[u8], context: &[u8]) -> Zeroizing<Vec<u8>> {
        struct Output;
        impl KeySizeUser for Output {
            type KeySize = consts::U32;
        }
        let kdf = Counter::<Hmac<sha2::Sha256>, Output>::default();
        derived(kdf.derive(Params::builder(key).with_label(label).with_context(context).build()))
    }

    /// Derives 64 bytes with SHA-384.
    #[cfg(feature = "ecdh")]
    pub(crate) fn sha384(key: &[u8], label: &[u8], context: &[u8]) -> Zeroizing<Vec<u8>> {
        struct Output;
        impl KeySizeUser for Output {
            type KeySize = consts::U64;
        }
        let kdf = Counter::<Hmac<sha2::Sha384>, Output>::default();
        derived(kdf.derive(Params::builder(key).with_label(label).with_context(context).build()))
    }

    fn derived<K: AsMut<[u8]> + Zeroize>(key: Result<K, kbkdf::Error>) -> Zeroizing<Vec<u8>> {
        let mut key = key.expect("an output is at most two blocks long");
        let derived = Zeroizing::new(key.as_mut().to_vec());
        key.zeroize();
        derived
    }
}
