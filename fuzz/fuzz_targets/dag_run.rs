//! An expression run in an order that the input chooses, with answers lost, repeated and taken over,
//! comes to what a plain stack machine over its postfix text makes of it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use quorate_dag::{
    Costs, Evaluation, Expression, Function, Limits, NodeId, Parameters, PlanOptions, Value, apply,
};

const LIMITS: Limits = Limits { bytes: 1 << 16, nodes: 1_000, nesting: 1_000, digits: 5_000 };
const NAMES: [&str; 3] = ["a", "b", "z"];

fn parameters() -> Parameters {
    let values = ["7", "-1/3", "0"].map(|value| value.parse().expect("a value"));
    NAMES.into_iter().zip(values).collect()
}

// Bytes until one is 0xff are a program for a stack machine; the rest are choices.
fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len());
    let (program, choices) = bytes.split_at(end);
    let Some((text, expect)) = program_of(&program[..program.len().min(120)]) else { return };
    let Ok(expression) = Expression::parse_within(&text, &LIMITS) else {
        panic!("{text} was written well");
    };
    let mut choices = choices.iter().copied();
    let mut pick = |below: usize| usize::from(choices.next().unwrap_or(1)) % below;
    let options = PlanOptions {
        share: pick(2) == 1,
        reassociate: pick(2) == 1,
        fold: (pick(2) == 0).then_some(LIMITS),
    };
    let plan = Arc::new(expression.plan_with(&options));
    let mut evaluation =
        Evaluation::new(Arc::clone(&plan), &parameters(), &Costs::default()).expect("all are given");
    let mut in_flight: Vec<NodeId> = Vec::new();
    loop {
        evaluation.take(1 + pick(4), &mut in_flight);
        if in_flight.is_empty() {
            break;
        }
        let node = in_flight.swap_remove(pick(in_flight.len()));
        match pick(16) {
            0 => {
                evaluation.lost(node).expect("it was started");
                continue;
            }
            2 => {
                let snapshot = evaluation.snapshot();
                let plan = Arc::clone(&plan);
                let restored = Evaluation::restore(plan, &parameters(), &Costs::default(), &snapshot);
                evaluation = restored.expect("its own snapshot");
                in_flight.clear();
            }
            _ => {}
        }
        for _ in 0..1 + pick(2) {
            match evaluation.call(node).expect("it was started").apply(&LIMITS) {
                Ok(value) => drop(evaluation.complete(node, value).expect("it was started")),
                Err(error) => evaluation.fail(node, error).expect("it was started"),
            }
        }
    }
    let outcome = evaluation.outcome().expect("nothing is left to run");
    let overflows = |result: &Result<Value, usize>| *result == Err(usize::MAX);
    match outcome {
        // Which values are too large depends on the order of a chain.
        Err(error) if error.kind.as_str() == "overflow" => {}
        _ if overflows(&expect) => {}
        Ok(value) => assert_eq!(Ok(value), expect, "{text}"),
        Err(error) => assert_eq!(Err(error.span.start), expect, "{text}"),
    }
});

/// A text in which every operation stands in parentheses, and its value, or the place of the
/// leftmost `/` that fails; `usize::MAX` when a value is too large.
fn program_of(program: &[u8]) -> Option<(String, Result<Value, usize>)> {
    let mut stack: Vec<(String, Result<Value, usize>)> = Vec::new();
    for &byte in program {
        match byte % 8 {
            operator @ 0..=3 if stack.len() >= 2 => {
                let (right, right_value) = stack.pop()?;
                let (left, left_value) = stack.pop()?;
                let function = Function::ALL[usize::from(operator)];
                let text = format!("({left}{}{right})", function.symbol());
                let (at, shift) = (1 + left.len(), 2 + left.len());
                let moved = |at: usize, by: usize| if at == usize::MAX { at } else { at + by };
                let value =
                    match (left_value.map_err(|at| moved(at, 1)), right_value.map_err(|at| moved(at, shift)))
                    {
                        (Ok(left), Ok(right)) => match apply(function, &left, &right, &LIMITS) {
                            Ok(value) => Ok(value),
                            Err(_) if right.is_zero() && function == Function::Div => Err(at),
                            Err(_) => Err(usize::MAX),
                        },
                        (Err(usize::MAX), _) | (_, Err(usize::MAX)) => Err(usize::MAX),
                        (Err(left), Err(right)) => Err(left.min(right)),
                        (Err(at), _) | (_, Err(at)) => Err(at),
                    };
                stack.push((text, value));
            }
            4 if !stack.is_empty() => {
                let (of, value) = stack.pop()?;
                let value = value.map(|value| value.negated());
                let value = value.map_err(|at| if at == usize::MAX { at } else { at + 2 });
                stack.push((format!("(-{of})"), value));
            }
            5 => {
                let name = NAMES[usize::from(byte / 8) % NAMES.len()];
                let value = parameters().value(name).cloned();
                stack.push((name.to_owned(), Ok(value?)));
            }
            _ => {
                let number = u32::from(byte / 8);
                stack.push((number.to_string(), Ok(number.into())));
            }
        }
    }
    let (text, value) = stack.pop()?;
    Some((text, value))
}
