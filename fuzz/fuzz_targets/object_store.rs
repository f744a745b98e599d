//! Ranges of a hostile object in an encrypted store equal those parts of the plaintext of the whole message.

#![no_main]

use std::sync::LazyLock;

use kms_envelope_fuzz::{builder, open};
use kms_envelope_object_store::{
    Binding, StoreSettings,
    v0_14::{
        EncryptedStore,
        object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, memory::InMemory, path::Path},
    },
};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

/// Reads messages of any layout, and those of one. They stay the same, so that they know earlier objects of the name.
static STORES: LazyLock<[EncryptedStore<InMemory>; 2]> = LazyLock::new(|| {
    let settings = || StoreSettings::new(builder()).binding(Binding::None).header_len(197).frame_len(128);
    [settings().look_up_sizes(), settings()].map(|settings| EncryptedStore::new(InMemory::new(), settings).unwrap())
});

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (start, len, data) = input;
    let (start, len, location) = (u64::from(start), u64::from(len), Path::from("a"));
    let whole = open(data).ok();
    // Where another part of the message is damaged, the bytes are not known.
    let is_right = |found: &[u8], start: u64| {
        let known = whole.as_ref().map(|whole| &whole[start as usize..][..found.len()]);
        assert!(known.is_none_or(|known| known == found), "wrong bytes");
    };
    for store in &*STORES {
        block_on(store.inner().put(&location, data.to_vec().into())).unwrap();
        let size = block_on(store.head(&location)).unwrap().size;
        let ranges = [GetRange::Bounded(start..start + len), GetRange::Offset(start), GetRange::Suffix(len)].map(Some);
        for range in ranges.into_iter().chain([None]) {
            let options = GetOptions { range: range.clone(), ..GetOptions::default() };
            let read = async {
                let read = store.get_opts(&location, options).await?;
                let (start, size) = (read.range.start, read.meta.size);
                read.bytes().await.map(|bytes| (start, size, bytes))
            };
            let Ok((start, read_size, bytes)) = block_on(read) else { continue };
            assert_eq!(size, read_size);
            is_right(&bytes, start);
            if range.is_none() {
                assert_eq!(whole.as_deref(), Some(&bytes[..]), "a message that does not open is read");
            }
        }
        let ranges = [start..start + len, 0..1, start + 1..start + 2 * len];
        for (range, bytes) in ranges.iter().zip(block_on(store.get_ranges(&location, &ranges)).into_iter().flatten()) {
            is_right(&bytes, range.start);
        }
    }
});
