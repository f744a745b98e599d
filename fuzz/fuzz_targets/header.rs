//! The header parser and a simple parser accept the same headers with the same fields, and refuse the same bytes. The
//! geometry that follows from a header matches the length of the message.

#![no_main]

use kms_envelope::message::{Header, footer_lens};
use kms_envelope_fuzz::{LIMITS, naive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (header, expected) = (Header::parse(data, &LIMITS), naive::header(data));
    let (header, expected) = match (header, expected) {
        (Ok(header), Some(expected)) => (header, expected),
        (Err(_), None) => return,
        (header, expected) => panic!("{header:?} {expected:?}"),
    };
    assert_eq!((header.len(), header.suite().id()), (expected.len, expected.suite));
    assert_eq!(header.message_id().as_bytes(), expected.message_id);
    let context: Vec<_> = header.context().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(context, expected.context.into_iter().collect::<Vec<_>>());
    let keys: Vec<[&[u8]; 3]> = header
        .encrypted_data_keys()
        .iter()
        .map(|key| [key.provider_id.as_bytes(), &key.provider_info[..], &key.ciphertext[..]])
        .collect();
    assert_eq!(keys, expected.keys);

    let footer_lens = match header.suite().signature() {
        Some(algorithm) => footer_lens(algorithm, data).collect(),
        None => vec![0],
    };
    for footer_len in footer_lens {
        let Ok(geometry) = header.signed_geometry(data.len() as u64, footer_len) else { continue };
        assert_eq!(geometry.sealed_len(), data.len() as u64);
        assert!(geometry.plaintext_len() < data.len() as u64);
        let frame = geometry.final_frame();
        let _ = frame.can_begin_with(&data[frame.sealed.start as usize..]);
    }
});
