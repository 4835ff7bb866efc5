//! Evidence: nobody correct accuses anybody correct, and every proof convinces whoever has nothing but
//! its bytes and the configuration.

use super::Violation;
use crate::crypto::{Keychain, Principal};
use crate::evidence::{Evidence, MisbehaviourProof};
use crate::group::{ClientId, Configuration, ReplicaId};

/// Somebody who was not there, and has the configuration that the accuser is in.
pub(super) fn check(
    (accuser, configuration): (ReplicaId, &Configuration),
    evidence: &Evidence,
    blameless: bool,
) -> Result<(), Violation> {
    let Some(accused) = evidence.culprit() else { return Ok(()) };
    // What was said at the boundary may come out when the next one is in force.
    if let Evidence::Provable(proof) = evidence
        && proof.configuration == configuration.number
    {
        let me = Principal::Client(ClientId(0));
        let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), me);
        let read = MisbehaviourProof::from_bytes(&proof.to_bytes());
        let verified = read.and_then(|read| read.verify_by(configuration, &keys));
        verified.map_err(|why| Violation::Unconvincing { accuser, accused, why })?;
    }
    if blameless { Err(Violation::Slander { accuser, accused }) } else { Ok(()) }
}
