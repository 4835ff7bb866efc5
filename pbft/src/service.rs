//! What a user implements: a deterministic state machine over pages.

use bytes::Bytes;

use crate::group::{ClientId, Sequence};

mod state;

pub use state::{Branch, PAGE_BYTES_MAX, Snapshot, State};
pub(crate) use state::{FAN_OUT, LEVELS, page_digest};

/// All that a deterministic service may know beside its state and the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Who asks.
    pub client: ClientId,
    /// The agreed time, in nanoseconds since the Unix epoch; it never goes back.
    pub time: u64,
    /// The batch.
    pub sequence: Sequence,
}

/// The operation cannot be answered without ordering it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operation is not read-only")]
pub struct NotReadOnly;

/// A replicated service. `&self` is code: whatever changes lives in [`State`], because only that is
/// checkpointed, transferred and recovered.
///
/// Every correct replica must compute the same: no clock, no random numbers, no iteration over hash
/// maps, no threads, no floating point whose result depends on the machine.
///
/// ```
/// use bytes::Bytes;
/// use quorate_pbft::{Context, NotReadOnly, Service, State};
///
/// /// A counter in page 0.
/// struct Counter;
///
/// fn count(state: &State) -> u64 {
///     state.page(0).try_into().map_or(0, u64::from_be_bytes)
/// }
///
/// impl Service for Counter {
///     fn execute(&self, _: &Context, _: &[u8], state: &mut State) -> Bytes {
///         let next = (count(state) + 1).to_be_bytes();
///         state.write(0, &next);
///         Bytes::copy_from_slice(&next)
///     }
///
///     fn read(&self, _: &Context, _: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
///         Ok(Bytes::copy_from_slice(&count(state).to_be_bytes()))
///     }
/// }
/// ```
pub trait Service {
    /// Executes an operation. A panic undoes its writes, and the reply says so.
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes;

    /// Answers an operation that changes nothing.
    ///
    /// # Errors
    /// When the operation would change something, or the service answers none this way; the client
    /// then has it ordered.
    fn read(&self, context: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        let _ = (context, operation, state);
        Err(NotReadOnly)
    }
}
