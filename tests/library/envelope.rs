//! Sealing and opening through the public API, with local keys.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use kms_envelope::{
    AlgorithmSuite, Backend, ConfigError, EncryptionContext, Envelope, EnvelopeBuilder, KeyProvider, Limits, OpenError,
    ProviderError, RawAes, SealError,
    error::{ContextError, FormatError, LimitError},
    message::{EncryptedDataKey, FINAL_FRAME_OVERHEAD, FRAME_OVERHEAD, Geometry, Header},
    provider::{
        DecryptDataKeyRequest, DecryptedDataKey, EncryptDataKeyRequest, GenerateDataKeyRequest, GeneratedDataKey,
        ProviderErrorKind as Kind, SecretKey,
    },
};
use pollster::block_on;
use proptest::prelude::*;
use test_support::{FailingRng, Pieces, context, header, open, plaintext, rng, seal};

const FRAME_LEN: u32 = 16;

fn local_key() -> RawAes {
    RawAes::new("tests", "key", [7; 32]).unwrap()
}

fn builder() -> EnvelopeBuilder {
    Envelope::builder(local_key()).frame_len(FRAME_LEN)
}

fn envelope() -> Envelope {
    builder().build().unwrap()
}

/// Opens with the streaming reader, in reads of `read_len` bytes.
fn open_streamed(sealed: &[u8], read_len: usize) -> Result<Vec<u8>, OpenError> {
    let mut reader = block_on(envelope().open_reader(Pieces(sealed, read_len), &context()))?;
    let mut plaintext = Vec::new();
    match reader.read_to_end(&mut plaintext) {
        Ok(_) => Ok(plaintext),
        Err(error) => Err(error.downcast().unwrap()),
    }
}

/// Opens with the bare opener, fed in pieces of `piece_len` bytes.
fn open_fed(sealed: &[u8], piece_len: usize) -> Result<Vec<u8>, OpenError> {
    let header = Header::parse(sealed, &Limits::default())?;
    let mut opener = block_on(envelope().opener(&header, &context()))?;
    let mut plaintext = Vec::new();
    for piece in sealed[header.len()..].chunks(piece_len) {
        let mut out = vec![0; opener.update_len(piece.len())];
        let len = opener.update(piece, &mut out)?;
        plaintext.extend(&out[..len]);
    }
    opener.finish()?;
    Ok(plaintext)
}

/// Lengths around the ends of frames: empty, one byte, one frame minus or plus one byte, several frames.
const LENGTHS: [usize; 12] = [0, 1, 15, 16, 17, 31, 32, 33, 48, 63, 64, 1000];

#[test]
fn sealed_messages_open_for_lengths_around_every_frame_boundary() {
    for len in LENGTHS {
        let plaintext = plaintext(len);
        let sealed = seal(&envelope(), &plaintext);
        let opened = block_on(envelope().open(&sealed, &context())).unwrap();
        assert_eq!(opened.plaintext, plaintext);
        assert_eq!(opened.info.context(), &context());
        assert_eq!(opened.info.suite(), AlgorithmSuite::Aes256GcmHkdfSha512Commit);
        assert_eq!(opened.info.encrypted_data_key().provider_id, "tests");
        assert_eq!(opened.info.encrypted_data_key().key_name(), "key");

        let header = header(&sealed);
        let geometry =
            Geometry::of_plaintext(header.len() as u64, FRAME_LEN.try_into().unwrap(), 0, len as u64).unwrap();
        assert_eq!(geometry.sealed_len(), sealed.len() as u64);
        assert_eq!(header.geometry(sealed.len() as u64).unwrap(), geometry);
    }
}

#[test]
fn two_messages_with_the_same_plaintext_have_nothing_in_common() {
    let (one, two) = (seal(&envelope(), b"data"), seal(&envelope(), b"data"));
    assert_ne!(header(&one).message_id(), header(&two).message_id());
    assert_ne!(one[one.len() - 20..], two[two.len() - 20..]);
}

