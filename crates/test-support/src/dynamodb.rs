//! A simulated DynamoDB over HTTP: the operations that branch keys need, and faults on demand.

use std::{
    collections::BTreeMap,
    io::BufReader,
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_sdk_dynamodb::{
    Client, Config,
    config::{Builder, Credentials, Region, retry::RetryConfig},
};
use serde_json::{Value, json};

pub use crate::kms::Fault;
use crate::kms::{lock, read_request, respond};

/// The region of all tables.
pub const REGION: &str = "eu-west-1";

type Script = Box<dyn Fn(&Request) -> Fault + Send>;

/// The fields of a request that scripts can use.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the request, from 0.
    pub number: usize,
    /// The operation, such as `GetItem`.
    pub operation: String,
    /// The body.
    pub body: Value,
}

/// A DynamoDB server in this process. It runs until the process ends.
#[expect(missing_debug_implementations, reason = "its script is a closure")]
pub struct Endpoint {
    url: String,
    state: Arc<State>,
}

struct State {
    tables: Mutex<BTreeMap<String, Table>>,
    script: Mutex<Script>,
    requests: Mutex<Vec<Request>>,
    given_up: AtomicUsize,
}

struct Table {
    /// The request that created the table.
    definition: Value,
    is_active: bool,
    /// Items by branch key id and type.
    items: BTreeMap<[String; 2], Value>,
}

impl Endpoint {
    /// Starts a server with these tables for branch keys.
    pub fn new<'a>(tables: impl IntoIterator<Item = &'a str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let definition = json!({
            "KeySchema": [
                {"AttributeName": "branch-key-id", "KeyType": "HASH"}, {"AttributeName": "type", "KeyType": "RANGE"},
            ],
            "AttributeDefinitions": [
                {"AttributeName": "branch-key-id", "AttributeType": "S"}, {"AttributeName": "type", "AttributeType": "S"},
            ],
        });
        let state = Arc::new(State {
            tables: Mutex::default(),
            script: Mutex::new(Box::new(|_| Fault::None)),
            requests: Mutex::default(),
            given_up: AtomicUsize::new(0),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream));
            }
        });
        let this = Self { url, state };
        tables.into_iter().for_each(|name| this.define(name, definition.clone()));
        this
    }

    /// Adds a table without items, with the fields of a `CreateTable` request.
    pub fn define(&self, table: &str, definition: Value) {
        let table_of = Table { definition, is_active: true, items: BTreeMap::new() };
        lock(&self.state.tables).insert(table.to_owned(), table_of);
    }

    /// Returns the URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a client that makes no retries.
    pub fn client(&self) -> Client {
        self.client_with(|config| config.retry_config(RetryConfig::disabled()))
    }

    /// Returns a client with further settings.
    pub fn client_with(&self, configure: impl FnOnce(Builder) -> Builder) -> Client {
        client_of(&self.url, REGION, configure)
    }

    /// Sets the script that decides how later requests are handled.
    pub fn script(&self, script: impl Fn(&Request) -> Fault + Send + 'static) {
        *lock(&self.state.script) = Box::new(script);
    }

    /// Returns all requests, in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Returns the number of requests for each operation.
    pub fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        lock(&self.state.requests).iter().for_each(|request| *calls.entry(request.operation.clone()).or_default() += 1);
        calls
    }

    /// Returns how many callers closed the connection while they waited for a response.
    pub fn given_up(&self) -> usize {
        self.state.given_up.load(Ordering::SeqCst)
    }

    /// Changes the items of a table by branch key id and type. Each is a JSON object with the attributes.
    pub fn change(&self, table: &str, change: impl FnOnce(&mut BTreeMap<[String; 2], Value>)) {
        change(&mut lock(&self.state.tables).get_mut(table).unwrap().items);
    }
}

/// Returns a client of the DynamoDB at this endpoint.
pub(crate) fn client_of(endpoint: &str, region: &str, configure: impl FnOnce(Builder) -> Builder) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(configure(config).build())
}

/// An error response: its code, and the reasons of a canceled transaction.
type Refusal = (&'static str, Vec<&'static str>);

