//! Random expressions against a naive recursive evaluator that knows nothing of plans.
#![cfg(feature = "arithmetic")]

use std::sync::Arc;

use dashu_ratio::RBig;
use proptest::prelude::*;
use quorate_dag::{
    Costs, Evaluation, Expression, ExpressionError, Limits, NodeId, Operand, Parameters, Plan, PlanOptions,
    Value,
};

/// An expression as it is generated. Operators know their place in the text once it is written.
#[derive(Clone, Debug)]
enum Tree {
    Number(&'static str, (i64, u64)),
    Parameter(usize),
    Sign(Box<Tree>),
    Binary(char, Box<Tree>, Box<Tree>, usize),
}

const NUMBERS: [(&str, (i64, u64)); 9] = [
    ("0", (0, 1)),
    ("1", (1, 1)),
    ("2", (2, 1)),
    ("007", (7, 1)),
    ("0.5", (1, 2)),
    (".25", (1, 4)),
    ("3.", (3, 1)),
    ("1e-3", (1, 1000)),
    ("1_000", (1000, 1)),
];
const PARAMETERS: [(&str, (i64, u64)); 4] =
    [("a", (2, 1)), ("größe", (1, 3)), ("_z0", (0, 1)), ("名", (-5, 2))];

fn rational((numerator, denominator): (i64, u64)) -> RBig {
    RBig::from_parts(numerator.into(), denominator.into())
}

impl Tree {
    fn binds(&self) -> u8 {
        match self {
            Self::Number(..) | Self::Parameter(_) => 4,
            Self::Sign(_) => 3,
            Self::Binary('*' | '/', ..) => 2,
            Self::Binary(..) => 1,
        }
    }

    fn write(&mut self, text: &mut String, at_least: u8) {
        let is_open = self.binds() < at_least;
        text.push_str(if is_open { "( " } else { "" });
        let binds = self.binds();
        match self {
            Self::Number(number, _) => text.push_str(number),
            Self::Parameter(index) => text.push_str(PARAMETERS[*index].0),
            Self::Sign(of) => {
                text.push('-');
                of.write(text, 3);
            }
            Self::Binary(operator, left, right, at) => {
                left.write(text, binds);
                text.push(' ');
                *at = text.len();
                text.push(*operator);
                right.write(text, binds + 1);
            }
        }
        text.push_str(if is_open { ")" } else { "" });
    }

    /// The value, or the place of the leftmost `/` that fails.
    fn value(&self) -> Result<RBig, usize> {
        match self {
            Self::Number(_, value) => Ok(rational(*value)),
            Self::Parameter(index) => Ok(rational(PARAMETERS[*index].1)),
            Self::Sign(of) => Ok(-of.value()?),
            Self::Binary(operator, left, right, at) => match (left.value(), right.value()) {
                (Err(left), Err(right)) => Err(left.min(right)),
                (Err(failed), _) | (_, Err(failed)) => Err(failed),
                (Ok(left), Ok(right)) => match operator {
                    '+' => Ok(left + right),
                    '-' => Ok(left - right),
                    '*' => Ok(left * right),
                    _ if right.is_zero() => Err(*at),
                    _ => Ok(left / right),
                },
            },
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        prop::sample::select(&NUMBERS[..]).prop_map(|(text, value)| Tree::Number(text, value)),
        (0..PARAMETERS.len()).prop_map(Tree::Parameter),
    ];
    leaf.prop_recursive(12, 200, 2, |inner| {
        let operator = prop::sample::select(vec!['+', '-', '*', '/', '/']);
        prop_oneof![
            1 => inner.clone().prop_map(|of| Tree::Sign(of.into())),
            9 => (operator, inner.clone(), inner)
                .prop_map(|(operator, left, right)| Tree::Binary(operator, left.into(), right.into(), 0)),
        ]
    })
}

fn parameters() -> Parameters {
    PARAMETERS
        .iter()
        .map(|(name, (numerator, denominator))| {
            let value = format!("{numerator}/{denominator}");
            (*name, value.parse().expect("a fraction"))
        })
        .collect()
}

fn options() -> impl Strategy<Value = PlanOptions> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(share, reassociate, fold)| PlanOptions {
        share,
        reassociate,
        fold: fold.then(Limits::default),
    })
}

