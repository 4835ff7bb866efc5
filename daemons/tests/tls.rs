//! Every kind of server inside the platform, and everybody who has no business there.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use quorate::{
    cluster::{self, Setup},
    config::{Config, Durability, Replication},
    engine::Engine,
    hex, identity,
    pod::{Attachment, PodSpec, attach},
    replica, scheduler,
    sqlite::SqliteEngine,
    tls::{Authority, Credentials, Files, Name, Role},
    wires::Wires,
    worker,
};
use quorate_pbft::{Configuration, GroupId};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What makes a gRPC server answer: HTTP/2's preface and empty settings (RFC 9113, section 3.4).
const GRPC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What makes a pod's conversation answer.
const ATTACH: &[u8] = b"\n";

/// A replica greets by itself.
const PBFT: &[u8] = b"";

/// A server, what makes it answer, who it is, and who may come.
struct Server {
    kind: &'static str,
    address: SocketAddr,
    first: &'static [u8],
    name: Name,
    welcome: &'static [Role],
}

struct Platform {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Platform {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::at(&folder.path().join("tls")).unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self, role: Role, pod: &str) -> Files {
        self.authority.issue(role, Some(&Name::of_pod(pod))).unwrap().write(&self.path(pod)).unwrap()
    }

    fn wires(&self, role: Role) -> Wires {
        Wires::with(self.authority.issue(role, Some(&Name::of_pod("own"))).unwrap().credentials().unwrap())
    }

    /// A certificate that no authority would make: with these names, and until then.
    fn odd(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose, end: SystemTime) -> Wires {
        let [ca, key] = ["tls/ca.crt", "tls/ca.key"].map(|name| fs::read_to_string(self.path(name)).unwrap());
        let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&key).unwrap()).unwrap();
        let names: Vec<_> = names.iter().map(|name| format!("{name}.quorate.internal")).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![purpose];
        (params.not_before, params.not_after) = ((end - Duration::from_secs(3600)).into(), end.into());
        let pair = KeyPair::generate().unwrap();
        let files =
            Files { ca: self.path("tls/ca.crt"), cert: self.path("odd.crt"), key: self.path("odd.key") };
        fs::write(&files.cert, params.signed_by(&pair, &issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, pair.serialize_pem()).unwrap();
        Wires::with(Credentials::load(&files).unwrap())
    }

    /// All kinds of servers; they run for as long as the guard is there.
    async fn servers(&self) -> (Vec<Server>, Vec<watch::Sender<bool>>) {
        let mut guards = Vec::new();
        let mut ended = || {
            let (end, ending) = watch::channel(false);
            guards.push(end);
            ending
        };
        let at = |kind, address, first, name, welcome| Server { kind, address, first, name, welcome };
        let control: &[Role] = &[Role::Control];
        let mut all = Vec::new();

        let spec = PodSpec { tls: Some(self.files(Role::Worker, "add-0-worker")), ..PodSpec::plain("add") };
        let (port, address) = bind().await;
        let ending = ended();
        tokio::spawn(async move {
            let (_peers, peers) = watch::channel(Vec::new());
            worker::serve(spec, port, peers, ending, |_| {}).await.unwrap();
        });
        all.push(at("worker", address, GRPC, Name::of_pod("add-0-worker"), control));

        let spec = self.replica();
        let name = Name::of_pod(&spec.pod);
        let ((port, address), (transport, pbft)) = (bind().await, bind().await);
        let ending = ended();
        tokio::spawn(async move {
            let (_peers, peers) = watch::channel(vec![None; 4]);
            replica::serve(spec, port, transport, peers, ending, |_| {}).await.unwrap();
        });
        all.push(at("replica", address, GRPC, name.clone(), control));
        all.push(at("pbft", pbft, PBFT, name, &[Role::Replica, Role::Worker]));

        let (port, address) = bind().await;
        drop(port);
        let Attachment { say, .. } = attach::listen(address, 4, &self.wires(Role::Worker)).await.unwrap();
        tokio::spawn(async move {
            let _says_nothing = say;
            std::future::pending::<()>().await;
        });
        all.push(at("attach", address, ATTACH, Role::Worker.name(), control));

        let config = Arc::new(Config { data: self.folder.path().into(), ..Config::default() });
        let engine = SqliteEngine::open(&self.path("quorate.db"), Durability::Process).unwrap();
        let engine: Arc<dyn Engine> = engine;
        let (port, address) = bind().await;
        let (wires, ending) = (self.wires(Role::Control), ended());
        tokio::spawn(scheduler::run(config.clone(), engine.clone(), wires.clone(), port, ending));
        all.push(at("scheduler", address, GRPC, Role::Control.name(), control));

        let (port, address) = bind().await;
        let (orders, _orders) = mpsc::unbounded_channel();
        let (reports, told) = mpsc::unbounded_channel();
        let (backend, pods) =
            quorate::backend::process::ProcessBackend::new(&self.path("pods"), None, orders, told);
        let setup = Setup {
            config,
            state: self.path("state"),
            fresh: true,
            engine,
            backend: Arc::new(backend),
            pods,
            wires,
            listener: port,
            shutdown: ended(),
        };
        tokio::spawn(async move {
            let _kept = (reports, _orders);
            cluster::run(setup).await
        });
        all.push(at("cluster", address, GRPC, Role::Control.name(), control));
        (all, guards)
    }

    fn replica(&self) -> PodSpec {
        let keys = identity::Identities::at(&shared_keys()).obtain("add-0", 4).unwrap();
        let replicas = keys.replicas.iter().map(|member| member.public.clone()).collect();
        let genesis = Configuration::genesis(GroupId([1; 16]), replicas, vec![keys.worker.public.clone()]);
        PodSpec {
            pod: "add-0-replica-2".into(),
            index: Some(2),
            replication: Replication::Byzantine { f: 1 },
            genesis: Some(hex::encode(&genesis.to_bytes())),
            identity: Some(keys.replicas[2].path.clone()),
            transport: Some("127.0.0.1:0".into()),
            data: self.path("replica"),
            tls: Some(self.files(Role::Replica, "add-0-replica-2")),
            ..PodSpec::plain("add")
        }
    }
}

