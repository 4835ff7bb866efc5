//! The engines of a cluster for one platform: queues in SQS and records in DynamoDB, both played by moto, and a real
//! etcd.

use crate::{
    Data,
    servers::{etcd::Etcd, moto::Moto},
};
use std::fs;

/// The servers.
pub struct Cloud {
    /// SQS and DynamoDB.
    pub moto: Moto,
    /// The store.
    pub etcd: Etcd,
}

impl Cloud {
    /// Starts them, with so many members of etcd.
    #[must_use]
    pub fn start(members: usize) -> Self {
        Self { moto: Moto::start(), etcd: Etcd::start(members) }
    }

    /// A data folder with credentials where every program of AWS looks for them.
    ///
    /// # Panics
    /// When there is no place for it.
    #[must_use]
    pub fn data() -> Data {
        let data = Data::new();
        fs::create_dir_all(data.path().join(".aws")).expect("the folder is ours");
        data.file(".aws/credentials", "[default]\naws_access_key_id = test\naws_secret_access_key = test\n");
        data
    }

    /// A configuration on these engines.
    #[must_use]
    pub fn config(&self, functions: &str) -> String {
        Self::config_at(functions, &self.moto.endpoint, &self.etcd.endpoints().join(","))
    }

    /// The same on engines that are reached elsewhere.
    #[must_use]
    pub fn config_at(functions: &str, aws: &str, etcd: &str) -> String {
        format!(
            "{functions}\n[engines]\nqueues = \"sqs\"\nrecords = \"dynamo\"\nstore = \"etcd\"\n\
             [aws]\nregion = \"eu-central-1\"\nendpoint = \"{aws}\"\n[etcd]\nendpoints = \"{etcd}\"\n\
             [timeouts]\nlease = \"2s\"\n"
        )
    }
}
