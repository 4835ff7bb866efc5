//! Memory: what a replica holds stays below bounds that follow from the limits, whatever others send.

use super::Violation;
use crate::replica::{Held, Replica};
use crate::service::Service;

/// Names a collection that is too large.
pub(super) fn check<S: Service>(replica: &Replica<S>) -> Result<(), Violation> {
    let over = replica.footprint().into_iter().find(|collection| collection.held > collection.most);
    over.map_or(Ok(()), |Held { what, held, most }| {
        Err(Violation::Unbounded { replica: replica.id(), what, held, most })
    })
}
