//! `quorate up` as a child of the test.

use crate::{Data, PATIENCE, eventually, process};
use reqwest::{Method, header::HeaderMap};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use std::{
    path::Path,
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

/// How long the processes of a platform may take to end after it was told to, or killed.
const END: Duration = Duration::from_secs(10);

/// Lines of the platform's log that a failed test shows.
const SHOWN: usize = 200;

/// A platform that runs.
#[derive(Debug)]
pub struct Platform {
    // The first field is dropped first: the processes end before the folder goes.
    supervisor: Child,
    /// Its folder, on which other commands can be run.
    pub data: Data,
    /// Where its gateway listens.
    pub url: String,
    /// Keeps connections, as a client that sends much does.
    pub http: reqwest::Client,
    log: Log,
}

/// What a platform has said; shown when the test fails.
#[derive(Debug)]
struct Log(Arc<Mutex<Vec<String>>>);

/// One process as `quorate status --json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// `worker`, `replica`, `gateway`, …
    pub daemon: String,
    /// What it computes.
    pub function: Option<String>,
    /// Its set.
    pub set: Option<String>,
    /// A replica's index.
    pub index: Option<u32>,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub address: Option<String>,
    /// `ready` and others.
    pub state: String,
    /// How many times it was made anew.
    pub incarnation: Option<u64>,
    /// A replica's view.
    pub view: Option<u64>,
    /// Whether a replica is the primary.
    pub primary: Option<bool>,
}

