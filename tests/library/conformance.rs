//! The conformance suite for key providers: all providers that need no service pass it, and faulty ones fail.

use std::{
    fmt,
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    time::Instant,
};

use async_trait::async_trait;
use kms_envelope::{
    AlgorithmSuite, EncryptionContext, Envelope, KeyProvider, ProviderError, RawAes,
    message::EncryptedDataKey,
    provider::{
        ByContext, DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest,
        GeneratedDataKey, MultiProvider, ProviderErrorKind, SecretKey,
    },
    testing::{Conformance, MemoryKey, MockKeyProvider, ScriptedProvider},
};
use pollster::block_on;

const KEY: [u8; 32] = *b"q8Zr2VxK5LmN7pTw9sYb3dFg6hJk1cXe";

fn local(name: &str) -> RawAes {
    RawAes::new("tests", name, KEY).unwrap()
}

fn conforms(provider: &dyn KeyProvider) {
    block_on(Conformance::new(provider).with_secret(KEY).check());
}

#[test]
fn a_raw_aes_key_of_each_length_conforms() {
    for len in [16, 24, 32] {
        conforms(&RawAes::new("tests", "name", SecretKey::try_from(&KEY[..len]).unwrap()).unwrap());
    }
    // Names that could be confused with others.
    conforms(&RawAes::new("tests", "", KEY).unwrap());
}

#[test]
fn the_providers_for_tests_conform() {
    conforms(&MemoryKey::new().unwrap());
    conforms(&ScriptedProvider::new(local("scripted")));
}

#[test]
fn a_provider_behind_a_pointer_conforms() {
    conforms(&(Arc::new(local("shared")) as Arc<dyn KeyProvider>));
    conforms(&(Box::new(local("boxed")) as Box<dyn KeyProvider>));
}

#[test]
fn several_providers_combined_conform() {
    let nested = MultiProvider::new(local("c")).with(local("d"));
    conforms(&MultiProvider::new(local("a")).with(MemoryKey::new().unwrap()).with(nested));
}

#[test]
fn a_provider_chosen_by_context_conforms() {
    let keys = ByContext::new(["tenant"], |[tenant]| async move { Ok::<_, ProviderError>(local(&tenant)) });
    let context = EncryptionContext::from([("tenant", "acme")]);
    block_on(Conformance::new(&keys).with_required_context(context).with_secret(KEY).check());
}

#[cfg(feature = "rsa")]
mod rsa {
    use kms_envelope::provider::{RawRsa, RsaPadding};
    use test_support::fixtures::{RSA_PRIVATE, RSA_PUBLIC};

    use super::*;

    fn conforms_with(padding: RsaPadding) {
        let key = || RawRsa::new("tests", "rsa", padding).unwrap();
        let sealing = key().with_public_key_pem(RSA_PUBLIC).unwrap();
        let opening = key().with_private_key_pem(RSA_PRIVATE).unwrap();
        let suite = Conformance::new(&sealing).opened_by(&opening);
        block_on(suite.without_context_binding().with_secret(RSA_PRIVATE).check());
    }

    #[test]
    fn an_rsa_key_conforms_with_oaep() {
        conforms_with(RsaPadding::OaepSha256);
    }

    #[test]
    fn an_rsa_key_conforms_with_pkcs1() {
        conforms_with(RsaPadding::Pkcs1v15);
    }

    #[test]
    fn an_rsa_key_does_not_bind_the_context() {
        let key = RawRsa::new("tests", "rsa", RsaPadding::OaepSha256).unwrap();
        let both = key.with_public_key_pem(RSA_PUBLIC).unwrap().with_private_key_pem(RSA_PRIVATE).unwrap();
        let refused = failure(Conformance::new(&both));
        assert!(refused.ends_with("must refuse a key under another encryption context"), "{refused}");
    }
}

