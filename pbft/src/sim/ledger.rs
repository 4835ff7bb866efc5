//! The service that simulated clusters run: it counts how often each operation was executed.

use bytes::{BufMut, Bytes, BytesMut};

use crate::group::ClientId;
use crate::service::{Context, NotReadOnly, Service, State};

/// Executes operations of 8 bytes or more; the first 8 name the operation. The result is how often
/// this client's operation of that name was executed, this one included, then all operations so
/// far. An operation that ends in `panic` panics, after it wrote. One that ends in `all?` changes nothing
/// and gives the number of all operations so far; it need not be ordered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger;

impl Ledger {
    /// How often an operation was executed.
    #[must_use]
    pub fn count(state: &State, client: ClientId, name: u64) -> u64 {
        number(state.page(page_of(client, name)), name)
    }
}

/// Page 0 counts all; names share pages, eight to each.
fn page_of(client: ClientId, name: u64) -> u64 {
    1 + u64::from(client.0) * 100_000 + name / 8 % 100_000
}

fn number(page: &[u8], name: u64) -> u64 {
    let at = usize::try_from(name % 8).expect("below 8") * 8;
    page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

impl Service for Ledger {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        if operation.ends_with(b"all?") {
            return Bytes::copy_from_slice(&number(state.page(0), 0).to_be_bytes());
        }
        let name = operation.get(..8).and_then(|name| name.try_into().ok()).map_or(0, u64::from_be_bytes);
        let index = page_of(context.client, name);
        let mut page = state.page(index).to_vec();
        page.resize(64, 0);
        let count = number(&page, name) + 1;
        let at = usize::try_from(name % 8).expect("below 8") * 8;
        page[at..at + 8].copy_from_slice(&count.to_be_bytes());
        state.write(index, &page);
        let all = number(state.page(0), 0) + 1;
        state.write(0, &all.to_be_bytes());
        assert!(!operation.ends_with(b"panic"), "the operation asked for it");
        let mut result = BytesMut::with_capacity(16);
        result.put_u64(count);
        result.put_u64(all);
        result.freeze()
    }

    fn read(&self, _: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        if operation.ends_with(b"all?") {
            return Ok(Bytes::copy_from_slice(&number(state.page(0), 0).to_be_bytes()));
        }
        Err(NotReadOnly)
    }
}
