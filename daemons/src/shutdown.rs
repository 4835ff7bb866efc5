//! How daemons are told to end.

use tokio::sync::watch;

/// Becomes true when a daemon has to finish what it is doing and return.
pub type Shutdown = watch::Receiver<bool>;

/// Waits until it does. Whoever could say so being gone is the same.
pub async fn requested(shutdown: &mut Shutdown) {
    let _ = shutdown.wait_for(|end| *end).await;
}

/// Listens from now on for the word to end, Ctrl-C, or SIGTERM as Kubernetes sends it, and comes with it.
pub fn asked_to_end() -> impl Future<Output = ()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let listening = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        async move {
            let [Ok(mut interrupt), Ok(mut terminate)] = listening else {
                // What is not listened for ends the process by itself.
                return std::future::pending().await;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
    }
    #[cfg(not(unix))]
    async {
        let _ = tokio::signal::ctrl_c().await;
    }
}
