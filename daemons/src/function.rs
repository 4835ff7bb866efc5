//! A function: what an operation and its answer are as bytes, and the arithmetic between the two.
//!
//! The same bytes are what a worker asks its replicas, what they agree on, and what a receipt proves, so
//! there is one encoding for each operation and one for each answer:
//!
//! ```text
//! operation   version: 1, function: u8, digits_max: u32, length of left: u32, left, right
//! answer      0 and the value | 1 division by zero | 2 overflow | 3 invalid
//! ```
//!
//! Numbers are big-endian; values are in the canonical encoding of [`quorate_dag::Value`].
//!
//! ```
//! use quorate::function::{Answer, Operation};
//! use quorate_dag::{Function, Value};
//!
//! let (left, right) = (Value::from(8).to_bytes(), Value::from(2).to_bytes());
//! let bytes = Operation { function: Function::Mul, digits_max: 100, left: &left, right: &right }.to_bytes();
//! let answer = Operation::from_bytes(&bytes)?.execute();
//! assert_eq!(answer, Answer::Value(Value::from(16).to_bytes().into()));
//! assert_eq!(Answer::from_bytes(&answer.to_bytes())?, answer);
//! # Ok::<(), quorate::function::Malformed>(())
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use quorate_dag::{Function, Limits, NodeError, Value, apply};
use quorate_pbft::{Context, Service, State};

/// The encoding's version, the first byte of every operation.
const VERSION: u8 = 1;
/// Bytes before the left operand.
const HEADER: usize = 1 + 1 + 4 + 4;

/// One operation on two values that are still bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// What is computed.
    pub function: Function,
    /// A result with more digits is an overflow, an operand with more is invalid.
    pub digits_max: u32,
    /// The left operand, canonically encoded.
    pub left: &'a [u8],
    /// The right operand, canonically encoded.
    pub right: &'a [u8],
}

/// What an operation comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its value, canonically encoded.
    Value(Bytes),
    /// The divisor is zero.
    DivisionByZero,
    /// The result has more digits than the operation allows.
    Overflow,
    /// The operation is malformed, or not of the function that was asked.
    Invalid,
}

/// Why bytes are no operation or no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("{bytes} bytes are too few")]
    Short {
        /// How many there are.
        bytes: usize,
    },
    /// A version that this program does not know.
    #[error("version {0} of the encoding is not known")]
    Version(u8),
    /// A function that there is not.
    #[error("there is no function {0}")]
    Function(u8),
    /// An answer that there is not.
    #[error("there is no answer of kind {0}")]
    Answer(u8),
    /// More bytes than the answer has.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// The left operand is said to be longer than what there is.
    #[error("the left operand is said to have {0} bytes, which are not all there")]
    Operand(u32),
}

fn code(function: Function) -> u8 {
    match function {
        Function::Add => 0,
        Function::Sub => 1,
        Function::Mul => 2,
        Function::Div => 3,
    }
}

impl<'a> Operation<'a> {
    /// The operation's one encoding.
    ///
    /// # Panics
    /// When an operand is 4 GiB or more, which the digit limit rules out.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(HEADER + self.left.len() + self.right.len());
        to.put_u8(VERSION);
        to.put_u8(code(self.function));
        to.put_u32(self.digits_max);
        to.put_u32(u32::try_from(self.left.len()).expect("an operand is bounded by the digit limit"));
        to.put_slice(self.left);
        to.put_slice(self.right);
        to.freeze()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. The operands are looked at when it is executed.
    ///
    /// # Errors
    /// When the bytes are no operation.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, operands) =
            bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Short { bytes: bytes.len() })?;
        let [version, function, d0, d1, d2, d3, l0, l1, l2, l3] = *header;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let function =
            Function::ALL.into_iter().find(|f| code(*f) == function).ok_or(Malformed::Function(function))?;
        let left = u32::from_be_bytes([l0, l1, l2, l3]);
        let (left, right) = usize::try_from(left)
            .ok()
            .and_then(|length| operands.split_at_checked(length))
            .ok_or(Malformed::Operand(left))?;
        Ok(Self { function, digits_max: u32::from_be_bytes([d0, d1, d2, d3]), left, right })
    }

    /// The most digits that a value may have so that an operation on any two of them is at most so long.
    #[must_use]
    pub fn digits_max(bytes: u32) -> u32 {
        // A value is a tag, the length of its numerator, and both its parts; 10^digits is below
        // 2^(3.322 * digits), so that a part has at most 3.322/8 bytes for each digit, and one.
        const FRAMES: u64 = HEADER as u64 + 2 * (1 + 4);
        let part = (u64::from(bytes).saturating_sub(FRAMES)) / 4;
        let digits = (part * 8000).saturating_sub(1) / 3322;
        u32::try_from(digits).unwrap_or(u32::MAX)
    }

    /// Computes it: the same everywhere, for it is exact arithmetic.
    #[must_use]
    pub fn execute(&self) -> Answer {
        let limits =
            Limits { digits: usize::try_from(self.digits_max).unwrap_or(usize::MAX), ..Limits::default() };
        let (Ok(left), Ok(right)) =
            (Value::from_bytes(self.left, &limits), Value::from_bytes(self.right, &limits))
        else {
            return Answer::Invalid;
        };
        match apply(self.function, &left, &right, &limits) {
            Ok(value) => Answer::Value(value.to_bytes().into()),
            Err(NodeError::DivisionByZero) => Answer::DivisionByZero,
            Err(NodeError::Overflow { .. }) => Answer::Overflow,
        }
    }
}

