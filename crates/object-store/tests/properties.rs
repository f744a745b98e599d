//! An encrypted store and a plain one give the same answers.

mod support;

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kms_envelope::Envelope;
use proptest::{collection::vec, option, prelude::*, sample::select};
use support::*;

#[derive(Clone, Debug)]
enum Mode {
    Overwrite,
    Create,
    /// With the e_tag that the object has, or another one.
    Update {
        is_current: bool,
    },
}

/// A condition on the e_tag that the object has, or on another one.
#[derive(Clone, Debug)]
struct Condition {
    is_match: bool,
    e_tag: ETag,
}

#[derive(Clone, Debug)]
enum ETag {
    Current,
    Other,
    Any,
}

#[derive(Clone, Debug)]
enum Operation {
    Put { to: Path, len: usize, mode: Mode, content_type: Option<&'static str> },
    Upload { to: Path, parts: Vec<usize>, is_completed: bool },
    Get { from: Path, range: Option<GetRange>, condition: Option<Condition>, is_head: bool },
    GetRanges { from: Path, ranges: Vec<Range<u64>> },
    List { prefix: Option<Path>, offset: Option<Path> },
    ListWithDelimiter { prefix: Option<Path> },
    Copy { from: Path, to: Path, creates: bool },
    Rename { from: Path, to: Path, creates: bool },
    Delete { locations: Vec<Path> },
}

impl Operation {
    fn has_invalid_range(&self) -> bool {
        match self {
            Self::Get { range: Some(range), .. } => range.is_valid().is_err(),
            Self::GetRanges { ranges, .. } => ranges.iter().any(Range::is_empty),
            _ => false,
        }
    }
}

fn path() -> impl Strategy<Value = Path> {
    select(vec!["a", "b", "dir/a", "dir/b", "dir/deep/a", "dir2/b c", "é/ü"]).prop_map(Path::from)
}

fn prefix() -> impl Strategy<Value = Option<Path>> {
    option::of(select(vec!["dir", "dir/deep", "dir2", "a", "none", "di"]).prop_map(Path::from))
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 0usize..20, 0usize..1500]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..40, 8 => 0u64..1600, 1 => Just(u64::MAX)]
}

fn bounded() -> impl Strategy<Value = Range<u64>> {
    prop_oneof![
        8 => (offset(), 1u64..500).prop_map(|(start, len)| start..start.saturating_add(len)),
        1 => (offset(), offset()).prop_map(|(start, end)| start..end),
    ]
}

fn range() -> impl Strategy<Value = GetRange> {
    prop_oneof![
        bounded().prop_map(GetRange::Bounded),
        offset().prop_map(GetRange::Offset),
        offset().prop_map(GetRange::Suffix),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let e_tag = prop_oneof![Just(ETag::Current), Just(ETag::Other), Just(ETag::Any)];
    (any::<bool>(), e_tag).prop_map(|(is_match, e_tag)| Condition { is_match, e_tag })
}

fn operation() -> impl Strategy<Value = Operation> {
    let mode = prop_oneof![
        2 => Just(Mode::Overwrite),
        1 => Just(Mode::Create),
        1 => any::<bool>().prop_map(|is_current| Mode::Update { is_current }),
    ];
    prop_oneof![
        4 => (path(), len(), mode, option::of(Just("text/plain")))
            .prop_map(|(to, len, mode, content_type)| Operation::Put { to, len, mode, content_type }),
        3 => (path(), vec(len(), 0..5), any::<bool>())
            .prop_map(|(to, parts, is_completed)| Operation::Upload { to, parts, is_completed }),
        8 => (path(), option::of(range()), option::weighted(0.2, condition()), prop::bool::weighted(0.1))
            .prop_map(|(from, range, condition, is_head)| Operation::Get { from, range, condition, is_head }),
        4 => (path(), vec(bounded(), 1..5)).prop_map(|(from, ranges)| Operation::GetRanges { from, ranges }),
        2 => (prefix(), option::of(path())).prop_map(|(prefix, offset)| Operation::List { prefix, offset }),
        1 => prefix().prop_map(|prefix| Operation::ListWithDelimiter { prefix }),
        2 => (path(), path(), any::<bool>()).prop_map(|(from, to, creates)| Operation::Copy { from, to, creates }),
        2 => (path(), path(), any::<bool>()).prop_map(|(from, to, creates)| Operation::Rename { from, to, creates }),
        1 => vec(path(), 1..3).prop_map(|locations| Operation::Delete { locations }),
    ]
}

/// The result of an operation, without e_tags and times.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Bytes(Vec<Bytes>),
    Got {
        size: u64,
        range: Range<u64>,
        content_type: Option<String>,
        location: Path,
        bytes: Option<Bytes>,
    },
    Listed {
        objects: BTreeMap<Path, u64>,
        prefixes: Vec<Path>,
    },
    /// The variant of the error.
    Error(String),
}

impl<T: Into<Self>> From<Result<T>> for Answer {
    fn from(result: Result<T>) -> Self {
        result.map_or_else(
            |error| Self::Error(format!("{error:?}").split([' ', '{', '(']).next().unwrap_or_default().into()),
            Into::into,
        )
    }
}

impl From<()> for Answer {
    fn from((): ()) -> Self {
        Self::Done
    }
}

