//! A run as bytes, so that it can go on in another process.
//!
//! ```text
//! version: u8 = 1      fingerprint of the graph: u64      nodes: u32
//! state of each node   1 byte: 0 open, 1 started, 2 done, 3 failed, 4 cancelled
//! values               of the nodes that are done, by number: u32 length, bytes
//! failures             u32 count, each: u32 node, u32 length, bytes
//! returns              u32 count, each: u32 node, u32 count
//! ```
//!
//! Integers are big-endian. A node in flight is written as started, and is restored as returned: who
//! restores it cannot know whether its worker lives, and an answer that still comes is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NodeState, Run, Slot};
use crate::graph::{Graph, NodeId};
use crate::rank::Costs;

const VERSION: u8 = 1;

/// A value or an error that a snapshot can hold.
pub trait Portable: Sized {
    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads exactly what [`Portable::write`] wrote; `None` for anything else.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Portable for () {
    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

impl Portable for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl Portable for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

impl Portable for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl Portable for std::convert::Infallible {
    fn write(&self, _out: &mut Vec<u8>) {
        match *self {}
    }

    fn read(_bytes: &[u8]) -> Option<Self> {
        None
    }
}

/// Why bytes are no run of this graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by a version of this crate that this one does not read.
    #[error("snapshot version {found} is not {VERSION}")]
    Version {
        /// The version of the bytes.
        found: u8,
    },
    /// Taken of another graph.
    #[error("the snapshot was taken of another graph")]
    OtherGraph,
    /// Cut short, or no snapshot at all.
    #[error("the snapshot is damaged at byte {at}")]
    Damaged {
        /// Where reading stopped.
        at: usize,
    },
}

impl<V: Portable, E: Portable> Run<V, E> {
    /// All that is known, as bytes for [`Run::restore`].
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, NodeState, Run};
    ///
    /// let mut dag = Dag::new();
    /// let (first, second) = (dag.add(()), dag.add(()));
    /// dag.edge(first, second)?;
    /// let graph = dag.freeze()?;
    ///
    /// let mut run: Run<u64> = Run::new(graph.clone(), &Costs::default());
    /// run.start(first)?;
    /// run.complete(first, 7)?;
    /// run.start(second)?;
    /// let bytes = run.snapshot();
    ///
    /// // In another process, with the same graph: what was in flight is ready again.
    /// let run: Run<u64> = Run::restore(graph, &Costs::default(), &bytes)?;
    /// assert_eq!(run.value(first), Some(&7));
    /// assert_eq!(run.state(second), Some(NodeState::Returned));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.nodes.len() * 2);
        out.push(VERSION);
        out.extend_from_slice(&fingerprint(&self.graph).to_be_bytes());
        put_count(&mut out, self.nodes.len());
        out.extend(self.nodes.iter().map(|slot| match slot.state() {
            NodeState::Waiting | NodeState::Ready => 0,
            NodeState::InFlight | NodeState::Returned => 1,
            NodeState::Done => 2,
            NodeState::Failed => 3,
            NodeState::Cancelled => 4,
        }));
        for value in self.values.iter().flatten() {
            put(&mut out, value);
        }
        put_count(&mut out, self.failures.len());
        for (node, error) in &self.failures {
            out.extend_from_slice(&node.get().to_be_bytes());
            put(&mut out, error);
        }
        // For who restores it, what is in flight has come back once more.
        let mut returns = self.returns.clone();
        for node in self.graph.nodes().filter(|node| self.state(*node) == Some(NodeState::InFlight)) {
            let count = returns.entry(node).or_default();
            *count = count.saturating_add(1);
        }
        put_count(&mut out, returns.len());
        for (node, count) in &returns {
            out.extend_from_slice(&node.get().to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
        }
        out
    }

