//! Queues in SQS do what every queue must, and fail as they should. moto plays SQS.

#![cfg(feature = "sqs")]

#[path = "sqs/failures.rs"]
mod failures;
#[path = "sqs/found.rs"]
mod found;
#[allow(dead_code, unreachable_pub, reason = "other tests use the others")]
#[path = "servers/installed.rs"]
mod servers;
#[path = "sqs/stand_in.rs"]
mod stand_in;

use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use quorate::{
    aws::{self, AwsOptions},
    clock::SystemClock,
    config::Durability,
    conformance::Subject,
    engine::Assembled,
    queue::{
        Queue, QueueName, Queues,
        sqs::{SqsOptions, SqsQueues},
    },
    sqlite::SqliteEngine,
};
use servers::moto::Moto;
use stand_in::StandIn;
use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Queues of a test, which no other test sees.
struct Bench {
    /// In front of moto.
    sqs: StandIn,
    /// moto itself.
    moto: Arc<Moto>,
    options: SqsOptions,
}

impl Bench {
    async fn new() -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        let moto = moto();
        let options = SqsOptions {
            prefix: format!("t{}-", TESTS.fetch_add(1, Ordering::Relaxed)),
            settle: Duration::ZERO,
            ..SqsOptions::default()
        };
        Self { sqs: StandIn::before(Arc::clone(&moto)).await, moto, options }
    }

    async fn queues(&self) -> SqsQueues {
        SqsQueues::new(&config(&self.sqs.endpoint).await, self.options.clone())
    }

    async fn queue(&self, name: &str) -> Arc<dyn Queue> {
        self.queues().await.queue(&QueueName::named(name)).await.expect("the queue is there")
    }

    /// SQS as anyone else uses it.
    async fn client(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&config(&self.moto.endpoint).await)
    }
}

/// One moto for all tests that run at the same time: it is a second of work to start one.
fn moto() -> Arc<Moto> {
    static MOTO: Mutex<Weak<Moto>> = Mutex::new(Weak::new());
    let mut shared = MOTO.lock().expect("it starts");
    shared.upgrade().unwrap_or_else(|| {
        let moto = Arc::new(Moto::start());
        *shared = Arc::downgrade(&moto);
        moto
    })
}

async fn config(endpoint: &str) -> aws_config::SdkConfig {
    let options = AwsOptions { region: Some("eu-central-1".into()), endpoint: Some(endpoint.into()) };
    let credentials = Credentials::new("id", "secret", None, None, "the test");
    aws::load(&options)
        .await
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

async fn subject_with(queues: SqsQueues, bench: Bench) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rest = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).expect("it opens");
    Subject {
        engine: Arc::new(Assembled { queues: Box::new(queues), ..rest.in_parts() }),
        time: Box::new(SystemClock::default()),
        too_large: (64 << 20) + 1,
        changes_kept: 10_000,
        compact: None,
        keep: Box::new((bench, folder)),
    }
}

async fn subject() -> Subject {
    let bench = Bench::new().await;
    subject_with(bench.queues().await, bench).await
}

/// With nothing in front of moto, which waits for messages itself then.
async fn subject_at_moto() -> Subject {
    let bench = Bench::new().await;
    let queues = SqsQueues::new(&config(&bench.moto.endpoint).await, bench.options.clone());
    subject_with(queues, bench).await
}

mod queue {
    quorate::queue_conformance!(super::subject());
}

mod at_moto {
    quorate::conformance_tests!(queue, super::subject_at_moto();
        an_empty_queue_gives_nothing_at_once,
        a_waiting_receiver_gets_what_is_sent,
        a_waiting_receiver_gets_what_lapses,
        a_strange_handle_names_nothing,
        a_handle_of_another_queue_names_nothing,
        a_message_of_any_bytes_passes,
    );
}

/// The steps that join records and queues.
mod steps {
    quorate::conformance_tests!(records, super::subject();
        accepting_writes_the_record_and_the_message,
        accepting_again_sends_nothing,
        accepting_an_oversized_message_writes_no_record,
        concluding_finishes_announces_and_deletes,
        concluding_again_announces_what_stands,
        a_message_whose_conclusion_is_refused_comes_back,
    );
}
