//! Any text or bytes are read or refused with a span that lies in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_dag::{Expression, Limits, Value, expression_field};

const LIMITS: Limits = Limits { bytes: 1 << 16, nodes: 10_000, nesting: 1_000, digits: 100 };

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::from_bytes(bytes, &LIMITS) {
        assert_eq!(value.to_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(field) = expression_field(text) {
        assert!(text.contains(field));
    }
    if let Err(error) = Value::parse(text, &LIMITS) {
        assert!(text.get(error.span()).is_some(), "{error}");
    }
    match Expression::parse_within(text, &LIMITS) {
        Err(error) => {
            assert!(text.get(error.span.clone()).is_some(), "{error}");
            assert_eq!(error.render(text).lines().count(), 3);
        }
        Ok(expression) => {
            assert_eq!(expression.text_len(), text.len());
            assert!(expression.operators() <= LIMITS.nodes);
            let plan = expression.plan();
            assert!(plan.len() <= expression.operators());
        }
    }
});
