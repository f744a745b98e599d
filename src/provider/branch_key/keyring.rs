//! Encrypts and decrypts data keys with the branch keys of any source. Specification:
//! `framework/aws-kms/aws-kms-hierarchical-keyring.md`, "OnEncrypt", "OnDecrypt".

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Instant};

use super::key::{BranchKey, PROVIDER_ID, Wrapped};
use crate::{
    context::EncryptionContext,
    entry_cache::{Entry, Waiter},
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, ProviderError, failed, invalid_ciphertext,
        not_tried,
    },
};

/// A source of branch keys: memory, or a key store and a cache.
pub(super) trait BranchKeySource: fmt::Display + Sync {
    /// Returns the id of the branch key for a message with this context.
    fn id(&self, context: &EncryptionContext) -> Result<Cow<'_, str>, ProviderError>;

    /// Returns the version of the branch key that encrypts data keys.
    fn active(
        &self,
        id: &str,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Arc<BranchKey>, ProviderError>> + Send;

    /// Returns a version of the branch key. Returns `None` if that needs a request and `may_request` is `false`.
    fn version(
        &self,
        id: &str,
        version: [u8; 16],
        deadline: Option<Instant>,
        may_request: bool,
    ) -> impl Future<Output = Option<Result<Candidate, ProviderError>>> + Send;
}

/// A branch key for a message that is not authenticated yet.
pub(super) struct Candidate {
    pub(super) key: Arc<BranchKey>,
    /// Present if the key comes from a request: the arguments for adding it to the cache.
    pub(super) request: Option<(Waiter<BranchKey>, Arc<Entry<BranchKey>>)>,
}

pub(super) async fn encrypt(
    source: &impl BranchKeySource,
    request: &EncryptDataKeyRequest<'_>,
) -> Result<Vec<EncryptedDataKey>, ProviderError> {
    let id = source.id(request.context)?;
    Ok(vec![source.active(&id, request.deadline).await?.wrap(source, request)?])
}

pub(super) async fn decrypt(
    source: &impl BranchKeySource,
    request: &DecryptDataKeyRequest<'_>,
) -> Result<DecryptedDataKey, ProviderError> {
    let id = source.id(request.context)?;
    let context = request.context.serialize().map_err(|error| failed("Decrypt", source, error))?;
    let (mut attempts, mut requests, mut is_unavailable, mut not_tried_count) = (Vec::new(), 0, false, 0);
    let mut candidates: Vec<([u8; 16], Candidate)> = Vec::new();
    for (index, encrypted) in request.encrypted_data_keys.iter().enumerate() {
        if encrypted.provider_id != PROVIDER_ID || encrypted.provider_info != id.as_bytes() {
            continue;
        }
        let Some(wrapped) = Wrapped::parse(&encrypted.ciphertext) else {
            attempts.push(invalid_ciphertext(source));
            continue;
        };
        if !candidates.iter().any(|(version, _)| *version == wrapped.version) {
            // A message can name any number of versions, so the number of requests is limited.
            let may_request = !is_unavailable && requests < request.tries_per_kms_key;
            match source.version(&id, wrapped.version, request.deadline, may_request).await {
                None => {
                    not_tried_count += usize::from(!is_unavailable);
                    continue;
                }
                Some(Err(error)) => {
                    requests += 1;
                    is_unavailable |= error.is_retryable();
                    attempts.push(error);
                    continue;
                }
                Some(Ok(candidate)) => {
                    requests += u16::from(candidate.request.is_some());
                    candidates.push((wrapped.version, candidate));
                }
            }
        }
        let of_version = candidates.iter().find(|(version, _)| *version == wrapped.version);
        let Some((_, Candidate { key, request: new })) = of_version else { continue };
        match key.unwrap(request.backend, &wrapped, &context, request.suite) {
            Some(data_key) => {
                if let Some((waiter, entry)) = new {
                    waiter.keep_requested(entry);
                }
                return Ok(DecryptedDataKey::new(data_key, index, format!("{PROVIDER_ID}/{id}")));
            }
            None => attempts.push(invalid_ciphertext(source)),
        }
    }
    if not_tried_count > 0 {
        attempts.push(not_tried(not_tried_count, request.tries_per_kms_key, source));
    }
    Err(request.none_decrypted(source, attempts))
}

/// Returns whether an encrypted data key belongs to a branch key: to this one, or to any if `id` is `None`.
pub(super) fn may_decrypt(encrypted: &EncryptedDataKey, id: Option<&str>) -> bool {
    encrypted.provider_id == PROVIDER_ID && id.is_none_or(|id| encrypted.provider_info == id.as_bytes())
}
