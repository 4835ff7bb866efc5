use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::crypto::{DigestAlgorithm, Domain, Keychain, Kind, Principal, Scope, SeedRng};
use crate::group::GroupId;
use crate::message::state_statement;

/// Keys are dear: all tests share a group, its operator, and those who come later.
struct Fixture {
    genesis: Configuration,
    members: Vec<Identity>,
    operator: Identity,
    newcomers: Vec<Identity>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let mut rng = SeedRng::new([9; 32]);
    let mut some =
        |count: usize| (0..count).map(|_| Identity::generate(&mut rng).unwrap()).collect::<Vec<_>>();
    let (members, mut operators, newcomers) = (some(4), some(1), some(2));
    let operator = operators.remove(0);
    let keys = members.iter().map(|identity| identity.public_key().clone()).collect();
    let mut genesis = Configuration::genesis(GroupId([3; 16]), keys, vec![]);
    genesis.operator = Some(operator.public_key().clone());
    Fixture { genesis, members, operator, newcomers }
});

fn key(identity: &Identity) -> PublicKey {
    identity.public_key().clone()
}

fn order(configuration: &Configuration, index: u32, newcomer: usize) -> Reconfigure {
    let replacements = vec![(ReplicaId(index), key(&FIXTURE.newcomers[newcomer]))];
    Reconfigure::sign(configuration, replacements, &FIXTURE.operator).unwrap()
}

/// What `signers` of `former` make of an order at a boundary.
fn succession(
    former: &Configuration,
    reconfigure: Reconfigure,
    start: u64,
    signers: &[(u32, &Identity)],
) -> Succession {
    let (start, [protocol, service]) = (Sequence(start), [Digest([1; 32]), Digest([2; 32])]);
    let mut succession = Succession { reconfigure, start, protocol, service, votes: [].into() };
    let next = succession.reconfigure.apply(former, start);
    let statement = state_statement(start, &succession.state(&next));
    let vote = |(index, identity): &(u32, &Identity)| {
        let (id, identity) = (ReplicaId(*index), Identity::clone(identity));
        let keys = Keychain::new(former.scope(), former.public_keys(), Principal::Replica(id), identity);
        (id, keys.sign(Domain::new(Kind::Checkpoint, 0), &statement))
    };
    succession.votes = signers.iter().map(vote).collect();
    succession
}

/// The first three of the genesis replace the fourth.
fn first() -> Succession {
    let Fixture { genesis, members, .. } = &*FIXTURE;
    let signers: Vec<_> = (0..3).zip(members).collect();
    succession(genesis, order(genesis, 3, 0), 256, &signers)
}

#[test]
fn a_chain_leads_from_the_genesis_to_the_latest_members() {
    let Fixture { genesis, members, newcomers, .. } = &*FIXTURE;
    let mut chain = Chain::new(genesis.clone());
    let next = chain.extend(first()).unwrap().clone();
    assert_eq!((next.number, next.start), (1, Sequence(256)));
    assert_eq!(next.replicas[3], key(&newcomers[0]));
    assert_eq!(next.replicas[..3], genesis.replicas[..3]);

    // The newcomer's signature counts in what follows, and the former member's does not.
    let reconfigure = order(&next, 0, 1);
    let signers = [(1, &members[1]), (2, &members[2]), (3, &newcomers[0])];
    let second = succession(&next, reconfigure.clone(), 512, &signers);
    let fenced = [(1, &members[1]), (2, &members[2]), (3, &members[3])];
    let forged = succession(&next, reconfigure, 512, &fenced);
    assert_eq!(chain.extend(forged), Err(InvalidSuccession::Votes { number: 2 }));
    chain.extend(second).unwrap();
    assert_eq!(chain.latest().number, 2);

    let read = Chain::from_bytes(&chain.to_bytes()).unwrap();
    assert_eq!(read, chain);
    assert_eq!(read.get(1), Some(&next));
    assert_eq!(read.get(3), None);
}

