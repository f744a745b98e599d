//! Tests of every algorithm suite, signed messages, messages without frames, and the commitment policy.

use std::io::{Read, Write};

use kms_envelope::{
    AlgorithmSuite, Backend, CommitmentPolicy, ConfigError, EncryptionContext, Envelope, EnvelopeBuilder, Limits,
    OpenError, RawAes,
    error::{FormatError, LimitError},
    message::{ContentType, Header, MessageVersion, SignatureAlgorithm},
    stream::Threads,
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{Pieces, context, fixtures, geometry, header, open, plaintext, policy_for, rng, seal};

const FRAME_LEN: u32 = 16;

fn key() -> RawAes {
    RawAes::new("tests", "key", [7; 32]).unwrap()
}

fn builder(suite: AlgorithmSuite) -> EnvelopeBuilder {
    Envelope::builder(key()).suite(suite).commitment_policy(policy_for(suite)).frame_len(FRAME_LEN)
}

fn envelope(suite: AlgorithmSuite) -> Envelope {
    builder(suite).build().unwrap()
}

/// Returns the plaintext of a stream up to its end or its error.
fn open_in_pieces(envelope: &Envelope, message: &[u8], piece_len: usize) -> (Vec<u8>, Result<(), OpenError>) {
    let mut given = Vec::new();
    let mut feed = || {
        let header = Header::parse(message, &Limits::default())?;
        let mut opener = block_on(envelope.opener(&header, &context()))?;
        for piece in message[header.len()..].chunks(piece_len) {
            let start = given.len();
            given.resize(start + opener.update_len(piece.len()), 0xaa);
            let opened = opener.update(piece, &mut given[start..]);
            given.truncate(start + opened.as_ref().unwrap_or(&0));
            opened?;
        }
        opener.finish()
    };
    let ended = feed();
    (given, ended)
}

#[test]
fn messages_of_every_suite_open_with_every_method_and_either_backend() {
    for suite in AlgorithmSuite::all() {
        for len in [0, 1, 15, 16, 17, 32, 1000] {
            let (plaintext, context) = (plaintext(len), context());
            for backend in Backend::ALL.iter().copied() {
                let sealing = builder(suite).backend(backend).build().unwrap();
                let sealed = block_on(sealing.seal(&plaintext, &context)).unwrap();
                let mut writer = block_on(sealing.seal_writer(Vec::new(), &context)).unwrap();
                plaintext.chunks(7).for_each(|piece| writer.write_all(piece).unwrap());
                let written = writer.finish().unwrap();
                let mut reader = block_on(sealing.seal_reader(&plaintext[..], &context)).unwrap();
                let expected_len = reader.sealed_len(len as u64).unwrap();
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                for message in [sealed, written, read] {
                    assert_eq!(message.len() as u64, expected_len);
                    let header = header(&message);
                    assert_eq!(header.suite(), suite);
                    let by_length_alone = header.geometry(expected_len);
                    assert_eq!(by_length_alone == Err(FormatError::FooterLenNeeded), suite.signature().is_some());
                    assert_eq!(geometry(&header, &message).plaintext_len(), len as u64);
                    for backend in Backend::ALL.iter().copied() {
                        let opening = builder(suite).backend(backend).build().unwrap();
                        assert_eq!(open(&opening, &message).unwrap(), plaintext, "{suite} {len} {backend:?}");
                        let (given, ended) = open_in_pieces(&opening, &message, 11);
                        ended.unwrap();
                        assert_eq!(given, plaintext);
                        let mut read = Vec::new();
                        block_on(opening.open_reader(&message[..], &context)).unwrap().read_to_end(&mut read).unwrap();
                        assert_eq!(read, plaintext);
                    }
                }
            }
        }
    }
}

#[test]
fn a_modified_truncated_or_extended_message_of_any_suite_is_refused() {
    for suite in AlgorithmSuite::all() {
        let message = seal(&envelope(suite), &plaintext(20));
        // The policy allows every suite, so that it does not hide the check under test.
        let opening = Envelope::builder(key()).commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt);
        let opening = opening.build().unwrap();
        for at in 0..message.len() {
            // Only the first and the last bit, because verifying signatures is slow.
            for bit in [1, 0x80] {
                let mut changed = message.clone();
                changed[at] ^= bit;
                assert!(open(&opening, &changed).is_err(), "{suite} {at} {bit}");
                let (given, ended) = open_in_pieces(&opening, &changed, 13);
                assert!(ended.is_err(), "{suite} {at} {bit}");
                assert!(plaintext(20).starts_with(&given));
            }
        }
        for len in 0..message.len() {
            let error = open(&opening, &message[..len]).unwrap_err();
            assert!(matches!(error, OpenError::Format(FormatError::Truncated(_))), "{suite} {len} {error}");
            let (_, ended) = open_in_pieces(&opening, &message[..len], 13);
            assert!(matches!(ended, Err(OpenError::Format(FormatError::Truncated(_)))), "{suite} {len} {ended:?}");
        }
        let longer = [&message[..], &[0]].concat();
        assert!(matches!(open(&opening, &longer), Err(OpenError::Format(FormatError::TrailingBytes))));
    }
}

