//! `quorate scale`: how many worker sets a function shall have.

use super::{At, Failure, Global, Settings, platform::Platform, print, print_json};
use clap::{Args, builder::PossibleValuesParser};

#[derive(Args, Debug)]
pub(crate) struct Scale {
    /// The function.
    #[arg(value_parser = PossibleValuesParser::new(["add", "sub", "mul", "div"]))]
    function: String,
    /// Worker sets; plain workers where replication = "none". Within pods_min and pods_max; the
    /// autoscaler goes on from there.
    desired: u32,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

impl Scale {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let scale = platform.client().scale(&self.function, self.desired).await?;
        if global.json {
            return print_json(&scale);
        }
        print(&format!("{} shall have {}", self.function, scale.desired))
    }
}
