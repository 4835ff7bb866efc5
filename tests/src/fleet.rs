//! A platform whose daemons are processes of their own, each of which may be killed and started again.

use crate::{Data, PATIENCE};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

/// The daemons of a control plane, by the names under which the test knows them.
#[derive(Debug)]
pub struct Fleet {
    // The first field is dropped first: the processes end before the folder goes.
    daemons: BTreeMap<&'static str, Child>,
    /// Their folder.
    pub data: Data,
    /// Where the gateway listens, whichever of its lives it is in.
    pub url: String,
    /// Keeps connections, as a client that sends much does.
    pub http: reqwest::Client,
    config: String,
    listen: String,
}

impl Fleet {
    /// Prepares a platform of this configuration; nothing runs yet.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn new(data: Data, config: &str) -> Self {
        let config = data.file("quorate.toml", config).to_str().expect("is UTF-8").to_owned();
        // A gateway that starts again has to be found where it was.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let listen = port.expect("there is a free port").to_string();
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("needs nothing");
        Self { daemons: BTreeMap::new(), data, url: format!("http://{listen}"), http, config, listen }
    }

    /// Starts a daemon: `gateway`, or `scheduler-b` as the second of its kind.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self, name: &'static str) {
        let daemon = name.split('-').next().expect("a split has a first part");
        let folder = self.data.path().to_str().expect("is UTF-8");
        let listen = format!("listen={}", self.listen);
        let arguments = [daemon, "--data", folder, "--config", &self.config, "--set", &listen];
        let mut command = self.data.command(&arguments);
        command.env("QUORATE_LOG", "info").stdout(Stdio::null());
        let mut child = command.spawn().expect("the binary was just built");
        let mut lines = BufReader::new(child.stderr.take().expect("piped by `command`")).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Shown when the test fails.
                println!("{name}: {line}");
            }
        });
        self.daemons.insert(name, child);
    }

    /// Kills a daemon with no warning.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self, name: &str) {
        let mut child = self.daemons.remove(name).expect("it was started");
        let ended = child.try_wait().expect("it is a child of this process");
        assert!(ended.is_none(), "{name} had ended by itself: {ended:?}");
        child.kill().await.expect("it runs");
    }

    /// Stops all daemons as an operator does, and waits for their ends.
    ///
    /// # Panics
    /// When one does not end.
    pub async fn stop(mut self) {
        use rustix::process::Signal;
        for child in self.daemons.values() {
            crate::process::signal(child.id().expect("was not waited for"), Signal::TERM);
        }
        for (name, child) in &mut self.daemons {
            let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
            let status = ended.unwrap_or_else(|_| panic!("{name} does not end")).expect("it is a child");
            assert!(status.success(), "{name}: {status}");
        }
        self.data.deserted(PATIENCE).await;
    }
}
