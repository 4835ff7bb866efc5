//! The syntax tree, flat.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{ErrorKind, ExpressionError};
use crate::evaluate::Parameters;
use crate::function::Function;
use crate::limits::Limits;
use crate::number::Value;
use crate::plan::{Plan, PlanOptions};

/// An expression that was read: numbers, names, signs and the four operators.
///
/// It is one flat array in postfix order, so that neither reading it nor dropping it recurses,
/// however deep it is. Displayed, it has the parentheses it needs and no others.
///
/// ```
/// use quorate_dag::{Expression, Parameters};
///
/// let expression = Expression::parse("(a) * (b + 1) - - 2")?;
/// assert_eq!(expression.to_string(), "a * (b + 1) - -2");
/// assert_eq!(expression.parameters().collect::<Vec<_>>(), ["a", "b"]);
///
/// let parameters = Parameters::new().with("a", 2.into()).with("b", "1/3".parse()?);
/// assert_eq!(expression.evaluate(&parameters)?.to_string(), "14/3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Expression {
    /// Operands before operators; the root is last.
    pub(crate) items: Vec<Item>,
    pub(crate) literals: Vec<Value>,
    pub(crate) names: Vec<Name>,
    /// The length of the text.
    pub(crate) bytes: usize,
}

/// A number, a name or an operator, in 8 bytes. It knows no other item's place, so that items which
/// were read apart can be put one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// 2 bits that say what, 30 that say which.
    word: u32,
    /// The byte where it starts.
    pub(crate) at: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// An integer of at most nine digits.
    Small(u32),
    /// Index into the literals.
    Literal(u32),
    /// Index into the names.
    Parameter(u32),
    /// Of the item before it.
    Negate,
    /// Of the item before it and the one that ends before that one begins.
    Binary(Function),
}

impl Name {
    pub(crate) fn unknown(&self) -> ExpressionError {
        let at = self.at as usize;
        let kind = ErrorKind::UnknownParameter { name: self.name.to_string() };
        ExpressionError::new(kind, at..at + self.name.len())
    }
}

impl Item {
    const SHIFT: u32 = 30;
    const WHICH: u32 = (1 << Self::SHIFT) - 1;

    #[inline]
    pub(crate) fn new(kind: ItemKind, at: u32) -> Self {
        let (tag, which) = match kind {
            ItemKind::Small(value) => (0, value),
            ItemKind::Literal(index) => (1, index),
            ItemKind::Parameter(index) => (2, index),
            ItemKind::Binary(function) => (3, function as u32),
            ItemKind::Negate => (3, Self::NEGATE),
        };
        debug_assert!(which <= Self::WHICH);
        Self { word: tag << Self::SHIFT | which, at }
    }

    /// Behind the four functions.
    const NEGATE: u32 = 4;

    #[inline]
    pub(crate) fn kind(self) -> ItemKind {
        let which = self.word & Self::WHICH;
        match self.word >> Self::SHIFT {
            0 => ItemKind::Small(which),
            1 => ItemKind::Literal(which),
            2 => ItemKind::Parameter(which),
            _ => match Function::ALL.get(which as usize) {
                Some(function) => ItemKind::Binary(*function),
                None => ItemKind::Negate,
            },
        }
    }
}

/// A parameter and the byte of its first use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) name: Box<str>,
    pub(crate) at: u32,
}

/// A shorter text is read sooner than threads are woken.
#[cfg(feature = "parallel")]
const PARALLEL_BYTES: usize = 64 << 10;

