//! `moto`: SQS and DynamoDB on this machine, in memory.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// A server of its own, with nothing in it.
pub struct Moto {
    child: Child,
    /// `http://127.0.0.1:PORT`, to be used as the endpoint of any service.
    pub endpoint: String,
}

impl Moto {
    /// Starts one, and returns when it takes requests.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        let mut child = Command::new(super::installed("moto/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped above")).lines();
        // ` * Running on http://127.0.0.1:43210`, when it listens.
        let endpoint = lines.find_map(|line| {
            let line = line.expect("text");
            let at = line.find("http://127.0.0.1:")?;
            Some(line[at..].trim_end_matches(|after: char| !after.is_ascii_digit()).to_owned())
        });
        // It logs each request: nobody reads that, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { endpoint: endpoint.expect("it says where it listens"), child }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}
