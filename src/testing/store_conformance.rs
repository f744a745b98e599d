//! A test suite for implementations of `BranchKeyStore`.

use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::conformance::{PATIENCE, within};
use crate::{
    crypto::Randomness,
    provider::{
        ProviderError, ProviderErrorKind,
        branch_key::{BranchKeyItem, BranchKeyStore},
        deadline_after,
    },
};

/// The time limit of most calls.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum length of a branch key id in bytes: that of a partition key in DynamoDB.
const MAX_ID_LEN: usize = 2048;

/// The maximum number of retries of a call that competes with others.
const MAX_RETRIES: usize = 20;

/// A test suite for implementations of [`BranchKeyStore`].
///
/// Call [`check`](Self::check) in a test of your store, on any executor. The suite calls the store several hundred
/// times. It leaves its items in the store, under ids with a random part, so the store need not be empty.
///
/// ```
/// use kms_envelope::testing::{MemoryBranchKeyStore, StoreConformance};
///
/// # pollster::block_on(async {
/// StoreConformance::new(&MemoryBranchKeyStore::new()).check().await;
/// # });
/// ```
///
/// # Requirements
/// - An item that does not exist is `None`, and not an error.
/// - An item is returned exactly as it was written: all bytes of its ciphertext, and attributes with any names and
///   values, of up to 8 KiB each.
/// - Ids are compared byte by byte, up to 2,048 bytes, which is the limit of DynamoDB: case, spaces, slashes, dots and
///   composed characters make a difference. They contain no NUL.
/// - `create` adds all of its items, or none if any of them exists.
/// - `replace` writes both items, or none: if the version exists, if the active item has another ciphertext, or if it
///   does not exist. The other items of the branch key stay.
/// - All of these conflicts have the kind [`Conflict`](ProviderErrorKind::Conflict).
/// - Of several concurrent calls that conflict with each other, exactly one succeeds, after retries if the errors are
///   retryable.
/// - If the future of a write is dropped, all of its items are written, or none.
/// - A call whose deadline has passed succeeds or fails with a retryable error within 5 seconds.
#[must_use = "nothing is tested until check is called"]
pub struct StoreConformance<'a> {
    store: &'a dyn BranchKeyStore,
    is_concurrent: bool,
}

impl<'a> StoreConformance<'a> {
    /// Creates tests of a store.
    pub fn new(store: &'a dyn BranchKeyStore) -> Self {
        Self { store, is_concurrent: true }
    }

    /// Does not test concurrent calls. Use it with a simulation of a database whose transactions are not isolated, such
    /// as moto's DynamoDB.
    pub fn without_concurrency(self) -> Self {
        Self { is_concurrent: false, ..self }
    }

    /// Runs all tests.
    ///
    /// # Panics
    /// Panics if the store does not meet a requirement. The message names the requirement.
    pub async fn check(&self) {
        let mut random = [0; 8];
        if let Err(error) = Randomness::default().fill(&mut random) {
            self.fail(format_args!("the random number generator failed: {error}"));
        }
        let tag = &format!("{:016x}", u64::from_be_bytes(random))[..];
        self.items_are_returned_as_written(tag).await;
        self.ids_are_distinct(tag).await;
        self.conflicts_of_create_write_nothing(tag).await;
        self.conflicts_of_replace_write_nothing(tag).await;
        if self.is_concurrent {
            self.one_of_concurrent_calls_succeeds(tag).await;
        }
        self.dropped_writes_are_whole(tag).await;
        self.deadlines_that_have_passed_do_not_hang(tag).await;
    }

