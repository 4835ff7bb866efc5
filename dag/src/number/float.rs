//! Exact numbers to the nearest 64-bit float.

use super::{ONE, Repr, Value};

/// Every integer up to this is a float: 2⁵³.
const EXACT_MOST: u64 = 1 << f64::MANTISSA_DIGITS;

impl Value {
    /// The nearest 64-bit float, ties to even; infinite when it is beyond the largest.
    ///
    /// ```
    /// # use quorate_dag::Value;
    /// assert_eq!("0.1".parse::<Value>()?.to_f64(), 0.1);
    /// assert_eq!("2/3".parse::<Value>()?.to_f64(), 2.0 / 3.0);
    /// assert_eq!("1e400".parse::<Value>()?.to_f64(), f64::INFINITY);
    /// # Ok::<(), quorate_dag::ValueError>(())
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "`as` rounds to the nearest, ties to even")]
    pub fn to_f64(&self) -> f64 {
        match &self.0 {
            Repr::Small(small) if small.denominator == ONE => small.numerator as f64,
            // Both are floats, and IEEE 754 rounds their quotient once.
            Repr::Small(small)
                if small.numerator.unsigned_abs() <= EXACT_MOST && small.denominator.get() <= EXACT_MOST =>
            {
                small.numerator as f64 / small.denominator.get() as f64
            }
            _ => self.to_rational().to_f64().value(),
        }
    }
}