impl Status {
    /// The process id.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.pid.unwrap_or_else(|| panic!("has no process: {self:?}"))
    }
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub text: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Platform {
    /// Starts a platform with this `quorate.toml`, and waits for its URL.
    pub async fn up(config: &str) -> Self {
        Self::up_on(Data::new(), config).await
    }

    /// Starts a platform on a folder that may have had one before.
    pub async fn up_on(data: Data, config: &str) -> Self {
        Self::start(data, config, None, |_| ()).await
    }

    /// Starts a platform that has a process group of its own, as a shell gives it one.
    pub async fn up_in_a_group(config: &str) -> Self {
        let grouped = |command: &mut Command| {
            command.process_group(0);
        };
        Self::start(Data::new(), config, None, grouped).await
    }

    /// Starts a platform of a binary in which a replica lies, and says which one and how.
    pub async fn up_lying(config: &str, binary: &Path, liar: &str) -> Self {
        let lying = |command: &mut Command| {
            command.env("LIAR", liar);
        };
        Self::start(Data::new(), config, Some(binary), lying).await
    }

    /// Starts a platform that logs as this filter says.
    pub async fn up_logging(config: &str, filter: &str) -> Self {
        let logging = |command: &mut Command| {
            command.env("QUORATE_LOG", filter);
        };
        Self::start(Data::new(), config, None, logging).await
    }

    async fn start(
        data: Data,
        config: &str,
        binary: Option<&Path>,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let config = data.file("quorate.toml", config);
        let config = config.to_str().expect("is UTF-8");
        let folder = data.path().to_str().expect("is UTF-8");
        let arguments = ["up", "--data", folder, "--listen", "127.0.0.1:0", "--config", config];
        let mut command = match binary {
            Some(binary) => data.command_of(binary, &arguments),
            None => data.command(&arguments),
        };
        prepare(&mut command);
        let mut supervisor = command.spawn().expect("the binary was just built");
        let log = Log(Arc::default());
        let (tell, mut told) = watch::channel(None);
        let tell = Arc::new(tell);
        let out = supervisor.stdout.take().expect("piped by `command`");
        let err = supervisor.stderr.take().expect("piped by `command`");
        tokio::spawn(follow(out, log.0.clone(), tell.clone()));
        tokio::spawn(follow(err, log.0.clone(), tell));
        let url = match tokio::time::timeout(PATIENCE, told.wait_for(Option::is_some)).await {
            Ok(Ok(url)) => url.clone().expect("was waited for"),
            _ => panic!("`up` has printed no URL: {:#?}", log.lines()),
        };
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("needs nothing");
        Self { supervisor, data, url, http, log }
    }

    /// The supervisor's process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn supervisor(&self) -> u32 {
        self.supervisor.id().expect("has not been waited for")
    }

    /// Sends a request; only the platform's absence is an error.
    ///
    /// # Errors
    /// When there was no answer.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Response { status, headers, text: answer.text().await? })
    }

    /// Gets something that has to be answered.
    pub async fn get(&self, path: &str) -> Response {
        self.try_send(Method::GET, path, &[], "").await.expect("the gateway answers")
    }

    /// Posts something that has to be answered.
    pub async fn post(&self, path: &str, body: &str) -> Response {
        self.post_with(path, &[], body).await
    }

    /// Posts something with headers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.try_send(Method::POST, path, &all, body).await.expect("the gateway answers")
    }

    /// The result of an expression that has one.
    pub async fn result(&self, expression: &str) -> String {
        let body = serde_json::json!({ "expression": expression }).to_string();
        let answer = self.post("/v1/expressions?wait=60", &body).await;
        assert_eq!(answer.status, 200, "{expression}: {answer:?}");
        answer.json()["result"].as_str().unwrap_or_else(|| panic!("no result: {answer:?}")).to_owned()
    }

    /// All processes, as the gateway knows them.
    pub async fn status(&self) -> Vec<Status> {
        let answer = self.get("/v1/status").await;
        serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// The one process that `which` describes, once it is there.
    pub async fn find(&self, what: &str, which: impl Fn(&Status) -> bool) -> Status {
        eventually(what, || async {
            // While the control plane is away, nothing is known.
            let answer = self.try_send(Method::GET, "/v1/status", &[], "").await.ok()?;
            let all: Vec<Status> = serde_json::from_str(&answer.text).ok()?;
            all.into_iter().find(&which)
        })
        .await
    }

    /// A function's worker when it is ready.
    pub async fn worker(&self, function: &str) -> Status {
        self.find(&format!("a ready worker of {function}"), |status| {
            status.daemon == "worker"
                && status.function.as_deref() == Some(function)
                && status.state == "ready"
        })
        .await
    }

    /// A function's replicas of its first set when all four are ready and know their view.
    pub async fn replicas(&self, function: &str) -> Vec<Status> {
        eventually(&format!("four ready replicas of {function}"), || async {
            let mut replicas = self.status().await;
            replicas.retain(|status| {
                status.daemon == "replica"
                    && status.set.as_deref() == Some(&format!("{function}-0"))
                    && status.state == "ready"
                    && status.view.is_some()
            });
            (replicas.len() == 4).then_some(replicas)
        })
        .await
    }

    /// A function's primary replica.
    pub async fn primary(&self, function: &str) -> Status {
        self.replicas(function).await.into_iter().find(|r| r.primary == Some(true)).expect("one leads")
    }

    /// A function's backup replica with the lowest index.
    pub async fn backup(&self, function: &str) -> Status {
        self.replicas(function).await.into_iter().find(|r| r.primary == Some(false)).expect("three follow")
    }

    /// Waits until what `old` was is another process, ready, with a higher incarnation.
    pub async fn replaced(&self, old: &Status) -> Status {
        self.find(&format!("the successor of {old:?}"), |new| {
            (&new.daemon, &new.set, new.index) == (&old.daemon, &old.set, old.index)
                && new.pid.is_some()
                && new.pid != old.pid
                && new.state == "ready"
                && new.incarnation > old.incarnation
        })
        .await
    }

    /// Ends it as Ctrl-C does, and checks that no process of it is left.
    pub async fn stop(self) -> Data {
        process::signal(self.supervisor(), Signal::INT);
        self.gone().await.0
    }

    /// Waits until it has ended and no process of it is left; says how it ended.
    ///
    /// # Panics
    /// When something is left.
    pub async fn gone(mut self) -> (Data, ExitStatus) {
        let ended = tokio::time::timeout(END, self.supervisor.wait()).await;
        let ended = ended.expect("the supervisor ends in time").expect("it is our child");
        self.data.deserted(END).await;
        (self.data, ended)
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.lines();
            eprintln!("the platform's last words:");
            log.iter().skip(log.len().saturating_sub(SHOWN)).for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// Keeps what is said, and finds the URL in it.
async fn follow(
    out: impl AsyncRead + Unpin,
    log: Arc<Mutex<Vec<String>>>,
    url: Arc<watch::Sender<Option<String>>>,
) {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if url.borrow().is_none()
            && let Some(at) = line.find("http://127.0.0.1:")
        {
            let address = line[at..].split_whitespace().next().unwrap_or_default();
            url.send_replace(Some(address.trim_end_matches(['/', '.', ',', '"']).to_owned()));
        }
        log.lock().expect("nobody panics with it").push(line);
    }
}
