use proptest::{collection::vec, prelude::*};

use super::*;
use crate::membership::{Reconfigure, Succession};
use crate::message::Batch;
use crate::replica::Record;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn request() -> impl Strategy<Value = Request> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let operations = vec((bytes(40), digest()), 1..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (numbers, operations, flags).prop_map(
        |((client, incarnation, floor, first, replier), operations, (read_only, receipt, named))| Request {
            named: operations.iter().filter(|_| named).map(|(_, digest)| *digest).collect(),
            operations: operations.into_iter().map(|(operation, _)| operation).collect(),
            client: ClientId(client),
            incarnation: Incarnation(incarnation),
            floor: Timestamp(floor),
            first: Timestamp(first),
            read_only,
            receipt,
            replier: ReplicaId(replier),
            reconfigure: receipt && !read_only,
        },
    )
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let relayed = (request(), bytes(64), any::<bool>()).prop_map(|(body, proof, signed)| Unverified {
        sender: Principal::Client(body.client),
        bytes: encode_request(&body),
        body,
        proof: if signed {
            Proof::Signature(Signature(proof))
        } else {
            Proof::Authenticator(Authenticator(proof))
        },
    });
    (any::<u64>(), any::<bool>(), vec(relayed, 0..4))
        .prop_map(|(time, seal, requests)| batch(time, seal, requests.into()))
}

fn cursor() -> impl Strategy<Value = PageCursor> {
    (any::<bool>(), any::<u64>()).prop_map(|(service, index)| PageCursor {
        space: if service { Space::Service } else { Space::Protocol },
        index,
    })
}

fn pages() -> impl Strategy<Value = Vec<Page>> {
    vec((cursor(), bytes(50)).prop_map(|(at, bytes)| Page { at, bytes }), 0..4)
}

fn branch() -> impl Strategy<Value = (u64, Branch)> {
    let children = proptest::collection::btree_map(0..16u8, digest(), 0..4);
    (any::<u64>(), any::<u32>(), children).prop_map(|(index, level, children)| {
        (index, Branch { level, children: children.into_iter().collect() })
    })
}

