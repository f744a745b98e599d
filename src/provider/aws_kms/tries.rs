//! Which of a message's encrypted data keys KMS is asked for, in which region, and for how long.
//!
//! A stranger's message may name a key of ours as often as it likes, so what one message can cost is bounded: by one
//! deadline, by what has been learnt from earlier answers, and by a limit for each key.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    time::Instant,
};

use super::{KeyArn, Requests};
use crate::{
    error::ProviderError,
    message::EncryptedDataKey,
    provider::{DEFAULT_KEY_TIMEOUT, DecryptDataKeyRequest, deadline_after, share},
};

/// An encrypted data key of a message, and a key in one region that may decrypt it.
pub(super) struct Candidate<'a> {
    pub(super) requests: &'a Requests,
    pub(super) arn: KeyArn,
    /// Of the encrypted data key.
    pub(super) index: usize,
}

/// The tries to decrypt one of a message's encrypted data keys, in order.
pub(super) struct Tries<'a> {
    request: &'a DecryptDataKeyRequest<'a>,
    deadline: Instant,
    to_come: VecDeque<Candidate<'a>>,
    /// Regions that have not answered.
    silent: BTreeSet<String>,
    /// The encrypted data keys that KMS has answered for, of each key.
    answered: HashMap<KeyArn, BTreeSet<usize>>,
    /// Those of which every region would say the same.
    invalid: BTreeSet<usize>,
    /// Those beyond the limit.
    left_alone: BTreeSet<usize>,
    errors: Vec<ProviderError>,
}

/// The next try.
pub(super) struct Try<'a> {
    pub(super) candidate: Candidate<'a>,
    pub(super) encrypted: &'a EncryptedDataKey,
    pub(super) deadline: Instant,
}

impl<'a> Tries<'a> {
    pub(super) fn new(
        request: &'a DecryptDataKeyRequest<'a>,
        candidates: impl IntoIterator<Item = Candidate<'a>>,
    ) -> Self {
        Self {
            request,
            deadline: request.deadline.unwrap_or_else(|| deadline_after(DEFAULT_KEY_TIMEOUT)),
            to_come: candidates.into_iter().collect(),
            silent: BTreeSet::new(),
            answered: HashMap::new(),
            invalid: BTreeSet::new(),
            left_alone: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    /// The next try, which must be over by its deadline.
    pub(super) fn next(&mut self) -> Option<Try<'a>> {
        while let Some(candidate) = self.to_come.pop_front() {
            if self.is_beyond_limit(&candidate) {
                self.left_alone.insert(candidate.index);
            } else if self.makes_sense(&candidate) {
                let elsewhere = |next: &Candidate<'_>| next.arn.region != candidate.arn.region;
                let is_last = !self.to_come.iter().any(|next| elsewhere(next) && self.makes_sense(next));
                let encrypted = &self.request.encrypted_data_keys[candidate.index];
                return Some(Try { candidate, encrypted, deadline: share(self.deadline, is_last) });
            }
        }
        None
    }

    /// Takes note that a try has failed.
    pub(super) fn failed(&mut self, candidate: Candidate<'a>, error: ProviderError) {
        let Candidate { arn, index, .. } = candidate;
        match error {
            ProviderError::Throttled { .. } | ProviderError::TimedOut { .. } | ProviderError::Unavailable { .. } => {
                self.silent.insert(arn.region);
            }
            _ => {
                if matches!(error, ProviderError::InvalidCiphertext { .. }) {
                    self.invalid.insert(index);
                }
                self.answered.entry(arn.without_region()).or_default().insert(index);
            }
        }
        self.errors.push(error);
    }

    /// The error where no try has succeeded.
    pub(super) fn into_error(mut self, provider: &impl fmt::Display) -> ProviderError {
        let (count, limit) = (self.left_alone.len(), self.request.tries_per_kms_key);
        if count > 0 {
            self.errors.push(ProviderError::NotTried { count, limit });
        }
        self.request.none_decrypted(provider, self.errors)
    }

    fn is_beyond_limit(&self, candidate: &Candidate<'_>) -> bool {
        let answered = self.answered.get(&candidate.arn.without_region());
        let (count, is_known) = answered.map_or((0, false), |of| (of.len(), of.contains(&candidate.index)));
        !is_known && count >= self.request.tries_per_kms_key.into()
    }

    fn makes_sense(&self, candidate: &Candidate<'_>) -> bool {
        !self.silent.contains(&candidate.arn.region)
            && !self.invalid.contains(&candidate.index)
            && !self.is_beyond_limit(candidate)
    }
}
