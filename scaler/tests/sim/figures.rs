//! What another simulator of the same model measured, and what is as near to it as its rounding lets one tell.

/// Each line's cells: start delay, policy, trace, cost as a multiple of the oracle's, violations in %, and others.
pub(crate) const FIGURES: &str = include_str!("reference.csv");

/// Each line's cells: trace, requests, both sums, the oracle's pod-seconds at 2, 10 and 60 s.
pub(crate) const REQUESTS: &str = include_str!("requests.csv");

pub(crate) fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(',').collect())
}

/// Within a share and an amount, and half of the last digit that was written down.
pub(crate) fn is_near(ours: f64, theirs: &str, share: f64, amount: f64) -> bool {
    let places = theirs.split_once('.').map_or(0, |(_, places)| places.len());
    let rounding = 0.5 * 0.1_f64.powi(i32::try_from(places).expect("a short number"));
    let theirs: f64 = theirs.parse().expect("is a number");
    (ours - theirs).abs() <= share * theirs + amount + rounding
}
