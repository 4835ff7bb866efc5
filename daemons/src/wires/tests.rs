//! Doors, and the sessions of the PBFT transport.

use super::*;
use crate::tls::Authority;
use bytes::BytesMut;
use quorate_pbft::{
    ReplicaId,
    runtime::{Broken, Session},
};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Platform {
    authority: Authority,
    _folder: tempfile::TempDir,
}

impl Platform {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { authority: Authority::at(folder.path()).unwrap(), _folder: folder }
    }

    fn wires(&self, role: Role, pod: &str) -> Wires {
        let own = Name::of_pod(pod);
        Wires::with(self.authority.issue(role, Some(&own)).unwrap().credentials().unwrap())
    }

    fn control(&self) -> Wires {
        self.wires(Role::Control, "control")
    }

    fn worker(&self) -> Wires {
        self.wires(Role::Worker, "add-0-worker")
    }
}

async fn door(wires: &Wires) -> (Incoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (wires.listen(listener, "worker", &[Role::Control]).unwrap(), address)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Comes in at the door, and is heard.
async fn comes_in(wires: &Wires, door: &mut Incoming, address: SocketAddr) {
    let name = Role::Worker.name();
    let (dialled, accepted) = tokio::join!(wires.dial(address, &name), door.next());
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    dialled.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    tokio::time::timeout(PATIENCE, accepted.read_exact(&mut heard)).await.expect("in time").unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn who_says_nothing_or_rubbish_keeps_nobody_out() {
    let platform = Platform::new();
    let (mut door, address) = door(&platform.worker()).await;
    // More than there may be handshakes at once, and none of them goes on.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for stream in silent.iter_mut().step_by(3) {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    tokio::time::timeout(PATIENCE, comes_in(&platform.control(), &mut door, address)).await.expect("in time");
    // The oldest were given up: what they read is their end.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, silent[1].read_to_end(&mut rest)).await.expect("in time");
    assert!(closed.is_err() || rest.is_empty());
}

#[tokio::test]
async fn plain_text_is_refused_and_plain_wires_understand_each_other() {
    let platform = Platform::new();
    let (_door, address) = door(&platform.worker()).await;
    let mut plain = Wires::plain().dial(address, &Role::Worker.name()).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said)).await.expect("it ends");
    // At most an alert (RFC 8446, section 6).
    assert!(said.is_empty() || said[0] == 21, "{said:?}");
    let (mut door, address) = self::door(&Wires::plain()).await;
    comes_in(&Wires::plain(), &mut door, address).await;
}

#[tokio::test]
async fn a_channel_reaches_whom_it_means_and_nobody_else() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let platform = Platform::new();
    let (door, address) = door(&platform.worker()).await;
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(door));
    let ask = async |wires: Wires, whom| {
        let channel = wires.channel(&address.to_string(), whom, PATIENCE).unwrap();
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop)
    };
    ask(platform.control(), Name::of_pod("add-0-worker")).await.expect("answers");
    for (wires, whom) in [
        (platform.control(), Name::of_pod("add-1-worker")),
        (platform.control(), Role::Replica.name()),
        (platform.worker(), Name::of_pod("add-0-worker")),
        (Platform::new().control(), Name::of_pod("add-0-worker")),
        (Wires::plain(), Name::of_pod("add-0-worker")),
    ] {
        ask(wires, whom).await.expect_err("refused");
    }
}