    async fn items_are_returned_as_written(&self, tag: &str) {
        let id = &format!("conformance/items/{tag}")[..];
        let [version, mut active, beacon] = new_items(id, 1);
        active.ciphertext = (0..6144_u32).map(|at| at.to_le_bytes()[usize::from(at % 3 == 0)]).collect();
        active.hierarchy_version = 2;
        let text = " #:.,;[]{}()\"'`\\/%_*?$\r\n\t\u{1}\u{7f}\u{a0}größe\u{301}\u{fffd}\u{10ffff} ";
        active.attributes = BTreeMap::from([
            ("kms-arn".to_owned(), "arn:aws:kms:eu-west-1:111122223333:key/1".to_owned()),
            (format!("aws-crypto-ec:{text}"), text.to_owned()),
            ("aws-crypto-ec:empty".to_owned(), String::new()),
            ("aws-crypto-ec:number".to_owned(), "01.50e1".to_owned()),
            ("aws-crypto-ec:null".to_owned(), "null".to_owned()),
            ("aws-crypto-ec:".to_owned(), "no name".to_owned()),
            ("aws-crypto-ec:case".to_owned(), "lower".to_owned()),
            ("aws-crypto-ec:Case".to_owned(), "upper".to_owned()),
            ("aws-crypto-ec:long".to_owned(), "long µ ".repeat(1024)),
            ("an attribute of a later version".to_owned(), "\u{0}".to_owned()),
        ]);
        active.attributes.extend((0..50).map(|number| (format!("aws-crypto-ec:{number}"), number.to_string())));
        let items = [version, active, beacon];
        self.holds(id, &items, &[false; 3], "before it is created").await;
        self.create(&items).await;
        self.holds(id, &items, &[true; 3], "after it was created").await;
        self.is_missing(id, "branch:active").await;
        self.is_missing(id, BranchKeyItem::VERSION_PREFIX).await;
        self.is_missing(&format!("{id}/"), BranchKeyItem::ACTIVE).await;

        let [new_version, mut new_active, _] = new_items(id, 2);
        new_active.hierarchy_version = 1;
        self.replace(&new_version, &new_active, &items[1].ciphertext).await;
        let [version, _, beacon] = items;
        let items = [version, new_active, beacon, new_version];
        self.holds(id, &items, &[true; 4], "after its active item was replaced").await;
    }

    async fn ids_are_distinct(&self, tag: &str) {
        let long = format!("{tag}{}", "0123456789abcde/".repeat(MAX_ID_LEN / 16));
        let long = |end: &str| format!("{}{end}", &long[..MAX_ID_LEN - end.len()]);
        let wide = "\u{10ffff}".repeat((MAX_ID_LEN - tag.len()) / 4);
        let mut ids: Vec<String> = [
            "",
            "a",
            "A",
            "ß",
            "SS",
            "ss",
            "é",
            "e\u{301}",
            "/",
            "//",
            "\\",
            "a/b",
            "a-b",
            "a_b",
            "a%2fb",
            "a%2Fb",
            "a:b",
            "a.b",
            "a b",
            "a+b",
            ".",
            "..",
            "../",
            "../../",
            "./",
            "a/../",
            "a/",
            "~",
            "*",
            "con",
            "nul.",
            "\u{202e}",
            "\u{1}",
            "\n",
            "'",
            "\"",
            "'; --",
            "{}",
            "\u{1f511}",
            "\u{fffd}",
            "0",
            "00",
            " ",
            "\t",
        ]
        .into_iter()
        .flat_map(|text| [format!("{text}{tag}"), format!("{tag}{text}")])
        .collect();
        ids.extend([long("x"), long("y"), long("X"), format!("{tag}{wide}")]);
        ids.sort();
        ids.dedup();
        for (number, id) in ids.iter().enumerate() {
            let what = format_args!("before it is created, with the id {:?}", shortened(id));
            let items = new_items(id, number);
            self.holds(id, &items[1..2], &[false], what).await;
            self.create(&items[1..2]).await;
        }
        for (number, id) in ids.iter().enumerate() {
            let what = format_args!("with the id {:?}", shortened(id));
            self.holds(id, &new_items(id, number)[1..2], &[true], what).await;
        }
    }

    async fn conflicts_of_create_write_nothing(&self, tag: &str) {
        // Each of the three items exists already, and then all three.
        for existing in [0..1, 1..2, 2..3, 0..3] {
            let id = &format!("conformance/create/{existing:?}/{tag}")[..];
            let (old, mut new) = (new_items(id, 1), new_items(id, 1));
            self.create(&old[existing.clone()]).await;
            for item in &mut new {
                item.ciphertext.push(0);
            }
            let expected: Vec<_> = (0..3).map(|at| existing.contains(&at)).collect();
            let what = format_args!("if the items {existing:?} of 3 exist already");
            self.conflicts("create", self.store.create(&new, deadline_after(TIMEOUT)).await, what);
            self.holds(id, &old, &expected, "after a conflict of create").await;
        }
    }

    async fn conflicts_of_replace_write_nothing(&self, tag: &str) {
        let id = &format!("conformance/replace/{tag}")[..];
        let items = new_items(id, 1);
        let [version, active, _] = new_items(id, 2);
        let replace = async |version: &BranchKeyItem, expected: &[u8], what: &str| {
            let result = self.store.replace(version, &active, expected, deadline_after(TIMEOUT)).await;
            self.conflicts("replace", result, what);
        };
        replace(&version, &items[1].ciphertext, "if there is no active item").await;
        self.holds(id, &[version.clone(), active.clone()], &[false; 2], "after a conflict of replace").await;

        self.create(&items).await;
        let current = &items[1].ciphertext;
        let mut existing = items[0].clone();
        existing.ciphertext.push(0);
        replace(&existing, current, "if the version exists").await;
        for (other, what) in [
            (&active.ciphertext[..], "if the active item has another ciphertext"),
            (&current[..current.len() - 1], "if the active item's ciphertext is longer than expected"),
            (&[&current[..], &[0]].concat(), "if the active item's ciphertext is shorter than expected"),
            (&[], "if no ciphertext is expected"),
        ] {
            replace(&version, other, what).await;
        }
        self.is_missing(id, &version.item_type).await;
        self.holds(id, &items, &[true; 3], "after conflicts of replace").await;
    }

