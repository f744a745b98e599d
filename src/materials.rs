//! The keys for one message: requests them from the key provider, and checks its responses.

use std::{borrow::Cow, collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Instant};

use base64ct::{Base64, Encoding};
use bytes::Bytes;

use crate::{
    context::{EncryptionContext, PUBLIC_KEY_NAME, SerializedContext},
    crypto::{Backend, Random, Randomness, SecretKey, SigningKey, VerifyingKey},
    error::{ContextError, DataKeyError, FormatError, OpenError, SealError},
    message::{EncryptedDataKey, HeaderFields, HeaderTemplate, HeaderView, Limits},
    provider::{DecryptDataKeyRequest, GenerateDataKeyRequest, KeyProvider, ProviderError},
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

/// The keys to seal messages with, and what their headers have in common.
#[derive(Debug)]
pub(crate) struct SealingMaterials {
    pub(crate) data_key: SecretKey,
    /// Present if the suite signs messages.
    pub(crate) signing_key: Option<Arc<SigningKey>>,
    /// An error if a header would exceed a limit.
    pub(crate) header: Result<HeaderTemplate, SealError>,
}

/// The data key of messages to open, and what their metadata has in common.
#[derive(Debug)]
pub(crate) struct OpeningMaterials {
    pub(crate) data_key: SecretKey,
    /// The index of the encrypted data key in the request.
    pub(crate) index: usize,
    pub(crate) info: Arc<KeyInfo>,
}

/// The metadata of messages with the same data key and encryption context.
#[derive(Debug)]
pub(crate) struct KeyInfo {
    /// The entire context.
    pub(crate) context: EncryptionContext,
    pub(crate) encrypted_data_key: EncryptedDataKey,
    pub(crate) key_id: String,
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
    (frame_len, header_len, limits): (NonZeroU32, Option<usize>, &Limits),
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
    let header = header_template(
        &HeaderFields {
            suite,
            context: &stored_context,
            required_context: &required_context,
            encrypted_data_keys: &data_key.encrypted_data_keys,
            frame_len: frame_len.get(),
        },
        header_len,
        limits,
    );
    Ok(SealingMaterials { data_key: data_key.plaintext, signing_key, header })
}

/// Returns a template of this length, if one is given, that is within the limits: the envelope must be able to open what
/// it seals.
fn header_template(
    fields: &HeaderFields<'_>,
    header_len: Option<usize>,
    limits: &Limits,
) -> Result<HeaderTemplate, SealError> {
    let mut keys = Cow::Borrowed(fields.encrypted_data_keys);
    let mut header = HeaderTemplate::new(fields)?;
    if let Some(len) = header_len
        && let Some(padding) = EncryptedDataKey::padding(header.header_len(), len)?
    {
        keys.to_mut().push(padding);
        header = HeaderTemplate::new(&HeaderFields { encrypted_data_keys: &keys, ..*fields })?;
    }
    limits.check_encrypted_data_keys(keys.len())?;
    limits.check_header_len(header.header_len())?;
    Ok(header)
}

/// Returns the public key from a message's context. Signed messages must have one, and unsigned messages must not.
pub(crate) fn verifying_key(header: &HeaderView<'_>, backend: Backend) -> Result<Option<VerifyingKey>, FormatError> {
    let public_key =
        header.context().pairs().find(|(name, _)| *name == PUBLIC_KEY_NAME.as_bytes()).map(|(_, value)| value);
    match (header.suite().signature(), public_key) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(FormatError::PublicKey("it has a public key, but the suite has no signature")),
        (Some(_), None) => Err(FormatError::PublicKey("it has no public key, but the suite has a signature")),
        (Some(algorithm), Some(encoded)) => std::str::from_utf8(encoded)
            .ok()
            .and_then(|encoded| Base64::decode_vec(encoded).ok())
            .and_then(|key| VerifyingKey::parse(backend, algorithm, &key).ok())
            .map(Some)
            .ok_or(FormatError::PublicKey("its public key is not a base64-encoded point on the suite's curve")),
    }
}

/// Requests the decrypted data key of a message.
pub(crate) async fn for_opening(
    provider: &dyn KeyProvider,
    request: &DecryptDataKeyRequest<'_>,
) -> Result<OpeningMaterials, MaterialsError> {
    let decrypted = provider.decrypt_data_key(request).await?;
    check_len(request.suite, decrypted.plaintext.len())?;
    let (index, count) = (decrypted.index, request.encrypted_data_keys.len());
    let encrypted = request.encrypted_data_keys.get(index).ok_or(DataKeyError::Index { index, count })?;
    // A copy, because the fields may be small parts of a long header.
    let copied = |field: &Bytes| Bytes::copy_from_slice(field);
    let encrypted_data_key = EncryptedDataKey {
        provider_id: encrypted.provider_id.clone(),
        provider_info: copied(&encrypted.provider_info),
        ciphertext: copied(&encrypted.ciphertext),
    };
    let info = KeyInfo { context: request.context.clone(), encrypted_data_key, key_id: decrypted.key_id };
    Ok(OpeningMaterials { data_key: decrypted.plaintext, index, info: Arc::new(info) })
}

fn check_len(suite: AlgorithmSuite, len: usize) -> Result<(), MaterialsError> {
    if len == suite.data_key_len() { Ok(()) } else { Err(DataKeyError::Len { len, suite }.into()) }
}

/// Returns the part of a message's context that the message does not store.
///
/// Checks that each pair that the caller expects is stored with the same value, or is a required pair that is not
/// stored.
pub(crate) fn check_expected(
    stored: SerializedContext<'_>,
    expected: &EncryptionContext,
    required: &BTreeSet<String>,
) -> Result<EncryptionContext, ContextError> {
    check_required_names(expected, required)?;
    let not_stored = if stored.is_sorted() {
        not_stored(stored.pairs(), expected, required)?
    } else {
        let stored = stored.parse();
        not_stored(stored.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), expected, required)?
    };
    stored.check_len_with(&not_stored)?;
    Ok(not_stored)
}

/// Compares the stored pairs, which must be sorted, with the expected ones.
fn not_stored<'a>(
    stored: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    expected: &EncryptionContext,
    required: &BTreeSet<String>,
) -> Result<EncryptionContext, ContextError> {
    let mut stored = stored.peekable();
    let mut not_stored = EncryptionContext::new();
    for (name, value) in expected {
        while stored.next_if(|(stored_name, _)| *stored_name < name.as_bytes()).is_some() {}
        match stored.peek() {
            Some((stored_name, stored_value)) if *stored_name == name.as_bytes() => {
                if *stored_value != value.as_bytes() {
                    return Err(ContextError::ValueDiffers { name: name.into() });
                }
            }
            _ if required.contains(name) => {
                not_stored.insert(name, value);
            }
            _ => return Err(ContextError::PairMissing { name: name.into() }),
        }
    }
    Ok(not_stored)
}

fn check_required_names(context: &EncryptionContext, required: &BTreeSet<String>) -> Result<(), ContextError> {
    match required.iter().find(|name| context.get(name).is_none()) {
        Some(name) => Err(ContextError::RequiredNameMissing { name: name.clone() }),
        None => Ok(()),
    }
}
