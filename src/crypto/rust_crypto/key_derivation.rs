//! HKDF and KBKDF by the RustCrypto crates.

use hkdf::Hkdf;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use crate::{crypto::key_derivation::HkdfOutput, suite::HashAlgorithm};

pub(crate) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [HkdfOutput<'_>]) {
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

/// A macro, because the output's length is a type.
#[cfg(any(feature = "branch-key", feature = "ecdh"))]
macro_rules! kbkdf {
    ($hash:ty, $len:ident, $key:expr, $label:expr, $context:expr, $out:expr) => {{
        use hmac::digest::{common::KeySizeUser, consts};
        use kbkdf::{Counter, Kbkdf, Params};

        struct Output;
        impl KeySizeUser for Output {
            type KeySize = consts::$len;
        }
        let params = Params::builder($key).with_label($label).with_context($context).build();
        let derived = Counter::<hmac::Hmac<$hash>, Output>::default().derive(params);
        let mut derived = derived.expect("an output is at most two blocks long");
        $out.copy_from_slice(&derived);
        derived.zeroize();
    }};
}

#[cfg(feature = "branch-key")]
pub(crate) fn kbkdf_sha256(key: &[u8], label: &[u8], context: &[u8], out: &mut [u8; 32]) {
    kbkdf!(Sha256, U32, key, label, context, out);
}

#[cfg(feature = "ecdh")]
pub(crate) fn kbkdf_sha384(key: &[u8], label: &[u8], context: &[u8], out: &mut [u8; 64]) {
    kbkdf!(Sha384, U64, key, label, context, out);
}
