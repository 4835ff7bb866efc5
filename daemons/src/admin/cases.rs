//! What speaks against replicas, case by case, and when it is enough.

use super::witnesses::Said;
use crate::{
    fault::{FAULTS, Fault, FaultProof, How, PROOFS, Testimony},
    set::{Member, SetRecord},
    store::{Store, StoreError},
};
use quorate_pbft::{Configuration, Group, MisbehaviourProof, ReplicaId};
use std::collections::BTreeMap;

/// Kinds of wrong that only a primary can do.
const OF_PRIMARIES: [&str; 4] =
    ["conflicting-pre-prepares", "oversized-batch", "conflicting-new-views", "wrong-new-view"];

/// One case for each replica of a group that anybody accused; kept in the store.
#[derive(Debug, Default)]
pub(super) struct Cases(BTreeMap<(String, String), Fault>);

/// What came of an accusation.
pub(super) struct Heard {
    /// The case as it stands now.
    pub(super) fault: Fault,
    /// It stands otherwise than before.
    pub(super) news: bool,
    /// It convicts as of now.
    pub(super) convicts: bool,
    /// The proof, when it is the case's first.
    pub(super) proof: Option<FaultProof>,
}

impl Cases {
    /// The cases that were kept by an admin before this one.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let (kept, _) = store.list(FAULTS).await?;
        let faults = kept.iter().filter_map(|entry| serde_json::from_slice::<Fault>(&entry.value).ok());
        let cases = faults.filter_map(|fault| {
            let group = fault.lie.as_ref()?.group.clone();
            Some(((group, fault.pod.clone()), fault))
        });
        Ok(Self(cases.collect()))
    }

    /// Forgets cases of groups that are gone: nobody speaks of them any more.
    pub(super) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.0.retain(|(group, _), _| exists(group));
    }

    /// Convictions whose sets are still there.
    pub(super) fn convicted(&self) -> impl Iterator<Item = &Fault> {
        self.0.values().filter(|fault| fault.lie.as_ref().is_some_and(|lie| lie.convicted))
    }

    /// Hears a witness. None when it says nothing about a member of its set, or accuses itself.
    pub(super) fn hear(&mut self, set: &SetRecord, said: &Said) -> Option<Heard> {
        let chain = set.chain()?;
        let configuration = chain.latest();
        if said.accusation.configuration != configuration.number {
            return None; // the index was, or will be, somebody else's
        }
        let culprit = set.replicas.get(usize::try_from(said.accusation.culprit).ok()?)?;
        let witness = set.member(&said.pod)?;
        if witness.pod == culprit.pod {
            return None;
        }
        let proof = proof(configuration, said);
        let fault = self
            .0
            .entry((said.group.clone(), culprit.pod.clone()))
            .or_insert_with(|| open(set, configuration, culprit, said));
        let lie = fault.lie.as_mut().expect("is opened with it");
        let before = lie.clone();
        add(&mut lie.kinds, &said.accusation.kind);
        add(&mut lie.accusers, &witness.pod);
        let mut document = None;
        if let (Some(proof), None) = (proof, &lie.proven_by) {
            lie.proven_by = Some(witness.pod.clone());
            document = Some(FaultProof::new(&set.name, &chain, &proof));
        }
        // The worker can crash and nothing else; of replicas, one of f+1 is right.
        let replicas = lie.accusers.iter().filter(|pod| set.index_of(pod).is_some()).count();
        let worker = lie.accusers.contains(&set.worker.pod);
        lie.convicted = lie.proven_by.is_some() || worker || replicas >= lie.needed as usize;
        let (news, convicts) = (*lie != before, lie.convicted && !before.convicted);
        if OF_PRIMARIES.contains(&said.accusation.kind.as_str()) {
            fault.kind = 2;
        }
        Some(Heard { fault: fault.clone(), news, convicts, proof: document })
    }

    /// A case as it stands.
    pub(super) fn get(&self, fault: &Fault) -> Option<&Fault> {
        self.0.get(&(fault.lie.as_ref()?.group.clone(), fault.pod.clone()))
    }

    /// Writes down what else became of a case.
    pub(super) fn update(&mut self, fault: &Fault) {
        if let Some(lie) = &fault.lie {
            self.0.insert((lie.group.clone(), fault.pod.clone()), fault.clone());
        }
    }
}

