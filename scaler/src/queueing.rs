//! The pooled queue with exponential service, M/M/n.

/// Loads over this are sized by the square-root rule alone; nobody runs a layer of so many pods.
const LOAD_MAX: f64 = 1e6;

/// The same where several loads are possible: each further server costs an evaluation of every one.
const LOADS_MAX: f64 = 2048.0;

/// The fewest servers, more than `load`, with which at most a share of `miss` waits longer than `wait`
/// service times; 0 without load.
pub(crate) fn servers_for(load: f64, wait: f64, miss: f64) -> u32 {
    if load.is_nan() || load <= 0.0 {
        return 0;
    }
    if load > LOAD_MAX {
        return to_count((load + 4.0 * load.sqrt()).ceil());
    }
    let mut servers = to_count(load.floor()) + 1;
    let mut lost = lost(servers, load);
    loop {
        let late = delayed(lost, servers, load) * (-(f64::from(servers) - load) * wait).exp();
        if late <= miss {
            return servers;
        }
        servers += 1;
        lost = load * lost / (f64::from(servers) + load * lost);
        if lost <= 0.0 {
            return servers;
        }
    }
}

/// A load that may come, and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weighed {
    pub(crate) load: f64,
    pub(crate) weight: f64,
}

/// The fewest servers with which at most a share of `miss` of the requests waits longer than `wait` service
/// times, when it is not known which of the loads comes; 0 without load.
pub(crate) fn servers_for_any<const N: usize>(loads: &[Weighed; N], wait: f64, miss: f64) -> u32 {
    let requests: f64 = loads.iter().map(|it| it.load * it.weight).sum();
    let mean = requests / loads.iter().map(|it| it.weight).sum::<f64>();
    if mean.is_nan() || mean <= 0.0 {
        return 0;
    }
    if mean > LOADS_MAX {
        return to_count((mean + 4.0 * mean.sqrt()).ceil());
    }
    let mut servers = to_count(mean.floor()) + 1;
    let mut losses = loads.map(|it| if it.weight > 0.0 { lost(servers, it.load) } else { 0.0 });
    let most = servers.saturating_mul(4).saturating_add(64);
    loop {
        let late = |(it, lost): (&Weighed, &f64)| {
            let spare = f64::from(servers) - it.load;
            let share =
                if spare <= 0.0 { 1.0 } else { delayed(*lost, servers, it.load) * (-spare * wait).exp() };
            it.weight * it.load * share
        };
        let late: f64 = loads.iter().zip(&losses).map(late).sum();
        if late <= miss * requests || servers >= most {
            return servers;
        }
        servers += 1;
        for (it, lost) in loads.iter().zip(&mut losses) {
            *lost = it.load * *lost / (f64::from(servers) + it.load * *lost);
        }
    }
}

/// Erlang's B formula. Its reciprocal is the sum over k of n(n−1)…(n−k+1)/load^k, whose terms fall off within a few
/// times √n once n is near the load: no loop over all servers.
fn lost(servers: u32, load: f64) -> f64 {
    if load <= 0.0 {
        return if servers == 0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 0..servers {
        term *= f64::from(servers - k) / load;
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    1.0 / sum
}

/// The chance that a request waits (Erlang's C formula, 1917) from the one that it would be lost; 1 when the
/// servers cannot keep up.
fn delayed(lost: f64, servers: u32, load: f64) -> f64 {
    let servers = f64::from(servers);
    if servers <= load { 1.0 } else { lost / (1.0 - load / servers * (1.0 - lost)) }
}

/// A count from a float: 0 for what is no number, the largest count for what is over it.
pub(crate) fn to_count(value: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "such a cast saturates")]
    let count = value as u32;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erlang_c(servers: u32, load: f64) -> f64 {
        delayed(lost(servers, load), servers, load)
    }

    #[track_caller]
    fn check(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
    }

    #[test]
    fn known_values() {
        check(erlang_c(1, 0.5), 0.5); // M/M/1: the utilisation
        check(erlang_c(2, 1.0), 1.0 / 3.0);
        check(erlang_c(3, 2.0), 4.0 / 9.0);
        check(erlang_c(2, 2.0), 1.0);
        check(erlang_c(5, 0.0), 0.0);
        assert_eq!(erlang_c(0, 0.0), 1.0);
    }

    #[test]
    fn the_short_sum_is_the_recursion() {
        for (servers, load) in [(1, 0.01), (7, 3.5), (40, 32.0), (100, 99.0), (1050, 1000.0)] {
            let recursion = (1..=servers).fold(1.0, |b, n| load * b / (f64::from(n) + load * b));
            check(lost(servers, load), recursion);
        }
    }

    #[test]
    fn servers_are_the_fewest_that_keep_the_promise() {
        let late = |servers, load: f64, wait: f64| {
            erlang_c(servers, load) * (-(f64::from(servers) - load) * wait).exp()
        };
        for (load, miss) in
            [(0.001, 0.01), (0.5, 0.003), (3.0, 0.01), (8.25, 0.0003), (32.0, 0.003), (900.0, 0.01)]
        {
            let servers = servers_for(load, 2.0, miss);
            assert!(f64::from(servers) > load && late(servers, load, 2.0) <= miss);
            let fewer = servers - 1;
            assert!(f64::from(fewer) <= load || late(fewer, load, 2.0) > miss, "{fewer} do for {load}");
        }
        assert_eq!(servers_for(0.0, 2.0, 0.01), 0);
        assert_eq!(servers_for(f64::NAN, 2.0, 0.01), 0);
        assert_eq!(servers_for(1e12, 2.0, 0.01), u32::MAX);
    }
}