#[test]
fn every_frame_length_works_up_to_the_limit() {
    for frame_len in [1, 2, 15, 100, 65_536, 1 << 20] {
        let envelope = Envelope::builder(local_key()).frame_len(frame_len).build().unwrap();
        for len in [0, 1, 99, 100, 101, 70_000] {
            let sealed = block_on(envelope.seal(&plaintext(len), &context())).unwrap();
            assert_eq!(block_on(envelope.open(&sealed, &context())).unwrap().plaintext, plaintext(len));
        }
    }
}

#[test]
fn a_message_of_16_mib_in_frames_of_8_bytes_opens() {
    let envelope = Envelope::builder(local_key()).frame_len(8).build().unwrap();
    let plaintext = plaintext(16 << 20);
    let sealed = block_on(envelope.seal(&plaintext, &context())).unwrap();
    assert!(block_on(envelope.open(&sealed, &context())).unwrap().plaintext == plaintext);
}

#[test]
fn both_backends_write_the_same_message_and_open_each_others_messages() {
    let sealed: Vec<_> = Backend::ALL
        .iter()
        .copied()
        .map(|backend| {
            let envelope = builder().backend(backend).rng(rng(0));
            block_on(envelope.build().unwrap().seal(&plaintext(100), &context())).unwrap()
        })
        .collect();
    for message in &sealed {
        assert_eq!(message, &sealed[0]);
        for backend in Backend::ALL.iter().copied() {
            let envelope = builder().backend(backend).build().unwrap();
            assert_eq!(block_on(envelope.open(message, &context())).unwrap().plaintext, plaintext(100));
        }
    }
}

#[test]
fn without_randomness_nothing_is_sealed() {
    let seal = |calls| block_on(builder().rng(FailingRng::after(calls)).build().unwrap().seal(b"data", &context()));
    // The data key, and the IV for its encryption.
    for calls in 0..2 {
        assert!(matches!(seal(calls), Err(SealError::Provider(e)) if e.kind() == Kind::Random));
    }
    // The message id.
    assert!(matches!(seal(2), Err(SealError::Random(_))));
    assert!(seal(3).is_ok());
}

// Tampering.

#[test]
fn a_message_with_any_bit_flipped_is_refused() {
    let sealed = seal(&envelope(), &plaintext(40));
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let refused = open(&envelope(), &changed).unwrap_err();
            // With a modified length, the stream may wait for more bytes. The kind of error may differ then.
            assert!(open_streamed(&changed, 7).is_err(), "byte {at}, bit {bit}: {refused}");
        }
    }
}

#[test]
fn the_error_for_a_modified_message_names_the_modified_part() {
    let sealed = seal(&envelope(), &plaintext(40));
    let header = header(&sealed);
    let frame = FRAME_LEN as usize + FRAME_OVERHEAD;
    let (body, final_frame) = (header.len(), header.len() + 2 * frame);
    let changed = |at: usize| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        open(&envelope(), &changed).unwrap_err().to_string()
    };
    for (at, expected) in [
        (0, "version"),
        (2, "suite"),
        (3, "key commitment"), // The message id, from which the keys are derived.
        (body - 16, "header failed authentication"),
        (body - 17, "key commitment"),
        (body + 3, "expected frame 1, but found frame 0"),
        (body + 4, "frame 1 failed authentication"),
        (body + 16, "frame 1 failed authentication"),
        (body + frame - 1, "frame 1 failed authentication"),
        (body + frame + 30, "frame 2 failed authentication"),
        (final_frame, "expected frame 3, but found frame"),
        (final_frame + 7, "expected frame 3, but found frame"),
        (final_frame + 8, "frame 3 failed authentication"),
        (final_frame + 23, "truncated"),
        (sealed.len() - 1, "frame 3 failed authentication"),
    ] {
        let error = changed(at);
        assert!(error.contains(expected), "byte {at}: {expected:?} is not in {error:?}");
    }
}

#[test]
fn a_message_truncated_anywhere_is_refused_as_truncated() {
    let sealed = seal(&envelope(), &plaintext(40));
    for len in 0..sealed.len() {
        for opened in [open(&envelope(), &sealed[..len]), open_streamed(&sealed[..len], 7), open_fed(&sealed[..len], 3)]
        {
            assert!(matches!(opened, Err(OpenError::Format(FormatError::Truncated(_)))), "{len}: {opened:?}");
        }
    }
}

