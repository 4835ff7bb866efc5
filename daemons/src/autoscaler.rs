//! The autoscaler: samples every layer, asks the policy, tells the cluster service.
//!
//! What arrives and is answered comes from the schedulers, what waits from the layer queues, what runs
//! from the sets' records. The decision is `quorate_scaler`'s; nothing here is clever.

mod layer;
mod totals;

use crate::{
    config::Config,
    engine::Engine,
    proto::{SamplesRequest, ScaleRequest, cluster_client::ClusterClient, scheduler_client::SchedulerClient},
    queue::QueueName,
    scheduler::ahead,
    set::{DAEMONS, DESIRED, DaemonRecord, SETS, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::StoreError,
    tls::Role,
    wires::Wires,
};
use layer::Layer;
use quorate_dag::Function;
use quorate_scaler::{Expected, InvalidLimits, Observation, Seconds};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tonic::transport::Channel;
use totals::{Sample, Totals};

/// Between two looks at a layer.
const TICK: Duration = Duration::from_secs(1);

/// Between two times at which what the policies remember is kept for another leader.
const KEEP: Duration = Duration::from_secs(60);

/// How long a scheduler or the cluster service may take to answer; a sample that is missing is invalid.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why the autoscaler ended.
#[derive(Debug, thiserror::Error)]
pub enum AutoscalerError {
    /// A function's bounds contradict each other.
    #[error("the bounds of function {function} can't be used: {source}")]
    Limits {
        /// The function.
        function: Function,
        /// Why.
        source: InvalidLimits,
    },
}

/// Runs until shutdown.
///
/// # Errors
/// When the configuration contradicts itself.
pub async fn run(
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    wires: Wires,
    mut shutdown: Shutdown,
) -> Result<(), AutoscalerError> {
    layer::describe();
    let mut layers = Vec::new();
    for function in Function::ALL {
        layers.push(Layer::new(function, config.functions.of(function))?);
    }
    let mut autoscaler = Autoscaler { engine, wires, totals: Totals::default(), channels: HashMap::new() };
    autoscaler.recall(&mut layers).await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut kept = Instant::now();
    loop {
        tokio::select! {
            () = shutdown::requested(&mut shutdown) => {
                autoscaler.keep(&layers).await;
                return Ok(());
            }
            _ = tick.tick() => {}
        }
        let samples = autoscaler.samples().await;
        for layer in &mut layers {
            autoscaler.look(layer, samples.as_ref()).await;
        }
        if kept.elapsed() >= KEEP {
            autoscaler.keep(&layers).await;
            kept = Instant::now();
        }
    }
}

/// A function's pods.
#[derive(Default)]
struct Pods {
    ready: u32,
    draining: u32,
    /// The last order.
    desired: u32,
    /// Those that were not known to have begun.
    started: u32,
    /// From their orders until they had, summed.
    start_time: Seconds,
}

struct Autoscaler {
    engine: Arc<dyn Engine>,
    wires: Wires,
    /// What schedulers told last.
    totals: Totals,
    /// Connections by address.
    channels: HashMap<String, Channel>,
}

impl Autoscaler {
    /// One tick of one layer.
    async fn look(&mut self, layer: &mut Layer, samples: Option<&HashMap<String, Sample>>) {
        let observation = self.observe(layer, samples).await;
        let (function, key, current) = (layer.function, layer.key(), observation.current());
        let (ruling, news) = layer.decide(&observation);
        let desired = ruling.after.desired;
        let reason = ruling.after.reason.as_str();
        if let Some(status) = news {
            if desired != current {
                tracing::info!(
                    %function, policy = status.policy, waiting = status.waiting, observed = status.observed,
                    forecast = status.forecast, current, wanted = status.wanted,
                    why_wanted = %ruling.before.reason, desired, reason, "scaling"
                );
            }
            let status = serde_json::to_vec(status).expect("plain data");
            if let Err(error) = self.engine.store().put(&key, status.into(), None).await {
                tracing::debug!(%function, %error, "nobody can read how it is scaled");
            }
        }
        if desired != current
            && let Err(error) = self.scale(function, desired, !observation.valid, reason).await
        {
            tracing::warn!(%function, %error, "the cluster service was not told");
        }
    }

    /// Takes up what the policies remembered when somebody else led. Without it they begin anew.
    async fn recall(&self, layers: &mut [Layer]) {
        for layer in layers {
            match self.engine.store().get(&layer.state_key()).await {
                Ok(Some(entry)) => match serde_json::from_slice(&entry.value) {
                    Ok(state) => layer.restore(state),
                    // Of another version.
                    Err(error) => {
                        tracing::info!(function = %layer.function, %error, "its policy begins anew")
                    }
                },
                Ok(None) => {}
                Err(error) => tracing::warn!(function = %layer.function, %error, "its policy begins anew"),
            }
        }
    }

    async fn keep(&self, layers: &[Layer]) {
        for layer in layers {
            let state = serde_json::to_vec(&layer.state()).expect("plain data");
            if let Err(error) = self.engine.store().put(&layer.state_key(), state.into(), None).await {
                tracing::debug!(function = %layer.function, %error, "what its policy remembers was not kept");
            }
        }
    }

    /// What all schedulers have done by function; `None` when one of them did not answer.
    async fn samples(&mut self) -> Option<HashMap<String, Sample>> {
        let mut told = HashMap::new();
        for address in self.addresses("scheduler").await.ok()? {
            let mut client = SchedulerClient::new(self.channel(&address)?);
            let answer =
                tokio::time::timeout(PATIENCE, client.samples(SamplesRequest {})).await.ok()?.ok()?;
            told.insert(address, answer.into_inner().functions);
        }
        Some(self.totals.since(told))
    }

    async fn observe(&self, layer: &mut Layer, samples: Option<&HashMap<String, Sample>>) -> Observation {
        let mut observation = Observation {
            now: wall_clock(),
            slots_per_pod: layer.slots,
            valid: false,
            ..Observation::default()
        };
        let pods = self.pods(layer).await;
        let depth = match self.engine.queue(&QueueName::layer(layer.function)).await {
            Ok(queue) => queue.depth().await.ok(),
            Err(_) => None,
        };
        let Ok(Pods { ready, draining, desired, started, start_time }) = pods else { return observation };
        (observation.started, observation.start_time) = (started, start_time);
        // Ready and starting together are the last order: what it still lacks is starting, so that an
        // order is not given twice, and what is beyond it is as good as draining.
        observation.ready = ready.min(desired);
        observation.starting = desired.saturating_sub(ready);
        observation.draining = draining + ready.saturating_sub(desired);
        if let Some(samples) = samples {
            let sample = samples.get(layer.function.name()).cloned().unwrap_or_default();
            // What was told at looks that saw only a part counts as well.
            layer.unseen = layer.unseen.and(&sample);
        }
        if let (Some(depth), Some(_)) = (depth, samples) {
            let sample = std::mem::take(&mut layer.unseen);
            observation.arrivals = sample.arrivals;
            observation.completions = sample.completions;
            observation.service_time = Seconds::from_micros(sample.service_us);
            observation.response_time = Seconds::from_micros(sample.response_us);
            // What the schedulers hold because there is no worker at all waits as much as what they put
            // on the layer.
            observation.waiting = depth.waiting.max(sample.held);
            observation.oldest_wait = Seconds::from(depth.oldest.unwrap_or_default());
            observation.in_service = sample.in_service;
            observation.busy_time = observation.service_time;
            observation.in_system_time = observation.response_time;
            let width = Seconds::from(ahead::WIDTH);
            observation.expected = Expected::new(width);
            for (bin, nodes) in (0..).zip(&sample.ahead) {
                let due_in = Seconds::from_micros(bin * width.as_micros());
                observation.expected.add(due_in, *nodes);
            }
            observation.valid = true;
        }
        observation
    }

    async fn pods(&self, layer: &mut Layer) -> Result<Pods, StoreError> {
        let (entries, _) = self.engine.store().list(&format!("{SETS}{}-", layer.function.name())).await?;
        let sets = entries.iter().filter_map(|entry| serde_json::from_slice::<SetRecord>(&entry.value).ok());
        let mut pods = Pods::default();
        let mut begun = HashSet::new();
        for set in sets {
            match set.state {
                SetState::Ready => pods.ready += 1,
                SetState::Draining => pods.draining += 1,
                SetState::Starting | SetState::Paused => {}
            }
            let Some(start_ms) = set.start_ms else { continue };
            let life = (set.name, set.ordered_ms);
            if !layer.begun.contains(&life) {
                pods.started += 1;
                let took = Seconds::from(Duration::from_millis(start_ms));
                pods.start_time = pods.start_time.saturating_add(took);
            }
            begun.insert(life);
        }
        layer.begun = begun;
        let order = self.engine.store().get(&format!("{DESIRED}{}", layer.function.name())).await?;
        let order = order.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok());
        pods.desired = order.unwrap_or(0);
        Ok(pods)
    }

    /// Orders pods; after a sample that failed only ever more, because what is there is not known.
    async fn scale(
        &mut self,
        function: Function,
        desired: u32,
        at_least: bool,
        reason: &str,
    ) -> Result<(), tonic::Status> {
        let gone = || tonic::Status::unavailable("no cluster service has announced itself");
        let addresses =
            self.addresses("cluster").await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let channel = addresses.first().and_then(|address| self.channel(address)).ok_or_else(gone)?;
        let request =
            ScaleRequest { function: function.name().into(), desired, at_least, reason: reason.into() };
        tokio::time::timeout(PATIENCE, ClusterClient::new(channel).scale(request))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("the cluster service did not answer in time"))??;
        Ok(())
    }

    async fn addresses(&self, daemon: &str) -> Result<Vec<String>, StoreError> {
        let (entries, _) = self.engine.store().list(&format!("{DAEMONS}{daemon}/")).await?;
        Ok(entries
            .iter()
            .filter_map(|entry| serde_json::from_slice::<DaemonRecord>(&entry.value).ok()?.address)
            .collect())
    }

    fn channel(&mut self, address: &str) -> Option<Channel> {
        if let Some(channel) = self.channels.get(address) {
            return Some(channel.clone());
        }
        // Schedulers come and go with new ports; what is kept is bounded by starting anew.
        if self.channels.len() > 64 {
            self.channels.clear();
        }
        let channel = self.wires.channel(address, Role::Control.name(), PATIENCE).ok()?;
        self.channels.insert(address.into(), channel.clone());
        Some(channel)
    }
}

/// Seconds since 1970: an origin that every leader shares.
fn wall_clock() -> Seconds {
    Seconds::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
