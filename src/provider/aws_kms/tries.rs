//! Which of a message's encrypted data keys KMS is asked for, in which region, and for how long.
//!
//! A stranger's message may name a key of ours as often as it likes, so what one message can cost is bounded: by one
//! deadline, by what has been learnt from earlier answers, and by a limit for each key. What was learnt by one provider
//! holds for the next as well, where a message goes through several.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    error::Error,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aws_sdk_kms::{operation::decrypt::DecryptError, types::EncryptionAlgorithmSpec};

use super::{KeyArn, Requests};
use crate::{
    context::EncryptionContext,
    message::EncryptedDataKey,
    provider::{DecryptDataKeyRequest, ProviderError, ProviderErrorKind as Kind, deadline_or_default, share},
};

/// What has been learnt of a message's encrypted data keys.
#[derive(Debug)]
pub(in crate::provider) struct Learnt<'a> {
    encrypted_data_keys: &'a [EncryptedDataKey],
    context: &'a EncryptionContext,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    /// How clients, by their [id](Requests::client_id), were not answered.
    unanswered: HashMap<usize, ProviderError>,
    /// The encrypted data keys that KMS has answered for, of each key.
    answered: HashMap<KeyArn, BTreeSet<usize>>,
    /// What KMS said of those that every region would call invalid.
    invalid: HashMap<(usize, EncryptionAlgorithmSpec), ProviderError>,
}

impl<'a> Learnt<'a> {
    /// Nothing so far.
    pub(in crate::provider) fn new(request: &DecryptDataKeyRequest<'a>) -> Self {
        let DecryptDataKeyRequest { encrypted_data_keys, context, .. } = *request;
        Self { encrypted_data_keys, context, facts: Mutex::default() }
    }

    /// Whether the request is for what this was learnt of, and not for what a provider in between has put in its place.
    pub(in crate::provider) fn is_about(&self, request: &DecryptDataKeyRequest<'_>) -> bool {
        std::ptr::eq(self.encrypted_data_keys, request.encrypted_data_keys)
            && std::ptr::eq(self.context, request.context)
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// Why a try makes no sense, if it makes none.
    fn obstacle(&self, candidate: &Candidate<'_>, limit: u16) -> Option<Obstacle<'_>> {
        let Candidate { requests, arn, algorithm, index } = candidate;
        let invalid = || self.invalid.get(&(*index, algorithm.clone()));
        if let Some(error) = self.unanswered.get(&requests.client_id()).or_else(invalid) {
            return Some(Obstacle::Failed(error));
        }
        let answered = self.answered.get(&arn.without_region());
        let (count, is_known) = answered.map_or((0, false), |of| (of.len(), of.contains(index)));
        (!is_known && count >= limit.into()).then_some(Obstacle::Limit)
    }
}

enum Obstacle<'a> {
    /// Another try has failed, and this one would too.
    Failed(&'a ProviderError),
    Limit,
}

/// An encrypted data key of a message, and a key in one region that may decrypt it.
pub(super) struct Candidate<'a> {
    pub(super) requests: &'a Requests,
    pub(super) arn: KeyArn,
    pub(super) algorithm: EncryptionAlgorithmSpec,
    /// Of the encrypted data key.
    pub(super) index: usize,
}

/// The tries to decrypt one of a message's encrypted data keys, in order.
pub(super) struct Tries<'a> {
    request: &'a DecryptDataKeyRequest<'a>,
    deadline: Instant,
    to_come: VecDeque<Candidate<'a>>,
    learnt: &'a Learnt<'a>,
    /// The encrypted data keys beyond the limit.
    left_alone: BTreeSet<usize>,
    /// Why tries were left out, though not for the limit: the first reason.
    known: Option<ProviderError>,
    errors: Vec<ProviderError>,
}

/// The next try.
pub(super) struct Try<'a> {
    pub(super) candidate: Candidate<'a>,
    pub(super) encrypted: &'a EncryptedDataKey,
    pub(super) deadline: Instant,
}

impl<'a> Tries<'a> {
    /// Goes on from what the request says was learnt before, or else from `learnt`.
    pub(super) fn new(
        request: &'a DecryptDataKeyRequest<'a>,
        learnt: &'a Learnt<'a>,
        candidates: impl IntoIterator<Item = Candidate<'a>>,
    ) -> Self {
        Self {
            request,
            deadline: deadline_or_default(request.deadline),
            to_come: candidates.into_iter().collect(),
            learnt: request.learnt.filter(|learnt| learnt.is_about(request)).unwrap_or(learnt),
            left_alone: BTreeSet::new(),
            known: None,
            errors: Vec::new(),
        }
    }

    /// The next try, which must be over by its deadline.
    pub(super) fn next(&mut self) -> Option<Try<'a>> {
        let (facts, limit) = (self.learnt.facts(), self.request.tries_per_kms_key);
        while let Some(candidate) = self.to_come.pop_front() {
            match facts.obstacle(&candidate, limit) {
                Some(Obstacle::Limit) => {
                    self.left_alone.insert(candidate.index);
                }
                Some(Obstacle::Failed(error)) => {
                    self.known.get_or_insert_with(|| not_sent(error, &candidate.arn));
                }
                None => {
                    let client = candidate.requests.client_id();
                    let is_last = !self
                        .to_come
                        .iter()
                        .any(|next| next.requests.client_id() != client && facts.obstacle(next, limit).is_none());
                    let encrypted = &self.request.encrypted_data_keys[candidate.index];
                    return Some(Try { candidate, encrypted, deadline: share(self.deadline, is_last) });
                }
            }
        }
        None
    }

    /// Takes note that a try has failed.
    pub(super) fn failed(&mut self, candidate: Candidate<'a>, error: ProviderError) {
        let Candidate { requests, arn, algorithm, index } = candidate;
        let mut facts = self.learnt.facts();
        match error.kind() {
            Kind::Throttled | Kind::TimedOut | Kind::Unavailable if !is_about_the_key(&error) => {
                facts.unanswered.insert(requests.client_id(), error.clone());
            }
            kind => {
                if matches!(kind, Kind::InvalidCiphertext | Kind::IncorrectKey) {
                    facts.invalid.insert((index, algorithm), error.clone());
                }
                facts.answered.entry(arn.without_region()).or_default().insert(index);
            }
        }
        self.errors.push(error);
    }

    /// The error where no try has succeeded.
    pub(super) fn into_error(mut self, provider: &impl fmt::Display) -> ProviderError {
        if self.errors.is_empty() {
            self.errors.extend(self.known);
        }
        let (count, limit) = (self.left_alone.len(), self.request.tries_per_kms_key);
        if count > 0 {
            let detail = format!("{count}; the limit under one KMS key is {limit} (Limits::tries_per_kms_key)");
            self.errors.push(ProviderError::new(Kind::NotTried, "Decrypt", provider.to_string()).with_detail(detail));
        }
        self.request.none_decrypted(provider, self.errors)
    }
}

/// The error of a try that was not made, since this one has failed before.
fn not_sent(before: &ProviderError, arn: &KeyArn) -> ProviderError {
    let source = format!("not sent, since an earlier request for this message failed: {before}");
    ProviderError::new(before.kind(), before.operation(), arn.to_string())
        .with_source(source)
        .with_retry_after(before.retry_after())
}

/// Whether KMS has answered that this one key cannot be had, as where its custom key store is away: other keys of the
/// region may be there.
fn is_about_the_key(error: &ProviderError) -> bool {
    let answer = error.source().and_then(|source| source.downcast_ref::<DecryptError>());
    answer.is_some_and(DecryptError::is_key_unavailable_exception)
}
