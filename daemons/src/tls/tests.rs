//! Who is let in, and who is not.

use super::*;
use crate::config::{Config, Tls};
use rustls::{ClientConfig, RootCertStore, version::TLS13};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

struct Platform {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Platform {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::at(folder.path()).expect("made");
        Self { folder, authority }
    }

    fn member(&self, role: Role, pod: Option<&str>) -> Credentials {
        let own = pod.map(Name::of_pod);
        self.authority.issue(role, own.as_ref()).expect("issued").credentials().expect("good")
    }

    fn files(&self, role: Role) -> Files {
        let folder = self.folder.path().join(role.label());
        self.authority.issue(role, None).expect("issued").write(&folder).expect("written")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// What both ends say of each other. The client's end writes a letter, so that it hears of a refusal.
async fn meet(
    client: &Credentials,
    name: &Name,
    server: &Credentials,
    roles: &[Role],
) -> (Result<u8, String>, Result<u8, String>) {
    let (near, far) = duplex(4096);
    let one = async {
        let mut stream = client.connect(near, name).await.map_err(|error| error.to_string())?;
        stream.write_all(b"a").await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())
    };
    let other = async {
        let mut stream = server.accept(far, roles).await.map_err(|error| error.to_string())?;
        let got = stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_all(b"b").await.map_err(|error| error.to_string())?;
        Ok(got)
    };
    tokio::join!(one, other)
}

#[tokio::test]
async fn who_belongs_to_the_platform_is_let_in_by_its_role() {
    let platform = Platform::new();
    let control = platform.member(Role::Control, None);
    let worker = platform.member(Role::Worker, Some("add-0-worker"));
    for name in [Role::Worker.name(), Name::of_pod("add-0-worker")] {
        let met = meet(&control, &name, &worker, &[Role::Control]).await;
        assert_eq!(met, (Ok(b'b'), Ok(b'a')), "{name}");
    }
}

#[tokio::test]
async fn who_has_another_role_is_refused() {
    let platform = Platform::new();
    let worker = platform.member(Role::Worker, Some("add-0-worker"));
    for (role, pod, roles, expected) in [
        (Role::Replica, "add-0-replica-1", &[Role::Control][..], "control"),
        (Role::Worker, "mul-0-worker", &[Role::Control], "control"),
        // A pod's own name is no role, whatever the pod is called.
        (Role::Worker, "control", &[Role::Control, Role::Replica], "control or replica"),
    ] {
        let other = platform.member(role, Some(pod));
        let (client, server) = meet(&other, &Role::Worker.name(), &worker, roles).await;
        assert_eq!(server, Err(format!("it shows a certificate of another role than {expected}")));
        assert!(client.is_err());
    }
}

#[tokio::test]
async fn who_was_here_before_is_checked_again() {
    let platform = Platform::new();
    let replica = platform.member(Role::Replica, None);
    let worker = platform.member(Role::Worker, None);
    // What the first connection left behind makes the second shorter, and not wider.
    assert_eq!(meet(&replica, &Role::Worker.name(), &worker, &[Role::Replica]).await, (Ok(b'b'), Ok(b'a')));
    let (client, server) = meet(&replica, &Role::Worker.name(), &worker, &[Role::Control]).await;
    assert!(server.expect_err("refused").contains("another role"));
    assert!(client.is_err());
}

#[tokio::test]
async fn an_address_that_went_to_another_pod_leads_to_nobody() {
    let platform = Platform::new();
    let control = platform.member(Role::Control, None);
    let other = platform.member(Role::Worker, Some("mul-3-worker"));
    for name in [Name::of_pod("add-0-worker"), Role::Replica.name(), Name::of_pod("not a name")] {
        let (client, server) = meet(&control, &name, &other, &[Role::Control]).await;
        assert!(client.expect_err("refused").contains("somebody else is there now"), "{name}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn who_comes_from_another_platform_is_refused_by_both() {
    let (platform, stranger) = (Platform::new(), Platform::new());
    let worker = platform.member(Role::Worker, None);
    let (client, server) =
        meet(&stranger.member(Role::Control, None), &Role::Worker.name(), &worker, &[Role::Control]).await;
    assert!(client.expect_err("refused").contains("UnknownIssuer"));
    assert!(server.is_err());
    // One that believes everybody is refused all the same.
    let files = Files { ca: platform.path("ca.crt"), ..stranger.files(Role::Control) };
    let gullible = Credentials::load(&files).expect("good");
    let (client, server) = meet(&gullible, &Role::Worker.name(), &worker, &[Role::Control]).await;
    let refused = server.expect_err("refused");
    assert!(refused.contains("UnknownIssuer") && refused.contains("one authority"), "{refused}");
    assert!(client.is_err());
}

#[tokio::test]
async fn who_has_an_expired_certificate_is_refused_at_either_end() {
    let platform = Platform::new();
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = |role| platform.authority.issue_until(role, None, past).expect("issued").credentials();
    let (old_control, old_worker) = (expired(Role::Control).unwrap(), expired(Role::Worker).unwrap());
    let (control, worker) = (platform.member(Role::Control, None), platform.member(Role::Worker, None));
    let (_, server) = meet(&old_control, &Role::Worker.name(), &worker, &[Role::Control]).await;
    let refused = server.expect_err("refused");
    assert!(refused.contains("expired") && refused.contains("quorate tls make"), "{refused}");
    let (client, _) = meet(&control, &Role::Worker.name(), &old_worker, &[Role::Control]).await;
    let refused = client.expect_err("refused");
    assert!(refused.contains("expired"), "{refused}");
}

#[tokio::test]
async fn who_shows_nothing_or_speaks_no_tls_is_refused() {
    let platform = Platform::new();
    let worker = platform.member(Role::Worker, None);
    let (mut near, far) = duplex(4096);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room for it");
    let refused = worker.accept(far, &[Role::Control]).await.expect_err("refused").to_string();
    assert!(refused.contains("speaks no TLS"), "{refused}");
    let mut store = RootCertStore::empty();
    let ca = fs::read(platform.path("ca.crt")).expect("there");
    for root in credentials::certificates(Path::new("ca"), &ca).expect("some") {
        store.add(root).expect("an authority");
    }
    let nobody = ClientConfig::builder_with_provider(credentials::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("it can that")
        .with_root_certificates(store)
        .with_no_client_auth();
    let (near, far) = duplex(4096);
    let name = Role::Worker.name().to_server_name();
    let connector = TlsConnector::from(Arc::new(nobody));
    let (_, accepted) = tokio::join!(connector.connect(name, near), worker.accept(far, &[Role::Control]));
    let refused = accepted.expect_err("refused").to_string();
    assert!(refused.contains("shows no certificate"), "{refused}");
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let platform = Platform::new();
    let mut worker = platform.member(Role::Worker, None);
    worker.handshake = Duration::from_millis(1);
    let (_near, far) = duplex(4096);
    assert!(matches!(worker.accept(far, &[Role::Control]).await, Err(Refused::Slow(_))));
    let (near, _far) = duplex(4096);
    assert!(matches!(worker.connect(near, &Role::Worker.name()).await, Err(Refused::Slow(_))));
}

#[test]
fn an_authority_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = folder.path().to_owned();
            std::thread::spawn(move || Authority::at(&path).map(|authority| authority.pem().to_owned()))
        })
        .collect();
    let before = fs::read_to_string(folder.path().join("ca.crt")).unwrap_or_default();
    let seen: Vec<_> =
        threads.into_iter().map(|thread| thread.join().expect("no panic").expect("made or found")).collect();
    let now = fs::read_to_string(folder.path().join("ca.crt")).expect("there");
    assert!(before.is_empty() || before == now);
    assert!(seen.iter().all(|pem| *pem == now), "all found the same");
    let again = Authority::at(folder.path()).expect("found");
    let files = again.issue(Role::Control, None).expect("issued").write(&folder.path().join("control"));
    let files = files.expect("written");
    Credentials::load(&files).expect("what it issues goes with its certificate");
    #[cfg(unix)]
    for key in [folder.path().join("ca.key"), files.key] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(key).expect("there").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn files_that_hold_something_else_are_refused_by_name() {
    let platform = Platform::new();
    let (good, other) = (platform.files(Role::Control), platform.files(Role::Worker));
    let rubbish = platform.path("rubbish.pem");
    fs::write(&rubbish, "rubbish").expect("written");
    let missing = platform.path("missing.pem");
    for (files, expected) in [
        (Files { ca: rubbish.clone(), ..good.clone() }, "rubbish.pem holds no certificate"),
        (Files { cert: missing, ..good.clone() }, "missing.pem: No such file"),
        (Files { key: rubbish.clone(), ..good.clone() }, "rubbish.pem holds no key"),
        (Files { key: other.key, ..good.clone() }, "can't be used"),
    ] {
        let error = Credentials::load(&files).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (ca, key, expected) in [
        (&good.ca, &good.key, "goes with the key"),
        (&good.ca, &rubbish, "rubbish.pem holds no key"),
        (&rubbish, &platform.path("ca.key"), "rubbish.pem holds no certificate"),
    ] {
        let error = Authority::open(ca, key).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Credentials of a daemon that is configured so, or why there are none.
fn standing(data: &Path, tls: Tls) -> Result<Option<Standing>, String> {
    let config = Config { data: data.to_owned(), tls, ..Config::default() };
    Standing::of(&config).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_daemon_is_what_its_configuration_says() {
    let data = tempfile::tempdir().expect("a folder");
    assert!(standing(data.path(), Tls { inside: Inside::Off, ..Tls::default() }).unwrap().is_none());
    assert!(!data.path().join("tls").exists(), "nothing is made that nobody uses");
    // Daemons on one folder have one authority.
    let own = || standing(data.path(), Tls::default()).unwrap().expect("on");
    let (one, other) = (own(), own());
    let met = meet(&one.credentials, &Role::Control.name(), &other.credentials, &[Role::Control]).await;
    assert_eq!(met, (Ok(b'b'), Ok(b'a')));
    // Given ones: with the authority's key, with a certificate of one's own, with neither.
    let given = Platform::new();
    let files = given.files(Role::Control);
    let ca = Some(given.path("ca.crt"));
    let issuing = Tls { ca: ca.clone(), ca_key: Some(given.path("ca.key")), ..Tls::default() };
    let issuing = standing(data.path(), issuing).unwrap().expect("on");
    let certified = Tls { ca: ca.clone(), cert: Some(files.cert), key: Some(files.key), ..Tls::default() };
    let certified = standing(data.path(), certified).unwrap().expect("on");
    for (client, server) in [(&issuing, &certified), (&certified, &issuing)] {
        let name = Role::Control.name();
        let met = meet(&client.credentials, &name, &server.credentials, &[Role::Control]).await;
        assert_eq!(met, (Ok(b'b'), Ok(b'a')));
    }
    issuing.authority().expect("it makes the pods' certificates");
    let error = certified.authority().expect_err("it can't").to_string();
    assert!(error.contains("tls.ca_key") && error.contains("ca.crt"), "{error}");
    let error = standing(data.path(), Tls { ca, ..Tls::default() }).expect_err("neither");
    assert!(error.contains("tls.cert") && error.contains("quorate tls make"), "{error}");
}

#[test]
fn an_authority_of_others_issues_under_its_own_name() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    let folder = tempfile::tempdir().expect("a folder");
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, "Example inside");
    let (ca, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
    // Beside one that went before it, as while authorities change.
    let before = Platform::new();
    let pem = format!("{}{}", before.authority.pem(), params.self_signed(&pair).unwrap().pem());
    fs::write(&ca, pem).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let authority = Authority::open(&ca, &key).expect("good");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let member = |role| authority.issue(role, None).unwrap().credentials().unwrap();
        let (control, worker) = (member(Role::Control), member(Role::Worker));
        let met = meet(&control, &Role::Worker.name(), &worker, &[Role::Control]).await;
        assert_eq!(met, (Ok(b'b'), Ok(b'a')));
        // Certificates of the former are good as long as it stands there.
        let former = before.member(Role::Control, None);
        let (_, server) = meet(&former, &Role::Worker.name(), &worker, &[Role::Control]).await;
        assert!(server.is_err_and(|error| !error.contains("UnknownIssuer")), "the server believes it");
    });
}

#[test]
fn nothing_secret_is_shown() {
    let platform = Platform::new();
    let issued = platform.authority.issue(Role::Control, None).unwrap();
    let credentials = issued.credentials().unwrap();
    let standing = standing(platform.folder.path(), Tls::default()).unwrap();
    let shown = format!("{issued:?} {credentials:?} {:?} {standing:?}", platform.authority);
    assert!(!shown.contains("PRIVATE") && !shown.contains("BEGIN"), "{shown}");
}
