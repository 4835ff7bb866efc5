//! The conversation of a pod over TCP: the same lines as over pipes, with whoever connects.
//!
//! Who connects is told all that the pod has said so far, and what it says from then on. What anyone tells
//! counts, the latest word wins. An empty line is answered with one: so both know that the other is there.
//! Nobody's leaving ends the pod; the word to end, SIGTERM, does.

use super::{Attachment, Ears, Said};
use crate::{
    shutdown,
    tls::Role,
    wires::{Incoming, Stream, Wires},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};

/// Conversations at once: one is with the cluster service that leads, others with those that led.
const CONVERSATIONS_MAX: usize = 8;

/// A line longer than this is not one of ours, and ends the conversation.
pub(crate) const LINE_BYTES_MAX: u64 = 64 << 10;

/// Who connects and is silent for so long is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// Listens for conversations, and for the word to end.
///
/// # Errors
/// When the address can't be had.
pub async fn listen(address: SocketAddr, replicas: u32, wires: &Wires) -> std::io::Result<Attachment> {
    let asked_to_end = shutdown::asked_to_end();
    let listener = TcpListener::bind(address).await?;
    let (end, ended) = watch::channel(false);
    tokio::spawn(async move {
        asked_to_end.await;
        end.send_replace(true);
    });
    Ok(converse(wires.listen(listener, "attach", &[Role::Control])?, replicas, ended))
}

fn converse(listener: Incoming, replicas: u32, ended: watch::Receiver<bool>) -> Attachment {
    let (told, peers, orders) = Ears::new(replicas);
    let (say, said) = watch::channel(Vec::new());
    tokio::spawn(accept(listener, said, Arc::new(told)));
    let say = move |word: &Said| say.send_modify(|said| said.push(word.clone()));
    Attachment { say: Box::new(say), peers, orders, ended }
}

async fn accept(mut listener: Incoming, said: watch::Receiver<Vec<Said>>, ears: Arc<Ears>) {
    let free = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    while let Some(stream) = listener.next().await {
        let Ok(place) = Arc::clone(&free).try_acquire_owned() else {
            tracing::warn!("there are {CONVERSATIONS_MAX} conversations already; another is refused");
            continue;
        };
        let (said, ears) = (said.clone(), Arc::clone(&ears));
        tokio::spawn(async move {
            talk(stream, said, ears).await;
            drop(place);
        });
    }
}

/// Speaks and listens until the other end is gone or makes no sense.
async fn talk(stream: Stream, said: watch::Receiver<Vec<Said>>, ears: Arc<Ears>) {
    let (from, to) = tokio::io::split(stream);
    let (answer, asked) = mpsc::channel(1);
    tokio::select! {
        () = speak(to, said, asked) => {}
        () = hear(from, ears, answer) => {}
    }
}

async fn speak(
    mut to: WriteHalf<Stream>,
    mut said: watch::Receiver<Vec<Said>>,
    mut asked: mpsc::Receiver<()>,
) {
    let mut spoken = 0;
    loop {
        let mut lines = String::new();
        {
            let said = said.borrow_and_update();
            for word in &said[spoken..] {
                lines.push_str(&serde_json::to_string(word).expect("plain strings serialise"));
                lines.push('\n');
            }
            spoken = said.len();
        }
        if !lines.is_empty() && to.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
        let written = tokio::select! {
            // Without a pod nobody says anything any more.
            changed = said.changed() => changed.map_err(|_| ()),
            Some(()) = asked.recv() => to.write_all(b"\n").await.map_err(|_| ()),
        };
        if written.is_err() {
            return;
        }
    }
}

async fn hear(from: ReadHalf<Stream>, ears: Arc<Ears>, answer: mpsc::Sender<()>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        match tokio::time::timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(_)) if line.ends_with(b"\n") => {}
            _ => return,
        }
        if line == b"\n" {
            // One that waits to be answered already stands for this, too.
            let _ = answer.try_send(());
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(told) => ears.hear(told),
            Err(error) => return tracing::warn!(%error, "what the pod was told makes no sense"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Told, *};
    use tokio::net::TcpStream;

    async fn pod() -> (Attachment, SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = watch::channel(false);
        let incoming = Wires::plain().listen(listener, "attach", &[]).unwrap();
        (converse(incoming, 4, ended), address, end)
    }

    fn listening() -> Said {
        Said::Listening { address: "0.0.0.0:7401".into(), transport: None }
    }

    async fn line(reader: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), reader.read_line(&mut line));
        read.await.expect("in time").unwrap();
        line
    }

    #[tokio::test]
    async fn who_connects_later_hears_all_that_was_said_and_the_latest_word_counts() {
        let (mut pod, address, _end) = pod().await;
        (pod.say)(&listening());
        let mut first = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert_eq!(
            line(&mut first).await,
            "{\"listening\":{\"address\":\"0.0.0.0:7401\",\"transport\":null}}\n"
        );
        (pod.say)(&Said::Ready);
        assert_eq!(line(&mut first).await, "\"ready\"\n");
        drop(first);
        let mut second = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert!(line(&mut second).await.starts_with("{\"listening\""));
        assert_eq!(line(&mut second).await, "\"ready\"\n");
        for port in 1..=2 {
            let told = Told::Peers { transports: vec![Some(format!("10.0.0.1:{port}")), None, None, None] };
            let text = format!("{}\n", serde_json::to_string(&told).unwrap());
            second.get_mut().write_all(text.as_bytes()).await.unwrap();
        }
        let last = |peers: &Vec<Option<String>>| peers[0].as_deref() == Some("10.0.0.1:2");
        pod.peers.wait_for(last).await.unwrap();
        assert!(!*pod.ended.borrow(), "nobody's leaving ends it");
    }

    #[tokio::test]
    async fn an_empty_line_is_answered_with_one() {
        let (_pod, address, _end) = pod().await;
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        stream.get_mut().write_all(b"\n").await.unwrap();
        assert_eq!(line(&mut stream).await, "\n");
    }

    #[tokio::test]
    async fn nonsense_ends_a_conversation_and_not_the_pod() {
        let (pod, address, _end) = pod().await;
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        stream.get_mut().write_all(b"GET / HTTP/1.1\n").await.unwrap();
        assert_eq!(line(&mut stream).await, "");
        (pod.say)(&Said::Ready);
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert_eq!(line(&mut stream).await, "\"ready\"\n");
    }
}