/// Runs an evaluation in an order that `picks` choose, with lost and repeated answers among them.
fn evaluate_anyhow(
    plan: &Arc<Plan>,
    limits: &Limits,
    picks: &[prop::sample::Index],
) -> Result<Value, ExpressionError> {
    let mut picks = picks.iter().cycle();
    // A cycle of picks that loses every answer would have no end.
    let mut left = 2000usize;
    let mut pick = |count: usize| {
        left = left.saturating_sub(1);
        if left == 0 { count - 1 } else { picks.next().expect("a cycle has no end").index(count) }
    };
    let mut evaluation =
        Evaluation::new(Arc::clone(plan), &parameters(), &Costs::default()).expect("all are given");
    let mut in_flight: Vec<NodeId> = Vec::new();
    loop {
        while pick(3) > 0
            && let Some(node) = evaluation.start_next()
        {
            in_flight.push(node);
        }
        if in_flight.is_empty() {
            match evaluation.start_next() {
                Some(node) => in_flight.push(node),
                None => break,
            }
        }
        let node = in_flight.swap_remove(pick(in_flight.len()));
        if pick(8) == 0 {
            evaluation.lost(node).expect("it was started");
            continue;
        }
        if pick(16) == 0 {
            let snapshot = evaluation.snapshot();
            evaluation = Evaluation::restore(Arc::clone(plan), &parameters(), &Costs::default(), &snapshot)
                .expect("its own snapshot");
            in_flight.clear();
        }
        let result = evaluation.call(node).expect("it was started").apply(limits);
        for _ in 0..1 + pick(2) {
            match result.clone() {
                Ok(value) => drop(evaluation.complete(node, value).expect("it was started")),
                Err(error) => evaluation.fail(node, error).expect("it was started"),
            }
        }
    }
    evaluation.outcome().expect("nothing is left to run")
}

fn check(result: Result<Value, ExpressionError>, expected: &Result<RBig, usize>) {
    match (result, expected) {
        (Ok(value), Ok(expected)) => assert_eq!(value.to_string(), printed(expected)),
        (Err(error), Err(at)) => {
            assert_eq!(error.kind.as_str(), "division-by-zero");
            assert_eq!(error.span, *at..*at + 1);
        }
        (result, expected) => panic!("{result:?} is not {expected:?}"),
    }
}

