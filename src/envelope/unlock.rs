//! From a header to the message's keys.

use std::{sync::Arc, time::Instant};

use super::Envelope;
use crate::{
    cache::Fetch,
    context::EncryptionContext,
    error::OpenError,
    materials,
    message::{ContentType, EncryptedDataKey, Header},
    provider::DecryptedDataKey,
    stream::{self, MessageInfo, Opener, OpenerParts},
};

impl Envelope {
    /// Returns the opener and the data key of a message. Pass a deadline if another call to a key provider follows, so
    /// that both calls share it.
    pub(super) async fn unlock(
        &self,
        header: &Header,
        context: &EncryptionContext,
        deadline: Option<Instant>,
    ) -> Result<(Opener, Arc<DecryptedDataKey>), OpenError> {
        let settings = &*self.settings;
        let (suite, policy) = (header.suite(), settings.policy);
        if !policy.allows_opening(suite) {
            return Err(OpenError::CommitmentPolicy { suite, policy });
        }
        if let ContentType::Framed { frame_len } = header.content_type() {
            settings.limits.check_frame_len(frame_len)?;
        }
        let verifying_key = materials::verifying_key(header, settings.backend)?;
        let (whole, not_stored) = materials::check_expected(header.context(), context, &settings.required_context)?;
        let encrypted_data_keys = match &self.detached_keys {
            None => header.encrypted_data_keys(),
            Some(keys) if keys.message_id() == header.message_id() => keys.encrypted_data_keys(),
            Some(keys) => {
                return Err(OpenError::DetachedKeys { keys: *keys.message_id(), message: *header.message_id() });
            }
        };
        let authenticate = |data_key: &DecryptedDataKey| {
            stream::authenticate(header, &data_key.plaintext, &not_stored, settings.backend, settings.accepts_net_4_0_0)
        };
        let (key, data_key, index) = match &settings.cache {
            None => {
                let data_key = settings.opening_data_key(suite, &whole, encrypted_data_keys, deadline).await?;
                let index = data_key.index;
                (authenticate(&data_key)?, Arc::new(data_key), index)
            }
            Some(cache) => {
                let fetch = |encrypted_data_keys: &[EncryptedDataKey]| -> Fetch<_> {
                    let (settings, context) = (self.settings.clone(), whole.clone());
                    let encrypted_data_keys = encrypted_data_keys.to_vec();
                    // Several callers may share this call, so it has its own deadline.
                    Box::pin(
                        async move { settings.opening_data_key(suite, &context, &encrypted_data_keys, None).await },
                    )
                };
                let required = not_stored.iter().map(|(name, _)| name);
                let lookup = cache.opening(suite, &whole, required, encrypted_data_keys)?;
                let mut found = lookup.find(0, fetch).await?;
                let key = loop {
                    match authenticate(&found.data_key) {
                        // The message also lists the encrypted data key of another message, which is cached. Its own
                        // must be among the others.
                        Err(OpenError::Commitment) if found.is_cached() && encrypted_data_keys.len() > 1 => {
                            found = lookup.find(found.index + 1, fetch).await?;
                        }
                        authenticated => break authenticated?,
                    }
                };
                let index = found.index;
                (key, found.keep(), index)
            }
        };
        let info = MessageInfo {
            suite,
            message_id: *header.message_id(),
            context: whole,
            encrypted_data_key: encrypted_data_keys[index].clone(),
            encrypted_data_key_index: index,
            key_id: data_key.key_id.clone(),
        };
        let (threads, limits) = (settings.threads.clone(), settings.limits);
        let opener =
            Opener::new(OpenerParts { header, key, info, verifying_key, backend: settings.backend, threads, limits });
        Ok((opener, data_key))
    }
}
