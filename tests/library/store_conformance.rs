//! The conformance suite for stores of branch keys: a store in memory passes it, and faulty ones fail.

use std::{
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use async_trait::async_trait;
use futures_util::lock::Mutex;
use kms_envelope::{
    ProviderError,
    provider::{
        ProviderErrorKind,
        branch_key::{BranchKeyItem, BranchKeyStore},
    },
    testing::{MemoryBranchKeyStore, StoreConformance},
};
use pollster::block_on;

#[test]
fn the_store_in_memory_conforms_even_if_it_is_not_empty() {
    let store = MemoryBranchKeyStore::new();
    block_on(StoreConformance::new(&store).check());
    let len = store.items().len();
    block_on(StoreConformance::new(&store.clone()).check());
    assert_eq!(store.items().len(), 2 * len);
}

#[test]
fn items_in_memory_can_be_replaced_and_removed() {
    let store = MemoryBranchKeyStore::new();
    let item = |ciphertext: &[u8]| BranchKeyItem::new("id", BranchKeyItem::ACTIVE, ciphertext, 1, Default::default());
    assert_eq!(store.put(item(b"one")), None);
    assert_eq!(store.put(item(b"two")), Some(item(b"one")));
    assert_eq!(store.items(), [item(b"two")]);
    assert_eq!(store.remove("id", BranchKeyItem::BEACON), None);
    assert_eq!(store.remove("id", BranchKeyItem::ACTIVE), Some(item(b"two")));
    assert_eq!(store.items(), []);
}

#[test]
fn a_store_behind_a_pointer_conforms() {
    let store = MemoryBranchKeyStore::new();
    block_on(StoreConformance::new(&(Arc::new(store.clone()) as Arc<dyn BranchKeyStore>)).check());
    block_on(StoreConformance::new(&(Box::new(store) as Box<dyn BranchKeyStore>)).check());
}

#[cfg(feature = "branch-key-folder")]
#[test]
fn a_folder_conforms_and_its_files_have_recognizable_names() {
    use kms_envelope::provider::branch_key::FolderStore;

    let folder = tempfile::tempdir().unwrap();
    block_on(StoreConformance::new(&FolderStore::new(folder.path())).check());
    let names = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names().any(|name| name.starts_with("branch-key-conformance%2fitems%2f") && name.ends_with(".json")));
    // Nothing is left of interrupted and refused writes.
    let others: Vec<_> = names().filter(|name| !name.starts_with("branch-key-")).collect();
    assert_eq!(others, [".branch-keys.lock"]);
}

/// The fault of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    FailsForMissingItems,
    IgnoresTheType,
    FoldsTheCaseOfIds,
    TrimsIds,
    TruncatesIds,
    DecodesIds,
    ReplacesSlashesInIds,
    ComposesIds,
    TruncatesCiphertexts,
    LosesEmptyAttributes,
    TruncatesAttributes,
    FoldsTheCaseOfAttributes,
    LosesTheHierarchyVersion,
    CreateOverwrites,
    CreateChecksTheFirstItemOnly,
    CreateWritesUntilTheConflict,
    ConflictsAreOfAnotherKind,
    CreateRaces,
    CreateIsHalfDone,
    ReplaceOverwritesVersions,
    ReplaceIgnoresTheCiphertext,
    ReplaceComparesAPrefix,
    ReplaceCreates,
    ReplaceWritesTheVersionFirst,
    ReplaceRemovesTheBeacon,
    ReplaceRaces,
    ReplaceIsHalfDone,
    HangsAfterTheDeadline,
    FailsForGoodAfterTheDeadline,
}

/// A store with one fault.
struct Bad {
    fault: Fault,
    store: MemoryBranchKeyStore,
}