impl Expression {
    /// Reads an expression within the default [`Limits`].
    ///
    /// # Errors
    /// The first thing wrong with the text, from the left.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        Self::parse_within(text, &Limits::default())
    }

    /// Reads an expression.
    ///
    /// # Errors
    /// The first thing wrong with the text, from the left.
    pub fn parse_within(text: &str, limits: &Limits) -> Result<Self, ExpressionError> {
        crate::parse::parse(text, limits)
    }

    /// Reads an expression with the threads of the current rayon pool, when it is over 64 KiB: about
    /// as many times sooner. The result and the error are those of [`Expression::parse_within`].
    ///
    /// ```
    /// use quorate_dag::{Expression, Limits};
    ///
    /// let text = format!("1{}", " * (2 + 3)".repeat(20_000));
    /// let expression = Expression::parse_parallel(&text, &Limits::default())?;
    /// assert_eq!(expression.operators(), 40_000);
    ///
    /// let wrong = text.replacen("3)", "3))", 1);
    /// let error = Expression::parse_parallel(&wrong, &Limits::default()).unwrap_err();
    /// assert_eq!(error, Expression::parse(&wrong).unwrap_err());
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    ///
    /// # Errors
    /// The first thing wrong with the text, from the left.
    #[cfg(feature = "parallel")]
    pub fn parse_parallel(text: &str, limits: &Limits) -> Result<Self, ExpressionError> {
        let parts = if text.len() > PARALLEL_BYTES { rayon::current_num_threads() } else { 1 };
        Self::parse_in_parts(text, limits, parts)
    }

    /// Reads an expression in about so many parts, however long it is, each as a job of the current
    /// rayon pool; see [`Expression::parse_parallel`].
    ///
    /// # Errors
    /// The first thing wrong with the text, from the left.
    #[cfg(feature = "parallel")]
    pub fn parse_in_parts(text: &str, limits: &Limits, parts: usize) -> Result<Self, ExpressionError> {
        crate::parse::parse_in_parts(text, limits, parts)
    }

    /// The names of its parameters, in the order of their first use.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &*name.name)
    }

    /// How many operators it is written with, signs included (a pair of signs cancels).
    pub fn operators(&self) -> usize {
        let is_operator = |item: &&Item| matches!(item.kind(), ItemKind::Negate | ItemKind::Binary(_));
        self.items.iter().filter(is_operator).count()
    }

    /// The length of the text that it was read from.
    pub fn text_len(&self) -> usize {
        self.bytes
    }

    /// The graph of operations, with the default options.
    pub fn plan(&self) -> Plan {
        self.plan_with(&PlanOptions::default())
    }

    /// The graph of operations.
    pub fn plan_with(&self, options: &PlanOptions) -> Plan {
        Plan::new(self, options)
    }

    /// Computes it here and now, with the value that its plan has, within the default [`Limits`].
    ///
    /// # Errors
    /// A parameter without a value, a division by zero, or a value with too many digits.
    pub fn evaluate(&self, parameters: &Parameters) -> Result<Value, ExpressionError> {
        if let Some(value) = self.small_value(parameters) {
            return Ok(value);
        }
        let plan = Arc::new(self.plan());
        plan.evaluate(parameters, &Limits::default())
    }

    fn binds(&self, item: usize) -> u8 {
        match self.items[item].kind() {
            ItemKind::Binary(function) if function.is_sum() => 1,
            ItemKind::Binary(_) => 2,
            _ => 3,
        }
    }

    /// For each binary operator, the item of its left operand; its right one is the item before it.
    fn left_operands(&self) -> Vec<usize> {
        let mut left_of = vec![0; self.items.len()];
        let mut operands = Vec::new();
        for (at, item) in self.items.iter().enumerate() {
            match item.kind() {
                ItemKind::Negate => _ = operands.pop(),
                ItemKind::Binary(_) => {
                    operands.pop();
                    left_of[at] = operands.pop().expect("an operator follows its operands");
                }
                _ => {}
            }
            operands.push(at);
        }
        left_of
    }
}

/// Within the default [`Limits`].
impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Self::parse(text)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What is still to be written, last first.
        enum Step {
            Item(usize),
            Text(&'static str),
        }
        /// An operand that binds less than its place asks for stands in parentheses.
        fn operand(steps: &mut Vec<Step>, item: usize, is_bare: bool) {
            if is_bare {
                steps.push(Step::Item(item));
            } else {
                steps.extend([Step::Text(")"), Step::Item(item), Step::Text("(")]);
            }
        }
        let left_of = self.left_operands();
        let mut steps = vec![Step::Item(self.items.len() - 1)];
        while let Some(step) = steps.pop() {
            let item = match step {
                Step::Text(text) => {
                    f.write_str(text)?;
                    continue;
                }
                Step::Item(item) => item,
            };
            match self.items[item].kind() {
                ItemKind::Small(value) => write!(f, "{value}")?,
                ItemKind::Literal(index) => write!(f, "{}", self.literals[index as usize])?,
                ItemKind::Parameter(index) => f.write_str(&self.names[index as usize].name)?,
                ItemKind::Negate => {
                    // A sign right behind a sign would cancel it.
                    let of = item - 1;
                    let is_sign = self.items[of].kind() == ItemKind::Negate;
                    f.write_str("-")?;
                    operand(&mut steps, of, self.binds(of) == 3 && !is_sign);
                }
                ItemKind::Binary(function) => {
                    let (left, right) = (left_of[item], item - 1);
                    let binds = self.binds(item);
                    operand(&mut steps, right, self.binds(right) > binds);
                    steps.push(Step::Text(match function {
                        Function::Add => " + ",
                        Function::Sub => " - ",
                        Function::Mul => " * ",
                        Function::Div => " / ",
                    }));
                    operand(&mut steps, left, self.binds(left) >= binds);
                }
            }
        }
        Ok(())
    }
}
