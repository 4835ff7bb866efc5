//! `quorate top`: a platform as it goes on, drawn on a terminal and drawn again.

mod screen;

use super::{At, Failure, Global, Settings, platform::Platform, print};
use crate::{
    api::{FaultStatus, ProcessStatus, QueueStatus, ScalingStatus},
    client::{Client, ClientError},
    config::parse_time,
};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use screen::Screen;
use serde::Serialize;
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const AFTER_HELP: &str = "\
Shows, for each function: workers ready and ordered, operations that wait and run, the load (mean
busy slots) with its forecast and its last minute, the policy and the rule that decided last. Then
the worker sets, with a sign for each replica: P leads, o follows, . starts, x is down. Then queues
that are not empty, and the latest faults.

q, Esc or Ctrl-C ends it; any other key looks again at once.

Examples:
  quorate top
  quorate top --every 250ms
  quorate top --json --count 1      all of that once, for a program";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Top {
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = every)]
    every: Duration,
    /// Ends after so many looks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

/// From ten looks a second to one an hour.
fn every(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).ok_or("a time such as \"250ms\", \"1s\" or \"1m\"")?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3600);
    if bounds.contains(&time) { Ok(time) } else { Err("outside of 100ms to 1h".into()) }
}

/// What one look saw.
#[derive(Debug, Default, Serialize)]
struct Look {
    processes: Vec<ProcessStatus>,
    scaling: Vec<ScalingStatus>,
    queues: Vec<QueueStatus>,
    faults: Vec<FaultStatus>,
}

impl Look {
    async fn at(client: &mut Client) -> Result<Self, ClientError> {
        Ok(Self {
            processes: client.status().await?,
            scaling: client.scaling().await?,
            queues: client.queues().await?,
            faults: client.faults().await?,
        })
    }
}

impl Top {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        if !global.json && !std::io::stdout().is_terminal() {
            return Err(Failure::NoTerminal);
        }
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let client = platform.client();
        if global.json {
            return self.print(client).await;
        }
        let mut terminal = ratatui::try_init().map_err(Failure::Output)?;
        let outcome = self.draw(&mut terminal, client).await;
        ratatui::restore();
        outcome
    }

    /// One line of JSON for each look.
    async fn print(&self, client: &mut Client) -> Result<(), Failure> {
        let mut looks = 0;
        loop {
            let look = Look::at(client).await?;
            print(&serde_json::to_string(&look).expect("plain data"))?;
            looks += 1;
            if self.count.is_some_and(|count| looks >= count) {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }

    async fn draw(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        client: &mut Client,
    ) -> Result<(), Failure> {
        let mut events = events();
        let mut screen = Screen::new(client.url().to_owned());
        let mut looks = 0;
        loop {
            // A platform that is away for a while is looked for again; what was seen last stays.
            match Look::at(client).await {
                Ok(look) => screen.see(look, Instant::now()),
                Err(error) => screen.miss(error.to_string()),
            }
            terminal.draw(|frame| screen.draw(frame, Instant::now())).map_err(Failure::Output)?;
            looks += 1;
            if self.count.is_some_and(|count| looks >= count) {
                return Ok(());
            }
            let next = tokio::time::sleep(self.every);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    event = events.recv() => match event {
                        Some(Event::Key(key)) if is_end(key) => return Ok(()),
                        Some(Event::Key(key)) if key.kind == KeyEventKind::Press => break,
                        Some(Event::Resize(..)) => {
                            terminal
                                .draw(|frame| screen.draw(frame, Instant::now()))
                                .map_err(Failure::Output)?;
                        }
                        Some(_) => {}
                        // The terminal is gone.
                        None => return Ok(()),
                    },
                }
            }
        }
    }
}

fn is_end(key: KeyEvent) -> bool {
    let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// What is typed, read by a thread: a terminal can't be waited for in another way. It ends with the process.
fn events() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    told
}
