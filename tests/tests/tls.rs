//! Who can speak with whom: nothing inside a platform is said in plain text, and nobody from outside is let in.

use quorate::tls::{Name, Role};
use quorate_tests::{BYZANTINE, Data, NONE, PATIENCE, Platform, eventually, process};
use rustix::process::Signal;
use std::{collections::BTreeSet, fs, net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// What programs say first that speak HTTP/2, HTTP/1.1, the pods' lines, and nothing.
const FIRST: [&[u8]; 4] = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"GET /healthz HTTP/1.1\r\nhost: quorate\r\n\r\n",
    b"\n{\"peers\":{\"transports\":[]}}\n",
    b"",
];

/// All that is said in answer, once the speaker has said its word and nothing more.
async fn answer(address: SocketAddr, first: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may be closed already.
    let _ = stream.write_all(first).await;
    let _ = stream.shutdown().await;
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    // A reset is an end, too.
    let _ = read.unwrap_or_else(|_| panic!("{address} neither answers nor closes"));
    said
}

/// Where the platform listens, but for the gateway.
async fn inside(platform: &Platform) -> BTreeSet<SocketAddr> {
    let gateway: SocketAddr = platform.url.trim_start_matches("http://").parse().expect("an address");
    let pids: BTreeSet<_> = platform.status().await.iter().filter_map(|status| status.pid).collect();
    pids.into_iter().flat_map(process::listening).filter(|address| *address != gateway).collect()
}

#[tokio::test]
async fn nothing_inside_a_platform_speaks_plain_text() {
    let platform = Platform::up(BYZANTINE).await;
    assert_eq!(platform.result("((3+5)*(4-2))/1").await, "16");
    let ports = inside(&platform).await;
    // Of four functions a worker and four replicas with two ports each; scheduler and cluster service.
    assert!(ports.len() >= 4 * (1 + 4 * 2) + 2, "{ports:?}");
    for port in ports {
        for first in FIRST {
            let said = answer(port, first).await;
            // An alert, the third byte of whose record is not that of any other protocol here.
            assert!(said.is_empty() || said.starts_with(&[21, 3]), "{port} says {said:?}");
        }
    }
    assert_eq!(platform.result("1+2").await, "3");
    platform.stop().await;
}

#[tokio::test]
async fn without_protection_it_would_be_seen() {
    let platform = Platform::up(&format!("{BYZANTINE}[tls]\ninside = \"off\"\n")).await;
    assert_eq!(platform.result("1+2").await, "3");
    let mut plain = 0;
    for port in inside(&platform).await {
        for first in FIRST {
            plain += usize::from(!answer(port, first).await.is_empty());
        }
    }
    assert!(plain >= 1 + 4 * 2 + 2, "{plain}");
    assert!(!platform.data.path().join("tls").exists(), "no keys are made that nobody uses");
    platform.stop().await;
}

#[tokio::test]
async fn the_next_platform_on_a_folder_has_the_same_authority_and_pods_keep_no_key_to_others() {
    let platform = Platform::up(BYZANTINE).await;
    assert_eq!(platform.result("1+2").await, "3");
    let ca = platform.data.path().join("tls/ca.crt");
    let before = fs::read(&ca).expect("it was made");
    let worker = platform.worker("add").await;
    let address = worker.address.clone().expect("listens");
    let wires = platform.data.wires(Role::Control, "control");
    wires.dial(&address, &Name::of_pod("add-0-worker")).await.expect("that is it");
    let other = wires.dial(&address, &Name::of_pod("add-0-replica-0")).await.expect_err("somebody else");
    assert!(other.to_string().contains("somebody else is there now"), "{other}");
    // A worker that restarts has another certificate of the same authority, and is let in.
    process::signal(worker.process(), Signal::KILL);
    platform.replaced(&worker).await;
    assert_eq!(platform.result("2+2").await, "4");
    let data = platform.stop().await;
    let platform = Platform::up_on(data, BYZANTINE).await;
    assert_eq!(platform.result("3+2").await, "5");
    assert_eq!(fs::read(&ca).expect("still there"), before);
    platform.stop().await;
}

