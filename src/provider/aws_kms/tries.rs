//! Decides which of a message's encrypted data keys to send to KMS, in which region, and with which time limit.
//!
//! An untrusted message can name the same key any number of times. The cost of one message is therefore bounded by a
//! deadline, by the results of earlier requests, and by a limit for each key. If several providers handle a message,
//! they share these results.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    error::Error,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aws_sdk_kms::{
    operation::{decrypt::DecryptError, derive_shared_secret::DeriveSharedSecretError},
    types::EncryptionAlgorithmSpec,
};

use super::{KeyArn, Requests};
use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, ProviderError, ProviderErrorKind as Kind, deadline_or_default,
        not_tried, share,
    },
};

/// The results of the KMS requests for one message so far.
#[derive(Debug)]
pub(in crate::provider) struct Outcomes<'a> {
    encrypted_data_keys: &'a [EncryptedDataKey],
    context: &'a EncryptionContext,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    /// The errors of clients that got no usable answer, by [client id](Requests::client_id).
    unanswered: HashMap<usize, ProviderError>,
    /// For each key, the indexes of the encrypted data keys that KMS has answered for.
    answered: HashMap<KeyArn, BTreeSet<usize>>,
    /// The errors of encrypted data keys that every region would report as invalid.
    invalid: HashMap<(usize, EncryptionAlgorithmSpec), ProviderError>,
}

impl<'a> Outcomes<'a> {
    /// Creates an empty record.
    pub(in crate::provider) fn new(request: &DecryptDataKeyRequest<'a>) -> Self {
        let DecryptDataKeyRequest { encrypted_data_keys, context, .. } = *request;
        Self { encrypted_data_keys, context, facts: Mutex::default() }
    }

    /// Returns whether the request is for the same encrypted data keys and context. A wrapping provider may have
    /// replaced them.
    pub(in crate::provider) fn is_about(&self, request: &DecryptDataKeyRequest<'_>) -> bool {
        std::ptr::eq(self.encrypted_data_keys, request.encrypted_data_keys)
            && std::ptr::eq(self.context, request.context)
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// Returns the reason not to try a candidate, if any.
    fn obstacle(&self, candidate: &Candidate<'_>, limit: u16) -> Option<Obstacle<'_>> {
        let Candidate { requests, arn, algorithm, index } = candidate;
        let invalid = || self.invalid.get(&(*index, algorithm.clone()?));
        if let Some(error) = self.unanswered.get(&requests.client_id()).or_else(invalid) {
            return Some(Obstacle::Failed(error));
        }
        let answered = self.answered.get(&arn.without_region());
        let (count, is_known) = answered.map_or((0, false), |indexes| (indexes.len(), indexes.contains(index)));
        (!is_known && count >= limit.into()).then_some(Obstacle::Limit)
    }
}

enum Obstacle<'a> {
    /// An earlier request failed in a way that this one would too.
    Failed(&'a ProviderError),
    /// The limit on encrypted data keys for one KMS key has been reached.
    Limit,
}

/// An encrypted data key and the key, in one region, that may decrypt it.
pub(super) struct Candidate<'a> {
    pub(super) requests: &'a Requests,
    pub(super) arn: KeyArn,
    /// `None` for key agreement, in which the same encrypted data key can be invalid with one key and valid with
    /// another.
    pub(super) algorithm: Option<EncryptionAlgorithmSpec>,
    /// The index of the encrypted data key.
    pub(super) index: usize,
}

/// The attempts to decrypt one of a message's encrypted data keys, in order.
pub(super) struct Tries<'a> {
    request: &'a DecryptDataKeyRequest<'a>,
    deadline: Instant,
    remaining: VecDeque<Candidate<'a>>,
    outcomes: &'a Outcomes<'a>,
    /// The indexes of the encrypted data keys that were skipped because of the limit.
    over_limit: BTreeSet<usize>,
    /// The first error because of which a candidate was skipped.
    known: Option<ProviderError>,
    errors: Vec<ProviderError>,
}

/// An attempt to make next.
struct Try<'a> {
    candidate: Candidate<'a>,
    encrypted: &'a EncryptedDataKey,
    deadline: Instant,
}

