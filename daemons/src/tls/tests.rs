//! Who is let in, and who is not.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
        Credentials::load(&self.files(role, pod)).expect("good")
    }

    fn files(&self, role: Role, pod: Option<&str>) -> Files {
        let own = pod.map(Name::of_pod);
        let folder = self.folder.path().join(format!("{role:?}-{}", pod.unwrap_or_default()));
        self.authority.issue(role, own.as_ref(), &folder).expect("issued")
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
    let replica = platform.member(Role::Replica, Some("add-0-replica-1"));
    let worker = platform.member(Role::Worker, Some("add-0-worker"));
    let (client, server) = meet(&replica, &Role::Worker.name(), &worker, &[Role::Control]).await;
    assert_eq!(server, Err("a certificate of another role than control".into()));
    assert!(client.is_err());
}

#[tokio::test]
async fn an_address_that_went_to_another_pod_leads_to_nobody() {
    let platform = Platform::new();
    let control = platform.member(Role::Control, None);
    let other = platform.member(Role::Worker, Some("mul-3-worker"));
    for name in [Name::of_pod("add-0-worker"), Role::Replica.name(), Name::of_pod("not a name")] {
        let (client, server) = meet(&control, &name, &other, &[Role::Control]).await;
        assert!(client.expect_err("refused").contains("certificate"), "{name}");
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
    let mut files = stranger.files(Role::Control, None);
    files.ca = platform.folder.path().join("ca.pem");
    let gullible = Credentials::load(&files).expect("good");
    let (client, server) = meet(&gullible, &Role::Worker.name(), &worker, &[Role::Control]).await;
    assert!(server.expect_err("refused").contains("UnknownIssuer"));
    assert!(client.is_err());
}

#[tokio::test]
async fn who_shows_nothing_or_speaks_no_tls_is_refused() {
    let platform = Platform::new();
    let worker = platform.member(Role::Worker, None);
    let (mut near, far) = duplex(4096);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room for it");
    let refused = worker.accept(far, &[Role::Control]).await.expect_err("refused");
    assert!(matches!(refused, Refused::Handshake(_)), "{refused}");
    let mut store = RootCertStore::empty();
    for root in certificates(&platform.folder.path().join("ca.pem")).expect("there") {
        store.add(root).expect("an authority");
    }
    let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("it can that")
        .with_root_certificates(store)
        .with_no_client_auth();
    let (near, far) = duplex(4096);
    let name = Role::Worker.name().to_server_name();
    let connector = TlsConnector::from(Arc::new(nobody));
    let (_, accepted) = tokio::join!(connector.connect(name, near), worker.accept(far, &[Role::Control]));
    let refused = accepted.expect_err("refused").to_string();
    assert!(refused.contains("no certificates") || refused.contains("CertificateRequired"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let platform = Platform::new();
    let worker = platform.member(Role::Worker, None);
    let (_near, far) = duplex(4096);
    assert!(matches!(worker.accept(far, &[Role::Control]).await, Err(Refused::Slow)));
}

#[test]
fn an_authority_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let path = folder.path().to_owned();
            std::thread::spawn(move || Authority::at(&path).map(|_| ()))
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic").expect("made or found");
    }
    let before = fs::read(folder.path().join("ca.pem")).expect("there");
    let again = Authority::at(folder.path()).expect("found");
    let files = again.issue(Role::Control, None, &folder.path().join("control")).expect("issued");
    Credentials::load(&files).expect("what it issues goes with its certificate");
    assert_eq!(fs::read(folder.path().join("ca.pem")).expect("there"), before);
    #[cfg(unix)]
    for key in [folder.path().join("ca.key"), files.key] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(key).expect("there").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn files_that_hold_something_else_are_refused_by_name() {
    let platform = Platform::new();
    let good = platform.files(Role::Control, None);
    let other = platform.files(Role::Worker, None);
    let rubbish = platform.folder.path().join("rubbish.pem");
    fs::write(&rubbish, "rubbish").expect("written");
    let missing = platform.folder.path().join("missing.pem");
    for (files, expected) in [
        (Files { ca: rubbish.clone(), ..good.clone() }, "rubbish.pem holds no certificate"),
        (Files { cert: missing, ..good.clone() }, "missing.pem: No such file"),
        (Files { key: rubbish, ..good.clone() }, "rubbish.pem holds no key"),
        (Files { key: other.key, ..good }, "can't be used"),
    ] {
        let error = Credentials::load(&files).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
