//! A group whose connections are protected: by sessions of a toy, in which both ends say a word first.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Buf as _, BytesMut};
use quorate_pbft::runtime::{Broken, Protection, Secure, Session};

use super::*;

const WORD: &[u8; 8] = b"sesame!!";

/// Everybody who knows the word.
#[derive(Debug)]
struct Toy {
    word: &'static [u8; 8],
    sealed: Arc<AtomicU64>,
}

struct ToySession {
    word: &'static [u8; 8],
    said: bool,
    heard: bool,
    sealed: Arc<AtomicU64>,
}

impl Secure for Toy {
    fn dial(&self, _: ReplicaId) -> Box<dyn Session> {
        self.accept()
    }

    fn accept(&self) -> Box<dyn Session> {
        let sealed = Arc::clone(&self.sealed);
        Box::new(ToySession { word: self.word, said: false, heard: false, sealed })
    }
}

impl Session for ToySession {
    fn open(
        &mut self,
        wire: &mut BytesMut,
        plain: &mut BytesMut,
        answer: &mut BytesMut,
    ) -> Result<(), Broken> {
        if !std::mem::replace(&mut self.said, true) {
            answer.extend_from_slice(self.word);
        }
        if !self.heard {
            let Some(word) = wire.first_chunk::<8>() else { return Ok(()) };
            if word != self.word {
                return Err(Broken("that is not the word".into()));
            }
            wire.advance(8);
            self.heard = true;
        }
        plain.extend(wire.split().iter().map(|byte| byte ^ 0x5a));
        Ok(())
    }

    fn seal(&mut self, plain: &[u8], wire: &mut BytesMut) -> Result<(), Broken> {
        assert!(self.heard, "nothing is sealed before both ends know who they speak to");
        self.sealed.fetch_add(plain.len() as u64, Ordering::Relaxed);
        wire.extend(plain.iter().map(|byte| byte ^ 0x5a));
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.heard
    }
}

fn protected(word: &'static [u8; 8]) -> (TransportSettings, Arc<AtomicU64>) {
    let sealed = Arc::default();
    let toy = Toy { word, sealed: Arc::clone(&sealed) };
    (
        TransportSettings { protection: Protection(Some(Arc::new(toy))), ..TransportSettings::default() },
        sealed,
    )
}

#[tokio::test]
async fn protected_group_answers_and_all_that_it_says_is_sealed() {
    let (transport, sealed) = protected(WORD);
    let mut cluster = Cluster::start_with(true, transport).await;
    let client = cluster.client(0);
    // Larger than a piece, and more than one: what a flush leaves over comes in the end.
    let large = [vec![1; 200 << 10], vec![1; 100 << 10]];
    for (operation, sum) in large.into_iter().zip(1..) {
        let reply = timeout(PATIENCE, client.invoke(operation.into())).await.unwrap().unwrap();
        assert_eq!(reply.result[..], u64::to_be_bytes(sum));
    }
    assert!(sealed.load(Ordering::Relaxed) > 4 * (300 << 10), "the operations went to four replicas");
    cluster.stop(2).await;
    for sum in 3..=40 {
        assert_eq!(add(&client, 1).await, sum);
    }
    cluster.start_replica(2, false).await;
    let executed = cluster.status(0).borrow().last_executed;
    cluster.until(2, |status| status.last_executed >= executed).await;
}

#[tokio::test]
async fn who_does_not_know_the_word_is_refused_before_a_frame_is_read() {
    let (transport, _) = protected(WORD);
    let mut cluster = Cluster::start_with(false, transport).await;
    let inside = cluster.client(0);
    assert_eq!(add(&inside, 1).await, 1);
    // One who greets as if nothing were in between, and one who protects with another word.
    let mut stranger = TcpStream::connect(cluster.address(0)).await.unwrap();
    stranger.write_all(b"an ordinary greeting").await.unwrap();
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stranger.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, WORD, "it hears no more than the handshake");
    let refused = |status: &ReplicaStatus| status.refused.get("unprotected").copied().unwrap_or(0);
    cluster.until(0, |status| refused(status) >= 1).await;
    (cluster.transport, _) = protected(b"open it!");
    let outside = cluster.client(1);
    for index in 0..4 {
        cluster.until(index, |status| refused(status) >= 2 - u64::from(index > 0)).await;
    }
    assert_eq!(outside.status().borrow().connected.len(), 0);
    assert_eq!(add(&inside, 1).await, 2);
}
