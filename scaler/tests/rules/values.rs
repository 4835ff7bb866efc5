use std::num::NonZeroU32;
use std::time::Duration;

use quorate_scaler::{Observation, Seconds};

#[test]
fn what_is_not_a_time_does_not_become_one() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e-3, 1e300, 2e13] {
        let error = Seconds::try_from(value).unwrap_err();
        assert_eq!(error.value.to_bits(), value.to_bits());
    }
    assert_eq!(
        Seconds::try_from(-1.5).unwrap_err().to_string(),
        "-1.5 s is not a time: it must be finite, not negative and at most 18446744073709.55 s"
    );
    assert_eq!(Seconds::try_from(-0.0), Ok(Seconds::ZERO));
}

#[test]
fn times_keep_microseconds() {
    assert_eq!(Seconds::try_from(0.3), Ok(Seconds::from_micros(300_000)));
    assert_eq!(Seconds::try_from(12.345_678), Ok(Seconds::from_micros(12_345_678)));
    assert_eq!(Seconds::from(Duration::from_nanos(1_999)).as_micros(), 1);
    assert_eq!(Seconds::from(Duration::MAX), Seconds::MAX);
    assert_eq!(Duration::from(Seconds::new(3)), Duration::from_secs(3));
    assert_eq!(Seconds::from_micros(1_500_000).to_string(), "1.5 s");
}

#[test]
fn sums_of_times_end_at_their_bounds() {
    assert_eq!(Seconds::new(u64::MAX), Seconds::MAX);
    assert_eq!(Seconds::MAX.saturating_add(Seconds::new(1)), Seconds::MAX);
    assert_eq!(Seconds::new(1).saturating_sub(Seconds::new(2)), Seconds::ZERO);
}

#[test]
fn slots_fill_whole_pods() {
    let pods_for = |slots, per_pod| {
        let slots_per_pod = NonZeroU32::new(per_pod).unwrap();
        Observation { slots_per_pod, ..Observation::default() }.pods_for(slots)
    };
    assert_eq!(pods_for(0, 4), 0);
    assert_eq!(pods_for(1, 4), 1);
    assert_eq!(pods_for(4, 4), 1);
    assert_eq!(pods_for(5, 4), 2);
    assert_eq!(pods_for(7, 1), 7);
    assert_eq!(pods_for(u64::MAX, 1), u32::MAX);
}

#[test]
fn current_pods_are_ready_or_starting() {
    let observation = Observation { ready: 2, starting: 3, draining: 4, ..Observation::default() };
    assert_eq!(observation.current(), 5);
    assert_eq!(Observation { ready: u32::MAX, starting: 1, ..observation }.current(), u32::MAX);
}
