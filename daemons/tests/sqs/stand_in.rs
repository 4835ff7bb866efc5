//! What stands between the program and moto: it fails as SQS fails when it is told to, and does as SQS does
//! where moto does not.
//!
//! - Requests reach moto one at a time: two that receive at once may both get the same message from it.
//! - It waits for messages itself, for moto looks only once a second for those whose lease has ended.
//! - The handle of an earlier receipt names nothing once a message was received again. SQS says that it may or
//!   may not; to moto, it does.

use crate::servers::moto::Moto;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::Instant,
};

/// How often it looks for messages whose lease has ended.
const LOOK: Duration = Duration::from_millis(250);

/// What is done with a request instead of passing it on.
pub(crate) enum Act {
    /// An error in its place: HTTP status and code.
    Refuse(u16, &'static str),
    /// It is passed on, and its answer is lost with the connection.
    LoseAnswer,
    /// These entries fail with this code, as the sender's fault or not; the rest is passed on.
    Fail(Vec<&'static str>, &'static str, bool),
    /// This is passed on in its place.
    PassOn(Value),
}

type Meddler = Box<dyn FnMut(&str, &Value) -> Option<Act> + Send>;

/// A server that speaks the protocol of SQS.
pub(crate) struct StandIn {
    pub(crate) endpoint: String,
    place: Arc<Place>,
}

struct Place {
    moto: Arc<Moto>,
    http: reqwest::Client,
    turn: tokio::sync::Mutex<Handles>,
    /// A message may have become receivable.
    changed: Notify,
    meddlers: Mutex<Vec<Meddler>>,
    /// The operations that were asked for, with what was said.
    asked: watch::Sender<Vec<(String, Value)>>,
}

/// The message of each handle, and the newest handle of each message.
#[derive(Default)]
struct Handles {
    message: HashMap<String, String>,
    newest: HashMap<String, String>,
}

#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("the answer is lost")
    }
}

impl std::error::Error for Lost {}

impl StandIn {
    pub(crate) async fn before(moto: Arc<Moto>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let place = Arc::new(Place {
            moto,
            http: reqwest::Client::new(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            meddlers: Mutex::default(),
            asked: watch::Sender::default(),
        });
        let served = Arc::clone(&place);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let place = Arc::clone(&served);
                let service = service_fn(move |request| serve(Arc::clone(&place), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { endpoint, place }
    }

    /// Asks what is to be done with each request from now on, by operation and content.
    pub(crate) fn meddle(&self, with: impl FnMut(&str, &Value) -> Option<Act> + Send + 'static) {
        self.place.meddlers.lock().expect("no meddler panics").push(Box::new(with));
    }

    /// Meddles with the first so many requests of an operation.
    pub(crate) fn meddle_first(
        &self,
        count: usize,
        operation: &'static str,
        act: impl Fn(usize) -> Act + Send + 'static,
    ) {
        let mut met = 0;
        self.meddle(move |asked, _| {
            if asked != operation || met == count {
                return None;
            }
            met += 1;
            Some(act(met - 1))
        });
    }

    /// What was said in each request of an operation.
    pub(crate) fn asked(&self, operation: &str) -> Vec<Value> {
        let asked = self.place.asked.borrow();
        asked.iter().filter(|(name, _)| name == operation).map(|(_, said)| said.clone()).collect()
    }

    /// Returns when a request of an operation has come of which this is true.
    pub(crate) async fn reached(&self, operation: &str, is: impl Fn(&Value) -> bool) {
        let mut asked = self.place.asked.subscribe();
        let come = asked.wait_for(|asked| asked.iter().any(|(name, said)| name == operation && is(said)));
        come.await.expect("it is not gone");
    }
}

async fn serve(place: Arc<Place>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
    let (head, body) = request.into_parts();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.strip_prefix("AmazonSQS.")).expect("SQS").to_owned();
    let body = body.collect().await.expect("it comes whole").to_bytes();
    let mut said: Value = serde_json::from_slice(&body).expect("JSON");
    place.asked.send_modify(|asked| asked.push((operation.clone(), said.clone())));
    let act = {
        let mut meddlers = place.meddlers.lock().expect("no meddler panics");
        meddlers.iter_mut().find_map(|meddler| meddler(&operation, &said))
    };
    let (mut failing, mut lost) = (None, false);
    match act {
        Some(Act::Refuse(status, code)) => return Ok(refusal(status, code)),
        Some(Act::Fail(ids, code, sender)) => failing = Some((ids, code, sender)),
        Some(Act::PassOn(other)) => said = other,
        Some(Act::LoseAnswer) => lost = true,
        None => {}
    }
    let answer = match &*operation {
        "ReceiveMessage" => place.receive(&head.headers, said).await,
        _ => place.pass_on(&operation, &head.headers, said, failing).await,
    };
    if lost { Err(Lost) } else { Ok(answer) }
}

fn refusal(status: u16, code: &str) -> Response<Full<Bytes>> {
    let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "Said in a test." });
    let response = Response::builder().status(status).header("x-amzn-query-error", format!("{code};Sender"));
    response.body(Full::from(body.to_string())).expect("it is well-formed")
}

