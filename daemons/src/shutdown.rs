//! How daemons are told to end.

use tokio::sync::watch;

/// Becomes true when a daemon has to finish what it is doing and return.
pub type Shutdown = watch::Receiver<bool>;

/// Waits until it does. Whoever could say so being gone is the same.
pub async fn requested(shutdown: &mut Shutdown) {
    let _ = shutdown.wait_for(|end| *end).await;
}
