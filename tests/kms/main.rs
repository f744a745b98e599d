//! `AwsKms` and its siblings, through the real client of aws-sdk-kms: against made-up answers (`requests`), and over
//! HTTP against a KMS of this process (`test_support::kms`) that has regions, and that throttles, hangs and breaks off.

#[cfg(feature = "mock")]
mod conformance;
mod load;
mod regions;
mod requests;
#[cfg(feature = "rsa")]
mod rsa;
mod tries;
