//! From a header to the message's keys.

use std::{sync::Arc, time::Instant};

use super::Envelope;
use crate::{
    cache::{Fetch, Opening},
    context::EncryptionContext,
    crypto::{AesGcm, VerifyingKey},
    error::OpenError,
    materials::{self, OpeningMaterials},
    message::{ContentType, EncryptedDataKeys, HeaderView},
    stream::{self, MessageInfo, Opener, OpenerParts, Threads},
};

/// A header that has passed all checks that need no data key.
pub(super) struct Checked<'a> {
    header: &'a HeaderView<'a>,
    verifying_key: Option<VerifyingKey>,
    /// The part of the encryption context that the message does not store.
    not_stored: EncryptionContext,
    /// Without padding.
    encrypted_data_keys: EncryptedDataKeys<'a>,
}

/// The keys of a message whose header has been verified.
pub(super) struct Unlocked {
    pub(super) key: AesGcm,
    pub(super) materials: Arc<OpeningMaterials>,
    /// The index of the encrypted data key in the message's list.
    pub(super) index: usize,
}

impl Envelope {
    /// Returns the opener and the data key of a message. Pass a deadline if another call to a key provider follows, so
    /// that both calls share it.
    pub(super) async fn unlock(
        &self,
        header: &HeaderView<'_>,
        context: &EncryptionContext,
        deadline: Option<Instant>,
    ) -> Result<(Opener, Arc<OpeningMaterials>), OpenError> {
        let mut checked = self.check(header, context)?;
        let unlocked = self.find_key(&checked, 0, deadline).await?;
        let materials = unlocked.materials.clone();
        Ok((Opener::new(self.opener_parts(&mut checked, unlocked, &self.settings.threads)), materials))
    }

