//! The daemons as subcommands: each by itself, or the control plane as `quorate up` starts it.

use super::{Failure, Global, Settings};
use crate::{
    control::{self, Daemon},
    hold::Hold,
    pod::{Attachment, PodSpec, attach},
    replica, worker,
};
use clap::Args;
use std::{net::SocketAddr, path::PathBuf};

/// What a daemon of the control plane takes.
#[derive(Args, Debug)]
pub(crate) struct ControlDaemon {
    #[command(flatten)]
    settings: Settings,
}

/// What a pod takes.
#[derive(Args, Debug)]
pub(crate) struct Pod {
    /// The file that tells the pod what it is; whoever starts pods writes it.
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Speaks over TCP with whoever connects here, and outlives them; without it, on standard input and
    /// output with whoever started the pod, and ends with them.
    #[arg(long, value_name = "ADDRESS")]
    attach: Option<SocketAddr>,
}

impl ControlDaemon {
    pub(super) async fn run(self, daemon: Daemon, global: Global) -> Result<(), Failure> {
        let config = self.settings.load(&[])?.config;
        let _hold = Hold::shared(&config.data, daemon)?;
        control::run_one(daemon, config, global.program()?).await.map_err(Failure::Daemon)
    }
}

impl Pod {
    pub(super) async fn run_worker(self) -> Result<(), Failure> {
        let (spec, attachment) = self.attach().await?;
        worker::run(spec, attachment).await.map_err(|error| Failure::Daemon(error.into()))
    }

    pub(super) async fn run_replica(self) -> Result<(), Failure> {
        let (spec, attachment) = self.attach().await?;
        replica::run(spec, attachment).await.map_err(|error| Failure::Daemon(error.into()))
    }

    async fn attach(self) -> Result<(PodSpec, Attachment), Failure> {
        let spec = PodSpec::read(&self.spec).map_err(|error| Failure::Daemon(error.into()))?;
        let replicas = spec.replication.replicas();
        let wires = spec.wires().map_err(|error| Failure::Daemon(error.into()))?;
        let attachment = match self.attach {
            None => Attachment::new(replicas),
            Some(address) => attach::listen(address, replicas, &wires)
                .await
                .map_err(|error| Failure::Daemon(format!("can't listen on {address}: {error}").into()))?,
        };
        Ok((spec, attachment))
    }
}
