//! Who takes part: identifiers, the configuration of a group, quorum sizes, the primary of a view,
//! and sets of voters that count each sender once.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::crypto::{Digest, DigestAlgorithm, PublicKey, PublicKeys, SIGNATURE_BYTES_MAX, Scope};
use crate::replica::CLAIMS_PER_PLACE_MAX;

/// Defines a number that is never mixed up with another one.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

number! {
    /// A replica: its index in the configuration's list of keys.
    ReplicaId(u32)
}
number! {
    /// A client: its index in the configuration's list of registered clients.
    ///
    /// An index rather than a digest of the key: tables indexed by it are arrays, and the
    /// configuration, which every digest and tag covers, binds the index to exactly one key.
    ClientId(u32)
}
number! {
    /// A view: the period in which one replica is the primary.
    View(u64)
}
number! {
    /// The sequence number of a batch; the first batch is 1, and 0 stands for "before all".
    Sequence(u64)
}
number! {
    /// The number of an operation within an incarnation of a client; dense, the first is 1.
    Timestamp(u64)
}
number! {
    /// A life of a client. A restarted client takes a higher one, which closes the lower ones.
    Incarnation(u64)
}

impl View {
    /// The next view; the last of all is followed by itself.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Sequence {
    /// The next sequence number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// The first timestamp of every incarnation.
    pub const FIRST: Self = Self(1);

    /// The timestamp of the operation that is `count` later.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl ReplicaId {
    /// The index as a `usize`.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ClientId {
    /// The index as a `usize`.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name of a group, fresh for every genesis, so that nothing that was tagged or signed in one
/// life of a set means anything in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

/// The order in which replicas become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permutation {
    /// Replica `v mod n` leads view `v`, as in TOCS 4.1.
    Identity,
    /// A pseudo-random permutation seeded by the group's name: each replica leads once in `n`
    /// views, and many groups on the same machines do not all load the same ones.
    Seeded,
}

/// The most replicas that a group may have: what fits into a [`Voters`].
pub const REPLICAS_MAX: u32 = 127;

/// How often a checkpoint is taken, how far the window reaches, and how large things may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// K: a checkpoint is taken after every batch whose sequence number is a multiple of it.
    pub checkpoint_period: u64,
    /// L: the high watermark is this far above the low one. At least twice `checkpoint_period`,
    /// so that ordering goes on while a checkpoint becomes stable (TOCS 4.3).
    pub window: u64,
    /// Operations in one batch.
    pub batch_operations_max: u32,
    /// Bytes of the requests in one batch.
    pub batch_bytes_max: u32,
    /// Bytes of one operation.
    pub operation_bytes_max: u32,
    /// Bytes of cached results for each client; the oldest are dropped first.
    pub reply_bytes_max: u32,
    /// Operations that one client may have in flight: timestamps from its floor on.
    pub client_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            checkpoint_period: 128,
            window: 256,
            batch_operations_max: 1024,
            batch_bytes_max: 1 << 20,
            operation_bytes_max: 1 << 18,
            reply_bytes_max: 1 << 22,
            client_window: 1024,
        }
    }
}

/// What every replica, client and verifier of a group must agree on: its genesis, or what follows
/// from it once members were replaced ([`Chain`](crate::membership::Chain)).
///
/// Addresses are not in it: where a replica listens may change at any time and proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The group's name.
    pub group: GroupId,
    /// Counts reconfigurations; the genesis is 0.
    pub number: u64,
    /// The batch after which it is in force: 0 for the genesis, a checkpoint for those that follow.
    pub start: Sequence,
    /// How many replicas may lie. There are `3f + 1` of them.
    pub f: u32,
    /// The replicas' keys; a [`ReplicaId`] is an index into them.
    pub replicas: Vec<PublicKey>,
    /// The registered clients' keys; a [`ClientId`] is an index into them.
    pub clients: Vec<PublicKey>,
    /// The key of whoever may have replicas replaced; without one nobody may, ever.
    pub operator: Option<PublicKey>,
    /// What every digest of this group is made with.
    pub digest: DigestAlgorithm,
    /// The order in which replicas become primary.
    pub permutation: Permutation,
    /// Whether executed operations go into a history that receipts are made from.
    pub history: bool,
    /// Periods and sizes.
    pub limits: Limits,
}

