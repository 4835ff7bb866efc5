//! What goes wrong in SQS, or on the way there.

use crate::{Bench, config, stand_in::Act};
use bytes::Bytes;
use quorate::{
    conformance::{refused, soon},
    queue::{
        Handle, Message, Queue, QueueError, QueueName, Queues,
        sqs::{SqsOptions, SqsQueues},
    },
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const LEASE: Duration = Duration::from_secs(30);
const NO_WAIT: Duration = Duration::ZERO;
const SEND: &str = "SendMessageBatch";

async fn take(queue: &dyn Queue) -> Vec<Message> {
    queue.receive(10, LEASE, NO_WAIT).await.expect("received")
}

async fn bodies(queue: &dyn Queue) -> Vec<Bytes> {
    take(queue).await.into_iter().map(|message| message.body).collect()
}

/// What it says, in one line.
fn said(error: &QueueError) -> String {
    let said = error.to_string();
    assert!(!said.contains('\n') && !said.contains("secret"), "{said}");
    said
}

#[tokio::test]
async fn what_is_throttled_or_fails_for_a_moment_is_tried_again() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    for operation in [SEND, "ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes"] {
        bench.sqs.meddle_first(3, operation, |attempt| match attempt {
            0 => Act::Refuse(400, "ThrottlingException"),
            1 => Act::Refuse(403, "RequestThrottled"),
            _ => Act::Refuse(503, "ServiceUnavailable"),
        });
    }
    queue.send(vec!["a".into()]).await.expect("sent");
    let got = take(&*queue).await;
    assert_eq!(got.len(), 1);
    queue.delete(&[got[0].handle.clone()]).await.expect("deleted");
    assert_eq!(queue.depth().await.expect("depth").in_flight, 0);
    assert_eq!(bench.sqs.asked(SEND).len(), 4);
}

#[tokio::test]
async fn what_keeps_failing_is_unavailable_before_long_and_says_why() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench.sqs.meddle(|_, _| Some(Act::Refuse(500, "InternalFailure")));
    let error = refused(soon(queue.send(vec!["a".into()])).await);
    assert!(matches!(error, QueueError::Unavailable { .. }), "{error:?}");
    let text = said(&error);
    for part in ["queue q ", SEND, &bench.sqs.endpoint, "InternalFailure (HTTP 500)", "Said in a test."] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    let error = refused(soon(queue.receive(1, LEASE, NO_WAIT)).await);
    assert!(said(&error).contains("ReceiveMessage"), "{error}");
    let error = refused(soon(queue.depth()).await);
    assert!(said(&error).contains("GetQueueAttributes"), "{error}");
    let error = refused(soon(bench.queues().await.queues()).await);
    assert!(said(&error).contains("ListQueues"), "{error}");
}

#[tokio::test]
async fn expired_credentials_are_to_be_renewed_and_not_tried_again() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench.sqs.meddle(|_, _| Some(Act::Refuse(403, "ExpiredToken")));
    let error = said(&refused(queue.send(vec!["a".into()]).await));
    assert!(error.contains("ExpiredToken") && error.contains("renew them"), "{error}");
    assert_eq!(bench.sqs.asked(SEND).len(), 1);
}

#[tokio::test]
async fn a_refused_connection_names_the_place() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let place = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let queues = SqsQueues::new(&config(&format!("http://{place}")).await, SqsOptions::default());
    let error = said(&refused(soon(queues.queue(&QueueName::inbound())).await.map(drop)));
    for part in ["queue inbound ", "GetQueueUrl", &place, "can't be reached", "refused"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
}

#[tokio::test]
async fn without_credentials_the_error_says_so() {
    let bench = Bench::new().await;
    let nobody = aws_config::credential_process::CredentialProcessProvider::new("exit 1".to_owned());
    let config = config(&bench.sqs.endpoint).await.into_builder();
    let config =
        config.credentials_provider(aws_sdk_sqs::config::SharedCredentialsProvider::new(nobody)).build();
    let queues = SqsQueues::new(&config, bench.options.clone());
    let error = said(&refused(soon(queues.queue(&QueueName::inbound())).await.map(drop)));
    assert!(error.contains("could not be made") && error.contains("credential"), "{error}");
}

#[tokio::test]
async fn entries_that_fail_are_sent_again_without_the_rest() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench.sqs.meddle_first(2, SEND, |_| Act::Fail(vec!["1"], "InternalError", false));
    queue.send(vec!["a".into(), "b".into(), "c".into()]).await.expect("sent");
    let got = bodies(&*queue).await;
    assert_eq!(got.len(), 3, "each once: {got:?}");
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), ["a".into(), "b".into(), "c".into()].into());
    let sizes: Vec<_> =
        bench.sqs.asked(SEND).iter().map(|said| said["Entries"].as_array().map(Vec::len)).collect();
    assert_eq!(sizes, [Some(3), Some(1), Some(1)]);
}

