//! A data folder, and commands that are run on it.

use crate::{PATIENCE, binary, binary::target, process};
use quorate::{
    identity::Identities,
    tls::{Authority, Name, Role},
    wires::Wires,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command};

/// The sets whose identities lie ready: those of platforms that have one of each function.
const SETS: [&str; 4] = ["add-0", "sub-0", "mul-0", "div-0"];

/// Names the data folder to a command, and to its children, which inherit it: none can hide.
const DATA: &str = "QUORATE_DATA";

/// A data folder of its own, removed with this value.
#[derive(Debug)]
pub struct Data {
    folder: TempDir,
}

/// What a command said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Data {
    /// An empty folder, as on a machine that has never run the platform.
    #[must_use]
    pub fn empty() -> Self {
        Self { folder: tempfile::Builder::new().prefix("quorate-e2e-").tempdir().expect("a folder in /tmp") }
    }

    /// A folder with the identities of one set of each function: making them takes seconds, so all tests
    /// share one set of them.
    #[must_use]
    pub fn new() -> Self {
        let data = Self::empty();
        copy(&keys().join("identities"), &data.path().join("identities"));
        data
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file beside the data and says where.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("the folder is ours");
        path
    }

    /// Where nothing lies yet.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        self.path().join(name).to_str().expect("is UTF-8").to_owned()
    }

    /// A command of the binary on this data, in an environment that says nothing else.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(binary(), arguments)
    }

    /// A command of another binary that is one in all but what the test is about.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        // Neither the user's files nor the folder that the tests run in may matter.
        command.env("HOME", self.path()).env("NO_COLOR", "1").env(DATA, self.path()).current_dir(self.path());
        command.env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME").env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), arguments, None).await
    }

    /// Runs a command to its end with something on its standard input.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        finish(command, arguments, Some(input)).await
    }

    /// Runs a command that has to succeed, and says what it answered.
    pub async fn answer(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.code, Some(0), "quorate {arguments:?}: {output:?}");
        output.stdout.trim_end().to_owned()
    }

    /// Connections inside the platform that works on this data, as who has this role and this name.
    ///
    /// # Panics
    /// When there has been none.
    #[must_use]
    pub fn wires(&self, role: Role, own: &str) -> Wires {
        let folder = self.path().join("tls");
        assert!(folder.exists(), "a platform makes its authority when it starts");
        let authority = Authority::at(&folder).expect("was made by a platform");
        let issued = authority.issue(role, Some(&Name::of_pod(own))).expect("it can be used");
        Wires::with(issued.credentials().expect("was made just now"))
    }

    /// The processes that work for this data.
    #[must_use]
    pub fn processes(&self) -> Vec<process::Process> {
        let folder = self.path().to_str().expect("is UTF-8");
        process::of(&format!("{DATA}={folder}"), folder)
    }

    /// Waits until no process works for this data.
    ///
    /// # Panics
    /// When one still does after `within`.
    pub async fn deserted(&self, within: std::time::Duration) {
        let deserting = async {
            while let Some(left) = self.processes().first() {
                process::ended(left.pid).await;
            }
        };
        if tokio::time::timeout(within, deserting).await.is_err() {
            panic!("left behind after {within:?}: {:#?}", self.processes());
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // A failed test leaves no processes to the next one. They are ended by their ids, and only those
        // that carry this folder's name.
        for left in self.processes() {
            process::kill(left.pid);
        }
    }
}

async fn finish(mut command: Command, arguments: &[&str], input: Option<&str>) -> Output {
    let running = async {
        let mut child = command.spawn().expect("the binary was just built");
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A command may end without reading all of it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await.expect("its pipes are ours")
    };
    let Ok(output) = tokio::time::timeout(PATIENCE, running).await else {
        panic!("quorate {arguments:?} has not ended within {PATIENCE:?}");
    };
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("speaks UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A data folder with ready identities, made once for all tests.
///
/// # Panics
/// When they can't be made.
#[must_use]
pub fn keys() -> PathBuf {
    let tmp = target().0.join("tmp");
    let folder = tmp.join("quorate-keys");
    let _alone = lock(&tmp.join("quorate-keys.lock"));
    let identities = Identities::at(&folder);
    for set in SETS {
        identities.obtain(set, 4).expect("identities can be made");
    }
    folder
}

/// Waits until no other process holds the lock, and holds it until the file is dropped.
pub(crate) fn lock(path: &Path) -> File {
    fs::create_dir_all(path.parent().expect("lies in a folder")).expect("target/tmp can be made");
    let file = File::create(path).expect("target/tmp is writable");
    file.lock().expect("the file system has locks");
    file
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("was made by `keys`") {
        let entry = entry.expect("stays while we read");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("the folder is ours");
        }
    }
}
