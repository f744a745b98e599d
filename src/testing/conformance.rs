//! A test suite for implementations of `KeyProvider`.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding};
use futures_util::future::join_all;
use zeroize::Zeroizing;

use crate::{
    context::EncryptionContext,
    crypto::SecretKey,
    message::EncryptedDataKey,
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        KeyProvider, ProviderError, ProviderErrorKind,
    },
    suite::AlgorithmSuite,
};

/// The maximum length of each field of an encrypted data key: its length field has 16 bits.
const MAX_FIELD_LEN: usize = 65_535;

/// The maximum time of a request whose deadline had passed before it started.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A test suite for implementations of [`KeyProvider`].
///
/// It tests the requirements that an [`Envelope`](crate::Envelope) and its callers rely on. Call
/// [`check`](Self::check) in a test of your provider, on any executor. The suite calls the provider several hundred
/// times, so if the provider calls a paid or rate-limited service, test it with a simulation of the service.
///
/// ```
/// use kms_envelope::{RawAes, testing::Conformance};
///
/// # pollster::block_on(async {
/// let key = RawAes::new("example", "key", [0x1f; 32])?;
/// Conformance::new(&key).with_secret([0x1f; 32]).check().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Requirements
/// - The provider's `Display` output is not empty. Its `Display` and `Debug` output and its errors do not contain a
///   data key or a [secret](Self::with_secret).
/// - Each generated data key is new and has the length that the suite requires. Each encrypted data key fits into a
///   message.
/// - Each encrypted data key decrypts to the data key that was generated or passed in, and
///   [`may_decrypt`](KeyProvider::may_decrypt) returns `true` for it.
/// - The encrypted data key is found, with the right index, in a list with damaged keys and keys of other providers
///   before it. For a list without any key of the provider, the error is [`ProviderErrorKind::NoMatchingKey`].
/// - An encrypted data key does not decrypt with another encryption context, unless
///   [this is not required](Self::without_context_binding).
/// - An encrypted data key whose ciphertext is modified in any byte, truncated or extended is refused with an error
///   that is not retryable. Fields of any length and content are refused without a panic.
/// - Concurrent requests do not affect each other.
/// - A request whose deadline has passed succeeds or fails with a retryable error within 5 seconds.
#[derive(Debug)]
#[must_use = "nothing is tested until check is called"]
pub struct Conformance<'a> {
    sealing: &'a dyn KeyProvider,
    opening: &'a dyn KeyProvider,
    binds_context: bool,
    suites: Vec<AlgorithmSuite>,
    required_context: EncryptionContext,
    secrets: Vec<SecretBytes>,
}

struct SecretBytes(Zeroizing<Vec<u8>>);

/// The pairs of most contexts in the tests.
const COMMON: &[(&str, &str)] = &[("conforms", "acme"), ("größe", "5 µm")];

/// Variations of [`COMMON`].
const DIFFERENT: [&[(&str, &str)]; 7] = [
    &[],
    &[("conforms", "acme")],
    &[("conforms", "acmf"), ("größe", "5 µm")],
    &[("conformr", "acme"), ("größe", "5 µm")],
    &[("conforms", "5 µm"), ("größe", "acme")],
    // The same bytes, divided differently.
    &[("conform", "sacme"), ("größe", "5 µm")],
    &[("conforms", "acme"), ("größe", "5 µm"), ("", "")],
];

impl<'a> Conformance<'a> {
    /// Creates tests of a provider, with all suites.
    pub fn new(provider: &'a dyn KeyProvider) -> Self {
        let suites = AlgorithmSuite::all().collect();
        let (required_context, secrets) = (EncryptionContext::new(), Vec::new());
        Self { sealing: provider, opening: provider, binds_context: true, suites, required_context, secrets }
    }

    /// Decrypts with another provider. Use it if the first provider can only encrypt, for example with a public key.
    pub fn opened_by(self, opening: &'a dyn KeyProvider) -> Self {
        Self { opening, ..self }
    }

    /// Does not require that decryption fails with another encryption context. Use it for providers that cannot bind
    /// data keys to the context, such as `RawRsa`.
    pub fn without_context_binding(self) -> Self {
        Self { binds_context: false, ..self }
    }

    /// Tests only these suites. Use it for providers that do not support all suites, such as `AwsKmsRsa`.
    pub fn with_suites(self, suites: impl IntoIterator<Item = AlgorithmSuite>) -> Self {
        Self { suites: suites.into_iter().collect(), ..self }
    }

