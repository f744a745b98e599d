//! Fixed header lengths: padding, what it counts toward, and which readers pass over it.

use std::{num::NonZeroU32, time::Duration};

use kms_envelope::{
    AlgorithmSuite, AwsKms, Backend, ConfigError, DataKeyCache, EncryptionContext, Envelope, EnvelopeBuilder,
    KeyProvider, Limits, OpenError, RawAes, ResealError, SealError,
    error::LimitError,
    message::{EncryptedDataKey, Geometry},
    provider::{
        AwsKmsDiscovery, EcdhPrivateKey, EcdhPublicKey, MultiProvider, ProviderErrorKind as Kind, RawEcdh, RawRsa,
        RsaPadding, StaticBranchKey,
    },
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{
    context,
    fixtures::pem,
    geometry, header,
    kms::{Endpoint, arn},
    open, plaintext, policy_for, seal,
};

use crate::streams::{opened_by_every_method, sealed_by_every_method};

/// The length of the shortest padding.
const MIN_PADDING: usize = 28;

fn key(name: &str) -> RawAes {
    RawAes::new("tests", name, [7; 32]).unwrap()
}

fn builder() -> EnvelopeBuilder {
    Envelope::builder(key("key")).frame_len(16)
}

fn of_suite(suite: AlgorithmSuite) -> EnvelopeBuilder {
    builder().suite(suite).commitment_policy(policy_for(suite))
}

/// Returns the length that the header of a message has without padding.
fn needed(builder: EnvelopeBuilder) -> usize {
    header(&seal(&builder.build().unwrap(), b"")).len()
}

/// Returns the padding of a message.
fn padding(message: &[u8]) -> Option<EncryptedDataKey> {
    header(message).encrypted_data_keys().iter().find(|key| key.padding_len().is_some()).cloned()
}

// Lengths.

#[test]
fn a_header_fits_exactly_or_has_at_least_28_bytes_of_padding() {
    for suite in AlgorithmSuite::all() {
        let needed = needed(of_suite(suite));
        for header_len in needed - 1..needed + 100 {
            let envelope = of_suite(suite).header_len(header_len).build().unwrap();
            let sealed = block_on(envelope.seal(&[1; 50], &context()));
            let expected = header_len.checked_sub(needed).filter(|rest| *rest == 0 || *rest >= MIN_PADDING);
            let Some(padding_len) = expected else {
                let error = sealed.unwrap_err();
                assert!(
                    matches!(error, SealError::HeaderLen { header_len: set, needed: n } if (set, n) == (header_len, needed))
                );
                assert_eq!(
                    error.to_string(),
                    format!(
                        "the header cannot have the set length of {header_len} bytes: it needs {needed}, and padding adds \
                         at least 28; set EnvelopeBuilder::header_len to {needed}, or to {} or more",
                        needed + 28
                    )
                );
                continue;
            };
            let sealed = sealed.unwrap();
            assert_eq!(header(&sealed).len(), header_len);
            assert_eq!(padding(&sealed).and_then(|key| key.padding_len()).unwrap_or(0), padding_len);
            assert_eq!(open(&envelope, &sealed).unwrap(), [1; 50]);
        }
    }
}

#[test]
fn padding_is_the_last_entry_and_has_the_documented_bytes() {
    let header_len = needed(builder()) + 30;
    let sealed = seal(&builder().header_len(header_len).build().unwrap(), b"data");
    let header = header(&sealed);
    let [key, padding] = header.encrypted_data_keys() else { panic!("{header:?}") };
    assert_eq!((key.padding_len(), padding.padding_len()), (None, Some(30)));
    assert_eq!(*padding, EncryptedDataKey::new("kms-envelope-padding", vec![0; 3], vec![0]));
    assert_eq!(padding.to_string(), "kms-envelope-padding/30 bytes");
    assert!(format!("{padding:?}").contains("key_name: \"30 bytes\""), "{padding:?}");
}

#[test]
fn header_lengths_that_no_message_can_have_are_refused_by_build() {
    let refused = |builder: EnvelopeBuilder| builder.build().unwrap_err();
    for suite in AlgorithmSuite::all() {
        let least = if suite.is_committing() { 98 } else { 68 };
        for len in [0, least - 1, 65_536, usize::MAX] {
            let error = refused(of_suite(suite).header_len(len));
            assert!(matches!(error, ConfigError::HeaderLen { len: set, .. } if set == len), "{error:?}");
            assert_eq!(
                error.to_string(),
                format!("a header length of {len} bytes is not allowed; use {least} to 65535")
            );
        }
        assert!(of_suite(suite).header_len(least).build().is_ok());
    }
    let limits = Limits::default().with_header_len(500);
    assert!(refused(builder().limits(limits).header_len(501)).to_string().ends_with("use 98 to 500"));
    let longest = builder().header_len(65_535).build().unwrap();
    let sealed = seal(&longest, b"data");
    assert_eq!(header(&sealed).len(), 65_535);
    assert_eq!(open(&longest, &sealed).unwrap(), b"data");
}

#[test]
fn a_context_that_leaves_no_room_fails_for_its_message_only() {
    let envelope = builder().header_len(400).build().unwrap();
    let (short, long) = (context(), EncryptionContext::from([("path", "x".repeat(400))]));
    let mut out = Vec::new();
    let results =
        block_on(envelope.seal_many([&short, &long, &short].map(|context| (&b"data"[..], context)), &mut out));
    assert!(matches!(results[1], Err(SealError::HeaderLen { header_len: 400, needed }) if needed > 400));
    for index in [0, 2] {
        assert_eq!(header(&out[results[index].clone().unwrap()]).len(), 400);
    }
    let sealed = block_on(Envelope::new(key("key")).seal(b"data", &long)).unwrap();
    let refused = block_on(envelope.reseal(&sealed, &long, &envelope));
    assert!(matches!(refused, Err(ResealError::Seal(SealError::HeaderLen { .. }))), "{refused:?}");
}

proptest! {
    #[test]
    fn the_plaintext_length_follows_from_the_length_of_the_message_alone(
        suite in prop::sample::select(AlgorithmSuite::all().collect::<Vec<_>>()),
        context in prop::collection::btree_map("[a-z]{0,20}", ".{0,40}", 0..5),
        others in 0usize..4, required in any::<bool>(),
        extra in prop_oneof![Just(0), MIN_PADDING..2000],
        frame_len in 1u32..100, len in 0usize..1000,
    ) {
        let context: EncryptionContext = context.into_iter().chain([("id".into(), "1".into())]).collect();
        let provider = || (0..others).fold(MultiProvider::new(key("key")), |all, n| all.with(key(&format!("other-{n}"))));
        let builder = || {
            let names = required.then_some("id");
            let builder = Envelope::builder(provider()).suite(suite).commitment_policy(policy_for(suite));
            builder.required_context(names).frame_len(frame_len)
        };
        let plaintext = plaintext(len);
        let unpadded = block_on(builder().build().unwrap().seal(&plaintext, &context)).unwrap();
        let header_len = header(&unpadded).len() + extra;
        let envelope = builder().header_len(header_len).build().unwrap();
        let sealed = block_on(envelope.seal(&plaintext, &context)).unwrap();
        prop_assert_eq!(header(&sealed).len(), header_len);
        prop_assert_eq!(header(&sealed).encrypted_data_keys().len(), 1 + others + usize::from(extra > 0));
        if suite.signature().is_none() {
            prop_assert_eq!(sealed.len(), unpadded.len() + extra);
            let frame_len = NonZeroU32::new(frame_len).unwrap();
            let geometry = Geometry::of_sealed(header_len as u64, frame_len, 0, sealed.len() as u64).unwrap();
            prop_assert_eq!(geometry.plaintext_len(), len as u64);
        } else {
            prop_assert_eq!(geometry(&header(&sealed), &sealed).plaintext_len(), len as u64);
        }
        prop_assert_eq!(&block_on(envelope.open(&sealed, &context)).unwrap().plaintext, &plaintext);
        // An envelope without the setting opens it, too.
        prop_assert_eq!(block_on(builder().build().unwrap().open(&sealed, &context)).unwrap().plaintext, plaintext);
    }
}

// Methods and keys.

#[test]
fn every_method_seals_with_the_set_header_length_and_opens_the_message() {
    let plaintext = plaintext(1000);
    for suite in AlgorithmSuite::all() {
        for backend in Backend::ALL.iter().copied() {
            let make = || of_suite(suite).backend(backend).header_len(1024).build().unwrap();
            let mut all = sealed_by_every_method(&make, &plaintext, 7);
            let mut many = Vec::new();
            let context = context();
            for range in block_on(make().seal_many([(&plaintext[..], &context); 3], &mut many)) {
                all.push(("seal_many", many[range.unwrap()].to_vec()));
            }
            let unpadded = seal(&of_suite(suite).build().unwrap(), &plaintext);
            all.push(("reseal", block_on(make().reseal(&unpadded, &context, &make())).unwrap()));
            for (method, sealed) in all {
                let header = header(&sealed);
                assert_eq!(header.len(), 1024, "{suite} {method}");
                assert_eq!(geometry(&header, &sealed).plaintext_len(), 1000, "{suite} {method}");
                assert_eq!(open(&make(), &sealed).unwrap(), plaintext, "{suite} {method}");
            }
            let sealed = seal(&make(), &plaintext);
            for (method, opened) in opened_by_every_method(&make(), &sealed, 7) {
                assert_eq!(opened.as_ref(), Ok(&plaintext), "{suite} {method}");
            }
            if suite.signature().is_none() {
                let reader = block_on(make().range_reader(&sealed[..], sealed.len() as u64, &context)).unwrap();
                assert_eq!(reader.read(100..200).unwrap(), plaintext[100..200]);
            }
        }
    }
}

fn assert_round_trip(sealing: impl KeyProvider + 'static, opening: impl KeyProvider + 'static) {
    let sealing = Envelope::builder(sealing).header_len(2048).build().unwrap();
    let sealed = seal(&sealing, b"data");
    assert_eq!(header(&sealed).len(), 2048);
    assert_eq!(open(&Envelope::new(opening), &sealed).unwrap(), b"data");
}

#[test]
fn every_key_provider_opens_padded_messages() {
    // The AWS SDK needs tokio's timers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let rsa = || {
        let key = RawRsa::new("tests", "rsa", RsaPadding::OaepSha256).unwrap();
        key.with_public_key_pem(&pem("rsa-public")).unwrap().with_private_key_pem(&pem("rsa-private")).unwrap()
    };
    let public = EcdhPublicKey::from_pem(&pem("p256-public")).unwrap();
    let private = EcdhPrivateKey::from_pem(&pem("p256-private")).unwrap();
    let branch = || StaticBranchKey::new("branch", [1; 16], [7; 32]).unwrap();
    assert_round_trip(key("key"), key("key"));
    assert_round_trip(rsa(), rsa());
    assert_round_trip(RawEcdh::ephemeral(public), RawEcdh::discovery(private));
    assert_round_trip(branch(), branch());
    assert_round_trip(MultiProvider::new(rsa()).with(branch()), MultiProvider::new(key("key")).with(branch()));

    let (near, far) = ("eu-west-1", "us-east-1");
    let kms = Endpoint::new([(near, "one"), (far, "other")]);
    let of = |region, id| AwsKms::new(kms.client(region), arn(region, id)).unwrap();
    assert_round_trip(of(near, "one"), of(near, "one"));
    assert_round_trip(of(near, "one"), AwsKmsDiscovery::new(|region| kms.client(region), [near, far]).unwrap());
    let both = AwsKms::multi(|region| kms.client(region), [arn(near, "one"), arn(far, "other")]).unwrap();
    assert_round_trip(both, of(far, "other"));
    // None of these was asked about the padding.
    assert_eq!(kms.calls_of("Decrypt"), 3);
}

