use crate::Seconds;

/// Something that happens once a period, for policies that are asked more often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub(super) struct Timer {
    /// When it was last due, or when it was first asked.
    last: Option<Seconds>,
}

impl Timer {
    /// Whether a period has passed. The first one begins with the first call. After a gap it is due once;
    /// when time goes backwards a period begins anew.
    pub(super) fn due(&mut self, now: Seconds, period: Seconds) -> bool {
        let Some(last) = self.last.filter(|last| *last <= now) else {
            self.last = Some(now);
            return false;
        };
        let passed = now.saturating_sub(last);
        if passed < period {
            return false;
        }
        // Ticks that come a little late do not make the period longer.
        let on_time = passed < period.saturating_add(period);
        self.last = Some(if on_time { last.saturating_add(period) } else { now });
        true
    }
}
