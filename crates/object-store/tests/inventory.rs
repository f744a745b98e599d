//! Inventories.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::SeqCst},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kms_envelope::{AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, Limits, message::Header};
use kms_envelope_object_store::{
    Content, Message,
    v0_14::{Inspected, Inventory, Listed},
};
use support::*;

fn inventory(store: &Faulty) -> Inventory<Faulty> {
    Inventory::new(Arc::new(store.clone()))
}

async fn inspected(inventory: &Inventory<Faulty>) -> BTreeMap<String, Inspected> {
    let objects: Vec<_> = inventory.stream().try_collect().await.unwrap();
    let count = objects.len();
    let by_name: BTreeMap<_, _> =
        objects.into_iter().map(|object| (object.listed.meta.location.to_string(), object)).collect();
    assert_eq!(by_name.len(), count, "no object twice");
    by_name
}

fn message(object: &Inspected) -> &Message {
    match &object.content {
        Ok(Content::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn names(keys: &Message) -> Vec<String> {
    keys.encrypted_data_keys().map(ToString::to_string).collect()
}

async fn seal(builder: kms_envelope::EnvelopeBuilder, context: &EncryptionContext, plaintext: &[u8]) -> Bytes {
    builder.build().unwrap().seal(plaintext, context).await.unwrap().into()
}

/// Returns the detached keys of a message for another key.
async fn rewrapped(sealed: &[u8], new: u8) -> Bytes {
    let header = Header::parse(sealed, &Limits::default()).unwrap();
    Envelope::new(key(7)).rewrap(&header, header.context(), &key(new)).await.unwrap().to_bytes().into()
}

#[tokio::test]
async fn an_inventory_names_the_keys_of_all_kinds_of_messages_and_marks_what_is_none() {
    let faulty = Faulty::default();
    let put = |location: &str, bytes: Bytes| store(&faulty.inner, location, &bytes);
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    encrypted.put(&"t/stored".into(), plaintext(1000, 1).into()).await.unwrap();
    let long = EncryptionContext::from([("long", "x".repeat(5000))]);
    put("t/long-header", seal(Envelope::builder(key(3)), &long, b"12345").await);
    let signing = AlgorithmSuite::Aes256GcmHkdfSha512CommitEcdsaP384;
    put("t/signed", seal(Envelope::builder(key(4)).suite(signing), &EncryptionContext::new(), b"123").await);
    let older = Envelope::builder(key(5))
        .commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt)
        .suite(AlgorithmSuite::Aes128Gcm);
    put("t/version-1", seal(older, &EncryptionContext::new(), b"").await);
    let whole = stored(&faulty.inner, "t/stored");
    put("t/truncated", whole.slice(..HEADER_LEN - 1));
    put("t/truncated-body", whole.slice(..HEADER_LEN + 10));
    put("t/base64", Bytes::from_static(b"AgR4Kg=="));
    let mut many = whole.to_vec();
    // The number of encrypted data keys follows the encryption context, which is as long as its length says.
    let context_len = usize::from(u16::from_be_bytes([many[35], many[36]]));
    many[37 + context_len..39 + context_len].copy_from_slice(&17_u16.to_be_bytes());
    put("t/many-keys", many.into());
    put("t/unknown-suite", Bytes::from_static(b"\x02\xff\xff and more"));
    put("t/empty", Bytes::new());
    put("t/other", Bytes::from_static(b"PAR1"));
    put("t/.kms-envelope-staging-1", whole.clone());
    put("u/elsewhere", whole.clone());

    let found = inspected(&inventory(&faulty).prefix("t".into())).await;
    let names_of = |name: &str| names(message(&found[name]));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        [
            "t/base64",
            "t/empty",
            "t/long-header",
            "t/many-keys",
            "t/other",
            "t/signed",
            "t/stored",
            "t/truncated",
            "t/truncated-body",
            "t/unknown-suite",
            "t/version-1"
        ]
    );
    assert_eq!(names_of("t/stored"), ["tests/key-7"], "without padding");
    assert_eq!(names_of("t/long-header"), ["tests/key-3"]);
    assert_eq!(names_of("t/signed"), ["tests/key-4"]);
    assert_eq!(names_of("t/version-1"), ["tests/key-5"]);
    assert_eq!(names_of("t/truncated-body"), ["tests/key-7"]);
    let lens = ["t/stored", "t/long-header", "t/version-1", "t/signed", "t/truncated-body"]
        .map(|name| message(&found[name]).plaintext_len());
    assert_eq!(lens, [Some(1000), Some(5), Some(0), None, None]);
    assert_eq!(found["t/stored"].listed.meta.size, whole.len() as u64);
    assert_eq!(message(&found["t/signed"]).header().suite(), signing);
    for name in ["t/empty", "t/other"] {
        assert!(matches!(found[name].content, Ok(Content::Other(_))), "{name}");
    }
    // These may be messages that other programs can read, so they are not passed over.
    for name in ["t/truncated", "t/base64", "t/many-keys", "t/unknown-suite"] {
        let error = found[name].content.as_ref().unwrap_err();
        assert!(matches!(cause(error), Error::Open { .. }), "{name}: {error}");
    }
    assert!(message(&found["t/stored"]).may_open_with(&key(7)) && !message(&found["t/stored"]).may_open_with(&key(3)));
}

#[tokio::test]
async fn each_object_costs_one_request_for_its_first_bytes() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    for number in 0..50 {
        encrypted.put(&format!("{number}").into(), plaintext(5000, number).into()).await.unwrap();
    }
    let long = EncryptionContext::from([("long", "x".repeat(5000))]);
    store(&faulty.inner, "long", &seal(Envelope::builder(key(3)), &long, b"12345").await);
    faulty.take_gets();
    assert_eq!(inspected(&inventory(&faulty)).await.len(), 51);
    let gets = faulty.take_gets();
    let ends = |name: &str| -> Vec<u64> {
        let of = gets.iter().filter(|(location, _)| location.as_ref() == name);
        of.map(|(_, options)| match &options.range {
            Some(GetRange::Bounded(range)) => range.end,
            other => panic!("{other:?}"),
        })
        .collect()
    };
    assert_eq!(ends("7"), [1024]);
    assert_eq!(ends("long"), [1024, 4096, 16384]);
    assert_eq!((gets.len(), faulty.lists.load(SeqCst)), (53, 1));
}

