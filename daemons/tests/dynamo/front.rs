//! What stands before moto: an HTTP server that passes requests on one at a time, because moto does not check
//! a condition and write in one step, and that goes wrong as it is told to.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// What goes wrong with a request.
pub(crate) enum Wrong {
    /// It is not passed on, but answered with this status and code.
    Refused(u16, &'static str),
    /// It is passed on, and the answer is lost with the connection.
    AnswerLost,
    /// The connection is lost before it is passed on.
    Cut,
    /// Of a batch only the first is passed on; the others are unprocessed.
    FirstOnly,
    /// It waits here: the first is told when it came, and it goes on when the second comes.
    Held(oneshot::Sender<()>, oneshot::Receiver<()>),
    /// Nothing.
    Right,
}

/// A server on a free port of loopback.
pub(crate) struct Front {
    /// `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    moto: String,
    client: reqwest::Client,
    one_at_a_time: tokio::sync::Mutex<()>,
    script: Mutex<VecDeque<(&'static str, Wrong)>>,
    lasting: Mutex<Option<(&'static str, u16, &'static str)>>,
    seen: Mutex<Vec<String>>,
}

impl Front {
    pub(crate) async fn start(moto: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(State {
            moto: moto.to_owned(),
            client: reqwest::Client::new(),
            one_at_a_time: tokio::sync::Mutex::default(),
            script: Mutex::default(),
            lasting: Mutex::default(),
            seen: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { endpoint, state, serving }
    }

    /// What goes wrong with the next requests of an operation, in this order. All others go right.
    pub(crate) fn next(&self, operation: &'static str, wrong: impl IntoIterator<Item = Wrong>) {
        let mut script = self.state.script.lock().expect("nobody panicked");
        script.extend(wrong.into_iter().map(|wrong| (operation, wrong)));
    }

    /// Refuses all requests of an operation from now on that nothing else is said of.
    pub(crate) fn refuse(&self, operation: &'static str, status: u16, code: &'static str) {
        *self.state.lasting.lock().expect("nobody panicked") = Some((operation, status, code));
    }

    /// Refuses no more.
    pub(crate) fn heal(&self) {
        *self.state.lasting.lock().expect("nobody panicked") = None;
    }

    /// How many requests of an operation have come.
    pub(crate) fn seen(&self, operation: &str) -> usize {
        self.state.seen.lock().expect("nobody panicked").iter().filter(|seen| *seen == operation).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&state), request));
            // An error is what ends the connection without an answer: meant.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let target = request.headers()["x-amz-target"].to_str().expect("ASCII").to_owned();
    let operation = target.rsplit('.').next().expect("one piece at least").to_owned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    state.seen.lock().expect("nobody panicked").push(operation.clone());
    match state.wrong(&operation) {
        Wrong::Right => state.pass(&target, body).await,
        Wrong::Refused(status, code) => Ok(refused(status, code)),
        Wrong::Cut => Err(io::ErrorKind::ConnectionReset.into()),
        Wrong::AnswerLost => {
            state.pass(&target, body).await?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Wrong::Held(came, go_on) => {
            came.send(()).expect("the test waits");
            go_on.await.expect("the test lets it go on");
            state.pass(&target, body).await
        }
        Wrong::FirstOnly => {
            let mut batch: Value = serde_json::from_slice(&body).expect("JSON");
            let tables = batch["RequestItems"].as_object_mut().expect("tables");
            let (table, items) = tables.iter_mut().next().expect("one table");
            let left = items.as_array_mut().expect("requests").split_off(1);
            let left = json!({ "UnprocessedItems": { table.clone(): left } });
            state.pass(&target, batch.to_string().into()).await?;
            Ok(Response::new(left.to_string().into()))
        }
    }
}

impl State {
    fn wrong(&self, operation: &str) -> Wrong {
        let mut script = self.script.lock().expect("nobody panicked");
        if let Some(at) = script.iter().position(|(of, _)| *of == operation) {
            return script.remove(at).expect("it is there").1;
        }
        match *self.lasting.lock().expect("nobody panicked") {
            Some((of, status, code)) if of == operation => Wrong::Refused(status, code),
            _ => Wrong::Right,
        }
    }

    async fn pass(&self, target: &str, body: Bytes) -> io::Result<Response<Full<Bytes>>> {
        let _alone = self.one_at_a_time.lock().await;
        let request = self
            .client
            .post(&self.moto)
            .header("x-amz-target", target)
            .header("content-type", "application/x-amz-json-1.0")
            // moto has tables of their own for each region, which it reads from here.
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/dynamodb/aws4_request, \
                 SignedHeaders=host, Signature=0",
            )
            .body(body);
        let answer = request.send().await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(io::Error::other)?;
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Ok(response)
    }
}

fn refused(status: u16, code: &str) -> Response<Full<Bytes>> {
    let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "Because." });
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status.try_into().expect("a status");
    response
}
