//! Numbers as text: literals in, decimals and fractions out.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::str::FromStr;

use dashu_base::DivRem;
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::{ONE, Repr, Small, Value, gcd};
use crate::limits::Limits;

/// Why a text is no value. [`ValueError::span`] says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not of the form `[sign] number [/ [sign] number]`.
    #[error("malformed number at bytes {}..{}: expected digits as in 12, 0.5, 1e-3, 1_000 or 1/3", span.start, span.end)]
    Malformed {
        /// The bytes that could not be read.
        span: Range<usize>,
    },
    /// More digits than [`Limits::digits`].
    #[error("number at bytes {}..{} has more than {limit} digits", span.start, span.end)]
    TooManyDigits {
        /// The bytes of the number.
        span: Range<usize>,
        /// The limit in force.
        limit: usize,
    },
    /// `p/0`.
    #[error("division by zero at bytes {}..{}", span.start, span.end)]
    DivisionByZero {
        /// The byte of the `/`.
        span: Range<usize>,
    },
}

impl ValueError {
    /// `malformed-number`, `too-many-digits` or `division-by-zero`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed-number",
            Self::TooManyDigits { .. } => "too-many-digits",
            Self::DivisionByZero { .. } => "division-by-zero",
        }
    }

    /// The bytes of the text that are at fault.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Malformed { span } | Self::TooManyDigits { span, .. } | Self::DivisionByZero { span } => {
                span.clone()
            }
        }
    }
}

/// An unsigned number as it is written: its digits, and where the point stands.
#[derive(Debug)]
pub(crate) struct Literal<'a> {
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
    /// Bytes of text it took.
    pub(crate) len: usize,
}

/// Reads one unsigned number from the start of `bytes`; `Err` is the length of what is wrong.
pub(crate) fn scan(bytes: &[u8]) -> Result<Literal<'_>, usize> {
    let whole = digits(bytes);
    let mut at = whole;
    let mut fraction = at..at;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let len = digits(&bytes[at..]);
        fraction = at..at + len;
        at += len;
    }
    let fraction = &bytes[fraction];
    let mut exponent = 0i64;
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        let negative = bytes.get(at) == Some(&b'-');
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let len = digits(&bytes[at..]);
        if len == 0 {
            return Err(at);
        }
        for digit in bytes[at..at + len].iter().filter(|byte| **byte != b'_') {
            exponent = exponent.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        }
        if negative {
            exponent = -exponent;
        }
        at += len;
    }
    // `1.2.3`, `1_`, `1__0` and a lone point are one malformed number each, not two numbers.
    if whole + fraction.len() == 0 || matches!(bytes.get(at), Some(b'.' | b'_')) {
        let more = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'_'))
            .count();
        return Err(at + more);
    }
    Ok(Literal { whole: &bytes[..whole], fraction, exponent, len: at })
}

/// The length of a run of digits in which every underscore stands between two of them.
fn digits(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let between = *byte == b'_' && at > 0 && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !byte.is_ascii_digit() && !between {
            break;
        }
        at += 1;
    }
    at
}

impl Literal<'_> {
    /// Zeros that the exponent stands for: what the number costs beyond its own text.
    pub(crate) fn unwritten(&self) -> usize {
        if self.is_zero() {
            return 0;
        }
        usize::try_from(self.exponent.unsigned_abs()).unwrap_or(usize::MAX)
    }

    fn is_zero(&self) -> bool {
        let zeros = |digits: &[u8]| digits.iter().all(|byte| matches!(byte, b'0' | b'_'));
        zeros(self.whole) && zeros(self.fraction)
    }

    /// The exact value; `None` when it has too many digits, found before they are computed.
    pub(crate) fn value(&self, limits: &Limits) -> Option<Value> {
        let written = limits.written_digits();
        let mut mantissa = Vec::with_capacity((self.whole.len() + self.fraction.len()).min(written));
        let mut places = 0i64;
        for (part, is_fraction) in [(self.whole, false), (self.fraction, true)] {
            for &byte in part.iter().filter(|byte| **byte != b'_') {
                places += i64::from(is_fraction);
                if byte != b'0' || !mantissa.is_empty() {
                    if mantissa.len() == written {
                        return None;
                    }
                    mantissa.push(byte);
                }
            }
        }
        if mantissa.is_empty() {
            return Some(Value::ZERO);
        }
        let scale = self.exponent.saturating_sub(places);
        let zeros = usize::try_from(scale.unsigned_abs()).ok()?;
        if zeros > written || (scale > 0 && zeros + mantissa.len() > written) {
            return None;
        }
        let value = match Self::small(&mantissa, scale, zeros) {
            Some(small) => Value(Repr::Small(small)),
            None => Self::big(&mantissa, scale, zeros),
        };
        (!value.has_more_digits_than(limits.digits)).then_some(value)
    }

    fn small(mantissa: &[u8], scale: i64, zeros: usize) -> Option<Small> {
        if mantissa.len() > 18 || zeros > 18 {
            return None;
        }
        let integer = mantissa.iter().fold(0i64, |sum, byte| sum * 10 + i64::from(byte - b'0'));
        let power = 10i64.pow(u32::try_from(zeros).ok()?);
        if scale >= 0 {
            return Some(Small { numerator: integer.checked_mul(power)?, denominator: ONE });
        }
        let power = power.unsigned_abs();
        let common = gcd(integer.unsigned_abs(), power);
        Small::new(integer / i64::try_from(common).ok()?, power / common)
    }

    fn big(mantissa: &[u8], scale: i64, zeros: usize) -> Value {
        let text = std::str::from_utf8(mantissa).expect("digits are ASCII");
        let integer = UBig::from_str_radix(text, 10).expect("a run of decimal digits");
        let power = UBig::from(10u8).pow(zeros);
        Value::from_rational(if scale >= 0 {
            RBig::from(integer * power)
        } else {
            RBig::from_parts(IBig::from(integer), power)
        })
    }
}