impl Answer {
    /// The answer's one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Value(value) => {
                let mut to = BytesMut::with_capacity(1 + value.len());
                to.put_u8(0);
                to.put_slice(value);
                to.freeze()
            }
            Self::DivisionByZero => Bytes::from_static(&[1]),
            Self::Overflow => Bytes::from_static(&[2]),
            Self::Invalid => Bytes::from_static(&[3]),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the value shares the memory of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no answer.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, Malformed> {
        match **bytes {
            [] => Err(Malformed::Short { bytes: 0 }),
            [0, ..] => Ok(Self::Value(bytes.slice(1..))),
            [1] => Ok(Self::DivisionByZero),
            [2] => Ok(Self::Overflow),
            [3] => Ok(Self::Invalid),
            [1..=3, ref rest @ ..] => Err(Malformed::Trailing(rest.len())),
            [kind, ..] => Err(Malformed::Answer(kind)),
        }
    }
}

/// The service that a replica of a function's set runs. It has no state: functions are pure.
#[derive(Clone, Copy, Debug)]
pub struct FunctionService(
    /// What it computes; operations of another function are invalid.
    pub Function,
);

impl FunctionService {
    /// The encoded answer to an encoded operation.
    #[must_use]
    pub fn answer(&self, operation: &[u8]) -> Bytes {
        match Operation::from_bytes(operation) {
            Ok(operation) if operation.function == self.0 => operation.execute(),
            _ => Answer::Invalid,
        }
        .to_bytes()
    }
}

impl Service for FunctionService {
    fn execute(&self, _: &Context, operation: &[u8], _: &mut State) -> Bytes {
        self.answer(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Vec<u8> {
        Value::parse(text, &Limits::default()).unwrap().to_bytes()
    }

    fn check(function: Function, left: &str, right: &str, expected: Answer) {
        let (left, right) = (value(left), value(right));
        let bytes = Operation { function, digits_max: 30, left: &left, right: &right }.to_bytes();
        let answer = FunctionService(function).answer(&bytes);
        assert_eq!(Answer::from_bytes(&answer).unwrap(), expected);
    }

    #[test]
    fn every_function_answers() {
        check(Function::Add, "1/3", "2/3", Answer::Value(value("1").into()));
        check(Function::Sub, "0", "5", Answer::Value(value("-5").into()));
        check(Function::Mul, "1.5", "4", Answer::Value(value("6").into()));
        check(Function::Div, "1", "3", Answer::Value(value("1/3").into()));
        check(Function::Div, "1", "0", Answer::DivisionByZero);
        check(Function::Mul, "1e20", "1e20", Answer::Overflow);
    }

    #[test]
    fn operations_on_values_of_the_most_digits_fit() {
        for bytes in [64, 65, 1000, 4096] {
            let digits = Operation::digits_max(bytes) as usize;
            // Neighbours have no common divisor.
            let largest = format!("-{0}9/{0}8", "9".repeat(digits - 1));
            let largest = value(&largest);
            let operation =
                Operation { function: Function::Add, digits_max: 1, left: &largest, right: &largest };
            let length = operation.to_bytes().len();
            let most = bytes as usize;
            assert!((most - 8..=most).contains(&length), "{digits} digits are {length} of {bytes} bytes");
        }
        assert_eq!(Operation::digits_max(0), 0);
    }

    #[test]
    fn a_service_refuses_operations_of_another_function() {
        let one = value("1");
        let bytes = Operation { function: Function::Add, digits_max: 30, left: &one, right: &one }.to_bytes();
        assert_eq!(FunctionService(Function::Mul).answer(&bytes), Answer::Invalid.to_bytes());
    }

    #[test]
    fn an_operand_that_is_not_canonical_is_invalid() {
        let one = value("1");
        let operation = Operation { function: Function::Add, digits_max: 30, left: &[9, 9], right: &one };
        assert_eq!(operation.execute(), Answer::Invalid);
    }

    #[test]
    fn the_encoding_is_frozen() {
        let (left, right) = (value("3"), value("-1/2"));
        let bytes =
            Operation { function: Function::Div, digits_max: 10_000, left: &left, right: &right }.to_bytes();
        assert_eq!(&bytes[..], [1, 3, 0, 0, 0x27, 0x10, 0, 0, 0, 2, 0, 3, 3, 0, 0, 0, 1, 1, 2]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_is_written_again(bytes: Vec<u8>) {
            if let Ok(operation) = Operation::from_bytes(&bytes) {
                prop_assert_eq!(&operation.to_bytes()[..], &bytes[..]);
            }
            let bytes = Bytes::from(bytes);
            if let Ok(answer) = Answer::from_bytes(&bytes) {
                prop_assert_eq!(answer.to_bytes(), bytes);
            }
        }
    }
}