/// Where the proof of a fault lies.
pub(super) fn proof_key(fault: &Fault) -> String {
    format!("{PROOFS}{}", fault.id)
}

fn open(set: &SetRecord, configuration: &Configuration, culprit: &Member, said: &Said) -> Fault {
    Fault {
        id: uuid::Uuid::now_v7(),
        // A backup, until what it did or who leads says otherwise.
        kind: 3,
        set: set.name.clone(),
        pod: culprit.pod.clone(),
        incarnation: culprit.incarnation,
        seen: said.accusation.detail.clone(),
        how: How::Lying,
        lie: Some(Testimony {
            group: said.group.clone(),
            kinds: Vec::new(),
            accusers: Vec::new(),
            needed: Group::new(configuration).weak_quorum(),
            proven_by: None,
            convicted: false,
        }),
        replaced_ms: None,
    }
}

/// The bytes of the proof that was said, if it is one. Whoever brings a wrong one is an accuser only.
fn proof(configuration: &Configuration, said: &Said) -> Option<bytes::Bytes> {
    let bytes = &said.accusation.proof;
    if bytes.is_empty() {
        return None;
    }
    let verified = MisbehaviourProof::from_bytes(bytes).and_then(|proof| proof.verify(configuration));
    match verified {
        Ok(culprit) if culprit == ReplicaId(said.accusation.culprit) => Some(bytes.clone()),
        Ok(culprit) => {
            tracing::warn!(pod = %said.pod, %culprit, "a proof convicts somebody else than it was brought for");
            None
        }
        Err(error) => {
            tracing::warn!(pod = %said.pod, %error, "a proof that was brought proves nothing");
            None
        }
    }
}