/// Long division by ten until nothing is left, or the fraction.
fn printed(value: &RBig) -> String {
    let (numerator, denominator) = value.clone().into_parts();
    let mut rest = denominator.clone();
    for prime in [2u8, 5] {
        while (&rest % dashu_int::UBig::from(prime)).is_zero() {
            rest /= dashu_int::UBig::from(prime);
        }
    }
    if !rest.is_one() || denominator.is_one() {
        return value.to_string();
    }
    let (sign, mut magnitude) = numerator.into_parts();
    let mut text = format!("{sign:?}").replace("Positive", "").replace("Negative", "-");
    text.push_str(&(&magnitude / &denominator).to_string());
    text.push('.');
    magnitude %= &denominator;
    while !magnitude.is_zero() {
        magnitude *= dashu_int::UBig::from(10u8);
        text.push_str(&(&magnitude / &denominator).to_string());
        magnitude %= &denominator;
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_gives_what_the_source_says(mut tree in tree(), options in options()) {
        let mut text = String::new();
        tree.write(&mut text, 0);
        let expression = Expression::parse(&text).expect("it was written well");
        let plan = Arc::new(expression.plan_with(&options));
        check(plan.evaluate(&parameters(), &Limits::default()), &tree.value());
        check(expression.evaluate(&parameters()), &tree.value());
    }

    #[test]
    fn the_outcome_does_not_depend_on_the_order(
        mut tree in tree(),
        options in options(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..100),
    ) {
        let mut text = String::new();
        tree.write(&mut text, 0);
        let plan = Arc::new(Expression::parse(&text).expect("it was written well").plan_with(&options));
        check(evaluate_anyhow(&plan, &Limits::default(), &picks), &tree.value());
        // Where values are too large depends on the plan, and still not on the order.
        for digits in 1..5 {
            let limits = Limits { digits, ..Limits::default() };
            let expected = plan.evaluate(&parameters(), &limits);
            prop_assert_eq!(evaluate_anyhow(&plan, &limits, &picks), expected);
        }
    }

    #[test]
    fn every_node_is_there_for_the_result(mut tree in tree(), options in options()) {
        let mut text = String::new();
        tree.write(&mut text, 0);
        let plan = Expression::parse(&text).expect("it was written well").plan_with(&options);
        for node in plan.nodes() {
            let is_root = plan.root().node() == Some(node);
            prop_assert_eq!(plan.graph().dependants(node).is_empty(), is_root);
            let operands = plan.operands(node);
            prop_assert!(operands.iter().filter_map(Operand::node).all(|operand| operand < node));
            let position = plan.position(node);
            prop_assert!("+-*/".contains(&text[position..=position]));
        }
    }

    #[test]
    fn what_is_displayed_is_read_as_the_same(mut tree in tree()) {
        let mut text = String::new();
        tree.write(&mut text, 0);
        let expression = Expression::parse(&text).expect("it was written well");
        let displayed = expression.to_string();
        let again = Expression::parse(&displayed).expect("it was displayed");
        prop_assert_eq!(&again.to_string(), &displayed);
        prop_assert_eq!(again.plan().len(), expression.plan().len());
        let value = again.evaluate(&parameters());
        prop_assert_eq!(value.ok(), expression.evaluate(&parameters()).ok());
    }

    #[test]
    fn balanced_chains_are_no_deeper_and_no_longer(mut tree in tree()) {
        let mut text = String::new();
        tree.write(&mut text, 0);
        let expression = Expression::parse(&text).expect("it was written well");
        let source = PlanOptions { reassociate: false, ..PlanOptions::default() };
        let (plan, source) = (expression.plan(), expression.plan_with(&source));
        prop_assert!(plan.depth() <= source.depth());
        // Chains that share a part may share less of it once each is balanced: with sharing off,
        // there is nothing to lose.
        let apart = PlanOptions { share: false, ..PlanOptions::default() };
        let (apart, written) = (expression.plan_with(&apart), expression.operators());
        prop_assert!(apart.len() <= written, "{} nodes for {written} operators", apart.len());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[-+*/().0-9e_ aé名\n]{0,40}|.{0,20}") {
        if let Err(error) = Expression::parse(&text) {
            prop_assert!(error.span.end <= text.len() && error.span.start <= error.span.end);
            prop_assert!(text.is_char_boundary(error.span.start));
            prop_assert!(text.is_char_boundary(error.span.end));
            prop_assert_eq!(error.render(&text).lines().count(), 3);
        }
    }
}

fn failed_by(text: &str, fail: impl Fn(&mut Evaluation, NodeId)) -> ExpressionError {
    let plan = Arc::new(Expression::parse(text).expect("an expression").plan());
    let mut evaluation = Evaluation::new(plan, &parameters(), &Costs::default()).expect("all are given");
    while let Some(node) = evaluation.start_next() {
        fail(&mut evaluation, node);
    }
    evaluation.outcome().expect("nothing is left to run").expect_err("every node failed")
}

#[test]
fn a_worker_that_is_wrong_about_a_zero_is_believed_at_its_operator() {
    let error = failed_by("1 + 6/2 * 3/4", |evaluation, node| {
        evaluation.fail(node, quorate_dag::NodeError::DivisionByZero).expect("it was started");
    });
    assert_eq!((error.kind.as_str(), error.span), ("division-by-zero", 5..6));
}

#[test]
fn an_overflow_is_at_its_operator_and_the_leftmost_counts() {
    let error = failed_by("(1 * a) + (2 / _z0) - (3 * a)", |evaluation, node| {
        let error = quorate_dag::NodeError::Overflow { limit: 9 };
        evaluation.fail(node, error).expect("it was started");
    });
    assert_eq!((error.kind.as_str(), error.span), ("overflow", 3..4));
}

#[test]
fn a_name_without_a_value_is_named_where_it_stands_first() {
    let plan = Arc::new(Expression::parse("a + größte * größte").expect("an expression").plan());
    let error = Evaluation::new(plan, &parameters(), &Costs::default()).expect_err("unknown");
    assert_eq!(error.to_string(), "unknown parameter `größte` at bytes 4..12");
}
