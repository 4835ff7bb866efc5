//! What is kept of a request on the way, so that a scheduler which dies leaves no node to be computed again.
//!
//! Most requests end before anything of them is kept. Of one that takes longer, the values so far (with what
//! belongs to them in the timeline and the receipt) are written to the store, and removed before it is
//! concluded. Whoever receives its message another time looks there. Nothing depends on it: what is missing,
//! or fits no more, is computed.

use super::work::Evidence;
use crate::{engine::Engine, records::NodeRun, store::Store};
use bytes::Bytes;
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Where they are in the store, by the request's id.
const PREFIX: &str = "runs/";
/// How often a run that has come on is kept, and how long one is left before the first time.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Etcd takes requests of up to 1.5 MiB.
const BYTES_MAX: usize = 1 << 20;

/// The state of a run.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Kept {
    /// [`quorate_dag::Plan::VERSION`]: another one may number nodes in another way.
    #[prost(uint32, tag = "1")]
    pub(super) plan_version: u32,
    /// [`quorate_dag::Evaluation::snapshot`].
    #[prost(bytes = "vec", tag = "2")]
    pub(super) run: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(super) timeline: Vec<Ran>,
    #[prost(message, repeated, tag = "4")]
    pub(super) proofs: Vec<Proof>,
}

/// [`NodeRun`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ran {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(string, tag = "2")]
    set: String,
    #[prost(double, tag = "3")]
    start_ms: f64,
    #[prost(double, tag = "4")]
    end_ms: f64,
}

/// [`Evidence`] of a node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Proof {
    #[prost(uint32, tag = "1")]
    pub(super) node: u32,
    #[prost(string, tag = "2")]
    set: String,
    #[prost(bytes = "bytes", tag = "3")]
    chain: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    receipt: Bytes,
}

impl From<&NodeRun> for Ran {
    fn from(run: &NodeRun) -> Self {
        Self { node: run.node, set: run.set.clone(), start_ms: run.start_ms, end_ms: run.end_ms }
    }
}

impl From<Ran> for NodeRun {
    fn from(run: Ran) -> Self {
        Self { node: run.node, set: run.set, start_ms: run.start_ms, end_ms: run.end_ms }
    }
}

impl Proof {
    pub(super) fn of(node: usize, evidence: &Evidence) -> Self {
        Self {
            node: u32::try_from(node).expect("a plan that is kept has few nodes"),
            set: evidence.set.to_string(),
            chain: evidence.chain.clone(),
            receipt: evidence.receipt.clone(),
        }
    }
}

impl From<Proof> for Evidence {
    fn from(proof: Proof) -> Self {
        Self { set: proof.set.into(), receipt: proof.receipt, chain: proof.chain }
    }
}

fn key(id: Uuid) -> String {
    format!("{PREFIX}{id}")
}

/// Whether anything of a run is kept, or on its way there.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    is_kept: bool,
    /// Whether it was there when runs were last kept.
    is_old: bool,
    writing: Option<JoinHandle<()>>,
}

impl Keeping {
    /// Of a run that was started now.
    pub(super) fn started(is_kept: bool) -> Self {
        Self { is_kept, ..Self::default() }
    }

    /// Whether it takes long enough to be kept; asked once every [`EVERY`].
    pub(super) fn is_due(&mut self) -> bool {
        std::mem::replace(&mut self.is_old, true)
    }

    /// Starts to write down how far the run is, after what was written before, unless it is too large.
    pub(super) fn keep(&mut self, engine: &Arc<dyn Engine>, id: Uuid, kept: &Kept) {
        let bytes = kept.encode_to_vec();
        if bytes.len() > BYTES_MAX {
            return;
        }
        self.is_kept = true;
        let (engine, before) = (Arc::clone(engine), self.writing.take());
        self.writing = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            if let Err(error) = engine.store().put(&key(id), bytes.into(), None).await {
                tracing::warn!(request = %id, %error, "how far a request is was not kept");
            }
        }));
    }

    /// Removes what was kept of a run that is about to be concluded: when it has ended, nobody looks for it.
    pub(super) async fn end(self, store: &dyn Store, id: Uuid) {
        if let Some(writing) = self.writing {
            let _ = writing.await;
        }
        if self.is_kept {
            forget(store, id).await;
        }
    }
}

/// What was kept of a run.
pub(super) async fn find(store: &dyn Store, id: Uuid) -> Option<Kept> {
    match store.get(&key(id)).await {
        Ok(entry) => Kept::decode(entry?.value).ok(),
        Err(error) => {
            tracing::warn!(request = %id, %error, "what was kept of a request can't be read");
            None
        }
    }
}

/// Removes what was kept of a run that was over when its message came.
pub(super) async fn forget(store: &dyn Store, id: Uuid) {
    if let Err(error) = store.delete(&key(id)).await {
        tracing::warn!(request = %id, %error, "what was kept of a request was not removed");
    }
}
