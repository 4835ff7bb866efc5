//! Deciding costs no memory: a thousand layers can be scaled on one core without touching the allocator.

use std::num::NonZeroU32;

use quorate_scaler::policy::{AnyPolicy, Conditions, Name, Threshold, ThresholdSettings};
use quorate_scaler::{Fallback, Limited, Limits, Observation, Policy, Seconds};

#[test]
fn deciding_does_not_allocate() {
    let limits = Limits {
        pods_min: 0,
        pods_max: 50,
        changes_per_minute_max: NonZeroU32::new(40),
        fallback: Some(Fallback { after: NonZeroU32::new(3).unwrap(), pods: 2 }),
        ..Limits::default()
    };
    let policy = || Threshold::new(ThresholdSettings::default());
    let mut first = Limited::new(policy(), limits).unwrap();
    first.tick(&Observation { waiting: 9, ..Observation::default() });
    let state = first.state();
    let mut second = Limited::new(policy(), limits).unwrap();
    second.restore(state);

    for scaler in [&mut first, &mut second] {
        let mut changes = 0;
        let allocated = allocation_counter::measure(|| {
            for tick in 0..10_000_u64 {
                // Losing all pods every other tick forces more changes than the budget has room for.
                let ready = if tick % 2 == 0 { 3 } else { 0 };
                let ruling = scaler.tick(&Observation {
                    now: Seconds::new(tick),
                    valid: tick % 7 != 0,
                    waiting: tick % 11,
                    ready,
                    ..Observation::default()
                });
                changes += u32::from(ruling.after.desired != ready);
            }
        });
        assert!(changes > 1000, "the budget's memory was used: {changes} changes");
        assert_eq!(allocated.count_total, 0);
    }
}

#[test]
fn no_policy_allocates_when_it_decides_nor_keeps_more_than_128_kib() {
    for name in Name::ALL {
        let mut fresh = AnyPolicy::new(*name, &Conditions::default());
        let made = allocation_counter::measure(|| fresh = AnyPolicy::new(*name, &Conditions::default()));
        assert!(
            made.bytes_max + size_of::<AnyPolicy>() as u64 <= 128 << 10,
            "{name}: {} bytes",
            made.bytes_max
        );
        fresh.decide(&Observation::default());
        let mut restored = AnyPolicy::new(*name, &Conditions::default());
        restored.restore(fresh.state());
        for policy in [&mut fresh, &mut restored] {
            let allocated = allocation_counter::measure(|| {
                for tick in 1..5_000_u64 {
                    policy.decide(&Observation {
                        now: Seconds::new(tick),
                        valid: tick % 7 != 0,
                        arrivals: tick * tick % 91,
                        completions: tick % 50,
                        service_time: Seconds::from_micros(tick % 50 * 400_000),
                        busy_time: Seconds::new(tick % 9),
                        in_system_time: Seconds::new(tick % 31),
                        waiting: tick % 11,
                        ready: 3,
                        // A start delay that is learnt makes every memory longer.
                        started: 1,
                        start_time: Seconds::new(tick % 700),
                        ..Observation::default()
                    });
                }
            });
            assert_eq!(allocated.count_total, 0, "{name}");
        }
    }
}
