//! Every line of `reference.tsv`, which `reference.py` made with Python's exact fractions.
#![cfg(feature = "arithmetic")]

use quorate_dag::{Expression, Parameters};

#[test]
fn python_agrees_on_every_expression() {
    let parameters: Parameters = [("a", "2"), ("b", "1/3"), ("größe", "-7/4"), ("z", "0")]
        .into_iter()
        .map(|(name, value)| (name, value.parse().expect("a value")))
        .collect();
    let table = include_str!("reference.tsv");
    let mut compared = 0;
    for line in table.lines() {
        let [text, expect, decimal] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("three columns: {line}");
        };
        let expression = Expression::parse(text).expect("Python wrote it well");
        match expression.evaluate(&parameters) {
            Ok(value) => {
                assert_eq!(value.to_string(), expect, "{text}");
                assert_eq!(value.to_decimal(12), decimal, "{text}");
            }
            Err(error) => {
                assert_eq!(error.kind.as_str(), "division-by-zero", "{text}");
                assert_eq!(format!("/{}", error.span.start), expect, "{text}");
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 1500);
}
