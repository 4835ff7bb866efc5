//! An API server that is away for a while.

use std::{fs, path::Path, process::Command};

/// A process that goes on when this is dropped.
pub struct Stopped(String);

/// Stops the API server of the cluster that is kept in this folder until the guard is dropped; only who is alone
/// may.
///
/// # Panics
/// When it does not run.
#[must_use]
pub fn stop(folder: &Path) -> Stopped {
    let recorded = fs::read_to_string(folder.join("pids/kube-apiserver")).expect("it was started");
    let pid = recorded.split_whitespace().next().expect("a process").to_owned();
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
    assert!(command.starts_with("kube-api"), "{pid} is {command}");
    signal("STOP", &pid);
    Stopped(pid)
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", &self.0);
    }
}

fn signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args(["-s", signal, pid]).status().expect("there is such a command");
    assert!(status.success(), "{pid} can't be told {signal}");
}