    /// Checks everything that needs no data key.
    pub(super) fn check<'a>(
        &'a self,
        header: &'a HeaderView<'a>,
        context: &EncryptionContext,
    ) -> Result<Checked<'a>, OpenError> {
        let settings = &*self.settings;
        let (suite, policy) = (header.suite(), settings.policy);
        if !policy.allows_opening(suite) {
            return Err(OpenError::CommitmentPolicy { suite, policy });
        }
        if let ContentType::Framed { frame_len } = header.content_type() {
            settings.limits.check_frame_len(frame_len)?;
        }
        let verifying_key = materials::verifying_key(header, settings.backend)?;
        let not_stored = materials::check_expected(header.context(), context, &settings.required_context)?;
        let encrypted_data_keys = match &self.detached_keys {
            None => header.encrypted_data_keys().without_padding(),
            Some(keys) if keys.message_id() == header.message_id() => keys.serialized(),
            Some(keys) => {
                return Err(OpenError::DetachedKeys { keys: *keys.message_id(), message: *header.message_id() });
            }
        };
        Ok(Checked { header, verifying_key, not_stored, encrypted_data_keys })
    }

    /// Like [`check`](Self::check) with the same expected context as for another header, if both differ only in what
    /// the checks do not depend on.
    pub(super) fn check_like<'a>(&self, header: &'a HeaderView<'a>, other: &Checked<'_>) -> Option<Checked<'a>> {
        let encrypted_data_keys = header.encrypted_data_keys().without_padding();
        let is_same = self.detached_keys.is_none()
            && header.suite() == other.header.suite()
            && header.suite().signature().is_none()
            && header.content_type() == other.header.content_type()
            && header.context().as_bytes() == other.header.context().as_bytes()
            && encrypted_data_keys.as_bytes() == other.encrypted_data_keys.as_bytes();
        is_same.then(|| Checked {
            header,
            verifying_key: None,
            not_stored: other.not_stored.clone(),
            encrypted_data_keys,
        })
    }

    /// Finds the data key of a message, in the cache or with the key provider, and verifies the header with it. `from`
    /// is the index of the first encrypted data key to look for in the cache.
    pub(super) async fn find_key(
        &self,
        checked: &Checked<'_>,
        from: usize,
        deadline: Option<Instant>,
    ) -> Result<Unlocked, OpenError> {
        let Checked { header, not_stored, encrypted_data_keys, .. } = checked;
        let fetch = |encrypted_data_keys: EncryptedDataKeys<'_>, deadline| -> Fetch<_> {
            let (settings, suite) = (self.settings.clone(), header.suite());
            let encrypted_data_keys = encrypted_data_keys.to_keys();
            let mut context = header.context().parse();
            context.extend(not_stored);
            Box::pin(async move { settings.opening_materials(suite, &context, &encrypted_data_keys, deadline).await })
        };
        let Some(lookup) = self.lookup(checked) else {
            let materials = Arc::new(fetch(*encrypted_data_keys, deadline).await?);
            return Ok(Unlocked { key: self.verify(checked, &materials)?, index: materials.index, materials });
        };
        // Several callers may share this call, so it has its own deadline.
        let fetch = |encrypted_data_keys: EncryptedDataKeys<'_>| fetch(encrypted_data_keys, None);
        let mut found = lookup.find(from, fetch).await?;
        let key = loop {
            match self.verify(checked, &found.materials) {
                // The message also lists the encrypted data key of another message, which is cached. Its own must be
                // among the others.
                Err(OpenError::Commitment) if found.is_cached() && checked.has_several_keys() => {
                    found = lookup.find(found.index + 1, fetch).await?;
                }
                verified => break verified?,
            }
        };
        Ok(Unlocked { key, index: found.index, materials: found.keep() })
    }

    /// Returns the lookup of a message's data key, if there is a cache.
    fn lookup<'a>(&'a self, checked: &'a Checked<'_>) -> Option<Opening<'a>> {
        let Checked { header, not_stored, encrypted_data_keys, .. } = checked;
        let cache = self.settings.cache.as_ref()?;
        Some(cache.opening(header.suite(), header.context(), not_stored, *encrypted_data_keys))
    }

    /// Returns the data key that [`find_key`](Self::find_key) would try first, and its index, if it is in the cache and
    /// needs no renewal. It has not been verified.
    pub(super) fn find_cached(&self, checked: &Checked<'_>) -> Option<(Arc<OpeningMaterials>, usize)> {
        self.lookup(checked)?.cached()
    }

    /// Verifies a header with a data key from the cache. If that is not the data key of the message, which lists others,
    /// too, returns the index from which to [find](Self::find_key) it.
    pub(super) fn verify_cached(
        &self,
        checked: &Checked<'_>,
        (materials, index): (Arc<OpeningMaterials>, usize),
    ) -> Result<Result<Unlocked, OpenError>, usize> {
        match self.verify(checked, &materials) {
            Err(OpenError::Commitment) if checked.has_several_keys() => Err(index + 1),
            verified => Ok(verified.map(|key| Unlocked { key, materials, index })),
        }
    }

    /// Verifies a header with a data key, and returns the key of the body.
    pub(super) fn verify(&self, checked: &Checked<'_>, materials: &OpeningMaterials) -> Result<AesGcm, OpenError> {
        let (settings, Checked { header, not_stored, .. }) = (&*self.settings, checked);
        stream::authenticate(header, &materials.data_key, not_stored, settings.backend, settings.accepts_net_4_0_0)
    }

    /// Returns the arguments for the opener of a message.
    pub(super) fn opener_parts<'a>(
        &self,
        checked: &mut Checked<'a>,
        unlocked: Unlocked,
        threads: &'a Threads,
    ) -> OpenerParts<'a> {
        let (header, verifying_key) = (checked.header, checked.verifying_key.take());
        let Unlocked { key, materials, index } = unlocked;
        let info = MessageInfo::new(header.suite(), *header.message_id(), index, materials.info.clone());
        let (backend, limits) = (self.settings.backend, self.settings.limits);
        OpenerParts { header, key, info, verifying_key, backend, threads, limits }
    }
}

impl Checked<'_> {
    pub(super) fn has_several_keys(&self) -> bool {
        self.encrypted_data_keys.iter().nth(1).is_some()
    }
}
