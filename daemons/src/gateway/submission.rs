//! A request's body, from bytes to something that can be computed: refused here or nowhere.

use super::problem::{self, DIGITS, MALFORMED_BODY, MALFORMED_PARAMETER, NO_SIGNERS};
use crate::{
    api::{Problem, Submission},
    config::{Config, Replication},
    expression,
    records::Request,
};
use quorate_dag::{
    Costs, Evaluation, Expression, ExpressionError, Function, Parameters, Value, expression_field,
};
use std::sync::Arc;

/// Reads and checks a body.
pub(super) fn read(body: &[u8], config: &Config) -> Result<Request, Problem> {
    check(parse(body)?, config)
}

/// The body as it was written: JSON, or the report's own form, `"expression": ((3+5)*(4/2))`, with or
/// without braces around it.
fn parse(body: &[u8]) -> Result<Submission, Problem> {
    serde_json::from_slice(body).or_else(|error| {
        let bare = std::str::from_utf8(body).ok().and_then(bare_expression);
        bare.map(|expression| Submission { expression: expression.to_owned(), ..Submission::default() })
            .ok_or_else(|| {
                MALFORMED_BODY.with(format!(
                    "{error}; expected {{\"expression\": \"(3+5)*(4/2)\"}} with parameters, digits and \
                     receipt if wanted"
                ))
            })
    })
}

fn bare_expression(body: &str) -> Option<&str> {
    let body = body.trim();
    let body = body.strip_prefix('{').and_then(|body| body.strip_suffix('}')).unwrap_or(body);
    // Text in quotes was meant as JSON, and its error is JSON's.
    expression_field(body).filter(|expression| !expression.starts_with('"'))
}

/// Whether it can be computed at all: the text is an expression within the limits, and every name has a
/// value. A receipt is refused where nobody would sign it.
fn check(submission: Submission, config: &Config) -> Result<Request, Problem> {
    let limits = &config.limits;
    if let Some(digits) = submission.digits
        && digits > limits.digits
    {
        let detail = format!("digits is {digits}, over limits.digits ({})", limits.digits);
        return Err(DIGITS.with(detail));
    }
    let bounds = expression::limits(limits);
    let parsed =
        Expression::parse_within(&submission.expression, &bounds).map_err(|error| of_expression(&error))?;
    let mut values = Parameters::new();
    for (name, text) in &submission.parameters {
        let value = Value::parse(&text.0, &bounds)
            .map_err(|error| MALFORMED_PARAMETER.with(format!("parameter `{name:.80}`: {error}")))?;
        values.insert(name.as_str(), value);
    }
    if parsed.parameters().any(|name| values.value(name).is_none()) {
        // The plan knows where the name stands; it is made for that only when one is missing.
        Evaluation::new(Arc::new(parsed.plan()), &values, &Costs::default())
            .map_err(|error| of_expression(&error))?;
    }
    if submission.receipt {
        let plan = parsed.plan();
        let unsigned = |function: &Function| config.functions.of(*function).replication == Replication::None;
        if let Some(function) = plan.nodes().map(|node| plan.function(node)).find(unsigned) {
            return Err(NO_SIGNERS.with(format!(
                "function `{function}` has no replicas, so there is nobody to sign a receipt; ask without \
                 one, or set functions.{function}.replication to {{ f = 1 }}"
            )));
        }
    }
    Ok(Request {
        expression: submission.expression,
        parameters: submission.parameters.into_iter().map(|(name, text)| (name, text.0)).collect(),
        digits: submission.digits,
        receipt: submission.receipt,
    })
}

fn of_expression(error: &ExpressionError) -> Problem {
    problem::of_expression(&error.kind, Some([error.span.start, error.span.end]))
}