impl Place {
    async fn forward(&self, headers: &HeaderMap, said: &Value) -> Response<Full<Bytes>> {
        let mut headers = headers.clone();
        headers.remove("host");
        headers.remove("content-length");
        let sent = self.http.post(&self.moto.endpoint).headers(headers).body(said.to_string()).send();
        let answer = sent.await.expect("moto answers");
        let mut response = Response::builder().status(answer.status());
        if let Some(code) = answer.headers().get("x-amzn-query-error") {
            response = response.header("x-amzn-query-error", code);
        }
        response.body(Full::from(answer.bytes().await.expect("whole"))).expect("it is well-formed")
    }

    async fn receive(&self, headers: &HeaderMap, mut said: Value) -> Response<Full<Bytes>> {
        let wait = said["WaitTimeSeconds"].take().as_u64().expect("the program says how long");
        said["WaitTimeSeconds"] = 0.into();
        let until = Instant::now() + Duration::from_secs(wait);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let mut handles = self.turn.lock().await;
            let (head, answer) = taken_apart(self.forward(headers, &said).await).await;
            let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
            for message in &messages {
                let (id, handle) = (text(&message["MessageId"]), text(&message["ReceiptHandle"]));
                handles.message.insert(handle.clone(), id.clone());
                handles.newest.insert(id, handle);
            }
            drop(handles);
            if !messages.is_empty() || !head.status.is_success() || Instant::now() >= until {
                return Response::from_parts(head, Full::from(answer.to_string()));
            }
            let look = (Instant::now() + LOOK).min(until);
            let _ = tokio::time::timeout_at(look, changed).await; // either way it looks again
        }
    }

    async fn pass_on(
        &self,
        operation: &str,
        headers: &HeaderMap,
        mut said: Value,
        failing: Option<(Vec<&str>, &str, bool)>,
    ) -> Response<Full<Bytes>> {
        let handles = self.turn.lock().await;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let batch = said["Entries"].as_array_mut().map(|entries| {
            entries.retain(|entry| {
                let id = text(&entry["Id"]);
                if let Some((ids, code, sender)) = &failing
                    && ids.contains(&&*id)
                {
                    failed.push(json!({ "Id": id, "Code": code, "SenderFault": sender, "Message": "Said in a test." }));
                    return false;
                }
                let handle = entry["ReceiptHandle"].as_str().unwrap_or_default();
                let newest = handles.message.get(handle).and_then(|message| handles.newest.get(message));
                if newest.is_none_or(|newest| newest == handle) {
                    return true;
                }
                if operation == "DeleteMessageBatch" {
                    done.push(json!({ "Id": id }));
                } else {
                    let message = format!(
                        "Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist \
                         or is not available for visibility timeout change."
                    );
                    failed.push(json!({ "Id": id, "Code": "InvalidParameterValue", "SenderFault": true, "Message": message }));
                }
                false
            });
            entries.is_empty()
        });
        let response = match batch {
            Some(true) if !done.is_empty() || !failed.is_empty() => {
                Response::new(Full::from(json!({ "Successful": done, "Failed": failed }).to_string()))
            }
            Some(_) if !done.is_empty() || !failed.is_empty() => {
                let (head, mut answer) = taken_apart(self.forward(headers, &said).await).await;
                for (list, more) in [("Successful", done), ("Failed", failed)] {
                    let mut all = answer[list].as_array().cloned().unwrap_or_default();
                    all.extend(more);
                    answer[list] = all.into();
                }
                Response::from_parts(head, Full::from(answer.to_string()))
            }
            _ => self.forward(headers, &said).await,
        };
        drop(handles);
        self.changed.notify_waiters();
        response
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

async fn taken_apart(response: Response<Full<Bytes>>) -> (hyper::http::response::Parts, Value) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("it is there").to_bytes();
    (head, serde_json::from_slice(&body).expect("JSON"))
}
