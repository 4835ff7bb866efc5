//! The autoscaler: samples every layer, asks the policy, tells the cluster service.
//!
//! What arrives and is answered comes from the schedulers, what waits from the layer queues, what runs
//! from the sets' records. The decision is `quorate_scaler`'s; nothing here is clever.

use crate::{
    config::{Config, FunctionConfig},
    engine::Engine,
    proto::{
        self, SamplesRequest, ScaleRequest, cluster_client::ClusterClient, scheduler_client::SchedulerClient,
    },
    queue::QueueName,
    set::{DAEMONS, DESIRED, DaemonRecord, SETS, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::StoreError,
    tls::Role,
    wires::Wires,
};
use quorate_dag::Function;
use quorate_scaler::{
    InvalidLimits, Limited, Limits, Observation, Seconds,
    policy::{Threshold, ThresholdSettings},
};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::transport::Channel;

/// Between two looks at a layer.
const TICK: Duration = Duration::from_secs(1);

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
    let mut layers = Vec::new();
    for function in Function::ALL {
        layers.push(Layer::new(function, config.functions.of(function))?);
    }
    let mut autoscaler = Autoscaler { engine, wires, channels: HashMap::new() };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown::requested(&mut shutdown) => return Ok(()),
            _ = tick.tick() => {}
        }
        let samples = autoscaler.samples().await;
        for layer in &mut layers {
            let observation = autoscaler.observe(layer, samples.as_ref()).await;
            let current = observation.current();
            let ruling = layer.policy.tick(&observation);
            let desired = ruling.after.desired;
            layer.publish(&observation, desired);
            if desired != current {
                let reason = ruling.after.reason.as_str();
                tracing::info!(
                    function = %layer.function, observed = observation.waiting, current, desired, reason,
                    before_limits = ruling.before.desired, "scaling"
                );
                if let Err(error) =
                    autoscaler.scale(layer.function, desired, !observation.valid, reason).await
                {
                    tracing::warn!(function = %layer.function, %error, "the cluster service was not told");
                }
            }
        }
    }
}

struct Layer {
    function: Function,
    policy: Limited<Threshold>,
    slots: NonZeroU32,
    /// Totals at the last tick, to take differences from.
    before: proto::FunctionSample,
}

impl Layer {
    fn new(function: Function, config: &FunctionConfig) -> Result<Self, AutoscalerError> {
        let settings = ThresholdSettings {
            waiting_max: config.threshold.into(),
            pods_min: config.pods_min,
            tick: Seconds::from(TICK),
            ..ThresholdSettings::default()
        };
        let limits = Limits {
            pods_min: config.pods_min,
            pods_max: config.pods_max,
            keep_alive: Seconds::from(config.keep_alive),
            ..Limits::default()
        };
        let policy = Limited::new(Threshold::new(settings), limits)
            .map_err(|source| AutoscalerError::Limits { function, source })?;
        let slots = NonZeroU32::new(config.slots).unwrap_or(NonZeroU32::MIN);
        Ok(Self { function, policy, slots, before: proto::FunctionSample::default() })
    }

    fn publish(&self, observation: &Observation, desired: u32) {
        let name = self.function.name();
        metrics::gauge!("quorate_pods_desired", "function" => name).set(desired);
        metrics::gauge!("quorate_pods_ready", "function" => name).set(observation.ready);
        #[expect(clippy::cast_precision_loss, reason = "a gauge; a depth over 2^53 does not occur")]
        metrics::gauge!("quorate_layer_depth", "function" => name).set(observation.waiting as f64);
    }
}

struct Autoscaler {
    engine: Arc<dyn Engine>,
    wires: Wires,
    /// Connections by address.
    channels: HashMap<String, Channel>,
}

impl Autoscaler {
    /// The totals of all schedulers by function; `None` when one of them did not answer.
    async fn samples(&mut self) -> Option<HashMap<String, proto::FunctionSample>> {
        let mut sums: HashMap<String, proto::FunctionSample> = HashMap::new();
        for address in self.addresses("scheduler").await.ok()? {
            let mut client = SchedulerClient::new(self.channel(&address)?);
            let answer =
                tokio::time::timeout(PATIENCE, client.samples(SamplesRequest {})).await.ok()?.ok()?;
            for sample in answer.into_inner().functions {
                let sum = sums.entry(sample.function.clone()).or_default();
                sum.arrivals += sample.arrivals;
                sum.completions += sample.completions;
                sum.in_service += sample.in_service;
                sum.service_us += sample.service_us;
                sum.response_us += sample.response_us;
            }
        }
        Some(sums)
    }

    async fn observe(
        &self,
        layer: &mut Layer,
        samples: Option<&HashMap<String, proto::FunctionSample>>,
    ) -> Observation {
        let mut observation = Observation {
            now: wall_clock(),
            slots_per_pod: layer.slots,
            valid: false,
            ..Observation::default()
        };
        let pods = self.pods(layer.function).await;
        let depth = match self.engine.queue(&QueueName::layer(layer.function)).await {
            Ok(queue) => queue.depth().await.ok(),
            Err(_) => None,
        };
        let Ok((ready, draining, desired)) = pods else { return observation };
        // Ready and starting together are the last order: what it still lacks is starting, so that an
        // order is not given twice, and what is beyond it is as good as draining.
        observation.ready = ready.min(desired);
        observation.starting = desired.saturating_sub(ready);
        observation.draining = draining + ready.saturating_sub(desired);
        if let (Some(depth), Some(samples)) = (depth, samples) {
            let now = samples.get(layer.function.name()).cloned().unwrap_or_default();
            // A scheduler that started again counts from zero: that is no negative arrival.
            observation.arrivals = now.arrivals.saturating_sub(layer.before.arrivals);
            observation.completions = now.completions.saturating_sub(layer.before.completions);
            observation.service_time =
                Seconds::from_micros(now.service_us.saturating_sub(layer.before.service_us));
            observation.response_time =
                Seconds::from_micros(now.response_us.saturating_sub(layer.before.response_us));
            // What the schedulers hold because there is no worker at all waits as much as what they put
            // on the layer.
            let held = now.arrivals.saturating_sub(now.completions).saturating_sub(now.in_service.into());
            observation.waiting = depth.waiting.max(held);
            observation.oldest_wait = Seconds::from(depth.oldest.unwrap_or_default());
            observation.in_service = now.in_service.into();
            observation.busy_time = observation.service_time;
            observation.in_system_time = observation.response_time;
            observation.valid = true;
            layer.before = now;
        }
        observation
    }

    /// Ready pods, draining pods, and the last order.
    async fn pods(&self, function: Function) -> Result<(u32, u32, u32), StoreError> {
        let (entries, _) = self.engine.store().list(&format!("{SETS}{}-", function.name())).await?;
        let (mut ready, mut draining) = (0, 0);
        for set in entries.iter().filter_map(|entry| serde_json::from_slice::<SetRecord>(&entry.value).ok()) {
            match set.state {
                SetState::Ready => ready += 1,
                SetState::Draining => draining += 1,
                SetState::Starting | SetState::Paused => {}
            }
        }
        let order = self.engine.store().get(&format!("{DESIRED}{}", function.name())).await?;
        let order = order.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok());
        Ok((ready, draining, order.unwrap_or(0)))
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