/// Identities take long to make, so those of one run do for the next.
fn shared_keys() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls-keys")
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Whether the server says anything to who says this first. One that refuses says nothing, and closes.
async fn is_answered(mut stream: impl AsyncRead + AsyncWrite + Unpin, first: &[u8]) -> bool {
    let _ = stream.write_all(first).await;
    let _ = stream.flush().await;
    let read = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it answers or closes");
    // What begins a record of TLS with an alert (RFC 8446, section 5.1) begins nothing else here.
    read.is_ok_and(|byte| byte != 21)
}

/// The same from the first word on, for who may not even get so far.
async fn speaks(wires: &Wires, server: &Server) -> bool {
    match wires.dial(server.address, &server.name).await {
        Ok(stream) => is_answered(stream, server.first).await,
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_answers_those_it_is_for_and_nobody_else() {
    let platform = Platform::new();
    let (servers, _guards) = platform.servers().await;
    let future = SystemTime::now() + Duration::from_secs(3600);
    let past = SystemTime::now() - Duration::from_secs(60);
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let other = Platform::new();
    let all = ["control", "worker", "replica"];
    let mut strangers = vec![
        ("who speaks no TLS", Wires::plain()),
        ("who is expired", platform.odd(&all, client.clone(), past)),
        ("who is not valid yet", platform.odd(&all, client.clone(), future + Duration::from_secs(3600))),
        ("who has no role", platform.odd(&["add-0-worker.pod"], client.clone(), future)),
        ("who has a role as a pod's name", platform.odd(&["control.pod", "worker.pod"], client, future)),
        ("who may be a server only", platform.odd(&all, ExtendedKeyUsagePurpose::ServerAuth, future)),
    ];
    for role in [Role::Control, Role::Worker, Role::Replica] {
        strangers.push(("who comes from another platform", gullible(&other, &platform, role)));
    }
    for server in &servers {
        for role in [Role::Control, Role::Worker, Role::Replica] {
            let is_welcome = server.welcome.contains(&role);
            let is_answered = speaks(&platform.wires(role), server).await;
            assert_eq!(is_answered, is_welcome, "{role:?} at {}", server.kind);
        }
        for (who, wires) in &strangers {
            assert!(!speaks(wires, server).await, "{who} at {}", server.kind);
        }
        let stream = TcpStream::connect(server.address).await.unwrap();
        assert!(!anonymous(stream, server, &platform).await, "who shows nothing at {}", server.kind);
        // And whoever finds another one there than it means does not speak.
        let name = Name::of_pod("add-7-worker");
        let found = platform.wires(server.welcome[0]).dial(server.address, &name).await;
        assert!(found.unwrap_err().to_string().contains("somebody else"), "{}", server.kind);
    }
}

/// One of another platform who believes everybody of this one.
fn gullible(other: &Platform, platform: &Platform, role: Role) -> Wires {
    let files = Files { ca: platform.path("tls/ca.crt"), ..other.files(role, "gullible") };
    Wires::with(Credentials::load(&files).unwrap())
}

/// Whether a server answers who shows no certificate.
async fn anonymous(stream: TcpStream, server: &Server, platform: &Platform) -> bool {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(platform.path("tls/ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server.name.to_string()).unwrap();
    match tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => is_answered(stream, server.first).await,
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_keeps_nobody_from_any_server() {
    let platform = Platform::new();
    let (servers, _guards) = platform.servers().await;
    for server in &servers {
        let mut stalled = Vec::new();
        for at in 0..100 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            if at % 2 == 0 {
                // The beginning of a record, and no more.
                stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
            }
            stalled.push(stream);
        }
        let welcome = platform.wires(server.welcome[0]);
        let spoken = tokio::time::timeout(PATIENCE, speaks(&welcome, server)).await.expect("in time");
        assert!(spoken, "{}", server.kind);
    }
}
