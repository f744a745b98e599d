//! A range equals that part of the plaintext of the whole message. A wrong message length causes no panic.

#![no_main]

use kms_envelope::EncryptionContext;
use kms_envelope_fuzz::{ENVELOPE, open};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

fuzz_target!(|input: (u64, u16, u16, &[u8])| {
    let (wrong_len, start, len, data) = input;
    let start = u64::from(start);
    let range = start..start + u64::from(len);
    let context = EncryptionContext::new();
    // With a length that is not the message's.
    let _ = block_on(ENVELOPE.range_reader(data, wrong_len, &context)).map(|reader| reader.read(range.clone()));

    let Ok(reader) = block_on(ENVELOPE.range_reader(data, data.len() as u64, &context)) else { return };
    match (reader.read(range.clone()), open(data)) {
        (Ok(part), Ok(whole)) => {
            assert_eq!(reader.len(), whole.len() as u64);
            assert_eq!(part, whole[range.start as usize..range.end as usize]);
        }
        (Err(_), Ok(whole)) => assert!(range.end > whole.len() as u64),
        // Another part of the message is damaged.
        (_, Err(_)) => {}
    }
});