#[test]
fn the_error_for_a_message_truncated_at_a_frame_boundary_names_the_missing_frame() {
    let sealed = seal(&envelope(), &plaintext(40));
    let cut = header(&sealed).len() + FRAME_LEN as usize + FRAME_OVERHEAD;
    let error = open(&envelope(), &sealed[..cut]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the message is truncated: unexpected end in the body before frame 2; the final frame is missing"
    );
}

#[test]
fn trailing_bytes_are_refused() {
    let sealed = [&seal(&envelope(), &plaintext(40))[..], b"!"].concat();
    for opened in [
        open(&envelope(), &sealed),
        open_streamed(&sealed, 7),
        open_streamed(&sealed, sealed.len()),
        open_fed(&sealed, 1),
    ] {
        assert!(matches!(opened, Err(OpenError::Format(FormatError::TrailingBytes))), "{opened:?}");
    }
}

#[test]
fn removed_duplicated_or_swapped_frames_are_refused() {
    let sealed = seal(&envelope(), &plaintext(64));
    let (header, body) = sealed.split_at(header(&sealed).len());
    let frames: Vec<_> = body.chunks(FRAME_LEN as usize + FRAME_OVERHEAD).collect();
    for order in [&[1, 2, 3][..], &[0, 2, 3], &[0, 0, 1, 2, 3], &[1, 0, 2, 3], &[0, 2, 1, 3], &[0, 1, 3]] {
        let body = order.iter().map(|index| frames[*index]).collect::<Vec<_>>().concat();
        let refused = open(&envelope(), &[header, &body].concat());
        assert!(matches!(refused, Err(OpenError::Format(FormatError::Sequence { .. }))), "{order:?} {refused:?}");
    }
}

#[test]
fn frames_of_another_message_are_refused() {
    let (one, two) = (seal(&envelope(), &plaintext(64)), seal(&envelope(), &plaintext(64)));
    let header_len = header(&one).len();
    let mixed = [&one[..header_len], &two[header_len..]].concat();
    assert!(matches!(open(&envelope(), &mixed), Err(OpenError::FrameTag { sequence: 1 })));
}

// Context.

#[test]
fn an_unexpected_context_is_refused_before_the_key_provider_is_called() {
    let provider = Arc::new(Counted::default());
    let envelope = Envelope::new(Arc::clone(&provider));
    let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
    let open = |pairs: &[(&str, &str)]| {
        let expected: EncryptionContext = pairs.iter().copied().collect();
        let opened = block_on(envelope.open(&sealed, &expected));
        (opened, provider.decrypted.load(Ordering::Relaxed))
    };
    assert!(matches!(
        open(&[("tenant", "other")]),
        (Err(OpenError::Context(ContextError::ValueDiffers { name })), 0) if name == "tenant"
    ));
    assert!(matches!(
        open(&[("tenant", "acme"), ("user", "alice")]),
        (Err(OpenError::Context(ContextError::PairMissing { name })), 0) if name == "user"
    ));
    let (opened, calls) = open(&[("tenant", "acme")]);
    assert_eq!((opened.unwrap().info.context(), calls), (&context(), 1));
    assert!(matches!(open(&[]), (Ok(_), 2)));
}

/// A local key that counts the requests to decrypt.
#[derive(Debug)]
struct Counted {
    key: RawAes,
    decrypted: AtomicUsize,
}