fn pre_prepare() -> impl Strategy<Value = PrePrepare> {
    (any::<u64>(), any::<u64>(), any_batch()).prop_map(|(view, sequence, batch)| PrePrepare {
        view: View(view),
        sequence: Sequence(sequence),
        batch,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let content = prop_oneof![bytes(30).prop_map(Content::Full), digest().prop_map(Content::Digest)];
    let ending = prop_oneof![Just(Ending::Done), Just(Ending::Panicked), Just(Ending::NotReadOnly)];
    (any::<u64>(), any::<u64>(), any::<u64>(), ending, content).prop_map(
        |(timestamp, sequence, position, ending, content)| Answer {
            timestamp: Timestamp(timestamp),
            sequence: Sequence(sequence),
            position,
            ending,
            content,
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    let vote = (any::<u32>(), bytes(256));
    (any::<u64>(), digest(), vec(vote, 0..4)).prop_map(|(sequence, state, votes)| Certificate {
        sequence: Sequence(sequence),
        state,
        votes: votes.into_iter().map(|(voter, vote)| (ReplicaId(voter), Signature(vote))).collect(),
    })
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = (any::<u64>(), any::<u64>(), digest()).prop_map(|(sequence, view, digest)| Claim {
        sequence: Sequence(sequence),
        view: View(view),
        digest,
    });
    vec(claim, 0..4)
}

fn clients() -> impl Strategy<Value = Vec<ClientId>> {
    proptest::collection::btree_set(0..1u32 << 16, 0..4)
        .prop_map(|clients| clients.into_iter().map(ClientId).collect())
}

fn signed<M>(sender: u32, body: M, bytes: Bytes, signature: Bytes) -> Unverified<M> {
    let proof = Proof::Signature(Signature(signature));
    Unverified { sender: Principal::Replica(ReplicaId(sender)), body, bytes, proof }
}

fn view_change() -> impl Strategy<Value = Unverified<ViewChange>> {
    let stable = proptest::option::of(certificate());
    (any::<u32>(), any::<u64>(), stable, claims(), claims(), clients(), bytes(256)).prop_map(
        |(sender, view, stable, prepared, pre_prepared, marks, signature)| {
            let body = ViewChange { view: View(view), stable, prepared, pre_prepared, marks };
            let bytes = encode_view_change(&body);
            signed(sender, body, bytes, signature)
        },
    )
}

fn new_view() -> impl Strategy<Value = Unverified<NewView>> {
    (any::<u32>(), any::<u64>(), vec(view_change(), 0..4), bytes(256)).prop_map(
        |(sender, view, view_changes, signature)| {
            let body = NewView { view: View(view), view_changes };
            let bytes = encode_new_view(&body);
            signed(sender, body, bytes, signature)
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let slot = (any::<u64>(), any::<u64>(), digest()).boxed();
    let path = (any::<u64>(), any::<u64>(), vec(digest(), 0..5))
        .prop_map(|(timestamp, position, path)| LeafPath { timestamp: Timestamp(timestamp), position, path });
    prop_oneof![
        request().prop_map(Message::Request),
        pre_prepare().prop_map(|whole| Message::PrePrepare(whole.in_brief())),
        slot.clone().prop_map(|(view, sequence, digest)| {
            Message::Prepare(Prepare { view: View(view), sequence: Sequence(sequence), digest })
        }),
        slot.clone().prop_map(|(view, sequence, digest)| {
            Message::Commit(Commit { view: View(view), sequence: Sequence(sequence), digest })
        }),
        (any::<u64>(), any::<u32>(), any::<u64>(), vec(answer(), 0..4)).prop_map(
            |(view, client, incarnation, answers)| {
                Message::Reply(Reply {
                    view: View(view),
                    client: ClientId(client),
                    incarnation: Incarnation(incarnation),
                    answers,
                })
            }
        ),
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(client, incarnation, first, sign)| {
                let (client, incarnation) = (ClientId(client), Incarnation(incarnation));
                Message::Busy(Busy { client, incarnation, first: Timestamp(first), sign })
            }
        ),
        vec((any::<u32>().prop_map(ClientId), digest()), 0..4)
            .prop_map(|requests| Message::Vouch(Vouch { requests })),
        (slot.clone(), bytes(20)).prop_map(|((view, sequence, digest), checked)| {
            Message::Doubt(Doubt { view: View(view), sequence: Sequence(sequence), digest, checked })
        }),
        (slot.clone(), digest(), bytes(256), bytes(256)).prop_map(
            |((sequence, size, state), root, signature, vote)| {
                let (signature, vote) = (Signature(signature), Signature(vote));
                Message::Checkpoint(Checkpoint {
                    sequence: Sequence(sequence),
                    state,
                    size,
                    root,
                    signature,
                    vote,
                })
            }
        ),
        certificate().prop_map(Message::Stable),
        view_change().prop_map(|signed| Message::ViewChange(signed.body)),
        new_view().prop_map(|signed| Message::NewView(signed.body)),
        slot.clone().prop_map(|(sequence, _, digest)| {
            Message::Want(Want { sequence: Sequence(sequence), digest })
        }),
        slot.clone().prop_map(|(sequence, _, digest)| {
            Message::Committed(Committed { sequence: Sequence(sequence), digest })
        }),
        pre_prepare().prop_map(|PrePrepare { sequence, batch, .. }| Message::Body(Body { sequence, batch })),
        (any::<u32>(), any::<u64>(), slot, bytes(256), vec(path, 0..3)).prop_map(
            |(client, incarnation, (sequence, size, root), signature, paths)| {
                Message::Seal(Seal {
                    client: ClientId(client),
                    incarnation: Incarnation(incarnation),
                    sequence: Sequence(sequence),
                    size,
                    root,
                    signature: Signature(signature),
                    paths,
                })
            }
        ),
        (any::<[u64; 4]>(), bytes(20)).prop_map(|([view, active, stable, executed], slots)| {
            let (stable, executed) = (Sequence(stable), Sequence(executed));
            Message::Status(Status { view: View(view), active: View(active), stable, executed, slots })
        }),
        (any::<u64>(), cursor(), any::<u32>(), vec(any::<u64>(), 0..4)).prop_map(
            |(sequence, PageCursor { space, .. }, level, indexes)| {
                Message::Fetch(Fetch { sequence: Sequence(sequence), space, level, indexes })
            }
        ),
        any::<u64>().prop_map(|number| Message::Configured(Configured { number })),
        succession().prop_map(Message::Succession),
        (any::<u64>(), cursor(), any::<u32>(), vec(branch(), 0..4)).prop_map(
            |(sequence, PageCursor { space, .. }, level, partitions)| {
                Message::MetaData(MetaData { sequence: Sequence(sequence), space, level, partitions })
            }
        ),
        (any::<u64>(), pages())
            .prop_map(|(sequence, pages)| Message::Data(Data { sequence: Sequence(sequence), pages })),
    ]
}

fn succession() -> impl Strategy<Value = Succession> {
    let order = (any::<u64>(), digest(), 0..3u32, bytes(64));
    (order, certificate(), digest(), digest()).prop_map(|(order, certificate, protocol, service)| {
        let (number, replaces, count, signature) = order;
        let key = |index: u32| (ReplicaId(index), crate::crypto::PublicKey::fixture(index));
        let replacements = (0..count).map(key).collect();
        let signature = Signature(signature);
        Succession {
            reconfigure: Reconfigure { number, replaces, replacements, signature },
            start: certificate.sequence,
            protocol,
            service,
            votes: certificate.votes,
        }
    })
}

fn record() -> impl Strategy<Value = Record> {
    let signed = (certificate(), view_change(), new_view(), succession());
    let clients = (clients(), clients());
    (0..13, any::<u64>(), any::<u64>(), digest(), pre_prepare(), pages(), signed, clients).prop_map(
        |(
            kind,
            view,
            sequence,
            digest,
            pre_prepare,
            pages,
            (stable, view_change, new_view, succession),
            marks,
        )| {
            let (view, sequence, state) = (View(view), Sequence(sequence), digest);
            match kind {
                0 => Record::PrePrepared(pre_prepare),
                1 => Record::Prepared { view, sequence, digest },
                2 => Record::Committed { view, sequence, digest },
                3 => Record::Checkpoint { sequence, state },
                4 => Record::Stable(stable),
                8 => Record::ViewChange(view_change),
                9 => Record::NewView(new_view),
                10 => Record::Learned { sequence, batch: pre_prepare.batch },
                11 => Record::Succession(succession.into()),
                5 => Record::SnapshotBegin { sequence, successions: vec![succession] },
                12 => Record::Marks { bound: marks.0, suspected: marks.1 },
                6 => Record::SnapshotPages { pages },
                _ => Record::SnapshotEnd(stable),
            }
        },
    )
}

proptest! {
    #[test]
    fn a_request_under_another_client_s_name_is_refused(batch in any_batch(), shift in 1..u32::MAX) {
        let mut body = pb::Batch::decode(batch.bytes).unwrap();
        prop_assume!(!body.requests.is_empty());
        body.requests[0].client = body.requests[0].client.wrapping_add(shift);
        prop_assert!(decode_batch(body.encode_to_vec().into()).is_err());
    }
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(
        body in message(), client in any::<bool>(), index in any::<u32>(),
        form in 0..4, tag in any::<[u8; 16]>(), tags in bytes(64),
    ) {
        let proof = match form {
            0 => Proof::Tag(Tag(tag)),
            1 => Proof::Authenticator(Authenticator(tags)),
            2 => Proof::Nothing,
            _ => Proof::Signature(Signature(tags)),
        };
        let bytes = encode_body(&body);
        let sent = Unverified { sender: principal_in(client, index), body, bytes, proof };
        let encoded = encode(&sent);
        // Written by hand, as the generated type would write it.
        let envelope = pb::Envelope::decode(encoded.clone()).unwrap();
        prop_assert_eq!(envelope.encode_to_vec(), &encoded[..]);
        prop_assert_eq!(decode(encoded), Ok(sent));
    }

    #[test]
    fn every_record_survives_the_journal(record in record()) {
        prop_assert_eq!(decode_record(encode_record(&record)), Ok(record));
    }

    #[test]
    fn damaged_bytes_give_a_message_or_an_error(
        body in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let bytes = encode_body(&body);
        let proof = Proof::Tag(Tag([1; 16]));
        let sent = Unverified { sender: principal_in(true, 0), body, bytes, proof };
        let mut bytes = encode(&sent).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = decode(bytes.clone().into()) {
            prop_assert_eq!(decode(encode(&message)), Ok(message));
        }
        bytes.truncate(at);
        let _ = decode(bytes.into());
    }
}

#[test]
fn fields_out_of_range_are_named() {
    let envelope = |kind: Kind, body: Vec<u8>| {
        let proof = Some(pb::envelope::Proof::Tag(vec![0; 16].into()));
        let kind = kind as u32;
        pb::Envelope { kind, body: body.into(), proof, ..Default::default() }.encode_to_vec()
    };
    let refused = |bytes: Vec<u8>| decode(bytes.into()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused(vec![]), "proof is missing");
    assert_eq!(refused(envelope(Kind::Batch, vec![])), "kind is 32, which means nothing");
    assert_eq!(refused(envelope(Kind::Request, vec![])), "operations is missing");
    assert_eq!(refused(envelope(Kind::Prepare, vec![])), "digest of 0: allowed are 32");
    let fetch = pb::Fetch { sequence: 1, space: 9, level: 0, indexes: vec![] }.encode_to_vec();
    assert_eq!(refused(envelope(Kind::Fetch, fetch)), "space is 9, which means nothing");
    let fetch = pb::Fetch { sequence: 1, space: 0, level: 0, indexes: vec![7; 65] }.encode_to_vec();
    assert_eq!(refused(envelope(Kind::Fetch, fetch)), "indexes of 65: allowed are 64");
    let partition = |present, bytes| {
        let digests = vec![1; bytes].into();
        let partitions = vec![pb::Partition { index: 0, level: 1, present, digests }];
        let body = pb::MetaData { sequence: 1, space: 0, level: 1, partitions };
        refused(envelope(Kind::MetaData, body.encode_to_vec()))
    };
    assert_eq!(partition(0b101, 32), "digests of 32: allowed are 64");
    assert_eq!(partition(1 << 16, 32), "present is 65536, which means nothing");
    let marks = vec![0; CLIENTS_MAX / 8 + 1].into();
    let marked = pb::ViewChange { marks, ..Default::default() }.encode_to_vec();
    assert_eq!(refused(envelope(Kind::ViewChange, marked)), "marks of 8193: allowed are 8192");
}