#[cfg(feature = "ecdh")]
#[test]
fn elliptic_curve_keys_conform_in_each_scheme() {
    use kms_envelope::provider::{EcdhPrivateKey, EcdhPublicKey, RawEcdh};
    use test_support::fixtures::pem;

    for curve in ["p256", "p384", "p521"] {
        let private = || EcdhPrivateKey::from_pem(&pem(&format!("{curve}-private"))).unwrap();
        let public = || EcdhPublicKey::from_pem(&pem(&format!("{curve}-public"))).unwrap();
        let (ephemeral, discovery) = (RawEcdh::ephemeral(public()), RawEcdh::discovery(private()));
        block_on(Conformance::new(&ephemeral).opened_by(&discovery).check());
    }
    let [private, public] = [pem("p256-private"), pem("p256-public")];
    let (private, public) = (EcdhPrivateKey::from_pem(&private).unwrap(), EcdhPublicKey::from_pem(&public).unwrap());
    conforms(&RawEcdh::static_keys(private, public).unwrap());
}

#[cfg(feature = "branch-key")]
#[test]
fn a_branch_key_conforms() {
    conforms(&kms_envelope::provider::StaticBranchKey::new("branch", [3; 16], KEY).unwrap());
}

#[test]
fn every_method_of_a_mock_can_be_expected() {
    let encrypted = || EncryptedDataKey::new("mock", "key", &b"c"[..]);
    let mut mock = MockKeyProvider::new();
    let generated =
        move |_: &GenerateDataKeyRequest<'_>| Ok(GeneratedDataKey::new(SecretKey::from(KEY), vec![encrypted()]));
    mock.expect_generate_data_key().times(1).returning(generated);
    mock.expect_encrypt_data_key().times(1).returning(move |_| Ok(vec![encrypted()]));
    mock.expect_decrypt_data_key().times(1).returning(|_| Ok(DecryptedDataKey::new(SecretKey::from(KEY), 0, "mock")));
    mock.expect_may_decrypt().times(1).withf(|encrypted| encrypted.provider_id == "mock").return_const(true);

    let mock = Arc::new(mock);
    let context = EncryptionContext::new();
    let sealed = block_on(Envelope::new(mock.clone()).seal(b"data", &context)).unwrap();
    // In a `MultiProvider`, `may_decrypt` is also called.
    let several = Envelope::new(MultiProvider::new(local("first")).with(mock.clone()));
    assert_eq!(block_on(several.open(&sealed, &context)).unwrap().plaintext, b"data");
    block_on(several.seal(b"data", &context)).unwrap();
    assert_eq!(mock.to_string(), "MockKeyProvider");
}

// Faulty providers.

/// The fault of a provider.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    NoName,
    ShowsItsKey,
    ShowsDataKeysInErrors,
    GeneratesTheSameKey,
    GeneratesShortKeys,
    ReturnsNoEncryptedForm,
    ReturnsLongParts,
    EncryptsAnotherKey,
    DeniesItsOwnKeys,
    IgnoresTheContext,
    IgnoresTheLength,
    NamesTheWrongIndex,
    ReturnsTheWrongKey,
    TriesOnlyTheFirst,
    TakesForeignKeysForItsOwn,
    DoesNotAuthenticate,
    PanicsOnShortParts,
    CallsDamageRetryable,
    MixesUpRequests,
    HangsAfterTheDeadline,
    FailsForGoodAfterTheDeadline,
}

/// A provider with one fault.
struct Bad {
    fault: Fault,
    key: RawAes,
    /// The most recently generated data key.
    last: Mutex<Vec<u8>>,
}