#[test]
fn a_padded_message_that_no_key_opens_names_the_keys_and_not_the_padding() {
    let sealed = seal(&builder().header_len(1024).build().unwrap(), b"data");
    let Err(OpenError::Provider(error)) = open(&Envelope::new(key("other")), &sealed) else { panic!() };
    assert_eq!(error.kind(), Kind::NoMatchingKey);
    assert!(error.to_string().ends_with("they are for: tests/key"), "{error}");
    // The namespace of a key provider can be that of padding.
    let same = || RawAes::new("kms-envelope-padding", "key", [7; 32]).unwrap();
    assert_round_trip(same(), same());
}

#[test]
fn padded_messages_are_rewrapped_like_others() {
    let old = builder().header_len(1024).build().unwrap();
    let sealed = seal(&old, b"data");
    let keys = block_on(old.rewrap(&header(&sealed), &context(), &key("new"))).unwrap();
    assert_eq!(keys.encrypted_data_keys().len(), 1);
    assert_eq!(open(&Envelope::new(key("new")).with_detached_keys(keys), &sealed).unwrap(), b"data");
}

// Limits, the cache, and modified messages.

#[test]
fn padding_counts_as_an_encrypted_data_key() {
    let limited = |builder: EnvelopeBuilder, count| {
        builder.limits(Limits::default().with_encrypted_data_keys(count)).build().unwrap()
    };
    let needed = needed(builder());
    let refused = block_on(limited(builder().header_len(1024), 1).seal(b"data", &context()));
    assert!(matches!(refused, Err(SealError::Limit(LimitError::EncryptedDataKeys { count: 2, limit: 1 }))));
    let sealed = seal(&limited(builder().header_len(1024), 2), b"data");
    let refused = open(&limited(builder(), 1), &sealed);
    assert!(matches!(refused, Err(OpenError::Limit(LimitError::EncryptedDataKeys { count: 2, limit: 1 }))));
    assert_eq!(open(&limited(builder(), 2), &sealed).unwrap(), b"data");
    // An exact fit has no padding.
    let exact = limited(builder().header_len(needed), 1);
    assert_eq!(open(&exact, &seal(&exact, b"data")).unwrap(), b"data");
}