#[tokio::test]
async fn detached_keys_belong_to_their_object_and_are_not_listed() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    for name in ["a", "b", "c"] {
        encrypted.put(&name.into(), plaintext(100, 1).into()).await.unwrap();
    }
    let of = |name: &str| stored(&faulty.inner, name);
    store(&faulty.inner, "a.keys", &rewrapped(&of("a"), 8).await);
    store(&faulty.inner, "b.keys", &rewrapped(&of("a"), 8).await);
    store(&faulty.inner, "d.keys", &rewrapped(&of("a"), 8).await);
    faulty.take_gets();

    let found = inspected(&inventory(&faulty).detached_keys(".keys")).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "c", "d.keys"]);
    assert!(matches!(found["d.keys"].content, Ok(Content::DetachedKeys(_))), "they have no object");
    assert_eq!(names(message(&found["a"])), ["tests/key-7", "tests/key-8"]);
    assert!(message(&found["a"]).detached_keys().is_some());
    assert_eq!(names(message(&found["b"])), ["tests/key-7"], "those of another message are ignored");
    assert_eq!(names(message(&found["c"])), ["tests/key-7"]);
    assert_eq!((faulty.take_gets().len(), faulty.lists.load(SeqCst)), (7, 3));
    let versions = ["a", "b", "c"].map(|name| found[name].listed.detached_keys);
    assert!(versions[0].is_some() && versions[1].is_some() && versions[0] != versions[1] && versions[2].is_none());
    // The number identifies the version.
    let again = inspected(&inventory(&faulty).detached_keys(".keys")).await;
    assert_eq!(again["a"].listed.detached_keys, versions[0]);
    store(&faulty.inner, "a.keys", &Bytes::from_static(b"no keys"));
    let changed = inspected(&inventory(&faulty).detached_keys(".keys")).await;
    assert_ne!(changed["a"].listed.detached_keys, versions[0]);
    let error = changed["a"].content.as_ref().unwrap_err();
    assert!(matches!(cause(error), Error::DetachedKeys { .. }), "{error}");
    // Without the setting, they are objects as others.
    assert_eq!(inspected(&inventory(&faulty)).await.len(), 6);
}