impl Bad {
    fn new(fault: Fault) -> Self {
        Self { fault, store: MemoryBranchKeyStore::new() }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Returns the id under which an item is stored.
    fn id(&self, id: &str) -> String {
        match self.fault {
            Fault::FoldsTheCaseOfIds => id.to_lowercase(),
            Fault::TrimsIds => id.trim().to_owned(),
            Fault::TruncatesIds => id.chars().take(255).collect(),
            Fault::DecodesIds => id.replace("%2f", "/"),
            Fault::ReplacesSlashesInIds => id.replace('/', "_"),
            Fault::ComposesIds => id.replace("e\u{301}", "é"),
            _ => id.to_owned(),
        }
    }

    /// Returns the item as it is stored.
    fn stored(&self, item: &BranchKeyItem) -> BranchKeyItem {
        let mut item = item.clone();
        item.branch_key_id = self.id(&item.branch_key_id);
        match self.fault {
            Fault::TruncatesCiphertexts => item.ciphertext.truncate(4096),
            Fault::LosesEmptyAttributes => item.attributes.retain(|_, value| !value.is_empty()),
            Fault::TruncatesAttributes => {
                for value in item.attributes.values_mut() {
                    *value = value.chars().take(4000).collect();
                }
            }
            Fault::FoldsTheCaseOfAttributes => {
                item.attributes =
                    item.attributes.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
            }
            Fault::LosesTheHierarchyVersion => item.hierarchy_version = 1,
            _ => {}
        }
        item
    }

    fn put(&self, item: &BranchKeyItem) {
        self.store.put(self.stored(item));
    }

    async fn find(&self, item: &BranchKeyItem) -> Option<BranchKeyItem> {
        self.store.get(&self.id(&item.branch_key_id), &item.item_type, Instant::now()).await.unwrap()
    }

    fn error(&self, what: &'static str) -> ProviderError {
        ProviderError::new(ProviderErrorKind::Other, "Test", "bad").with_detail(what)
    }

    fn conflict(&self) -> ProviderError {
        let kind = match self.fault {
            Fault::ConflictsAreOfAnotherKind => ProviderErrorKind::Other,
            _ => ProviderErrorKind::Conflict,
        };
        ProviderError::new(kind, "Test", "bad")
    }

    async fn check_deadline(&self, deadline: Instant) -> Result<(), ProviderError> {
        let is_over = deadline <= Instant::now();
        match self.fault {
            Fault::HangsAfterTheDeadline if is_over => pending().await,
            Fault::FailsForGoodAfterTheDeadline if is_over => Err(self.error("too late")),
            _ => Ok(()),
        }
    }

    /// Lets another task run if the store has this fault.
    async fn turn_if(&self, fault: Fault) {
        let mut is_over = !self.is(fault);
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut is_over, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[async_trait]
impl BranchKeyStore for Bad {
    async fn get(&self, id: &str, item_type: &str, deadline: Instant) -> Result<Option<BranchKeyItem>, ProviderError> {
        self.check_deadline(deadline).await?;
        let item_type = if self.is(Fault::IgnoresTheType) { BranchKeyItem::ACTIVE } else { item_type };
        let found = self.store.get(&self.id(id), item_type, deadline).await?;
        match found {
            None if self.is(Fault::FailsForMissingItems) => Err(self.error("no such item")),
            found => Ok(found.map(|mut item| {
                item.branch_key_id = id.to_owned();
                item
            })),
        }
    }

    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
        self.check_deadline(deadline).await?;
        let checked = match self.fault {
            Fault::CreateOverwrites => &[],
            Fault::CreateChecksTheFirstItemOnly => &items[..1],
            _ => items,
        };
        for item in checked {
            if self.find(item).await.is_some() {
                return Err(self.conflict());
            }
            if self.is(Fault::CreateWritesUntilTheConflict) {
                self.put(item);
            }
        }
        self.turn_if(Fault::CreateRaces).await;
        for item in items {
            self.put(item);
            self.turn_if(Fault::CreateIsHalfDone).await;
        }
        Ok(())
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        self.check_deadline(deadline).await?;
        if self.find(version).await.is_some() && !self.is(Fault::ReplaceOverwritesVersions) {
            return Err(self.conflict());
        }
        if self.is(Fault::ReplaceWritesTheVersionFirst) {
            self.put(version);
        }
        let is_expected = match self.find(active).await.map(|current| current.ciphertext) {
            None => self.is(Fault::ReplaceCreates),
            Some(_) if self.is(Fault::ReplaceIgnoresTheCiphertext) => true,
            Some(current) if self.is(Fault::ReplaceComparesAPrefix) => current.starts_with(expected_ciphertext),
            Some(current) => current == expected_ciphertext,
        };
        if !is_expected {
            return Err(self.conflict());
        }
        self.turn_if(Fault::ReplaceRaces).await;
        self.put(version);
        self.turn_if(Fault::ReplaceIsHalfDone).await;
        self.put(active);
        if self.is(Fault::ReplaceRemovesTheBeacon) {
            self.store.remove(&active.branch_key_id, BranchKeyItem::BEACON);
        }
        Ok(())
    }
}

#[test]
fn a_faulty_store_fails_with_the_requirement_that_it_violates() {
    for (fault, requirement) in [
        (Fault::FailsForMissingItems, "get must succeed, but failed: Test with key bad failed: no such item"),
        (Fault::IgnoresTheType, "get must return the item of type branch:version:"),
        (Fault::FoldsTheCaseOfIds, "get must return no item of type branch:ACTIVE before it is created, with the id"),
        (Fault::TrimsIds, "get must return no item of type branch:ACTIVE before it is created, with the id"),
        (Fault::TruncatesIds, "get must return no item of type branch:ACTIVE before it is created, with the id"),
        (Fault::DecodesIds, "get must return no item of type branch:ACTIVE before it is created, with the id"),
        (
            Fault::ReplacesSlashesInIds,
            "get must return no item of type branch:ACTIVE before it is created, with the id",
        ),
        (Fault::ComposesIds, "get must return no item of type branch:ACTIVE before it is created, with the id"),
        (Fault::TruncatesCiphertexts, "get must return the item of type branch:ACTIVE unchanged"),
        (Fault::LosesEmptyAttributes, "get must return the item of type branch:ACTIVE unchanged"),
        (Fault::TruncatesAttributes, "get must return the item of type branch:ACTIVE unchanged"),
        (Fault::FoldsTheCaseOfAttributes, "get must return the item of type branch:ACTIVE unchanged"),
        (Fault::LosesTheHierarchyVersion, "get must return the item of type branch:ACTIVE unchanged"),
        (Fault::CreateOverwrites, "create must fail with Conflict if the items 0..1 of 3 exist already"),
        (Fault::CreateChecksTheFirstItemOnly, "create must fail with Conflict if the items 1..2 of 3 exist already"),
        (Fault::CreateWritesUntilTheConflict, "after a conflict of create"),
        (
            Fault::ConflictsAreOfAnotherKind,
            "create must fail with Conflict if the items 0..1 of 3 exist already, not with",
        ),
        (Fault::CreateRaces, "one of several concurrent calls of create must succeed, not 8"),
        (Fault::CreateIsHalfDone, "one of several concurrent calls of create must succeed, not 8"),
        (Fault::ReplaceOverwritesVersions, "replace must fail with Conflict if the version exists"),
        (
            Fault::ReplaceIgnoresTheCiphertext,
            "replace must fail with Conflict if the active item has another ciphertext",
        ),
        (Fault::ReplaceComparesAPrefix, "replace must fail with Conflict if the active item's ciphertext is longer"),
        (Fault::ReplaceCreates, "replace must fail with Conflict if there is no active item"),
        (Fault::ReplaceWritesTheVersionFirst, "after a conflict of replace"),
        (Fault::ReplaceRemovesTheBeacon, "get must return the item of type beacon:ACTIVE after its active item was"),
        (Fault::ReplaceRaces, "one of several concurrent calls of replace must succeed, not 8"),
        (Fault::ReplaceIsHalfDone, "must succeed, not 8"),
        (Fault::HangsAfterTheDeadline, "get must end soon after its deadline"),
        (Fault::FailsForGoodAfterTheDeadline, "get after its deadline must fail with a retryable error, not"),
    ] {
        let store = Bad::new(fault);
        let check = || block_on(StoreConformance::new(&store).check());
        let panic = catch_unwind(AssertUnwindSafe(check)).expect_err(&format!("{fault:?} should not conform"));
        let sentence = panic.downcast_ref::<String>().unwrap();
        assert!(sentence.contains(requirement), "{fault:?}: {sentence}");
    }
}

#[test]
fn a_store_that_writes_half_when_it_is_dropped_fails() {
    // Locked against concurrent calls, but not against being dropped.
    struct Locked(Mutex<()>, Bad);

    #[async_trait]
    impl BranchKeyStore for Locked {
        async fn get(&self, id: &str, item_type: &str, at: Instant) -> Result<Option<BranchKeyItem>, ProviderError> {
            self.1.get(id, item_type, at).await
        }

        async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
            let _guard = self.0.lock().await;
            self.1.create(items, deadline).await
        }

        async fn replace(
            &self,
            version: &BranchKeyItem,
            active: &BranchKeyItem,
            expected: &[u8],
            deadline: Instant,
        ) -> Result<(), ProviderError> {
            let _guard = self.0.lock().await;
            self.1.replace(version, active, expected, deadline).await
        }
    }
    for (fault, operation) in [(Fault::CreateIsHalfDone, "create"), (Fault::ReplaceIsHalfDone, "replace")] {
        let store = Locked(Mutex::new(()), Bad::new(fault));
        let check = || block_on(StoreConformance::new(&store).check());
        let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("it should not conform");
        let sentence = panic.downcast_ref::<String>().unwrap();
        let requirement = format!("{operation} must write all items or none if its future is dropped");
        assert!(sentence.ends_with(&requirement), "{sentence}");
    }
}

#[test]
fn the_store_that_the_faulty_ones_wrap_conforms() {
    block_on(StoreConformance::new(&Bad::new(Fault::None)).check());
}
