//! A closed loop of requests whose every answer is checked.

use crate::{PATIENCE, Platform, Random};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

/// How long one who was refused or cut off waits before it asks again.
const AGAIN: Duration = Duration::from_millis(20);

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
    loops: JoinSet<Vec<Sent>>,
    url: String,
    http: reqwest::Client,
}

/// One request's fate.
#[derive(Clone, Debug)]
struct Sent {
    expression: String,
    expected: i64,
    /// Each id under which it was accepted: one, or something is wrong.
    ids: Vec<String>,
    /// The record as it was first read.
    answer: Option<Value>,
    latency: Duration,
}

/// What became of all requests.
#[derive(Debug)]
pub struct Report {
    /// Requests that were sent.
    pub sent: usize,
    /// Requests that had no answer in time, or an answer other than a result.
    pub lost: Vec<String>,
    /// Requests that were accepted under two ids, ids that two requests got, and records that read
    /// differently later.
    pub duplicated: Vec<String>,
    /// Requests whose result is not their value.
    pub wrong: Vec<String>,
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
            let client = Client { url: url.to_owned(), http: http.clone(), mix, load };
            loops.spawn(async move {
                let mut sent = Vec::new();
                for n in (first..).step_by(usize::try_from(outstanding).expect("came from one")) {
                    if *stopped.borrow() {
                        break;
                    }
                    sent.push(client.ask(n).await);
                    count.send_modify(|answered| *answered += 1);
                }
                sent
            });
        }
        Self { stop, answered, loops, url: url.to_owned(), http }
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

    /// Stops asking, waits for what is outstanding, and reads every record once more.
    ///
    /// # Panics
    /// When the harness itself fails.
    pub async fn finish(mut self) -> Report {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        while let Some(sent) = self.loops.join_next().await {
            all.extend(sent.expect("a loop does not panic"));
        }
        let mut report = Report {
            sent: all.len(),
            lost: Vec::new(),
            duplicated: Vec::new(),
            wrong: Vec::new(),
            latency_us: Histogram::new(3).expect("three digits are allowed"),
        };
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for sent in &all {
            report.judge(sent);
            for id in &sent.ids {
                if let Some(other) = seen.insert(id, &sent.expression) {
                    report.duplicated.push(format!("{id} is {other} and {}", sent.expression));
                }
            }
        }
        for sent in &all {
            if let (Some(answer), Some(id)) = (&sent.answer, sent.ids.first()) {
                let again = read(&self.http, &self.url, id).await;
                if again.as_ref().map(|a| &a["result"]) != Some(&answer["result"]) {
                    report.duplicated.push(format!("{id} was {answer} and later {again:?}"));
                }
            }
        }
        report
    }
}

impl Report {
    fn judge(&mut self, sent: &Sent) {
        let micros = u64::try_from(sent.latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.record(micros).expect("it grows as it has to");
        if sent.ids.len() > 1 {
            self.duplicated.push(format!("{} is {:?}", sent.expression, sent.ids));
        }
        match sent.answer.as_ref().and_then(|answer| answer["result"].as_str()) {
            Some(result) if result == sent.expected.to_string() => {}
            Some(result) => {
                self.wrong.push(format!("{} = {}, not {result}", sent.expression, sent.expected));
            }
            None => self.lost.push(format!("{}: {:?}", sent.expression, sent.answer)),
        }
    }

    /// Every request was answered, correctly, once.
    ///
    /// # Panics
    /// When one was not.
    pub fn assert_flawless(&self) {
        assert!(self.sent > 0, "nothing was sent");
        assert!(
            self.lost.is_empty() && self.duplicated.is_empty() && self.wrong.is_empty(),
            "of {} requests {} are lost, {} duplicated, {} wrong: {:#?}",
            self.sent,
            self.lost.len(),
            self.duplicated.len(),
            self.wrong.len(),
            [&self.lost, &self.duplicated, &self.wrong].into_iter().flatten().take(20).collect::<Vec<_>>(),
        );
    }

    /// The slowest answer.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.latency_us.max())
    }
}

struct Client {
    url: String,
    http: reqwest::Client,
    mix: Mix,
    load: u64,
}

impl Client {
    /// Asks until there is an answer, under one key, as a careful client does.
    async fn ask(&self, n: u64) -> Sent {
        let (expression, expected) = self.mix.request(n);
        let mut sent =
            Sent { expression, expected, ids: Vec::new(), answer: None, latency: Duration::default() };
        let key = format!("load-{}-{n}", self.load);
        let since = Instant::now();
        while since.elapsed() < PATIENCE && sent.answer.is_none() {
            if !self.ask_once(&key, &mut sent).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
        sent.latency = since.elapsed();
        sent
    }

    /// Whether there was an answer, if only that there will be one.
    async fn ask_once(&self, key: &str, sent: &mut Sent) -> bool {
        let body = json!({ "expression": sent.expression }).to_string();
        let request = self
            .http
            .post(format!("{}/v1/expressions?wait=10", self.url))
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .body(body);
        let Ok(answer) = request.send().await else { return false };
        let status = answer.status().as_u16();
        let Ok(text) = answer.text().await else { return false };
        let Ok(answer) = serde_json::from_str::<Value>(&text) else { return false };
        if let Some(id) = answer["id"].as_str()
            && !sent.ids.iter().any(|known| known == id)
        {
            sent.ids.push(id.to_owned());
        }
        match status {
            202 => true,
            503 => false,
            // A result, or an error that asking again would not change.
            _ => {
                sent.answer = Some(answer);
                true
            }
        }
    }
}

/// A record, however often one has to ask.
async fn read(http: &reqwest::Client, url: &str, id: &str) -> Option<Value> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Ok(answer) = http.get(format!("{url}/v1/expressions/{id}")).send().await
            && answer.status().as_u16() != 503
            && let Ok(text) = answer.text().await
        {
            return serde_json::from_str(&text).ok();
        }
        tokio::time::sleep(AGAIN).await;
    }
    None
}
