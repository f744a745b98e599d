//! The footer of a signed message (specification, `data-format/message-footer.md`).

use super::Parsed;
use crate::suite::SignatureAlgorithm;

/// The length of a footer without its signature, in bytes.
pub(crate) const FOOTER_OVERHEAD: usize = 2;

/// The length of the shortest possible footer of a signed message, in bytes.
pub const MIN_FOOTER_LEN: usize = FOOTER_OVERHEAD + 8;

/// The length of the longest possible footer of a signed message, in bytes.
pub const MAX_FOOTER_LEN: usize = FOOTER_OVERHEAD + 104;

const DER_SEQUENCE: u8 = 0x30;
const DER_INTEGER: u8 = 0x02;

/// Returns the possible lengths of the footer at the end of a signed message, in bytes, shortest first.
///
/// `tail` is the end of the message. Its last [`MAX_FOOTER_LEN`] bytes are enough. For each returned length, that many
/// bytes at the end have the exact form of a footer: the signature's length, then an ECDSA signature in DER. This crate
/// and AWS's SDKs for Java and Python only write signatures of a [fixed length](SignatureAlgorithm::signature_len).
/// AWS's SDK for JavaScript writes signatures of different lengths.
///
/// **The result is not authenticated**, and the end of one message can have the form of several footers. To choose
/// between them, check with [`can_begin_with`](super::FrameLocation::can_begin_with) which length leads to the start of
/// the final frame. Only opening the message proves the length.
///
/// ```
/// use kms_envelope::{AlgorithmSuite, Limits, message::{FINAL_FRAME_OVERHEAD, Header, footer_lens}};
///
/// # let key = kms_envelope::RawAes::generate("doc", "example")?;
/// # let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
/// # let envelope = kms_envelope::Envelope::builder(key).suite(suite).build()?;
/// # let sealed = pollster::block_on(envelope.seal(b"hello", &kms_envelope::EncryptionContext::new()))?;
/// let header = Header::parse(&sealed, &Limits::default())?;
/// let algorithm = header.suite().signature().expect("a signed message");
/// let geometry = footer_lens(algorithm, &sealed)
///     .filter_map(|footer_len| header.signed_geometry(sealed.len() as u64, footer_len).ok())
///     .find(|geometry| {
///         let frame = geometry.final_frame();
///         let start = frame.sealed.start as usize; // From a file, read these bytes.
///         frame.can_begin_with(&sealed[start..start + FINAL_FRAME_OVERHEAD])
///     });
/// assert_eq!(geometry.expect("a complete message").plaintext_len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn footer_lens(algorithm: SignatureAlgorithm, tail: &[u8]) -> impl Iterator<Item = usize> {
    (MIN_FOOTER_LEN..=MAX_FOOTER_LEN).filter(move |len| {
        let footer = tail.len().checked_sub(*len).map(|start| parse_footer(&tail[start..]));
        let Some(Parsed::Complete(signature)) = footer else { return false };
        FOOTER_OVERHEAD + signature.len() == *len && is_signature(algorithm, signature)
    })
}

/// Returns whether `der` is a sequence of two integers of the curve's size. Signatures are so short that DER encodes
/// each length in one byte.
fn is_signature(algorithm: SignatureAlgorithm, der: &[u8]) -> bool {
    let max_len = match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => 32,
        SignatureAlgorithm::EcdsaP384Sha384 => 48,
    };
    let Some((&[DER_SEQUENCE, len], integers)) = der.split_first_chunk() else { return false };
    let after_both = after_integer(integers, max_len).and_then(|rest| after_integer(rest, max_len));
    usize::from(len) == integers.len() && after_both.is_some_and(<[u8]>::is_empty)
}

/// Returns the bytes after the positive integer at the start of `der`. The integer has at most `max_len` bytes, not
/// counting the zero byte that DER adds if the top bit is set.
fn after_integer(der: &[u8], max_len: usize) -> Option<&[u8]> {
    let (&[DER_INTEGER, len], rest) = der.split_first_chunk()? else { return None };
    let (integer, rest) = rest.split_at_checked(usize::from(len))?;
    let magnitude = match *integer {
        [0, first, ..] if first >= 0x80 => &integer[1..],
        [first, ..] if (1..0x80).contains(&first) => integer,
        _ => return None,
    };
    (magnitude.len() <= max_len).then_some(rest)
}

