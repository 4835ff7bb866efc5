//! What every queue must do.

use super::{Message, Queue, QueueError};
use crate::conformance::{Subject, refused, soon};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The longest that a long poll in these checks lasts when nothing comes.
const WAIT: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(2);
const NO_WAIT: Duration = Duration::ZERO;

/// A test for each check.
#[doc(hidden)]
#[macro_export]
macro_rules! queue_conformance {
    ($subject:expr) => {
        $crate::conformance_tests!(queue, $subject;
            what_is_sent_is_received_once_while_leased,
            messages_come_about_in_the_order_sent,
            receive_takes_no_more_than_asked,
            an_empty_queue_gives_nothing_at_once,
            an_empty_queue_gives_nothing_when_the_wait_is_over,
            a_waiting_receiver_gets_what_is_sent,
            waiting_receivers_share_what_is_sent,
            a_waiting_receiver_gets_what_lapses,
            a_deleted_message_does_not_come_back,
            deleting_twice_is_harmless,
            a_lapsed_message_comes_back_with_its_count,
            a_lapsed_message_lets_waiting_ones_pass,
            an_extended_lease_lasts_from_then_on,
            extending_by_nothing_gives_the_message_back,
            a_lapsed_handle_works_until_another_receives,
            a_handle_is_void_once_another_received,
            a_strange_handle_names_nothing,
            a_handle_of_another_queue_names_nothing,
            a_message_received_too_often_is_put_aside,
            dead_letters_are_listed_oldest_first,
            redriven_letters_are_received_anew,
            depth_counts_waiting_in_flight_and_dead,
            a_message_of_one_mebibyte_passes,
            a_message_of_any_bytes_passes,
            a_larger_message_is_refused_and_none_of_its_batch_is_sent,
            an_empty_batch_is_sent,
            queues_do_not_mix,
            a_queue_asked_for_twice_is_one,
            queues_are_listed_by_name,
            every_message_reaches_exactly_one_of_many_receivers,
        );
    };
}

fn bodies(got: &[Message]) -> Vec<&[u8]> {
    got.iter().map(|message| &message.body[..]).collect()
}

async fn send(queue: &dyn Queue, bodies: &[&str]) {
    queue
        .send(bodies.iter().map(|body| Bytes::copy_from_slice(body.as_bytes())).collect())
        .await
        .expect("sent");
}

async fn take(queue: &dyn Queue, max: usize) -> Vec<Message> {
    queue.receive(max, LEASE, NO_WAIT).await.expect("received")
}

/// Takes one that must be there.
async fn one(queue: &dyn Queue) -> Message {
    let mut got = take(queue, 1).await;
    assert_eq!(got.len(), 1, "one message is there");
    got.remove(0)
}

async fn assert_empty(queue: &dyn Queue) {
    let depth = queue.depth().await.expect("depth");
    assert_eq!((depth.waiting, depth.in_flight, depth.dead), (0, 0, 0));
    assert_eq!(depth.oldest.unwrap_or_default(), Duration::ZERO);
}

/// Waits for one in a task of its own, and makes sure that it does wait before it returns.
async fn waiting(queue: &Arc<dyn Queue>) -> tokio::task::JoinHandle<Vec<Message>> {
    let waiter = Arc::clone(queue);
    let task = tokio::spawn(async move { waiter.receive(1, LEASE, WAIT).await.expect("received") });
    tokio::task::yield_now().await;
    // A receive of our own behind it is answered after it was looked at.
    assert!(take(&**queue, 1).await.is_empty());
    task
}

pub async fn what_is_sent_is_received_once_while_leased(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    assert_eq!((&got.body[..], got.receives), (&b"a"[..], 1));
    assert!(take(&*queue, 10).await.is_empty());
}

pub async fn messages_come_about_in_the_order_sent(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a", "b"]).await;
    subject.time.pass(Duration::from_millis(5)).await;
    send(&*queue, &["c"]).await;
    assert_eq!(bodies(&take(&*queue, 10).await), [b"a", b"b", b"c"]);
}

