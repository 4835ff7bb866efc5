//! The daemons as processes of their own.

use super::{Failure, Settings};
use crate::{
    control::{self, Daemon},
    pod::{Attachment, PodSpec},
    worker,
};
use clap::Args;
use std::path::PathBuf;

/// A daemon of the control plane.
#[derive(Args, Debug)]
pub(crate) struct ControlDaemon {
    #[command(flatten)]
    settings: Settings,
}

impl ControlDaemon {
    pub(super) fn run(self, daemon: Daemon) -> Result<(), Failure> {
        let config = self.settings.load(&[])?.config;
        on_all_cores(control::run_one(daemon, config))
    }
}

/// The gateway, which has an address of its own.
#[derive(Args, Debug)]
pub(crate) struct Gateway {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", help_heading = "Platform")]
    listen: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Gateway {
    pub(super) fn run(self) -> Result<(), Failure> {
        let listen = self.listen.map(|address| ("--listen", "listen", address));
        let config = self.settings.load(listen.as_slice())?.config;
        on_all_cores(control::run_one(Daemon::Gateway, config))
    }
}

/// All control daemons in one process, as the supervisor's child.
pub(super) fn control() -> Result<(), Failure> {
    on_all_cores(control::run())
}

/// A pod.
#[derive(Args, Debug)]
pub(crate) struct Pod {
    /// What the pod is: a file that the cluster service wrote.
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
}

impl Pod {
    pub(super) fn run_worker(&self) -> Result<(), Failure> {
        super::wait_for(async {
            let spec = PodSpec::read(&self.spec)?;
            let attachment = Attachment::new(spec.replication.replicas());
            worker::run(spec, attachment).await.map_err(|error| Failure::Daemon(error.into()))
        })
    }
}

fn on_all_cores(daemon: impl Future<Output = Result<(), control::Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?
        .block_on(daemon)
        .map_err(Failure::Daemon)
}
