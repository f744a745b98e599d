//! object_store's own tests of stores, for both versions of the trait.

/// Runs the suite with one version of object_store.
macro_rules! suite {
    ($version:ident) => {
        mod $version {
            use kms_envelope::{DataKeyCache, Envelope, RawAes};
            use kms_envelope_object_store::{
                Binding, StoreSettings,
                $version::{
                    EncryptedStore,
                    object_store::{ObjectStore, integration::*, local::LocalFileSystem, memory::InMemory},
                },
            };

            fn settings(binding: Binding) -> StoreSettings {
                let envelope = Envelope::builder(RawAes::new("tests", "key", [7; 32]).unwrap())
                    .cache(DataKeyCache::builder(std::time::Duration::from_secs(60)).build().unwrap());
                StoreSettings::new(envelope).base("memory://bucket").binding(binding).frame_len(1000).part_len(5 << 20)
            }

            async fn common<T: ObjectStore>(store: &EncryptedStore<T>) {
                put_get_delete_list(store).await;
                get_opts(store).await;
                list_uses_directories_correctly(store).await;
                list_with_delimiter(store).await;
                list_with_offset_exclusivity(store).await;
                rename_and_copy(store).await;
                copy_if_not_exists(store).await;
                copy_rename_nonexistent_object(store).await;
                stream_get(store).await;
                multipart_race_condition(store, true).await;
                multipart_out_of_order(store).await;
            }

            #[tokio::test]
            async fn a_store_over_memory_behaves_like_any_other() {
                for binding in [Binding::Path, Binding::Prefix { segments: 1 }, Binding::None] {
                    let store = EncryptedStore::new(InMemory::new(), settings(binding)).unwrap();
                    common(&store).await;
                    put_get_attributes(&store).await;
                    put_opts(&store, true).await;
                }
            }

            #[tokio::test]
            async fn a_store_over_a_folder_behaves_like_any_other() {
                for binding in [Binding::Path, Binding::None] {
                    let folder = tempfile::tempdir().unwrap();
                    let inner = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
                    let store = EncryptedStore::new(inner, settings(binding)).unwrap();
                    common(&store).await;
                    put_opts(&store, false).await;
                }
            }

            #[tokio::test]
            async fn a_store_that_looks_up_sizes_behaves_like_any_other() {
                let store = EncryptedStore::new(InMemory::new(), settings(Binding::Path).look_up_sizes()).unwrap();
                common(&store).await;
            }

            #[tokio::test]
            async fn a_store_with_detached_keys_behaves_like_any_other() {
                let store =
                    EncryptedStore::new(InMemory::new(), settings(Binding::Path).detached_keys(".keys")).unwrap();
                common(&store).await;
                let store =
                    EncryptedStore::new(InMemory::new(), settings(Binding::None).detached_keys(".keys")).unwrap();
                common(&store).await;
            }

            #[tokio::test]
            async fn two_encrypted_stores_can_be_nested() {
                let outer = EncryptedStore::new(InMemory::new(), settings(Binding::Path)).unwrap();
                let store = EncryptedStore::new(outer, settings(Binding::Path).header_len(512)).unwrap();
                common(&store).await;
            }
        }
    };
}

suite!(v0_13);
suite!(v0_14);
