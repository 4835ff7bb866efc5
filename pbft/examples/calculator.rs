//! A replicated calculator: operations `a op b` on exact fractions as text, and how many were executed.
//!
//! ```text
//! cargo run -p quorate-pbft --features sim --example calculator
//! ```
//!
//! Numbers are `7`, `-1.25` or `7/3`; `op` is one of `+ - * /`. What cannot be computed is an answer
//! like any other: a service must not depend on anything but its state and the operation, so it never
//! rounds and never panics. `count` asks how many operations there were; it changes nothing, so it
//! need not be ordered.

use std::fmt;

use bytes::Bytes;
use quorate_pbft::sim::{Cluster, Setup};
use quorate_pbft::{ClientId, Context, NotReadOnly, Options, Service, State};

const OVERFLOW: &str = "error: the result is out of range";
const SYNTAX: &str = "error: not of the form `a op b`";

/// A fraction in lowest terms, with `below` over zero.
#[derive(Clone, Copy)]
struct Fraction {
    above: i128,
    below: i128,
}

impl Fraction {
    fn new(above: Option<i128>, below: Option<i128>) -> Result<Self, &'static str> {
        let (above, below) = (above.ok_or(OVERFLOW)?, below.ok_or(OVERFLOW)?);
        let (mut divisor, mut rest) = (above.unsigned_abs(), below.unsigned_abs());
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        let divisor = i128::try_from(divisor).map_err(|_| OVERFLOW)?;
        let divisor = if below < 0 { -divisor } else { divisor };
        match below {
            0 => Err("error: division by zero"),
            _ => Ok(Self {
                above: above.checked_div(divisor).ok_or(OVERFLOW)?,
                below: below.checked_div(divisor).ok_or(OVERFLOW)?,
            }),
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let integer = |text: &str| text.parse::<i128>().map_err(|_| SYNTAX);
        if let Some((above, below)) = text.split_once('/') {
            return Self::new(Some(integer(above)?), Some(integer(below)?));
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = u32::try_from(part.len()).map_err(|_| OVERFLOW)?;
        Self::new(Some(integer(&format!("{whole}{part}"))?), 10i128.checked_pow(digits))
    }

    fn compute(self, op: &str, other: Self) -> Result<Self, &'static str> {
        let Self { above: a, below: b } = self;
        let Self { above: c, below: d } = other;
        let both = a.checked_mul(d).zip(c.checked_mul(b));
        match op {
            "+" => Self::new(both.and_then(|(left, right)| left.checked_add(right)), b.checked_mul(d)),
            "-" => Self::new(both.and_then(|(left, right)| left.checked_sub(right)), b.checked_mul(d)),
            "*" => Self::new(a.checked_mul(c), b.checked_mul(d)),
            "/" => Self::new(a.checked_mul(d), b.checked_mul(c)),
            _ => Err(SYNTAX),
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.below {
            1 => write!(f, "{}", self.above),
            below => write!(f, "{}/{below}", self.above),
        }
    }
}

fn evaluate(operation: &[u8]) -> Result<Fraction, &'static str> {
    let text = std::str::from_utf8(operation).map_err(|_| SYNTAX)?;
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [a, op, b] => Fraction::parse(a)?.compute(op, Fraction::parse(b)?),
        _ => Err(SYNTAX),
    }
}

/// The service: a pure function, and in page 0 how often it was asked.
#[derive(Clone)]
struct Calculator;

fn count(state: &State) -> u64 {
    state.page(0).try_into().map_or(0, u64::from_be_bytes)
}

impl Service for Calculator {
    fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
        if operation == b"count" {
            return count(state).to_string().into();
        }
        state.write(0, &(count(state) + 1).to_be_bytes());
        evaluate(operation).map_or_else(|error| error.into(), |fraction| fraction.to_string().into())
    }

    fn read(&self, _: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        match operation {
            b"count" => Ok(count(state).to_string().into()),
            _ => Err(NotReadOnly),
        }
    }
}

fn main() {
    let mut cluster = Cluster::new(Setup::new(1, 1), Calculator);
    let mut ask = |operation: &'static str| {
        let options = Options { read_only: operation == "count", receipt: false };
        cluster.submit(ClientId(0), operation.into(), options).expect("there is room for one");
        cluster.settle();
        let (_, outcome) = cluster.take_outcomes().pop().expect("it is answered");
        let result = String::from_utf8_lossy(outcome.result().expect("it does not fail")).into_owned();
        println!("{operation:>12}  =  {result}");
        result
    };
    assert_eq!(ask("3 + 5"), "8");
    assert_eq!(ask("1/3 - 0.5"), "-1/6");
    assert_eq!(ask("-1.25 * 8/3"), "-10/3");
    assert_eq!(ask("4 / 0"), "error: division by zero");
    assert_eq!(ask("count"), "4");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operation: &str, expected: &str) {
        let found = evaluate(operation.as_bytes()).map(|fraction| fraction.to_string());
        assert_eq!(found.as_deref().unwrap_or_else(|error| error), expected, "{operation}");
    }

    #[test]
    fn example_runs() {
        main();
    }

    #[test]
    fn fractions_are_exact_and_in_lowest_terms() {
        check("0.1 + 0.2", "3/10");
        check("2/4 + 0", "1/2");
        check("1/-2 * 1", "-1/2");
        check("-0.5 / -0.25", "2");
        check("-.5 - .5", "-1");
    }

    #[test]
    fn what_cannot_be_computed_is_answered() {
        for wrong in
            ["", "1", "1 + ", "1 ^ 2", "x + 1", "1 + .", "1.+5 + 1", "1/2/3 + 1", "1 + 1 + 1", "+ - *"]
        {
            check(wrong, SYNTAX);
        }
        check("1 / 0.0", "error: division by zero");
        check("1/0 + 1", "error: division by zero");
        let (least, most) = (i128::MIN, i128::MAX);
        for operation in [
            format!("{most} + 1"),
            format!("{least} - 1"),
            format!("{most} * {most}"),
            format!("1/{most} + 1/{most}.5"),
            format!("1 / {least}"),
            format!("{least}/{least} + 0"),
            format!("0.{} + 1", "1".repeat(60)),
        ] {
            let error = evaluate(operation.as_bytes()).map(|fraction| fraction.to_string());
            assert!(matches!(error, Err(OVERFLOW | SYNTAX)), "{operation}: {error:?}");
        }
        assert!(evaluate(&[0xff, b' ', b'+']).is_err());
    }
}