impl From<Vec<Bytes>> for Answer {
    fn from(bytes: Vec<Bytes>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<ListResult> for Answer {
    fn from(list: ListResult) -> Self {
        let objects = list.objects.into_iter().map(|meta| (meta.location, meta.size)).collect();
        Self::Listed { objects, prefixes: list.common_prefixes }
    }
}

/// Returns the e_tag of an object, or another one.
async fn e_tag(store: &dyn ObjectStore, location: &Path, is_current: bool) -> Option<String> {
    let current = store.head(location).await.ok().and_then(|meta| meta.e_tag);
    if is_current { current } else { Some("\"none\"".into()) }
}

async fn run(store: &dyn ObjectStore, operation: &Operation, seed: u32) -> Answer {
    match operation {
        Operation::Put { to, len, mode, content_type } => {
            let mode = match mode {
                Mode::Overwrite => PutMode::Overwrite,
                Mode::Create => PutMode::Create,
                Mode::Update { is_current } => {
                    PutMode::Update(UpdateVersion { e_tag: e_tag(store, to, *is_current).await, version: None })
                }
            };
            let attributes = content_type.iter().map(|value| (Attribute::ContentType, *value)).collect();
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            let put = store.put_opts(to, plaintext(*len, seed).into(), options).await;
            put.map(drop).into()
        }
        Operation::Upload { to, parts, is_completed } => {
            let uploaded = async {
                let mut upload = store.put_multipart(to).await?;
                for (index, len) in parts.iter().enumerate() {
                    upload.put_part(plaintext(*len, seed + index as u32).into()).await?;
                }
                if *is_completed { upload.complete().await.map(drop) } else { upload.abort().await }
            };
            uploaded.await.into()
        }
        Operation::Get { from, range, condition, is_head } => {
            let mut options = GetOptions { range: range.clone(), head: *is_head, ..GetOptions::default() };
            if let Some(Condition { is_match, e_tag: tag }) = condition {
                let tag = match tag {
                    ETag::Any => Some("*".into()),
                    ETag::Current => e_tag(store, from, true).await,
                    ETag::Other => e_tag(store, from, false).await,
                };
                *(if *is_match { &mut options.if_match } else { &mut options.if_none_match }) = tag;
            }
            let got = async {
                let got = store.get_opts(from, options).await?;
                let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
                let bytes = if *is_head { None } else { Some(got.bytes().await?) };
                Ok(Answer::Got {
                    size: meta.size,
                    range,
                    content_type: attributes.get(&Attribute::ContentType).map(|value| value.to_string()),
                    location: meta.location,
                    bytes,
                })
            };
            got.await.into()
        }
        Operation::GetRanges { from, ranges } => store.get_ranges(from, ranges).await.into(),
        Operation::List { prefix, offset } => {
            let listed = match offset {
                Some(offset) => store.list_with_offset(prefix.as_ref(), offset),
                None => store.list(prefix.as_ref()),
            };
            let objects = listed.map_ok(|meta| (meta.location, meta.size)).try_collect().await;
            objects.map(|objects| Answer::Listed { objects, prefixes: Vec::new() }).into()
        }
        Operation::ListWithDelimiter { prefix } => store.list_with_delimiter(prefix.as_ref()).await.into(),
        Operation::Copy { from, to, creates } => {
            let mode = if *creates { CopyMode::Create } else { CopyMode::Overwrite };
            store.copy_opts(from, to, CopyOptions { mode, ..CopyOptions::default() }).await.into()
        }
        Operation::Rename { from, to, creates } => {
            let target_mode = if *creates { RenameTargetMode::Create } else { RenameTargetMode::Overwrite };
            store.rename_opts(from, to, RenameOptions { target_mode, ..RenameOptions::default() }).await.into()
        }
        Operation::Delete { locations } => {
            let locations = stream::iter(locations.clone()).map(Ok).boxed();
            store.delete_stream(locations).try_collect::<Vec<_>>().await.map(drop).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn operations_have_the_same_results_as_on_a_plain_store(
        operations in vec(operation(), 1..30),
        binding in select(vec![Binding::Path, Binding::Prefix { segments: 1 }, Binding::None]),
        frame_len in 1u32..300,
        part_len in 1usize..900,
        has_cache in any::<bool>(),
        looks_up_sizes in any::<bool>(),
        has_detached_keys in any::<bool>(),
    ) {
        let mut settings = StoreSettings::new(Envelope::builder(key(7)))
            .base("memory://bucket/")
            .binding(binding)
            .header_len(HEADER_LEN)
            .frame_len(frame_len)
            .part_len(part_len)
            .parts_in_flight(2)
            .cache_capacity(if has_cache { 1 << 20 } else { 0 });
        if looks_up_sizes {
            settings = settings.look_up_sizes();
        }
        if has_detached_keys {
            settings = settings.detached_keys(".keys");
        }
        let (plain, encrypted) = (InMemory::new(), EncryptedStore::new(InMemory::new(), settings).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for (seed, operation) in (0..).step_by(10).zip(&operations) {
                let expected = run(&plain, operation, seed).await;
                let found = run(&encrypted, operation, seed).await;
                if operation.has_invalid_range() {
                    // Stores do not agree whether this or a missing object is noticed first.
                    prop_assert!(matches!((found, expected), (Answer::Error(_), Answer::Error(_))), "{:?}", operation);
                } else {
                    prop_assert_eq!(found, expected, "{:?}", operation);
                }
            }
            // Nothing else is left, such as objects that were being copied.
            let count = async |store: &InMemory| store.list(None).count().await;
            prop_assert_eq!(count(encrypted.inner()).await, count(&plain).await);
            Ok(())
        })?;
    }
}
