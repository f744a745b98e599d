//! A header is read or refused, and alike however much of it is there.

#![no_main]

use kms_envelope::message::{Header, Parsed};
use kms_envelope_fuzz::LIMITS;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut len = 0;
    let in_pieces = loop {
        match Header::parse(&data[..len], &LIMITS) {
            Ok(Parsed::Incomplete { needed }) => {
                assert!(needed > len, "it asks for what is there");
                if needed > data.len() {
                    break None;
                }
                len = needed;
            }
            Ok(Parsed::Complete(header)) => break Some(Ok(header)),
            Err(error) => break Some(Err(error)),
        }
    };
    match (Header::parse(data, &LIMITS), in_pieces) {
        (Ok(Parsed::Complete(one)), Some(Ok(two))) => {
            assert_eq!((one.len(), one.suite(), one.context()), (two.len(), two.suite(), two.context()));
            assert!(one.len() <= LIMITS.header_len && one.len() <= data.len());
            assert!((1..=16).contains(&one.encrypted_data_keys().len()));
            if let Ok(geometry) = one.geometry(data.len() as u64) {
                assert_eq!(geometry.sealed_len(), data.len() as u64);
                assert!(geometry.plaintext_len() < data.len() as u64);
            }
        }
        (Ok(Parsed::Incomplete { .. }), None) => {}
        (Err(one), Some(Err(two))) => assert_eq!(one, two),
        (whole, pieces) => panic!("{whole:?} {pieces:?}"),
    }
});
