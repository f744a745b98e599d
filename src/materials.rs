//! The keys for one message: requests them from the key provider, and checks its responses.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Instant};

use base64ct::{Base64, Encoding};

use crate::{
    context::{EncryptionContext, PUBLIC_KEY_NAME},
    crypto::{Backend, Random, Randomness, SigningKey, VerifyingKey},
    error::{ContextError, DataKeyError, FormatError, OpenError, SealError},
    message::Header,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, GenerateDataKeyRequest, GeneratedDataKey, KeyProvider, ProviderError,
    },
    suite::AlgorithmSuite,
};

/// An error that prevents sealing or opening a message. It can be cloned, because all callers that share a request
/// receive it.
#[derive(Clone, Debug)]
pub(crate) enum MaterialsError {
    Context(ContextError),
    Provider(ProviderError),
    DataKey(DataKeyError),
}

impl From<ContextError> for MaterialsError {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

impl From<DataKeyError> for MaterialsError {
    fn from(error: DataKeyError) -> Self {
        Self::DataKey(error)
    }
}

impl<E: Into<ProviderError>> From<E> for MaterialsError {
    fn from(error: E) -> Self {
        Self::Provider(error.into())
    }
}

impl From<MaterialsError> for SealError {
    fn from(error: MaterialsError) -> Self {
        match error {
            MaterialsError::Context(error) => error.into(),
            MaterialsError::Provider(error) => error.into(),
            MaterialsError::DataKey(error) => error.into(),
        }
    }
}

impl From<MaterialsError> for OpenError {
    fn from(error: MaterialsError) -> Self {
        match error {
            MaterialsError::Context(error) => error.into(),
            MaterialsError::Provider(error) => error.into(),
            MaterialsError::DataKey(error) => error.into(),
        }
    }
}

/// The keys and the context to seal a message with.
#[derive(Debug)]
pub(crate) struct SealingMaterials {
    pub(crate) data_key: GeneratedDataKey,
    /// Present if the suite signs messages.
    pub(crate) signing_key: Option<Arc<SigningKey>>,
    /// The pairs that the message stores.
    pub(crate) stored_context: EncryptionContext,
    /// The required encryption context, which the message authenticates but does not store.
    pub(crate) required_context: EncryptionContext,
}

/// Checks that a message may be sealed with this context: it has all required names and no reserved names.
pub(crate) fn check_sealing(context: &EncryptionContext, required: &BTreeSet<String>) -> Result<(), ContextError> {
    context.check_no_reserved_names()?;
    check_required_names(context, required)
}

/// Requests a new data key, and generates a signing key if the suite signs.
pub(crate) async fn for_sealing(
    provider: &dyn KeyProvider,
    suite: AlgorithmSuite,
    context: &EncryptionContext,
    required: &BTreeSet<String>,
    (backend, random): (Backend, &Random),
    deadline: Instant,
) -> Result<SealingMaterials, MaterialsError> {
    let mut full_context = Cow::Borrowed(context);
    let mut signing_key = None;
    if let Some(algorithm) = suite.signature() {
        let key = SigningKey::generate(backend, algorithm, random)?;
        full_context.to_mut().insert(PUBLIC_KEY_NAME, Base64::encode_string(&key.public_key()));
        signing_key = Some(Arc::new(key));
    }
    full_context.serialized_len()?;
    let request = GenerateDataKeyRequest::new(suite, &full_context)
        .with_deadline(deadline)
        .with_backend(backend)
        .with_randomness(Randomness(random));
    let data_key = provider.generate_data_key(&request).await?;
    check_len(suite, data_key.plaintext.len())?;
    if data_key.encrypted_data_keys.is_empty() {
        return Err(DataKeyError::NotEncrypted.into());
    }
    let (required_context, stored_context) = full_context.iter().partition(|(name, _)| required.contains(*name));
    Ok(SealingMaterials { data_key, signing_key, stored_context, required_context })
}

/// Returns the public key from a message's context. Signed messages must have one, and unsigned messages must not.
pub(crate) fn verifying_key(header: &Header, backend: Backend) -> Result<Option<VerifyingKey>, FormatError> {
    match (header.suite().signature(), header.context().get(PUBLIC_KEY_NAME)) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(FormatError::PublicKey("it has a public key, but the suite has no signature")),
        (Some(_), None) => Err(FormatError::PublicKey("it has no public key, but the suite has a signature")),
        (Some(algorithm), Some(encoded)) => Base64::decode_vec(encoded)
            .ok()
            .and_then(|key| VerifyingKey::parse(backend, algorithm, &key).ok())
            .map(Some)
            .ok_or(FormatError::PublicKey("its public key is not a base64-encoded point on the suite's curve")),
    }
}

/// Requests the decrypted data key of a message.
pub(crate) async fn for_opening(
    provider: &dyn KeyProvider,
    request: &DecryptDataKeyRequest<'_>,
) -> Result<DecryptedDataKey, MaterialsError> {
    let data_key = provider.decrypt_data_key(request).await?;
    check_len(request.suite, data_key.plaintext.len())?;
    if data_key.index >= request.encrypted_data_keys.len() {
        let (index, count) = (data_key.index, request.encrypted_data_keys.len());
        return Err(DataKeyError::Index { index, count }.into());
    }
    Ok(data_key)
}

fn check_len(suite: AlgorithmSuite, len: usize) -> Result<(), MaterialsError> {
    if len == suite.data_key_len() { Ok(()) } else { Err(DataKeyError::Len { len, suite }.into()) }
}

/// Returns the full context of a message to open, and the part that the message does not store.
///
/// Checks that each pair that the caller expects is stored with the same value, or is a required pair that is not
/// stored.
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
    let mut full_context = stored.clone();
    full_context.extend(&not_stored);
    full_context.serialized_len()?;
    Ok((full_context, not_stored))
}

fn check_required_names(context: &EncryptionContext, required: &BTreeSet<String>) -> Result<(), ContextError> {
    match required.iter().find(|name| context.get(name).is_none()) {
        Some(name) => Err(ContextError::RequiredNameMissing { name: name.clone() }),
        None => Ok(()),
    }
}