fn add(list: &mut Vec<String>, one: &str) {
    if !list.iter().any(|known| known == one) {
        list.push(one.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Replication,
        hex,
        proto::Accusation,
        set::{MemberState, SetState},
    };
    use quorate_dag::Function;
    use quorate_pbft::{
        GroupId, Sequence,
        crypto::{Digest, Domain, Identity, Keychain, Kind, Principal, SeedRng},
        evidence::{Lie, SignedState},
        message::state_statement,
    };

    struct Court {
        set: SetRecord,
        keychains: Vec<Keychain>,
        cases: Cases,
    }

    impl Court {
        fn new() -> Self {
            let mut rng = SeedRng::new([3; 32]);
            let identities: Vec<_> = (0..4).map(|_| Identity::generate(&mut rng).unwrap()).collect();
            let genesis = Configuration::genesis(
                GroupId([7; 16]),
                identities.iter().map(|identity| identity.public_key().clone()).collect(),
                vec![],
            );
            let keychains = (0..).zip(identities).map(|(index, identity)| {
                let me = Principal::Replica(ReplicaId(index));
                Keychain::new(genesis.scope(), genesis.public_keys(), me, identity)
            });
            let member = |pod: &str| Member {
                pod: format!("add-0-{pod}"),
                state: MemberState::Ready,
                address: None,
                transport: None,
                pid: None,
                incarnation: 1,
            };
            let set = SetRecord {
                name: "add-0".into(),
                function: Function::Add,
                replication: Replication::Byzantine { f: 1 },
                state: SetState::Ready,
                worker: member("worker"),
                replicas: (0..4).map(|index| member(&format!("replica-{index}"))).collect(),
                genesis: Some(hex::encode(&genesis.to_bytes())),
                successions: Vec::new(),
                succession: None,
                ordered_ms: 0,
                start_ms: None,
            };
            Self { set, keychains: keychains.collect(), cases: Cases::default() }
        }

        /// A witness accuses a replica.
        fn hear(&mut self, witness: &str, culprit: u32, kind: &str, proof: bytes::Bytes) -> Option<Heard> {
            self.hear_of(0, (witness, culprit), kind, proof)
        }

        /// The same about a member of some configuration.
        fn hear_of(
            &mut self,
            configuration: u64,
            (witness, culprit): (&str, u32),
            kind: &str,
            proof: bytes::Bytes,
        ) -> Option<Heard> {
            let detail = "it lied".into();
            let accusation = Accusation { culprit, kind: kind.into(), detail, proof, configuration };
            let said = Said {
                set: "add-0".into(),
                group: self.set.group().unwrap(),
                pod: format!("add-0-{witness}"),
                accusation,
            };
            self.cases.hear(&self.set, &said)
        }

        fn word(&mut self, witness: &str, culprit: u32) -> Option<Heard> {
            self.hear(witness, culprit, "conflicting-votes", bytes::Bytes::new())
        }

        /// Two states that a replica signed.
        fn proof(&self, culprit: u32) -> bytes::Bytes {
            let both = [1, 2].map(|byte| {
                let state = Digest([byte; 32]);
                let statement = state_statement(Sequence(128), &state);
                let keys = &self.keychains[culprit as usize];
                SignedState { state, signature: keys.sign(Domain::new(Kind::Checkpoint, 0), &statement) }
            });
            let lie = Lie::ConflictingStates { sequence: Sequence(128), both };
            let (group, culprit) = (GroupId([7; 16]), ReplicaId(culprit));
            MisbehaviourProof { group, configuration: 0, culprit, lie }.to_bytes()
        }
    }

    #[test]
    fn f_plus_1_accusers_convict_and_one_does_not() {
        let mut court = Court::new();
        let first = court.word("replica-1", 3).unwrap();
        assert!(first.news && !first.convicts);
        let again = court.word("replica-1", 3).unwrap();
        assert!(!again.news && !again.convicts, "nobody counts twice");
        let more = court.hear("replica-1", 3, "wrong-pages", bytes::Bytes::new()).unwrap();
        assert!(more.news && !more.convicts, "nor with something else");
        assert!(!court.word("replica-3", 1).unwrap().convicts, "another case");
        let second = court.word("replica-2", 3).unwrap();
        assert!(second.convicts);
        let lie = second.fault.lie.unwrap();
        assert_eq!(lie.accusers, ["add-0-replica-1", "add-0-replica-2"]);
        assert_eq!(lie.kinds, ["conflicting-votes", "wrong-pages"]);
        assert!(!court.word("replica-0", 3).unwrap().convicts, "once is enough");
    }

    #[test]
    fn the_worker_s_word_convicts() {
        let mut court = Court::new();
        assert!(court.word("worker", 0).unwrap().convicts);
    }

    #[test]
    fn a_proof_convicts_whoever_brings_it() {
        let mut court = Court::new();
        let proof = court.proof(3);
        let heard = court.hear("replica-1", 3, "conflicting-states", proof.clone()).unwrap();
        assert!(heard.convicts);
        assert_eq!(heard.proof.unwrap().verify(None).unwrap().replica, 3);
        let again = court.hear("replica-2", 3, "conflicting-states", proof).unwrap();
        assert!(again.proof.is_none(), "the first one is kept");
    }

    #[test]
    fn a_wrong_proof_is_one_accuser_s_word() {
        let mut court = Court::new();
        for wrong in [court.proof(2), bytes::Bytes::from_static(b"proof"), court.proof(3).slice(..40)] {
            let heard = court.hear("replica-1", 3, "conflicting-states", wrong).unwrap();
            assert!(!heard.convicts && heard.proof.is_none());
        }
    }

    #[test]
    fn strangers_and_self_accusers_are_not_heard() {
        let mut court = Court::new();
        assert!(court.word("replica-3", 3).is_none());
        assert!(court.word("replica-9", 3).is_none());
        assert!(court.word("replica-1", 4).is_none());
    }

    #[test]
    fn nobody_is_blamed_for_who_had_the_index_in_another_configuration() {
        let mut court = Court::new();
        let proof = court.proof(3);
        let of_another = court.hear_of(1, ("replica-1", 3), "conflicting-states", proof.clone());
        assert!(of_another.is_none());
        assert!(court.hear("replica-1", 3, "conflicting-states", proof).unwrap().convicts);
    }

    #[test]
    fn what_only_a_primary_can_do_is_fault_2() {
        let mut court = Court::new();
        let heard = court.hear("replica-1", 0, "conflicting-pre-prepares", bytes::Bytes::new());
        assert_eq!(heard.unwrap().fault.kind, 2);
        assert_eq!(court.word("replica-1", 2).unwrap().fault.kind, 3);
    }
}
