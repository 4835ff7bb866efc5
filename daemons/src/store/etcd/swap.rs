//! A change of a key that still is what was seen.

use super::{
    members::{Failure, Kind, Limit, Members, Twice},
    number, revision,
};
use crate::store::Revision;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, Error, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

/// The part of its time in which the first answer must come: the rest is for finding out what was done when
/// it does not.
const FIRST: u32 = 2;

/// One transaction.
pub(super) struct Swap {
    pub(super) key: String,
    pub(super) seen: Option<Revision>,
    pub(super) value: Option<Bytes>,
    /// 0: none.
    pub(super) lease: i64,
}

impl Swap {
    /// The revision at which it was done; `None` when the key is not what was seen.
    ///
    /// When an answer is lost, nobody knows whether the swap was done. To ask again and report the conflict
    /// would be wrong if the conflict is with ourselves, so what stands is looked at:
    ///
    /// - A key that still has the revision that was seen is swapped now; revisions only grow, so the first
    ///   request has done nothing and never will. A key that was not there is not made anew: it may have been
    ///   made by us and removed by another, and would exist twice.
    /// - What stands under our lease with our value is ours: nobody else writes under a lease.
    /// - Anything else proves nothing. Without a lease, another may have written the same value, and two would
    ///   believe that they won; ours may have been done and changed again. Then the failure is told.
    pub(super) async fn carry_out(&self, members: &Members) -> Result<Option<Revision>, Failure> {
        let all = members.limit();
        let first = Limit { each: all.each / FIRST, ..all };
        let lost = match members.ask(first, Twice::More, |client| self.swap(client)).await {
            Ok(answer) => return Ok(answer.succeeded().then(|| revision(answer.header()))),
            Err(failure) if failure.kind == Kind::Unknown => failure,
            Err(failure) => return Err(failure),
        };
        let looked = match self.seen {
            Some(_) => members.ask(all, Twice::Same, |client| self.swap(client)).await,
            None => members.ask(all, Twice::Same, |client| self.look(client)).await,
        };
        let Ok(answer) = looked else { return Err(lost) };
        if self.seen.is_some() && answer.succeeded() {
            return Ok(Some(revision(answer.header())));
        }
        match stands(&answer) {
            Some(kv) if self.is_ours(&kv) => Ok(Some(number(kv.mod_revision()))),
            _ => Err(lost),
        }
    }

    async fn swap(&self, mut client: Client) -> Result<TxnResponse, Error> {
        let seen = self.seen.map_or(0, |seen| i64::try_from(seen.0).unwrap_or(i64::MAX));
        let change = match &self.value {
            Some(value) => {
                let options = PutOptions::new().with_lease(self.lease);
                TxnOp::put(self.key.clone(), value.clone(), Some(options))
            }
            None => TxnOp::delete(self.key.clone(), None),
        };
        // A key that is not there has revision 0.
        let swap = Txn::new()
            .when([Compare::mod_revision(self.key.clone(), CompareOp::Equal, seen)])
            .and_then([change])
            .or_else([TxnOp::get(self.key.clone(), None)]);
        client.txn(swap).await
    }

    async fn look(&self, mut client: Client) -> Result<TxnResponse, Error> {
        client.txn(Txn::new().and_then([TxnOp::get(self.key.clone(), None)])).await
    }

    fn is_ours(&self, kv: &KeyValue) -> bool {
        self.lease != 0
            && kv.lease() == self.lease
            && self.value.as_deref() == Some(kv.value())
            && self.seen.is_none_or(|seen| number(kv.mod_revision()) > seen)
    }
}

/// The key as the transaction found it.
fn stands(answer: &TxnResponse) -> Option<KeyValue> {
    answer.op_responses().iter().find_map(|answer| match answer {
        TxnOpResponse::Get(got) => got.kvs().first().cloned(),
        _ => None,
    })
}
