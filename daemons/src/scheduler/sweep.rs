//! Looks for requests that nobody works on, and removes what has expired.

use super::core::Event;
use crate::{config::Timeouts, engine::Engine, queue::QueueName};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

const EVERY: Duration = Duration::from_secs(5);
/// Requests that one sweep sends again, and records that it removes.
const OVERDUE: usize = 100;
const EXPIRED: usize = 500;
/// A request that was sent again is not sent once more before this.
const AGAIN: Duration = Duration::from_secs(30);

/// Sweeps for ever.
pub(super) async fn run(engine: Arc<dyn Engine>, timeouts: Timeouts, events: mpsc::Sender<Event>) {
    let mut sent: HashMap<Uuid, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = Instant::now();
        sent.retain(|_, at| now < *at + AGAIN);
        match overdue(&*engine, &timeouts).await {
            Ok(mut ids) => {
                ids.retain(|id| !sent.contains_key(id));
                sent.extend(ids.iter().map(|id| (*id, now)));
                if !ids.is_empty() && events.send(Event::Overdue(ids)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "overdue requests can't be looked for"),
        }
        if let Err(error) = engine.records().expire(EXPIRED).await {
            tracing::warn!(%error, "expired records were not removed");
        }
    }
}

/// A request is overdue when it has waited longer than a lost lease explains. As long as inbound has
/// messages waiting its own is probably among them; past the deadline it is sent again in any case.
async fn overdue(engine: &dyn Engine, timeouts: &Timeouts) -> Result<Vec<Uuid>, crate::engine::StepError> {
    let waiting = engine.queue(&QueueName::inbound()).await?.depth().await?.waiting;
    let age = if waiting == 0 { (timeouts.lease * 5).max(Duration::from_secs(10)) } else { timeouts.request };
    Ok(engine.records().overdue(age, OVERDUE).await?)
}
