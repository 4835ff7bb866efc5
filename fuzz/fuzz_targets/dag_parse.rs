//! Any text is parsed or refused with a span that lies in it, and what is displayed reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_dag::{Expression, Limits, Value, expression_field};

/// Small enough that a displayed number cannot be much longer than the text.
const LIMITS: Limits = Limits { bytes: 1 << 16, nodes: 10_000, nesting: 1_000, digits: 100 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(field) = expression_field(text) {
        assert!(text.contains(field));
    }
    if let Ok(value) = Value::parse(text, &LIMITS) {
        assert_eq!(Value::parse(&value.to_string(), &LIMITS).as_ref(), Ok(&value));
        assert_eq!(Value::from_bytes(&value.to_bytes(), &LIMITS).as_ref(), Ok(&value));
    }
    if let Ok(value) = Value::from_bytes(bytes, &LIMITS) {
        assert_eq!(value.to_bytes(), bytes);
    }
    match Expression::parse_within(text, &LIMITS) {
        Err(error) => {
            assert!(text.get(error.span.clone()).is_some(), "{error}");
            assert_eq!(error.render(text).lines().count(), 3);
        }
        Ok(expression) => {
            let displayed = expression.to_string();
            let roomy = Limits { bytes: 1 << 30, ..LIMITS };
            let again = Expression::parse_within(&displayed, &roomy).expect("it was displayed");
            assert_eq!(again.to_string(), displayed);
            let (plan, same) = (expression.plan(), again.plan());
            assert_eq!(plan.len(), same.len());
            for node in plan.nodes() {
                assert_eq!(plan.function(node), same.function(node));
                assert_eq!(plan.operands(node), same.operands(node));
            }
        }
    }
});
