//! Tests of the library through its public API, without any service.

mod by_context;
#[cfg(feature = "mock")]
mod cache;
#[cfg(feature = "mock")]
mod conformance;
mod envelope;
#[cfg(all(feature = "mock", feature = "stream", feature = "tokio"))]
mod errors;
mod fips;
#[cfg(all(
    feature = "aws-kms",
    feature = "aws-lc",
    feature = "branch-key",
    feature = "ecdh",
    feature = "parallel",
    feature = "rsa",
    feature = "stream",
    feature = "tokio"
))]
mod header_len;
#[cfg(all(feature = "mock", feature = "parallel"))]
mod many;
mod messages;
#[cfg(all(feature = "branch-key", feature = "ecdh", feature = "rsa"))]
mod providers;
#[cfg(all(feature = "parallel", feature = "stream", feature = "tokio"))]
mod ranges;
#[cfg(all(feature = "mock", feature = "stream", feature = "tokio"))]
mod rewrap;
#[cfg(feature = "parallel")]
mod signed;
#[cfg(all(feature = "stream", feature = "tokio"))]
mod states;
#[cfg(all(feature = "branch-key", feature = "mock"))]
mod store_conformance;
#[cfg(all(feature = "parallel", feature = "stream", feature = "tokio"))]
mod streams;
mod suites;
#[cfg(feature = "tokio")]
mod tokio_streams;
#[cfg(all(
    feature = "aws-kms",
    feature = "aws-lc",
    feature = "branch-key-folder",
    feature = "dynamodb",
    feature = "ecdh",
    feature = "key-file",
    feature = "mock",
    feature = "rsa",
    feature = "rust-crypto"
))]
mod troubleshooting;
