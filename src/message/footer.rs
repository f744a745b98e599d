//! The footer of a signed message. Specification: `data-format/message-footer.md`.

use super::Parsed;

/// How much longer a footer is than its signature, in bytes.
pub(crate) const FOOTER_OVERHEAD: usize = 2;

/// Writes the footer to `out`, which has its length exactly. A signature is never longer than a u16 says.
pub(crate) fn write_footer(signature: &[u8], out: &mut [u8]) {
    let len = u16::try_from(signature.len()).expect("a signature of ECDSA is short");
    out[..FOOTER_OVERHEAD].copy_from_slice(&len.to_be_bytes());
    out[FOOTER_OVERHEAD..].copy_from_slice(signature);
}

/// The signature in the footer at the start of `bytes`.
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
    use super::*;

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
