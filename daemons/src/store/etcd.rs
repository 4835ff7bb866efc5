//! The store in etcd, whose semantics it has from there.
//!
//! Reads are linearizable: they go through a quorum, and so does everything else. A request waits for no longer
//! than [`EtcdOptions::request_timeout`]. Within it other members are asked when one does not answer, as long as
//! that can't make a request take effect twice: a write whose answer was lost may have been done or not, and its
//! caller is told [`StoreError::Unavailable`].
//!
//! # Limits
//! etcd itself takes requests of up to 1.5 MiB, and keeps changes for as long as it is configured to. Leases
//! last whole seconds, and no less than about two with etcd's own settings.

mod line;
mod members;
mod options;
mod swap;
mod watch;

pub use options::{EtcdOptions, EtcdTls};

use super::{Entry, LeaseId, Revision, Store, StoreError, Watch};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Error, GetOptions, KeyValue, LeaseGrantOptions, PutOptions, ResponseHeader};
use members::{Failure, Kind, Members, Twice};
use rand::RngExt;
use std::{sync::Arc, time::Duration};
use swap::Swap;
use tonic::Code;
use watch::Watcher;

/// The largest answer that is taken, as in etcd's own client: a list has no pages here, and etcd bounds what a
/// request may store.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// The longest lease that etcd grants, in seconds.
const TTL_MAX: i64 = 9_000_000_000;

/// The store in etcd.
pub struct EtcdStore {
    members: Arc<Members>,
    prefix: String,
    watch_capacity: usize,
}

impl EtcdStore {
    /// Connects, and returns when etcd has answered: what is wrong with endpoints, certificates or the user is
    /// told here and not by the first request.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no member answers, or one refuses.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        if let Some(fault) = options.fault() {
            return Err(StoreError::Unavailable { source: fault.into() });
        }
        let members = Arc::new(Members::new(&options));
        let store = Self { members, prefix: options.prefix, watch_capacity: options.watch_capacity };
        store.get("").await?;
        Ok(store)
    }

    fn key(&self, key: &str) -> String {
        let key = format!("{}{key}", self.prefix);
        // etcd has no key without a byte; that of one zero byte is the least that it has.
        if key.is_empty() { "\0".into() } else { key }
    }

    fn entry(&self, kv: &KeyValue) -> Result<Entry, StoreError> {
        Ok(Entry {
            key: text(&self.prefix, kv.key())?,
            value: Bytes::copy_from_slice(kv.value()),
            revision: number(kv.mod_revision()),
        })
    }

    async fn read(&self, key: String, options: GetOptions) -> Result<etcd_client::GetResponse, StoreError> {
        let read = self.members.ask(self.members.limit(), Twice::Same, |client| {
            let (key, options) = (key.clone(), options.clone());
            async move {
                let mut keys = client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
                keys.get(key, Some(options)).await
            }
        });
        read.await.map_err(Failure::unavailable)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let read = self.read(self.key(key), GetOptions::new()).await?;
        read.kvs().first().map(|kv| self.entry(kv)).transpose()
    }

    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        let key = self.key(key);
        let id = lease.map(known).transpose()?.unwrap_or(0);
        let put = self.members.ask(self.members.limit(), Twice::More, |mut client| {
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, Some(PutOptions::new().with_lease(id))).await }
        });
        match put.await {
            Ok(put) => Ok(revision(put.header())),
            Err(failure) => Err(of_lease(failure, lease)),
        }
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let key = self.key(key);
        let delete = self.members.ask(self.members.limit(), Twice::More, |mut client| {
            let key = key.clone();
            async move { client.delete(key, None).await }
        });
        Ok(delete.await.map_err(Failure::unavailable)?.deleted() > 0)
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        let read = self.read(format!("{}{prefix}", self.prefix), GetOptions::new().with_prefix()).await?;
        let entries = read.kvs().iter().map(|kv| self.entry(kv)).collect::<Result<_, _>>()?;
        Ok((entries, revision(read.header())))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        let id = lease.map(known).transpose()?.unwrap_or(0);
        let swap = Swap { key: self.key(key), seen, value, lease: id };
        match swap.carry_out(&self.members).await {
            Ok(Some(revision)) => Ok(revision),
            Ok(None) => Err(StoreError::Conflict { key: key.into() }),
            Err(failure) => Err(of_lease(failure, lease)),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // We name it, so that it can be asked for again: if it exists by then, it was our own request.
        let id = rand::rng().random_range(1..=i64::MAX);
        let mut seconds = i64::try_from(ttl.as_secs()).unwrap_or(TTL_MAX).min(TTL_MAX);
        seconds += i64::from(ttl.subsec_nanos() > 0 || seconds == 0);
        let grant = self.members.ask(self.members.limit(), Twice::Same, |mut client| async move {
            let granted = client.lease_grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await;
            match granted {
                Err(Error::GRpcStatus(status)) if status.message() == "etcdserver: lease already exists" => {
                    Ok(())
                }
                granted => granted.map(drop),
            }
        });
        grant.await.map_err(Failure::unavailable)?;
        Ok(LeaseId(id.unsigned_abs()))
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let id = known(lease)?;
        // A stream for one renewal. Who holds a lease has a clock for it, and must learn from each renewal
        // whether it was done; a stream that is kept would have to be watched for its end as well.
        let renew = self.members.ask(self.members.limit(), Twice::Same, |mut client| async move {
            client.lease_keep_alive(id).await.map(drop)
        });
        renew.await.map_err(|failure| of_lease(failure, Some(lease)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Ok(id) = known(lease) else { return Ok(()) };
        let revoke = self.members.ask(self.members.limit(), Twice::Same, |mut client| async move {
            client.lease_revoke(id).await.map(drop)
        });
        match revoke.await {
            Err(failure) if failure.kind != Kind::Refused(Code::NotFound) => Err(failure.unavailable()),
            _ => Ok(()),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let watcher = Watcher {
            members: Arc::clone(&self.members),
            platform: self.prefix.clone(),
            prefix: prefix.into(),
            from,
        };
        watcher.start(self.watch_capacity).await.map_err(Failure::unavailable)
    }
}

/// A lease as etcd names it. To etcd 0 is none at all, and those past 63 bits are below zero: we grant neither.
fn known(lease: LeaseId) -> Result<i64, StoreError> {
    match i64::try_from(lease.0) {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(StoreError::LeaseGone(lease)),
    }
}

/// The error of a request under a lease: nothing else in it can be found missing.
fn of_lease(failure: Failure, lease: Option<LeaseId>) -> StoreError {
    match lease {
        Some(lease) if failure.kind == Kind::Refused(Code::NotFound) => StoreError::LeaseGone(lease),
        _ => failure.unavailable(),
    }
}

/// A key without the platform's prefix.
fn text(prefix: &str, key: &[u8]) -> Result<String, StoreError> {
    let key = std::str::from_utf8(key).map_err(|_| strange("a key that is no text"))?;
    Ok(key.strip_prefix(prefix).unwrap_or(key).to_owned())
}

/// Something in etcd that nothing of ours has put there.
fn strange(what: &'static str) -> StoreError {
    StoreError::Unavailable { source: format!("etcd holds {what} under the platform's prefix").into() }
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    number(header.map_or(0, ResponseHeader::revision))
}

fn number(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}