/// Why a [`Configuration`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfiguration {
    /// The number of replicas does not fit `f`.
    #[error("{count} replicas given, but f = {f} needs 3f + 1 = {}", 3 * u64::from(*f) + 1)]
    ReplicaCount {
        /// The tolerated faults.
        f: u32,
        /// The keys given.
        count: usize,
    },
    /// `f` is zero or too large.
    #[error("f = {f} must be from 1 to {}", (REPLICAS_MAX - 1) / 3)]
    Faults {
        /// The value given.
        f: u32,
    },
    /// There are more clients than an index can name.
    #[error("{count} clients are over the limit of {limit}")]
    ClientCount {
        /// The keys given.
        count: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A limit is out of its range.
    #[error("{field} is {value}, but must be from {min} to {max}")]
    Limit {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least that works.
        min: u64,
        /// The most that works.
        max: u64,
    },
    /// The bytes are not a configuration.
    #[error("bytes are not a configuration: {field} is cut short or unknown")]
    Malformed {
        /// The field at which reading stopped.
        field: &'static str,
    },
    /// The bytes are of a format that this version does not know.
    #[error("configuration format {version} is unknown; this version reads format {FORMAT}")]
    Version {
        /// The version found.
        version: u8,
    },
}

/// The encoding that this version writes and reads.
const FORMAT: u8 = 2;
/// The longest NEW-VIEW, in bytes.
const NEW_VIEW_BYTES_MAX: u64 = 1 << 26;
/// Bytes that the certificate and the signature of a VIEW-CHANGE take, with as many votes as there
/// can be.
const CERTIFICATE_BYTES: u64 = (REPLICAS_MAX as u64 + 1) * (SIGNATURE_BYTES_MAX as u64 + 16);
/// Bytes that the marks in a VIEW-CHANGE take, at most: a bit for each client.
const MARKS_BYTES: u64 = CLIENTS_MAX as u64 / 8 + 8;
/// Bytes that a VIEW-CHANGE takes for one place, at most: its claims, of 60 bytes each.
const PLACE_BYTES: u64 = (CLAIMS_PER_PLACE_MAX as u64 + 1) * 60;

/// The most clients that a configuration may register.
pub const CLIENTS_MAX: usize = 1 << 16;

impl Configuration {
    /// The genesis of a group of `3f + 1` replicas with the usual limits, SHA-256, a history, and no
    /// operator. All of it are fields to be changed; `group` is fresh for every genesis.
    #[must_use]
    pub fn genesis(group: GroupId, replicas: Vec<PublicKey>, clients: Vec<PublicKey>) -> Self {
        Self {
            group,
            number: 0,
            start: Sequence(0),
            f: u32::try_from(replicas.len().saturating_sub(1) / 3).unwrap_or(u32::MAX),
            replicas,
            clients,
            operator: None,
            digest: DigestAlgorithm::default(),
            permutation: Permutation::Seeded,
            history: true,
            limits: Limits::default(),
        }
    }

    /// Checks everything that the protocol relies on.
    ///
    /// # Errors
    /// Names the field that is out of range, its value and the limit.
    pub fn validate(&self) -> Result<(), InvalidConfiguration> {
        if self.f == 0 || 3 * u64::from(self.f) + 1 > u64::from(REPLICAS_MAX) {
            return Err(InvalidConfiguration::Faults { f: self.f });
        }
        if self.replicas.len() as u64 != 3 * u64::from(self.f) + 1 {
            return Err(InvalidConfiguration::ReplicaCount { f: self.f, count: self.replicas.len() });
        }
        if self.clients.len() > CLIENTS_MAX {
            return Err(InvalidConfiguration::ClientCount { count: self.clients.len(), limit: CLIENTS_MAX });
        }
        let limits = &self.limits;
        let period = limits.checkpoint_period;
        if (self.number == 0) != (self.start == Sequence(0)) {
            let (value, field) = (self.start.0, "start");
            let (min, max) = if self.number == 0 { (0, 0) } else { (1, u64::MAX) };
            return Err(InvalidConfiguration::Limit { field, value, min, max });
        }
        // A NEW-VIEW of all replicas has to fit a frame and a record of the journal.
        let window_max =
            (NEW_VIEW_BYTES_MAX / self.replicas.len() as u64 - CERTIFICATE_BYTES - MARKS_BYTES) / PLACE_BYTES;
        for (field, value, min, max) in [
            ("checkpoint_period", period, 1, 1 << 20),
            ("window", limits.window, period.saturating_mul(2), window_max),
            ("batch_operations_max", limits.batch_operations_max.into(), 1, 1 << 16),
            ("batch_bytes_max", limits.batch_bytes_max.into(), 1 << 10, 1 << 26),
            ("operation_bytes_max", limits.operation_bytes_max.into(), 1, u64::from(limits.batch_bytes_max)),
            // A client's pages hold 2^28 bytes: its results, and a line for each of its answers.
            ("reply_bytes_max", limits.reply_bytes_max.into(), 1 << 10, 1 << 27),
            ("client_window", limits.client_window.into(), 1, 1 << 16),
        ] {
            if value < min || value > max {
                return Err(InvalidConfiguration::Limit { field, value, min, max });
            }
        }
        Ok(())
    }

