//! A closed loop of requests whose every answer is checked.

use crate::{
    PATIENCE, Platform, Random,
    history::{self, History, Saw, Violations},
};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

/// How long one who was refused or cut off waits before it asks again.
const AGAIN: Duration = Duration::from_millis(20);

/// After so many answers one of them is read again: seldom, because throughput is measured with this loop, too.
const READ_BACK: usize = 16;

/// What the requests compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// The example of the README, each time.
    Example,
    /// All four functions, five operations.
    All,
    /// One operation of one function.
    Only(&'static str),
}

impl Mix {
    /// The `n`th expression and, by the arithmetic of this machine, its value.
    fn request(self, n: u64) -> (String, i64) {
        // The same requests in every run.
        let mut random = Random::new(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let [a, b, c, d, e] =
            std::array::from_fn(|_| i64::try_from(random.below(1000)).expect("is below 1000"));
        let divisor = e + 1;
        match self {
            Self::Example => ("((3+5)*(4/2))".into(), 16),
            Self::All => {
                let multiple = d * divisor;
                (format!("((({a}+{b})*({c}-{d}))+({multiple}/{divisor}))"), (a + b) * (c - d) + d)
            }
            Self::Only("add") => (format!("{a}+{b}"), a + b),
            Self::Only("sub") => (format!("{a}-{b}"), a - b),
            Self::Only("mul") => (format!("{a}*{b}"), a * b),
            Self::Only("div") => (format!("{}/{divisor}", a * divisor), a),
            Self::Only(other) => panic!("there is no function {other}"),
        }
    }
}

/// Requests that go on until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    answered: watch::Receiver<u64>,
    loops: JoinSet<(Client, Histogram<u64>)>,
}

/// What became of all requests.
#[derive(Debug)]
pub struct Report {
    /// Requests that were sent.
    pub sent: usize,
    /// What no client may see, and one did.
    pub violations: Violations,
    /// From sending to the answer, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Load {
    /// Starts `outstanding` loops on a platform.
    #[must_use]
    pub fn start(platform: &Platform, mix: Mix, outstanding: usize) -> Self {
        Self::at(&platform.url, platform.http.clone(), mix, outstanding)
    }

    /// Starts `outstanding` loops on whatever gateway listens at `url`.
    #[must_use]
    pub fn at(url: &str, http: reqwest::Client, mix: Mix, outstanding: usize) -> Self {
        // The keys of two loads differ, so that neither is answered with the other's results.
        static LOADS: AtomicU64 = AtomicU64::new(0);
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let (stop, stopped) = watch::channel(false);
        let (count, answered) = watch::channel(0);
        let count = Arc::new(count);
        let mut loops = JoinSet::new();
        let outstanding = u64::try_from(outstanding).expect("is small");
        for first in 0..outstanding {
            let (stopped, count) = (stopped.clone(), count.clone());
            let mut client = Client { url: url.to_owned(), http: http.clone(), mix, load, sent: Vec::new() };
            loops.spawn(async move {
                let mut latency_us = Histogram::new(3).expect("three digits are allowed");
                for n in (first..).step_by(usize::try_from(outstanding).expect("came from one")) {
                    if *stopped.borrow() {
                        break;
                    }
                    let since = Instant::now();
                    client.ask(n).await;
                    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latency_us.record(micros).expect("it grows as it has to");
                    count.send_modify(|answered| *answered += 1);
                    if client.sent.len().is_multiple_of(READ_BACK) {
                        client.read_back().await;
                    }
                }
                (client, latency_us)
            });
        }
        Self { stop, answered, loops }
    }

    /// Waits until so many more requests have come to an end.
    ///
    /// # Panics
    /// When they have not within [`PATIENCE`].
    pub async fn answered(&mut self, more: u64) {
        let until = *self.answered.borrow() + more;
        let reached = self.answered.wait_for(|answered| *answered >= until);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(matches!(reached, Ok(Ok(_))), "{more} more answers have not come within {PATIENCE:?}");
    }

