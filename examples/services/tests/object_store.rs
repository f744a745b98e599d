//! The encrypted object store over S3, with moto. It is tested here because this package has S3's client in any case. Run with
//!
//! ```text
//! python3 -m venv .venv && .venv/bin/pip install -r tests/python/requirements.txt
//! cargo test -p kms-envelope-examples --test object_store -- --ignored
//! ```

use kms_envelope::{AwsKms, DataKeyCache, EncryptionContext, Envelope};
use kms_envelope_object_store::{Binding, StoreSettings, v0_14::EncryptedStore};
use object_store::{
    ObjectStoreExt, WriteMultipart,
    aws::{AmazonS3, AmazonS3Builder, S3CopyIfNotExists},
    integration::*,
    path::Path,
};
use test_support::{
    peers::{Moto, Peer, REGION},
    plaintext,
};

async fn s3(moto: &Moto, bucket: &str) -> AmazonS3 {
    // moto creates buckets for requests that are not signed.
    let created = reqwest::Client::new().put(format!("{}/{bucket}", moto.endpoint())).send().await.unwrap();
    assert!(created.status().is_success());
    AmazonS3Builder::new()
        .with_endpoint(moto.endpoint())
        .with_allow_http(true)
        .with_region(REGION)
        .with_bucket_name(bucket)
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .build()
        .unwrap()
}

fn settings(envelope: kms_envelope::EnvelopeBuilder, binding: Binding) -> StoreSettings {
    StoreSettings::new(envelope).base("s3://letters").binding(binding).part_len(5 << 20)
}

#[tokio::test]
#[ignore = "needs Python with moto: see CONTRIBUTING.md"]
async fn a_store_over_s3_behaves_like_any_other() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    for (bucket, binding) in [("bound", Binding::Path), ("unbound", Binding::None)] {
        let envelope = Envelope::builder(AwsKms::new(moto.client(), &*arn).unwrap())
            .cache(DataKeyCache::builder(std::time::Duration::from_secs(600)).build().unwrap());
        let store = EncryptedStore::new(s3(&moto, bucket).await, settings(envelope, binding)).unwrap();
        put_get_delete_list(&store).await;
        list_with_offset_exclusivity(&store).await;
        get_opts(&store).await;
        list_uses_directories_correctly(&store).await;
        list_with_delimiter(&store).await;
        rename_and_copy(&store).await;
        copy_if_not_exists(&store).await;
        copy_rename_nonexistent_object(&store).await;
        stream_get(&store).await;
        multipart_race_condition(&store, true).await;
        multipart_out_of_order(&store).await;
        put_get_attributes(&store).await;
        put_opts(&store, true).await;
    }
}

#[tokio::test]
#[ignore = "needs Python with AWS's Encryption SDK and moto: see CONTRIBUTING.md"]
async fn a_downloaded_object_opens_with_python_and_with_this_library() {
    let moto = Moto::start();
    let arn = moto.create_key().await;
    let provider = AwsKms::new(moto.client(), &*arn).unwrap();
    let settings = settings(Envelope::builder(provider.clone()), Binding::Path);
    let store = EncryptedStore::new(s3(&moto, "letters").await, settings).unwrap();
    let mut python = Peer::start(Some(moto.endpoint()));
    for len in [0, 1, 65_536, 12_000_000] {
        let (location, text) = (Path::from(format!("2026/{len}")), plaintext(len));
        if len > 5 << 20 {
            let mut upload = WriteMultipart::new(store.put_multipart(&location).await.unwrap());
            upload.write(&text);
            upload.finish().await.unwrap();
        } else {
            store.put(&location, text.clone().into()).await.unwrap();
        }
        assert_eq!(store.head(&location).await.unwrap().size, len as u64);
        if len > 0 {
            let (start, end) = (len as u64 / 3, len as u64 / 2 + 1);
            let range = store.get_range(&location, start..end).await.unwrap();
            assert!(range == text[start as usize..end as usize]);
        }

        let sealed = store.inner().get(&location).await.unwrap().bytes().await.unwrap();
        let context = EncryptionContext::from([("path", format!("s3://letters/{location}"))]);
        assert!(python.open(&arn, &context, &sealed).unwrap() == text);
        let opened = Envelope::new(provider.clone()).open(&sealed, &context).await.unwrap();
        assert!(opened.plaintext == text);
    }
}
