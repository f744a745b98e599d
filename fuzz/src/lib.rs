//! Shared by the fuzz targets: the fixtures' key, which opens the seeds, and envelopes with small limits.

pub mod naive;

use std::sync::LazyLock;

use kms_envelope::{CommitmentPolicy, EncryptionContext, Envelope, EnvelopeBuilder, Limits, OpenError, RawAes, provider::SecretKey};
use pollster::block_on;

/// Small limits, so that the fuzzer does not spend its time on memory.
pub const LIMITS: Limits =
    Limits::new().with_header_len(16 << 10).with_frame_len(64 << 10).with_non_framed_len(64 << 10);

pub fn key() -> RawAes {
    let key = SecretKey::try_from((0..32).collect::<Vec<u8>>()).expect("32 bytes");
    RawAes::new("fixtures", "aes-256", key).expect("short names")
}

/// Returns a builder of envelopes that open messages of any suite.
pub fn builder() -> EnvelopeBuilder {
    Envelope::builder(key()).commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt).limits(LIMITS)
}

pub static ENVELOPE: LazyLock<Envelope> =
    LazyLock::new(|| builder().frame_len(1024).build().expect("valid settings"));

pub fn open(message: &[u8]) -> Result<Vec<u8>, OpenError> {
    block_on(ENVELOPE.open(message, &EncryptionContext::new())).map(|opened| opened.plaintext)
}