    /// How many requests have come to an end.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.answered.borrow()
    }

    /// Stops asking, waits for what is outstanding, reads every record once more, and checks what was seen.
    ///
    /// # Panics
    /// When the harness itself fails.
    pub async fn finish(mut self) -> Report {
        self.stop.send_replace(true);
        let mut latency_us = Histogram::new(3).expect("three digits are allowed");
        let mut clients = Vec::new();
        while let Some(ended) = self.loops.join_next().await {
            let (client, its) = ended.expect("a loop does not panic");
            latency_us.add(its).expect("it grows as it has to");
            clients.push(client);
        }
        let mut histories = Vec::new();
        let mut can_be_read = true;
        for mut client in clients {
            for nth in 0..client.sent.len() {
                if can_be_read && !client.read(nth, PATIENCE).await {
                    // Nobody waits for each of the others, too.
                    can_be_read = false;
                    let answer = format!("could not be read again within {PATIENCE:?}");
                    client.sent[nth].saw.push(Saw::Failed { answer });
                }
            }
            histories.extend(client.sent);
        }
        Report { sent: histories.len(), violations: history::check(&histories), latency_us }
    }
}

impl Report {
    /// Every request was answered, correctly, once, and its answer stayed.
    ///
    /// # Panics
    /// When one was not.
    pub fn assert_flawless(&self) {
        assert!(self.sent > 0, "nothing was sent");
        let found: Vec<_> = self.violations.kinds().map(|(what, all)| format!("{} {what}", all.len())).into();
        let first: Vec<_> = self.violations.kinds().iter().flat_map(|(_, all)| all.iter().take(8)).collect();
        assert!(self.violations.is_empty(), "of {} requests {}: {first:#?}", self.sent, found.join(", "));
    }

    /// The slowest answer.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.latency_us.max())
    }
}

/// One loop, and all that it saw.
struct Client {
    url: String,
    http: reqwest::Client,
    mix: Mix,
    load: u64,
    sent: Vec<History>,
}

impl Client {
    /// Asks until there is an answer, under one key, as a careful client does.
    async fn ask(&mut self, n: u64) {
        let (expression, expected) = self.mix.request(n);
        let key = format!("load-{}-{n}", self.load);
        let mut history = History { expression, expected: expected.to_string(), saw: Vec::new() };
        let since = Instant::now();
        while since.elapsed() < PATIENCE && !self.ask_once(&key, &mut history).await {
            // While the platform is in trouble, what was answered before is worth a look.
            self.read_back().await;
            tokio::time::sleep(AGAIN).await;
        }
        self.sent.push(history);
    }

    /// Whether there was an answer that asking again would not change.
    async fn ask_once(&self, key: &str, history: &mut History) -> bool {
        history.saw.push(Saw::Submitted);
        let request = self
            .http
            .post(format!("{}/v1/expressions?wait=10", self.url))
            .header("idempotency-key", key)
            .json(&json!({ "expression": history.expression }));
        let saw = seen(request).await;
        let is_last = matches!(saw, Some(Saw::Result { .. } | Saw::Failed { .. } | Saw::Absent { .. }));
        history.saw.extend(saw);
        is_last
    }

    /// Reads one of the answers again, whichever.
    async fn read_back(&mut self) {
        if let Some(last) = self.sent.len().checked_sub(1) {
            let nth = Random::new(self.sent[last].saw.len() as u64 ^ last as u64).below(last as u64 + 1);
            self.read(usize::try_from(nth).expect("is an index"), Duration::ZERO).await;
        }
    }

    /// Reads the record of a request that is known to be one; says whether that was possible within so long.
    async fn read(&mut self, nth: usize, patience: Duration) -> bool {
        let known = self.sent[nth].saw.iter().find_map(|saw| match saw {
            Saw::Accepted { id } | Saw::Result { id, .. } => Some(id),
            _ => None,
        });
        let Some(id) = known else { return true };
        let url = format!("{}/v1/expressions/{id}", self.url);
        let since = Instant::now();
        loop {
            if let Some(saw) = seen(self.http.get(&url)).await {
                self.sent[nth].saw.push(saw);
                return true;
            }
            if since.elapsed() >= patience {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What a client sees in an answer; nothing when there is none, or none now.
async fn seen(request: reqwest::RequestBuilder) -> Option<Saw> {
    let answer = request.send().await.ok()?;
    let (status, path) = (answer.status().as_u16(), answer.url().path().to_owned());
    let text = answer.text().await.ok()?;
    let body: Value = serde_json::from_str(&text).ok()?;
    let id = body["id"].as_str().map(str::to_owned);
    Some(match (status, id, body["result"].as_str()) {
        // It can't be answered now.
        (429 | 503, ..) => return None,
        (200, Some(id), Some(result)) => Saw::Result { id, result: result.into() },
        (200 | 202, Some(id), None) if body["status"] == "accepted" => Saw::Accepted { id },
        (404 | 410, ..) => Saw::Absent { id: path },
        _ => Saw::Failed { answer: format!("{status}: {text}") },
    })
}
