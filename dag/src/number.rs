//! Exact rational numbers, machine integers as long as they fit.

mod float;
mod text;
mod wire;

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU64;

use dashu_base::BitTest;
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use crate::function::{Function, NodeError};
use crate::limits::Limits;

pub use text::ValueError;
pub use wire::WireError;

pub(crate) use text::scan;

/// An exact rational number in lowest terms.
///
/// It prints as an integer, as a terminating decimal where there is one, else as `p/q`; what it
/// prints, [`Value::parse`] reads again. Equal values are equal bytes in [`Value::to_bytes`].
///
/// ```
/// use quorate_dag::{Limits, Value};
///
/// let limits = Limits::default();
/// assert_eq!(Value::parse("0.125", &limits)?.to_string(), "0.125");
/// assert_eq!(Value::parse("-6/4", &limits)?.to_string(), "-1.5");
/// assert_eq!(Value::parse("8/3", &limits)?.to_string(), "8/3");
/// assert_eq!(Value::parse("8/3", &limits)?.to_decimal(4), "2.6667");
/// # Ok::<(), quorate_dag::ValueError>(())
/// ```
// Invariant: a number that fits `Small` is `Small`, so that the derived equality and hash hold.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Value(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Small(Small),
    /// Boxed so that a `Value` is 16 bytes.
    Big(Box<RBig>),
}

/// Lowest terms; `denominator <= i64::MAX`, so that cross products of two fit an `i128`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Small {
    numerator: i64,
    denominator: NonZeroU64,
}

const ONE: NonZeroU64 = NonZeroU64::MIN;

/// Runs one function on two values.
///
/// # Errors
/// [`NodeError::DivisionByZero`], and [`NodeError::Overflow`] when the numerator or the
/// denominator of the result has more than `limits.digits` digits.
pub fn apply(function: Function, left: &Value, right: &Value, limits: &Limits) -> Result<Value, NodeError> {
    if function == Function::Div && right.is_zero() {
        return Err(NodeError::DivisionByZero);
    }
    let value = match (&left.0, &right.0) {
        (Repr::Small(a), Repr::Small(b)) => match Small::apply(function, *a, *b) {
            Some(small) => Value(Repr::Small(small)),
            None => big(function, left, right),
        },
        _ => big(function, left, right),
    };
    if value.has_more_digits_than(limits.digits) {
        return Err(NodeError::Overflow { limit: limits.digits });
    }
    Ok(value)
}

#[cold]
fn big(function: Function, left: &Value, right: &Value) -> Value {
    let (a, b) = (left.to_rational(), right.to_rational());
    Value::from_rational(match function {
        Function::Add => a + b,
        Function::Sub => a - b,
        Function::Mul => a * b,
        Function::Div => a / b,
    })
}

impl Value {
    /// Zero.
    pub const ZERO: Self = Self::integer(0);

    const fn integer(value: i64) -> Self {
        Self(Repr::Small(Small::integer(value)))
    }

    /// The same number when machine integers hold it.
    pub(crate) const fn small(&self) -> Option<Small> {
        match &self.0 {
            Repr::Small(small) => Some(*small),
            Repr::Big(_) => None,
        }
    }

    /// Whether it is zero.
    pub const fn is_zero(&self) -> bool {
        matches!(self.0, Repr::Small(Small { numerator: 0, .. }))
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Repr::Small(small) => small.numerator < 0,
            Repr::Big(big) => big.numerator() < &IBig::ZERO,
        }
    }

    /// `0 - self`.
    #[must_use]
    pub fn negated(&self) -> Self {
        match &self.0 {
            Repr::Small(small) => match small.negated() {
                Some(small) => Self(Repr::Small(small)),
                None => Self::from_rational(-self.to_rational()),
            },
            Repr::Big(big) => Self::from_rational(-big.as_ref().clone()),
        }
    }

    /// Whether the numerator or the denominator has more than `digits` decimal digits.
    pub fn has_more_digits_than(&self, digits: usize) -> bool {
        match &self.0 {
            // 2^63 has 19 digits.
            Repr::Small(_) if digits >= 19 => false,
            Repr::Small(small) => {
                let places = |n: u64| n.checked_ilog10().map_or(1, |log| log as usize + 1);
                places(small.numerator.unsigned_abs()) > digits || places(small.denominator.get()) > digits
            }
            Repr::Big(big) => {
                has_more_digits(big.denominator(), digits)
                    || match big.numerator().as_ubig() {
                        Some(numerator) => has_more_digits(numerator, digits),
                        None => has_more_digits(&big.numerator().clone().into_parts().1, digits),
                    }
            }
        }
    }

    fn to_rational(&self) -> RBig {
        match &self.0 {
            // Parts in lowest terms already; the reduction of two words is cheap.
            Repr::Small(small) => {
                RBig::from_parts(IBig::from(small.numerator), UBig::from(small.denominator.get()))
            }
            Repr::Big(big) => big.as_ref().clone(),
        }
    }

    fn from_rational(value: RBig) -> Self {
        let small = i64::try_from(value.numerator())
            .ok()
            .zip(u64::try_from(value.denominator()).ok())
            .and_then(|(numerator, denominator)| Small::new(numerator, denominator));
        match small {
            Some(small) => Self(Repr::Small(small)),
            None => Self(Repr::Big(Box::new(value))),
        }
    }

    /// The numerator's sign and magnitude, and the denominator.
    fn parts(&self) -> (bool, UBig, UBig) {
        match &self.0 {
            Repr::Small(small) => (
                small.numerator < 0,
                UBig::from(small.numerator.unsigned_abs()),
                UBig::from(small.denominator.get()),
            ),
            Repr::Big(big) => {
                let (sign, magnitude) = big.numerator().clone().into_parts();
                (sign == dashu_base::Sign::Negative, magnitude, big.denominator().clone())
            }
        }
    }
}

