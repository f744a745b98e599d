//! Tests of `EnvelopeBuilder::require_fips`: what it refuses in every build, and what it allows with the FIPS module.

use kms_envelope::{
    AlgorithmSuite, Backend, ConfigError, Envelope, EnvelopeBuilder, ErrorKind, KeyProvider, RawAes, SealError,
    error::NotFips,
    provider::{ByContext, MultiProvider, ProviderErrorKind, SecretKey},
};
use pollster::block_on;
use test_support::{FixedDataKey, context, rng};

fn key(len: usize) -> RawAes {
    RawAes::new("tests", format!("{len}"), SecretKey::try_from(vec![7; len]).unwrap()).unwrap()
}

fn has_aws_lc() -> bool {
    Backend::default().to_string().starts_with("AWS-LC")
}

fn requiring(provider: impl KeyProvider + 'static) -> EnvelopeBuilder {
    Envelope::builder(provider).require_fips()
}

#[track_caller]
fn refused(builder: EnvelopeBuilder) -> NotFips {
    match builder.build() {
        Err(ConfigError::NotFips(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Asserts that only a build without the module is refused.
#[track_caller]
fn assert_allowed(provider: impl KeyProvider + 'static) {
    match requiring(provider).build() {
        Ok(_) => assert_eq!(without_module(), None),
        Err(ConfigError::NotFips(why)) => assert_eq!(why, without_module().unwrap()),
        Err(error) => panic!("{error:?}"),
    }
}

/// Returns the reason for which builds without the module are refused.
fn without_module() -> Option<NotFips> {
    if cfg!(feature = "fips") {
        None
    } else if !has_aws_lc() {
        Some(NotFips::Backend(Backend::default()))
    } else {
        Some(NotFips::Module)
    }
}

#[track_caller]
fn assert_provider_refused(provider: impl KeyProvider + 'static, named: &str, why: &str) {
    let error = provider.check_fips().unwrap_err();
    assert_eq!(error, NotFips::provider(named, why.to_owned()));
    if has_aws_lc() {
        assert_eq!(refused(requiring(provider)), error);
    }
}

#[test]
fn the_module_is_required_only_if_the_caller_says_so() {
    assert!(Envelope::builder(key(32)).build().is_ok());
    assert_eq!(requiring(key(32)).build().is_ok(), cfg!(feature = "fips"));
    assert_eq!(Backend::default().is_fips(), cfg!(feature = "fips"));
}

#[test]
fn a_build_without_the_module_is_refused_with_what_to_change() {
    let Some(why) = without_module() else { return };
    assert_eq!(refused(requiring(key(32))), why);
    let error = requiring(key(32)).build().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidInput, false));
    assert!(error.to_string().contains("feature `fips`"), "{error}");
}

#[test]
fn another_backend_is_refused() {
    for backend in Backend::ALL.iter().copied().filter(|backend| backend.to_string() == "RustCrypto") {
        assert_eq!(refused(requiring(key(32)).backend(backend)), NotFips::Backend(backend));
    }
}

#[test]
fn a_given_random_number_generator_is_refused() {
    assert_eq!(refused(requiring(key(32)).rng(rng(1))), NotFips::Rng);
}

#[test]
fn suites_with_keys_of_192_bits_are_refused_for_sealing() {
    let mut count = 0;
    for suite in AlgorithmSuite::all() {
        let policy = test_support::policy_for(suite);
        let built = requiring(key(32)).suite(suite).commitment_policy(policy).build();
        if suite.data_key_len() == 24 && has_aws_lc() {
            assert!(matches!(built, Err(ConfigError::NotFips(NotFips::Suite(found))) if found == suite), "{suite}");
            count += 1;
        } else {
            assert_eq!(built.is_ok(), cfg!(feature = "fips"), "{suite}");
        }
    }
    assert_eq!(count, if has_aws_lc() { 3 } else { 0 });
}

#[test]
fn local_keys_of_128_and_256_bits_are_allowed_and_192_bits_are_not() {
    assert_allowed(key(16));
    assert_allowed(key(32));
    assert_provider_refused(key(24), "tests/24", "its AES key has 192 bits; use a key of 128 or 256 bits");
}

#[test]
fn a_provider_that_does_not_say_is_refused() {
    let provider = FixedDataKey::new(|| SecretKey::try_from(vec![7; 32]).unwrap());
    assert_provider_refused(provider, "a fixed data key", "it does not implement KeyProvider::check_fips");
}

#[test]
fn of_several_providers_the_one_that_is_not_allowed_is_named() {
    assert_allowed(MultiProvider::new(key(16)).with(key(32)));
    let why = "its AES key has 192 bits; use a key of 128 or 256 bits";
    assert_provider_refused(MultiProvider::new(key(16)).with(Box::new(key(24))), "tests/24", why);
}

#[test]
fn a_provider_by_context_checks_each_provider_that_it_chooses() {
    let choose = || {
        ByContext::new(["tenant"], async |[tenant]: [String; 1]| {
            Ok::<_, ConfigError>(if tenant == "acme" { key(32) } else { key(24) })
        })
    };
    let why = "it does not check the providers that it chooses; call ByContext::require_fips";
    assert_provider_refused(choose(), "by-context/tenant", why);
    assert_allowed(choose().require_fips());

    // The check of the chosen provider is the same in every build.
    let envelope = Envelope::new(choose().require_fips());
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    assert!(block_on(envelope.open(&sealed, &context())).is_ok());
    let mut other = context();
    other.insert("tenant", "other");
    let Err(SealError::Provider(error)) = block_on(envelope.seal(b"data", &other)) else { panic!() };
    assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "ChooseKey with tenant=other is not supported: FIPS is required, but the key provider tests/24 is not allowed: \
         its AES key has 192 bits; use a key of 128 or 256 bits"
    );
    let sealed = block_on(Envelope::new(choose()).seal(b"data", &other)).unwrap();
    assert!(block_on(envelope.open(&sealed, &other)).is_err());
}

#[cfg(feature = "mock")]
#[test]
fn the_providers_of_tests_answer_like_the_provider_they_stand_for() {
    use kms_envelope::testing::{MemoryKey, MockKeyProvider, ScriptedProvider};

    assert_allowed(MemoryKey::new().unwrap());
    let why = "its AES key has 192 bits; use a key of 128 or 256 bits";
    assert_provider_refused(ScriptedProvider::new(key(24)), "tests/24", why);
    let mut mock = MockKeyProvider::new();
    mock.expect_check_fips().returning(|| Ok(()));
    assert_allowed(mock);
}

#[cfg(all(feature = "branch-key", feature = "ecdh"))]
#[test]
fn branch_keys_and_elliptic_curve_keys_are_allowed() {
    use kms_envelope::provider::{EcdhPrivateKey, EcdhPublicKey, RawEcdh, StaticBranchKey};
    use test_support::fixtures::pem;

    assert_allowed(StaticBranchKey::new("branch", [1; 16], [2; 32]).unwrap());
    for curve in ["p256", "p384", "p521"] {
        let public = || EcdhPublicKey::from_pem(&pem(&format!("{curve}-public"))).unwrap();
        let private = || EcdhPrivateKey::from_pem(&pem(&format!("{curve}-private"))).unwrap();
        assert_allowed(RawEcdh::ephemeral(public()));
        assert_allowed(RawEcdh::discovery(private()));
        assert_allowed(RawEcdh::static_keys(private(), public()).unwrap());
    }
}

#[cfg(feature = "rsa")]
#[test]
fn rsa_is_allowed_with_oaep_and_keys_that_the_module_considers_valid() {
    use kms_envelope::provider::{RawRsa, RsaPadding};
    use test_support::fixtures::pem;

    let rsa = |padding| RawRsa::new("tests", "rsa", padding).unwrap();
    for padding in [RsaPadding::OaepSha1, RsaPadding::OaepSha256, RsaPadding::OaepSha384, RsaPadding::OaepSha512] {
        assert_allowed(rsa(padding).with_public_key_pem(&pem("rsa-public")).unwrap());
        assert_allowed(rsa(padding).with_private_key_pem(&pem("rsa-private")).unwrap());
    }
    assert_provider_refused(rsa(RsaPadding::Pkcs1v15), "tests/rsa", "its padding is PKCS #1 v1.5; use OAEP");
    if cfg!(feature = "fips") {
        let weak = rsa(RsaPadding::OaepSha256).with_private_key_pem(&pem("rsa-exponent-3-private")).unwrap();
        let why = "AWS-LC considers its private key invalid for FIPS; generate a key with the public exponent 65537";
        assert_provider_refused(weak, "tests/rsa", why);
    }
}

#[cfg(all(feature = "aws-kms", feature = "rsa"))]
#[test]
fn keys_in_aws_kms_are_allowed() {
    use kms_envelope::{
        AwsKms,
        provider::{AwsKmsDiscovery, AwsKmsRsa, RsaPadding},
    };
    use test_support::kms::{Endpoint, arn};

    let region = "eu-west-1";
    let kms = Endpoint::new([(region, "1234abcd")]);
    assert_allowed(AwsKms::new(kms.client(region), arn(region, "1234abcd")).unwrap());
    assert_allowed(AwsKmsDiscovery::new(|region| kms.client(region), [region]).unwrap());
    let rsa = AwsKmsRsa::new(kms.client(region), arn(region, "1234abcd"), RsaPadding::OaepSha256).unwrap();
    assert_allowed(rsa);
}

#[cfg(all(feature = "aws-kms", feature = "ecdh"))]
#[test]
fn elliptic_curve_keys_in_aws_kms_are_allowed() {
    use kms_envelope::provider::{AwsKmsEcdh, EcdhPublicKey};
    use test_support::{
        fixtures::pem,
        kms::{CURVES, Endpoint, arn},
    };

    let region = "eu-west-1";
    let kms = Endpoint::with_agreement_keys(region);
    for curve in CURVES {
        let public = || EcdhPublicKey::from_pem(&pem(&format!("{curve}-public"))).unwrap();
        let key_arn = arn(region, curve);
        assert_allowed(AwsKmsEcdh::discovery(kms.client(region), &key_arn, public()).unwrap());
        assert_allowed(AwsKmsEcdh::static_keys(kms.client(region), &key_arn, public(), public()).unwrap());
    }
}

#[cfg(feature = "fips")]
mod with_the_module {
    use kms_envelope::{CommitmentPolicy, RewrapError};
    use test_support::header;

    use super::*;

    #[test]
    fn messages_seal_and_open_with_every_other_suite_and_reseal() {
        for suite in AlgorithmSuite::all().filter(|suite| suite.data_key_len() != 24) {
            let policy = test_support::policy_for(suite);
            let envelope = requiring(key(32)).suite(suite).commitment_policy(policy).build().unwrap();
            let sealed = block_on(envelope.seal(b"attack at dawn", &context())).unwrap();
            assert_eq!(block_on(envelope.open(&sealed, &context())).unwrap().plaintext, b"attack at dawn");
            for backend in Backend::ALL {
                // The module changes nothing in the messages: the other backend opens them.
                let other = Envelope::builder(key(32)).commitment_policy(policy).backend(*backend).build().unwrap();
                assert_eq!(block_on(other.open(&sealed, &context())).unwrap().plaintext, b"attack at dawn");
                // The other envelope's own settings count for resealing.
                assert!(block_on(envelope.reseal(&sealed, &context(), &other)).is_ok());
            }
        }
    }

    #[test]
    fn messages_of_suites_with_keys_of_192_bits_still_open() {
        let policy = CommitmentPolicy::ForbidEncryptAllowDecrypt;
        for suite in AlgorithmSuite::all().filter(|suite| suite.data_key_len() == 24) {
            let old = Envelope::builder(key(32)).suite(suite).commitment_policy(policy).build().unwrap();
            let sealed = block_on(old.seal(b"data", &context())).unwrap();
            let envelope = requiring(key(32)).commitment_policy(policy).build().unwrap();
            assert_eq!(block_on(envelope.open(&sealed, &context())).unwrap().plaintext, b"data");
        }
    }

    #[test]
    fn rewrapping_to_a_provider_that_is_not_allowed_is_refused() {
        let envelope = requiring(key(32)).build().unwrap();
        let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
        assert!(block_on(envelope.rewrap(&header(&sealed), &context(), &key(16))).is_ok());
        let refused = block_on(envelope.rewrap(&header(&sealed), &context(), &key(24))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let RewrapError::Encrypt(error) = refused else { panic!("{refused:?}") };
        assert_eq!(
            error.to_string(),
            "Encrypt with tests/24 is not supported: FIPS is required, but the key provider tests/24 is not allowed: its \
             AES key has 192 bits; use a key of 128 or 256 bits"
        );
        let lenient = Envelope::new(key(32));
        assert!(block_on(lenient.rewrap(&header(&sealed), &context(), &key(24))).is_ok());
    }
}
