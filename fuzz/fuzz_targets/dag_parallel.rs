//! A text read in parts by several threads is what it is as a whole, right or wrong. The first byte
//! says in how many parts, the second how tight the limits are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_dag::{Expression, Limits, PlanOptions};

const ROOMY: Limits = Limits { bytes: 1 << 16, nodes: 10_000, nesting: 1_000, digits: 100 };
const TIGHT: Limits = Limits { bytes: 400, nodes: 20, nesting: 5, digits: 20 };
const AS_WRITTEN: PlanOptions = PlanOptions { share: false, reassociate: false, fold: None };

fuzz_target!(|bytes: &[u8]| {
    let [parts, tight, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let limits = if tight % 2 == 1 { TIGHT } else { ROOMY };
    let whole = Expression::parse_within(text, &limits);
    let parted = Expression::parse_in_parts(text, &limits, usize::from(*parts));
    match (whole, parted) {
        (Ok(whole), Ok(parted)) => {
            assert_eq!(whole.to_string(), parted.to_string());
            assert!(whole.parameters().eq(parted.parameters()));
            let [whole, parted] = [whole, parted].map(|expression| expression.plan_with(&AS_WRITTEN));
            assert_eq!(whole.root(), parted.root());
            assert!(whole.nodes().eq(parted.nodes()));
            for node in whole.nodes() {
                assert_eq!(whole.function(node), parted.function(node));
                assert_eq!(whole.operands(node), parted.operands(node));
                assert_eq!(whole.position(node), parted.position(node));
            }
        }
        (whole, parted) => assert_eq!(whole.map(drop), parted.map(drop)),
    }
});
