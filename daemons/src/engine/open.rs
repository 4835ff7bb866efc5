//! Opens the engines that the configuration names: one file, or parts of a cluster, in any mixture.

use super::{Assembled, Engine};
use crate::{
    config::{Config, QueueEngine, RecordsEngine, StoreEngine},
    queue::Queues,
    records::Records,
    sqlite::SqliteEngine,
    store::Store,
};
use std::{error::Error, path::Path, sync::Arc};

/// Why they can't be opened; one line for a person.
type Failure = Box<dyn Error + Send + Sync>;

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
    let embedded = || file.as_ref().expect("it is opened when one of the engines needs it").in_parts();
    let elsewhere = Elsewhere::of(config);
    let queues = match engines.queues {
        QueueEngine::Sqlite => embedded().queues,
        QueueEngine::Sqs => elsewhere.sqs().await?,
    };
    let records = match engines.records {
        RecordsEngine::Sqlite => embedded().records,
        RecordsEngine::Dynamo => elsewhere.dynamo().await?,
    };
    let store = match engines.store {
        StoreEngine::Sqlite => embedded().store,
        StoreEngine::Etcd => elsewhere.etcd().await?,
    };
    Ok(Arc::new(Assembled { queues, records, store }))
}

/// The engines of a cluster, as the configuration says how they are reached.
#[cfg_attr(
    not(any(feature = "sqs", feature = "dynamo", feature = "etcd")),
    expect(dead_code, reason = "none of them is built in")
)]
struct Elsewhere<'a> {
    config: &'a Config,
    /// One for all services: what was found of region and credentials need not be found again.
    #[cfg(any(feature = "sqs", feature = "dynamo"))]
    aws: tokio::sync::OnceCell<aws_config::SdkConfig>,
}

impl<'a> Elsewhere<'a> {
    fn of(config: &'a Config) -> Self {
        Self {
            config,
            #[cfg(any(feature = "sqs", feature = "dynamo"))]
            aws: tokio::sync::OnceCell::new(),
        }
    }

    #[cfg(any(feature = "sqs", feature = "dynamo"))]
    async fn aws(&self) -> &aws_config::SdkConfig {
        let crate::config::Aws { region, endpoint } = self.config.engines.aws.clone();
        let options = crate::aws::AwsOptions { region, endpoint };
        self.aws.get_or_init(|| async move { crate::aws::load(&options).await }).await
    }

    #[cfg(feature = "sqs")]
    async fn sqs(&self) -> Result<Box<dyn Queues>, Failure> {
        use crate::queue::sqs::{SqsOptions, SqsQueues};
        let options = SqsOptions { prefix: self.config.engines.sqs.prefix.clone(), ..SqsOptions::default() };
        Ok(Box::new(SqsQueues::new(self.aws().await, options)))
    }

    #[cfg(feature = "dynamo")]
    async fn dynamo(&self) -> Result<Box<dyn Records>, Failure> {
        use crate::records::dynamo::{DynamoOptions, DynamoRecords};
        let table = self.config.engines.dynamo.table.clone();
        let options = DynamoOptions { table, ..DynamoOptions::default() };
        Ok(Box::new(DynamoRecords::open(self.aws().await, options).await?))
    }

    #[cfg(feature = "etcd")]
    async fn etcd(&self) -> Result<Box<dyn Store>, Failure> {
        use crate::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
        let etcd = &self.config.engines.etcd;
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
        let options = EtcdOptions {
            prefix: etcd.prefix.clone(),
            tls,
            user,
            ..EtcdOptions::new(etcd.endpoints.clone())
        };
        Ok(Box::new(EtcdStore::connect(options).await?))
    }

    #[cfg(not(feature = "sqs"))]
    async fn sqs(&self) -> Result<Box<dyn Queues>, Failure> {
        Err(not_built("sqs"))
    }

    #[cfg(not(feature = "dynamo"))]
    async fn dynamo(&self) -> Result<Box<dyn Records>, Failure> {
        Err(not_built("dynamo"))
    }

    #[cfg(not(feature = "etcd"))]
    async fn etcd(&self) -> Result<Box<dyn Store>, Failure> {
        Err(not_built("etcd"))
    }
}

/// The configuration refuses it first; this is for a configuration that was made in the program.
#[cfg(not(all(feature = "sqs", feature = "dynamo", feature = "etcd", feature = "kubernetes")))]
pub(crate) fn not_built(feature: &str) -> Failure {
    format!("this program was built without the cargo feature `{feature}`").into()
}
