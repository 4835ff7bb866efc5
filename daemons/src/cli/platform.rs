//! The platform that a command talks to: the one that is named, the one that runs on the same data, or
//! one that is started for the command.

use super::Failure;
use crate::{
    client::Client,
    config::{Config, Durability},
    supervisor,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, TryLockError},
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where `quorate up` says in its data folder that it runs.
const ANNOUNCEMENT: &str = "up.json";

/// What `quorate up` leaves in its data folder for the commands that come later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// Where its gateway listens.
    pub url: String,
    /// The supervisor.
    pub pid: u32,
}

/// The right to run the platform of a data folder: of two who try, one gets it.
pub(super) struct Claim {
    /// Locked for as long as this process lives, however it ends.
    _lock: File,
    announcement: PathBuf,
}

impl Claim {
    pub(super) fn of(data: &Path) -> Result<Self, Failure> {
        let write = |source| Failure::Write { path: data.to_owned(), source };
        std::fs::create_dir_all(data).map_err(write)?;
        let lock = File::create(data.join("up.lock")).map_err(write)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock, announcement: data.join(ANNOUNCEMENT) }),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::Claimed { data: data.to_owned(), url: Up::read(data).map(|up| up.url) })
            }
            Err(TryLockError::Error(source)) => Err(write(source)),
        }
    }

    /// Tells later commands where the platform is.
    pub(super) fn announce(&self, url: &str) -> Result<Up, Failure> {
        let up = Up { url: url.to_owned(), pid: std::process::id() };
        let text = serde_json::to_vec(&up).expect("a string and a number serialise");
        // Renamed into place: who reads it sees all of it.
        let partial = self.announcement.with_extension("partial");
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, &self.announcement))
            .map_err(|source| Failure::Write { path: self.announcement.clone(), source })?;
        Ok(up)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.announcement);
    }
}

impl Up {
    fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data.join(ANNOUNCEMENT)).ok()?).ok()
    }
}

/// A platform with a connection to it.
pub(super) struct Platform {
    client: Client,
    started: Option<Started>,
}

/// A platform that was started for one command. Fields are dropped in order: the processes end before
/// their folder goes.
struct Started {
    platform: supervisor::Platform,
    state: StateFolder,
}

impl Platform {
    /// The platform at `url`, else the one that runs on the same data.
    pub(super) async fn find(url: Option<&str>, config: &Config) -> Result<Self, Failure> {
        if let Some(url) = url {
            let mut client = Client::new(url)?;
            client.connect().await?;
            return Ok(Self { client, started: None });
        }
        Self::running(&config.data).await.ok_or_else(|| Failure::NoPlatform { data: config.data.clone() })
    }

    /// As [`find`](Self::find); when none is running, starts one that lives as long as this. It keeps
    /// its keys in the data folder, and everything else where it is gone afterwards.
    pub(super) async fn find_or_start(url: Option<&str>, config: Config) -> Result<Self, Failure> {
        match Self::find(url, &config).await {
            Err(Failure::NoPlatform { .. }) => {}
            found => return found,
        }
        let config = Config {
            durability: Durability::Process,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..config
        };
        let state = StateFolder::new()?;
        let binary = std::env::current_exe().map_err(Failure::Runtime)?;
        let mut platform = supervisor::Platform::start(&binary, config, &state.0);
        let url = {
            let _progress = progress("starting what the expression needs");
            platform.url().await?
        };
        Ok(Self { client: Client::new(&url)?, started: Some(Started { platform, state }) })
    }

    /// The platform that says in `data` that it runs, if it answers: what a power cut left behind is
    /// no platform.
    async fn running(data: &Path) -> Option<Self> {
        let up = Up::read(data)?;
        let mut client = Client::new(&up.url).ok()?;
        client.connect().await.ok()?;
        Some(Self { client, started: None })
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Stops what was started for this command.
    pub(super) async fn stop(self) {
        if let Some(Started { platform, state }) = self.started {
            if let Err(error) = platform.stop().await {
                tracing::warn!(%error, "the platform failed while it ended");
            }
            drop(state);
        }
    }
}

/// A folder that goes with the command, for its owner's eyes alone.
struct StateFolder(PathBuf);

impl StateFolder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("quorate-{}", uuid::Uuid::now_v7().simple()));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|source| Failure::Write { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A spinner on a terminal, from half a second on; nothing in a pipe.
pub(super) fn progress(doing: &'static str) -> Progress {
    if !std::io::stderr().is_terminal() {
        return Progress(None);
    }
    Progress(Some(tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is right");
        let bar = Bar(ProgressBar::new_spinner().with_style(style).with_message(doing));
        loop {
            bar.0.tick();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })))
}

/// Shows that something is going on until it is dropped.
pub(super) struct Progress(Option<tokio::task::JoinHandle<()>>);

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinning) = &self.0 {
            spinning.abort();
        }
    }
}

/// Clears its line when the task that draws it is aborted.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
