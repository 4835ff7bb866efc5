use crate::window::Recent;
use crate::{Decision, Reason};

/// Recommendations that a lower one is held against: 300 s of one each 15 s
/// (`--horizontal-pod-autoscaler-downscale-stabilization`).
const RECOMMENDATIONS: usize = 20;

/// The default behaviour of Kubernetes' horizontal pod autoscaler behind its recommendation: what is lower
/// becomes the largest recommendation of the last 300 s, at most what is there; what is higher is at most
/// `max(cur + 4, 2·cur)`.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub(super) struct Stabilised(Recent<u32>);

impl Stabilised {
    pub(super) fn new() -> Self {
        Self(Recent::new(RECOMMENDATIONS))
    }

    pub(super) fn decide(&mut self, recommended: u32, current: u32, reason: Reason, decision: &mut Decision) {
        self.0.push(recommended, RECOMMENDATIONS);
        decision.replace(recommended, reason);
        if recommended < current {
            let largest = self.0.iter().max().unwrap_or(recommended);
            decision.replace(largest.min(current), Reason::Hold);
        }
        let most = current.saturating_add(4).max(current.saturating_mul(2));
        decision.replace(decision.desired.min(most), Reason::StepUp);
    }

    pub(super) fn fit(&mut self) {
        self.0.fit(RECOMMENDATIONS);
    }
}
