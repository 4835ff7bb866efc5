//! What one text may cost, said once for the parser, the plan and the arithmetic.

/// Bounds on an expression and on the values it computes. Past one is an error, never a crash.
///
/// ```
/// use quorate_dag::{Expression, Limits};
///
/// let strict = Limits { nesting: 2, ..Limits::default() };
/// assert!(Expression::parse_within("((1+2))", &strict).is_ok());
/// assert_eq!(Expression::parse_within("(((1+2)))", &strict).unwrap_err().kind.as_str(), "too-deep");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text. A number counts as if its exponent were written out, so that `1e9999`
    /// repeated cannot buy gigabytes with a megabyte. Values over 2³⁰ are taken as 2³⁰.
    pub bytes: usize,
    /// Operators, unary minus included.
    pub nodes: usize,
    /// Parentheses open at once.
    pub nesting: usize,
    /// Decimal digits of a numerator or a denominator in lowest terms, of a literal, a parameter
    /// or any computed value.
    pub digits: usize,
}

impl Limits {
    /// The most bytes any setting allows: positions are 30-bit numbers inside.
    pub(crate) const BYTES_MAX: usize = 1 << 30;

    /// Digits that a number may be written with. A terminating decimal of `digits` digits in
    /// lowest terms (2⁻³³²¹⁹ has 10,000 in its denominator) needs up to log₂10 ≈ 3.33 times as
    /// many places; every printed value must be readable again.
    pub(crate) fn written_digits(&self) -> usize {
        self.digits.saturating_mul(5).max(64)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 20, nodes: 1_000_000, nesting: 100_000, digits: 10_000 }
    }
}