/// Writes the footer to `out`, which must have exactly the footer's length.
pub(crate) fn write_footer(signature: &[u8], out: &mut [u8]) {
    let len = u16::try_from(signature.len()).expect("an ECDSA signature has at most 104 bytes");
    out[..FOOTER_OVERHEAD].copy_from_slice(&len.to_be_bytes());
    out[FOOTER_OVERHEAD..].copy_from_slice(signature);
}

/// Returns the signature from the footer at the start of `bytes`.
pub(crate) fn parse_footer(bytes: &[u8]) -> Parsed<&[u8]> {
    let Some(len) = bytes.first_chunk() else { return Parsed::Incomplete { needed: FOOTER_OVERHEAD } };
    let end = FOOTER_OVERHEAD + usize::from(u16::from_be_bytes(*len));
    match bytes.get(FOOTER_OVERHEAD..end) {
        Some(signature) => Parsed::Complete(signature),
        None => Parsed::Incomplete { needed: end },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Geometry, frame::FrameHead},
        *,
    };

    const ALGORITHMS: [(SignatureAlgorithm, usize); 2] =
        [(SignatureAlgorithm::EcdsaP256Sha256, 32), (SignatureAlgorithm::EcdsaP384Sha384, 48)];

    /// Returns the footer of a signature of two integers, given in big-endian order without leading zeros.
    fn footer(integers: [&[u8]; 2]) -> Vec<u8> {
        let mut der = Vec::new();
        for integer in integers {
            let padding = &[0][..usize::from(integer[0] >= 0x80)];
            der.extend([DER_INTEGER, u8::try_from(padding.len() + integer.len()).unwrap()]);
            der.extend([padding, integer].concat());
        }
        der.splice(..0, [DER_SEQUENCE, u8::try_from(der.len()).unwrap()]);
        let mut footer = vec![0; FOOTER_OVERHEAD + der.len()];
        write_footer(&der, &mut footer);
        footer
    }

    fn found(algorithm: SignatureAlgorithm, tail: &[u8]) -> Vec<usize> {
        footer_lens(algorithm, tail).collect()
    }

    #[test]
    fn the_shortest_and_the_longest_footers_are_found() {
        for (algorithm, max_len) in ALGORITHMS {
            let shortest = footer([&[1], &[0x7f]]);
            let longest = footer([&vec![0xff; max_len], &vec![0x80; max_len]]);
            assert_eq!(shortest.len(), MIN_FOOTER_LEN);
            assert_eq!(longest.len(), if max_len == 48 { MAX_FOOTER_LEN } else { 74 });
            for footer in [shortest, longest] {
                assert_eq!(found(algorithm, &[&[0xff; 50][..], &footer].concat()), [footer.len()]);
                assert_eq!(found(algorithm, &footer), [footer.len()]);
                assert!(found(algorithm, &footer[1..]).is_empty());
            }
        }
    }

    #[test]
    fn bytes_that_are_no_ecdsa_signature_in_der_are_no_footer() {
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        for changed in [
            // The lengths of the footer, the sequence and each integer.
            &[0, 9, 0x30, 6, 2, 1, 1, 2, 1, 1][..],
            &[1, 8, 0x30, 6, 2, 1, 1, 2, 1, 1],
            &[0, 8, 0x30, 7, 2, 1, 1, 2, 1, 1],
            &[0, 8, 0x30, 6, 2, 2, 1, 2, 1, 1],
            &[0, 8, 0x30, 6, 2, 1, 1, 2, 0, 1],
            &[0, 8, 0x30, 6, 2, 1, 1, 2, 2, 1],
            // The DER tags.
            &[0, 8, 0x31, 6, 2, 1, 1, 2, 1, 1],
            &[0, 8, 0x30, 6, 3, 1, 1, 2, 1, 1],
            &[0, 8, 0x30, 6, 2, 1, 1, 3, 1, 1],
            // Zero, a negative integer, and an unnecessary leading zero.
            &[0, 8, 0x30, 6, 2, 1, 0, 2, 1, 1],
            &[0, 8, 0x30, 6, 2, 1, 1, 2, 1, 0x80],
            &[0, 9, 0x30, 7, 2, 1, 1, 2, 2, 0, 0x7f],
            // A third integer, and a trailing byte.
            &[0, 11, 0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1],
            &[0, 8, 0x30, 6, 2, 1, 1, 2, 1, 1, 0],
        ] {
            assert!(found(algorithm, changed).is_empty(), "{changed:?}");
        }
        assert_eq!(found(algorithm, &[0, 8, 0x30, 6, 2, 1, 1, 2, 1, 1]), [10]);
        // Too long for P-256, but not for P-384.
        let longer = footer([&[1; 33], &[1; 32]]);
        assert!(found(algorithm, &longer).is_empty());
        assert_eq!(found(SignatureAlgorithm::EcdsaP384Sha384, &longer), [longer.len()]);
    }

    #[test]
    fn a_signature_that_ends_like_another_footer_offers_both() {
        let inner = footer([&[5], &[6]]);
        let outer = footer([&[9; 32], &[&[7; 20][..], &inner].concat()]);
        assert_eq!(found(SignatureAlgorithm::EcdsaP256Sha256, &outer), [inner.len(), outer.len()]);
    }

    fn integer(max_len: usize) -> impl Strategy<Value = Vec<u8>> {
        (1u8.., prop::collection::vec(any::<u8>(), 0..max_len)).prop_map(|(first, rest)| [&[first][..], &rest].concat())
    }

    proptest! {
        #[test]
        fn a_footer_of_any_length_is_found_and_confirmed_by_the_final_frame(
            ((algorithm, _), r, s) in prop::sample::select(&ALGORITHMS[..])
                .prop_flat_map(|chosen| (Just(chosen), integer(chosen.1), integer(chosen.1))),
            header_len in 0u64..200,
            // Half of the cases have one-byte frames, with which every footer length gives a valid message length.
            frame_len in prop_oneof![Just(1), 2u32..300],
            plaintext_len in 0u64..300,
            filling in prop_oneof![Just(0), Just(0xff), any::<u8>()],
        ) {
            let footer = footer([&r, &s]);
            let frame_len = std::num::NonZeroU32::new(frame_len).unwrap();
            let geometry = Geometry::of_plaintext(header_len, frame_len, footer.len() as u64, plaintext_len).unwrap();
            let mut message = vec![filling; usize::try_from(geometry.sealed_len()).unwrap()];
            let footer_start = message.len() - footer.len();
            message[footer_start..].copy_from_slice(&footer);
            for sequence in 1..=geometry.frame_count() {
                let frame = geometry.frame(sequence).unwrap();
                let len = usize::try_from(frame.plaintext.end - frame.plaintext.start).unwrap();
                let start = usize::try_from(frame.sealed.start).unwrap();
                FrameHead::new(sequence, frame.is_final, len).write(&mut message[start..]);
                prop_assert!(frame.can_begin_with(&message[start..]));
            }
            let tail = &message[message.len().saturating_sub(MAX_FOOTER_LEN)..];
            let confirmed: Vec<_> = footer_lens(algorithm, tail)
                .filter_map(|len| Geometry::of_sealed(header_len, frame_len, len as u64, message.len() as u64).ok())
                .filter(|geometry| {
                    let frame = geometry.final_frame();
                    frame.can_begin_with(&message[usize::try_from(frame.sealed.start).unwrap()..])
                })
                .collect();
            prop_assert_eq!(confirmed, [geometry]);
        }
    }

    #[test]
    fn a_footer_is_read_back_as_written_and_asks_for_more_until_then() {
        for len in [0, 1, 71, 103, 300] {
            let (signature, mut footer) = (vec![7; len], vec![0; FOOTER_OVERHEAD + len]);
            write_footer(&signature, &mut footer);
            assert_eq!(parse_footer(&[&footer[..], b"more"].concat()), Parsed::Complete(&signature[..]));
            for cut in 0..footer.len() {
                let parsed = parse_footer(&footer[..cut]);
                assert!(matches!(parsed, Parsed::Incomplete { needed } if cut < needed && needed <= footer.len()));
            }
        }
    }
}
