//! The store with the real client of aws-sdk-dynamodb, over HTTP: with a server in this process, and with moto.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::config::retry::RetryConfig;
use kms_envelope::{
    ErrorKind, ProviderError,
    provider::{
        ProviderErrorKind as Kind,
        branch_key::{BranchKeyItem, BranchKeyStore},
    },
    testing::StoreConformance,
};
use kms_envelope_dynamodb::DynamoDbBranchKeyStore;
use serde_json::{Value, json};
use test_support::{
    dynamodb::{Endpoint, Fault},
    peers::Moto,
};

const TABLE: &str = "branch-keys";

fn store(server: &Endpoint) -> DynamoDbBranchKeyStore {
    DynamoDbBranchKeyStore::new(server.client(), TABLE)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn item(item_type: &str, ciphertext: &str) -> BranchKeyItem {
    let attributes = BTreeMap::from([("kms-arn".to_owned(), "arn".to_owned())]);
    BranchKeyItem::new("tenant/acme", item_type, ciphertext, 1, attributes)
}

async fn get(store: &DynamoDbBranchKeyStore) -> Result<Option<BranchKeyItem>, ProviderError> {
    store.get("tenant/acme", BranchKeyItem::ACTIVE, soon()).await
}

async fn create(store: &DynamoDbBranchKeyStore) -> Result<(), ProviderError> {
    store.create(&[item("branch:version:1", "v"), item(BranchKeyItem::ACTIVE, "one")], soon()).await
}

async fn replace(store: &DynamoDbBranchKeyStore, expected: &[u8]) -> Result<(), ProviderError> {
    store.replace(&item("branch:version:2", "v"), &item(BranchKeyItem::ACTIVE, "two"), expected, soon()).await
}

#[tokio::test]
async fn it_conforms_to_the_requirements_of_stores() {
    let server = Endpoint::new([TABLE]);
    StoreConformance::new(&store(&server)).check().await;
}

#[tokio::test]
#[ignore = "needs moto"]
async fn it_conforms_with_moto_in_a_table_that_it_creates() {
    let moto = Moto::start();
    let store = DynamoDbBranchKeyStore::new(moto.dynamodb(), TABLE);
    assert_eq!(store.check_table().await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(get(&store).await.unwrap_err().kind(), Kind::NotFound);
    store.create_table().await.unwrap();
    store.create_table().await.unwrap();
    store.check_table().await.unwrap();
    let described = moto.dynamodb().describe_table().table_name(TABLE).send().await.unwrap().table.unwrap();
    let mode = described.billing_mode_summary.unwrap().billing_mode.unwrap();
    assert_eq!(mode.as_str(), "PAY_PER_REQUEST");
    // moto checks all conditions before it writes, but without a lock.
    StoreConformance::new(&store).without_concurrency().check().await;
}

#[tokio::test]
async fn requests_are_those_of_the_specification() {
    let server = Endpoint::new([TABLE]);
    let store = store(&server);
    create(&store).await.unwrap();
    replace(&store, b"one").await.unwrap();
    assert_eq!(get(&store).await.unwrap(), Some(item(BranchKeyItem::ACTIVE, "two")));

    let attributes = |item_type: &str, ciphertext: &str| {
        json!({
            "branch-key-id": {"S": "tenant/acme"}, "type": {"S": item_type}, "enc": {"B": ciphertext},
            "hierarchy-version": {"N": "1"}, "kms-arn": {"S": "arn"},
        })
    };
    let put = |item: Value, condition: &str| {
        json!({"Put": {
            "TableName": TABLE, "Item": item, "ConditionExpression": condition,
            "ExpressionAttributeNames": {"#id": "branch-key-id"},
        }})
    };
    let new = "attribute_not_exists(#id)";
    let mut replaced = put(attributes("branch:ACTIVE", "dHdv"), "attribute_exists(#id) AND #enc = :encOld");
    replaced["Put"]["ExpressionAttributeNames"]["#enc"] = "enc".into();
    replaced["Put"]["ExpressionAttributeValues"] = json!({":encOld": {"B": "b25l"}});
    let expected = [
        json!([put(attributes("branch:version:1", "dg=="), new), put(attributes("branch:ACTIVE", "b25l"), new)]),
        json!([put(attributes("branch:version:2", "dg=="), new), replaced]),
    ];
    let requests = server.requests();
    for (request, expected) in requests.iter().zip(expected) {
        assert_eq!(request.operation, "TransactWriteItems");
        assert_eq!(request.body["TransactItems"], expected);
    }
    // Repeated requests after a lost response do not conflict with themselves.
    assert!(requests[0].body["ClientRequestToken"].is_string());
    assert_eq!(
        requests[2].body,
        json!({
            "TableName": TABLE, "ConsistentRead": true,
            "Key": {"branch-key-id": {"S": "tenant/acme"}, "type": {"S": "branch:ACTIVE"}},
        })
    );
}

#[tokio::test]
async fn an_item_with_a_missing_attribute_or_one_of_another_type_is_refused() {
    let server = Endpoint::new([TABLE]);
    let store = store(&server);
    let good = json!({
        "branch-key-id": {"S": "tenant/acme"}, "type": {"S": "branch:ACTIVE"}, "enc": {"B": "b25l"},
        "hierarchy-version": {"N": "1"}, "kms-arn": {"S": "arn"}, "aws-crypto-ec:tenant": {"S": "acme"},
    });
    let plant = |item: Value| {
        server.change(TABLE, |items| drop(items.insert(["tenant/acme", "branch:ACTIVE"].map(str::to_owned), item)));
    };
    plant(good.clone());
    let found = get(&store).await.unwrap().unwrap();
    assert_eq!(found.attributes["aws-crypto-ec:tenant"], "acme");

    let mut all = Vec::new();
    for name in ["branch-key-id", "type", "enc", "hierarchy-version"] {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(name);
        all.push((without, format!("it has no {name}")));
    }
    for (value, found) in [
        (json!({"S": "1"}), "S"),
        (json!({"N": "1"}), "N"),
        (json!({"B": "b25l"}), "B"),
        (json!({"BOOL": true}), "BOOL"),
        (json!({"NULL": true}), "NULL"),
        (json!({"SS": ["1"]}), "SS"),
        (json!({"NS": ["1"]}), "NS"),
        (json!({"BS": ["b25l"]}), "BS"),
        (json!({"L": [{"S": "1"}]}), "L"),
        (json!({"M": {"S": {"S": "1"}}}), "M"),
    ] {
        for name in good.as_object().unwrap().keys() {
            let wanted = match &name[..] {
                "enc" => "B",
                "hierarchy-version" => "N",
                _ => "S",
            };
            let mut changed = good.clone();
            changed[name] = value.clone();
            if found != wanted {
                all.push((changed, format!("its {name} has the type {found}, not {wanted}")));
            }
        }
    }
    for number in ["-1", "1.5", "4294967296", "1e3"] {
        let mut changed = good.clone();
        changed["hierarchy-version"] = json!({ "N": number });
        all.push((changed, format!("its hierarchy-version is {number:?}, not a small number")));
    }
    for (item, what) in all {
        plant(item);
        let error = get(&store).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (Kind::UnexpectedResponse, false));
        let text = "GetItem with key branch-keys/tenant/acme: unexpected response: item of type branch:ACTIVE: ";
        assert_eq!(error.to_string(), format!("{text}{what}"));
    }
}

#[tokio::test]
async fn a_conflict_says_which_item_is_in_the_way() {
    let server = Endpoint::new([TABLE]);
    let store = store(&server);
    create(&store).await.unwrap();
    let error = create(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.error_kind()), (Kind::Conflict, ErrorKind::InvalidInput));
    assert_eq!(
        error.to_string(),
        "TransactWriteItems with key branch-keys/tenant/acme: nothing was written, because of a conflict: \
         the item of type branch:version:1 exists already; the item of type branch:ACTIVE exists already"
    );
    let error = replace(&store, b"another").await.unwrap_err();
    assert_eq!(error.detail(), Some("the item of type branch:ACTIVE was replaced or does not exist"));
    replace(&store, b"one").await.unwrap();
    let error = replace(&store, b"two").await.unwrap_err();
    assert_eq!(error.detail(), Some("the item of type branch:version:2 exists already"));
}

