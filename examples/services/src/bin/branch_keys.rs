//! Branch keys in a SQL database, instead of DynamoDB. Region, credentials and `AWS_ENDPOINT_URL` come from the
//! environment.
//!
//! ```text
//! cargo run -p kms-envelope-examples --bin branch_keys -- branch-keys.sqlite KMS_KEY_ARN
//! ```

use std::{env, time::Duration, time::Instant};

use anyhow::Context;
use async_trait::async_trait;
use kms_envelope::{
    EncryptionContext, Envelope, ProviderError,
    provider::{
        AwsKmsHierarchical, ProviderErrorKind as Kind,
        branch_key::{BranchKeyItem, BranchKeyStore, BranchKeys, KmsConfiguration},
    },
};
use sqlx::{
    Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let usage = "usage: branch_keys DATABASE KMS_KEY_ARN";
    let (path, arn) = (env::args().nth(1).context(usage)?, env::args().nth(2).context(usage)?);
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let store = SqlBranchKeys::new(SqlitePool::connect_with(options).await?).await?;

    let kms = aws_sdk_kms::Client::new(&aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await);
    let keys = BranchKeys::new(store, "branch-keys", KmsConfiguration::key(kms, arn)?)?;
    for tenant in ["acme", "globex"] {
        match keys.create_with_id(tenant, &EncryptionContext::from([("tenant", tenant)])).await {
            Ok(()) => println!("{tenant}: created a branch key"),
            Err(error) if error.kind() == Kind::Conflict => {
                println!("{tenant}: created version {}", keys.create_version(tenant).await?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // The branch key of a message is that of its tenant.
    let provider = AwsKmsHierarchical::builder(keys, Duration::from_secs(600))
        .build_by_context(|context| context.get("tenant").map(str::to_owned).ok_or("the context names no tenant"))?;
    let envelope = Envelope::new(provider.clone());
    for number in 0..1_000 {
        let context = EncryptionContext::from([("tenant", if number % 2 == 0 { "acme" } else { "globex" })]);
        let sealed = envelope.seal(b"attack at dawn", &context).await?;
        envelope.open(&sealed, &context).await?;
    }
    println!("1000 messages sealed and opened with {} requests for branch keys", provider.stats().calls);
    Ok(())
}

/// Branch keys in a table of SQLite.
pub(crate) struct SqlBranchKeys {
    pool: SqlitePool,
}

/// An error of the database, or a conflict with an item in it.
#[derive(Debug)]
enum Failure {
    /// The text is about the conflict.
    Conflict(String),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(reported) if reported.is_unique_violation() => Self::Conflict("an item exists already".to_owned()),
            _ => Self::Database(error),
        }
    }
}

impl SqlBranchKeys {
    pub(crate) async fn new(pool: SqlitePool) -> Result<Self, sqlx::Error> {
        // SQLite compares text byte by byte. Other databases need a binary collation.
        let sql = "CREATE TABLE IF NOT EXISTS branch_keys (
            branch_key_id TEXT NOT NULL, type TEXT NOT NULL, enc BLOB NOT NULL, hierarchy_version INTEGER NOT NULL,
            attributes TEXT NOT NULL, PRIMARY KEY (branch_key_id, type))";
        sqlx::query(sql).execute(&pool).await?;
        Ok(Self { pool })
    }

    /// Starts a transaction for a write. It is rolled back unless it is committed.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }
}

/// Waits for a result until the deadline, and converts its error.
async fn by<T>(
    deadline: Instant,
    operation: &'static str,
    id: &str,
    result: impl Future<Output = Result<T, Failure>>,
) -> Result<T, ProviderError> {
    let error = |kind| ProviderError::new(kind, operation, id);
    match tokio::time::timeout_at(deadline.into(), result).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::Conflict(what))) => Err(error(Kind::Conflict).with_detail(what)),
        Ok(Err(Failure::Database(source))) => {
            let is_transient = matches!(source, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut);
            Err(error(if is_transient { Kind::Unavailable } else { Kind::Other }).with_source(source))
        }
        Err(_) => Err(error(Kind::TimedOut)),
    }
}

async fn insert(db: &mut SqliteConnection, item: &BranchKeyItem) -> Result<(), Failure> {
    let attributes = serde_json::to_string(&item.attributes).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let insert = sqlx::query("INSERT INTO branch_keys VALUES (?, ?, ?, ?, ?)");
    let insert = insert.bind(&item.branch_key_id).bind(&item.item_type).bind(&item.ciphertext);
    insert.bind(item.hierarchy_version).bind(attributes).execute(db).await?;
    Ok(())
}

fn item_of(row: &SqliteRow) -> Result<BranchKeyItem, sqlx::Error> {
    let attributes =
        serde_json::from_str(row.try_get("attributes")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let (id, item_type): (String, String) = (row.try_get("branch_key_id")?, row.try_get("type")?);
    let (ciphertext, version): (Vec<u8>, u32) = (row.try_get("enc")?, row.try_get("hierarchy_version")?);
    Ok(BranchKeyItem::new(id, item_type, ciphertext, version, attributes))
}

#[async_trait]
impl BranchKeyStore for SqlBranchKeys {
    async fn get(
        &self,
        branch_key_id: &str,
        item_type: &str,
        deadline: Instant,
    ) -> Result<Option<BranchKeyItem>, ProviderError> {
        let found = async {
            let select = sqlx::query("SELECT * FROM branch_keys WHERE branch_key_id = ? AND type = ?");
            let row = select.bind(branch_key_id).bind(item_type).fetch_optional(&self.pool).await?;
            Ok(row.as_ref().map(item_of).transpose()?)
        };
        by(deadline, "SELECT", branch_key_id, found).await
    }

    async fn create(&self, items: &[BranchKeyItem], deadline: Instant) -> Result<(), ProviderError> {
        let created = async {
            let mut transaction = self.begin().await?;
            for item in items {
                insert(&mut transaction, item).await?;
            }
            Ok(transaction.commit().await?)
        };
        by(deadline, "INSERT", items.first().map_or("", |item| &item.branch_key_id), created).await
    }

    async fn replace(
        &self,
        version: &BranchKeyItem,
        active: &BranchKeyItem,
        expected_ciphertext: &[u8],
        deadline: Instant,
    ) -> Result<(), ProviderError> {
        let replaced = async {
            let mut transaction = self.begin().await?;
            let delete = sqlx::query("DELETE FROM branch_keys WHERE branch_key_id = ? AND type = ? AND enc = ?");
            let delete = delete.bind(&active.branch_key_id).bind(&active.item_type).bind(expected_ciphertext);
            if delete.execute(&mut *transaction).await?.rows_affected() != 1 {
                return Err(Failure::Conflict("the active item was replaced or does not exist".to_owned()));
            }
            insert(&mut transaction, active).await?;
            insert(&mut transaction, version).await?;
            Ok(transaction.commit().await?)
        };
        by(deadline, "UPDATE", &active.branch_key_id, replaced).await
    }
}