impl Bad {
    fn new(fault: Fault) -> Self {
        Self { fault, key: local("bad"), last: Mutex::default() }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn error(&self, source: impl Into<String>) -> ProviderError {
        ProviderError::new(ProviderErrorKind::Other, "Test", "bad").with_source(source.into())
    }

    fn context(&self, context: &EncryptionContext) -> EncryptionContext {
        if self.is(Fault::IgnoresTheContext) { EncryptionContext::new() } else { context.clone() }
    }

    /// Returns an unauthenticated encryption: the data key with a reused one-time pad, and the context.
    fn pad(&self, key: &[u8], context: &EncryptionContext) -> Vec<u8> {
        let padded = key.iter().zip(KEY).map(|(byte, pad)| byte ^ pad).collect::<Vec<_>>();
        [padded, context.serialize().unwrap()].concat()
    }

    /// Lets another task run.
    async fn turn() {
        let mut is_over = false;
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut is_over, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn check_deadline(&self, deadline: Option<Instant>) -> Result<(), ProviderError> {
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        match self.fault {
            Fault::HangsAfterTheDeadline if is_over => pending().await,
            Fault::FailsForGoodAfterTheDeadline if is_over => Err(self.error("too late")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is(Fault::NoName) { Ok(()) } else { f.write_str("tests/bad") }
    }
}

impl fmt::Debug for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bad")?;
        if self.is(Fault::ShowsItsKey) { write!(f, "({:?})", self.key.key().expose()) } else { Ok(()) }
    }
}

#[async_trait]
impl KeyProvider for Bad {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.check_deadline(request.deadline).await?;
        let len = if self.is(Fault::GeneratesShortKeys) { 16 } else { request.suite.data_key_len() };
        let mut bytes = vec![0; len];
        if !self.is(Fault::GeneratesTheSameKey) {
            request.randomness.fill(&mut bytes)?;
        }
        self.last.lock().unwrap().clone_from(&bytes);
        if self.is(Fault::MixesUpRequests) {
            Self::turn().await;
        }
        let last = SecretKey::try_from(self.last.lock().unwrap().clone()).unwrap();
        let encrypted = self.encrypt_data_key(&request.to_encrypt(&last)).await?;
        Ok(GeneratedDataKey::new(SecretKey::try_from(bytes).unwrap(), encrypted))
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.check_deadline(request.deadline).await?;
        let (context, other) = (self.context(request.context), SecretKey::from([1; 32]));
        let mut request = *request;
        request.context = &context;
        let is_last = *self.last.lock().unwrap() == request.data_key.expose();
        if self.is(Fault::EncryptsAnotherKey) && !is_last {
            request.data_key = &other;
        }
        let mut encrypted = self.key.encrypt_data_key(&request).await?;
        match self.fault {
            Fault::ReturnsNoEncryptedForm => encrypted.clear(),
            Fault::ReturnsLongParts => encrypted[0].provider_info = vec![0; 65_536].into(),
            Fault::DoesNotAuthenticate => {
                let ciphertext = self.pad(request.data_key.expose(), request.context);
                encrypted = vec![EncryptedDataKey::new("pad", "bad", ciphertext)];
            }
            _ => {}
        }
        Ok(encrypted)
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.check_deadline(request.deadline).await?;
        let context = self.context(request.context);
        let mut request = *request;
        request.context = &context;
        let keys = request.encrypted_data_keys;
        match self.fault {
            Fault::TriesOnlyTheFirst => request.encrypted_data_keys = &keys[..keys.len().min(1)],
            Fault::PanicsOnShortParts => keys.iter().filter(|key| key.provider_id == "tests").for_each(|key| {
                assert!(key.ciphertext.len() >= 16, "as if it had been sliced");
            }),
            Fault::IgnoresTheLength => {
                let len = keys.last().map_or(0, |key| key.ciphertext.len());
                let suite = AlgorithmSuite::all().find(|suite| suite.data_key_len() + 16 == len);
                request.suite = suite.unwrap_or(request.suite);
            }
            Fault::DoesNotAuthenticate => {
                return request.first_decrypted(self, |encrypted| {
                    let padded = encrypted.ciphertext.strip_suffix(&context.serialize().unwrap()[..]);
                    let is_ours = encrypted.provider_id == "pad" && encrypted.provider_info == "bad";
                    let key = padded.filter(|padded| is_ours && padded.len() == request.suite.data_key_len())?;
                    Some(
                        SecretKey::try_from(self.pad(key, &EncryptionContext::new())).map_err(|_| self.error("length")),
                    )
                });
            }
            _ => {}
        }
        let mut decrypted = self.key.decrypt_data_key(&request).await.map_err(|error| match self.fault {
            Fault::TakesForeignKeysForItsOwn => self.error("it is not mine"),
            Fault::CallsDamageRetryable if !keys.is_empty() && keys[0].provider_id == "tests" => {
                ProviderError::new(ProviderErrorKind::Throttled, "Decrypt", "bad")
            }
            Fault::ShowsDataKeysInErrors if keys.len() == 1 => self.error(format!("{:?}", self.last.lock().unwrap())),
            _ => error,
        })?;
        match self.fault {
            Fault::NamesTheWrongIndex => decrypted.index = 0,
            Fault::ReturnsTheWrongKey if decrypted.plaintext.len() == 24 => {
                decrypted.plaintext = SecretKey::try_from(vec![1; 24]).unwrap();
            }
            _ => {}
        }
        Ok(decrypted)
    }

    fn may_decrypt(&self, _: &EncryptedDataKey) -> bool {
        !self.is(Fault::DeniesItsOwnKeys)
    }
}

/// Returns the message of the suite's panic.
fn failure(suite: Conformance<'_>) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| block_on(suite.check()))).expect_err("it should not conform");
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn a_faulty_provider_fails_with_the_requirement_that_it_violates() {
    for (fault, requirement) in [
        (Fault::NoName, "its Display must name the provider and its key"),
        (Fault::ShowsItsKey, "the provider must not show a key or a secret"),
        (Fault::ShowsDataKeysInErrors, "an error must not show a key or a secret"),
        (Fault::GeneratesTheSameKey, "must return a new key for each request"),
        (Fault::GeneratesShortKeys, "must return a key of 24 bytes for suite 0046"),
        (Fault::ReturnsNoEncryptedForm, "must return an encrypted data key"),
        (Fault::ReturnsLongParts, "must have at most 65535 bytes"),
        (Fault::EncryptsAnotherKey, "of encrypt_data_key"),
        (Fault::DeniesItsOwnKeys, "may_decrypt must be true"),
        (Fault::IgnoresTheContext, "must refuse a key under another encryption context"),
        (Fault::IgnoresTheLength, "must refuse a key whose length is not that of the suite"),
        (Fault::NamesTheWrongIndex, "must be 7, not 0"),
        (Fault::ReturnsTheWrongKey, "must return the key that was encrypted"),
        (
            Fault::TriesOnlyTheFirst,
            "must decrypt a key that follows damaged ones and those of other providers, but failed",
        ),
        (Fault::TakesForeignKeysForItsOwn, "must fail with NoMatchingKey"),
        (Fault::DoesNotAuthenticate, "must refuse a key with byte 0 of its ciphertext modified"),
        (Fault::PanicsOnShortParts, "as if it had been sliced"),
        (Fault::CallsDamageRetryable, "must not be retryable"),
        (Fault::MixesUpRequests, "while others are decrypted"),
        (Fault::HangsAfterTheDeadline, "generate_data_key must end soon after its deadline"),
        (Fault::FailsForGoodAfterTheDeadline, "generate_data_key after its deadline must fail with a retryable error"),
    ] {
        let provider = Bad::new(fault);
        let sentence = failure(Conformance::new(&provider).with_secret(KEY));
        assert!(sentence.contains(requirement), "{requirement}: {sentence}");
    }
}

#[test]
fn the_provider_that_the_faulty_ones_wrap_conforms() {
    conforms(&Bad::new(Fault::None));
}