#[tokio::test]
async fn errors_of_dynamodb_have_the_kind_of_their_code_and_show_no_response() {
    let server = Endpoint::new([TABLE]);
    let store = store(&server);
    for (fault, kind) in [
        (Fault::Throttle, Kind::Throttled),
        (Fault::Refuse("ProvisionedThroughputExceededException"), Kind::Throttled),
        (Fault::Refuse("RequestLimitExceeded"), Kind::Throttled),
        (Fault::Refuse("AccessDeniedException"), Kind::AccessDenied),
        (Fault::Refuse("ResourceNotFoundException"), Kind::NotFound),
        (Fault::Refuse("InternalServerError"), Kind::Unavailable),
        (Fault::Refuse("ValidationException"), Kind::Other),
        (Fault::Refuse("UnrecognizedClientException"), Kind::Other),
        (Fault::Cut, Kind::Unavailable),
        (Fault::Close, Kind::Unavailable),
    ] {
        server.script(move |_| fault);
        for error in [
            get(&store).await.unwrap_err(),
            create(&store).await.unwrap_err(),
            replace(&store, b"one").await.unwrap_err(),
            store.check_table().await.unwrap_err(),
            store.create_table().await.map(|()| panic!("{fault:?}")).unwrap_or_else(|error| error),
        ] {
            if error.operation() == "CreateTable" && kind == Kind::NotFound {
                continue;
            }
            assert_eq!(error.kind(), kind, "{fault:?}: {error}");
            let retryable = matches!(kind, Kind::Throttled | Kind::Unavailable);
            assert_eq!(error.is_retryable(), retryable, "{fault:?}: {error}");
            assert!(error.key_id().starts_with(TABLE), "{error}");
            let shown = format!("{error} {error:?} {:?}", error.source());
            assert!(!shown.contains("CancellationReasons") && !shown.contains("SdkBody"), "{shown}");
        }
    }
    for (reason, kind) in [
        ("TransactionConflict", Kind::Unavailable),
        ("ThrottlingError", Kind::Throttled),
        ("ProvisionedThroughputExceeded", Kind::Throttled),
        ("ValidationError", Kind::Other),
    ] {
        server.script(move |_| Fault::Cancel(reason));
        let error = create(&store).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.detail(), Some(&format!("the transaction was canceled: {reason}")[..]));
    }
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_and_is_not_sent_after_it() {
    let server = Endpoint::new([TABLE]);
    let store = store(&server);
    server.script(|_| Fault::Hang);
    let deadline = || Instant::now() + Duration::from_millis(50);
    let items = [item(BranchKeyItem::ACTIVE, "one")];
    for error in [
        store.get("id", BranchKeyItem::ACTIVE, deadline()).await.unwrap_err(),
        store.create(&items, deadline()).await.unwrap_err(),
        store.replace(&items[0], &items[0], b"", deadline()).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.is_retryable()), (Kind::TimedOut, true), "{error}");
    }
    let server = Endpoint::new([TABLE]);
    let store = DynamoDbBranchKeyStore::new(server.client(), TABLE);
    let error = store.get("id", BranchKeyItem::ACTIVE, Instant::now()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert_eq!(error.source().unwrap().to_string(), "not sent, because the time limit was reached");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn the_client_retries_and_a_write_with_a_lost_response_is_made_once() {
    let server = Endpoint::new([TABLE]);
    server.script(|request| if request.number == 0 { Fault::Throttle } else { Fault::None });
    // Older versions of the AWS SDK do not retry by default.
    let client = server.client_with(|config| config.retry_config(RetryConfig::standard()));
    let store = DynamoDbBranchKeyStore::new(client, TABLE);
    create(&store).await.unwrap();
    let requests = server.requests();
    let token = |number: usize| requests[number].body["ClientRequestToken"].as_str().unwrap().to_owned();
    assert_eq!((requests.len(), token(0)), (2, token(1)));
}

#[tokio::test]
async fn a_new_table_is_awaited_and_an_existing_one_is_checked() {
    let server = Endpoint::new([]);
    let store = store(&server);
    let error = store.check_table().await.unwrap_err();
    assert_eq!((error.kind(), error.detail()), (Kind::NotFound, Some("the table does not exist")));
    store.create_table().await.unwrap();
    let operations = |from: usize| -> Vec<String> {
        server.requests().into_iter().skip(from).map(|request| request.operation).collect()
    };
    // It was first seen when it was not active yet.
    assert_eq!(operations(1), ["DescribeTable", "CreateTable", "DescribeTable", "DescribeTable"]);
    let request = &server.requests()[2].body;
    assert_eq!(request["BillingMode"], "PAY_PER_REQUEST");
    store.create_table().await.unwrap();
    store.check_table().await.unwrap();
    assert_eq!(operations(5), ["DescribeTable", "DescribeTable"]);
}

#[tokio::test]
async fn a_table_with_other_keys_is_refused() {
    let server = Endpoint::new([]);
    let store = store(&server);
    let key = |name: &str, kind: &str| json!({"AttributeName": name, "KeyType": kind});
    let attribute = |name: &str, kind: &str| json!({"AttributeName": name, "AttributeType": kind});
    let (id, sort) = (key("branch-key-id", "HASH"), key("type", "RANGE"));
    let (id_s, sort_s) = (attribute("branch-key-id", "S"), attribute("type", "S"));
    let more = json!([id_s, sort_s, attribute("version", "S")]);
    // More attributes are for more indexes.
    server.define(TABLE, json!({"KeySchema": [sort, id], "AttributeDefinitions": more}));
    store.check_table().await.unwrap();
    for (keys, attributes, found) in [
        (json!([id]), json!([id_s]), "the partition key branch-key-id and the sort key (none)"),
        (json!([key("id", "HASH"), sort]), json!([attribute("id", "S"), sort_s]), "the partition key id and"),
        (json!([id, key("version", "RANGE")]), more.clone(), "and the sort key version"),
        (json!([key("type", "HASH"), key("branch-key-id", "RANGE")]), more.clone(), "the partition key type and"),
        (
            json!([id, sort]),
            json!([id_s, attribute("type", "B")]),
            "branch keys need branch-key-id and type, of type S",
        ),
        (json!([id, sort]), json!([id_s]), "branch keys need branch-key-id and type, of type S"),
        (json!([]), json!([]), "the partition key (none)"),
    ] {
        server.define(TABLE, json!({"KeySchema": keys, "AttributeDefinitions": attributes}));
        for error in [store.check_table().await.unwrap_err(), store.create_table().await.unwrap_err()] {
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains(found), "{error}");
        }
    }
    assert_eq!(server.calls()["DescribeTable"], server.requests().len());
}

#[test]
fn debug_output_names_the_table_and_nothing_of_the_client() {
    let server = Endpoint::new([]);
    let store = store(&server);
    assert_eq!(store.table_name(), TABLE);
    assert_eq!(format!("{store:?}"), r#"DynamoDbBranchKeyStore { table_name: "branch-keys", .. }"#);
}
