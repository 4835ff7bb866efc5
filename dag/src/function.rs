//! The four built-in functions and what can go wrong in one of them.

use std::fmt;
use std::str::FromStr;

use crate::graph::FunctionId;

/// One operation of two operands that a node runs.
///
/// ```
/// use quorate_dag::{Function, Limits, Value, apply};
///
/// let div: Function = "div".parse()?;
/// let third = apply(div, &Value::from(1), &Value::from(3), &Limits::default())?;
/// assert_eq!(third.to_string(), "1/3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Function {
    /// `left + right`
    Add,
    /// `left - right`
    Sub,
    /// `left * right`
    Mul,
    /// `left / right`
    Div,
}

impl Function {
    /// Every function, in the order of their ids.
    pub const ALL: [Self; 4] = [Self::Add, Self::Sub, Self::Mul, Self::Div];

    /// The name the platform knows the function by: `add`, `sub`, `mul` or `div`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
        }
    }

    /// The same, in the platform's words.
    pub const fn name(self) -> &'static str {
        self.as_str()
    }

    /// The function of that name, when it is one of the four.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// The operator it is written as.
    pub const fn symbol(self) -> char {
        match self {
            Self::Add => '+',
            Self::Sub => '-',
            Self::Mul => '*',
            Self::Div => '/',
        }
    }

    /// Its number in a [`Graph`](crate::Graph) and in [`Costs`](crate::Costs).
    pub const fn id(self) -> FunctionId {
        FunctionId(self as u16)
    }

    /// The function of that number, when it is one of the four.
    pub fn from_id(id: FunctionId) -> Option<Self> {
        Self::ALL.get(usize::from(id.0)).copied()
    }

    pub(crate) const fn is_sum(self) -> bool {
        matches!(self, Self::Add | Self::Sub)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Function {
    type Err = UnknownFunction;

    fn from_str(name: &str) -> Result<Self, UnknownFunction> {
        Self::ALL.into_iter().find(|function| function.as_str() == name).ok_or(UnknownFunction)
    }
}

/// The name is none of the built-in functions'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown function: expected add, sub, mul or div")]
pub struct UnknownFunction;

/// Why one node has no value. [`Evaluation`](crate::Evaluation) turns it into an
/// [`ExpressionError`](crate::ExpressionError) that points at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NodeError {
    /// The right operand of `div` is zero.
    #[error("division by zero")]
    DivisionByZero,
    /// The result has more digits than [`Limits::digits`](crate::Limits::digits).
    #[error("the result has more than {limit} digits")]
    Overflow {
        /// The limit in force.
        limit: usize,
    },
}

impl NodeError {
    /// `division-by-zero` or `overflow`, as in the error of the whole expression.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::DivisionByZero => "division-by-zero",
            Self::Overflow { .. } => "overflow",
        }
    }
}