impl Default for Counted {
    fn default() -> Self {
        Self { key: local_key(), decrypted: AtomicUsize::new(0) }
    }
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

#[async_trait]
impl KeyProvider for Counted {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        self.key.generate_data_key(request).await
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        self.key.encrypt_data_key(request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        self.decrypted.fetch_add(1, Ordering::Relaxed);
        self.key.decrypt_data_key(request).await
    }
}

#[test]
fn required_pairs_are_authenticated_but_not_stored() {
    let envelope = builder().required_context(["user"]).build().unwrap();
    let mut context = context();
    assert!(matches!(
        block_on(envelope.seal(b"data", &context)),
        Err(SealError::Context(ContextError::RequiredNameMissing { name })) if name == "user"
    ));
    context.insert("user", "alice");
    let sealed = block_on(envelope.seal(b"data", &context)).unwrap();
    assert_eq!(header(&sealed).context().get("user"), None);
    assert_eq!(header(&sealed).context().len(), 2);

    let opened = block_on(envelope.open(&sealed, &context)).unwrap();
    assert_eq!((opened.info.context(), &opened.plaintext[..]), (&context, &b"data"[..]));
    let without = block_on(envelope.open(&sealed, &EncryptionContext::new()));
    assert!(matches!(without, Err(OpenError::Context(ContextError::RequiredNameMissing { .. }))));
    context.insert("user", "bob");
    assert!(matches!(block_on(envelope.open(&sealed, &context)), Err(OpenError::Provider(_))));
}

#[test]
fn names_reserved_by_the_format_are_refused() {
    for name in ["aws-crypto-public-key", "aws-crypto-", "aws-crypto-x"] {
        let refused = block_on(envelope().seal(b"", &EncryptionContext::from([(name, "")])));
        assert!(matches!(refused, Err(SealError::Context(ContextError::ReservedName { .. }))), "{name}");
    }
}

#[test]
fn any_context_is_returned_unchanged() {
    for context in [
        EncryptionContext::new(),
        EncryptionContext::from([("", "")]),
        EncryptionContext::from([("ключ", "значение"), ("🔑", "\0\n\u{10ffff}"), ("k", "")]),
        (0..300).map(|i| (format!("name-{i}"), "v".repeat(i % 200))).collect(),
    ] {
        let sealed = block_on(envelope().seal(b"data", &context)).unwrap();
        assert_eq!(block_on(envelope().open(&sealed, &context)).unwrap().info.context(), &context);
    }
}

#[test]
fn a_context_too_long_for_the_format_is_refused() {
    let context = EncryptionContext::from([("k", "v".repeat(65_535))]);
    let refused = block_on(envelope().seal(b"data", &context)).unwrap_err();
    assert!(refused.to_string().contains("more than the maximum of 65535"), "{refused}");
}

// Keys.

#[test]
fn another_key_does_not_open_the_message() {
    let sealed = seal(&envelope(), b"data");
    for (namespace, name) in [("tests", "other"), ("other", "key"), ("tests", "ke"), ("tests", "keyy"), ("tests", "")] {
        let other = Envelope::new(RawAes::new(namespace, name, [7; 32]).unwrap());
        let error = block_on(other.open(&sealed, &context())).unwrap_err();
        assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::NoMatchingKey), "{error}");
        assert!(error.to_string().ends_with("they are for: tests/key"), "{error}");
    }
    let same_name = Envelope::new(RawAes::new("tests", "key", [8; 32]).unwrap());
    let error = block_on(same_name.open(&sealed, &context())).unwrap_err();
    assert!(matches!(&error, OpenError::Provider(e) if e.kind() == Kind::NoneDecrypted && e.attempts().len() == 1));
}

#[test]
fn local_keys_of_16_24_and_32_bytes_work() {
    for len in [16, 24, 32] {
        let key = SecretKey::try_from(vec![9; len]).unwrap();
        let envelope = Envelope::new(RawAes::new("tests", "key", key).unwrap());
        let sealed = block_on(envelope.seal(b"data", &context())).unwrap();
        assert_eq!(block_on(envelope.open(&sealed, &context())).unwrap().plaintext, b"data");
    }
}

#[test]
fn a_local_key_cannot_use_the_namespace_of_aws_kms() {
    for namespace in ["aws-kms", "aws-kms-mine"] {
        assert!(matches!(RawAes::new(namespace, "key", [0; 32]), Err(ConfigError::KeyName { .. })));
    }
    assert!(RawAes::new("n".repeat(65_536), "key", [0; 32]).is_err());
    assert!(RawAes::new("tests", "n".repeat(65_516), [0; 32]).is_err());
}

