//! Any bytes are opened or refused, without a panic, with the same result from both backends.

#![no_main]

use std::sync::LazyLock;

use kms_envelope::{Backend, EncryptionContext, Envelope};
use kms_envelope_fuzz::{builder, open};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

static PURE_RUST: LazyLock<Envelope> = LazyLock::new(|| builder().backend(Backend::RustCrypto).build().unwrap());

fuzz_target!(|data: &[u8]| {
    let opened = open(data).map_err(|error| error.to_string());
    let pure_rust = block_on(PURE_RUST.open(data, &EncryptionContext::new()));
    assert_eq!(opened, pure_rust.map(|opened| opened.plaintext).map_err(|error| error.to_string()));
});
