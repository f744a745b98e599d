//! Seals and opens a text with a KMS key. Region, credentials and `AWS_ENDPOINT_URL` come from the environment.
//!
//! `cargo run -p kms-envelope-examples --bin kms -- KEY_ARN_OR_ALIAS`

use std::{env, error::Error};

use kms_envelope::{AwsKms, EncryptionContext, Envelope};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let key_id = env::args().nth(1).ok_or("usage: kms KEY_ARN_OR_ALIAS")?;
    let client = aws_sdk_kms::Client::new(&aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await);
    let envelope = Envelope::new(AwsKms::resolve(client, key_id).await?);

    let context = EncryptionContext::from([("tenant", "acme")]);
    let sealed = envelope.seal(b"attack at dawn", &context).await?;
    let opened = envelope.open(&sealed, &context).await?;
    println!("{} bytes, opened with {}", sealed.len(), opened.info.encrypted_data_key().key_name());
    Ok(())
}
