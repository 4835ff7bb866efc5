//! How queues are made, found and listed.

use crate::{Bench, stand_in::Act};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use bytes::Bytes;
use quorate::{
    conformance::refused,
    queue::{QueueError, QueueName, Queues},
};
use serde_json::json;
use std::{collections::HashMap, time::Duration};

async fn attributes(bench: &Bench, name: &str) -> HashMap<Attribute, String> {
    let client = bench.client().await;
    let found = client.get_queue_url().queue_name(name).send().await.expect("it is there");
    let asked = client.get_queue_attributes().queue_url(found.queue_url.expect("it has a URL"));
    let told = asked.attribute_names(Attribute::All).send().await.expect("it is there");
    told.attributes.expect("it has some")
}

#[tokio::test]
async fn a_queue_is_made_with_its_dead_letter_queue_when_it_is_first_asked_for() {
    let mut bench = Bench::new().await;
    bench.options.max_receives = 7;
    bench.options.message_retention = Duration::from_secs(3600);
    bench.queue("q").await;
    let (name, dead) = (format!("{}q", bench.options.prefix), format!("{}q-dead", bench.options.prefix));
    let (queue, dead) = (attributes(&bench, &name).await, attributes(&bench, &dead).await);
    assert_eq!(queue[&Attribute::MessageRetentionPeriod], "3600");
    assert_eq!(queue[&Attribute::ReceiveMessageWaitTimeSeconds], "20");
    assert_eq!(queue[&Attribute::MaximumMessageSize], "1048576");
    assert_eq!(dead[&Attribute::MessageRetentionPeriod], "1209600");
    let policy: serde_json::Value = serde_json::from_str(&queue[&Attribute::RedrivePolicy]).expect("JSON");
    assert_eq!(policy["maxReceiveCount"], 7);
    assert_eq!(policy["deadLetterTargetArn"], dead[&Attribute::QueueArn]);
}

#[tokio::test]
async fn many_may_make_a_queue_at_once() {
    let bench = Bench::new().await;
    let makers: Vec<_> = futures::future::join_all((0..8).map(async |_| bench.queue("q").await)).await;
    makers[0].send(vec!["a".into()]).await.expect("sent");
    let got = makers[7].receive(1, Duration::from_secs(1), Duration::ZERO).await.expect("received");
    assert_eq!(got[0].body, "a");
    assert_eq!(bench.queues().await.queues().await.expect("listed"), [QueueName::named("q")]);
}

#[tokio::test]
async fn a_queue_that_was_made_otherwise_meanwhile_is_used() {
    let mut bench = Bench::new().await;
    bench.queue("q").await;
    bench.options.max_receives = 3;
    // It looks as if it were not there, until it is to be made.
    bench.sqs.meddle_first(1, "GetQueueUrl", |_| Act::Refuse(400, "AWS.SimpleQueueService.NonExistentQueue"));
    bench.queue("q").await;
    assert_eq!(bench.sqs.asked("CreateQueue").len(), 4);
}

#[tokio::test]
async fn a_queue_that_exists_is_used_as_it_is_by_who_may_make_none() {
    let bench = Bench::new().await;
    let client = bench.client().await;
    client
        .create_queue()
        .queue_name(format!("{}letters-dead", bench.options.prefix))
        .send()
        .await
        .expect("made");
    let arn = attributes(&bench, &format!("{}letters-dead", bench.options.prefix)).await
        [&Attribute::QueueArn]
        .clone();
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": "1" }).to_string();
    let queue = client.create_queue().queue_name(format!("{}q", bench.options.prefix));
    let queue =
        queue.attributes(Attribute::RedrivePolicy, policy).attributes(Attribute::MaximumMessageSize, "2048");
    queue.send().await.expect("made");

    bench.sqs.meddle(|operation, _| (operation == "CreateQueue").then_some(Act::Refuse(403, "AccessDenied")));
    let queue = bench.queue("q").await;
    assert_eq!(queue.message_bytes_max(), 2048);
    let error = refused(queue.send(vec![Bytes::from(vec![b'7'; 2049])]).await);
    assert!(matches!(error, QueueError::TooLarge { bytes: 2049, limit: 2048, .. }), "{error}");
    queue.send(vec![Bytes::from(vec![b'7'; 2048])]).await.expect("sent");
    for expected in [1, 0] {
        let got = queue.receive(1, Duration::ZERO, Duration::ZERO).await.expect("received");
        assert_eq!(got.len(), expected);
    }
    let letters = queue.dead_letters(10).await.expect("listed");
    assert_eq!(letters.iter().map(|letter| letter.receives).collect::<Vec<_>>(), [1]);
}

async fn unfit(bench: &Bench, name: &str) -> String {
    refused(bench.queues().await.queue(&QueueName::named(name)).await.map(drop)).to_string()
}

#[tokio::test]
async fn who_may_not_make_a_queue_is_told_so() {
    let bench = Bench::new().await;
    bench.sqs.meddle(|operation, _| (operation == "CreateQueue").then_some(Act::Refuse(403, "AccessDenied")));
    let error = unfit(&bench, "q").await;
    for part in ["queue q ", "CreateQueue", "AccessDenied", "policy"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
}

#[tokio::test]
async fn a_queue_that_never_puts_aside_is_refused() {
    let bench = Bench::new().await;
    let name = format!("{}q", bench.options.prefix);
    bench.client().await.create_queue().queue_name(&name).send().await.expect("made");
    let error = unfit(&bench, "q").await;
    assert!(error.contains(&name) && error.contains("redrive policy"), "{error}");
}

#[tokio::test]
async fn names_that_sqs_would_refuse_are_not_asked_for() {
    let bench = Bench::new().await;
    let error = unfit(&bench, &"q".repeat(80)).await;
    assert!(error.contains("up to 80"), "{error}");
    assert!(unfit(&bench, "q-dead").await.contains("dead-letter"));
    assert!(bench.sqs.asked("GetQueueUrl").is_empty());
}

#[tokio::test]
async fn all_pages_of_a_list_are_read() {
    let bench = Bench::new().await;
    let queues = bench.queues().await;
    for name in ["c", "a", "b"] {
        queues.queue(&QueueName::named(name)).await.expect("made");
    }
    bench.sqs.meddle(|operation, said| {
        let mut said = said.clone();
        said["MaxResults"] = 2.into();
        (operation == "ListQueues").then_some(Act::PassOn(said))
    });
    let names = queues.queues().await.expect("listed");
    assert_eq!(names, ["a", "b", "c"].map(QueueName::named));
    assert_eq!(bench.sqs.asked("ListQueues").len(), 3, "with their dead-letter queues they are six");
}