    /// The bytes of the longest message between replicas beside batches, replies and pages: a NEW-VIEW.
    /// A transport that bounds its frames lets it through.
    #[must_use]
    pub fn new_view_bytes_max(&self) -> u64 {
        self.replicas.len() as u64 * (CERTIFICATE_BYTES + MARKS_BYTES + self.limits.window * PLACE_BYTES)
    }

    /// The number of replicas, `3f + 1`.
    #[must_use]
    pub fn n(&self) -> u32 {
        3 * self.f + 1
    }

    /// What all statements of this group under this configuration have in common.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { group: self.group.0, configuration: self.number, algorithm: self.digest }
    }

    /// The keys of all who take part.
    #[must_use]
    pub fn public_keys(&self) -> PublicKeys {
        PublicKeys {
            replicas: self.replicas.clone().into(),
            clients: self.clients.clone().into(),
            operator: self.operator.clone(),
        }
    }

    /// The stable encoding: what [`Configuration::digest`] covers and [`Configuration::from_bytes`]
    /// reads.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_slice(&self.group.0);
        out.put_u64(self.number);
        out.put_u64(self.start.0);
        out.put_u32(self.f);
        out.put_u8(match self.digest {
            DigestAlgorithm::Sha256 => 0,
            DigestAlgorithm::Md5 => 1,
        });
        out.put_u8(match self.permutation {
            Permutation::Identity => 0,
            Permutation::Seeded => 1,
        });
        out.put_u8(u8::from(self.history));
        out.put_u64(self.limits.checkpoint_period);
        out.put_u64(self.limits.window);
        for limit in [
            self.limits.batch_operations_max,
            self.limits.batch_bytes_max,
            self.limits.operation_bytes_max,
            self.limits.reply_bytes_max,
            self.limits.client_window,
        ] {
            out.put_u32(limit);
        }
        let operator: &[PublicKey] = self.operator.as_slice();
        for keys in [&self.replicas[..], &self.clients, operator] {
            out.put_u32(u32::try_from(keys.len()).expect("validate bounds both lists"));
            for key in keys {
                let der = key.to_der();
                out.put_u32(u32::try_from(der.len()).expect("a public key is a few hundred bytes"));
                out.put_slice(&der);
            }
        }
        out.freeze()
    }

    /// Reads what [`Configuration::to_bytes`] wrote, and validates it.
    ///
    /// # Errors
    /// When the bytes are cut short, of another version, or describe no usable group.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, InvalidConfiguration> {
        let malformed = |field| InvalidConfiguration::Malformed { field };
        let read = &mut bytes;
        let version = read.try_get_u8().map_err(|_| malformed("version"))?;
        if version != FORMAT {
            return Err(InvalidConfiguration::Version { version });
        }
        let mut group = [0; 16];
        read.try_copy_to_slice(&mut group).map_err(|_| malformed("group"))?;
        let number = read.try_get_u64().map_err(|_| malformed("number"))?;
        let start = Sequence(read.try_get_u64().map_err(|_| malformed("start"))?);
        let f = read.try_get_u32().map_err(|_| malformed("f"))?;
        let digest = match read.try_get_u8() {
            Ok(0) => DigestAlgorithm::Sha256,
            Ok(1) => DigestAlgorithm::Md5,
            _ => return Err(malformed("digest")),
        };
        let permutation = match read.try_get_u8() {
            Ok(0) => Permutation::Identity,
            Ok(1) => Permutation::Seeded,
            _ => return Err(malformed("permutation")),
        };
        let history = match read.try_get_u8() {
            Ok(0) => false,
            Ok(1) => true,
            _ => return Err(malformed("history")),
        };
        let mut limit = |field| read.try_get_u64().map_err(|_| malformed(field));
        let (checkpoint_period, window) = (limit("checkpoint_period")?, limit("window")?);
        let mut limit = |field| read.try_get_u32().map_err(|_| malformed(field));
        let limits = Limits {
            checkpoint_period,
            window,
            batch_operations_max: limit("batch_operations_max")?,
            batch_bytes_max: limit("batch_bytes_max")?,
            operation_bytes_max: limit("operation_bytes_max")?,
            reply_bytes_max: limit("reply_bytes_max")?,
            client_window: limit("client_window")?,
        };
        let replicas = read_keys(read, "replicas", REPLICAS_MAX as usize)?;
        let clients = read_keys(read, "clients", CLIENTS_MAX)?;
        let operator = read_keys(read, "operator", 1)?.pop();
        if !read.is_empty() {
            return Err(malformed("end"));
        }
        let configuration = Self {
            group: GroupId(group),
            number,
            start,
            f,
            replicas,
            clients,
            operator,
            digest,
            permutation,
            history,
            limits,
        };
        configuration.validate()?;
        Ok(configuration)
    }

    /// The digest of the encoding: two parties with equal digests agree on everything.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(DigestAlgorithm::Sha256, &[b"quorate configuration 2", &self.to_bytes()])
    }
}

