//! A header that arrives in pieces has the same result, or the same error, as one that arrives in one piece.

#![no_main]

use kms_envelope::message::{Header, HeaderReader};
use kms_envelope_fuzz::LIMITS;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 4], &[u8])| {
    let (lens, data) = input;
    let whole = Header::parse(data, &LIMITS);
    let mut reader = HeaderReader::new(&LIMITS);
    let (mut taken, mut rest) = (0, data);
    let mut lens = lens.iter().cycle();
    let refused = loop {
        let needed = reader.needed();
        if needed == 0 || rest.is_empty() {
            break None;
        }
        if let Ok(header) = &whole {
            assert!(taken + needed <= header.len(), "the reader asks for a byte of the body");
        }
        // Zero means as many bytes as the reader needs.
        let len = match lens.next() {
            None | Some(0) => needed,
            Some(len) => usize::from(*len),
        };
        let piece = &rest[..rest.len().min(len)];
        match reader.feed(piece) {
            Ok(len) => {
                assert!(len == piece.len() || reader.needed() == 0, "the reader did not consume a byte of the header");
                (taken, rest) = (taken + len, &rest[len..]);
            }
            Err(error) => {
                assert_eq!(reader.feed(rest), Err(error.clone()));
                break Some(error);
            }
        }
        assert!(taken <= LIMITS.header_len);
    };
    match (whole, reader.finish()) {
        (Ok(one), Ok(two)) => {
            assert_eq!(format!("{one:?}"), format!("{two:?}"));
            assert_eq!(one.len(), taken);
        }
        (Err(one), Err(two)) => {
            assert_eq!(one, two);
            assert!(refused.is_none_or(|error| error == one));
        }
        (whole, pieces) => panic!("{whole:?} {pieces:?}"),
    }
});
