//! `quorate config check`: what is in force and where it came from.

use super::{Failure, Global, Settings, print, print_json};
use crate::config::{Loaded, Place};
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr;

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Checks the configuration and prints every setting in force and where it came from.
    Check(Check),
}

const AFTER_HELP: &str = "\
Each setting is looked for in this order, the first wins:
  1. flags: --data, --set KEY=VALUE
  2. the environment: QUORATE_LIMITS_NODES for limits.nodes
  3. the file: --config FILE, QUORATE_CONFIG, or ./quorate.toml if it is there
  4. the default
A section [functions.default] stands for all four functions. What is printed is itself a
configuration file.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Check {
    #[command(flatten)]
    settings: Settings,
}

impl Config {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let Self::Check(check) = self;
        let loaded = check.settings.load(&[])?;
        if global.json {
            return print_json(&loaded.in_force().iter().map(as_json).collect::<Vec<_>>());
        }
        print(&text(&loaded))
    }
}

fn as_json(value: &crate::config::InForce) -> serde_json::Value {
    serde_json::json!({
        "key": value.key,
        "value": value.value.trim_matches('"'),
        "from": value.place.to_string(),
        "about": value.about,
    })
}

fn text(loaded: &Loaded) -> String {
    let values = loaded.in_force();
    let lines: Vec<_> = values.iter().map(|value| format!("{} = {}", value.key, value.value)).collect();
    // A long path pushes its own remark aside, not all the others.
    let width = lines.iter().map(|line| line.width()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut text = match &loaded.file {
        Some(file) => format!("# {} is right.\n", file.display()),
        None => "# No file is read: there is no ./quorate.toml, and none was named.\n".to_owned(),
    };
    let mut section = "";
    for (value, line) in values.iter().zip(lines) {
        let (this, _) = value.key.rsplit_once('.').unwrap_or(("", ""));
        if this != section {
            text.push('\n');
            section = this;
        }
        let pad = width.saturating_sub(line.width());
        let place = match &value.place {
            Place::Default => String::new(),
            place => format!("[{place}] "),
        };
        writeln!(text, "{line}{:pad$}  # {place}{}", "", value.about).expect("a String takes all");
    }
    text
}
