//! Many messages under branch keys, and branch keys that expire and get new versions meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use kms_envelope::{
    EncryptionContext, Envelope,
    provider::{
        AwsKmsHierarchical,
        branch_key::{BranchKeys, KmsConfiguration},
    },
    testing::ManualClock,
};

use super::branch_keys::Memory;
use test_support::{
    context, header,
    kms::{Endpoint, arn},
};

const REGION: &str = "eu-west-1";
const ID: &str = "1234abcd";
const AGE: Duration = Duration::from_secs(300);

/// One user of a shared store, with a KMS of its own. All of them have the same KMS key.
struct User {
    kms: Endpoint,
    store: Memory,
    keys: BranchKeys,
}

impl User {
    fn new(store: &Memory) -> Self {
        let kms = Endpoint::new([(REGION, ID)]);
        let configuration = KmsConfiguration::key(kms.client(REGION), arn(REGION, ID)).unwrap();
        let store = store.with_own_counts();
        let keys = BranchKeys::new(store.clone(), "tenants", configuration).unwrap();
        Self { kms, store, keys }
    }

    /// Returns the number of calls to the store, and of each request to KMS.
    fn calls(&self) -> (usize, BTreeMap<String, usize>) {
        (self.store.gets(), self.kms.calls())
    }
}

/// Returns the calls for so many branch keys that were not cached.
fn calls_for(branch_keys: usize) -> (usize, BTreeMap<String, usize>) {
    (branch_keys, BTreeMap::from([("Decrypt".to_owned(), branch_keys)]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_seals_with_a_thousand_branch_keys_are_a_thousand_gets_and_decrypts() {
    const TENANTS: usize = 1000;
    const TASKS: usize = 8;
    const SEALS: usize = 100_000;

    let store = Memory::default();
    let administrator = User::new(&store);
    let tenant = |number: usize| EncryptionContext::from([("tenant", number.to_string())]);
    let created: Vec<()> = stream::iter(0..TENANTS)
        .map(async |number| administrator.keys.create_with_id(&number.to_string(), &tenant(number)).await)
        .buffer_unordered(TASKS)
        .try_collect()
        .await
        .unwrap();
    assert_eq!((created.len(), store.items().len()), (TENANTS, 3 * TENANTS));

    let by_tenant = |user: &User| {
        let provider = AwsKmsHierarchical::builder(user.keys.clone(), AGE).capacity(TENANTS);
        provider.build_by_context(|context| context.get("tenant").map(str::to_owned).ok_or("no tenant")).unwrap()
    };
    let (writer, reader) = (User::new(&store), User::new(&store));
    let (writing, reading) = (by_tenant(&writer), by_tenant(&reader));
    let (sealing, opening) = (Envelope::new(writing.clone()), Envelope::new(reading.clone()));
    // All tasks need the same branch key at the same time.
    let tasks = (0..TASKS).map(|task| {
        let (sealing, opening) = (sealing.clone(), opening.clone());
        tokio::spawn(async move {
            for number in 0..SEALS / TASKS {
                let (plaintext, context) = ((task * SEALS + number).to_be_bytes(), tenant(number % TENANTS));
                let sealed = sealing.seal(&plaintext, &context).await.unwrap();
                if number % 10 == task {
                    assert_eq!(opening.open(&sealed, &context).await.unwrap().plaintext, plaintext);
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    assert_eq!(writer.calls(), calls_for(TENANTS));
    let stats = writing.stats();
    assert_eq!((stats.calls, stats.misses, stats.evictions), (1000, 1000, 0));
    assert_eq!(stats.hits + stats.waits + stats.misses, 100_000);
    // The tasks open the messages of 800 branch keys: `task` is the last digit of the tenant's number.
    assert_eq!(reader.calls(), calls_for(TENANTS / 10 * TASKS));
    assert_eq!(reading.stats().failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_a_version_seals_until_it_expires_and_then_the_new_one_does_without_an_error() {
    const ROUNDS: usize = 20;
    const TASKS: usize = 8;

    let store = Memory::default();
    let [administrator, writer, reader] = [(); 3].map(|()| User::new(&store));
    administrator.keys.create_with_id("acme", &context()).await.unwrap();
    let clock = ManualClock::new();
    let provider =
        |user: &User| AwsKmsHierarchical::builder(user.keys.clone(), AGE).clock(clock.clone()).build("acme").unwrap();
    let (sealing, opening) = (Envelope::new(provider(&writer)), Envelope::new(provider(&reader)));
    // The versions by age. A message must have been sealed with one from `oldest` to `newest`.
    let mut versions = vec![administrator.keys.active("acme").await.unwrap().version_uuid()];
    let (oldest, newest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let progress: Arc<[AtomicUsize]> = (0..TASKS).map(|_| AtomicUsize::new(0)).collect();

    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (sealing, opening, done, progress) = (sealing.clone(), opening.clone(), done.clone(), progress.clone());
            let (oldest, newest) = (oldest.clone(), newest.clone());
            tokio::spawn(async move {
                let (context, mut sealed_with, mut first) = (context(), Vec::new(), None);
                while !done.load(Ordering::SeqCst) {
                    let at_least = oldest.load(Ordering::SeqCst);
                    let sealed = sealing.seal(b"data", &context).await.unwrap();
                    let at_most = newest.load(Ordering::SeqCst);
                    let version = header(&sealed).encrypted_data_keys()[0].ciphertext[28..44].to_vec();
                    sealed_with.push((version, at_least..=at_most));
                    let first = first.get_or_insert_with(|| sealed.clone());
                    for message in [first, &sealed] {
                        assert_eq!(opening.open(message, &context).await.unwrap().plaintext, b"data");
                    }
                    progress[task].fetch_add(1, Ordering::SeqCst);
                    // Nothing else here lets other tasks run, unless a branch key is requested.
                    tokio::task::yield_now().await;
                }
                sealed_with
            })
        })
        .collect();

    let all_have_sealed = async || {
        for done in &*progress {
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) < before + 2 {
                tokio::task::yield_now().await;
            }
        }
    };
    for round in 1..=ROUNDS {
        all_have_sealed().await;
        versions.push(administrator.keys.create_version("acme").await.unwrap());
        all_have_sealed().await;
        newest.store(round, Ordering::SeqCst);
        clock.advance(AGE);
        oldest.store(round, Ordering::SeqCst);
    }
    all_have_sealed().await;
    done.store(true, Ordering::SeqCst);

    let versions: Vec<_> = versions.iter().map(|version| version.replace('-', "")).collect();
    let mut used = vec![0; versions.len()];
    for sealed_with in join_all(tasks).await {
        for (version, allowed) in sealed_with.unwrap() {
            let version: String = version.iter().map(|byte| format!("{byte:02x}")).collect();
            let index = versions.iter().position(|known| *known == version).unwrap();
            assert!(allowed.contains(&index), "{index} {allowed:?}");
            used[index] += 1;
        }
    }
    assert!(used.iter().all(|count| *count >= TASKS), "{used:?}");
    // Each version was requested once for sealing. For opening, so were the first one, the current one and the one
    // before, at most, after each time that all had expired.
    assert_eq!(writer.calls(), calls_for(ROUNDS + 1));
    let (requested, _) = reader.calls();
    assert_eq!(reader.calls(), calls_for(requested));
    assert!((2 * ROUNDS + 1..=3 * ROUNDS + 1).contains(&requested), "{requested}");
}
