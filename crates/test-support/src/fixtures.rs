//! The files in tests/fixtures.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kms_envelope::{RawAes, provider::SecretKey};

/// The public key of a 2,048-bit RSA key pair, as PEM.
pub const RSA_PUBLIC: &str = include_str!("../../../tests/fixtures/pem/rsa-public.pem");
/// The private key of the same pair.
pub const RSA_PRIVATE: &str = include_str!("../../../tests/fixtures/pem/rsa-private.pem");

/// Returns the path of a file in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Returns the path of a fixture.
pub fn path(name: &str) -> PathBuf {
    repository("tests/fixtures").join(name)
}

/// Reads a PEM file.
#[track_caller]
pub fn pem(name: &str) -> String {
    fs::read_to_string(path(&format!("pem/{name}.pem"))).unwrap()
}

/// Reads a message that AWS's SDK for Python wrote: `"0478/non-framed-len-129"`.
#[track_caller]
pub fn message(name: &str) -> Vec<u8> {
    fs::read(path(&format!("{name}.msg"))).unwrap()
}

/// Returns the 256-bit key that opens the messages.
pub fn key() -> RawAes {
    RawAes::new("fixtures", "aes-256", SecretKey::try_from((0..32).collect::<Vec<_>>()).unwrap()).unwrap()
}
