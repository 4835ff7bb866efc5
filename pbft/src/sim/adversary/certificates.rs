//! Makes up what others are to believe because it is certified.
//!
//! * Certificates of checkpoints that nobody has, under too few signatures, repeated ones, and
//!   invented ones: in STABLE and in VIEW-CHANGE.
//! * VIEW-CHANGEs that claim, under a good signature, that a batch was prepared which nobody knows.
//! * NEW-VIEWs, as primary, with too few VIEW-CHANGEs, a repeated one, one of an earlier view, one
//!   that was changed, or others than it would take; also for views that nobody asked for.

use std::collections::VecDeque;

use super::{Heard, Lie, Said, Voice, forgetful};
use crate::crypto::{Digest, Principal, Signature};
use crate::group::{ReplicaId, Sequence, View};
use crate::message::{Certificate, Claim, Message, NewView, Unverified, ViewChange};

#[derive(Debug, Default)]
pub(super) struct ForgedCertificates {
    /// VIEW-CHANGEs that it heard; the latest.
    heard: VecDeque<Unverified<ViewChange>>,
}

const HEARD_MAX: usize = 64;

/// A batch that nobody ever saw, and a state that nobody ever had.
const NOBODYS: Digest = Digest([0xee; 32]);

impl ForgedCertificates {
    /// A certificate for a state that nobody has, after a batch that may be far away.
    fn certificate(sequence: Sequence, voice: &mut Voice<'_>) -> Certificate {
        let period = voice.setup.configuration.limits.checkpoint_period;
        let ahead = 1 + voice.random.below(4);
        let sequence = Sequence((sequence.0 / period).saturating_add(ahead).saturating_mul(period));
        let quorum = voice.plot.group.quorum() as usize;
        let mut votes = voice.plot.vouch(sequence, &NOBODYS);
        match voice.random.below(3) {
            0 => {} // too few
            1 => votes = votes.iter().cycle().take(quorum).cloned().collect(),
            _ => {
                let signature = votes[0].1.clone();
                let missing = |id: &ReplicaId| votes.iter().all(|(voter, _)| voter != id);
                let others: Vec<_> = voice.plot.group.replicas().filter(missing).collect();
                votes.extend(others.into_iter().map(|id| (id, Signature(signature.0.clone()))));
                votes.sort_by_key(|(voter, _)| *voter);
            }
        }
        Certificate { sequence, state: NOBODYS, votes: votes.into() }
    }

    fn view_change(body: &ViewChange, voice: &mut Voice<'_>) -> ViewChange {
        let base = body.stable.as_ref().map_or(Sequence(0), |stable| stable.sequence);
        if voice.random.chance(300) {
            let stable = Some(Self::certificate(base, voice));
            return ViewChange { stable, ..forgetful(body) };
        }
        let Some(view) = body.view.0.checked_sub(1).map(View) else { return body.clone() };
        let window = voice.setup.configuration.limits.window;
        let places = (base.0 + 1..=base.0 + 1 + voice.random.below(window)).map(Sequence);
        let claims: Vec<_> = places.map(|sequence| Claim { sequence, view, digest: NOBODYS }).collect();
        ViewChange { prepared: claims.clone(), pre_prepared: claims, ..body.clone() }
    }

    fn new_view(&self, view: View, own: &[Unverified<ViewChange>], voice: &mut Voice<'_>) -> NewView {
        let quorum = voice.plot.group.quorum() as usize;
        let mut set = own.to_vec();
        match voice.random.below(6) {
            0 => set.truncate(quorum - 1),
            1 => set.extend(set.first().cloned()),
            2 => set.extend(self.heard.front().cloned()), // of any view
            3 => {
                if let Some(last) = set.last_mut() {
                    last.body = forgetful(&last.body);
                    last.bytes = crate::message::wire::encode_view_change(&last.body);
                }
            }
            4 => set = self.heard.iter().filter(|one| one.body.view == view).cloned().collect(),
            _ => {
                // A choice of its own, and a good one as far as anybody can tell.
                while set.len() > quorum {
                    let out = voice.random.below(set.len() as u64);
                    set.remove(usize::try_from(out).expect("a small number"));
                }
            }
        }
        NewView { view, view_changes: set }
    }
}

impl Lie for ForgedCertificates {
    fn says(&mut self, _: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        if voice.random.chance(300) {
            return Said::Truth;
        }
        let lie = match message {
            Message::Stable(certificate) => Message::Stable(Self::certificate(certificate.sequence, voice)),
            Message::ViewChange(body) => Message::ViewChange(Self::view_change(body, voice)),
            Message::NewView(body) => Message::NewView(self.new_view(body.view, &body.view_changes, voice)),
            _ => return Said::Truth,
        };
        Said::Lie(Box::new(lie))
    }

    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        match &message.body {
            Message::ViewChange(body) => {
                if self.heard.len() == HEARD_MAX {
                    self.heard.pop_front();
                }
                let (sender, bytes, proof) = (message.sender, message.bytes.clone(), message.proof.clone());
                self.heard.push_back(Unverified { sender, body: body.clone(), bytes, proof });
            }
            Message::Checkpoint(checkpoint) => {
                let stable = Message::Stable(Self::certificate(checkpoint.sequence, voice));
                voice.say_to_all(&stable);
            }
            Message::Commit(commit) if voice.random.chance(50) => {
                let mut view = commit.view.next();
                while voice.plot.group.primary(view) != voice.me {
                    view = view.next();
                }
                let set: Vec<_> = self.heard.iter().cloned().collect();
                let body = self.new_view(view, &set, voice);
                voice.say_to_all(&Message::NewView(body));
            }
            _ => {}
        }
        Heard::Truth
    }
}
