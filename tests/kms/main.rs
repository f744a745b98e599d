//! `AwsKms` and its siblings, through the real client of aws-sdk-kms: against made-up answers (`requests`), and over
//! HTTP against a KMS of this process (`endpoint`) that has regions, and that throttles, hangs and breaks off.

#[expect(dead_code, reason = "some of it is for the interop tests only")]
mod endpoint;
mod load;
mod regions;
mod requests;
#[cfg(feature = "rsa")]
mod rsa;
mod tries;