impl<'a> Tries<'a> {
    /// Uses the results recorded in the request, or else `outcomes`.
    pub(super) fn new(
        request: &'a DecryptDataKeyRequest<'a>,
        outcomes: &'a Outcomes<'a>,
        candidates: impl IntoIterator<Item = Candidate<'a>>,
    ) -> Self {
        Self {
            request,
            deadline: deadline_or_default(request.deadline),
            remaining: candidates.into_iter().collect(),
            outcomes: request.outcomes.filter(|outcomes| outcomes.is_about(request)).unwrap_or(outcomes),
            over_limit: BTreeSet::new(),
            known: None,
            errors: Vec::new(),
        }
    }

    /// Makes the attempts until one of them returns the data key. `decrypt` receives the client, the key's ARN, the
    /// encrypted data key, and the time by which it must return.
    pub(super) async fn first_decrypted<R>(
        mut self,
        provider: &impl fmt::Display,
        mut decrypt: impl FnMut(&'a Requests, String, &'a EncryptedDataKey, Instant) -> R,
    ) -> Result<DecryptedDataKey, ProviderError>
    where
        R: Future<Output = Result<SecretKey, ProviderError>>,
    {
        while let Some(Try { candidate, encrypted, deadline }) = self.next() {
            let key_id = candidate.arn.to_string();
            match decrypt(candidate.requests, key_id.clone(), encrypted, deadline).await {
                Ok(key) => return Ok(DecryptedDataKey { plaintext: key, index: candidate.index, key_id }),
                Err(error) => self.failed(candidate, error),
            }
        }
        Err(self.into_error(provider))
    }

    /// Returns the next attempt.
    fn next(&mut self) -> Option<Try<'a>> {
        let (facts, limit) = (self.outcomes.facts(), self.request.tries_per_kms_key);
        while let Some(candidate) = self.remaining.pop_front() {
            match facts.obstacle(&candidate, limit) {
                Some(Obstacle::Limit) => {
                    self.over_limit.insert(candidate.index);
                }
                Some(Obstacle::Failed(error)) => {
                    self.known.get_or_insert_with(|| not_sent(error, &candidate.arn));
                }
                None => {
                    let client = candidate.requests.client_id();
                    let is_last = !self
                        .remaining
                        .iter()
                        .any(|next| next.requests.client_id() != client && facts.obstacle(next, limit).is_none());
                    let encrypted = &self.request.encrypted_data_keys[candidate.index];
                    return Some(Try { candidate, encrypted, deadline: share(self.deadline, is_last) });
                }
            }
        }
        None
    }

    /// Records a failed attempt.
    fn failed(&mut self, candidate: Candidate<'a>, error: ProviderError) {
        let Candidate { requests, arn, algorithm, index } = candidate;
        let mut facts = self.outcomes.facts();
        match error.kind() {
            Kind::Throttled | Kind::TimedOut | Kind::Unavailable if !is_about_the_key(&error) => {
                facts.unanswered.insert(requests.client_id(), error.clone());
            }
            kind => {
                if matches!(kind, Kind::InvalidCiphertext | Kind::IncorrectKey)
                    && let Some(algorithm) = algorithm
                {
                    facts.invalid.insert((index, algorithm), error.clone());
                }
                facts.answered.entry(arn.without_region()).or_default().insert(index);
            }
        }
        self.errors.push(error);
    }

    /// Returns the error to report when no attempt has succeeded.
    fn into_error(mut self, provider: &impl fmt::Display) -> ProviderError {
        if self.errors.is_empty() {
            self.errors.extend(self.known);
        }
        let (count, limit) = (self.over_limit.len(), self.request.tries_per_kms_key);
        if count > 0 {
            self.errors.push(not_tried(count, limit, provider));
        }
        self.request.none_decrypted(provider, self.errors)
    }
}

/// Returns the error of a request that was not sent because an earlier one failed.
fn not_sent(before: &ProviderError, arn: &KeyArn) -> ProviderError {
    let source = format!("not sent, because an earlier request for this message failed: {before}");
    ProviderError::new(before.kind(), before.operation(), arn.to_string())
        .with_source(source)
        .with_retry_after(before.retry_after())
}

/// Returns whether KMS reports only this key as unavailable, such as when its custom key store is disconnected. Other
/// keys in the region may be available.
fn is_about_the_key(error: &ProviderError) -> bool {
    error.source().is_some_and(|source| {
        source.downcast_ref().is_some_and(DecryptError::is_key_unavailable_exception)
            || source.downcast_ref().is_some_and(DeriveSharedSecretError::is_key_unavailable_exception)
    })
}
