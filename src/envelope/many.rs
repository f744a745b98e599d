//! Sealing and opening many messages at once.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    iter::repeat_n,
    ops::Range,
    sync::Arc,
};

use futures_util::{StreamExt, stream};

use super::{
    Envelope,
    buffers::resize,
    unlock::{Checked, Unlocked},
};
use crate::{
    context::EncryptionContext,
    crypto::Random,
    error::{HeaderError, OpenError, SealError},
    materials::{self, OpeningMaterials, SealingMaterials},
    message::{HeaderView, MessageId},
    stream::{MessageInfo, Opener, Sealer, SealerParts, Threads, buffer_len},
    suite::KeyDerivation,
};

/// The maximum number of concurrent calls to the key provider in one run.
const CALLS: usize = 16;

/// The minimum length of a message that is sealed or opened with several threads, like a single one.
const LONG: usize = 1 << 20;

/// The cost of a message in addition to its bytes, as a number of bytes that cost as much.
const MESSAGE_COST: usize = 16 << 10;

impl Envelope {
    /// Encrypts many plaintexts, each as one message with its own encryption context, and writes the messages to
    /// `sealed`, replacing its contents and reusing its memory.
    ///
    /// Returns one result for each plaintext, in their order: the range of its message in `sealed`, or its error. The
    /// messages are the same as those of [`seal`](Self::seal). This is faster for small messages with a
    /// [cache](crate::EnvelopeBuilder::cache), and uses all [threads](crate::EnvelopeBuilder::threads).
    ///
    /// ```
    /// use std::time::Duration;
    /// use kms_envelope::{DataKeyCache, EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// let cache = DataKeyCache::builder(Duration::from_secs(300)).build()?;
    /// let envelope = Envelope::builder(RawAes::generate("example", "key")?).cache(cache).build()?;
    /// let context = EncryptionContext::from([("tenant", "acme")]);
    ///
    /// let records = ["attack at dawn", "retreat at dusk"];
    /// let mut sealed = Vec::new();
    /// let results = envelope.seal_many(records.map(|record| (record.as_bytes(), &context)), &mut sealed).await;
    /// for (result, record) in results.into_iter().zip(records) {
    ///     let message = &sealed[result?];
    ///     assert_eq!(envelope.open(message, &context).await?.plaintext, record.as_bytes());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// After the calls to the key provider, all messages are sealed in the calling task without yielding, as in
    /// [`seal`](Self::seal): in an async service, pass at most about 1 MiB or 100 messages at a time, or use a thread
    /// for blocking work.
    ///
    /// # Calls to the key provider
    /// Without a cache, and in suites without key derivation, each message has its own data key. At most 16 calls run
    /// at a time, each with its own [timeout](crate::EnvelopeBuilder::key_timeout).
    ///
    /// With a cache, messages with the same encryption context share one lookup. Each message and its bytes still count
    /// against the limits of the data key, in the order of the messages, and in the statistics. If a call fails, all
    /// messages that wait for it receive its error, and the statistics count it once: those with the same context that
    /// have no data key yet, up to the next one that is too long for the cache.
    ///
    /// All data keys are requested before the first message is sealed, so some may be older than the cache's maximum
    /// age by then. Use several calls if the provider is slow and there are many contexts.
    ///
    /// # Errors
    /// Each result has the errors of [`seal`](Self::seal). In addition, it is [`SealError::RepeatedMessageId`] if the
    /// generator passed to [`rng`](crate::EnvelopeBuilder::rng) repeats a message id. The error of one message does not
    /// affect the others. If the future is dropped, `sealed` is empty and its memory has been freed.
    pub async fn seal_many<'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a [u8], &'a EncryptionContext)>,
        sealed: &mut Vec<u8>,
    ) -> Vec<Result<Range<usize>, SealError>> {
        let mut buffer = std::mem::take(sealed);
        let messages: Vec<_> = messages.into_iter().collect();
        let runs = self.runs(&messages);
        let mut materials: Vec<_> = messages.iter().map(|_| None).collect();
        let mut found = stream::iter(runs).map(|run| self.materials_of_run(&messages, run)).buffer_unordered(CALLS);
        while let Some(of_run) = found.next().await {
            of_run.into_iter().for_each(|(index, of_message)| materials[index] = Some(of_message));
        }
        drop(found);
        let materials: Vec<_> = materials.into_iter().flatten().collect();
        let results = self.seal_all(&messages, &materials, &mut buffer);
        *sealed = buffer;
        results
    }

    /// Returns the indexes of the messages that can share a data key.
    fn runs(&self, messages: &[(&[u8], &EncryptionContext)]) -> Vec<Vec<usize>> {
        let settings = &*self.settings;
        if settings.cache.is_none() || settings.suite.key_derivation() == KeyDerivation::Identity {
            return (0..messages.len()).map(|index| vec![index]).collect();
        }
        let mut runs: Vec<Vec<usize>> = Vec::new();
        let (mut by_context, mut last) = (BTreeMap::new(), None);
        for (index, (_, context)) in messages.iter().enumerate() {
            let run = match last {
                Some((last_context, run)) if std::ptr::eq(last_context, *context) => run,
                _ => *by_context.entry(*context).or_insert(runs.len()),
            };
            last = Some((*context, run));
            match runs.get_mut(run) {
                Some(run) => run.push(index),
                None => runs.push(vec![index]),
            }
        }
        runs
    }

    /// Returns the materials for each message of a run.
    async fn materials_of_run(
        &self,
        messages: &[(&[u8], &EncryptionContext)],
        run: Vec<usize>,
    ) -> Vec<(usize, Result<Arc<SealingMaterials>, SealError>)> {
        let lens: Vec<_> = run.iter().map(|index| messages[*index].0.len() as u64).collect();
        let mut results = Vec::with_capacity(run.len());
        while results.len() < run.len() {
            let (_, context) = messages[run[results.len()]];
            let lens = &lens[results.len()..];
            match self.materials_of_first(context, lens).await {
                Ok((materials, count)) => results.extend(repeat_n(Ok(materials), count)),
                Err(error) => {
                    // The call was for this message only, or for all that wait for the same data key.
                    let cache = self.settings.cache.as_ref();
                    let waiting = cache.map_or(1, |cache| cache.cacheable(self.settings.suite, lens).max(1));
                    results.extend(repeat_n(Err(error), waiting));
                }
            }
        }
        run.into_iter().zip(results).collect()
    }

    /// Returns the materials for the first of the messages with these lengths, and how many of them they are for.
    async fn materials_of_first(
        &self,
        context: &EncryptionContext,
        lens: &[u64],
    ) -> Result<(Arc<SealingMaterials>, usize), SealError> {
        let settings = &*self.settings;
        materials::check_sealing(context, &settings.required_context)?;
        let Some(cache) = &settings.cache else {
            return Ok((Arc::new(settings.sealing_materials(context).await?), 1));
        };
        let fetch = self.fetch_for_sealing(context);
        Ok(cache.sealing_many(settings.suite, context, &settings.required_context, lens, fetch).await?)
    }

    /// Seals all messages that have materials.
    fn seal_all(
        &self,
        messages: &[(&[u8], &EncryptionContext)],
        materials: &[Result<Arc<SealingMaterials>, SealError>],
        buffer: &mut Vec<u8>,
    ) -> Vec<Result<Range<usize>, SealError>> {
        let settings = &*self.settings;
        let version = settings.suite.message_version();
        let id_len = version.message_id_len();
        // One call is faster than one for each message.
        let mut ids = vec![0; messages.len() * id_len];
        let random = settings.random.fill(&mut ids);
        // Only the caller's generator is checked: the backends' generators do not repeat 16 bytes.
        let mut known = matches!(*settings.random, Random::Given(_)).then(HashSet::new);
        let mut end = 0;
        let parts = messages.iter().zip(materials).zip(ids.chunks(id_len)).map(|(((plaintext, _), materials), id)| {
            let materials = materials.as_ref().map_err(Clone::clone)?;
            random.as_ref().map_err(Clone::clone)?;
            if known.as_mut().is_some_and(|known| !known.insert(id)) {
                return Err(SealError::RepeatedMessageId);
            }
            let threads = self.threads_for(plaintext.len(), messages.len());
            let parts = SealerParts { threads, ..settings.sealer_parts(MessageId::from_bytes(version, id), materials) };
            let start = end;
            let len = parts.sealed_len(plaintext.len() as u64)?.saturating_add(start as u64);
            end = buffer_len(len).ok_or(SealError::TooLongForMemory { len })?;
            Ok((parts, start..end))
        });
        let parts: Vec<Result<_, SealError>> = parts.collect();
        resize(buffer, end);
        let mut rest = &mut buffer[..];
        let mut items: Vec<Result<_, SealError>> = parts
            .into_iter()
            .zip(messages)
            .map(|(parts, (plaintext, _))| {
                let (parts, range) = parts?;
                let out = rest.split_off_mut(..range.len()).unwrap_or_default();
                Ok((parts, *plaintext, out, Ok(range)))
            })
            .collect();
        let cost = cost(messages.iter().map(|(plaintext, _)| plaintext.len()));
        let Ok(()) = settings.threads.each_item(&mut items, cost, |item| {
            if let Ok((parts, plaintext, out, result)) = item
                && let Err(error) = Sealer::seal_buffer(*parts, plaintext, out)
            {
                out.fill(0);
                *result = Err(error);
            }
            Ok::<_, Infallible>(())
        });
        items.into_iter().map(|item| item.and_then(|(.., result)| result)).collect()
    }

    /// Decrypts many messages, each with the pairs that its encryption context must contain, and writes the plaintexts
    /// to `plaintexts`, replacing its contents and reusing its memory.
    ///
    /// Returns one result for each message, in their order: the range of its plaintext in `plaintexts` and its
    /// metadata, or its error. Between the ranges, `plaintexts` contains zeros. This is faster than
    /// [`open`](Self::open) for small messages with a [cache](crate::EnvelopeBuilder::cache), and uses all
    /// [threads](crate::EnvelopeBuilder::threads).
    ///
    /// Without a cache, each message has its own call to the key provider. At most 16 calls run at a time, each with
    /// its own [timeout](crate::EnvelopeBuilder::key_timeout).
    ///
    /// ```
    /// use kms_envelope::{EncryptionContext, Envelope, RawAes};
    ///
    /// # pollster::block_on(async {
    /// # let envelope = Envelope::new(RawAes::generate("example", "key")?);
    /// # let context = EncryptionContext::new();
    /// let messages = [envelope.seal(b"dawn", &context).await?, envelope.seal(b"dusk", &context).await?];
    ///
    /// let mut plaintexts = Vec::new();
    /// let results =
    ///     envelope.open_many(messages.iter().map(|message| (&message[..], &context)), &mut plaintexts).await;
    /// for (result, expected) in results.into_iter().zip([b"dawn", b"dusk"]) {
    ///     let (range, _info) = result?;
    ///     assert_eq!(plaintexts[range], expected[..]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Each result has the errors of [`open`](Self::open). The error of one message does not affect the others, and no
    /// plaintext of it is released. If the future is dropped, `plaintexts` is empty and its memory has been freed.
    pub async fn open_many<'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a [u8], &'a EncryptionContext)>,
        plaintexts: &mut Vec<u8>,
    ) -> Vec<Result<(Range<usize>, MessageInfo), OpenError>> {
        let mut buffer = std::mem::take(plaintexts);
        let limits = &self.settings.limits;
        let messages = messages.into_iter();
        let mut parsed: Vec<Result<(HeaderView<'_>, _, _), HeaderError>> = Vec::with_capacity(messages.size_hint().0);
        for (sealed, context) in messages {
            let like = match parsed.last() {
                Some(Ok((last, ..))) => HeaderView::parse_like(sealed, last),
                _ => None,
            };
            parsed.push(like.map_or_else(|| HeaderView::parse(sealed, limits), Ok).map(|header| {
                let body = &sealed[header.as_bytes().len()..];
                (header, body, context)
            }));
        }
        let mut checked: Vec<CheckedItem<'_>> = Vec::with_capacity(parsed.len());
        let (mut last_context, mut shared) = (None, 0);
        for parsed in &parsed {
            // Consecutive messages with the same data key share one lookup.
            let item = match (parsed, checked.last()) {
                (Ok((header, body, context)), Some(Ok((last, Some(Key::Cached(materials, index)), _))))
                    if last_context.is_some_and(|last| std::ptr::eq(last, *context)) =>
                {
                    let like = self.check_like(header, last);
                    like.map(|checked| (checked, Some(Key::Cached(materials.clone(), *index)), *body))
                }
                _ => None,
            };
            shared += u64::from(item.is_some());
            checked.push(match (item, parsed) {
                (Some(item), _) => Ok(item),
                (None, Ok((header, body, context))) => {
                    last_context = Some(*context);
                    self.check(header, context).map(|checked| {
                        let key = self.cached_key(&checked);
                        (checked, key, *body)
                    })
                }
                (None, Err(error)) => Err(error.clone().into()),
            });
        }
        if let Some(cache) = &self.settings.cache {
            cache.count_opened(shared);
        }
        let missing = checked.iter().enumerate().filter_map(|(index, item)| match item {
            Ok((checked, None, _)) => Some((index, checked)),
            _ => None,
        });
        let missing: Vec<_> = missing.collect();
        // The keys are found in order, so that all but the first messages find a new data key in the cache.
        let found: Vec<_> =
            stream::iter(0..missing.len()).map(|at| self.key_of(missing[at])).buffered(CALLS).collect().await;
        for (index, key) in found {
            match (key, &mut checked[index]) {
                (Ok(found), Ok((_, key, _))) => *key = Some(found),
                (Err(error), item) => *item = Err(error),
                (Ok(_), Err(_)) => {}
            }
        }
        // A plaintext is never longer than the body.
        let lens = || checked.iter().map(|item| item.as_ref().map_or(0, |(_, _, body)| body.len()));
        let cost = cost(lens());
        resize(&mut buffer, lens().sum());
        let mut rest = &mut buffer[..];
        let mut start = 0;
        let count = checked.len();
        let mut items: Vec<Result<_, OpenError>> = checked
            .into_iter()
            .map(|item| {
                let (checked, key, body) = item?;
                let out = rest.split_off_mut(..body.len()).unwrap_or_default();
                let item = OpenItem { checked, key, body, out, start };
                start += body.len();
                Ok((item, Err(0)))
            })
            .collect();
        let Ok(()) = self.settings.threads.each_item(&mut items, cost, |item| {
            if let Ok((item, result)) = item {
                *result = item.open(self, self.threads_for(item.body.len(), count));
            }
            Ok::<_, Infallible>(())
        });
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            results.push(match item {
                Ok((_, Ok(result))) => result,
                Ok((mut item, Err(next))) => {
                    let unlocked = self.find_key(&item.checked, next, None).await;
                    item.open_with(unlocked, self, &Threads::One)
                }
                Err(error) => Err(error),
            });
        }
        *plaintexts = buffer;
        results
    }

    /// Returns the threads for one of `count` messages. Short ones are divided among the threads as they are.
    fn threads_for(&self, len: usize, count: usize) -> &Threads {
        if count == 1 || len >= LONG { &self.settings.threads } else { &Threads::One }
    }

    /// Returns the cached key of a message.
    fn cached_key(&self, checked: &Checked<'_>) -> Option<Key> {
        self.find_cached(checked).map(|(materials, index)| Key::Cached(materials, index))
    }

    /// Returns the key of a message, and the message's index.
    async fn key_of(&self, (index, checked): (usize, &Checked<'_>)) -> (usize, Result<Key, OpenError>) {
        let key = match self.cached_key(checked) {
            Some(key) => Ok(key),
            None => self.find_key(checked, 0, None).await.map(Key::Verified),
        };
        (index, key)
    }
}

