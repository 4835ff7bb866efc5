//! Numbers as bytes: one encoding for each value, so that equal results are equal bytes.
//!
//! ```text
//! tag                  bit 0: negative; bit 1: a fraction
//! [length: u32]        of the numerator, big-endian; fractions only
//! numerator            magnitude, big-endian, no leading zero byte; zero is empty
//! [denominator]        the same, > 1, prime to the numerator; fractions only
//! ```

use dashu_base::Gcd;
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::Value;
use crate::limits::Limits;

const NEGATIVE: u8 = 1;
const FRACTION: u8 = 2;

/// Why bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes or digits than [`Limits::digits`] allows.
    #[error("value of {bytes} bytes has more than {limit} digits")]
    TooManyDigits {
        /// Bytes received.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// Not the one encoding that the value has: truncated, a leading zero, not in lowest terms.
    #[error("not the canonical encoding of a value")]
    NotCanonical,
}

impl Value {
    /// The canonical bytes: two values are equal just when their bytes are.
    ///
    /// ```
    /// # use quorate_dag::{Limits, Value};
    /// let value: Value = "-8/3".parse()?;
    /// let bytes = value.to_bytes();
    /// assert_eq!(Value::from_bytes(&bytes, &Limits::default())?, value);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        let (negative, numerator, denominator) = self.parts();
        let mut bytes = vec![if negative { NEGATIVE } else { 0 }];
        if denominator.is_one() {
            bytes.extend_from_slice(&magnitude(&numerator));
            return bytes;
        }
        bytes[0] |= FRACTION;
        let numerator = magnitude(&numerator);
        let length = u32::try_from(numerator.len()).expect("a numerator is far below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&numerator);
        bytes.extend_from_slice(&magnitude(&denominator));
        bytes
    }

    /// Reads what [`Value::to_bytes`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`WireError::TooManyDigits`] before anything is allocated for a value that is too long;
    /// [`WireError::NotCanonical`] for every other text of bytes.
    pub fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Self, WireError> {
        let too_many = WireError::TooManyDigits { bytes: bytes.len(), limit: limits.digits };
        // A digit is at most 3.33 bits, so that half a byte each is more than enough.
        if bytes.len() > limits.digits.saturating_add(16) {
            return Err(too_many);
        }
        let (&tag, rest) = bytes.split_first().ok_or(WireError::NotCanonical)?;
        if tag & !(NEGATIVE | FRACTION) != 0 {
            return Err(WireError::NotCanonical);
        }
        let (numerator, denominator) =
            if tag & FRACTION == 0 { (integer(rest)?, UBig::ONE) } else { fraction(rest)? };
        if numerator.is_zero() && tag != 0 {
            return Err(WireError::NotCanonical);
        }
        let numerator = IBig::from(numerator);
        let signed = if tag & NEGATIVE == 0 { numerator } else { -numerator };
        let value = Self::from_rational(RBig::from_parts(signed, denominator));
        if value.has_more_digits_than(limits.digits) {
            return Err(too_many);
        }
        Ok(value)
    }
}

/// Big-endian without leading zeros.
fn magnitude(n: &UBig) -> Vec<u8> {
    let bytes = n.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}

fn integer(bytes: &[u8]) -> Result<UBig, WireError> {
    if bytes.first() == Some(&0) {
        return Err(WireError::NotCanonical);
    }
    Ok(UBig::from_be_bytes(bytes))
}

fn fraction(bytes: &[u8]) -> Result<(UBig, UBig), WireError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(WireError::NotCanonical)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| WireError::NotCanonical)?;
    let (numerator, denominator) = rest.split_at_checked(length).ok_or(WireError::NotCanonical)?;
    let (numerator, denominator) = (integer(numerator)?, integer(denominator)?);
    let lowest = !numerator.is_zero() && denominator > UBig::ONE && (&numerator).gcd(&denominator).is_one();
    if lowest { Ok((numerator, denominator)) } else { Err(WireError::NotCanonical) }
}