fn signed_suites() -> impl Iterator<Item = AlgorithmSuite> {
    AlgorithmSuite::all().filter(|suite| suite.signature().is_some())
}

/// Returns the signature `(r, n - s)` in DER for a signature `(r, s)`, where `n` is the order of the curve.
fn equivalent(signature: &[u8], n: &[u8]) -> Vec<u8> {
    // SEQUENCE { INTEGER r, INTEGER s }: each of the three starts with a tag and a length of one byte each.
    let (r, s) = signature[2..].split_at(2 + usize::from(signature[3]));
    let s = &s[2 + usize::from(s[2] == 0)..];
    let s = [&vec![0; n.len() - s.len()][..], s].concat();
    let (mut negated, mut borrow) = (vec![0; n.len()], 0);
    for i in (0..n.len()).rev() {
        let difference = 0x100 + i32::from(n[i]) - i32::from(s[i]) - borrow;
        (negated[i], borrow) = ((difference & 0xff) as u8, i32::from(difference < 0x100));
    }
    let mut negated = &negated[negated.iter().position(|byte| *byte != 0).unwrap()..];
    let padded = [&[0], negated].concat();
    if negated[0] >= 0x80 {
        negated = &padded;
    }
    let integers = [r, &[2, negated.len() as u8], negated].concat();
    [&[0x30, integers.len() as u8], &integers[..]].concat()
}

/// Such a message is not a forgery, but its bytes differ (docs/security.md).
#[test]
fn a_message_with_an_equivalent_signature_opens_to_the_same_plaintext_and_length() {
    let p256 = [0xffff_ffff_0000_0000_ffff_ffff_ffff_ffff_u128, 0xbce6_faad_a717_9e84_f3b9_cac2_fc63_2551];
    let p384 = [u128::MAX, 0xffff_ffff_ffff_ffff_c763_4d81_f437_2ddf, 0x581a_0db2_48b0_a77a_ecec_196a_ccc5_2973];
    for suite in signed_suites() {
        let message = seal(&envelope(suite), &plaintext(40));
        let algorithm = suite.signature().unwrap();
        let n = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => p256.map(u128::to_be_bytes).concat(),
            SignatureAlgorithm::EcdsaP384Sha384 => p384.map(u128::to_be_bytes).concat(),
            other => panic!("the order of {other} is not known here"),
        };
        let (signed, signature) = message.split_at(message.len() - algorithm.signature_len());
        let other = equivalent(signature, &n);
        assert_ne!(other, signature);
        assert_eq!(equivalent(&other, &n), signature);
        let changed = [&signed[..signed.len() - 2], &[0, other.len() as u8], &other].concat();
        for backend in Backend::ALL.iter().copied() {
            assert_eq!(open(&builder(suite).backend(backend).build().unwrap(), &changed).unwrap(), plaintext(40));
        }
        assert_eq!(geometry(&header(&message), &changed).plaintext_len(), 40);
    }
}

