//! The client process: a closed or an open loop of operations, and their latencies.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use quorate_pbft::{
    ClientId, ClientSettings, Incarnation,
    runtime::{Client, ClientFailed, Link, LinkSetup},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout_at},
};

use crate::{Outcome, group, process::seed, report::Row};

/// How long an operation may take before the benchmark fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longer latencies count as this one, in microseconds.
const LATENCY_MAX: u64 = 60_000_000;

/// What a client process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    /// Of each client, in a closed loop.
    pub(crate) outstanding: usize,
    pub(crate) request_bytes: usize,
    pub(crate) seconds: f64,
    /// Operations in a second of an open loop; none means a closed one.
    pub(crate) rate: Option<f64>,
    /// Each client has connections of its own.
    pub(crate) connections: bool,
    /// There is a faulty member: what it does is to be found first, so the warm-up is longer.
    pub(crate) patient: bool,
}

/// What the client process tells at the end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    gap_us: u64,
}

impl Measured {
    /// The row of what was measured.
    pub(crate) fn row(&self, name: &str, load: &Load) -> Row {
        Row {
            name: name.to_owned(),
            clients: load.clients,
            outstanding: Some(load.outstanding),
            request_bytes: load.request_bytes,
            ops_per_s: self.operations as f64 / self.seconds,
            p50_us: self.p50_us,
            p99_us: self.p99_us,
            gap_ms: Some(self.gap_us as f64 / 1e3),
            ..Row::default()
        }
    }
}

/// Counts what was answered between two instants.
pub(crate) struct Meter {
    begin: Instant,
    end: Instant,
    latencies: Histogram<u64>,
    last: Cell<Instant>,
    gap: Cell<Duration>,
    /// What was due before the end counts whenever it is answered.
    open: bool,
}

impl Meter {
    pub(crate) fn new(begin: Instant, end: Instant) -> Outcome<Self> {
        let (last, gap) = (Cell::new(begin), Cell::default());
        Ok(Self { begin, end, latencies: Histogram::new_with_max(LATENCY_MAX, 3)?, last, gap, open: false })
    }