impl State {
    /// Handles the requests of one connection.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((operation, _, body)) = read_request(&mut reader) {
            let request = {
                let mut requests = lock(&self.requests);
                let request = Request { number: requests.len(), operation, body };
                requests.push(request.clone());
                request
            };
            let fault = lock(&self.script)(&request);
            let answer = match fault {
                Fault::Throttle => Err(("ThrottlingException", vec![])),
                Fault::Refuse(code) => Err((code, vec![])),
                Fault::Cancel(reason) => Err(("TransactionCanceledException", vec!["None", reason])),
                _ => self.answer(&request),
            };
            let (status, answer) = match answer {
                Ok(answer) => (200, answer),
                Err((code, reasons)) => {
                    let reasons: Vec<_> = reasons.iter().map(|code| json!({ "Code": code })).collect();
                    let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
                    (400, json!({"__type": kind, "message": "said DynamoDB", "CancellationReasons": reasons}))
                }
            };
            if !respond(&mut reader, &mut stream, fault, status, &answer.to_string(), &self.given_up) {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Result<Value, Refusal> {
        let (body, not_found) = (&request.body, ("ResourceNotFoundException", vec![]));
        let mut tables = lock(&self.tables);
        let name = |of: &Value| of["TableName"].as_str().unwrap().to_owned();
        match &request.operation[..] {
            "CreateTable" if tables.contains_key(&name(body)) => Err(("ResourceInUseException", vec![])),
            "CreateTable" => {
                let table = Table { definition: body.clone(), is_active: false, items: BTreeMap::new() };
                tables.insert(name(body), table);
                Ok(json!({"TableDescription": {"TableStatus": "CREATING"}}))
            }
            "DescribeTable" => {
                let table = tables.get_mut(&name(body)).ok_or(not_found)?;
                let mut description = table.definition.clone();
                description["TableStatus"] = if table.is_active { "ACTIVE" } else { "CREATING" }.into();
                table.is_active = true;
                Ok(json!({ "Table": description }))
            }
            "GetItem" => {
                let table = tables.get(&name(body)).ok_or(not_found)?;
                let found = table.items.get(&key_of(&body["Key"]));
                Ok(found.map_or(json!({}), |item| json!({ "Item": item })))
            }
            "TransactWriteItems" => {
                let puts: Vec<_> = body["TransactItems"].as_array().unwrap().iter().map(|item| &item["Put"]).collect();
                let mut reasons = Vec::new();
                for put in &puts {
                    let table = tables.get(&name(put)).ok_or(("ResourceNotFoundException", vec![]))?;
                    let is_met = is_met(put, table.items.get(&key_of(&put["Item"])));
                    reasons.push(if is_met { "None" } else { "ConditionalCheckFailed" });
                }
                if reasons.contains(&"ConditionalCheckFailed") {
                    return Err(("TransactionCanceledException", reasons));
                }
                for put in puts {
                    let item = &put["Item"];
                    tables.get_mut(&name(put)).unwrap().items.insert(key_of(item), item.clone());
                }
                Ok(json!({}))
            }
            other => panic!("{other}"),
        }
    }
}

fn key_of(item: &Value) -> [String; 2] {
    ["branch-key-id", "type"].map(|name| item[name]["S"].as_str().unwrap().to_owned())
}

/// Evaluates a condition: functions and comparisons, combined with AND.
fn is_met(put: &Value, existing: Option<&Value>) -> bool {
    let attribute = |name: &str| existing?.get(put["ExpressionAttributeNames"][name].as_str().unwrap());
    put["ConditionExpression"].as_str().unwrap().split(" AND ").all(|condition| {
        let argument = |function: &str| condition.strip_prefix(function)?.strip_suffix(')');
        if let Some(name) = argument("attribute_not_exists(") {
            attribute(name).is_none()
        } else if let Some(name) = argument("attribute_exists(") {
            attribute(name).is_some()
        } else {
            let (name, value) = condition.split_once(" = ").expect("a comparison");
            attribute(name) == Some(&put["ExpressionAttributeValues"][value])
        }
    })
}
