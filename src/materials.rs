//! The keys for one message: what a key provider is asked for, and whether its answer fits.

use std::collections::BTreeSet;

use crate::{
    context::EncryptionContext,
    error::{ContextError, OpenError, SealError},
    message::Header,
    provider::{DataKey, DecryptDataKeyRequest, GenerateDataKeyRequest, KeyProvider, PlaintextDataKey},
    suite::AlgorithmSuite,
};

/// A fresh data key for a message with this context.
pub(crate) async fn for_sealing(
    provider: &dyn KeyProvider,
    suite: AlgorithmSuite,
    context: &EncryptionContext,
) -> Result<DataKey, SealError> {
    let data_key = provider.generate_data_key(&GenerateDataKeyRequest { suite, context }).await?;
    if let Some(what) = wrong_len(suite, data_key.plaintext.len()) {
        return Err(SealError::DataKey { what });
    }
    if data_key.encrypted.is_empty() {
        return Err(SealError::DataKey { what: "a data key without an encrypted form".into() });
    }
    Ok(data_key)
}

/// The data key of a message, whose whole context is `context`.
pub(crate) async fn for_opening(
    provider: &dyn KeyProvider,
    header: &Header,
    context: &EncryptionContext,
) -> Result<PlaintextDataKey, OpenError> {
    let (suite, encrypted_data_keys) = (header.suite(), header.encrypted_data_keys());
    let request = DecryptDataKeyRequest { suite, context, encrypted_data_keys };
    let data_key = provider.decrypt_data_key(&request).await?;
    if let Some(what) = wrong_len(suite, data_key.key.len()) {
        return Err(OpenError::DataKey { what });
    }
    if data_key.index >= encrypted_data_keys.len() {
        let what = format!("the data key at {} of {}", data_key.index, encrypted_data_keys.len());
        return Err(OpenError::DataKey { what });
    }
    Ok(data_key)
}

fn wrong_len(suite: AlgorithmSuite, len: usize) -> Option<String> {
    let needed = suite.data_key_len();
    (len != needed).then(|| format!("a data key of {len} bytes, but suite {suite} takes {needed}"))
}

/// A message's context in two: the pairs that it stores, and those that it only authenticates.
#[derive(Debug)]
pub(crate) struct SplitContext {
    pub(crate) stored: EncryptionContext,
    pub(crate) required: EncryptionContext,
}

impl SplitContext {
    /// For sealing: the context must fit the format, and have every required name.
    pub(crate) fn new(context: &EncryptionContext, required: &BTreeSet<String>) -> Result<Self, ContextError> {
        context.check_no_reserved_names()?;
        context.serialized_len()?;
        check_required_names(context, required)?;
        let (required, stored) = context.iter().partition(|(name, _)| required.contains(*name));
        Ok(Self { stored, required })
    }
}

/// For opening: the whole context of a message, and the part of it that the message does not store. Each pair that
/// the caller expects is stored with the same value, or is a required one.
pub(crate) fn check_expected(
    stored: &EncryptionContext,
    expected: &EncryptionContext,
    required: &BTreeSet<String>,
) -> Result<(EncryptionContext, EncryptionContext), ContextError> {
    check_required_names(expected, required)?;
    let mut not_stored = EncryptionContext::new();
    for (name, value) in expected {
        match stored.get(name) {
            Some(found) if found == value => {}
            Some(_) => return Err(ContextError::ValueDiffers { name: name.into() }),
            None if required.contains(name) => {
                not_stored.insert(name, value);
            }
            None => return Err(ContextError::PairMissing { name: name.into() }),
        }
    }
    let mut whole = stored.clone();
    whole.extend(&not_stored);
    whole.serialized_len()?;
    Ok((whole, not_stored))
}

fn check_required_names(context: &EncryptionContext, required: &BTreeSet<String>) -> Result<(), ContextError> {
    match required.iter().find(|name| context.get(name).is_none()) {
        Some(name) => Err(ContextError::RequiredNameMissing { name: name.clone() }),
        None => Ok(()),
    }
}