    /// An operation that was due at `due` has been answered now.
    pub(crate) fn record(&mut self, due: Instant) -> Instant {
        let now = Instant::now();
        if due >= self.begin && due < self.end && (self.open || now <= self.end) {
            let micros = u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros);
            self.gap.set(self.gap.get().max(now.saturating_duration_since(self.last.replace(now))));
        }
        now
    }

    pub(crate) fn measured(&self) -> Measured {
        let gap = self.gap.get().max(self.end.saturating_duration_since(self.last.get()));
        Measured {
            operations: self.latencies.len(),
            seconds: (self.end - self.begin).as_secs_f64(),
            p50_us: self.latencies.value_at_quantile(0.5),
            p99_us: self.latencies.value_at_quantile(0.99),
            gap_us: u64::try_from(gap.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Says when the measured time begins and ends.
pub(crate) async fn signal(begin: Instant, end: Instant) {
    sleep_until(begin.into()).await;
    println!("begin");
    sleep_until(end.into()).await;
    println!("end");
}

/// A client's process.
pub(crate) fn client(directory: &Path, load: &Load) -> Outcome<()> {
    let clients = connect(directory, load)?;
    let operation = Bytes::from(vec![7; load.request_bytes]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        clients[0].invoke(operation.clone()).await?;
        println!("first reply");
        let measured = Duration::from_secs_f64(load.seconds);
        let warm_up =
            if load.patient { Duration::from_secs(3) } else { measured.min(Duration::from_secs(1)) };
        let begin = Instant::now() + warm_up;
        let end = begin + measured;
        let mut meter = Meter { open: load.rate.is_some(), ..Meter::new(begin, end)? };
        let work = async {
            match load.rate {
                None => closed(&clients, load.outstanding, &operation, &mut meter).await,
                Some(rate) => open(&clients, rate, &operation, &mut meter).await,
            }
        };
        let late = end + Duration::from_secs(5);
        let ((), done) = tokio::join!(signal(begin, end), timeout_at(late.into(), work));
        done.unwrap_or(Ok(()))?; // a group that stands still answers nothing more
        println!("{}", serde_json::to_string(&meter.measured())?);
        Ok(())
    })
}

fn connect(directory: &Path, load: &Load) -> Outcome<Vec<Client>> {
    let configuration = group::configuration(directory)?;
    let (_book, peers) = watch::channel(group::read_book()?);
    let setup = || {
        let (transport, configuration, peers) = (Default::default(), configuration.clone(), peers.clone());
        Outcome::Ok(LinkSetup { configuration, peers, seed: seed()?, transport })
    };
    let shared = Link::connect(setup()?)?;
    let client = |index: usize| {
        let id = ClientId(u32::try_from(index)?);
        let identity = group::client_identity(directory, index)?;
        let link = if load.connections && index > 0 { shared.beside(setup()?)? } else { shared.clone() };
        Ok(link.client(id, identity, Incarnation(1), ClientSettings::default(), DEADLINE)?)
    };
    (0..load.clients).map(client).collect()
}

/// Each client keeps its number of operations under way. All of them are one task, as the answers to
/// many come together.
async fn closed(
    clients: &[Client],
    outstanding: usize,
    operation: &Bytes,
    meter: &mut Meter,
) -> Result<(), ClientFailed> {
    let invoke = |client: &Client, due: Instant| {
        let (client, operation) = (client.clone(), operation.clone());
        async move { client.invoke(operation).await.map(|_| (client, due)) }
    };
    let mut now = Instant::now();
    let all = clients.iter().flat_map(|client| std::iter::repeat_n(client, outstanding));
    let mut under_way: FuturesUnordered<_> = all.map(|client| invoke(client, now)).collect();
    while let Some(answered) = under_way.next().await {
        let (client, due) = answered?;
        now = meter.record(due);
        if now < meter.end {
            under_way.push(invoke(&client, now));
        }
    }
    Ok(())
}

/// Operations come at a fixed rate, whatever happens to those before. A latency counts from when the
/// operation was due and not from when it was sent, so that a stall counts for all that it delayed:
/// that is what correcting a histogram for coordinated omission estimates.
async fn open(
    clients: &[Client],
    rate: f64,
    operation: &Bytes,
    meter: &mut Meter,
) -> Result<(), ClientFailed> {
    let (due_in, mut due) = mpsc::unbounded_channel();
    let end = meter.end;
    // The runtime's timers have a resolution of a millisecond.
    let clock = std::thread::spawn(move || {
        let (start, mut count) = (Instant::now(), 0u64);
        while start + Duration::from_secs_f64(count as f64 / rate) < end {
            let next = start + Duration::from_secs_f64(count as f64 / rate);
            std::thread::sleep(next.saturating_duration_since(Instant::now()).max(Duration::from_micros(50)));
            let now = Instant::now().min(end);
            let mut next = next;
            while next <= now {
                if due_in.send(next).is_err() {
                    return;
                }
                count += 1;
                next = start + Duration::from_secs_f64(count as f64 / rate);
            }
        }
    });
    let mut turns = clients.iter().cycle();
    let mut under_way = FuturesUnordered::new();
    let mut coming = true;
    while coming || !under_way.is_empty() {
        tokio::select! {
            biased;
            Some(answered) = under_way.next(), if !under_way.is_empty() => {
                let due: Result<Instant, ClientFailed> = answered;
                meter.record(due?);
            }
            arrived = due.recv(), if coming => match arrived {
                None => coming = false,
                Some(due) => if let Some(client) = turns.next() {
                    let operation = operation.clone();
                    under_way.push(async move { client.invoke(operation).await.map(|_| due) });
                }
            },
        }
    }
    clock.join().expect("the clock doesn't panic");
    Ok(())
}