#[tokio::test]
async fn a_door_that_is_dropped_is_closed() {
    let platform = Platform::new();
    let (door, address) = door(&platform.worker()).await;
    drop(door);
    tokio::time::timeout(PATIENCE, async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("in time");
}

/// One end of a session with what it has received.
struct End {
    session: Box<dyn Session>,
    wire: BytesMut,
    plain: BytesMut,
}

impl End {
    fn new(session: Box<dyn Session>) -> Self {
        Self { session, wire: BytesMut::new(), plain: BytesMut::new() }
    }

    /// Takes in what has come, and says what is to go to the other end.
    fn open(&mut self) -> (BytesMut, Result<(), Broken>) {
        let mut answer = BytesMut::new();
        let opened = self.session.open(&mut self.wire, &mut self.plain, &mut answer);
        (answer, opened)
    }
}

/// Carries bytes both ways, in pieces of this size, until nobody has anything to say.
fn carry(ends: &mut [End; 2], piece: usize) -> Result<(), Broken> {
    let mut quiet = 0;
    let mut from = 0;
    while quiet < 2 {
        let (answer, said) = ends[from].open();
        let mut spoke = !answer.is_empty();
        for piece in answer.chunks(piece) {
            ends[1 - from].wire.extend_from_slice(piece);
            let (more, heard) = ends[1 - from].open();
            ends[from].wire.extend_from_slice(&more);
            spoke |= !more.is_empty();
            // Who refuses says why, and the other end hears that.
            said.clone().and(heard)?;
        }
        said?;
        quiet = if spoke { 0 } else { quiet + 1 };
        from = 1 - from;
    }
    Ok(())
}

fn sessions(dials: &Wires, accepts: &Wires) -> [End; 2] {
    let of = |wires: &Wires| wires.protection("add-0").0.expect("protected");
    [End::new(of(dials).dial(ReplicaId(2))), End::new(of(accepts).accept())]
}

/// What becomes of a connection between these two.
fn between(dials: &Wires, accepts: &Wires) -> Result<[End; 2], Broken> {
    let mut ends = sessions(dials, accepts);
    carry(&mut ends, usize::MAX)?;
    assert!(ends.iter().all(|end| end.session.is_ready()));
    Ok(ends)
}

#[test]
fn what_replicas_say_arrives_whole_in_whatever_pieces() {
    let platform = Platform::new();
    let (one, two) =
        (platform.wires(Role::Replica, "add-0-replica-0"), platform.wires(Role::Replica, "add-0-replica-2"));
    for piece in [1, 7, 1000, usize::MAX] {
        let mut ends = sessions(&one, &two);
        carry(&mut ends, piece).expect("they know each other");
        for size in [1, 100, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 300_000] {
            for from in [0, 1] {
                let said: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let mut wire = BytesMut::new();
                ends[from].session.seal(&said, &mut wire).expect("ready");
                assert!(!wire.windows(8).any(|window| said.len() > 8 && window == &said[..8]), "hidden");
                for piece in wire.chunks(piece.max(64)) {
                    ends[1 - from].wire.extend_from_slice(piece);
                    let (answer, opened) = ends[1 - from].open();
                    opened.expect("good");
                    ends[from].wire.extend_from_slice(&answer);
                }
                assert_eq!(ends[1 - from].plain.split(), said, "{size} bytes in pieces of {piece}");
            }
        }
    }
}

#[test]
fn the_pbft_transport_is_for_this_platform_s_replicas_and_workers() {
    let (platform, other) = (Platform::new(), Platform::new());
    let replica = platform.wires(Role::Replica, "add-0-replica-2");
    for welcome in [platform.worker(), platform.wires(Role::Replica, "add-0-replica-1")] {
        between(&welcome, &replica).map(drop).expect("let in");
    }
    for (dials, accepts, why) in [
        (platform.control(), &replica, "another role than replica or worker"),
        (other.worker(), &replica, "UnknownIssuer"),
        // Who is at the address of replica 2 is somebody else.
        (platform.worker(), &platform.wires(Role::Replica, "add-0-replica-3"), "somebody else"),
        (platform.worker(), &platform.wires(Role::Replica, "mul-0-replica-2"), "somebody else"),
        (platform.worker(), &platform.wires(Role::Worker, "add-0-worker"), "somebody else"),
    ] {
        let Broken(said) = between(&dials, accepts).map(drop).expect_err("refused");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn plain_text_and_cut_or_changed_records_end_a_session() {
    let platform = Platform::new();
    let replica = platform.wires(Role::Replica, "add-0-replica-2");
    let mut end = End::new(replica.protection("add-0").0.unwrap().accept());
    end.wire.extend_from_slice(b"QRT1 hello, hello, hello, hello");
    let (answer, opened) = end.open();
    assert!(opened.expect_err("refused").0.contains("speaks no TLS"));
    assert_eq!(answer.first(), Some(&21), "an alert says why");
    let [mut worker, mut replica] = between(&platform.worker(), &replica).unwrap();
    let mut wire = BytesMut::new();
    worker.session.seal(b"an operation", &mut wire).unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    replica.wire.extend_from_slice(&wire);
    let (_, opened) = replica.open();
    assert!(opened.is_err() && replica.plain.is_empty());
    // And it stays ended.
    assert!(replica.open().1.is_err());
    assert!(replica.session.seal(b"more", &mut BytesMut::new()).is_err());
}

#[test]
fn nothing_is_sealed_before_both_ends_know_each_other() {
    let platform = Platform::new();
    let replica = platform.wires(Role::Replica, "add-0-replica-2");
    let mut end = End::new(replica.protection("add-0").0.unwrap().accept());
    assert!(end.open().1.is_ok() && !end.session.is_ready());
    assert!(end.session.seal(b"early", &mut BytesMut::new()).is_err());
}

#[test]
fn a_stranger_s_first_words_are_not_listened_to() {
    // The last part of the handshake and the first frame may come in one piece: the role is looked at first.
    let platform = Platform::new();
    let replica = platform.wires(Role::Replica, "add-0-replica-2");
    let mut ends = sessions(&platform.control(), &replica);
    let (hello, opened) = ends[0].open();
    opened.unwrap();
    ends[1].wire.extend_from_slice(&hello);
    let (flight, opened) = ends[1].open();
    opened.unwrap();
    ends[0].wire.extend_from_slice(&flight);
    let (mut last, opened) = ends[0].open();
    opened.unwrap();
    ends[0].session.seal(b"a frame", &mut last).unwrap();
    ends[1].wire.extend_from_slice(&last);
    assert!(ends[1].open().1.expect_err("refused").0.contains("another role"));
    assert!(!ends[1].session.is_ready());
}
