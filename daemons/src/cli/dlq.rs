//! `quorate dlq`: messages that failed too often.

use super::{At, Failure, Global, Settings, platform::Platform, print, print_json, table::table};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Lists dead letters: of one queue, or of all that have any.
    List(List),
    /// Puts a queue's dead letters back on it.
    Redrive(Redrive),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// The queue; without it, all of them.
    queue: Option<String>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Redrive {
    /// The queue, such as inbound or layer-add.
    queue: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

impl Dlq {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(global).await,
            Self::Redrive(redrive) => redrive.run(global).await,
        }
    }
}

impl List {
    async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let client = platform.client();
        let queues = match self.queue {
            Some(queue) => vec![queue],
            None => client
                .queues()
                .await?
                .into_iter()
                .filter(|queue| queue.dead > 0)
                .map(|queue| queue.queue)
                .collect(),
        };
        let mut letters = Vec::new();
        for queue in queues {
            let dead = client.dead_letters(&queue).await?;
            letters.extend(dead.into_iter().map(|letter| (queue.clone(), letter)));
        }
        if global.json {
            let entry =
                |(queue, letter): &(String, _)| serde_json::json!({ "queue": queue, "message": letter });
            return print_json(&letters.iter().map(entry).collect::<Vec<_>>());
        }
        if letters.is_empty() {
            return print("no dead letters");
        }
        let rows: Vec<_> = letters
            .into_iter()
            .map(|(queue, letter)| {
                [queue, letter.receives.to_string(), format!("{} s", letter.age_ms / 1000), letter.body]
            })
            .collect();
        print(&table(["QUEUE", "RECEIVES", "AGE", "MESSAGE"], &rows))
    }
}

impl Redrive {
    async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let redriven = platform.client().redrive(&self.queue).await?;
        if global.json {
            return print_json(&redriven);
        }
        print(&format!("{} messages are back on {}", redriven.messages, self.queue))
    }
}
