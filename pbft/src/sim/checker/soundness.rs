//! Soundness: what a correct replica shows as proof convinces every other one. If it did not, nobody
//! would hear it where only proof counts, and a group that needs its word would stand still.

use super::Violation;
use crate::crypto::Keychain;
use crate::group::{ReplicaId, Sequence};
use crate::message::{Certificate, Message, ViewChange};

/// Looks at signed messages and certificates; `keys` are anybody's, in each configuration that it may be
/// said in, and none when its signature is not its sender's.
pub(super) fn check(replica: ReplicaId, message: &Message, keys: &[&Keychain]) -> Result<(), Violation> {
    let unproven = |what, sequence| Err(Violation::Unproven { replica, what, sequence });
    let is_valid = |certificate: &Certificate| keys.iter().any(|keys| certificate.is_valid(keys));
    let holds = |stable: &Option<Certificate>| stable.as_ref().is_none_or(is_valid);
    match message {
        Message::Stable(certificate) if !is_valid(certificate) => unproven("STABLE", certificate.sequence),
        Message::ViewChange(ViewChange { stable, .. }) if keys.is_empty() || !holds(stable) => {
            unproven("VIEW-CHANGE", stable.as_ref().map_or(Sequence(0), |stable| stable.sequence))
        }
        Message::NewView(body) => {
            let signed = |keys: &&Keychain| body.view_changes.iter().all(|one| one.is_signed(*keys));
            if keys.iter().any(signed) { Ok(()) } else { unproven("NEW-VIEW", Sequence(0)) }
        }
        _ => Ok(()),
    }
}
