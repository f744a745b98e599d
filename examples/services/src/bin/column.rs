//! A database column of sealed values. Each value is bound to its row, so it does not open in another row.
//!
//! ```text
//! cargo run -p kms-envelope-examples --bin column
//! ```

use std::time::Duration;

use anyhow::{bail, ensure};
use kms_envelope::{DataKeyCache, EncryptionContext, Envelope, OpenError, RawAes};
use sqlx::{Connection, SqliteConnection};

const CUSTOMERS: i64 = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Messages share a data key only if they have the same context. Here, each row has its own, so the cache saves
    // calls only for rows that are read or written again.
    let cache = DataKeyCache::builder(Duration::from_secs(300)).max_messages(10_000).capacity(10_000).build()?;
    let key = RawAes::generate("column", "2026-11")?; // A service would use AwsKms here; nothing else changes.
    let envelope = Envelope::builder(key).cache(cache.clone()).build()?;
    let mut customers = Customers { db: SqliteConnection::connect("sqlite::memory:").await?, envelope };
    customers.create_table().await?;

    for id in 1..=CUSTOMERS {
        customers.insert(id, &format!("Customer {id}"), &card(id)).await?;
    }
    report(&format!("inserted {CUSTOMERS} customers"), &cache);
    for what in ["read their cards", "read them again"] {
        for id in 1..=CUSTOMERS {
            ensure!(customers.card(id).await? == card(id), "customer {id} has the wrong card");
        }
        report(what, &cache);
    }

    customers.swap_cards(1, 2).await?;
    for id in [1, 2] {
        match customers.card(id).await {
            Err(error) if error.is::<OpenError>() => println!("customer {id} after a swap: {error}"),
            other => bail!("a card in the wrong row: {other:?}"),
        }
    }
    Ok(())
}

fn report(what: &str, cache: &DataKeyCache) {
    let stats = cache.stats();
    println!("{what}: {} requests to the key provider so far, {} saved", stats.calls, stats.hits);
}

/// Returns a made-up card number.
fn card(id: i64) -> String {
    format!("4000 0000 {:04} {:04}", id / 10_000, id % 10_000)
}

struct Customers {
    db: SqliteConnection,
    envelope: Envelope,
}

impl Customers {
    async fn create_table(&mut self) -> anyhow::Result<()> {
        let sql = "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, card BLOB NOT NULL)";
        sqlx::query(sql).execute(&mut self.db).await?;
        Ok(())
    }

    async fn insert(&mut self, id: i64, name: &str, card: &str) -> anyhow::Result<()> {
        let sealed = self.envelope.seal(card.as_bytes(), &context(id)).await?;
        let insert = sqlx::query("INSERT INTO customers (id, name, card) VALUES (?, ?, ?)");
        insert.bind(id).bind(name).bind(sealed).execute(&mut self.db).await?;
        Ok(())
    }

    async fn card(&mut self, id: i64) -> anyhow::Result<String> {
        let sealed = self.sealed_card(id).await?;
        let opened = self.envelope.open(&sealed, &context(id)).await?;
        Ok(String::from_utf8(opened.plaintext)?)
    }

    async fn sealed_card(&mut self, id: i64) -> anyhow::Result<Vec<u8>> {
        let select = sqlx::query_scalar("SELECT card FROM customers WHERE id = ?");
        Ok(select.bind(id).fetch_one(&mut self.db).await?)
    }

    /// Swaps two cards, as an attacker who can write to the database but has no key could do.
    async fn swap_cards(&mut self, one: i64, other: i64) -> anyhow::Result<()> {
        for (id, card) in [(one, self.sealed_card(other).await?), (other, self.sealed_card(one).await?)] {
            let update = sqlx::query("UPDATE customers SET card = ? WHERE id = ?");
            update.bind(card).bind(id).execute(&mut self.db).await?;
        }
        Ok(())
    }
}

/// Returns the context that binds a value to its table, column and row. The value does not open in any other place.
fn context(id: i64) -> EncryptionContext {
    EncryptionContext::from([("table", "customers".to_owned()), ("column", "card".to_owned()), ("row", id.to_string())])
}
