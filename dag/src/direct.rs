//! An expression computed from its syntax tree as it stands, without a plan.

use crate::error::{ErrorKind, ExpressionError};
use crate::evaluate::Parameters;
use crate::expression::{Expression, ItemKind};
use crate::function::Function;
use crate::number::{Small, Value};

/// Operands that wait at once, at the most; a longer expression is planned.
const DEPTH: usize = 16;

/// So few numbers of at most 19 digits, above and below, make none of 10,000 digits: no order of
/// computing them overflows.
const ITEMS: usize = 256;

impl Expression {
    /// The value, if machine integers hold all that is computed on the way. Then every plan of this
    /// expression has it, too.
    pub(crate) fn small_value(&self, parameters: &Parameters) -> Option<Value> {
        if self.items.len() > ITEMS {
            return None;
        }
        let mut stack = [Small::ZERO; DEPTH];
        let mut depth = 0;
        for item in &self.items {
            let operand = match item.kind() {
                ItemKind::Small(value) => Small::integer(value.into()),
                ItemKind::Literal(index) => self.literals[index as usize].small()?,
                ItemKind::Parameter(index) => parameters.value(&self.names[index as usize].name)?.small()?,
                ItemKind::Negate => {
                    depth -= 1;
                    stack[depth].negated()?
                }
                ItemKind::Binary(function) => {
                    depth -= 2;
                    let (left, right) = (stack[depth], stack[depth + 1]);
                    if function == Function::Div && right == Small::ZERO {
                        return None;
                    }
                    Small::apply(function, left, right)?
                }
            };
            *stack.get_mut(depth)? = operand;
            depth += 1;
        }
        Some(Value::from(stack[0]))
    }