impl Value {
    /// Reads `[sign] number [/ [sign] number]`, every number in any of the forms that an
    /// expression takes. White space may stand around the parts.
    ///
    /// # Errors
    /// [`ValueError`], with the bytes at fault.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, ValueError> {
        let (numerator, at) = signed(text, 0, limits)?;
        if at == text.len() {
            return Ok(numerator);
        }
        if text.as_bytes()[at] != b'/' {
            return Err(ValueError::Malformed { span: at..text.len() });
        }
        let (denominator, end) = signed(text, at + 1, limits)?;
        if end != text.len() {
            return Err(ValueError::Malformed { span: end..text.len() });
        }
        if denominator.is_zero() {
            return Err(ValueError::DivisionByZero { span: at..at + 1 });
        }
        super::apply(crate::Function::Div, &numerator, &denominator, limits)
            .map_err(|_| ValueError::TooManyDigits { span: 0..text.len(), limit: limits.digits })
    }

    /// A decimal of exactly `places` digits after the point, correctly rounded, half to even.
    ///
    /// Memory and time grow with `places`: bound it where it comes from outside.
    ///
    /// ```
    /// # use quorate_dag::Value;
    /// assert_eq!(Value::from(7).to_decimal(2), "7.00");
    /// assert_eq!(Value::parse("0.125", &Default::default())?.to_decimal(2), "0.12");
    /// assert_eq!(Value::parse("-1/1000", &Default::default())?.to_decimal(2), "0.00");
    /// # Ok::<(), quorate_dag::ValueError>(())
    /// ```
    pub fn to_decimal(&self, places: usize) -> String {
        let (negative, numerator, denominator) = self.parts();
        let scaled = numerator * UBig::from(10u8).pow(places);
        let (mut quotient, remainder) = scaled.div_rem(&denominator);
        let twice = remainder * UBig::from(2u8);
        let odd = !(&quotient % UBig::from(2u8)).is_zero();
        if twice > denominator || (twice == denominator && odd) {
            quotient += UBig::ONE;
        }
        let negative = negative && !quotient.is_zero();
        pointed(negative, &quotient.to_string(), places)
    }
}

/// Reads `[signs] number` from byte `at`, and skips white space on both sides.
fn signed(text: &str, mut at: usize, limits: &Limits) -> Result<(Value, usize), ValueError> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    at = skip(at);
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    let literal = scan(&bytes[at..]).map_err(|len| ValueError::Malformed {
        // A character that is no part of a number: name it whole.
        span: at..(at + len.max(1)..=text.len())
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(text.len()),
    })?;
    let end = at + literal.len;
    let value =
        literal.value(limits).ok_or(ValueError::TooManyDigits { span: at..end, limit: limits.digits })?;
    let value = if negative { value.negated() } else { value };
    Ok((value, skip(end)))
}

/// Puts the point `places` digits from the end of `digits`.
fn pointed(negative: bool, digits: &str, places: usize) -> String {
    let sign = if negative { "-" } else { "" };
    if places == 0 {
        return format!("{sign}{digits}");
    }
    if digits.len() > places {
        let (whole, fraction) = digits.split_at(digits.len() - places);
        format!("{sign}{whole}.{fraction}")
    } else {
        format!("{sign}0.{digits:0>places$}")
    }
}

/// With the default [`Limits`].
impl FromStr for Value {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse(text, &Limits::default())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Repr::Small(small) = &self.0
            && small.denominator == ONE
        {
            return write!(f, "{}", small.numerator);
        }
        let (negative, numerator, denominator) = self.parts();
        if negative {
            f.write_char('-')?;
        }
        if denominator.is_one() {
            return write!(f, "{numerator}");
        }
        match decimal_places(&denominator) {
            Some((places, factor)) => f.write_str(&pointed(false, &(numerator * factor).to_string(), places)),
            None => write!(f, "{numerator}/{denominator}"),
        }
    }
}

/// For a denominator 2^a·5^b: max(a, b), and what brings it to 10 to that power.
fn decimal_places(denominator: &UBig) -> Option<(usize, UBig)> {
    let (two, five) = (UBig::from(2u8), UBig::from(5u8));
    let twos = denominator.trailing_zeros().unwrap_or(0);
    let rest = denominator >> twos;
    let mut fives = 0;
    if !rest.is_one() {
        // A power of five is known by its size: comparing once beats dividing 14,000 times.
        fives = rest.ilog(&five);
        if five.pow(fives) != rest {
            return None;
        }
    }
    let places = twos.max(fives);
    Some((places, two.pow(places - twos) * five.pow(places - fives)))
}