#[test]
fn the_final_frame_of_a_signed_message_is_held_back_until_the_signature_has_verified() {
    for suite in signed_suites() {
        let message = seal(&envelope(suite), &plaintext(40));
        let footer_len = 2 + suite.signature().unwrap().signature_len();
        for piece_len in [1, 7, 1000] {
            // Before the end of the footer, no byte of the final frame is released.
            let (given, ended) = open_in_pieces(&envelope(suite), &message[..message.len() - 1], piece_len);
            assert!(matches!(ended, Err(OpenError::Format(FormatError::Truncated(_)))), "{ended:?}");
            assert_eq!(given, plaintext(32));

            // The signature of another message.
            let other = seal(&envelope(suite), &plaintext(40));
            let end = message.len() - footer_len;
            let exchanged = [&message[..end], &other[other.len() - footer_len..]].concat();
            let (given, ended) = open_in_pieces(&envelope(suite), &exchanged, piece_len);
            assert!(matches!(ended, Err(OpenError::Signature)), "{ended:?}");
            assert!(plaintext(32).starts_with(&given));
            assert!(matches!(open(&envelope(suite), &exchanged), Err(OpenError::Signature)));
        }
    }
}

#[test]
fn the_context_of_a_signed_message_contains_its_public_key_which_is_different_each_time() {
    for suite in signed_suites() {
        let key = |message: &[u8]| header(message).context().get("aws-crypto-public-key").unwrap().to_owned();
        let (one, two) = (seal(&envelope(suite), &plaintext(1)), seal(&envelope(suite), &plaintext(1)));
        assert_ne!(key(&one), key(&two));
        // A compressed point in base64: 33 or 49 bytes.
        assert!(matches!(key(&one).len(), 44 | 68));
        let opened = block_on(envelope(suite).open(&one, &context())).unwrap();
        assert_eq!(opened.info.context().get("aws-crypto-public-key"), Some(&key(&one)[..]));
    }
}

#[test]
fn signed_messages_are_not_streamed_if_that_is_refused() {
    for suite in AlgorithmSuite::all() {
        let message = seal(&envelope(suite), &plaintext(40));
        let envelope = builder(suite).refuse_signed_streams().build().unwrap();
        assert_eq!(open(&envelope, &message).unwrap(), plaintext(40));
        let streamed = block_on(envelope.open_reader(&message[..], &context()));
        match suite.signature() {
            Some(_) => assert!(matches!(streamed, Err(OpenError::SignedStream))),
            None => assert!(streamed.is_ok()),
        }
    }
}

#[test]
fn several_threads_seal_and_open_the_same_signed_messages() {
    let threads: Vec<Threads> = vec![
        Threads::One,
        #[cfg(feature = "parallel")]
        Threads::Global,
        #[cfg(feature = "parallel")]
        Threads::Pool(std::sync::Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap())),
    ];
    let plaintext = plaintext(3_000_001);
    for suite in signed_suites() {
        for sealing in &threads {
            let envelope = |threads: &Threads| builder(suite).frame_len(4096).threads(threads.clone()).build().unwrap();
            let sealed = block_on(envelope(sealing).seal(&plaintext, &context())).unwrap();
            let mut read = Vec::new();
            let mut reader = block_on(envelope(sealing).seal_reader(&plaintext[..], &context())).unwrap();
            reader.read_to_end(&mut read).unwrap();
            for opening in &threads {
                for message in [&sealed, &read] {
                    assert!(open(&envelope(opening), message).unwrap() == plaintext);
                    let (given, ended) = open_in_pieces(&envelope(opening), message, 1_000_000);
                    ended.unwrap();
                    assert!(given == plaintext);
                }
            }
        }
    }
}