    /// Adds these pairs to every context. Use it if the provider needs them, for example because a
    /// [`ByContext`](crate::provider::ByContext) selects the key by their value.
    pub fn with_required_context(self, pairs: EncryptionContext) -> Self {
        Self { required_context: pairs, ..self }
    }

    /// Adds bytes that the provider's output must not contain, for example its key or a token: at least 8 bytes.
    pub fn with_secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secrets.push(SecretBytes(Zeroizing::new(secret.into())));
        self
    }

    /// Runs all tests.
    ///
    /// # Panics
    /// Panics if the provider does not meet a requirement. The message names the requirement.
    pub async fn check(&self) {
        self.has_a_name();
        for suite in &self.suites {
            self.keys_round_trip(*suite).await;
        }
        // For the other requirements, one suite for each key length is enough.
        let mut suites: Vec<_> = self.suites.clone();
        suites.sort_by_key(|suite| suite.data_key_len());
        suites.dedup_by_key(|suite| suite.data_key_len());
        for suite in &suites {
            self.keys_are_found_among_others(*suite).await;
            self.context_is_bound(*suite).await;
            self.other_lengths_are_refused(*suite, &suites).await;
        }
        let Some(suite) = suites.last() else { self.fail("there is no suite to test") };
        self.damaged_keys_are_refused(*suite).await;
        self.fields_of_any_content_are_refused(*suite).await;
        self.concurrent_requests_are_independent(*suite).await;
        self.deadlines_that_have_passed_do_not_hang(*suite).await;
    }

    fn has_a_name(&self) {
        for provider in [self.sealing, self.opening] {
            self.require(!provider.to_string().trim().is_empty(), "its Display must name the provider and its key");
            self.keeps_secret(provider, &[], "the provider");
        }
    }

    async fn keys_round_trip(&self, suite: AlgorithmSuite) {
        let context = self.context(COMMON);
        let generated = self.generate(suite, &context).await;
        let again = self.generate(suite, &context).await;
        self.require(
            generated.plaintext.expose() != again.plaintext.expose(),
            "generate_data_key must return a new key for each request",
        );
        self.round_trip(suite, &context, &generated, "generate_data_key").await;

        let plaintext = given_key(suite);
        let request = EncryptDataKeyRequest::new(suite, &context, &plaintext);
        let encrypted = self.sealing.encrypt_data_key(&request).await;
        let encrypted = encrypted.unwrap_or_else(|error| self.failed("encrypt_data_key", &error));
        let given = GeneratedDataKey::new(plaintext, encrypted);
        self.round_trip(suite, &context, &given, "encrypt_data_key").await;

        // An empty context is valid.
        let none = self.context(&[]);
        let generated = self.generate(suite, &none).await;
        self.round_trip(suite, &none, &generated, "generate_data_key with an empty context").await;
    }

    /// Tests each encrypted form of a data key.
    async fn round_trip(&self, suite: AlgorithmSuite, context: &EncryptionContext, key: &GeneratedDataKey, of: &str) {
        self.require(!key.encrypted_data_keys.is_empty(), format_args!("{of} must return an encrypted data key"));
        for encrypted in &key.encrypted_data_keys {
            self.require(!encrypted.provider_id.is_empty(), format_args!("{of} must name a provider id"));
            self.require(
                encrypted.fields().iter().all(|field| field.len() <= MAX_FIELD_LEN),
                format_args!("the parts of an encrypted data key of {of} must have at most {MAX_FIELD_LEN} bytes"),
            );
            self.require(
                self.opening.may_decrypt(encrypted),
                format_args!("may_decrypt must be true for an encrypted data key of {of}"),
            );
            let list = std::slice::from_ref(encrypted);
            self.decrypts(suite, context, list, 0, &key.plaintext, format_args!("of {of}")).await;
        }
        for provider in [self.sealing, self.opening] {
            self.keeps_secret(provider, &[&key.plaintext], "the provider");
        }
    }

    async fn keys_are_found_among_others(&self, suite: AlgorithmSuite) {
        let context = self.context(COMMON);
        let (one, other) = (self.generate(suite, &context).await, self.generate(suite, &context).await);
        // Of two encrypted data keys under the same key, the first one in the list is decrypted.
        for (one_encrypted, other_encrypted) in one.encrypted_data_keys.iter().zip(&other.encrypted_data_keys) {
            let what = "that is the first of two";
            let list = [one_encrypted.clone(), other_encrypted.clone()];
            self.decrypts(suite, &context, &list, 0, &one.plaintext, what).await;
            let list = [other_encrypted.clone(), one_encrypted.clone()];
            self.decrypts(suite, &context, &list, 0, &other.plaintext, what).await;

            let mut list = foreign();
            list.extend(damaged(one_encrypted));
            let index = list.len();
            list.push(one_encrypted.clone());
            list.extend(foreign());
            let what = "that follows damaged ones and those of other providers";
            self.decrypts(suite, &context, &list, index, &one.plaintext, what).await;
        }
        for list in [Vec::new(), foreign()] {
            match self.decrypt(suite, &context, &list).await {
                Err(error) if error.kind() == ProviderErrorKind::NoMatchingKey => {}
                Err(error) => self.fail(format_args!(
                    "decrypt_data_key must fail with NoMatchingKey if no encrypted data key is the provider's own, \
                     not with: {error}"
                )),
                Ok(_) => self.fail("decrypt_data_key must not return a key if none is the provider's own"),
            }
        }
    }

    async fn context_is_bound(&self, suite: AlgorithmSuite) {
        if !self.binds_context {
            return;
        }
        let context = self.context(COMMON);
        let key = self.generate(suite, &context).await;
        for other in DIFFERENT.map(|pairs| self.context(pairs)) {
            for encrypted in &key.encrypted_data_keys {
                let list = std::slice::from_ref(encrypted);
                self.refuses(suite, &other, list, &key.plaintext, "under another encryption context").await;
            }
        }
        let none = self.context(&[]);
        let key = self.generate(suite, &none).await;
        let list = &key.encrypted_data_keys;
        self.refuses(suite, &context, list, &key.plaintext, "under a context although it was encrypted without one")
            .await;
    }

    /// Tests that a data key is refused for a suite with another key length.
    async fn other_lengths_are_refused(&self, suite: AlgorithmSuite, suites: &[AlgorithmSuite]) {
        let context = self.context(COMMON);
        let key = self.generate(suite, &context).await;
        for other in suites.iter().filter(|other| other.data_key_len() != suite.data_key_len()) {
            let list = &key.encrypted_data_keys;
            self.refuses(*other, &context, list, &key.plaintext, "whose length is not that of the suite").await;
        }
    }

    async fn damaged_keys_are_refused(&self, suite: AlgorithmSuite) {
        let context = self.context(COMMON);
        let key = self.generate(suite, &context).await;
        for encrypted in &key.encrypted_data_keys {
            let with = |ciphertext: Vec<u8>| {
                EncryptedDataKey::new(&encrypted.provider_id, encrypted.provider_info.clone(), ciphertext)
            };
            let ciphertext = &encrypted.ciphertext[..];
            for at in 0..ciphertext.len() {
                let mut changed = ciphertext.to_vec();
                changed[at] ^= 1;
                let what = format_args!("with byte {at} of its ciphertext modified");
                self.refuses(suite, &context, &[with(changed)], &key.plaintext, what).await;
                let what = format_args!("with its ciphertext truncated to {at} bytes");
                self.refuses(suite, &context, &[with(ciphertext[..at].to_vec())], &key.plaintext, what).await;
            }
            let longer = [ciphertext, &[0]].concat();
            self.refuses(suite, &context, &[with(longer)], &key.plaintext, "with a byte after its ciphertext").await;

            // A modified provider info may be refused or ignored.
            for at in 0..encrypted.provider_info.len() {
                let mut info = encrypted.provider_info.to_vec();
                info[at] ^= 1;
                let changed = EncryptedDataKey::new(&encrypted.provider_id, info, encrypted.ciphertext.clone());
                let opened = self.decrypt(suite, &context, &[changed]).await;
                self.require(
                    !opened.is_ok_and(|opened| opened.plaintext.expose() != key.plaintext.expose()),
                    format_args!(
                        "an encrypted data key with byte {at} of its provider info modified must not yield another key"
                    ),
                );
            }
        }
    }

    async fn fields_of_any_content_are_refused(&self, suite: AlgorithmSuite) {
        let context = self.context(COMMON);
        let key = self.generate(suite, &context).await;
        for encrypted in &key.encrypted_data_keys {
            let EncryptedDataKey { provider_id, provider_info, ciphertext, .. } = encrypted;
            let long = |start: &[u8]| [start, &vec![0xff; MAX_FIELD_LEN]].concat()[..MAX_FIELD_LEN].to_vec();
            for (id, info, ciphertext) in [
                (provider_id.clone(), provider_info.to_vec(), long(b"")),
                (provider_id.clone(), provider_info.to_vec(), long(ciphertext)),
                (provider_id.clone(), long(provider_info), long(ciphertext)),
                (provider_id.clone(), long(b""), Vec::new()),
                (provider_id.clone(), Vec::new(), Vec::new()),
                ("x".repeat(MAX_FIELD_LEN), provider_info.to_vec(), ciphertext.to_vec()),
            ] {
                let list = [EncryptedDataKey::new(id, info, ciphertext)];
                self.refuses(suite, &context, &list, &key.plaintext, "with long, empty or non-text fields").await;
            }
        }
    }

    async fn concurrent_requests_are_independent(&self, suite: AlgorithmSuite) {
        let requests = (0..16).map(|number: u8| async move {
            let mut context = self.context(COMMON);
            context.insert("number", number.to_string());
            let key = self.generate(suite, &context).await;
            let (list, what) = (&key.encrypted_data_keys[..1], "while others are decrypted");
            self.decrypts(suite, &context, list, 0, &key.plaintext, what).await;
        });
        join_all(requests).await;
    }

    async fn deadlines_that_have_passed_do_not_hang(&self, suite: AlgorithmSuite) {
        let (context, key) = (self.context(COMMON), given_key(suite));
        let list = self.generate(suite, &context).await.encrypted_data_keys;
        let over = Instant::now();
        let generate = GenerateDataKeyRequest::new(suite, &context).with_deadline(over);
        self.works_or_is_late("generate_data_key", self.sealing.generate_data_key(&generate)).await;
        let encrypt = EncryptDataKeyRequest::new(suite, &context, &key).with_deadline(over);
        self.works_or_is_late("encrypt_data_key", self.sealing.encrypt_data_key(&encrypt)).await;
        let decrypt = DecryptDataKeyRequest::new(suite, &context, &list).with_deadline(over);
        self.works_or_is_late("decrypt_data_key", self.opening.decrypt_data_key(&decrypt)).await;
    }

    async fn works_or_is_late<T>(&self, operation: &str, request: impl Future<Output = Result<T, ProviderError>>) {
        match within(PATIENCE, request).await {
            Some(Err(error)) if !error.is_retryable() => {
                self.fail(format_args!("{operation} after its deadline must fail with a retryable error, not: {error}"))
            }
            Some(_) => {}
            None => self.fail(format_args!("{operation} must end soon after its deadline")),
        }
    }

    fn context(&self, pairs: &[(&str, &str)]) -> EncryptionContext {
        let mut context = self.required_context.clone();
        context.extend(pairs.iter().copied());
        context
    }

    async fn generate(&self, suite: AlgorithmSuite, context: &EncryptionContext) -> GeneratedDataKey {
        let generated = self.sealing.generate_data_key(&GenerateDataKeyRequest::new(suite, context)).await;
        let generated = generated.unwrap_or_else(|error| self.failed("generate_data_key", &error));
        self.require(
            generated.plaintext.len() == suite.data_key_len(),
            format_args!("generate_data_key must return a key of {} bytes for suite {suite}", suite.data_key_len()),
        );
        generated
    }

    async fn decrypt(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        list: &[EncryptedDataKey],
    ) -> Result<DecryptedDataKey, ProviderError> {
        let request = DecryptDataKeyRequest::new(suite, context, list).with_tries_per_kms_key(u16::MAX);
        self.opening.decrypt_data_key(&request).await
    }

    async fn decrypts(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        list: &[EncryptedDataKey],
        index: usize,
        key: &SecretKey,
        what: impl fmt::Display,
    ) {
        let decrypted = match self.decrypt(suite, context, list).await {
            Ok(decrypted) => decrypted,
            Err(error) => self.fail(format_args!("decrypt_data_key must decrypt a key {what}, but failed: {error}")),
        };
        let found = decrypted.index;
        self.require(found == index, format_args!("the index of a key {what} must be {index}, not {found}"));
        self.require(
            decrypted.plaintext.expose() == key.expose(),
            format_args!("decrypt_data_key must return the key that was encrypted, for a key {what}"),
        );
        self.require(!decrypted.key_id.is_empty(), "a decrypted data key must have a key id");
    }

    async fn refuses(
        &self,
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        list: &[EncryptedDataKey],
        key: &SecretKey,
        what: impl fmt::Display,
    ) {
        match self.decrypt(suite, context, list).await {
            Ok(_) => self.fail(format_args!("decrypt_data_key must refuse a key {what}")),
            Err(error) => {
                self.require(
                    !error.is_retryable(),
                    format_args!("the error for a key {what} must not be retryable: {error}"),
                );
                self.keeps_secret(&error, &[key], "an error");
            }
        }
    }

    fn keeps_secret(&self, shown: &(impl fmt::Debug + fmt::Display + ?Sized), keys: &[&SecretKey], what: &str) {
        let mut secrets = keys.iter().map(|key| key.expose()).chain(self.secrets.iter().map(|secret| &secret.0[..]));
        let texts = [shown.to_string(), format!("{shown:?}")];
        self.require(
            !secrets.any(|secret| texts.iter().any(|text| shows(text, secret))),
            format_args!("{what} must not show a key or a secret"),
        );
    }

    fn require(&self, is_met: bool, requirement: impl fmt::Display) {
        if !is_met {
            self.fail(requirement);
        }
    }

    fn failed(&self, operation: &str, error: &ProviderError) -> ! {
        self.fail(format_args!("{operation} must succeed, but failed: {error}"))
    }

    fn fail(&self, requirement: impl fmt::Display) -> ! {
        panic!("the key provider does not conform: {requirement}")
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

/// Returns a fixed data key.
fn given_key(suite: AlgorithmSuite) -> SecretKey {
    let key = SecretKey::filled(suite.data_key_len(), |bytes| {
        bytes.iter_mut().zip(0xc3..).for_each(|(byte, value)| *byte = value);
        Ok::<_, std::convert::Infallible>(())
    });
    key.unwrap_or_else(|never| match never {})
}

/// Returns encrypted data keys that belong to no provider.
fn foreign() -> Vec<EncryptedDataKey> {
    vec![
        EncryptedDataKey::new("conformance", "no such key", vec![7; 48]),
        EncryptedDataKey::new("", "", Vec::new()),
        EncryptedDataKey::new("conformance \u{0} \u{10ffff}", vec![0xff; 100], vec![0; 300]),
    ]
}

/// Returns damaged copies of an encrypted data key, which do not decrypt.
fn damaged(encrypted: &EncryptedDataKey) -> [EncryptedDataKey; 4] {
    let EncryptedDataKey { provider_id, provider_info, ciphertext, .. } = encrypted;
    let last_changed = |bytes: &[u8]| {
        let mut changed = bytes.to_vec();
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        changed
    };
    [
        EncryptedDataKey::new(provider_id, "", Vec::new()),
        EncryptedDataKey::new(provider_id, vec![0xff; 20], vec![0xff; 20]),
        EncryptedDataKey::new(provider_id, provider_info.clone(), last_changed(ciphertext)),
        EncryptedDataKey::new(provider_id, provider_info.clone(), Vec::new()),
    ]
}

/// Returns whether a text contains 8 or more bytes of a secret, in hexadecimal, as a list of numbers or as raw bytes,
/// or the entire secret in base64.
fn shows(text: &str, secret: &[u8]) -> bool {
    let lower_case = text.to_ascii_lowercase();
    let base64 = Base64::encode_string(secret);
    (!secret.is_empty() && text.contains(base64.trim_end_matches('=')))
        || secret.windows(8).any(|bytes| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
            let is_there = text.as_bytes().windows(bytes.len()).any(|window| window == bytes);
            lower_case.contains(&hex) || text.contains(&list) || is_there
        })
}

/// Returns the output of a future, or `None` after the time limit. A thread measures the time, so that no runtime is
/// needed.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let is_late = Arc::new(AtomicBool::new(false));
    // Dropping this sender ends the thread.
    let (_ended, end) = mpsc::channel::<()>();
    let mut end = Some(end);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if is_late.load(Ordering::SeqCst) {
            return Poll::Ready(None);
        }
        if let Some(end) = end.take() {
            let (is_late, waker) = (is_late.clone(), cx.waker().clone());
            thread::spawn(move || {
                if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(limit) {
                    is_late.store(true, Ordering::SeqCst);
                    waker.wake();
                }
            });
        }
        Poll::Pending
    })
    .await
}