#[tokio::test]
async fn objects_whose_names_have_the_suffix_are_not_passed_over() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    for name in ["backup.keys", "a", "z"] {
        encrypted.put(&name.into(), plaintext(100, 1).into()).await.unwrap();
    }
    store(&faulty.inner, "z.keys", &stored(&faulty.inner, "a"));
    let found = inspected(&inventory(&faulty).detached_keys(".keys")).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "backup.keys", "z"]);
    assert_eq!(names(message(&found["backup.keys"])), ["tests/key-7"]);
    let error = found["z"].content.as_ref().unwrap_err();
    assert!(matches!(cause(error), Error::DetachedKeys { .. }), "{error}");
    // Detached keys are listed in the range of their objects.
    store(&faulty.inner, "b.keys", &rewrapped(&stored(&faulty.inner, "a"), 8).await);
    store(&faulty.inner, "a.keys", &rewrapped(&stored(&faulty.inner, "a"), 8).await);
    let names = |found: BTreeMap<String, Inspected>| found.into_keys().collect::<Vec<_>>();
    let of = inventory(&faulty).detached_keys(".keys");
    assert_eq!(names(inspected(&of.clone().up_to("a".into())).await), ["a"]);
    assert_eq!(names(inspected(&of.after("a".into()).up_to("b".into())).await), ["b.keys"]);
}

#[tokio::test]
async fn objects_of_another_list_are_inspected_with_their_detached_keys() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    for name in ["a", "b"] {
        encrypted.put(&name.into(), plaintext(100, 1).into()).await.unwrap();
    }
    store(&faulty.inner, "a.keys", &rewrapped(&stored(&faulty.inner, "a"), 8).await);
    let listed: Vec<_> = faulty.inner.list(None).try_collect().await.unwrap();
    let listed = listed.into_iter().filter(|meta| !meta.location.as_ref().ends_with(".keys"));
    let listed = futures_util::stream::iter(listed.map(|meta| Ok(Listed::new(meta)))).boxed();
    let found: Vec<_> = inventory(&faulty).detached_keys(".keys").inspect(listed).try_collect().await.unwrap();
    let mut keys: Vec<_> = found.iter().map(|object| names(message(object))).collect();
    keys.sort();
    assert_eq!(keys, [vec!["tests/key-7"], vec!["tests/key-7", "tests/key-8"]]);
}

#[tokio::test]
async fn an_answer_that_is_longer_than_announced_is_not_read_to_its_end() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    encrypted.put(&"a".into(), plaintext(5000, 1).into()).await.unwrap();
    faulty.set(|get| {
        let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 1000])));
        get.answer().map(|answer| GetResult { payload: GetResultPayload::Stream(endless.boxed()), ..answer })
    });
    let found = inspected(&inventory(&faulty)).await;
    assert!(matches!(cause(found["a"].content.as_ref().unwrap_err()), Error::ShortRead { .. }));
}

