//! What is generated from the arguments: completions and manual pages.

use super::{Cli, Failure, print};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "quorate", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Writes quorate.1, quorate-eval.1, … to DIR in place of printing one page.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let command = Cli::command();
        match &self.to {
            Some(folder) => std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(command, folder))
                .map_err(|source| Failure::Write { path: folder.clone(), source }),
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(command).render(&mut page).map_err(Failure::Output)?;
                print(&String::from_utf8_lossy(&page))
            }
        }
    }
}