#[test]
fn the_error_for_a_refused_suite_names_it_and_says_what_to_do() {
    use CommitmentPolicy::*;
    for suite in AlgorithmSuite::all() {
        let message = seal(&envelope(suite), &plaintext(5));
        for policy in [ForbidEncryptAllowDecrypt, RequireEncryptAllowDecrypt, RequireEncryptRequireDecrypt] {
            let built = Envelope::builder(key()).suite(suite).commitment_policy(policy).build();
            let seals = suite.is_committing() != (policy == ForbidEncryptAllowDecrypt);
            match built {
                Ok(_) => assert!(seals, "{suite} {policy}"),
                Err(error) => {
                    assert!(matches!(error, ConfigError::CommitmentPolicy { .. }) && !seals, "{suite} {policy}");
                    let text = error.to_string();
                    assert!(text.contains(&suite.to_string()) && text.contains(&policy.to_string()), "{text}");
                }
            }
            let envelope = Envelope::builder(key()).commitment_policy(policy).build().unwrap();
            match open(&envelope, &message) {
                Ok(_) => assert!(suite.is_committing() || policy != RequireEncryptRequireDecrypt),
                Err(error) => {
                    assert!(!suite.is_committing() && policy == RequireEncryptRequireDecrypt, "{error}");
                    assert!(error.to_string().contains("RequireEncryptAllowDecrypt"), "{error}");
                }
            }
        }
    }
    let sealed = block_on(
        Envelope::builder(key()).commitment_policy(ForbidEncryptAllowDecrypt).build().unwrap().seal(b"", &context()),
    );
    assert_eq!(header(&sealed.unwrap()).suite(), AlgorithmSuite::Aes256GcmHkdfSha256);
}

#[test]
fn a_refused_suite_is_refused_before_the_key_provider_is_called() {
    let message = seal(&envelope(AlgorithmSuite::Aes256GcmHkdfSha256), &plaintext(5));
    let other = Envelope::new(RawAes::generate("another", "key").unwrap());
    assert!(matches!(open(&other, &message), Err(OpenError::CommitmentPolicy { .. })));
}

#[test]
fn a_header_of_version_1_has_no_commitment_and_one_of_version_2_has() {
    for suite in AlgorithmSuite::all() {
        let message = seal(&envelope(suite), &plaintext(5));
        assert_eq!(message[0], if suite.is_committing() { 2 } else { 1 });
        let id_len = header(&message).message_id().as_bytes().len();
        assert_eq!(id_len, suite.message_version().message_id_len());
        assert_eq!(suite.message_version() == MessageVersion::V2, suite.is_committing());
    }
}

// Messages without frames, written by another library.

fn fixture_envelope() -> EnvelopeBuilder {
    Envelope::builder(fixtures::key()).commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt)
}

#[test]
fn a_modified_truncated_or_extended_body_without_frames_is_refused() {
    for suite in ["0078", "0178", "0378", "0478", "0578"] {
        let message = fixtures::message(&format!("{suite}/non-framed-len-129"));
        let header = header(&message);
        assert_eq!(header.content_type(), ContentType::NonFramed);
        let envelope = fixture_envelope().build().unwrap();
        let open = |message: &[u8]| block_on(envelope.open(message, &EncryptionContext::new()));
        let plaintext = open(&message).unwrap().plaintext;
        assert_eq!(plaintext.len(), 129);
        for at in header.len()..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert!(open(&changed).is_err(), "{suite} {at}");
            let error = open(&message[..at]).unwrap_err();
            assert!(matches!(error, OpenError::Format(FormatError::Truncated(_))), "{suite} {at} {error}");
        }
        let longer = [&message[..], &[0]].concat();
        assert!(matches!(open(&longer), Err(OpenError::Format(FormatError::TrailingBytes))));
        // A stream returns all of it in one piece, or nothing.
        for piece_len in [1, 100, 1000] {
            let mut opener = block_on(envelope.opener(&header, &EncryptionContext::new())).unwrap();
            let mut given = Vec::new();
            for piece in message[header.len()..].chunks(piece_len) {
                let mut out = vec![0; opener.update_len(piece.len())];
                let written = opener.update(piece, &mut out).unwrap();
                assert!(written == 0 || written == 129);
                given.extend_from_slice(&out[..written]);
            }
            opener.finish().unwrap();
            assert_eq!(given, plaintext);
        }
    }
}

