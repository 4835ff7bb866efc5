//! The conversation with a pod that runs: the cluster service's end of [`crate::pod::attach`].

use crate::{
    pod::{
        Said, Told,
        attach::{LINE_BYTES_MAX, SILENCE},
    },
    tls::Name,
    wires::{Stream, Wires},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    sync::{mpsc, watch},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Between tries to connect; doubles, up to the second. A pod that has just begun to run listens soon.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a pod is asked whether it is there.
const ASK: Duration = Duration::from_secs(10);

/// What one conversation may bring. A pod says two things in its life, and a worker some more when its
/// replicas are replaced; one that goes on is begun with anew, at its own pace.
const WORDS_MAX: usize = 16;

/// What is heard of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It answers.
    Connected,
    /// It says something.
    Said(Said),
    /// It does not answer any more.
    Lost,
}

/// Speaks with the pod at `address`, if it is that pod, again and again, until dropped. Each thing is heard
/// under `object`.
pub(super) async fn converse(
    object: String,
    (wires, pod): (Wires, Name),
    address: SocketAddr,
    told: watch::Receiver<Vec<Told>>,
    heard: mpsc::Sender<(String, Heard)>,
) {
    let mut pause = PAUSE.0;
    loop {
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, wires.dial(address, &pod)).await {
            let hear = async |what| heard.send((object.clone(), what)).await;
            if hear(Heard::Connected).await.is_err() {
                return;
            }
            let (from, to) = tokio::io::split(stream);
            let words = tokio::select! {
                () = speak(to, told.clone()) => 0,
                words = listen(from, address.ip(), &object, &heard) => words,
            };
            if hear(Heard::Lost).await.is_err() {
                return;
            }
            if words > 0 && words < WORDS_MAX {
                pause = PAUSE.0;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Tells what there is to tell, the latest of each kind, and asks whether anyone is there.
async fn speak(mut to: WriteHalf<Stream>, mut told: watch::Receiver<Vec<Told>>) {
    let mut ask = tokio::time::interval_at(tokio::time::Instant::now() + ASK, ASK);
    told.mark_changed();
    loop {
        let lines = tokio::select! {
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                let line = |told| serde_json::to_string(told).expect("plain strings serialise") + "\n";
                told.borrow_and_update().iter().map(line).collect()
            }
            _ = ask.tick() => "\n".to_owned(),
        };
        if to.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Hears what is said, until the end; gives back how much that was.
async fn listen(
    from: ReadHalf<Stream>,
    address: IpAddr,
    object: &str,
    heard: &mpsc::Sender<(String, Heard)>,
) -> usize {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    let mut words = 0;
    while words < WORDS_MAX {
        line.clear();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        match tokio::time::timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(_)) if line.ends_with(b"\n") => {}
            _ => return words,
        }
        if line == b"\n" {
            continue;
        }
        words += 1;
        match serde_json::from_slice(&line) {
            Ok(said) => {
                let said = seen_from_outside(said, address);
                if heard.send((object.to_owned(), Heard::Said(said))).await.is_err() {
                    return words;
                }
            }
            Err(error) => tracing::warn!(object, %error, "a line of the pod was not understood"),
        }
    }
    words
}

/// What a pod says of its ports, at the address where it is reached: it knows the ports only, and one that
/// lies can't send others elsewhere.
fn seen_from_outside(said: Said, address: IpAddr) -> Said {
    let at = |listens: String| match listens.parse::<SocketAddr>() {
        Ok(listens) => SocketAddr::new(address, listens.port()).to_string(),
        Err(_) => listens,
    };
    match said {
        Said::Listening { address, transport } => {
            Said::Listening { address: at(address), transport: transport.map(at) }
        }
        said @ (Said::Ready | Said::Succeeded { .. }) => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn next(hearing: &mut mpsc::Receiver<(String, Heard)>) -> Heard {
        let (object, heard) = tokio::time::timeout(PATIENCE, hearing.recv()).await.expect("in time").unwrap();
        assert_eq!(object, "quorate-add-0-worker-1");
        heard
    }

    #[tokio::test]
    async fn a_pod_is_heard_is_told_the_latest_and_is_looked_for_again() {
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, told) = watch::channel(Vec::new());
        let (heard, mut hearing) = mpsc::channel(16);
        let address = pod.local_addr().unwrap();
        let to = (Wires::plain(), Name::of_pod("add-0-worker"));
        let talk = tokio::spawn(converse("quorate-add-0-worker-1".into(), to, address, told, heard));
        let (stream, _) = pod.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let said = "{\"listening\":{\"address\":\"0.0.0.0:7401\",\"transport\":\"0.0.0.0:7402\"}}\n";
        stream.get_mut().write_all(said.as_bytes()).await.unwrap();
        assert_eq!(next(&mut hearing).await, Heard::Connected);
        let listening =
            Said::Listening { address: "127.0.0.1:7401".into(), transport: Some("127.0.0.1:7402".into()) };
        assert_eq!(next(&mut hearing).await, Heard::Said(listening));
        let peers = |port: u16| Told::Peers { transports: vec![Some(format!("10.0.0.1:{port}"))] };
        tell.send_replace(vec![peers(1)]);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), peers(1));
        drop(stream);
        assert_eq!(next(&mut hearing).await, Heard::Lost);
        let (stream, _) = pod.accept().await.unwrap();
        assert_eq!(next(&mut hearing).await, Heard::Connected);
        // Whoever comes back has forgotten what it was told.
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), peers(1));
        talk.abort();
    }

    #[test]
    fn a_pod_is_reached_where_it_is_whatever_it_says() {
        let said = |address: &str| Said::Listening { address: address.into(), transport: None };
        let at: IpAddr = "10.0.0.4".parse().unwrap();
        for (says, reached) in [
            ("0.0.0.0:7401", "10.0.0.4:7401"),
            ("10.9.9.9:80", "10.0.0.4:80"),
            ("[::]:7401", "10.0.0.4:7401"),
        ] {
            assert_eq!(seen_from_outside(said(says), at), said(reached));
        }
        assert_eq!(seen_from_outside(Said::Ready, at), Said::Ready);
    }
}
