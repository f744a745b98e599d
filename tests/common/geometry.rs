//! Where everything is in a message, signed or not.

use kms_envelope::message::{FINAL_FRAME_OVERHEAD, Geometry, Header, MAX_FOOTER_LEN, footer_lens};

/// The geometry of a whole message with frames: of a signed one, by its last bytes and the start of its final frame.
pub(crate) fn geometry(header: &Header, message: &[u8]) -> Geometry {
    let sealed_len = message.len() as u64;
    let Some(algorithm) = header.suite().signature() else { return header.geometry(sealed_len).unwrap() };
    let tail = &message[message.len().saturating_sub(MAX_FOOTER_LEN)..];
    let mut confirmed = footer_lens(algorithm, tail)
        .filter_map(|footer_len| header.signed_geometry(sealed_len, footer_len).ok())
        .filter(|geometry| {
            let frame = geometry.final_frame();
            let start = usize::try_from(frame.sealed.start).unwrap();
            frame.can_begin_with(&message[start..start + FINAL_FRAME_OVERHEAD])
        });
    let geometry = confirmed.next().expect("a footer that the final frame confirms");
    assert_eq!(confirmed.next(), None);
    geometry
}