#[tokio::test]
async fn entries_that_keep_failing_are_an_error_in_the_end() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench
        .sqs
        .meddle(|operation, _| (operation == SEND).then(|| Act::Fail(vec!["0"], "InternalError", false)));
    let error = said(&refused(soon(queue.send(vec!["a".into(), "b".into()])).await));
    assert!(error.contains("queue q ") && error.contains("InternalError: Said in a test."), "{error}");
    assert_eq!(bench.sqs.asked(SEND).len(), 5);
    assert_eq!(bodies(&*queue).await, ["b"]);
}

#[tokio::test]
async fn an_entry_that_is_the_sender_s_fault_is_not_tried_again() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench.sqs.meddle_first(1, SEND, |_| Act::Fail(vec!["0"], "InvalidMessageContents", true));
    let error = said(&refused(queue.send(vec!["a".into()]).await));
    assert!(error.contains("InvalidMessageContents"), "{error}");
    assert_eq!(bench.sqs.asked(SEND).len(), 1);
}

#[tokio::test]
async fn a_message_whose_acknowledgement_is_lost_is_there() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    bench.sqs.meddle_first(1, SEND, |_| Act::LoseAnswer);
    queue.send(vec!["a".into()]).await.expect("sent");
    let got = bodies(&*queue).await;
    assert!(!got.is_empty() && got.iter().all(|body| body == "a"), "{got:?}");
}

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_is_done() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    queue.send(vec!["a".into()]).await.expect("sent");
    let got = take(&*queue).await;
    bench.sqs.meddle_first(1, "DeleteMessageBatch", |_| Act::LoseAnswer);
    queue.delete(&[got[0].handle.clone()]).await.expect("deleted, and once more");
    let depth = queue.depth().await.expect("depth");
    assert_eq!((depth.waiting, depth.in_flight), (0, 0));
    assert_eq!(bench.sqs.asked("DeleteMessageBatch").len(), 2);
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_before_anything_is_sent() {
    const LIMIT: usize = 1 << 20;
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let bytes = |count| Bytes::from(vec![0; count]);
    for (body, expected) in [
        (Bytes::from(vec![b'7'; LIMIT + 1]), LIMIT),
        (bytes(LIMIT - 12), LIMIT - 13),
        (bytes(LIMIT), LIMIT - 13),
    ] {
        let error = refused(queue.send(vec!["a".into(), body.clone()]).await);
        let QueueError::TooLarge { bytes, limit, .. } = error else { panic!("{error}") };
        assert_eq!((bytes, limit), (body.len(), expected));
    }
    assert!(bench.sqs.asked(SEND).is_empty());
    queue.send(vec![bytes(LIMIT - 13), "a".into()]).await.expect("sent");
    assert_eq!(bodies(&*queue).await, [bytes(LIMIT - 13), "a".into()]);
    assert_eq!(bench.sqs.asked(SEND).len(), 2, "they are too large for one batch");
}

#[tokio::test]
async fn a_poisoned_message_is_put_aside_listed_and_put_back() {
    let mut bench = Bench::new().await;
    bench.options.max_receives = 2;
    let queue = bench.queue("q").await;
    queue.send(vec!["poison".into(), Bytes::from_static(b"\xff")]).await.expect("sent");
    for receives in [1, 2] {
        let got = queue.receive(10, NO_WAIT, NO_WAIT).await.expect("received");
        assert_eq!(got.iter().map(|message| message.receives).collect::<Vec<_>>(), [receives; 2]);
    }
    assert!(take(&*queue).await.is_empty());
    for _ in 0..2 {
        // Looking neither counts nor hides.
        let letters = queue.dead_letters(10).await.expect("listed");
        assert_eq!(
            letters.iter().map(|letter| &letter.body[..]).collect::<Vec<_>>(),
            [b"poison", &b"\xff"[..]]
        );
        assert!(letters.iter().all(|letter| letter.receives == 2), "{letters:?}");
        assert_eq!(queue.depth().await.expect("depth").dead, 2);
    }
    assert_eq!(queue.redrive().await.expect("redriven"), 2);
    assert_eq!(queue.depth().await.expect("depth").dead, 0);
    let got = take(&*queue).await;
    assert!(got.iter().all(|message| message.receives == 1), "{got:?}");
    assert_eq!(got.len(), 2);
}

async fn dead_url(bench: &Bench) -> String {
    let dead = format!("{}q-dead", bench.options.prefix);
    let found = bench.client().await.get_queue_url().queue_name(dead).send().await.expect("it is there");
    found.queue_url.expect("it has a URL")
}