/// Whether `n >= 10^digits`, without computing that power unless the bit length leaves it open.
fn has_more_digits(n: &UBig, digits: usize) -> bool {
    // log2(10) lies between these two quotients by 10^18.
    const LOW: u128 = 3_321_928_094_887_362_347;
    const HIGH: u128 = LOW + 1;
    const SCALE: u128 = 1_000_000_000_000_000_000;
    let bits = n.bit_len() as u128;
    let digits_wide = digits as u128;
    if bits <= digits_wide * LOW / SCALE {
        return false; // n < 2^bits <= 10^digits
    }
    if bits > digits_wide * HIGH / SCALE + 1 {
        return true; // n >= 2^(bits-1) >= 10^digits
    }
    *n >= UBig::from(10u8).pow(digits)
}

impl Small {
    pub(crate) const ZERO: Self = Self::integer(0);

    pub(crate) const fn integer(value: i64) -> Self {
        Self { numerator: value, denominator: ONE }
    }

    /// `0 - self`, when it fits.
    pub(crate) fn negated(self) -> Option<Self> {
        Some(Self { numerator: self.numerator.checked_neg()?, ..self })
    }

    /// The parts must be in lowest terms.
    fn new(numerator: i64, denominator: u64) -> Option<Self> {
        (denominator <= i64::MAX as u64)
            .then(|| NonZeroU64::new(denominator))
            .flatten()
            .map(|denominator| Self { numerator, denominator })
    }

    fn from_wide(numerator: i128, denominator: u128) -> Option<Self> {
        Self::new(i64::try_from(numerator).ok()?, u64::try_from(denominator).ok()?)
    }

    /// The result when it fits; `None` sends the caller to big numbers. `b` is not zero for `Div`.
    #[inline]
    pub(crate) fn apply(function: Function, a: Self, b: Self) -> Option<Self> {
        if a.denominator == ONE && b.denominator == ONE {
            let whole = match function {
                Function::Add => a.numerator.checked_add(b.numerator)?,
                Function::Sub => a.numerator.checked_sub(b.numerator)?,
                Function::Mul => a.numerator.checked_mul(b.numerator)?,
                Function::Div => return Self::divide(a, b),
            };
            return Some(Self { numerator: whole, denominator: ONE });
        }
        match function {
            Function::Add => Self::add(a, b),
            Function::Sub => Self::add(a, b.negated()?),
            Function::Mul => Self::multiply(
                a.numerator.into(),
                a.denominator.get(),
                b.numerator.into(),
                b.denominator.get(),
            ),
            Function::Div => Self::divide(a, b),
        }
    }

    /// Knuth, TAOCP vol. 2, 4.5.1: reduce by the gcd of the denominators first, so that no gcd of
    /// double width is needed.
    fn add(a: Self, b: Self) -> Option<Self> {
        let (p, q) = (i128::from(a.numerator), u128::from(a.denominator.get()));
        let (r, s) = (i128::from(b.numerator), u128::from(b.denominator.get()));
        let common = gcd(a.denominator.get(), b.denominator.get());
        let wide = u128::from(common);
        // Factors are below 2^63 each, so a product is below 2^126 and the sum below 2^127.
        let signed = |n: u128| i128::try_from(n).expect("a denominator is at most i64::MAX");
        let sum = p * signed(s / wide) + r * signed(q / wide);
        if common == 1 {
            return Self::from_wide(sum, q * s);
        }
        let rest = u64::try_from(sum.unsigned_abs() % wide).expect("below a u64 modulus");
        let second = u128::from(gcd(rest, common));
        Self::from_wide(sum / signed(second), (q / wide) * (s / second))
    }

    /// `(p/q)·(r/s)`, each in lowest terms; magnitudes up to 2^63.
    fn multiply(p: i128, q: u64, r: i128, s: u64) -> Option<Self> {
        let magnitude =
            |n: i128| u64::try_from(n.unsigned_abs()).expect("a numerator's magnitude fits a u64");
        let first = gcd(magnitude(p), s);
        let second = gcd(magnitude(r), q);
        let numerator = (p / i128::from(first)).checked_mul(r / i128::from(second))?;
        let denominator = u128::from(q / second) * u128::from(s / first);
        Self::from_wide(numerator, denominator)
    }

    fn divide(a: Self, b: Self) -> Option<Self> {
        let inverted = i128::from(b.denominator.get()) * i128::from(b.numerator.signum());
        Self::multiply(a.numerator.into(), a.denominator.get(), inverted, b.numerator.unsigned_abs())
    }
}

/// Binary gcd; `gcd(0, n) = n`.
fn gcd(mut a: u64, mut b: u64) -> u64 {
    if a == 0 || b == 0 {
        return a | b;
    }
    if a == 1 || b == 1 {
        return 1;
    }
    let shift = (a | b).trailing_zeros();
    a >>= a.trailing_zeros();
    loop {
        b >>= b.trailing_zeros();
        if a > b {
            std::mem::swap(&mut a, &mut b);
        }
        b -= a;
        if b == 0 {
            return a << shift;
        }
    }
}

impl From<Small> for Value {
    fn from(small: Small) -> Self {
        Self(Repr::Small(small))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::integer(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        match i64::try_from(value) {
            Ok(value) => Self::integer(value),
            Err(_) => Self::from_rational(RBig::from(value)),
        }
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::integer(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::integer(value.into())
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Small(a), Repr::Small(b)) => {
                let left = i128::from(a.numerator) * i128::from(b.denominator.get());
                let right = i128::from(b.numerator) * i128::from(a.denominator.get());
                left.cmp(&right)
            }
            _ => self.to_rational().cmp(&other.to_rational()),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests;
