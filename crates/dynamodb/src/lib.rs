#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]
//!
//! # Features
//! The features `aws-lc` and `rust-crypto` are those of [`kms_envelope`], and both are enabled by default. At least one of
//! them must be enabled.

mod attributes;
mod error;
mod store;

pub use store::DynamoDbBranchKeyStore;
