//! The platform that a command talks to: the one that is named, the one that runs on the same data, or
//! one that is started for the command.

use super::{At, Failure};
use crate::{
    backend::process::Program,
    client::{Client, ClientError},
    config::{Access, Config, Durability, GatewayConfig},
    hold::{self, Hold},
    supervisor,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::{io::IsTerminal, net::SocketAddr, path::Path, time::Duration};

/// What `quorate up` leaves in its data folder for the commands that come later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// Where its gateway listens.
    pub url: String,
    /// The supervisor.
    pub pid: u32,
}

/// A platform with a connection to it.
pub(super) struct Platform {
    client: Client,
    /// What was started for this command, and the folder that it keeps its state in.
    own: Option<(supervisor::Platform, tempfile::TempDir)>,
}

impl Platform {
    /// The platform at `url`, else the one that runs on the same data.
    pub(super) async fn find(at: &At, config: &Config) -> Result<Self, Failure> {
        let token = at.token()?;
        let token = token.as_ref().map(|token| token.as_str());
        if let Some(url) = &at.url {
            let mut client = Client::new(url)?.with_ca(at.ca.as_deref())?.with_token(token);
            client.connect().await?;
            return Ok(Self { client, own: None });
        }
        Self::running(&config.data, at, token)
            .await?
            .ok_or_else(|| Failure::NoPlatform { data: config.data.clone() })
    }

    /// As [`find`](Self::find); when none is running, starts one that lives as long as this.
    pub(super) async fn find_or_start(at: &At, config: Config, program: Program) -> Result<Self, Failure> {
        match Self::find(at, &config).await {
            Err(Failure::NoPlatform { .. }) => {}
            found => return found,
        }
        let _progress = progress("starting a platform");
        Self::start(config, program).await
    }

    /// A platform that keeps nothing but the identities, which others use too.
    async fn start(mut config: Config, program: Program) -> Result<Self, Failure> {
        // What it is refused for later, a platform would try again until the time is up.
        hold::check(&config.data)?;
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.durability = Durability::Process;
        let state = tempfile::tempdir().map_err(Failure::Runtime)?;
        // Nobody but this command knows where it listens.
        let tokens = Some(state.path().join("tokens.json"));
        config.gateway = GatewayConfig { access: Access::Auto, tokens, ..GatewayConfig::default() };
        let mut own = supervisor::Platform::start(program, config, state.path());
        let mut client = Client::new(&own.url().await?)?;
        client.connect().await?;
        Ok(Self { client, own: Some((own, state)) })
    }

    /// The platform that says in `data` that it runs, if it does: what one that was killed left behind
    /// names an address at which somebody else may listen by now.
    async fn running(data: &Path, at: &At, token: Option<&str>) -> Result<Option<Self>, Failure> {
        if !Hold::is_alone(data) {
            return Ok(None);
        }
        let up = std::fs::read(data.join("up.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(Up { url, .. }) = up else { return Ok(None) };
        let mut client = Client::new(&url)?.with_ca(at.ca.as_deref())?.with_token(token);
        match client.connect().await {
            Ok(()) => Ok(Some(Self { client, own: None })),
            // It is there, and can't be believed.
            Err(error @ ClientError::Untrusted { .. }) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Stops what was started for this command.
    pub(super) async fn stop(self) {
        if let Some((own, state)) = self.own {
            // It has answered, or said why not; how it ends changes nothing about that.
            let _ = own.stop().await;
            drop(state);
        }
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
