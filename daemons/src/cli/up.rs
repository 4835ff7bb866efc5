//! `quorate up`: the whole platform on this machine, until Ctrl-C.

use super::{Failure, Global, Settings, platform::Up, print, print_json};
use crate::{control::state_folder, hold::Hold, shutdown::asked_to_end, supervisor::Platform};
use clap::Args;
use std::{
    path::{Path, PathBuf},
    pin::pin,
};

const AFTER_HELP: &str = "\
Examples:
  quorate up
  quorate up --listen 127.0.0.1:0 --data /tmp/try        a free port, printed
  quorate up --set functions.add.replication=none        plain workers for additions

Prints the gateway's URL once the platform answers. Ctrl-C, or SIGTERM, stops everything it started.
What was accepted survives: the next `quorate up` on the same data goes on.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UpCommand {
    /// Where the gateway listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl UpCommand {
    pub(super) async fn run(self, global: Global) -> Result<(), Failure> {
        let listen: Vec<_> = self.listen.map(|listen| ("--listen", "listen", listen)).into_iter().collect();
        let config = self.settings.load(&listen)?.config;
        let data = config.data.clone();
        let _hold = Hold::alone(&data)?;
        Sign::remove(&data);
        // Asked for once and from the start, so that no Ctrl-C falls between two waits.
        let mut asked_to_end = pin!(asked_to_end());
        let mut platform = Platform::start(global.program()?, config, &state_folder(&data));
        let url = tokio::select! {
            url = platform.url() => url?,
            () = &mut asked_to_end => return Ok(platform.stop().await?),
        };
        let up = Up { url: url.clone(), pid: std::process::id() };
        let _sign = Sign::put(&data, &up)?;
        if global.json {
            print_json(&up)?
        } else {
            print(&url)?
        }
        tokio::select! {
            ended = platform.ended() => Ok(ended?),
            () = &mut asked_to_end => Ok(platform.stop().await?),
        }
    }
}

/// Tells later commands where the platform is, until it is dropped.
struct Sign {
    path: PathBuf,
}

impl Sign {
    /// Removes what a platform that was killed has left.
    fn remove(data: &Path) {
        let _ = std::fs::remove_file(Self::path(data));
    }

    fn path(data: &Path) -> PathBuf {
        data.join("up.json")
    }

    fn put(data: &Path, up: &Up) -> Result<Self, Failure> {
        let path = Self::path(data);
        let draft = data.join("up.json.draft");
        let text = serde_json::to_vec(up).expect("plain data");
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(|source| Failure::Write { path: path.clone(), source })?;
        Ok(Self { path })
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
