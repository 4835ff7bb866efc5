//! Asks the cluster service for a first worker of functions that have none.

use crate::{
    engine::Engine,
    proto::{ScaleRequest, cluster_client::ClusterClient},
    set::{DAEMONS, DaemonRecord},
    tls::Role,
    wires::Wires,
};
use quorate_dag::Function;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// One call, connection included.
const CALL: Duration = Duration::from_secs(1);
/// Before asking again after a call that failed: the service may have just been started.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 25;

/// Asks for each function that comes through `wanted`, until that ends. Who still finds no worker after
/// a while asks again.
pub(super) async fn run(
    engine: Arc<dyn Engine>,
    wires: Wires,
    mut wanted: mpsc::UnboundedReceiver<Function>,
) {
    while let Some(function) = wanted.recv().await {
        let mut functions = BTreeSet::from([function]);
        while let Ok(function) = wanted.try_recv() {
            functions.insert(function);
        }
        for _ in 0..TRIES {
            match tokio::time::timeout(CALL, ask(&*engine, &wires, &mut functions)).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::debug!(%error, "no worker was asked for yet"),
                Err(_) => tracing::warn!("the cluster service did not answer within {CALL:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        if !functions.is_empty() {
            tracing::warn!(?functions, "the cluster service can't be asked for workers");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error("no cluster service has announced itself")]
    Nobody,
    #[error(transparent)]
    Refused(#[from] tonic::Status),
}

/// Asks for all; those that were granted are taken out.
async fn ask(engine: &dyn Engine, wires: &Wires, functions: &mut BTreeSet<Function>) -> Result<(), AskError> {
    let (records, _) = engine.store().list(&format!("{DAEMONS}cluster/")).await?;
    let address = records
        .iter()
        .filter_map(|entry| serde_json::from_slice::<DaemonRecord>(&entry.value).ok())
        .find_map(|record| record.address)
        .ok_or(AskError::Nobody)?;
    let mut client = ClusterClient::new(wires.channel(&address, Role::Control.name(), CALL)?);
    while let Some(&function) = functions.first() {
        let request = ScaleRequest {
            function: function.name().into(),
            desired: 1,
            at_least: true,
            reason: "a request needs it and there is no worker".into(),
        };
        client.scale(request).await?;
        functions.remove(&function);
    }
    Ok(())
}
