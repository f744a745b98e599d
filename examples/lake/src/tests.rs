//! Encrypted tables have the same answers as plain ones.

use std::{ffi::OsStr, sync::Arc};

use clap::Parser as _;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, SessionConfig};
use futures_util::TryStreamExt as _;
use kms_envelope::{Envelope, EnvelopeBuilder, RawAes};
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, memory::InMemory};

use crate::{
    Arguments, Command, Result, bench, delta,
    keys::Keys,
    sql,
    store::{Counted, encrypted},
    tpch::{self, answer},
};

const SCALE: f64 = 0.01;

fn key() -> RawAes {
    RawAes::generate("kms-envelope-lake", "test").unwrap()
}

fn envelope() -> EnvelopeBuilder {
    Envelope::builder(key())
}

async fn contents(store: &dyn ObjectStore) -> Vec<Vec<u8>> {
    let objects = store.list(None).and_then(async |meta| store.get(&meta.location).await?.bytes().await);
    objects.map_ok(Vec::from).try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_have_the_same_answers_as_on_plain_tables() {
    let folder = tempfile::tempdir().unwrap();
    let plain: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    tpch::write_all(&plain, SCALE, tpch::ROW_GROUP_LEN).await.unwrap();
    let expected = tpch::session(plain, SessionConfig::new()).await.unwrap();
    let files: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for inner in [memory, files] {
        let store = encrypted(inner.clone(), envelope(), 65_536).unwrap();
        tpch::write_all(&store, SCALE, tpch::ROW_GROUP_LEN).await.unwrap();
        let objects = contents(&*inner).await;
        assert_eq!(objects.len(), tpch::TABLES.len());
        assert!(objects.iter().all(|object| !object.ends_with(b"PAR1")), "a table is not encrypted");

        let session = tpch::session(store, SessionConfig::new()).await.unwrap();
        for (index, query) in tpch::queries(SCALE).iter().enumerate() {
            let expected = answer(&expected, query).await.unwrap();
            assert!(expected.len() > 4, "Q{} has no rows", index + 1);
            assert_eq!(answer(&session, query).await.unwrap(), expected, "Q{}", index + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_and_json_are_written_and_read() {
    let inner = Arc::new(InMemory::new());
    let store = encrypted(inner.clone(), envelope(), 16_384).unwrap();
    tpch::write_all(&store, SCALE, tpch::ROW_GROUP_LEN).await.unwrap();
    let session = tpch::session(store, SessionConfig::new()).await.unwrap();
    for name in ["orders.csv", "orders.json"] {
        let copy =
            format!("copy (select o_orderkey, o_orderpriority, o_comment from orders) to 'lake://tables/{name}'");
        assert_eq!(
            answer(&session, &copy).await.unwrap(),
            ["+-------+", "+-------+", "+-------+", "| 15000 |", "| count |"]
        );
    }
    session.register_csv("csv", "lake://tables/orders.csv", CsvReadOptions::new()).await.unwrap();
    session.register_json("json", "lake://tables/orders.json", JsonReadOptions::default()).await.unwrap();
    let query =
        "select o_orderpriority, count(*), sum(o_orderkey) as keys, max(o_comment) as last from orders group by 1";
    let expected = answer(&session, query).await.unwrap();
    assert_eq!(answer(&session, &query.replace("orders", "csv")).await.unwrap(), expected);
    assert_eq!(answer(&session, &query.replace("orders", "json")).await.unwrap(), expected);
    for object in contents(&*inner).await {
        assert!(!object.windows(8).any(|bytes| bytes == b"1-URGENT"), "an object is not encrypted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_that_a_query_does_not_need_are_not_fetched() {
    let query = "explain analyze select sum(l_quantity) from lineitem where l_orderkey < 1000";
    let mut runs = Vec::new();
    for frame_len in [None, Some(4096)] {
        let counted = Counted::new(Arc::new(InMemory::new()));
        let inner: Arc<dyn ObjectStore> = Arc::new(counted.clone());
        let store = frame_len.map_or(inner.clone(), |len| encrypted(inner, envelope(), len).unwrap());
        tpch::write_all(&store, SCALE, 4096).await.unwrap();
        let size = store.head(&tpch::path("lineitem")).await.unwrap().size;
        let session = tpch::session(store, SessionConfig::new()).await.unwrap();
        answer(&session, "select sum(l_tax) from lineitem").await.unwrap(); // Fetches the metadata and the header.
        counted.take();
        let plan = answer(&session, query).await.unwrap().join("\n");
        let (_, pruned) = plan.split_once("row_groups_pruned_statistics=").unwrap();
        runs.push((pruned.split(',').next().unwrap().to_owned(), counted.take().bytes, size));
    }
    let [(plain_pruned, plain_bytes, _), (pruned, bytes, size)] = &runs[..] else { unreachable!() };
    assert_eq!(pruned, "15 total → 1 matched");
    assert_eq!(pruned, plain_pruned);
    assert!(*bytes < plain_bytes + 4 * 4200, "{bytes} bytes instead of {plain_bytes}");
    assert!(*bytes < size / 20, "{bytes} of {size} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_encrypts_and_queries_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key_file = folder.path().join("example.key");
    key().write_key_file(&key_file)?;
    std::fs::write(path("cities.csv"), "name,people\nOslo,700000\nBergen,290000\n")?;
    let run = |tables, plain_tables, query: String| {
        sql::run(sql::Arguments { keys: Keys::file(&key_file), tables, plain_tables, query })
    };
    let copy = format!("copy (select * from cities) to '{}'", path("cities.parquet"));
    run(vec![], vec![("cities".into(), path("cities.csv"))], copy).await?;
    assert!(!std::fs::read(path("cities.parquet"))?.ends_with(b"PAR1"));
    for url in [path("cities.parquet"), format!("file://{}", path("cities.parquet"))] {
        let table = run(vec![("c".into(), url)], vec![], "select sum(people) as people from c".into()).await?;
        assert_eq!(table, "+--------+\n| people |\n+--------+\n| 990000 |\n+--------+");
    }
    let not_encrypted = run(vec![("c".into(), path("cities.csv"))], vec![], "select * from c".into()).await;
    assert!(not_encrypted.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_is_created_appended_to_read_at_every_version_and_vacuumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key_file = folder.path().join("example.key");
    key().write_key_file(&key_file)?;
    let url = folder.path().join("customers");
    std::fs::create_dir(&url)?;
    let report = delta::run(delta::Arguments { keys: Keys::file(&key_file), folder: url.clone() }).await?;
    let expected = [
        "version 0: 200 rows, 1 files",
        "version 1: 400 rows, 2 files",
        "version 2: 600 rows, 3 files",
        "version 3: 800 rows, 4 files",
        "version 4: 1000 rows, 5 files",
        "version 5: 1200 rows, 6 files",
        "version 6: 1100 rows, 6 files",
        "vacuum: 1 file deleted",
    ];
    assert_eq!(report.lines().collect::<Vec<_>>(), expected);

    for object in contents(&LocalFileSystem::new_with_prefix(&url)?).await {
        assert!(!object.ends_with(b"PAR1") && !object.starts_with(b"{"), "an object is not encrypted");
    }
    let tables = vec![("c".into(), url.display().to_string())];
    let query = "select count(*) as customers, min(c_custkey) as first from c".into();
    let table = sql::run(sql::Arguments { keys: Keys::file(&key_file), tables, plain_tables: vec![], query }).await?;
    let expected = "+-----------+-------+\n| customers | first |\n+-----------+-------+\n| 1100      | 101   |\n+-----------+-------+";
    assert_eq!(table, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_measurement_reports_every_table_and_query() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let csv = folder.path().join("lake.csv");
    let arguments = [
        "lake bench --scale 0.001 --rounds 1 --frame-lens 0,4096,65536 --threads --cache-capacity 0 --parts-in-flight 1",
        "--partitions 3 --row-group-len 1000 --page-len 100 --folder",
    ];
    let arguments = arguments.iter().flat_map(|arguments| arguments.split(' ')).map(OsStr::new);
    let arguments = arguments.chain([folder.path().as_os_str(), "--csv".as_ref(), csv.as_os_str()]);
    let Command::Bench(arguments) = Arguments::parse_from(arguments).command else { unreachable!() };
    let report = bench::run(arguments).await?;
    assert_eq!(report.matches("| **all queries** |").count(), 4);
    assert_eq!(std::fs::read_to_string(csv)?.lines().count(), 1 + 6 * (8 + 1 + 22));
    Ok(())
}
