//! `etcd`: members of a cluster on this machine, each a process of its own. They find each other over sockets in
//! their folder, and choose the ports for clients themselves.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

/// Longer than members take to find each other on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many of its last lines are shown when a member does not start.
const LINES: usize = 40;

/// A cluster of its own, with nothing in it.
pub struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    tls: bool,
}

struct Member {
    name: String,
    /// Once it is known, it stays the same.
    endpoint: Option<String>,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one of so many members, and returns when all take requests.
    ///
    /// # Panics
    /// When they don't start.
    pub fn start(members: usize) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), members, false)
    }

    /// Starts one member that shows a certificate and asks for one: those of [`certificates`](Self::certificates).
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with_tls() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        certify(folder.path());
        Self::start_in(folder, 1, true)
    }

    fn start_in(folder: tempfile::TempDir, members: usize, tls: bool) -> Self {
        let names = (0..members).map(|nth| format!("m{nth}"));
        let members = names.map(|name| Member { name, endpoint: None, child: None }).collect();
        let mut etcd = Self { folder, members, tls };
        let started: Vec<_> = (0..etcd.members.len()).map(|nth| etcd.spawn(nth)).collect();
        for (nth, started) in started.into_iter().enumerate() {
            etcd.members[nth].endpoint = Some(started.endpoint());
        }
        etcd
    }

    /// Where the members listen for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone().expect("it has started")).collect()
    }

    /// Where one does.
    pub fn endpoint(&self, nth: usize) -> String {
        self.endpoints().swap_remove(nth)
    }

    /// The authority, a certificate that members take from clients, and its key, as PEM.
    pub fn certificates(&self) -> [Vec<u8>; 3] {
        ["ca.pem", "client.pem", "client-key.pem"]
            .map(|name| std::fs::read(self.folder.path().join(name)).expect("made when it started"))
    }

    /// Ends a member as a crash does (SIGKILL).
    pub fn kill(&mut self, nth: usize) {
        let mut child = self.members[nth].child.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Starts a member that was killed, where it was, and returns when it takes requests.
    pub fn restart(&mut self, nth: usize) {
        self.spawn(nth).endpoint();
    }

    /// Starts several at once: none of them takes requests before there is a quorum.
    pub fn restart_all(&mut self, members: &[usize]) {
        let started: Vec<_> = members.iter().map(|nth| self.spawn(*nth)).collect();
        started.into_iter().for_each(|started| drop(started.endpoint()));
    }

    /// Stops a member (SIGSTOP): its connections stay open, and nothing answers.
    pub fn freeze(&self, nth: usize) {
        self.signal(nth, rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self, nth: usize) {
        self.signal(nth, rustix::process::Signal::CONT);
    }

    fn signal(&self, nth: usize, signal: rustix::process::Signal) {
        let child = self.members[nth].child.as_ref().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it is ours");
    }

    /// Which member leads the others.
    pub fn leader(&self) -> usize {
        let status: Vec<serde_json::Value> =
            serde_json::from_str(&self.ctl(&["endpoint", "status", "-w", "json"])).expect("JSON");
        let leads = |one: &serde_json::Value| {
            let status = &one["Status"];
            (status["leader"] == status["header"]["member_id"]).then(|| one["Endpoint"].clone())
        };
        let leader = status.iter().find_map(leads).expect("one leads");
        let endpoints = self.endpoints();
        endpoints.iter().position(|endpoint| leader == endpoint.as_str()).expect("one of ours")
    }

    /// The revision of the newest change.
    pub fn revision(&self) -> u64 {
        let got: serde_json::Value =
            serde_json::from_str(&self.ctl(&["get", "none", "-w", "json"])).expect("JSON");
        got["header"]["revision"].as_u64().expect("a number")
    }

    /// Lets go of the changes before that revision.
    pub fn compact(&self, revision: u64) {
        self.ctl(&["compact", "--physical", &revision.to_string()]);
    }

    /// What `etcdctl` says, asking those members that run.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let running: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.child.is_some())
            .map(|member| member.endpoint.clone().expect("it has started"))
            .collect();
        ctl(&running.join(","), arguments)
    }

    fn spawn(&mut self, nth: usize) -> Starting {
        let all: Vec<_> =
            self.members.iter().map(|member| format!("{0}=unix://{0}:1", member.name)).collect();
        let member = &mut self.members[nth];
        let name = &member.name;
        // A socket of a former life would be in the way.
        let _ = std::fs::remove_file(self.folder.path().join(format!("{name}:1")));
        let scheme = if self.tls { "https" } else { "http" };
        let client = member.endpoint.clone().unwrap_or(format!("{scheme}://127.0.0.1:0"));
        let peer = format!("unix://{name}:1");
        // A quick election, but not so quick that a busy machine ends terms. One member has no rival.
        let (heartbeat, election) = if all.len() == 1 { ("10", "100") } else { ("60", "600") };
        let mut command = Command::new("etcd");
        command
            .args(["--name", name, "--data-dir", name, "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(",")])
            .args(["--heartbeat-interval", heartbeat, "--election-timeout", election])
            .args(["--experimental-watch-progress-notify-interval", "200ms"])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .current_dir(self.folder.path())
            .process_group(0) // an interrupt of the terminal is for the test, which ends its members
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if self.tls {
            command.args(["--cert-file", "server.pem", "--key-file", "server-key.pem"]).args([
                "--trusted-ca-file",
                "ca.pem",
                "--client-cert-auth",
            ]);
        }
        let mut child = command.spawn().expect("tests/engines installs etcd");
        let log = BufReader::new(child.stderr.take().expect("piped above"));
        member.child = Some(child);
        Starting::follow(log, scheme)
    }
}

/// A member that does not take requests yet.
struct Starting {
    listens: mpsc::Receiver<String>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Starting {
    /// Reads the log, to its end: a full pipe would stop the member.
    fn follow(log: impl BufRead + Send + 'static, scheme: &'static str) -> Self {
        let (tell, listens) = mpsc::channel();
        let last: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let lines = Arc::clone(&last);
        std::thread::spawn(move || {
            for line in log.lines() {
                let Ok(line) = line else { return };
                // `serving client traffic insecurely`, or securely, with the address, when it takes requests.
                if line.contains("serving client traffic") {
                    let said: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                    let address = said["address"].as_str().expect("it says where");
                    let _ = tell.send(format!("{scheme}://{address}"));
                }
                let mut lines = lines.lock().expect("nobody panics with it");
                lines.push_back(line);
                if lines.len() > LINES {
                    lines.pop_front();
                }
            }
        });
        Self { listens, last }
    }

    fn endpoint(self) -> String {
        self.listens.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => "does not start",
                RecvTimeoutError::Disconnected => "has ended",
            };
            let last: Vec<_> = self.last.lock().expect("nobody panics with it").drain(..).collect();
            panic!("etcd {why}:\n{}", last.join("\n"))
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
        }
    }
}

/// What `etcdctl` says, asking these endpoints.
///
/// # Panics
/// When it fails.
pub fn ctl(endpoints: &str, arguments: &[&str]) -> String {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoints])
        .args(arguments)
        .output()
        .expect("tests/engines installs etcdctl");
    assert!(
        output.status.success(),
        "etcdctl {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Makes an authority, and certificates by it for 127.0.0.1 as server and as client.
pub fn certify(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(folder)
            .output()
            .expect("tests/engines installs openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let request = |rest: &[&str]| openssl(&[&["req"], &KEY[..], rest].concat());
    request(&["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem"]);
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(folder.join("extensions"), extensions).expect("written");
    for name in ["server", "client"] {
        let (key, asked, pem) = (format!("{name}-key.pem"), format!("{name}.csr"), format!("{name}.pem"));
        request(&["-subj", &format!("/CN={name}"), "-keyout", &key, "-out", &asked]);
        openssl(
            &[
                &["x509", "-req", "-in", &asked, "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"]
                    [..],
                &["-days", "2", "-extfile", "extensions", "-out", &pem],
            ]
            .concat(),
        );
    }
}