pub async fn receive_takes_no_more_than_asked(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a", "b", "c"]).await;
    assert_eq!(take(&*queue, 0).await.len(), 0);
    assert_eq!(take(&*queue, 2).await.len(), 2);
    assert_eq!(take(&*queue, 2).await.len(), 1);
}

pub async fn an_empty_queue_gives_nothing_at_once(subject: &Subject) {
    let queue = subject.queue("q").await;
    assert!(soon(queue.receive(10, LEASE, NO_WAIT)).await.expect("received").is_empty());
}

pub async fn an_empty_queue_gives_nothing_when_the_wait_is_over(subject: &Subject) {
    let queue = subject.queue("q").await;
    let wait = Duration::from_millis(20);
    assert!(soon(queue.receive(10, LEASE, wait)).await.expect("received").is_empty());
}

pub async fn a_waiting_receiver_gets_what_is_sent(subject: &Subject) {
    let queue = subject.queue("q").await;
    let waiter = waiting(&queue).await;
    send(&*queue, &["a"]).await;
    assert_eq!(bodies(&soon(waiter).await.expect("no panic")), [b"a"]);
}

pub async fn waiting_receivers_share_what_is_sent(subject: &Subject) {
    let queue = subject.queue("q").await;
    let (first, second) = (waiting(&queue).await, waiting(&queue).await);
    send(&*queue, &["a", "b"]).await;
    let mut got = soon(first).await.expect("no panic");
    got.extend(soon(second).await.expect("no panic"));
    got.sort_by(|a, b| a.body.cmp(&b.body));
    assert_eq!(bodies(&got), [b"a", b"b"]);
}

pub async fn a_waiting_receiver_gets_what_lapses(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    one(&*queue).await;
    let waiter = waiting(&queue).await;
    subject.time.pass(LEASE).await;
    let got = soon(waiter).await.expect("no panic");
    assert_eq!((&got[0].body[..], got[0].receives), (&b"a"[..], 2));
}

pub async fn a_deleted_message_does_not_come_back(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a", "b"]).await;
    let got = take(&*queue, 2).await;
    queue.delete(&[got[0].handle.clone(), got[1].handle.clone()]).await.expect("deleted");
    subject.time.pass(LEASE).await;
    assert!(take(&*queue, 10).await.is_empty());
    assert_empty(&*queue).await;
}

pub async fn deleting_twice_is_harmless(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    queue.delete(std::slice::from_ref(&got.handle)).await.expect("deleted");
    send(&*queue, &["b"]).await;
    queue.delete(&[got.handle.clone(), got.handle]).await.expect("deleted again");
    assert_eq!(one(&*queue).await.body, "b");
}

pub async fn a_lapsed_message_comes_back_with_its_count(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    for receives in 1..=3 {
        let got = one(&*queue).await;
        assert_eq!(got.receives, receives);
        assert!(take(&*queue, 1).await.is_empty());
        subject.time.pass(LEASE).await;
    }
}

pub async fn a_lapsed_message_lets_waiting_ones_pass(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    one(&*queue).await;
    send(&*queue, &["b"]).await;
    subject.time.pass(LEASE).await;
    let mut got = take(&*queue, 1).await;
    got.extend(take(&*queue, 1).await);
    assert_eq!(bodies(&got).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([&b"a"[..], b"b"]));
}

pub async fn an_extended_lease_lasts_from_then_on(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    subject.time.pass(LEASE / 2).await;
    queue.extend(std::slice::from_ref(&got.handle), LEASE).await.expect("extended");
    subject.time.pass(LEASE / 2).await;
    assert!(take(&*queue, 1).await.is_empty(), "the first lease is over, the second is not");
    subject.time.pass(LEASE / 2).await;
    assert_eq!(one(&*queue).await.receives, 2);
}

