//! Each library behind the same two functions.

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error,
    io::{self, Cursor, Read, Write},
    rc::Rc,
    sync::Arc,
};

use aws_esdk::{
    material_providers::types::{
        AesWrappingAlg, EsdkAlgorithmSuiteId, keyring::KeyringRef, material_providers_config::MaterialProvidersConfig,
    },
    types::aws_encryption_sdk_config::AwsEncryptionSdkConfig,
};
use envelopers::{Aes256Gcm, EncryptedRecord, EnvelopeCipher, SimpleKeyProvider};
use kms_envelope::{EncryptionContext, Envelope, RawAes, stream::Threads};
use pollster::block_on;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Replaces the contents of `out`, and reuses its memory if the library can.
pub trait Peer {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()>;
    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()>;
}

fn resize(out: &mut Vec<u8>, len: usize) -> &mut [u8] {
    out.resize(len, 0);
    out
}

/// A copy in memory, as an upper bound.
pub struct Memcpy;

impl Peer for Memcpy {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        resize(out, plaintext.len()).copy_from_slice(plaintext);
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.seal(sealed, out)
    }
}

pub struct KmsEnvelope(Envelope);

impl KmsEnvelope {
    pub fn new(frame_len: u32, threads: usize) -> Result<Self> {
        let how = match threads {
            1 => Threads::One,
            _ => Threads::Pool(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)),
        };
        let key = RawAes::generate("peers", "key")?;
        Ok(Self(Envelope::builder(key).frame_len(frame_len).threads(how).build()?))
    }
}

fn pairs() -> [(&'static str, &'static str); 1] {
    [("tenant", "acme")]
}

impl Peer for KmsEnvelope {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        Ok(block_on(self.0.seal_into(plaintext, &EncryptionContext::from(pairs()), out))?)
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        block_on(self.0.open_into(sealed, &EncryptionContext::from(pairs()), out))?;
        Ok(())
    }
}

const TAG_LEN: usize = 16;
const IV: [u8; 12] = [0; 12];
const AAD: &[u8] = &[0; 76];

/// The bare AEAD of aws-lc-rs, frame by frame, as an upper bound.
pub struct AwsLc(aws_lc_rs::aead::LessSafeKey, usize);

impl AwsLc {
    pub fn new(frame_len: usize) -> Result<Self> {
        use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "no key")?;
        Ok(Self(LessSafeKey::new(key), frame_len))
    }
}

impl Peer for AwsLc {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let out = resize(out, plaintext.len() + TAG_LEN * plaintext.len().div_ceil(self.1));
        for (frame, out) in plaintext.chunks(self.1).zip(out.chunks_mut(self.1 + TAG_LEN)) {
            let (ciphertext, tag) = out.split_at_mut(frame.len());
            let nonce = Nonce::assume_unique_for_key(IV);
            self.0.seal_out_of_place_scatter(nonce, Aad::from(AAD), frame, ciphertext, &[], tag).map_err(|_| "seal")?;
        }
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let out = resize(out, sealed.len() - TAG_LEN * sealed.len().div_ceil(self.1 + TAG_LEN));
        for (frame, out) in sealed.chunks(self.1 + TAG_LEN).zip(out.chunks_mut(self.1)) {
            let (ciphertext, tag) = frame.split_at(frame.len() - TAG_LEN);
            let nonce = Nonce::assume_unique_for_key(IV);
            self.0.open_separate_gather(nonce, Aad::from(AAD), ciphertext, tag, out).map_err(|_| "open")?;
        }
        Ok(())
    }
}

/// The bare AEAD of aes-gcm, frame by frame, as an upper bound.
pub struct RustCrypto(Box<aes_gcm::Aes256Gcm>, usize);

impl RustCrypto {
    pub fn new(frame_len: usize) -> Self {
        use aes_gcm::KeyInit;
        Self(Box::new(aes_gcm::Aes256Gcm::new(&[7; 32].into())), frame_len)
    }
}

