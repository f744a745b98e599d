//! HKDF and KBKDF by AWS-LC.

use aws_lc_rs::{
    digest::MAX_OUTPUT_LEN,
    hkdf,
    hmac::{self, HMAC_SHA256, HMAC_SHA384, HMAC_SHA512},
};

use zeroize::Zeroizing;

use crate::{crypto::key_derivation::HkdfOutput, suite::HashAlgorithm};

/// Uses the HKDF of AWS-LC's FIPS module if that is built in, and otherwise HMAC, which is faster: AWS-LC's HKDF repeats
/// the extraction for each output.
pub(crate) fn hkdf(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [HkdfOutput<'_>]) {
    if cfg!(feature = "fips") {
        hkdf_of_module(hash, salt, input, outputs);
    } else {
        hkdf_of_hmac(hash, salt, input, outputs);
    }
}

pub(crate) fn hkdf_of_module(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [HkdfOutput<'_>]) {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hkdf::HKDF_SHA256,
        HashAlgorithm::Sha384 => hkdf::HKDF_SHA384,
        HashAlgorithm::Sha512 => hkdf::HKDF_SHA512,
    };
    // The FIPS module requires a salt. Zeros are the same as none (RFC 5869, section 2.2).
    let zeros = [0; MAX_OUTPUT_LEN];
    let salt = if salt.is_empty() { &zeros[..hmac_of(hash).tag_len()] } else { salt };
    let pseudorandom_key = hkdf::Salt::new(algorithm, salt).extract(input);
    for (info, output) in outputs {
        let expanded = pseudorandom_key.expand(info, Len(output.len())).and_then(|expanded| expanded.fill(output));
        expanded.expect("an output is at most 255 hashes long");
    }
}

/// HKDF as RFC 5869, section 2, defines it.
pub(crate) fn hkdf_of_hmac(hash: HashAlgorithm, salt: &[u8], input: &[u8], outputs: &mut [HkdfOutput<'_>]) {
    let algorithm = hmac_of(hash);
    let mut pseudorandom_key = Zeroizing::new([0; MAX_OUTPUT_LEN]);
    let pseudorandom_key = &mut pseudorandom_key[..algorithm.tag_len()];
    let extracted = hmac::sign_to_buffer(&hmac::Key::new(algorithm, salt), input, pseudorandom_key);
    let key = hmac::Key::new(algorithm, extracted.expect("the buffer has the tag's length"));
    for (info, output) in outputs {
        assert!(output.len() <= 255 * algorithm.tag_len(), "an output is at most 255 hashes long");
        let mut previous: Option<hmac::Tag> = None;
        for (number, block) in (1..=255).zip(output.chunks_mut(algorithm.tag_len())) {
            let mut context = hmac::Context::with_key(&key);
            previous.iter().for_each(|previous| context.update(previous.as_ref()));
            info.iter().for_each(|part| context.update(part));
            context.update(&[number]);
            let tag = context.sign();
            block.copy_from_slice(&tag.as_ref()[..block.len()]);
            previous = Some(tag);
        }
    }
}

pub(crate) fn hmac_of(hash: HashAlgorithm) -> hmac::Algorithm {
    match hash {
        HashAlgorithm::Sha256 => HMAC_SHA256,
        HashAlgorithm::Sha384 => HMAC_SHA384,
        HashAlgorithm::Sha512 => HMAC_SHA512,
    }
}

#[cfg(any(feature = "branch-key", feature = "ecdh"))]
pub(crate) fn kbkdf(hash: HashAlgorithm, key: &[u8], label: &[u8], context: &[u8], out: &mut [u8]) {
    use aws_lc_rs::kdf::{KbkdfCtrHmacAlgorithmId, get_kbkdf_ctr_hmac_algorithm, kbkdf_ctr_hmac};

    let algorithm = get_kbkdf_ctr_hmac_algorithm(match hash {
        HashAlgorithm::Sha256 => KbkdfCtrHmacAlgorithmId::Sha256,
        HashAlgorithm::Sha384 => KbkdfCtrHmacAlgorithmId::Sha384,
        HashAlgorithm::Sha512 => KbkdfCtrHmacAlgorithmId::Sha512,
    });
    // AWS-LC adds the counter. The other fields of the fixed input are the caller's.
    let bits = u32::try_from(out.len() * 8).expect("an output is short");
    let fixed_input = [label, &[0], context, &bits.to_be_bytes()].concat();
    let derived = algorithm
        .ok_or(aws_lc_rs::error::Unspecified)
        .and_then(|algorithm| kbkdf_ctr_hmac(algorithm, key, &fixed_input, out));
    derived.expect("AWS-LC has KBKDF with every hash, and the key is not empty");
}
