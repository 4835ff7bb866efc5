//! `quorate up`: the whole platform on this machine.

use super::{
    Failure, Global, Settings,
    platform::{Claim, progress},
    print, print_json,
};
use crate::{
    control::{asked_to_end, state_folder},
    supervisor::Platform,
};
use clap::Args;

const AFTER_HELP: &str = "\
Examples:
  quorate up
  quorate up --listen 127.0.0.1:0 --data /tmp/q      a free port, which is printed; state in /tmp/q
  quorate up --set functions.default.replication=none

Commands that are run on the same data find the platform by themselves. Ctrl-C stops all of it and
leaves no process behind.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Up {
    /// Where the gateway listens; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDRESS", help_heading = "Platform")]
    listen: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Up {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let listen = self.listen.map(|address| ("--listen", "listen", address));
        let config = self.settings.load(listen.as_slice())?.config;
        let claim = Claim::of(&config.data)?;
        let binary = std::env::current_exe().map_err(Failure::Runtime)?;
        let state = state_folder(&config.data);
        let mut platform = Platform::start(&binary, config, &state);
        let asked = asked_to_end();
        tokio::pin!(asked);
        let url = {
            let _progress = progress("starting the platform");
            tokio::select! {
                url = platform.url() => url?,
                () = &mut asked => return Ok(platform.stop().await?),
            }
        };
        let up = claim.announce(&url)?;
        if global.json {
            print_json(&up)?;
        } else {
            print(&format!("quorate is up at {url}; Ctrl-C stops it"))?;
        }
        let ended = tokio::select! {
            ended = platform.ended() => ended,
            () = &mut asked => Ok(()),
        };
        drop(claim);
        ended?;
        Ok(platform.stop().await?)
    }
}