    /// Computes it with 64-bit floating point in place of exact numbers: each number and each result
    /// is rounded to the nearest (IEEE 754, ties to even), in the order of the source, so that the
    /// result is the same everywhere. `parameter` gives the value of a name.
    ///
    /// ```
    /// use quorate_dag::Expression;
    ///
    /// let expression = Expression::parse("0.1 + 0.2 + a")?;
    /// assert_eq!(expression.evaluate_f64(|name| (name == "a").then_some(1.0))?, 1.3);
    /// assert_eq!(Expression::parse("0.1 + 0.2")?.evaluate_f64(|_| None)?, 0.30000000000000004);
    ///
    /// let error = Expression::parse("1 + 1e300 * 1e300")?.evaluate_f64(|_| None).unwrap_err();
    /// assert_eq!((error.kind.as_str(), error.span), ("not-finite", 10..11));
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    ///
    /// # Errors
    /// A parameter without a value, a division by zero, or a number, a parameter or a result that is
    /// infinite or no number at all: of several, the one that stands first in the source.
    pub fn evaluate_f64(&self, parameter: impl Fn(&str) -> Option<f64>) -> Result<f64, ExpressionError> {
        let mut parameters = Vec::with_capacity(self.names.len());
        for name in &self.names {
            parameters.push(parameter(&name.name).ok_or_else(|| name.unknown())?);
        }
        // What failed has no value, nor has what is computed from it.
        let mut stack: Vec<Option<f64>> = Vec::with_capacity(DEPTH);
        let mut first: Option<ExpressionError> = None;
        for item in &self.items {
            let mut len = 1;
            let result = match item.kind() {
                ItemKind::Small(value) => Some(Ok(value.into())),
                ItemKind::Literal(index) => Some(Ok(self.literals[index as usize].to_f64())),
                ItemKind::Parameter(index) => {
                    len = self.names[index as usize].name.len();
                    Some(Ok(parameters[index as usize]))
                }
                ItemKind::Negate => stack.pop().expect("a sign follows its operand").map(|of| Ok(-of)),
                ItemKind::Binary(function) => {
                    let right = stack.pop().expect("an operator follows its operands");
                    let left = stack.pop().expect("an operator follows its operands");
                    left.zip(right).map(|(left, right)| match function {
                        Function::Add => Ok(left + right),
                        Function::Sub => Ok(left - right),
                        Function::Mul => Ok(left * right),
                        Function::Div if right == 0.0 => Err(ErrorKind::DivisionByZero),
                        Function::Div => Ok(left / right),
                    })
                }
            };
            let result = result.map(|result| match result {
                Ok(value) if !value.is_finite() => Err(ErrorKind::NotFinite),
                result => result,
            });
            stack.push(match result {
                None => None,
                Some(Ok(value)) => Some(value),
                Some(Err(kind)) => {
                    let at = item.at as usize;
                    if first.as_ref().is_none_or(|first| at < first.span.start) {
                        first = Some(ExpressionError::new(kind, at..at + len));
                    }
                    None
                }
            });
        }
        first.map_or_else(|| Ok(stack.pop().flatten().expect("what did not fail has a value")), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value, or its error as `kind start..end`.
    fn check(text: &str, expect: &str) {
        let given = |name: &str| match name {
            "a" => Some(2.0),
            "größe" => Some(-0.75),
            "huge" => Some(1e300),
            "inf" => Some(f64::INFINITY),
            "nan" => Some(f64::NAN),
            _ => None,
        };
        let expression = Expression::parse(text).expect("an expression");
        let found = match expression.evaluate_f64(given) {
            Ok(value) => format!("{value:?}"),
            Err(error) => format!("{} {}..{}", error.kind.as_str(), error.span.start, error.span.end),
        };
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn floats_are_computed_in_the_order_of_the_source() {
        check("0.1+0.2", "0.30000000000000004");
        check("0.1+0.2+0.3", "0.6000000000000001"); // (0.1 + 0.2) + 0.3; the other way it is 0.6
        check("0.3+(0.2+0.1)", "0.6000000000000001");
        check("0.1+(0.2+0.3)", "0.6");
        check("1e16+1+1", "1e16"); // 1e16 + (1 + 1) would be 1e16 + 2
        check("1/3", "0.3333333333333333");
        check("2*a-größe/-3", "3.75");
        check("-0", "-0.0");
        check("9007199254740993", "9007199254740992.0");
        check("1e-400", "0.0");
    }

    #[test]
    fn what_is_not_finite_is_an_error_where_it_first_arises() {
        check("1/0", "division-by-zero 1..2");
        check("0/0", "division-by-zero 1..2");
        check("1/(a-2)*(3/0)", "division-by-zero 1..2");
        check("größe/(a-2)", "division-by-zero 7..8");
        check("1/1e-400", "division-by-zero 1..2");
        check("größe + huge*huge", "not-finite 14..15");
        check("(huge*huge)/0", "not-finite 5..6");
        check("1/0 + huge*huge", "division-by-zero 1..2");
        check("huge*huge - huge*huge", "not-finite 4..5");
        check("1 + 1e309", "not-finite 4..5");
        check("größe * inf", "not-finite 10..13");
        check("nan - nan", "not-finite 0..3");
        check("größe + b * 1e309", "unknown-parameter 10..11");
    }

    #[test]
    fn a_small_value_is_the_plans() {
        let parameters = Parameters::new().with("a", 7.into());
        let small = |text: &str| {
            let expression = Expression::parse(text).expect("an expression");
            expression.small_value(&parameters).map(|value| value.to_string())
        };
        assert_eq!(small("((3+5)*(4/2))").as_deref(), Some("16"));
        assert_eq!(small("-a/3*0.5").as_deref(), Some("-7/6"));
        assert_eq!(small("1/(a-7)"), None);
        assert_eq!(small("b"), None);
        assert_eq!(small("9999999999999*9999999999999"), None);
        assert_eq!(small(&format!("{}1{}", "1+(2*(".repeat(8), "))".repeat(8))), None);
        assert_eq!(small(&format!("1{}", "+1".repeat(127))).as_deref(), Some("128"));
        assert_eq!(small(&format!("1{}", "+1".repeat(128))), None);
    }
}