    async fn one_of_concurrent_calls_succeeds(&self, tag: &str) {
        let id = &format!("conformance/concurrent/{tag}")[..];
        let candidates: Vec<_> = (1..=8).map(|number| new_items(id, number)).collect();
        let calls = candidates.iter().map(|items| decided(|| self.store.create(items, deadline_after(TIMEOUT))));
        let created = self.winner("create", join_all(calls).await);
        for (number, items) in candidates.iter().enumerate() {
            let wins = number == created;
            self.holds(id, &items[..1], &[wins], "after concurrent calls of create").await;
            if wins {
                self.holds(id, items, &[true; 3], "after concurrent calls of create").await;
            }
        }

        let current = &candidates[created][1].ciphertext;
        let next: Vec<_> = (11..=18).map(|number| new_items(id, number)).collect();
        let calls = next.iter().map(|[version, active, _]| {
            decided(|| self.store.replace(version, active, current, deadline_after(TIMEOUT)))
        });
        let replaced = self.winner("replace", join_all(calls).await);
        for (number, items) in next.iter().enumerate() {
            self.holds(id, &items[..1], &[number == replaced], "after concurrent calls of replace").await;
        }
        self.holds(id, &next[replaced][1..2], &[true], "after concurrent calls of replace").await;
    }

    /// Returns the number of the call that succeeded.
    fn winner(&self, operation: &str, results: Vec<Result<(), ProviderError>>) -> usize {
        let mut winners = Vec::new();
        for (number, result) in results.into_iter().enumerate() {
            match result {
                Ok(()) => winners.push(number),
                Err(error) if error.kind() == ProviderErrorKind::Conflict => {}
                Err(error) => self.fail(format_args!(
                    "concurrent calls of {operation} must succeed or fail with Conflict, not with: {error}"
                )),
            }
        }
        match winners[..] {
            [winner] => winner,
            _ => self.fail(format_args!(
                "one of several concurrent calls of {operation} must succeed, not {}",
                winners.len()
            )),
        }
    }

    async fn dropped_writes_are_whole(&self, tag: &str) {
        for polls in 1..=4 {
            let id = &format!("conformance/dropped/{polls}/{tag}")[..];
            let items = new_items(id, 1);
            poll_times(polls, self.store.create(&items, deadline_after(TIMEOUT))).await;
            self.is_whole(id, &items, "create").await;

            let id = &format!("conformance/dropped/replace/{polls}/{tag}")[..];
            let items = new_items(id, 1);
            self.create(&items).await;
            let [version, active, _] = new_items(id, 2);
            let replace = self.store.replace(&version, &active, &items[1].ciphertext, deadline_after(TIMEOUT));
            poll_times(polls, replace).await;
            self.is_whole(id, &[version, active], "replace").await;
        }
    }

    /// Requires that a store holds all of these items, or none.
    async fn is_whole(&self, id: &str, items: &[BranchKeyItem], operation: &str) {
        // The write may happen between two reads.
        for _ in 0..5 {
            let mut found = 0;
            for item in items {
                found += usize::from(self.get(id, &item.item_type).await.as_ref() == Some(item));
            }
            if found == 0 || found == items.len() {
                return;
            }
        }
        self.fail(format_args!("{operation} must write all items or none if its future is dropped"))
    }

    async fn deadlines_that_have_passed_do_not_hang(&self, tag: &str) {
        let id = &format!("conformance/late/{tag}")[..];
        let ([_, active, _], [version, new_active, _]) = (new_items(id, 1), new_items(id, 2));
        let over = Instant::now();
        self.works_or_is_late("get", self.store.get(id, BranchKeyItem::ACTIVE, over)).await;
        self.works_or_is_late("create", self.store.create(std::slice::from_ref(&version), over)).await;
        let (id, expected) = (&format!("{id}/2")[..], active.ciphertext.clone());
        let rename = |item: BranchKeyItem| BranchKeyItem { branch_key_id: id.to_owned(), ..item };
        let [active, version, new_active] = [active, version, new_active].map(rename);
        self.create(&[active]).await;
        self.works_or_is_late("replace", self.store.replace(&version, &new_active, &expected, over)).await;
    }