#[tokio::test]
async fn putting_back_ends_although_letters_keep_coming() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let (client, url) = (bench.client().await, dead_url(&bench).await);
    for letter in 0..15 {
        let sent = client.send_message().queue_url(&url).message_body(letter.to_string()).send();
        sent.await.expect("sent");
    }
    let more = tokio::spawn(async move {
        loop {
            client.send_message().queue_url(&url).message_body("more").send().await.expect("sent");
        }
    });
    let moved = soon(queue.redrive()).await.expect("redriven");
    more.abort();
    assert!(moved >= 15, "{moved}");
    let mut back = BTreeSet::new();
    while let got = bodies(&*queue).await
        && !got.is_empty()
    {
        back.extend(got);
    }
    let all: BTreeSet<Bytes> = (0..15).map(|letter| letter.to_string().into()).collect();
    assert!(back.is_superset(&all), "{back:?}");
}

#[tokio::test]
async fn a_letter_that_can_t_be_put_back_stays() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let (client, url) = (bench.client().await, dead_url(&bench).await);
    client.send_message().queue_url(&url).message_body("letter").send().await.expect("sent");
    bench.sqs.meddle_first(1, SEND, |_| Act::Refuse(403, "AccessDenied"));
    let error = said(&refused(queue.redrive().await));
    assert!(error.contains("AccessDenied"), "{error}");
    assert_eq!(queue.dead_letters(10).await.expect("listed").len(), 1, "it is shown at once");
    assert_eq!(queue.redrive().await.expect("redriven"), 1);
}

#[tokio::test]
async fn what_comes_after_its_receiver_is_gone_is_given_back() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let receiver = Arc::clone(&queue);
    let gone = tokio::spawn(async move { receiver.receive(1, LEASE, Duration::from_secs(10)).await });
    bench.sqs.reached("ReceiveMessage", |said| said["WaitTimeSeconds"] == 10).await;
    gone.abort();
    assert!(gone.await.expect_err("it was aborted").is_cancelled());
    queue.send(vec!["a".into()]).await.expect("sent");
    bench
        .sqs
        .reached("ChangeMessageVisibilityBatch", |said| said["Entries"][0]["VisibilityTimeout"] == 0)
        .await;
    let got = queue.receive(1, LEASE, Duration::from_secs(10)).await.expect("received");
    assert_eq!((&got[0].body[..], got[0].receives), (&b"a"[..], 2));
}

#[tokio::test]
async fn what_is_there_is_taken_in_as_many_requests_as_it_needs() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let sent: Vec<Bytes> = (0..25).map(|number| number.to_string().into()).collect();
    queue.send(sent.clone()).await.expect("sent");
    let got = queue.receive(100, LEASE, Duration::from_secs(20)).await.expect("received");
    assert_eq!(got.iter().map(|message| message.body.clone()).collect::<Vec<_>>(), sent);
    let waits: Vec<_> =
        bench.sqs.asked("ReceiveMessage").iter().map(|said| said["WaitTimeSeconds"].as_u64()).collect();
    assert_eq!(waits, [Some(20), Some(0), Some(0)], "only the first waits");
    let handles: Vec<Handle> = got.into_iter().map(|message| message.handle).collect();
    queue.extend(&handles, LEASE).await.expect("extended");
    queue.delete(&handles).await.expect("deleted");
    assert_eq!(queue.depth().await.expect("depth").in_flight, 0);
}

#[tokio::test]
async fn a_wait_of_less_than_a_second_is_slept_through_and_ends_with_a_look() {
    let bench = Bench::new().await;
    let queue = bench.queue("q").await;
    let receiver = Arc::clone(&queue);
    let waiter = tokio::spawn(async move { receiver.receive(1, LEASE, Duration::from_millis(700)).await });
    bench.sqs.reached("ReceiveMessage", |_| true).await;
    queue.send(vec!["a".into()]).await.expect("sent");
    let got = soon(waiter).await.expect("no panic").expect("received");
    assert_eq!(got.len(), 1);
    let asked = bench.sqs.asked("ReceiveMessage");
    assert!(asked.iter().all(|said| said["WaitTimeSeconds"] == 0), "{asked:?}");
    assert!(asked.len() <= 2, "{asked:?}");
}

#[tokio::test]
async fn the_handle_of_an_earlier_receipt_is_no_error_where_it_still_works() {
    // To moto it does, and SQS leaves it open.
    let bench = Bench::new().await;
    let queues = SqsQueues::new(&config(&bench.moto.endpoint).await, bench.options.clone());
    let queue = queues.queue(&QueueName::named("q")).await.expect("it is there");
    queue.send(vec!["a".into()]).await.expect("sent");
    let late = queue.receive(1, NO_WAIT, NO_WAIT).await.expect("received").remove(0);
    let newer = queue.receive(1, LEASE, NO_WAIT).await.expect("received").remove(0);
    queue.extend(std::slice::from_ref(&late.handle), LEASE).await.expect("extended or passed over");
    queue.delete(&[late.handle]).await.expect("deleted or passed over");
    queue.delete(&[newer.handle]).await.expect("deleted, now at the latest");
    assert_eq!(queue.depth().await.expect("depth").in_flight, 0);
}