impl Peer for RustCrypto {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        use aes_gcm::{AeadInOut, aead::inout::InOutBuf};
        let out = resize(out, plaintext.len() + TAG_LEN * plaintext.len().div_ceil(self.1));
        for (frame, out) in plaintext.chunks(self.1).zip(out.chunks_mut(self.1 + TAG_LEN)) {
            let (ciphertext, tag) = out.split_at_mut(frame.len());
            let buffer = InOutBuf::new(frame, ciphertext).map_err(|_| "lengths")?;
            tag.copy_from_slice(&self.0.encrypt_inout_detached(&IV.into(), AAD, buffer)?);
        }
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        use aes_gcm::{AeadInOut, aead::inout::InOutBuf};
        let out = resize(out, sealed.len() - TAG_LEN * sealed.len().div_ceil(self.1 + TAG_LEN));
        for (frame, out) in sealed.chunks(self.1 + TAG_LEN).zip(out.chunks_mut(self.1)) {
            let (ciphertext, tag) = frame.split_last_chunk::<TAG_LEN>().ok_or("too short")?;
            let buffer = InOutBuf::new(ciphertext, out).map_err(|_| "lengths")?;
            self.0.decrypt_inout_detached(&IV.into(), AAD, buffer, tag.into())?;
        }
        Ok(())
    }
}

/// AWS's Encryption SDK for Rust, with a raw AES keyring.
pub struct AwsEsdk {
    client: aws_esdk::client::Client,
    keyring: KeyringRef,
    frame_len: u32,
    runtime: tokio::runtime::Runtime,
}

impl AwsEsdk {
    pub fn new(frame_len: u32) -> Result<Self> {
        let client = aws_esdk::client::Client::from_conf(AwsEncryptionSdkConfig::builder().build()?)?;
        let providers =
            aws_esdk::material_providers::client::Client::from_conf(MaterialProvidersConfig::builder().build()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let keyring = runtime.block_on(
            providers
                .create_raw_aes_keyring()
                .key_name("key")
                .key_namespace("peers")
                .wrapping_key(vec![7; 32])
                .wrapping_alg(AesWrappingAlg::AlgAes256GcmIv12Tag16)
                .send(),
        )?;
        Ok(Self { client, keyring, frame_len, runtime })
    }

    fn context() -> HashMap<String, String> {
        pairs().map(|(name, value)| (name.into(), value.into())).into()
    }
}

impl Peer for AwsEsdk {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let request = self.client.encrypt().plaintext(plaintext).keyring(self.keyring.clone());
        let request = request
            .encryption_context(Self::context())
            .algorithm_suite_id(EsdkAlgorithmSuiteId::AlgAes256GcmHkdfSha512CommitKey)
            .frame_length(self.frame_len);
        *out = self.runtime.block_on(request.send())?.ciphertext.ok_or("no ciphertext")?.into_inner();
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let request = self.client.decrypt().ciphertext(sealed).keyring(self.keyring.clone());
        let response = self.runtime.block_on(request.encryption_context(Self::context()).send())?;
        *out = response.plaintext.ok_or("no plaintext")?.into_inner();
        Ok(())
    }
}

/// age: ChaCha20-Poly1305 in chunks of 64 KiB, for an X25519 recipient.
pub struct Age(age::x25519::Identity);

impl Age {
    pub fn new() -> Self {
        Self(age::x25519::Identity::generate())
    }
}

impl Peer for Age {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        *out = age::encrypt(&self.0.to_public(), plaintext)?;
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        *out = age::decrypt(&self.0, sealed)?;
        Ok(())
    }
}

/// Tink's streaming AEAD: AES-256-GCM-HKDF in segments. It does no envelope encryption: the caller keeps the key.
pub struct Tink(Box<dyn tink_core::StreamingAead>);

impl Tink {
    pub fn new(template: &tink_proto::KeyTemplate) -> Result<Self> {
        tink_streaming_aead::init();
        let key = tink_core::keyset::Handle::new(template)?;
        Ok(Self(tink_streaming_aead::new(&key)?))
    }
}

/// Shared memory, because Tink's writers and readers own what they write to and read from.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for Tink {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let shared = Shared(Rc::new(RefCell::new(std::mem::take(out))));
        let mut writer = self.0.new_encrypting_writer(Box::new(shared.clone()), AAD)?;
        writer.write_all(plaintext)?;
        writer.close()?;
        *out = shared.0.take();
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        self.0.new_decrypting_reader(Box::new(Cursor::new(sealed.to_vec())), AAD)?.read_to_end(out)?;
        Ok(())
    }
}

/// envelopers: a single AES-256-GCM encryption of the whole plaintext, with its own in-memory key provider.
pub struct Envelopers(EnvelopeCipher<SimpleKeyProvider<Aes256Gcm>>);

impl Envelopers {
    pub fn new() -> Self {
        Self(EnvelopeCipher::init(SimpleKeyProvider::init([7; 16])))
    }
}

impl Peer for Envelopers {
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        *out = block_on(self.0.encrypt(plaintext))?.to_vec()?;
        Ok(())
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        *out = block_on(self.0.decrypt(&EncryptedRecord::from_vec(sealed.to_vec())?))?;
        Ok(())
    }
}