pub async fn extending_by_nothing_gives_the_message_back(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    let waiter = waiting(&queue).await;
    queue.extend(&[got.handle], NO_WAIT).await.expect("extended");
    assert_eq!(bodies(&soon(waiter).await.expect("no panic")), [b"a"]);
}

pub async fn a_lapsed_handle_works_until_another_receives(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    subject.time.pass(LEASE).await;
    queue.extend(std::slice::from_ref(&got.handle), LEASE).await.expect("extended");
    assert!(take(&*queue, 1).await.is_empty());
    subject.time.pass(LEASE).await;
    queue.delete(&[got.handle]).await.expect("deleted");
    assert!(take(&*queue, 1).await.is_empty());
}

pub async fn a_handle_is_void_once_another_received(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    let late = one(&*queue).await;
    subject.time.pass(LEASE).await;
    let newer = one(&*queue).await;
    assert_ne!(late.handle, newer.handle);
    queue.extend(std::slice::from_ref(&late.handle), LEASE * 10).await.expect("passed over");
    queue.delete(&[late.handle]).await.expect("passed over");
    subject.time.pass(LEASE).await;
    assert_eq!(one(&*queue).await.receives, 3, "neither deleted nor extended");
}

pub async fn a_strange_handle_names_nothing(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    for strange in ["", "-", "1", "1-", "-1", "x-y", "99999999999999999999-1", "1-0", "é-1"] {
        let strange = [super::Handle(strange.into())];
        queue.extend(&strange, LEASE).await.expect("passed over");
        queue.delete(&strange).await.expect("passed over");
    }
    assert_eq!(one(&*queue).await.body, "a");
}

pub async fn a_handle_of_another_queue_names_nothing(subject: &Subject) {
    let (queue, other) = (subject.queue("q").await, subject.queue("r").await);
    send(&*queue, &["a"]).await;
    let got = one(&*queue).await;
    other.delete(&[got.handle]).await.expect("passed over");
    subject.time.pass(LEASE).await;
    assert_eq!(one(&*queue).await.body, "a");
}

/// Receives what is there and lets it lapse, until it is put aside.
async fn exhaust(subject: &Subject, queue: &dyn Queue) {
    for _ in 0..5 {
        assert!(!take(queue, 10).await.is_empty());
        subject.time.pass(LEASE).await;
    }
    assert!(take(queue, 10).await.is_empty());
}

pub async fn a_message_received_too_often_is_put_aside(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["poison"]).await;
    exhaust(subject, &*queue).await;
    subject.time.pass(LEASE * 2).await;
    assert!(take(&*queue, 10).await.is_empty(), "it does not come back");
    let letters = queue.dead_letters(10).await.expect("listed");
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].body[..], letters[0].receives), (&b"poison"[..], 5));
    assert!(letters[0].age >= LEASE * 5, "its age counts from when it was sent: {:?}", letters[0].age);
}

pub async fn dead_letters_are_listed_oldest_first(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a", "b", "c"]).await;
    exhaust(subject, &*queue).await;
    let letters = queue.dead_letters(2).await.expect("listed");
    assert_eq!(letters.iter().map(|letter| &letter.body[..]).collect::<Vec<_>>(), [b"a", b"b"]);
}

pub async fn redriven_letters_are_received_anew(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a", "b"]).await;
    exhaust(subject, &*queue).await;
    let waiter = waiting(&queue).await;
    assert_eq!(queue.redrive().await.expect("redriven"), 2);
    let mut got = soon(waiter).await.expect("no panic");
    got.extend(take(&*queue, 10).await);
    assert_eq!(bodies(&got), [b"a", b"b"]);
    assert_eq!(got[0].receives, 1);
    assert!(queue.dead_letters(10).await.expect("listed").is_empty());
    assert_eq!(queue.redrive().await.expect("nothing to redrive"), 0);
}