#[tokio::test]
async fn ranges_of_names_share_the_objects() {
    let faulty = Faulty::default();
    let all: BTreeSet<String> = (0..40).map(|n: u32| format!("t/{:x}", n * 37 % 256)).collect();
    for name in &all {
        store(&faulty.inner, name, &Bytes::from_static(b"x"));
    }
    let bounds = ["t/3", "t/8a", "t/c"];
    let mut found = Vec::new();
    for part in 0..=bounds.len() {
        let mut inventory = inventory(&faulty).prefix("t".into());
        if part > 0 {
            inventory = inventory.after(bounds[part - 1].into());
        }
        if let Some(bound) = bounds.get(part) {
            inventory = inventory.up_to((*bound).into());
        }
        let objects = inspected(&inventory).await;
        assert!(!objects.is_empty());
        found.extend(objects.into_keys());
    }
    assert_eq!(found.len(), all.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_does_not_stop_the_others() {
    let faulty = Faulty::default();
    let encrypted = EncryptedStore::new(faulty.clone(), settings()).unwrap();
    for name in ["deleted", "failing", "short", "shifted", "well"] {
        encrypted.put(&name.into(), plaintext(100, 1).into()).await.unwrap();
    }
    faulty.set(|get| match get.location.as_ref() {
        "deleted" => {
            get.inner.delete(&get.location).now_or_never().unwrap().unwrap();
            get.answer()
        }
        "failing" => Err(failure()),
        "short" => get.answer_in(|bytes| vec![Ok(bytes.slice(1..))]),
        "shifted" => get.answer().map(|answer| GetResult { range: 1..answer.range.end, ..answer }),
        _ => get.answer(),
    });
    let found = inspected(&inventory(&faulty).concurrency(0)).await;
    let error = |name: &str| found[name].content.as_ref().unwrap_err();
    assert!(matches!(error("deleted"), object_store::Error::NotFound { .. }));
    assert_eq!(error("failing").to_string(), failure().to_string());
    assert!(matches!(cause(error("short")), Error::ShortRead { .. }));
    assert!(matches!(cause(error("shifted")), Error::WrongRange { .. }));
    message(&found["well"]);
}

#[tokio::test]
async fn only_some_of_the_listed_objects_can_be_inspected() {
    let faulty = Faulty::default();
    for name in ["a", "b", "c"] {
        store(&faulty.inner, name, &Bytes::from_static(b"x"));
    }
    let inventory = inventory(&faulty);
    let listed: Vec<_> = inventory.list().try_collect().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert!(faulty.take_gets().is_empty());
    let some = inventory.list().try_filter(|object| std::future::ready(object.meta.location.as_ref() != "b"));
    let found: Vec<_> = inventory.inspect(Box::pin(some)).try_collect().await.unwrap();
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn a_list_that_fails_ends_with_an_error() {
    #[derive(Debug)]
    struct Unlisted(InMemory);

    impl std::fmt::Display for Unlisted {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Unlisted")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Unlisted {
        async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            self.0.put_opts(location, payload, opts).await
        }

        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            Err(failure())
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: futures_util::stream::BoxStream<'static, Result<Path>>,
        ) -> futures_util::stream::BoxStream<'static, Result<Path>> {
            locations
        }

        fn list(&self, prefix: Option<&Path>) -> futures_util::stream::BoxStream<'static, Result<ObjectMeta>> {
            let failed = futures_util::stream::once(async { Err(failure()) });
            Box::pin(futures_util::StreamExt::chain(self.0.list(prefix), failed))
        }

        async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
            Err(failure())
        }

        async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
            Err(failure())
        }
    }

    let unlisted = Unlisted(InMemory::new());
    store(&unlisted.0, "a", &Bytes::from_static(b"x"));
    let inventory = Inventory::new(Arc::new(unlisted));
    let error = inventory.stream().try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.to_string(), failure().to_string());
    // Detached keys that were not listed would be missed.
    let error = inventory.clone().detached_keys(".keys").stream().try_next().await.unwrap_err();
    assert_eq!(error.to_string(), failure().to_string());
}