#[test]
fn a_body_without_frames_is_opened_up_to_the_limit() {
    let message = fixtures::message("0478/non-framed-len-129");
    for (limit, opens) in [(128, false), (129, true)] {
        let limits = Limits::default().with_non_framed_len(limit);
        let envelope = fixture_envelope().limits(limits).build().unwrap();
        match block_on(envelope.open(&message, &EncryptionContext::new())) {
            Ok(_) => assert!(opens),
            Err(OpenError::Limit(LimitError::NonFramedLen { len: 129, limit: 128 })) => assert!(!opens),
            Err(error) => panic!("{error}"),
        }
    }
}

fn suites() -> impl Strategy<Value = AlgorithmSuite> {
    proptest::sample::select(AlgorithmSuite::all().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_message_of_any_suite_has_the_same_result_in_one_piece_and_in_several(
        suite in suites(), len in 0usize..200, frame_len in 1u32..50, piece_len in 1usize..100,
        pairs in proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..4),
        change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let context: EncryptionContext = pairs.into_iter().filter(|(name, _)| !name.starts_with("aws-crypto-")).collect();
        let envelope = builder(suite).frame_len(frame_len).build().unwrap();
        let plaintext = plaintext(len);
        let mut message = block_on(envelope.seal(&plaintext, &context)).unwrap();
        let mut changed = false;
        if let Some((at, value)) = change {
            let at = at.index(message.len());
            changed = message[at] != value;
            message[at] = value;
        }
        let whole = block_on(envelope.open(&message, &EncryptionContext::new())).map(|opened| opened.plaintext);
        prop_assert_eq!(whole.is_err(), changed);
        let streamed = block_on(async {
            let mut reader = envelope.open_reader(Pieces(&message[..], piece_len), &EncryptionContext::new()).await?;
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map_err(|error| error.downcast::<OpenError>().unwrap())?;
            Ok::<_, OpenError>(read)
        });
        prop_assert_eq!(whole.map_err(|error| error.to_string()), streamed.map_err(|error| error.to_string()));
    }
}

#[test]
fn frames_longer_than_the_buffers_of_streams_open_with_a_full_final_frame() {
    let frame_len = 1 << 20;
    for suite in [AlgorithmSuite::default(), AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384] {
        let envelope = builder(suite).frame_len(frame_len).build().unwrap();
        for len in [frame_len as usize, 2 * frame_len as usize, frame_len as usize + 5] {
            let plaintext = plaintext(len);
            let message = block_on(envelope.seal(&plaintext, &context())).unwrap();
            let mut read = Vec::new();
            block_on(envelope.open_reader(&message[..], &context())).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == plaintext);
        }
    }
}

#[test]
fn unsigned_messages_are_the_same_with_either_backend_in_every_suite() {
    for suite in AlgorithmSuite::all().filter(|suite| suite.signature().is_none()) {
        let messages = Backend::ALL.iter().copied().map(|backend| {
            let builder = Envelope::builder(key()).suite(suite).commitment_policy(policy_for(suite)).rng(rng(0));
            block_on(builder.backend(backend).build().unwrap().seal(b"data", &context())).unwrap()
        });
        let messages: Vec<_> = messages.collect();
        assert!(messages.iter().all(|message| *message == messages[0]), "{suite}");
    }
}