    async fn works_or_is_late<T>(&self, operation: &str, call: impl Future<Output = Result<T, ProviderError>>) {
        match within(PATIENCE, call).await {
            Some(Err(error)) if !error.is_retryable() => {
                self.fail(format_args!("{operation} after its deadline must fail with a retryable error, not: {error}"))
            }
            Some(_) => {}
            None => self.fail(format_args!("{operation} must end soon after its deadline")),
        }
    }

    async fn get(&self, id: &str, item_type: &str) -> Option<BranchKeyItem> {
        match self.store.get(id, item_type, deadline_after(TIMEOUT)).await {
            Ok(item) => item,
            Err(error) => self.fail(format_args!("get must succeed, but failed: {error}")),
        }
    }

    async fn create(&self, items: &[BranchKeyItem]) {
        if let Err(error) = self.store.create(items, deadline_after(TIMEOUT)).await {
            self.fail(format_args!("create must succeed, but failed: {error}"));
        }
    }

    async fn replace(&self, version: &BranchKeyItem, active: &BranchKeyItem, expected: &[u8]) {
        if let Err(error) = self.store.replace(version, active, expected, deadline_after(TIMEOUT)).await {
            self.fail(format_args!("replace must succeed, but failed: {error}"));
        }
    }

    fn conflicts(&self, operation: &str, result: Result<(), ProviderError>, what: impl fmt::Display) {
        match result {
            Err(error) if error.kind() == ProviderErrorKind::Conflict => {}
            Err(error) => self.fail(format_args!("{operation} must fail with Conflict {what}, not with: {error}")),
            Ok(()) => self.fail(format_args!("{operation} must fail with Conflict {what}")),
        }
    }

    /// Requires that the items in the store are these, or are missing.
    async fn holds(&self, id: &str, items: &[BranchKeyItem], exist: &[bool], what: impl fmt::Display) {
        for (item, exists) in items.iter().zip(exist) {
            let item_type = &item.item_type[..];
            match (self.get(id, item_type).await, exists) {
                (None, true) => self.fail(format_args!("get must return the item of type {item_type} {what}")),
                (Some(_), false) => self.fail(format_args!("get must return no item of type {item_type} {what}")),
                (Some(found), true) if found != *item => {
                    self.fail(format_args!("get must return the item of type {item_type} unchanged {what}"))
                }
                _ => {}
            }
        }
    }

    async fn is_missing(&self, id: &str, item_type: &str) {
        if self.get(id, item_type).await.is_some() {
            self.fail(format_args!("get must return no item of type {item_type:?}, which was not created"));
        }
    }

    fn fail(&self, requirement: impl fmt::Display) -> ! {
        panic!("the branch key store does not conform: {requirement}")
    }
}

impl fmt::Debug for StoreConformance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConformance").finish_non_exhaustive()
    }
}

/// Returns the items of a new branch key: a version, the active item and the beacon. `number` makes them different.
fn new_items(id: &str, number: usize) -> [BranchKeyItem; 3] {
    let version = format!("{}00000000-0000-4000-8000-{number:012x}", BranchKeyItem::VERSION_PREFIX);
    let attributes = BTreeMap::from([
        ("kms-arn".to_owned(), "arn:aws:kms:eu-west-1:111122223333:key/1".to_owned()),
        ("create-time".to_owned(), format!("2026-11-24T14:54:19.{number:06}Z")),
        ("aws-crypto-ec:tenant".to_owned(), "acme".to_owned()),
    ]);
    let item = |item_type: &str| {
        BranchKeyItem::new(id, item_type, format!("ciphertext {number} of {item_type}"), 1, attributes.clone())
    };
    let mut active = item(BranchKeyItem::ACTIVE);
    active.attributes.insert("version".to_owned(), version.clone());
    [item(&version), active, item(BranchKeyItem::BEACON)]
}

/// Returns the start of an id, for an error text.
fn shortened(id: &str) -> String {
    id.chars().take(40).collect()
}

/// Repeats a call while it fails with a retryable error, which a store may return for one of two concurrent calls.
async fn decided<F: Future<Output = Result<(), ProviderError>>>(call: impl Fn() -> F) -> F::Output {
    for _ in 0..MAX_RETRIES {
        match call().await {
            Err(error) if error.is_retryable() => {}
            result => return result,
        }
    }
    call().await
}

/// Polls a future up to `times` times, then drops it.
async fn poll_times<F: Future>(mut times: usize, future: F) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        times -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if times > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}