/// A provider with responses that a correct one never returns.
#[derive(Debug)]
enum Misbehaving {
    ShortKey,
    NoEncryptedForm,
    WrongIndex,
    OtherKey,
}

impl std::fmt::Display for Misbehaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("misbehaving")
    }
}

#[async_trait]
impl KeyProvider for Misbehaving {
    async fn generate_data_key(&self, request: &GenerateDataKeyRequest<'_>) -> Result<GeneratedDataKey, ProviderError> {
        let mut data_key = local_key().generate_data_key(request).await?;
        match self {
            Self::ShortKey => data_key.plaintext = SecretKey::try_from(vec![0; 16]).unwrap(),
            _ => data_key.encrypted_data_keys.clear(),
        }
        Ok(data_key)
    }

    async fn encrypt_data_key(
        &self,
        request: &EncryptDataKeyRequest<'_>,
    ) -> Result<Vec<EncryptedDataKey>, ProviderError> {
        local_key().encrypt_data_key(request).await
    }

    async fn decrypt_data_key(&self, request: &DecryptDataKeyRequest<'_>) -> Result<DecryptedDataKey, ProviderError> {
        let mut data_key = local_key().decrypt_data_key(request).await?;
        match self {
            Self::ShortKey => data_key.plaintext = SecretKey::try_from(vec![0; 24]).unwrap(),
            Self::WrongIndex => data_key.index = 1,
            _ => data_key.plaintext = SecretKey::from([0; 32]),
        }
        Ok(data_key)
    }
}