type OpenResult = Result<(Range<usize>, MessageInfo), OpenError>;

/// A message whose header has been checked: its header, its data key if it is known, and its body.
type CheckedItem<'a> = Result<(Checked<'a>, Option<Key>, &'a [u8]), OpenError>;

/// The data key of a message.
enum Key {
    /// From the cache. The message's header has not been verified with it.
    Cached(Arc<OpeningMaterials>, usize),
    Verified(Unlocked),
}

/// A message to open.
struct OpenItem<'a> {
    checked: Checked<'a>,
    key: Option<Key>,
    body: &'a [u8],
    out: &'a mut [u8],
    /// The offset of `out`.
    start: usize,
}

impl<'a> OpenItem<'a> {
    /// Opens the message. If the cached data key is not that of the message, which lists others, too, returns the index
    /// of the next one to try.
    fn open(&mut self, envelope: &Envelope, threads: &'a Threads) -> Result<OpenResult, usize> {
        let unlocked = match self.key.take().ok_or(0usize)? {
            Key::Verified(unlocked) => Ok(unlocked),
            Key::Cached(materials, index) => envelope.verify_cached(&self.checked, (materials, index))?,
        };
        Ok(self.open_with(unlocked, envelope, threads))
    }

    /// Opens the message, and fills the rest of its memory with zeros.
    fn open_with(
        &mut self,
        unlocked: Result<Unlocked, OpenError>,
        envelope: &Envelope,
        threads: &'a Threads,
    ) -> OpenResult {
        let opened = unlocked.and_then(|unlocked| {
            let parts = envelope.opener_parts(&mut self.checked, unlocked, threads);
            let (len, info) = Opener::open_buffer(parts, self.body, |_| self.out)?;
            Ok((self.start..self.start + len, info))
        });
        self.out[opened.as_ref().map_or(0, |(range, _)| range.len())..].fill(0);
        opened
    }
}

fn cost(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, |cost, len| cost.saturating_add(len).saturating_add(MESSAGE_COST))
}
