use quorate_scaler::sim::{Service, Trace, TraceError, Workload, WorkloadError};

/// A trace whose requests were counted by another program as well.
fn steps() -> Trace {
    Trace::new(1, (0..400).map(|second| if second % 100 < 50 { 30 } else { 3 }).collect()).unwrap()
}

#[test]
fn counts_are_read_after_a_header() {
    let trace = Trace::parse("# source: somewhere\n# bin_width_s: 60\ncount\n5\n\n7\n").unwrap();
    assert_eq!(trace, Trace::new(60, vec![5, 7]).unwrap());
    assert_eq!(Trace::parse("3\n4").unwrap(), Trace::new(1, vec![3, 4]).unwrap());
    assert_eq!(trace.seconds(), 120);
}

#[test]
fn what_is_no_trace_is_named_with_its_line() {
    let error = |text: &str| Trace::parse(text).unwrap_err().to_string();
    assert_eq!(error("count\n5\n-1"), "line 3 is not a count of requests: \"-1\"");
    assert_eq!(
        error("# bin_width_s: 0\n5"),
        "line 1: bin_width_s must be a whole number of seconds, at least 1, not \"0\""
    );
    assert_eq!(Trace::parse("# nothing\n").unwrap_err(), TraceError::Empty);
    let long = Trace::new(86_400, vec![1; 93]).unwrap_err();
    assert_eq!(long, TraceError::Long { seconds: 93 * 86_400 });
}

#[test]
fn trace_without_load_or_with_too_much_makes_no_requests() {
    let workload = |trace: &Trace| Workload::new(trace, 1, Service::Exponential).unwrap_err();
    assert_eq!(workload(&Trace::new(1, vec![0; 1000]).unwrap()), WorkloadError::NoLoad);
    let flat = Trace::new(86_400, vec![1; 92]).unwrap();
    assert!(matches!(workload(&flat), WorkloadError::Requests { .. }));
}

#[test]
fn requests_are_the_same_for_a_seed_and_others_for_another() {
    let workload = |seed, service| Workload::new(&steps(), seed, service).unwrap();
    let one = workload(1, Service::Exponential);
    assert_eq!(one, workload(1, Service::Exponential));
    assert_ne!(one.arrival_sum_us(), workload(2, Service::Exponential).arrival_sum_us());
    let fixed = workload(1, Service::Deterministic);
    assert_eq!(fixed.arrival_sum_us(), one.arrival_sum_us());
    assert_eq!(fixed.service_sum_us(), fixed.requests() * 500_000);
}

#[test]
fn peak_becomes_64_requests_a_second_and_the_start_fits_the_first_minute() {
    let workload = Workload::new(&steps(), 1, Service::Exponential).unwrap();
    assert_eq!(workload.scale(), 2.1333); // 64/30, to four places as the tables have it
    assert!((workload.load(0) - 32.0).abs() < 0.01);
    assert!((workload.load(60) - 3.2).abs() < 0.01);
    // 50 s of 32 and 10 s of 3.2 are 27.2 on the average.
    assert_eq!(workload.start_pods(), 29);
}

#[test]
fn very_busy_trace_is_scaled_down_too() {
    let busy = Trace::new(1, vec![50_000_000; 60]).unwrap();
    let workload = Workload::new(&busy, 1, Service::Exponential).unwrap();
    assert!((workload.load(0) - 32.0).abs() < 1e-9);
}

#[test]
fn wide_bins_are_interpolated_between_their_middles() {
    let workload =
        Workload::new(&Trace::new(4, vec![400, 400, 800]).unwrap(), 1, Service::Exponential).unwrap();
    // Flat before the first middle (2 s) and after the last (10 s); 6.5 s is an eighth of the way from 400 to 800.
    let share = |second| workload.load(second) / workload.load(0);
    assert_eq!((share(1), share(6), share(7)), (1.0, 1.125, 1.375));
    assert_eq!((share(10), share(11)), (2.0, 2.0));
    assert_eq!(workload.load(12), 0.0);
}
