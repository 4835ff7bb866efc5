//! Opens the engines that the configuration names: one file, or parts of a cluster, in any mixture.

use super::{Assembled, Engine};
use crate::{
    config::{Config, QueueEngine, RecordsEngine, StoreEngine},
    control::Failure,
    queue::Queues,
    records::Records,
    sqlite::SqliteEngine,
    store::Store,
};
use std::{path::Path, sync::Arc};

/// Opens them; what is embedded lies in `state`.
///
/// # Errors
/// When the file can't be opened, or an engine can't be reached or refuses.
pub async fn open(config: &Config, state: &Path) -> Result<Arc<dyn Engine>, Failure> {
    let engines = &config.engines;
    let file = if engines.need_file() {
        std::fs::create_dir_all(state)
            .map_err(|error| format!("can't make the state folder {}: {error}", state.display()))?;
        Some(SqliteEngine::open(&state.join("quorate.db"), config.durability)?)
    } else {
        None
    };
    if let Some(file) = &file
        && engines.are_embedded()
    {
        return Ok(Arc::clone(file) as Arc<dyn Engine>);
    }
    let embedded = || file.clone().expect("it is opened when one of the engines needs it");
    let queues: Box<dyn Queues> = match engines.queues {
        QueueEngine::Sqlite => Box::new(embedded()),
        QueueEngine::Sqs => sqs(config).await?,
    };
    let records: Box<dyn Records> = match engines.records {
        RecordsEngine::Sqlite => Box::new(embedded().records_alone()),
        RecordsEngine::Dynamo => dynamo(config).await?,
    };
    let store: Box<dyn Store> = match engines.store {
        StoreEngine::Sqlite => Box::new(embedded().store_alone()),
        StoreEngine::Etcd => etcd(config).await?,
    };
    Ok(Arc::new(Assembled { queues, records, store }))
}

#[cfg(any(feature = "sqs", feature = "dynamo"))]
async fn aws(config: &Config) -> aws_config::SdkConfig {
    let crate::config::Aws { region, endpoint } = config.engines.aws.clone();
    crate::aws::load(&crate::aws::AwsOptions { region, endpoint }).await
}

#[cfg(feature = "sqs")]
async fn sqs(config: &Config) -> Result<Box<dyn Queues>, Failure> {
    use crate::queue::sqs::{SqsOptions, SqsQueues};
    let options = SqsOptions { prefix: config.engines.sqs.prefix.clone(), ..SqsOptions::default() };
    Ok(Box::new(SqsQueues::new(&aws(config).await, options)))
}

#[cfg(feature = "dynamo")]
async fn dynamo(config: &Config) -> Result<Box<dyn Records>, Failure> {
    use crate::records::dynamo::{DynamoOptions, DynamoRecords};
    let options = DynamoOptions { table: config.engines.dynamo.table.clone(), ..DynamoOptions::default() };
    Ok(Box::new(DynamoRecords::open(&aws(config).await, options).await?))
}

#[cfg(feature = "etcd")]
async fn etcd(config: &Config) -> Result<Box<dyn Store>, Failure> {
    use crate::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
    let etcd = &config.engines.etcd;
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| format!("can't read {} for etcd: {error}", path.display()))
    };
    let client = match (&etcd.cert, &etcd.key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    let tls = match &etcd.ca {
        Some(ca) => Some(EtcdTls { authorities: read(ca)?, client }),
        None => None,
    };
    let user = match (&etcd.user, &etcd.password_file) {
        (Some(user), Some(file)) => {
            let password = String::from_utf8(read(file)?)
                .map_err(|_| format!("the password in {} is not text", file.display()))?;
            Some((user.clone(), password.trim_end().to_owned()))
        }
        _ => None,
    };
    let options =
        EtcdOptions { prefix: etcd.prefix.clone(), tls, user, ..EtcdOptions::new(etcd.endpoints.clone()) };
    Ok(Box::new(EtcdStore::connect(options).await?))
}

#[cfg(not(feature = "sqs"))]
async fn sqs(_: &Config) -> Result<Box<dyn Queues>, Failure> {
    Err(not_built("sqs"))
}

#[cfg(not(feature = "dynamo"))]
async fn dynamo(_: &Config) -> Result<Box<dyn Records>, Failure> {
    Err(not_built("dynamo"))
}

#[cfg(not(feature = "etcd"))]
async fn etcd(_: &Config) -> Result<Box<dyn Store>, Failure> {
    Err(not_built("etcd"))
}

/// The configuration refuses it first; this is for a configuration that was made in the program.
#[cfg(not(all(feature = "sqs", feature = "dynamo", feature = "etcd")))]
fn not_built(feature: &str) -> Failure {
    format!("this program was built without the cargo feature `{feature}`").into()
}