#[test]
fn padded_messages_share_cached_data_keys() {
    for suite in AlgorithmSuite::all() {
        let is_cached = suite.key_derivation() != kms_envelope::message::KeyDerivation::Identity;
        let cache = DataKeyCache::builder(Duration::from_secs(60)).build().unwrap();
        let envelope = of_suite(suite).header_len(1024).cache(cache.clone()).build().unwrap();
        let messages: Vec<_> = (0..10).map(|n| seal(&envelope, &[n; 20])).collect();
        let keys = |message: &Vec<u8>| header(message).encrypted_data_keys().to_vec();
        for (n, message) in (0..).zip(&messages) {
            assert_eq!(header(message).len(), 1024);
            assert_eq!(keys(message) == keys(&messages[0]), is_cached || n == 0, "{suite}");
            assert_eq!(open(&envelope, message).unwrap(), [n; 20]);
        }
        let calls = if is_cached { 2 } else { 20 };
        assert_eq!((cache.stats().calls, cache.stats().hits), (calls, 20 - calls), "{suite}");
        // As without padding, the cache has the only data key of a modified message.
        let mut modified = messages[0].clone();
        modified[1024 - 17] ^= 1;
        assert!(open(&envelope, &modified).is_err());
        assert_eq!(cache.stats().calls, calls + u64::from(!is_cached), "{suite}");
    }
}

#[test]
fn a_padded_header_with_any_modified_bit_does_not_open() {
    for suite in AlgorithmSuite::all() {
        let header_len = needed(of_suite(suite)) + 40;
        let cache = DataKeyCache::builder(Duration::from_secs(60)).build().unwrap();
        for builder in [of_suite(suite), of_suite(suite).cache(cache)] {
            let envelope = builder.header_len(header_len).build().unwrap();
            let mut sealed = seal(&envelope, b"data");
            assert_eq!(open(&envelope, &sealed).unwrap(), b"data");
            for at in 0..header_len {
                for bit in 0..8 {
                    sealed[at] ^= 1 << bit;
                    assert!(open(&envelope, &sealed).is_err(), "{suite}: bit {bit} of byte {at}");
                    sealed[at] ^= 1 << bit;
                }
            }
        }
    }
}