fn read_keys(
    read: &mut &[u8],
    field: &'static str,
    max: usize,
) -> Result<Vec<PublicKey>, InvalidConfiguration> {
    let malformed = InvalidConfiguration::Malformed { field };
    let count = read.try_get_u32().map_err(|_| malformed.clone())? as usize;
    if count > max {
        return Err(malformed);
    }
    let mut keys = Vec::new(); // grows with the bytes that are really there, not with `count`
    for _ in 0..count {
        let length = read.try_get_u32().map_err(|_| malformed.clone())? as usize;
        let (der, rest) = read.split_at_checked(length).ok_or_else(|| malformed.clone())?;
        keys.push(PublicKey::from_der(Bytes::copy_from_slice(der)).map_err(|_| malformed.clone())?);
        *read = rest;
    }
    Ok(keys)
}

/// `2f + 1` of a group of `n = 3f + 1` replicas.
pub(crate) fn quorum_of(n: usize) -> usize {
    n.saturating_sub(1) / 3 * 2 + 1
}

/// The arithmetic of a group: sizes of quorums, and who leads a view.
#[derive(Clone, Debug)]
pub struct Group {
    f: u32,
    primaries: Vec<ReplicaId>,
}

impl Group {
    /// The group that a valid configuration describes.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Self {
        let mut primaries: Vec<_> = (0..configuration.n()).map(ReplicaId).collect();
        if configuration.permutation == Permutation::Seeded {
            // Both halves of the name are stirred in one after the other: names whose halves are
            // alike must not come out alike.
            let (halves, _) = configuration.group.0.as_chunks::<8>();
            let mut state = 0;
            for half in halves {
                state = splitmix(&mut state) ^ u64::from_be_bytes(*half);
            }
            // Fisher–Yates; the modulo's bias is below 2^-57 and harms nobody.
            for last in (1..primaries.len()).rev() {
                let pick = splitmix(&mut state) % (last as u64 + 1);
                primaries.swap(last, usize::try_from(pick).expect("at most `last`"));
            }
        }
        Self { f: configuration.f, primaries }
    }

    /// The number of replicas, `3f + 1`.
    #[must_use]
    pub fn n(&self) -> u32 {
        3 * self.f + 1
    }

    /// How many replicas may lie.
    #[must_use]
    pub fn f(&self) -> u32 {
        self.f
    }

    /// `2f + 1`: any two of them share a correct replica (TOCS 4.2).
    #[must_use]
    pub fn quorum(&self) -> u32 {
        2 * self.f + 1
    }

    /// `f + 1`: at least one of them is correct (TOCS 4.2).
    #[must_use]
    pub fn weak_quorum(&self) -> u32 {
        self.f + 1
    }

    /// `2f`: the prepares that make a pre-prepare a prepared certificate (TOCS 4.3).
    #[must_use]
    pub fn prepare_quorum(&self) -> u32 {
        2 * self.f
    }

    /// The replica that leads `view`.
    #[must_use]
    pub fn primary(&self, view: View) -> ReplicaId {
        let index = view.0 % self.primaries.len() as u64;
        self.primaries[usize::try_from(index).expect("below the number of replicas")]
    }

    /// Whether there is such a replica.
    #[must_use]
    pub fn has(&self, replica: ReplicaId) -> bool {
        replica.0 < self.n()
    }

    /// All replicas, in the order of their indices.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..self.n()).map(ReplicaId)
    }
}

/// Sebastiano Vigna's splitmix64: one multiply-xor step per number, good enough to deal out turns.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A set of replicas; whoever is put in twice counts once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Voters(u128);

impl Voters {
    /// Puts a replica in; says whether it was not there before.
    pub fn insert(&mut self, replica: ReplicaId) -> bool {
        let bit = 1u128 << replica.0;
        let fresh = self.0 & bit == 0;
        self.0 |= bit;
        fresh
    }

    /// Takes a replica out.
    pub fn remove(&mut self, replica: ReplicaId) {
        self.0 &= !(1u128 << replica.0);
    }

    /// Whether the replica is in the set.
    #[must_use]
    pub fn has(self, replica: ReplicaId) -> bool {
        self.0 >> replica.0 & 1 == 1
    }

    /// How many replicas are in the set.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Its members, in the order of their indices.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..REPLICAS_MAX).map(ReplicaId).filter(move |replica| self.has(*replica))
    }
}

impl fmt::Debug for Voters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter().map(|replica| replica.0)).finish()
    }
}

impl FromIterator<ReplicaId> for Voters {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(replicas: I) -> Self {
        let mut voters = Self::default();
        for replica in replicas {
            voters.insert(replica);
        }
        voters
    }
}
