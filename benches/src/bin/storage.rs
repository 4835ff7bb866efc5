//! How fast the embedded engine accepts and concludes requests, for each durability.

use clap::{Parser, value_parser};
use hdrhistogram::Histogram;
use quorate::{
    config::Durability,
    engine::{Conclusion, Engine},
    queue::QueueName,
    records::{Finished, NewRecord, Outcome, Request},
    sqlite::SqliteEngine,
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;

/// How fast the embedded engine accepts and concludes requests, for each durability
#[derive(Parser)]
struct Arguments {
    /// How long each row is measured
    #[arg(default_value_t = 3, value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many requests are under way at once in the rows with the most
    #[arg(default_value_t = 64, value_parser = value_parser!(u64).range(1..=1 << 16))]
    outstanding: u64,
}

#[tokio::main]
async fn main() {
    let Arguments { seconds, outstanding } = Arguments::parse();
    println!(
        "what                       durability  outstanding    per second   p10 µs   p50 µs   p99 µs   max µs"
    );
    for durability in [Durability::Process, Durability::Disk] {
        for (what, outstanding) in
            [("accept", 1), ("accept", outstanding), ("accept+conclude", 1), ("accept+conclude", outstanding)]
        {
            let figures = measure(durability, what, outstanding, Duration::from_secs(seconds)).await;
            println!(
                "{what:26} {:10}  {outstanding:11} {:13.0} {:8} {:8} {:8} {:8}",
                format!("{durability:?}").to_lowercase(),
                figures.len() as f64 / Duration::from_secs(seconds).as_secs_f64(),
                figures.value_at_quantile(0.1),
                figures.value_at_quantile(0.5),
                figures.value_at_quantile(0.99),
                figures.max(),
            );
        }
    }
}

/// Each client accepts a request and, when asked to, takes it from inbound, concludes it, and takes the
/// announcement from outbound, as gateway and scheduler do.
async fn measure(durability: Durability, what: &str, clients: u64, time: Duration) -> Histogram<u64> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = SqliteEngine::open(&folder.path().join("quorate.db"), durability).expect("it opens");
    let conclude = what == "accept+conclude";
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for client in 0..clients {
        let engine = Arc::clone(&engine);
        running.spawn(async move {
            let mut figures = Histogram::<u64>::new(3).expect("three digits");
            while Instant::now() < end {
                let start = Instant::now();
                request(&*engine, client, conclude).await;
                figures
                    .record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
                    .expect("it grows");
            }
            figures
        });
    }
    let mut figures = Histogram::new(3).expect("three digits");
    while let Some(of_one) = running.join_next().await {
        figures.add(of_one.expect("no client panics")).expect("the same bounds");
    }
    figures
}

async fn request(engine: &dyn Engine, client: u64, conclude: bool) {
    const LEASE: Duration = Duration::from_secs(2);
    const WAIT: Duration = Duration::from_secs(5);
    let inbound = engine.queue(&QueueName::inbound()).await.expect("inbound");
    let outbound = engine.queue(&QueueName::outbound(&client.to_string())).await.expect("outbound");
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let now_ms = u64::try_from(now_ms).expect("before the year 500,000,000");
    let id = uuid::Uuid::now_v7();
    let record = NewRecord {
        id,
        request: Request {
            expression: "((3+5)*(4/2))".into(),
            parameters: [].into(),
            digits: None,
            receipt: false,
        },
        deadline_ms: now_ms + 60_000,
        expires_ms: now_ms + 3_600_000,
    };
    let message = format!(r#"{{"id":"{id}","reply_to":"{}"}}"#, outbound.name());
    engine.accept(record, &*inbound, message.into()).await.expect("accepted");
    if !conclude {
        return;
    }
    // Any client may get any client's request; it answers on its own outbound queue all the same.
    let got = inbound.receive(1, LEASE, WAIT).await.expect("received");
    let message: serde_json::Value = serde_json::from_slice(&got[0].body).expect("JSON");
    let id = message["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let outcome = Outcome { result: Ok("16".into()), nodes: 3, elapsed_ms: 1.5, timeline: Vec::new() };
    let end = Conclusion {
        id,
        outcome,
        receipt: None,
        outbound: &*outbound,
        announcement: format!(r#"{{"id":"{id}"}}"#).into(),
        inbound: &*inbound,
        handle: &got[0].handle,
    };
    assert_eq!(engine.conclude(end).await.expect("concluded"), Finished::First);
    let got = outbound.receive(1, LEASE, WAIT).await.expect("told");
    outbound.delete(&[got[0].handle.clone()]).await.expect("deleted");
}
