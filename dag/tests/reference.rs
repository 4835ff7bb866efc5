//! Every line of `reference.tsv`, which `reference.py` made with Python's exact fractions and floats.
#![cfg(feature = "arithmetic")]

use std::collections::HashMap;
use std::sync::Arc;

use quorate_dag::{Expression, ExpressionError, Limits, Parameters, Plan, PlanOptions, Value};

fn told(error: &ExpressionError) -> String {
    format!("{} {} {}", error.kind.as_str(), error.span.start, error.span.len())
}

#[test]
fn python_agrees_on_every_expression() {
    let source = PlanOptions { share: false, reassociate: false, fold: None };
    let (mut values, mut errors) = (0, 0);
    for line in include_str!("reference.tsv").lines() {
        let [text, given, exact, decimal, float] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("five columns: {line}");
        };
        let given: HashMap<&str, Value> = given
            .split(' ')
            .map(|pair| pair.split_once('=').expect("name=value"))
            .map(|(name, value)| (name, value.parse().expect("a value")))
            .collect();
        let parameters: Parameters = given.iter().map(|(name, value)| (*name, value.clone())).collect();

        let parsed = Expression::parse(text);
        let planned = parsed.as_ref().map_err(Clone::clone).and_then(|parsed| {
            let plan = Arc::new(parsed.plan()).evaluate(&parameters, &Limits::default());
            let as_written = Arc::new(parsed.plan_with(&source)).evaluate(&parameters, &Limits::default());
            assert_eq!(plan, as_written, "{text}");
            assert_eq!(plan, parsed.evaluate(&parameters), "{text}");
            plan
        });
        match planned {
            Ok(value) => {
                assert_eq!(value.to_string(), exact, "{text}");
                assert_eq!(value.to_decimal(12), decimal, "{text}");
                values += 1;
            }
            Err(error) => {
                assert_eq!(told(&error), exact, "{text}");
                errors += 1;
            }
        }
        match parsed.and_then(|parsed| parsed.evaluate_f64(|name| given.get(name).map(Value::to_f64))) {
            Ok(value) => {
                let python: f64 = float.parse().unwrap_or_else(|_| panic!("{value} is not {float}: {text}"));
                assert_eq!(value.to_bits(), python.to_bits(), "{text}");
            }
            Err(error) => assert_eq!(told(&error), float, "{text}"),
        }
    }
    assert_eq!(values + errors, 6000);
    assert!(errors > 1500, "{errors}");
}

/// Who checks a receipt plans its expression again: every plan is what it was, or has another version.
#[test]
fn plans_are_frozen_by_their_version() {
    // FNV-1a.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for line in include_str!("reference.tsv").lines() {
        let text = line.split('\t').next().expect("an expression");
        let Ok(expression) = Expression::parse(text) else { continue };
        for byte in expression.plan().to_json().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!((Plan::VERSION, hash), (1, 0x3974_84df_0a79_b25d));
}
