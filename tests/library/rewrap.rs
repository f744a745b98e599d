//! Changing the keys of existing messages: detached keys and resealing.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::{
    AlgorithmSuite, CommitmentPolicy, DataKeyCache, EncryptionContext, Envelope, Limits, OpenError, RawAes,
    ResealError, RewrapError, SealError,
    message::DetachedKeys,
    provider::{MultiProvider, ProviderErrorKind as Kind},
    testing::{Fault, MemoryKey, ScriptedProvider},
};
use pollster::block_on;
use test_support::{context, header, policy_for};
use tokio::io::AsyncReadExt;

fn key(name: &str) -> RawAes {
    RawAes::new("tests", name, [name.len() as u8; 32]).unwrap()
}

fn rewrap(old: &Envelope, sealed: &[u8], new: &RawAes) -> DetachedKeys {
    let keys = block_on(old.rewrap(&header(sealed), &context(), new)).unwrap();
    DetachedKeys::parse(&keys.to_bytes(), &Limits::default()).unwrap()
}

fn envelope_of(suite: AlgorithmSuite, key: RawAes) -> Envelope {
    Envelope::builder(key).suite(suite).commitment_policy(policy_for(suite)).frame_len(100).build().unwrap()
}

/// Returns the plaintext from every method of opening, or the error of each.
fn open_by_all_roads(envelope: &Envelope, sealed: &[u8]) -> Vec<Result<Vec<u8>, OpenError>> {
    let (context, len) = (context(), sealed.len() as u64);
    let read = |mut reader: Box<dyn Read + '_>| {
        let mut plaintext = Vec::new();
        reader.read_to_end(&mut plaintext).unwrap();
        plaintext
    };
    let whole = block_on(envelope.open(sealed, &context)).map(|opened| opened.plaintext);
    let reader = block_on(envelope.open_reader(sealed, &context)).map(|reader| read(Box::new(reader)));
    let asynchronous = block_on(async {
        let mut plaintext = Vec::new();
        envelope.open_async_reader(sealed, &context).await?.read_to_end(&mut plaintext).await.unwrap();
        Ok(plaintext)
    });
    let pieces = block_on(async {
        let pieces = stream::iter(sealed.chunks(77).map(Ok::<_, io::Error>));
        match envelope.open_stream(pieces, &context).await {
            Ok(stream) => Ok(stream.map(|piece| piece.unwrap().to_vec()).concat().await),
            Err(kms_envelope::stream::StreamError::Open(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    });
    let mut opened = vec![whole, reader, asynchronous, pieces];
    if header(sealed).suite().signature().is_none() {
        opened.push(block_on(async {
            let reader = envelope.range_reader(sealed, len, &context).await?;
            reader.read(0..reader.len())
        }));
        opened.push(block_on(async {
            let mut reader = envelope.open_reader(Cursor::new(sealed), &context).await?;
            reader.seek(SeekFrom::Start(0))?;
            Ok(read(Box::new(reader)))
        }));
    }
    opened
}

#[test]
fn detached_keys_open_a_message_of_any_suite_with_every_method() {
    for suite in AlgorithmSuite::all() {
        let (old, new) = (envelope_of(suite, key("old")), envelope_of(suite, key("newer")));
        let plaintext = vec![7; 1234];
        let sealed = block_on(old.seal(&plaintext, &context())).unwrap();
        let with_keys = new.with_detached_keys(rewrap(&old, &sealed, &key("newer")));
        for opened in open_by_all_roads(&with_keys, &sealed) {
            assert_eq!(opened.unwrap(), plaintext, "{suite}");
        }
        // The message has not changed: the old key opens it, and the new key alone does not.
        for opened in open_by_all_roads(&old, &sealed) {
            assert_eq!(opened.unwrap(), plaintext, "{suite}");
        }
        for opened in open_by_all_roads(&new, &sealed) {
            assert!(matches!(&opened, Err(OpenError::Provider(e)) if e.kind() == Kind::NoMatchingKey), "{suite}");
        }
    }
}

#[test]
fn the_key_that_opened_a_message_is_reported() {
    let (old, new) = (Envelope::new(key("old")), Envelope::new(key("newer")));
    let sealed = block_on(old.seal(b"data", &context())).unwrap();
    let opened = block_on(old.open(&sealed, &context())).unwrap();
    assert_eq!((opened.info.key_id(), opened.info.message_id()), ("tests/old", header(&sealed).message_id()));
    let keys = rewrap(&old, &sealed, &key("newer"));
    let opened = block_on(new.with_detached_keys(keys.clone()).open(&sealed, &context())).unwrap();
    assert_eq!(opened.info.key_id(), "tests/newer");
    assert_eq!(opened.info.encrypted_data_key(), &keys.encrypted_data_keys()[0]);
    let reader = block_on(new.with_detached_keys(keys).open_reader(&sealed[..], &context())).unwrap();
    assert_eq!((reader.info().key_id(), reader.info().encrypted_data_key_index()), ("tests/newer", 0));

    let several = Envelope::new(MultiProvider::new(key("others")).with(key("old")));
    assert_eq!(block_on(several.open(&sealed, &context())).unwrap().info.key_id(), "tests/old");
}

#[test]
fn detached_keys_of_another_message_are_refused_before_the_key_provider_is_called() {
    let provider = ScriptedProvider::new(key("old"));
    let old = Envelope::new(provider.clone());
    let [one, other] = [b"one", b"two"].map(|text| block_on(old.seal(text, &context())).unwrap());
    let keys = rewrap(&old, &one, &key("old"));
    let calls = provider.calls();
    for refused in open_by_all_roads(&old.with_detached_keys(keys.clone()), &other) {
        let error = refused.unwrap_err();
        assert!(matches!(error, OpenError::DetachedKeys { .. }), "{error}");
        let (keys, message) = (header(&one).message_id().to_string(), header(&other).message_id().to_string());
        assert!(error.to_string().contains(&keys) && error.to_string().contains(&message), "{error}");
    }
    assert_eq!(provider.calls(), calls);
    // The same with the message id overwritten with the other message's.
    let mut forged = keys.to_bytes();
    let id = header(&other).message_id().as_bytes().to_vec();
    forged[6..6 + id.len()].copy_from_slice(&id);
    let forged = DetachedKeys::parse(&forged, &Limits::default()).unwrap();
    let error = block_on(old.with_detached_keys(forged).open(&other, &context())).unwrap_err();
    assert!(matches!(error, OpenError::Commitment), "{error}");
}

#[test]
fn rewrapping_makes_one_request_for_each_key_for_any_length() {
    for len in [0, 1_000_000] {
        let (old, new) = (ScriptedProvider::new(key("old")), ScriptedProvider::new(key("newer")));
        let envelope = Envelope::new(old.clone());
        let sealed = block_on(envelope.seal(&vec![0; len], &context())).unwrap();
        block_on(envelope.rewrap(&header(&sealed), &context(), &new)).unwrap();
        assert_eq!((old.calls().decrypt, old.calls().encrypt), (1, 0));
        assert_eq!((new.calls().generate, new.calls().decrypt, new.calls().encrypt), (0, 0, 1));
    }
}

#[test]
fn a_rewrapped_message_can_be_rewrapped_again() {
    let [a, bb, ccc] = ["a", "bb", "ccc"].map(|name| Envelope::new(key(name)));
    let sealed = block_on(a.seal(b"data", &context())).unwrap();
    let second = rewrap(&a, &sealed, &key("bb"));
    let third = rewrap(&bb.with_detached_keys(second), &sealed, &key("ccc"));
    let opened = block_on(ccc.with_detached_keys(third).open(&sealed, &context())).unwrap();
    assert_eq!(opened.plaintext, b"data");
}

#[test]
fn a_wrong_data_key_is_not_rewrapped() {
    let old = ScriptedProvider::new(key("old"));
    let new = ScriptedProvider::new(key("newer"));
    for suite in AlgorithmSuite::all() {
        let policy = CommitmentPolicy::RequireEncryptAllowDecrypt;
        let sealed = block_on(envelope_of(suite, key("old")).seal(b"data", &context())).unwrap();
        old.script([Fault::WrongKey]);
        let envelope = Envelope::builder(old.clone()).commitment_policy(policy).build().unwrap();
        let error = block_on(envelope.rewrap(&header(&sealed), &context(), &new)).unwrap_err();
        assert!(matches!(error, RewrapError::Open(OpenError::Commitment | OpenError::HeaderTag)), "{suite}: {error}");
    }
    assert_eq!(new.calls().encrypt, 0);
}

#[test]
fn errors_of_rewrapping_name_the_key() {
    let (old, new) = (ScriptedProvider::new(key("old")), ScriptedProvider::new(key("newer")));
    let envelope = Envelope::new(old.clone());
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    old.script([Fault::AccessDenied]);
    let error = block_on(envelope.rewrap(&header(&sealed), &context(), &new)).unwrap_err();
    assert!(matches!(&error, RewrapError::Open(OpenError::Provider(e)) if e.kind() == Kind::AccessDenied));
    new.script([Fault::Throttled]);
    let error = block_on(envelope.rewrap(&header(&sealed), &context(), &new)).unwrap_err();
    assert!(matches!(&error, RewrapError::Encrypt(e) if e.kind() == Kind::Throttled));
    assert!(error.to_string().contains("new key"), "{error}");
    let other = EncryptionContext::from([("tenant", "other")]);
    let error = block_on(envelope.rewrap(&header(&sealed), &other, &new)).unwrap_err();
    assert!(matches!(error, RewrapError::Open(OpenError::Context(_))));

    let limits = Limits::default().with_encrypted_data_keys(1);
    let few = Envelope::builder(key("old")).limits(limits).build().unwrap();
    let two = MultiProvider::new(key("old")).with(key("newer"));
    let error = block_on(few.rewrap(&header(&sealed), &context(), &two)).unwrap_err();
    assert!(matches!(error, RewrapError::Keys(SealError::Limit(_))), "{error:?}");
}

#[test]
fn modified_detached_keys_open_nothing() {
    let envelope = Envelope::new(key("old"));
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    let keys = rewrap(&envelope, &sealed, &key("old")).to_bytes();
    for index in 0..keys.len() {
        for bit in [1, 0x80] {
            let mut changed = keys.clone();
            changed[index] ^= bit;
            if let Ok(changed) = DetachedKeys::parse(&changed, &Limits::default()) {
                let opened = block_on(envelope.with_detached_keys(changed).open(&sealed, &context()));
                assert!(opened.is_err(), "{index}");
            }
        }
    }
}

#[test]
fn required_context_is_also_bound_to_detached_keys() {
    let required = |name| Envelope::builder(key(name)).required_context(["tenant"]).build().unwrap();
    let (old, new) = (required("old"), required("newer"));
    let sealed = block_on(old.seal(b"data", &context())).unwrap();
    let new = new.with_detached_keys(rewrap(&old, &sealed, &key("newer")));
    assert_eq!(block_on(new.open(&sealed, &context())).unwrap().plaintext, b"data");
    let other = EncryptionContext::from([("tenant", "other"), ("purpose", "test")]);
    assert!(matches!(block_on(new.open(&sealed, &other)), Err(OpenError::Provider(_))));
}

#[test]
fn detached_keys_have_their_own_cache_entries() {
    let both = ScriptedProvider::new(MultiProvider::new(key("old")).with(key("newer")));
    let cache = DataKeyCache::builder(std::time::Duration::from_secs(60)).build().unwrap();
    let envelope = Envelope::builder(both.clone()).cache(cache).build().unwrap();
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    let with_keys = envelope.with_detached_keys(rewrap(&envelope, &sealed, &key("newer")));
    for _ in 0..3 {
        assert_eq!(block_on(envelope.open(&sealed, &context())).unwrap().info.key_id(), "tests/old");
        assert_eq!(block_on(with_keys.open(&sealed, &context())).unwrap().info.key_id(), "tests/newer");
    }
    assert_eq!(both.calls().decrypt, 2);
}

#[test]
fn a_message_is_resealed_with_its_context_with_every_method() {
    for suite in AlgorithmSuite::all() {
        let old = envelope_of(suite, key("old"));
        let plaintext = vec![7; 1234];
        let sealed = block_on(old.seal(&plaintext, &context())).unwrap();
        for new in [
            Envelope::new(MemoryKey::new().unwrap()),
            envelope_of(AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384, key("newer")),
            Envelope::builder(key("newer")).required_context(["tenant"]).build().unwrap(),
        ] {
            // The caller expects no pair of the old message, and the new message contains all of them.
            let none = EncryptionContext::new();
            let whole = block_on(old.reseal(&sealed, &none, &new)).unwrap();
            let mut read = Vec::new();
            block_on(old.reseal_reader(&sealed[..], &none, &new)).unwrap().read_to_end(&mut read).unwrap();
            let asynchronous = block_on(async {
                let mut read = Vec::new();
                old.reseal_async_reader(&sealed[..], &none, &new).await.unwrap().read_to_end(&mut read).await.unwrap();
                read
            });
            for resealed in [whole, read, asynchronous] {
                let opened = block_on(new.open(&resealed, &context())).unwrap();
                assert_eq!(opened.plaintext, plaintext, "{suite}");
                assert_ne!(header(&resealed).message_id().as_bytes(), header(&sealed).message_id().as_bytes());
            }
        }
    }
}

#[test]
fn a_message_that_fails_to_open_is_not_resealed_completely() {
    let (old, new) = (envelope_of(AlgorithmSuite::default(), key("old")), Envelope::new(key("newer")));
    let sealed = block_on(old.seal(&[7; 1000], &context())).unwrap();
    for len in (0..sealed.len()).step_by(7) {
        assert!(matches!(block_on(old.reseal(&sealed[..len], &context(), &new)), Err(ResealError::Open(_))));
        let mut output = Vec::new();
        match block_on(old.reseal_reader(&sealed[..len], &context(), &new)) {
            Err(error) => assert!(matches!(error, ResealError::Open(_))),
            Ok(mut reader) => {
                assert!(reader.read_to_end(&mut output).is_err());
                assert!(block_on(new.open(&output, &context())).is_err());
            }
        }
    }
}

#[test]
fn detached_keys_do_not_affect_sealing() {
    let envelope = Envelope::new(key("old"));
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    let with_keys = envelope.with_detached_keys(rewrap(&envelope, &sealed, &key("old")));
    let other = block_on(with_keys.seal(b"other", &context())).unwrap();
    assert_eq!(block_on(envelope.open(&other, &context())).unwrap().plaintext, b"other");
}

#[test]
fn a_stream_is_resealed_by_chaining_an_open_and_a_seal_stream() {
    let (old, new) = (Envelope::new(key("old")), Envelope::new(key("newer")));
    let sealed = block_on(old.seal(&[7; 100_000], &context())).unwrap();
    let resealed = block_on(async {
        let pieces = stream::iter(sealed.chunks(999).map(Ok::<_, io::Error>));
        let opened = old.open_stream(pieces, &context()).await.unwrap();
        let stream = new.seal_stream(opened, &context()).await.unwrap();
        stream.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap()
    });
    assert_eq!(block_on(new.open(&resealed, &context())).unwrap().plaintext, [7; 100_000]);
}
