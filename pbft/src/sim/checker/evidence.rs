//! Evidence: nobody correct accuses anybody correct, and every proof convinces whoever has nothing but
//! its bytes and the configuration.

use super::super::Setup;
use super::Violation;
use crate::crypto::{Keychain, Principal};
use crate::evidence::{Evidence, MisbehaviourProof};
use crate::group::{ClientId, Configuration, ReplicaId};

/// Somebody who was not there.
#[derive(Debug)]
pub(super) struct Testimony {
    configuration: Configuration,
    keys: Keychain,
}

impl Testimony {
    pub(super) fn new(setup: &Setup) -> Self {
        let configuration = setup.configuration.clone();
        let me = Principal::Client(ClientId(0));
        let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), me);
        Self { configuration, keys }
    }

    pub(super) fn check(
        &self,
        accuser: ReplicaId,
        evidence: &Evidence,
        blameless: bool,
    ) -> Result<(), Violation> {
        let Some(accused) = evidence.culprit() else { return Ok(()) };
        if let Evidence::Provable(proof) = evidence {
            let read = MisbehaviourProof::from_bytes(&proof.to_bytes());
            let verified = read.and_then(|read| read.verify_by(&self.configuration, &self.keys));
            verified.map_err(|why| Violation::Unconvincing { accuser, accused, why })?;
        }
        if blameless { Err(Violation::Slander { accuser, accused }) } else { Ok(()) }
    }
}