pub async fn depth_counts_waiting_in_flight_and_dead(subject: &Subject) {
    let queue = subject.queue("q").await;
    send(&*queue, &["a"]).await;
    exhaust(subject, &*queue).await;
    send(&*queue, &["b", "c", "d"]).await;
    one(&*queue).await;
    subject.time.pass(LEASE / 2).await;
    let depth = queue.depth().await.expect("depth");
    assert_eq!((depth.waiting, depth.in_flight, depth.dead), (2, 1, 1));
    // Not every engine says it.
    assert!(depth.oldest.is_none_or(|oldest| oldest >= LEASE / 2), "{:?}", depth.oldest);
}

pub async fn a_message_of_one_mebibyte_passes(subject: &Subject) {
    let queue = subject.queue("q").await;
    // Of text, as what the daemons send is: SQS takes less of anything else.
    let body = Bytes::from(vec![b'7'; 1 << 20]);
    queue.send(vec![body.clone()]).await.expect("sent");
    assert_eq!(one(&*queue).await.body, body);
}

pub async fn a_message_of_any_bytes_passes(subject: &Subject) {
    let queue = subject.queue("q").await;
    let sent = [Bytes::new(), Bytes::from_iter(0..=255), "\u{0}\u{ffff}<&>\r\n".into()];
    queue.send(sent.to_vec()).await.expect("sent");
    let got: Vec<_> = take(&*queue, 10).await.into_iter().map(|message| message.body).collect();
    assert_eq!(got, sent);
}

pub async fn a_larger_message_is_refused_and_none_of_its_batch_is_sent(subject: &Subject) {
    let queue = subject.queue("q").await;
    let large = Bytes::from(vec![b'7'; (1 << 20) + 1]);
    let error = refused(queue.send(vec!["small".into(), large]).await);
    assert!(matches!(error, QueueError::TooLarge { bytes: 0x0010_0001, limit: 0x0010_0000, .. }), "{error}");
    assert!(take(&*queue, 10).await.is_empty());
}

pub async fn an_empty_batch_is_sent(subject: &Subject) {
    let queue = subject.queue("q").await;
    queue.send(Vec::new()).await.expect("sent");
    assert!(take(&*queue, 10).await.is_empty());
}

pub async fn queues_do_not_mix(subject: &Subject) {
    let (queue, other) = (subject.queue("q").await, subject.queue("r").await);
    send(&*queue, &["a"]).await;
    assert!(take(&*other, 10).await.is_empty());
    assert_empty(&*other).await;
}

pub async fn a_queue_asked_for_twice_is_one(subject: &Subject) {
    let (queue, same) = (subject.queue("q").await, subject.queue("q").await);
    send(&*queue, &["a"]).await;
    assert_eq!(one(&*same).await.body, "a");
    assert_eq!(same.name().as_str(), "q");
}

pub async fn queues_are_listed_by_name(subject: &Subject) {
    let _ = (subject.queue("r").await, subject.queue("q").await, subject.queue("r").await);
    let names = subject.engine.queues().await.expect("listed");
    assert_eq!(names.iter().map(super::QueueName::as_str).collect::<Vec<_>>(), ["q", "r"]);
}

pub async fn every_message_reaches_exactly_one_of_many_receivers(subject: &Subject) {
    const MESSAGES: usize = 200;
    let queue = subject.queue("q").await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut receivers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (queue, tell) = (Arc::clone(&queue), tell.clone());
        receivers.spawn(async move {
            loop {
                for message in queue.receive(3, WAIT * 10, WAIT).await.expect("received") {
                    queue.delete(&[message.handle]).await.expect("deleted");
                    tell.send(message.body).expect("the check listens");
                }
            }
        });
    }
    for number in 0..MESSAGES {
        queue.send(vec![number.to_string().into()]).await.expect("sent");
    }
    let mut got = BTreeSet::new();
    while got.len() < MESSAGES {
        let body = soon(told.recv()).await.expect("receivers run");
        assert!(got.insert(body), "received twice");
    }
    receivers.shutdown().await;
    assert_empty(&*queue).await;
}