#[test]
fn invalid_responses_of_a_provider_are_errors() {
    for (provider, expected) in [
        (Misbehaving::ShortKey, "a data key of 16 bytes, but suite 0478 requires 32"),
        (Misbehaving::NoEncryptedForm, "a data key without an encrypted data key"),
    ] {
        let error = block_on(Envelope::new(provider).seal(b"", &context())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let sealed = seal(&envelope(), b"data");
    for (provider, expected) in [
        (Misbehaving::ShortKey, "a data key of 24 bytes, but suite 0478 requires 32"),
        (Misbehaving::WrongIndex, "at index 1, but the message lists 1"),
        (Misbehaving::OtherKey, "the key commitment does not match"),
    ] {
        let error = block_on(Envelope::new(provider).open(&sealed, &context())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

// Settings.

#[test]
fn invalid_settings_are_refused() {
    for len in [0, (16 << 20) + 1] {
        let refused = Envelope::builder(local_key()).frame_len(len).build();
        assert!(matches!(refused, Err(ConfigError::FrameLen { .. })), "{refused:?}");
    }
}

#[test]
fn stream_buffers_that_are_too_short_or_too_long_are_refused() {
    let build = |len| builder().stream_buffer_len(len).build();
    for len in [0, 1, 4095, (1 << 30) + 1, usize::MAX] {
        let error = build(len).unwrap_err();
        assert!(matches!(error, ConfigError::StreamBufferLen { .. }), "{error:?}");
        assert!(error.to_string().contains("4096 to 1073741824"), "{error}");
    }
    assert!(build(4096).is_ok() && build(1 << 30).is_ok());
}

#[test]
fn frames_longer_than_the_limit_are_not_opened() {
    let sealed = seal(&envelope(), b"data");
    let limits = Limits::default().with_frame_len(FRAME_LEN - 1);
    let envelope = builder().frame_len(1).limits(limits).build().unwrap();
    let refused = block_on(envelope.open(&sealed, &context()));
    assert!(matches!(refused, Err(OpenError::Limit(LimitError::FrameLen { len: FRAME_LEN, limit: 15 }))));
}

#[test]
fn a_message_that_the_limits_would_not_open_is_not_sealed() {
    let limits = Limits::default().with_header_len(200);
    let refused = block_on(builder().limits(limits).build().unwrap().seal(b"data", &context()));
    assert!(matches!(refused, Err(SealError::Limit(LimitError::HeaderLen { limit: 200, .. }))));
    let limits = Limits::default().with_encrypted_data_keys(0);
    let refused = block_on(builder().limits(limits).build().unwrap().seal(b"data", &context()));
    assert!(matches!(refused, Err(SealError::Limit(LimitError::EncryptedDataKeys { count: 1, limit: 0 }))));
}

// Streams.

#[test]
fn the_seal_writer_writes_the_same_message_as_seal_in_any_pieces() {
    for len in LENGTHS {
        for (write_len, sink_len) in [(1, 1), (7, 3), (16, 1000), (1000, 50)] {
            let plaintext = plaintext(len);
            let mut sealed = Vec::new();
            let mut writer = block_on(envelope().seal_writer(Pieces(&mut sealed, sink_len), &context())).unwrap();
            for piece in plaintext.chunks(write_len) {
                writer.write_all(piece).unwrap();
            }
            writer.finish().unwrap();
            assert_eq!(sealed.len(), seal(&envelope(), &plaintext).len());
            assert_eq!(open(&envelope(), &sealed).unwrap(), plaintext);
        }
    }
}

#[test]
fn the_open_reader_returns_the_same_plaintext_as_open_in_any_pieces() {
    for len in LENGTHS {
        let sealed = seal(&envelope(), &plaintext(len));
        for read_len in [1, 2, 7, 48, 10_000] {
            assert_eq!(open_streamed(&sealed, read_len).unwrap(), plaintext(len));
            assert_eq!(open_fed(&sealed, read_len).unwrap(), plaintext(len));
        }
    }
}

#[test]
fn streams_longer_than_their_buffers_open() {
    for frame_len in [4096, 65_536, 3 << 20] {
        let envelope = Envelope::builder(local_key()).frame_len(frame_len).build().unwrap();
        let plaintext = plaintext(7_000_001);
        let mut writer = block_on(envelope.seal_writer(Vec::new(), &context())).unwrap();
        io::copy(&mut &plaintext[..], &mut writer).unwrap();
        let sealed = writer.finish().unwrap();
        let mut reader = block_on(envelope.open_reader(&sealed[..], &context())).unwrap();
        let mut opened = Vec::new();
        reader.read_to_end(&mut opened).unwrap();
        assert!(opened == plaintext);
        assert_eq!(reader.info().context(), &context());
    }
}

#[test]
fn a_writer_dropped_without_finish_leaves_no_message() {
    for len in LENGTHS {
        let mut sealed = Vec::new();
        let mut writer = block_on(envelope().seal_writer(&mut sealed, &context())).unwrap();
        writer.write_all(&plaintext(len)).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert!(matches!(open(&envelope(), &sealed), Err(OpenError::Format(FormatError::Truncated(_)))));
    }
}

#[test]
fn a_reader_that_failed_stays_failed() {
    let mut sealed = seal(&envelope(), &plaintext(1000));
    let len = sealed.len();
    sealed[len - 1] ^= 1;
    let mut reader = block_on(envelope().open_reader(Pieces(&sealed[..], 100), &context())).unwrap();
    let mut read = Vec::new();
    let error = reader.read_to_end(&mut read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(read.len() < 1000 && read[..] == plaintext(1000)[..read.len()]);
    for _ in 0..2 {
        let error = reader.read(&mut [0; 10]).unwrap_err().downcast::<OpenError>().unwrap();
        assert!(matches!(error, OpenError::FailedBefore));
    }
}

#[test]
fn a_failed_opener_returns_nothing_more_and_wipes_its_output() {
    let mut sealed = seal(&envelope(), &plaintext(40));
    let header = header(&sealed);
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    let mut opener = block_on(envelope().opener(&header, &context())).unwrap();
    let mut out = [0xaa; 100];
    assert!(matches!(opener.update(&sealed[header.len()..], &mut out), Err(OpenError::FrameTag { sequence: 3 })));
    assert_eq!(out, [0; 100]);
    assert!(matches!(opener.update(&[], &mut out), Err(OpenError::FailedBefore)));
    assert!(matches!(opener.finish(), Err(OpenError::FailedBefore)));
}

#[test]
fn impossible_lengths_are_errors_and_do_not_overflow() {
    let mut sealer = block_on(envelope().sealer(&context())).unwrap();
    for len in [usize::MAX, usize::MAX - 1, usize::MAX / 2, 1 << 60] {
        assert!(matches!(sealer.update_len(len), Err(SealError::TooLong { .. })), "{len}");
    }
    for len in [u64::MAX, 1 << 60] {
        assert!(matches!(sealer.sealed_len(len), Err(SealError::TooLong { .. })), "{len}");
    }
    let mut sealed = vec![0; sealer.update_len(4).unwrap()];
    let written = sealer.update(b"data", &mut sealed).unwrap();
    assert!(sealer.update_len(usize::MAX).is_err());
    let mut end = vec![0; sealer.finish_len()];
    sealer.finish(&mut end).unwrap();
    sealed.truncate(written);
    sealed.extend(end);

    let header = header(&sealed);
    let opener = block_on(envelope().opener(&header, &context())).unwrap();
    for len in [usize::MAX, usize::MAX - 1] {
        assert!((len / 4..len).contains(&opener.update_len(len)));
    }
    let reader = block_on(envelope().range_reader(&sealed[..], sealed.len() as u64, &context())).unwrap();
    for range in [0..u64::MAX, u64::MAX - 1..u64::MAX, 5..u64::MAX] {
        assert!(matches!(reader.read(range), Err(OpenError::OutOfRange { plaintext_len: 4, .. })));
    }
    assert!(matches!(reader.read_into(u64::MAX, &mut [0; 10]), Err(OpenError::OutOfRange { .. })));
}

#[test]
fn a_call_with_a_buffer_that_is_too_short_changes_nothing() {
    let mut sealer = block_on(envelope().sealer(&context())).unwrap();
    let needed = sealer.update_len(100).unwrap();
    assert!(matches!(sealer.update(&plaintext(100), &mut vec![0; needed - 1]), Err(SealError::OutputTooShort { .. })));
    let mut sealed = vec![0; needed + 200];
    let mut len = sealer.update(&plaintext(100), &mut sealed).unwrap();
    assert_eq!(len, needed);
    len += sealer.finish(&mut sealed[len..]).unwrap();
    sealed.truncate(len);

    let header = header(&sealed);
    let mut opener = block_on(envelope().opener(&header, &context())).unwrap();
    let body = &sealed[header.len()..];
    let needed = opener.update_len(body.len());
    assert_eq!(needed, 100);
    assert!(matches!(opener.update(body, &mut [0; 99]), Err(OpenError::OutputTooShort { len: 99, needed: 100 })));
    let mut opened = [0; 100];
    assert_eq!(opener.update(body, &mut opened).unwrap(), 100);
    assert_eq!(opened[..], plaintext(100));
}

/// Fails with its own error after this many bytes.
#[derive(Debug)]
struct FailingAfter(usize);

impl Read for FailingAfter {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match out.len().min(self.0) {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            len => {
                self.0 -= len;
                out[..len].fill(0);
                Ok(len)
            }
        }
    }
}

impl Write for FailingAfter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(self.0) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            len => {
                self.0 -= len;
                Ok(len)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_the_inner_reader_and_writer_are_passed_on() {
    let sealed = seal(&envelope(), &plaintext(1000));
    for len in 0..sealed.len() {
        let source = (&sealed[..len]).chain(FailingAfter(0));
        let error = match block_on(envelope().open_reader(source, &context())) {
            Ok(mut reader) => reader.read_to_end(&mut Vec::new()).unwrap_err(),
            Err(error) => error.into(),
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{len}");

        let mut writer = block_on(envelope().seal_writer(FailingAfter(len), &context())).unwrap();
        let written = writer.write_all(&plaintext(1000));
        let error = written.and_then(|()| writer.finish().map(drop)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{len}");
    }
}

proptest! {
    #[test]
    fn every_method_returns_the_same_plaintext(
        len in 0usize..2000, frame_len in 1u32..300, piece_len in 1usize..500, read_len in 1usize..500,
        backend in prop::sample::select(Backend::ALL),
    ) {
        let plaintext = plaintext(len);
        let envelope = Envelope::builder(local_key()).frame_len(frame_len).backend(backend).build().unwrap();
        let whole = block_on(envelope.seal(&plaintext, &context())).unwrap();
        let mut writer = block_on(envelope.seal_writer(Vec::new(), &context())).unwrap();
        for piece in plaintext.chunks(piece_len) {
            writer.write_all(piece).unwrap();
        }
        let written = writer.finish().unwrap();
        prop_assert_eq!(whole.len(), written.len());
        for sealed in [whole, written] {
            prop_assert_eq!(open(&envelope, &sealed).unwrap(), plaintext.clone());
            prop_assert_eq!(open_streamed(&sealed, read_len).unwrap(), plaintext.clone());
            prop_assert_eq!(open_fed(&sealed, read_len).unwrap(), plaintext.clone());
        }
    }

    #[test]
    fn every_method_refuses_the_same_messages(
        len in 0usize..100, at: prop::sample::Index, value: u8, cut: prop::sample::Index, piece_len in 1usize..100,
    ) {
        let mut sealed = seal(&envelope(), &plaintext(len));
        let at = at.index(sealed.len());
        sealed[at] = value;
        sealed.truncate(cut.index(2 * sealed.len()) + 1);
        let whole = open(&envelope(), &sealed);
        for other in [open_streamed(&sealed, piece_len), open_fed(&sealed, piece_len)] {
            match (&whole, other) {
                (Ok(one), Ok(two)) => prop_assert_eq!(one, &two),
                (Err(one), Err(two)) => prop_assert_eq!(one.to_string(), two.to_string()),
                (one, two) => prop_assert!(false, "{one:?} {two:?}"),
            }
        }
    }
}

#[test]
fn an_interrupted_read_or_write_is_repeated() {
    let sealed = seal(&envelope(), &plaintext(1000));
    let mut reader = block_on(envelope().open_reader(Interrupted(&sealed[..], false), &context())).unwrap();
    let mut opened = Vec::new();
    reader.read_to_end(&mut opened).unwrap();
    assert_eq!(opened, plaintext(1000));

    let mut writer = block_on(envelope().seal_writer(Interrupted(Vec::new(), false), &context())).unwrap();
    writer.write_all(&plaintext(1000)).unwrap();
    assert_eq!(open(&envelope(), &writer.finish().unwrap().0).unwrap(), plaintext(1000));
}

/// Returns `Interrupted` on every other call.
#[derive(Debug)]
struct Interrupted<T>(T, bool);

impl<T> Interrupted<T> {
    fn turn(&mut self) -> io::Result<()> {
        self.1 = !self.1;
        if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

impl<T: Read> Read for Interrupted<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.turn()?;
        self.0.read(out)
    }
}

impl<T: Write> Write for Interrupted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn()?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_secret_is_printed() {
    let envelope = builder().build().unwrap();
    let sealed = block_on(envelope.seal(b"attack at dawn", &context())).unwrap();
    let opened = block_on(envelope.open(&sealed, &context())).unwrap();
    let opener = block_on(envelope.opener(&header(&sealed), &context())).unwrap();
    let mut sealer = block_on(envelope.sealer(&context())).unwrap();
    sealer.update(b"attack at dawn", &mut vec![0; 1000]).unwrap();
    let mut writer = block_on(envelope.seal_writer(io::sink(), &context())).unwrap();
    writer.write_all(b"attack at dawn").unwrap();
    let mut reader = block_on(envelope.open_reader(Pieces(io::Cursor::new(sealed), 99), &context())).unwrap();
    reader.read_exact(&mut [0; 1]).unwrap();
    let printed = format!("{envelope:?} {opened:?} {opener:?} {sealer:?} {writer:?} {reader:?} {:?}", local_key());
    assert!(printed.len() < 10_000, "{printed}");
    let secret = format!("{:?}", b"attack at dawn");
    let key = format!("{:?}", [7; 32]);
    for secret in ["attack", secret.trim_matches(['[', ']']), key.trim_matches(['[', ']'])] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[test]
fn final_frames_are_as_long_as_documented() {
    let sealed = seal(&envelope(), b"");
    assert_eq!(sealed.len() - header(&sealed).len(), FINAL_FRAME_OVERHEAD);
}