#[test]
fn a_succession_needs_a_quorum_of_the_former_members() {
    let Fixture { genesis, members, newcomers, .. } = &*FIXTURE;
    let order = || order(genesis, 3, 0);
    let votes = Err(InvalidSuccession::Votes { number: 1 });
    let by = |signers: &[(u32, &Identity)]| succession(genesis, order(), 256, signers).verify(genesis);
    assert_eq!(by(&[(0, &members[0]), (1, &members[1])]), votes);
    assert_eq!(by(&[(0, &members[0]), (1, &members[1]), (1, &members[1])]), votes);
    assert_eq!(by(&[(0, &members[0]), (1, &members[1]), (3, &newcomers[0])]), votes);
    assert_eq!(by(&[(0, &members[0]), (1, &members[1]), (9, &members[2])]), votes);
    assert!(by(&[(0, &members[0]), (1, &members[1]), (3, &members[3])]).is_ok(), "it is a member until then");
}

#[test]
fn a_succession_is_void_with_anything_else_in_it() {
    let Fixture { genesis, .. } = &*FIXTURE;
    let refused = |change: &dyn Fn(&mut Succession)| {
        let mut succession = first();
        change(&mut succession);
        succession.verify(genesis).unwrap_err()
    };
    assert_eq!(refused(&|s| s.protocol.0[0] ^= 1), InvalidSuccession::Votes { number: 1 });
    assert_eq!(refused(&|s| s.service.0[0] ^= 1), InvalidSuccession::Votes { number: 1 });
    assert_eq!(refused(&|s| s.start = Sequence(384)), InvalidSuccession::Votes { number: 1 });
    let (number, start) = (1, Sequence(300));
    assert_eq!(refused(&|s| s.start = start), InvalidSuccession::Start { number, start });
    assert_eq!(refused(&|s| s.reconfigure.number = 2), InvalidSuccession::Number { found: 2, known: 0 });
    let source = ReconfigureRefused::Signature;
    let other = key(&FIXTURE.newcomers[1]);
    let replaced = refused(&|s| s.reconfigure.replacements[0].1 = other.clone());
    assert_eq!(replaced, InvalidSuccession::Order { number, source });
    let later = refused(&|s| s.reconfigure.replacements[0].0 = ReplicaId(2));
    assert_eq!(later, InvalidSuccession::Order { number, source });
}

#[test]
fn each_order_that_is_not_followed_says_why() {
    use ReconfigureRefused as Refused;
    let Fixture { genesis, members, operator, newcomers } = &*FIXTURE;
    let fresh = |index: u32| (ReplicaId(index), key(&newcomers[0]));
    let sign = |replacements, by| Reconfigure::sign(genesis, replacements, by);
    assert_eq!(sign(vec![fresh(3)], &members[0]), Err(Refused::Signature));
    assert_eq!(sign(vec![], operator), Err(Refused::Count));
    assert_eq!(sign(vec![fresh(2), (ReplicaId(3), key(&newcomers[1]))], operator), Err(Refused::Count));
    assert_eq!(sign(vec![fresh(4)], operator), Err(Refused::Index));
    assert_eq!(sign(vec![(ReplicaId(3), key(&members[3]))], operator), Err(Refused::KnownKey));
    assert_eq!(sign(vec![(ReplicaId(3), key(operator))], operator), Err(Refused::KnownKey));

    let nobody = Configuration { operator: None, ..genesis.clone() };
    assert_eq!(Reconfigure::sign(&nobody, vec![fresh(3)], operator), Err(Refused::NoOperator));
    let made = order(genesis, 3, 0);
    let next = made.apply(genesis, Sequence(256));
    assert_eq!(made.check(&next, &next), Err(Refused::OtherBase), "it was followed already");
    let alike = Configuration { history: false, ..genesis.clone() };
    assert_eq!(made.check(&alike, genesis), Err(Refused::OtherBase), "of a group of another genesis");

    let wide = genesis.replicas.iter().chain(&genesis.replicas[..3]).cloned().collect();
    let mut seven = Configuration::genesis(GroupId([4; 16]), wide, vec![]);
    seven.operator.clone_from(&genesis.operator);
    let twice = vec![fresh(3), (ReplicaId(3), key(&newcomers[1]))];
    assert_eq!(Reconfigure::sign(&seven, twice, operator), Err(Refused::Index));
    let same = vec![fresh(2), fresh(3)];
    assert_eq!(Reconfigure::sign(&seven, same, operator), Err(Refused::KnownKey));
}

