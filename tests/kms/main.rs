//! Tests of the providers for AWS KMS with the real client of aws-sdk-kms: with made-up responses (`requests`), and
//! over HTTP with a server in this process (`test_support::kms`) that has regions and simulates failures.

#[cfg(feature = "branch-key")]
mod branch_keys;
#[cfg(all(feature = "branch-key", feature = "mock"))]
mod branch_keys_load;
#[cfg(feature = "mock")]
mod conformance;
#[cfg(feature = "ecdh")]
mod ecdh;
mod load;
mod regions;
mod requests;
#[cfg(feature = "rsa")]
mod rsa;
mod tries;
