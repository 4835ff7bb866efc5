//! What is printed is read as the same: expressions, values, and the plans of both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_dag::{Expression, Limits, Value};

const LIMITS: Limits = Limits { bytes: 1 << 16, nodes: 10_000, nesting: 1_000, digits: 100 };
/// A number may print longer than it was written.
const ROOMY: Limits = Limits { bytes: 1 << 30, ..LIMITS };

fuzz_target!(|text: &str| {
    if let Ok(value) = Value::parse(text, &LIMITS) {
        assert_eq!(Value::parse(&value.to_string(), &LIMITS).as_ref(), Ok(&value));
        assert_eq!(Value::from_bytes(&value.to_bytes(), &LIMITS).as_ref(), Ok(&value));
        // Twenty places more than it has are the value itself.
        let places = value.to_string().len() + 20;
        if !value.to_string().contains('/') {
            assert_eq!(Value::parse(&value.to_decimal(places), &ROOMY), Ok(value));
        }
    }
    let Ok(expression) = Expression::parse_within(text, &LIMITS) else { return };
    let printed = expression.to_string();
    let again = Expression::parse_within(&printed, &ROOMY).expect("it was printed");
    assert_eq!(again.to_string(), printed);
    assert!(again.parameters().eq(expression.parameters()));
    assert_eq!(again.operators(), expression.operators());
    let (plan, same) = (expression.plan(), again.plan());
    assert_eq!(plan.root(), same.root());
    assert!(plan.nodes().eq(same.nodes()));
    for node in plan.nodes() {
        assert_eq!(plan.function(node), same.function(node));
        assert_eq!(plan.operands(node), same.operands(node));
    }
});
