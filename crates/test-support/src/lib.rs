//! Helpers shared by the tests of this workspace: sealing and opening, test data, fixtures, key providers, a simulated
//! KMS and DynamoDB over HTTP, and AWS's SDKs for Python and JavaScript.
//!
//! For integration tests only. The unit tests of `kms-envelope` compile a second copy of that crate, whose types differ
//! from those that this crate uses.

pub mod dynamodb;
pub mod fixtures;
mod io;
pub mod kms;
pub mod peers;
mod providers;
mod random;

use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, Limits, OpenError,
    message::{FINAL_FRAME_OVERHEAD, Geometry, Header, MAX_FOOTER_LEN, footer_lens},
};
use pollster::block_on;

pub use io::Pieces;
pub use providers::FixedDataKey;
pub use random::{FailingRng, RepeatingRng, plaintext, rng};

/// Returns the encryption context that most tests use.
pub fn context() -> EncryptionContext {
    EncryptionContext::from([("tenant", "acme"), ("purpose", "test")])
}

/// Returns the strictest commitment policy that seals in this suite.
pub fn policy_for(suite: AlgorithmSuite) -> CommitmentPolicy {
    if suite.is_committing() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    }
}

/// Seals under [`context`].
#[track_caller]
pub fn seal(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    block_on(envelope.seal(plaintext, &context())).unwrap()
}

/// Opens under [`context`].
///
/// # Errors
/// Returns the error of [`Envelope::open`].
pub fn open(envelope: &Envelope, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    block_on(envelope.open(message, &context())).map(|opened| opened.plaintext)
}

/// Returns the header of a message.
#[track_caller]
pub fn header(message: &[u8]) -> Header {
    Header::parse(message, &Limits::default()).unwrap()
}

/// Returns the geometry of a complete message with frames. For a signed message, this uses its last bytes and the start
/// of its final frame.
pub fn geometry(header: &Header, message: &[u8]) -> Geometry {
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
