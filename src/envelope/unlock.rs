//! From a header to the message's keys.

use std::{sync::Arc, time::Instant};

use super::Envelope;
use crate::{
    cache::Fetch,
    context::EncryptionContext,
    error::OpenError,
    materials::{self, OpeningMaterials},
    message::{ContentType, EncryptedDataKeys, HeaderView},
    stream::{self, MessageInfo, Opener, OpenerParts},
};

impl Envelope {
    /// Returns the opener and the data key of a message. Pass a deadline if another call to a key provider follows, so
    /// that both calls share it.
    pub(super) async fn unlock(
        &self,
        header: &HeaderView<'_>,
        context: &EncryptionContext,
        deadline: Option<Instant>,
    ) -> Result<(Opener, Arc<OpeningMaterials>), OpenError> {
        let settings = &*self.settings;
        let (suite, policy) = (header.suite(), settings.policy);
        if !policy.allows_opening(suite) {
            return Err(OpenError::CommitmentPolicy { suite, policy });
        }
        if let ContentType::Framed { frame_len } = header.content_type() {
            settings.limits.check_frame_len(frame_len)?;
        }
        let verifying_key = materials::verifying_key(header, settings.backend)?;
        let stored = header.context();
        let not_stored = materials::check_expected(stored, context, &settings.required_context)?;
        let encrypted_data_keys = match &self.detached_keys {
            None => header.encrypted_data_keys(),
            Some(keys) if keys.message_id() == header.message_id() => keys.serialized(),
            Some(keys) => {
                return Err(OpenError::DetachedKeys { keys: *keys.message_id(), message: *header.message_id() });
            }
        };
        let fetch = |encrypted_data_keys: EncryptedDataKeys<'_>, deadline| -> Fetch<_> {
            let (settings, encrypted_data_keys) = (self.settings.clone(), encrypted_data_keys.to_keys());
            let mut context = stored.parse();
            context.extend(&not_stored);
            Box::pin(async move { settings.opening_materials(suite, &context, &encrypted_data_keys, deadline).await })
        };
        let authenticate = |materials: &OpeningMaterials| {
            stream::authenticate(header, &materials.data_key, &not_stored, settings.backend, settings.accepts_net_4_0_0)
        };
        let (key, materials, index) = match &settings.cache {
            None => {
                let materials = fetch(encrypted_data_keys, deadline).await?;
                let index = materials.index;
                (authenticate(&materials)?, Arc::new(materials), index)
            }
            Some(cache) => {
                // Several callers may share this call, so it has its own deadline.
                let fetch = |encrypted_data_keys: EncryptedDataKeys<'_>| fetch(encrypted_data_keys, None);
                let lookup = cache.opening(suite, stored, &not_stored, encrypted_data_keys);
                let mut found = lookup.find(0, fetch).await?;
                let key = loop {
                    match authenticate(&found.materials) {
                        // The message also lists the encrypted data key of another message, which is cached. Its own
                        // must be among the others.
                        Err(OpenError::Commitment)
                            if found.is_cached() && encrypted_data_keys.iter().nth(1).is_some() =>
                        {
                            found = lookup.find(found.index + 1, fetch).await?;
                        }
                        authenticated => break authenticated?,
                    }
                };
                let index = found.index;
                (key, found.keep(), index)
            }
        };
        let info = MessageInfo::new(suite, *header.message_id(), index, materials.info.clone());
        let (threads, limits) = (settings.threads.clone(), settings.limits);
        let opener =
            Opener::new(OpenerParts { header, key, info, verifying_key, backend: settings.backend, threads, limits });
        Ok((opener, materials))
    }
}