#[tokio::test]
async fn a_refusal_is_logged_with_what_to_do_and_a_flood_of_them_is_a_few_lines() {
    let platform = Platform::up(NONE).await;
    assert_eq!(platform.result("1+2").await, "3");
    let address: SocketAddr =
        platform.worker("add").await.address.expect("listens").parse().expect("an address");
    for _ in 0..100 {
        answer(address, FIRST[0]).await;
    }
    let refused = |line: &String| line.contains("a connection was refused") && line.contains("worker");
    eventually("a line about it", || async { platform.log().iter().any(refused).then_some(()) }).await;
    let log = platform.log();
    let lines: Vec<_> = log.iter().filter(|line| refused(line)).collect();
    assert!(lines[0].contains("speaks no TLS") && lines[0].contains("tls.inside"), "{lines:?}");
    assert!(lines.len() < 30, "{lines:?}");
    assert!(!log.iter().any(|line| line.contains("PRIVATE KEY")), "{log:?}");
    platform.stop().await;
}

/// Writes a certificate for loopback, its key, and gives back the authority's file.
fn certificate(data: &Data) -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let pair = KeyPair::generate().expect("randomness");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&pair).expect("made").pem();
    let own = KeyPair::generate().expect("randomness");
    let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let cert = names.signed_by(&own, &Issuer::new(params, pair)).expect("made").pem();
    [("web-ca.pem", ca), ("web.pem", cert), ("web.key", own.serialize_pem())]
        .map(|(name, text)| data.file(name, &text).to_str().expect("is UTF-8").to_owned())
}

#[tokio::test]
async fn a_gateway_with_a_certificate_speaks_https_alone() {
    let data = Data::new();
    let [ca, cert, key] = certificate(&data);
    data.file("quorate.toml", &format!("{NONE}[gateway]\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\n"));
    let mut up =
        data.command(&["up", "--listen", "127.0.0.1:0"]).stderr(Stdio::null()).spawn().expect("starts");
    let mut lines = BufReader::new(up.stdout.take().expect("is piped")).lines();
    let url = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time");
    let url = url.expect("speaks UTF-8").expect("prints its URL");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert_eq!(data.answer(&["eval", "1+2", "--url", &url, "--ca", &ca]).await, "3");
    // The platform on this data is found, and believed only with its authority.
    assert_eq!(data.answer(&["eval", "2+2", "--ca", &ca]).await, "4");
    for arguments in [&["eval", "1+1"][..], &["status", "--url", &url]] {
        let refused = data.run(arguments).await;
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(
            refused.stderr.contains("can't be trusted") || refused.stderr.contains("--ca"),
            "{refused:?}"
        );
    }
    let address = url.trim_start_matches("https://").parse().expect("an address");
    let said = answer(address, FIRST[1]).await;
    assert!(said.is_empty() || said.starts_with(&[21, 3]), "{said:?}");
    process::signal(up.id().expect("runs"), Signal::INT);
    assert!(up.wait().await.expect("is our child").success());
    data.deserted(PATIENCE).await;
}

#[tokio::test]
async fn daemons_with_given_certificates_are_a_platform() {
    let data = Data::new();
    let folder = data.place("given");
    let made = data.answer(&["tls", "make", &folder]).await;
    assert_eq!(made.lines().count(), 4, "{made}");
    let secrets = data.answer(&["tls", "make", &folder, "--secrets"]).await;
    let secrets: serde_json::Value = serde_json::from_str(&secrets).expect("is JSON");
    assert_eq!(secrets["items"][0]["stringData"].as_object().expect("items").len(), 3);
    assert!(secrets["items"][0]["stringData"].get("ca.key").is_none(), "only the cluster service has that");
    let certificates = format!(
        "{NONE}[tls]\nca = \"{folder}/ca.crt\"\nca_key = \"{folder}/ca.key\"\ncert = \"{folder}/tls.crt\"\n\
         key = \"{folder}/tls.key\"\n"
    );
    let platform = Platform::up_on(data, &certificates).await;
    assert_eq!(platform.result("1+2").await, "3");
    assert!(!platform.data.path().join("tls").exists(), "no other authority is made");
    let data = platform.stop().await;
    // Without the authority's key nobody can start pods, and that is said.
    let without = certificates.lines().filter(|line| !line.contains("ca_key")).collect::<Vec<_>>().join("\n");
    data.file("quorate.toml", &without);
    let refused = data.run(&["up", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("tls.ca_key"), "{refused:?}");
}