    /// The run as it was, except that nodes in flight have returned.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing that the bytes say is taken for granted.
    pub fn restore(graph: Arc<Graph>, costs: &Costs, snapshot: &[u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader { bytes: snapshot, at: 0 };
        match reader.array::<1>()? {
            [VERSION] => {}
            [found] => return Err(RestoreError::Version { found }),
        }
        let taken_of = u64::from_be_bytes(reader.array()?);
        if taken_of != fingerprint(&graph) || reader.u32()? as usize != graph.len() {
            return Err(RestoreError::OtherGraph);
        }
        let mut run = Self::new(graph, costs);
        run.restore_nodes(&mut reader)?;
        run.restore_failures(&mut reader)?;
        run.returns = run.restore_returns(&mut reader)?;
        if reader.at == snapshot.len() { Ok(run) } else { Err(reader.damaged()) }
    }

    /// Replays each state in an order in which it can have come about, so that a state that cannot
    /// have been is refused.
    fn restore_nodes(&mut self, reader: &mut Reader<'_>) -> Result<(), RestoreError> {
        let states = reader.take(self.nodes.len())?.to_vec();
        let mut values: Vec<Option<V>> = Vec::with_capacity(states.len());
        for state in &states {
            values.push(match state {
                2 => Some(reader.portable()?),
                0..=4 => None,
                _ => return Err(reader.damaged()),
            });
        }
        let graph = Arc::clone(&self.graph);
        for node in graph.topological() {
            let state = states[node.index()];
            if matches!(state, 1..=3) {
                self.start(node).map_err(|_| reader.damaged())?;
            }
            match (state, values[node.index()].take()) {
                (1, _) => {
                    self.lost(node).map_err(|_| reader.damaged())?;
                }
                (2, Some(value)) => {
                    self.complete(node, value).map_err(|_| reader.damaged())?;
                }
                (3, _) => {
                    self.in_flight -= 1;
                    self.nodes[node.index()] = Slot::new(NodeState::Failed, 0);
                }
                (4, _) => {
                    self.cancel_one(node, self.nodes[node.index()].state());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn restore_failures(&mut self, reader: &mut Reader<'_>) -> Result<(), RestoreError> {
        let failed = self.nodes.iter().filter(|slot| slot.state() == NodeState::Failed).count();
        if reader.u32()? as usize != failed {
            return Err(reader.damaged());
        }
        let mut named = vec![false; self.nodes.len()];
        for _ in 0..failed {
            let node = NodeId::new(reader.u32()?);
            let error = reader.portable()?;
            let is_failed = self.state(node) == Some(NodeState::Failed);
            if !is_failed || std::mem::replace(&mut named[node.index()], true) {
                return Err(reader.damaged());
            }
            self.failures.push((node, error));
            // A snapshot names what was cancelled for it; what it leaves out cannot run either.
            self.cancel_behind(node);
        }
        self.changed.clear();
        Ok(())
    }

    fn restore_returns(&mut self, reader: &mut Reader<'_>) -> Result<BTreeMap<NodeId, u32>, RestoreError> {
        // Each node that was started has an entry from its replay, which these counts replace.
        let mut returns = std::mem::take(&mut self.returns);
        for _ in 0..reader.u32()? {
            let (node, count) = (NodeId::new(reader.u32()?), reader.u32()?);
            if !self.graph.contains(node) {
                return Err(reader.damaged());
            }
            returns.insert(node, count);
        }
        Ok(returns)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a graph has under 2^29 nodes");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put(out: &mut Vec<u8>, item: &impl Portable) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    item.write(out);
    let length = u32::try_from(out.len() - start - 4).expect("a value is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// FNV-1a over the shape: tells graphs apart by accident, not against malice.
fn fingerprint(graph: &Graph) -> u64 {
    let mix = |hash: u64, word: u32| (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for node in graph.nodes() {
        hash = mix(hash, u32::from(graph.function(node).0));
        hash = mix(hash, graph.weight(node));
        for dependant in graph.dependants(node) {
            hash = mix(hash, dependant.get());
        }
        hash = mix(hash, u32::MAX);
    }
    hash
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn damaged(&self) -> RestoreError {
        RestoreError::Damaged { at: self.at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RestoreError> {
        let end = self.at.checked_add(count).ok_or(self.damaged())?;
        let taken = self.bytes.get(self.at..end).ok_or(self.damaged())?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gives what was asked"))
    }

    fn u32(&mut self) -> Result<u32, RestoreError> {
        self.array().map(u32::from_be_bytes)
    }

    fn portable<T: Portable>(&mut self) -> Result<T, RestoreError> {
        let length = self.u32()? as usize;
        let bytes = self.take(length)?;
        T::read(bytes).ok_or(self.damaged())
    }
}