#[test]
fn results_are_read_as_they_were_written() {
    for refused in ReconfigureRefused::ALL {
        assert_eq!(Reconfigure::outcome(&Reconfigure::result(Err(refused))), Err(refused));
    }
    assert_eq!(Reconfigure::outcome(&Reconfigure::result(Ok(Sequence(8)))), Ok(Sequence(8)));
    for rubbish in [&[][..], &[0], &[99], b"hello", &[0; 10]] {
        assert_eq!(Reconfigure::outcome(rubbish), Err(ReconfigureRefused::Malformed));
    }
}

#[test]
fn what_outlives_a_configuration_is_scoped_by_the_group_alone() {
    let scope = |configuration| Scope { group: [1; 16], configuration, algorithm: DigestAlgorithm::Sha256 };
    let digest = |number, kind| scope(number).digest(Domain::new(kind, 0), &[b"x"]);
    for kind in [Kind::Page, Kind::Partition, Kind::State, Kind::Leaf, Kind::Branch, Kind::Root] {
        assert_eq!(digest(0, kind), digest(5, kind), "{kind:?}");
    }
    for kind in [Kind::Batch, Kind::Prepare, Kind::Request, Kind::Seal, Kind::Checkpoint, Kind::ViewChange] {
        assert_ne!(digest(0, kind), digest(5, kind), "{kind:?}");
    }
}

/// Sessions outlive a configuration, and what is tagged under them does not.
#[test]
fn tags_of_one_configuration_are_void_in_the_next() {
    let Fixture { genesis, members, .. } = &*FIXTURE;
    let mut pair = [0, 1].map(|index: u32| {
        let me = Principal::Replica(ReplicaId(index));
        let identity = members[index as usize].clone();
        let mut keys = Keychain::new(genesis.scope(), genesis.public_keys(), me, identity);
        keys.renew(1, [u8::try_from(index).unwrap() + 1; 32]);
        keys
    });
    let announced = pair.each_ref().map(|keys| keys.announcement().unwrap().clone());
    pair[0].accept(&announced[1]).unwrap();
    pair[1].accept(&announced[0]).unwrap();
    let [a, b] = [0, 1].map(|index| Principal::Replica(ReplicaId(index)));
    let kinds = [Kind::Prepare, Kind::Request, Kind::Reply, Kind::Status];
    let says = |keys: &Keychain, kind| keys.tag(b, Domain::new(kind, 0), b"said");
    let hears = |keys: &Keychain, kind, tag| keys.check_tag(a, Domain::new(kind, 0), b"said", tag).is_ok();
    let before = kinds.map(|kind| says(&pair[0], kind));
    let greeting = says(&pair[0], Kind::NewKey);
    for (kind, tag) in kinds.iter().zip(before) {
        assert!(hears(&pair[1], *kind, tag));
    }
    let next = first().verify(genesis).unwrap();
    pair[1].succeed(next.scope(), next.public_keys());
    for (kind, tag) in kinds.iter().zip(before) {
        assert!(!hears(&pair[1], *kind, tag), "{kind:?} was said in the former configuration");
    }
    assert!(hears(&pair[1], Kind::NewKey, greeting), "else whoever lags could not connect");
    pair[0].succeed(next.scope(), next.public_keys());
    for kind in kinds {
        assert!(hears(&pair[1], kind, says(&pair[0], kind)));
        assert!(!before.contains(&says(&pair[0], kind)));
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_order_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Reconfigure::from_bytes(&bytes);
        prop_assert!(Chain::from_bytes(&bytes).is_err());
    }

    #[test]
    fn a_damaged_chain_is_refused_or_another_genesis(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut chain = Chain::new(FIXTURE.genesis.clone());
        chain.extend(first()).unwrap();
        let mut bytes = chain.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Chain::from_bytes(&bytes).is_err(), "byte {} does not matter", at);
        // Cut before a step, it is the chain as it was before that step.
        bytes[at] ^= 1 << bit;
        bytes.truncate(at);
        if let Ok(shorter) = Chain::from_bytes(&bytes) {
            prop_assert_eq!(shorter, Chain::new(FIXTURE.genesis.clone()));
        }
    }
}
