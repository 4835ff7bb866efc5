//! Short expressions: what a request costs before anything is sent anywhere.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use evalexpr::{ContextWithMutableVariables, HashMapContext};
use exmex::Express;
use fasteval::{Compiler, Evaler};
use quorate_dag::{Expression, Limits, Parameters};

use crate::report::{Contender, Effort, Report, Target, contender, take_turns};

const EXAMPLE: &str = "((3+5)*(4/2))";

/// Every peer reads all of them.
const MIXED: [&str; 12] = [
    EXAMPLE,
    "1+2*3-4/5",
    "a*b+c",
    "(a+b)*(a-b)",
    "0.1+0.2+0.3",
    "a/3+b/3+c/3",
    "-(a*-b)+-c",
    "((((1+2)*3)+4)*5)/6",
    "1/2+1/3+1/4+1/5+1/6",
    "a*a*a*a-b*b*b*b",
    "100*(1+0.05)*(1+0.05)*(1+0.05)",
    "(c-a)/(b+2.5)*(a+b+c)",
];
const GIVEN: [(&str, f64); 3] = [("a", 2.5), ("b", 4.0), ("c", 7.0)];

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let exact: Parameters =
        GIVEN.into_iter().map(|(name, value)| (name, value.to_string().parse().expect("a number"))).collect();
    let float = |name: &str| GIVEN.iter().find(|given| given.0 == name).map(|given| given.1);
    let floats: BTreeMap<String, f64> =
        GIVEN.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();

    let name = format!("parse `{EXAMPLE}`");
    let parsed = compare(effort, report, &name, parsers());
    let best = parsed[1..].iter().copied().fold(f64::INFINITY, f64::min);
    report.row(&name, "fastest peer ÷ quorate", best / parsed[0], "×").target(Target::AtLeast(1.0));
    let plan = vec![contender("quorate", || Expression::parse(black_box(EXAMPLE)).expect("right").plan())];
    compare(effort, report, &format!("parse and plan `{EXAMPLE}`"), plan);
    let example = &[EXAMPLE][..];
    compare(
        effort,
        report,
        &format!("parse and evaluate `{EXAMPLE}`"),
        readers(example, &exact, float, &floats),
    );

    let name = format!("parse and evaluate, mean of {} expressions", MIXED.len());
    let took = compare(effort, report, &name, readers(&MIXED, &exact, float, &floats));
    report.row(&name, "quorate, exact ÷ fasteval", took[0] / took[2], "×").target(Target::AtMost(4.0));
    let name = format!("evaluate what was parsed, mean of {} expressions", MIXED.len());
    let took = compare(effort, report, &name, evaluators(&exact, float, &floats));
    report.row(&name, "quorate, exact ÷ fasteval", took[0] / took[3], "×").target(Target::AtMost(4.0));
}

/// Nanoseconds for one expression.
fn compare(effort: &Effort, report: &mut Report, name: &str, mut contenders: Vec<Contender<'_>>) -> Vec<f64> {
    let took = take_turns(effort.samples, effort.calls, &mut contenders);
    for ((who, _), took) in contenders.iter().zip(&took) {
        report.row(name, who, *took, "ns");
    }
    took
}

fn parsers() -> Vec<Contender<'static>> {
    let fast = fasteval::Parser::new();
    let mut slab = fasteval::Slab::new();
    vec![
        contender("quorate", || Expression::parse(black_box(EXAMPLE)).expect("right")),
        contender("fasteval", move || fast.parse(black_box(EXAMPLE), &mut slab.ps).expect("right")),
        contender("evalexpr", || evalexpr::build_operator_tree(black_box(EXAMPLE)).expect("right")),
        contender("exmex", || exmex::parse::<f64>(black_box(EXAMPLE)).expect("right")),
        contender("meval", || black_box(EXAMPLE).parse::<meval::Expr>().expect("right")),
    ]
}

/// One expression after another, a call each.
fn each<'a, I: 'a, T>(of: Vec<I>, mut does: impl FnMut(&I) -> T + 'a) -> impl FnMut() -> T + 'a {
    let mut next = 0;
    move || {
        next = if next + 1 == of.len() { 0 } else { next + 1 };
        does(black_box(&of[next]))
    }
}

fn readers<'a>(
    texts: &'a [&'static str],
    exact: &'a Parameters,
    float: impl Fn(&str) -> Option<f64> + Copy + 'a,
    floats: &'a BTreeMap<String, f64>,
) -> Vec<Contender<'a>> {
    let texts = texts.to_vec();
    let fast = fasteval::Parser::new();
    let mut slab = fasteval::Slab::new();
    let mut namespace = floats.clone();
    let context = evalexpr_context();
    vec![
        contender(
            "quorate, exact",
            each(texts.clone(), move |text| {
                Expression::parse(text).expect("right").evaluate(exact).expect("a value")
            }),
        ),
        contender(
            "quorate, f64",
            each(texts.clone(), move |text| {
                Expression::parse(text).expect("right").evaluate_f64(float).expect("a value")
            }),
        ),
        contender(
            "fasteval",
            each(texts.clone(), move |text| {
                let parsed = fast.parse(text, &mut slab.ps).expect("right");
                parsed.from(&slab.ps).eval(&slab, &mut namespace).expect("a value")
            }),
        ),
        contender(
            "evalexpr",
            each(texts.clone(), move |text| evalexpr::eval_with_context(text, &context).expect("a value")),
        ),
        contender(
            "exmex",
            each(texts.clone(), move |text| {
                let parsed = exmex::parse::<f64>(text).expect("right");
                let values: Vec<f64> =
                    parsed.var_names().iter().map(|name| float(name).expect("given")).collect();
                parsed.eval(&values).expect("a value")
            }),
        ),
        contender(
            "meval",
            each(texts, move |text| meval::eval_str_with_context(text, meval_context()).expect("a value")),
        ),
    ]
}

fn evaluators<'a>(
    exact: &'a Parameters,
    float: impl Fn(&str) -> Option<f64> + Copy + 'a,
    floats: &'a BTreeMap<String, f64>,
) -> Vec<Contender<'a>> {
    let read = || MIXED.map(|text| Expression::parse(text).expect("right")).to_vec();
    let plans = read().into_iter().map(|expression| Arc::new(expression.plan())).collect::<Vec<_>>();
    let mut slab = fasteval::Slab::new();
    let mut namespace = floats.clone();
    // Compiled expressions lie in the slab one behind the other.
    let mut slabs = Vec::new();
    for text in MIXED {
        let parsed = fasteval::Parser::new().parse(text, &mut slab.ps).expect("right");
        let compiled = parsed.from(&slab.ps).compile(&slab.ps, &mut slab.cs);
        slabs.push((compiled, std::mem::take(&mut slab)));
    }
    let context = evalexpr_context();
    let trees = MIXED.map(|text| evalexpr::build_operator_tree(text).expect("right"));
    let flats = MIXED.map(|text| {
        let flat = exmex::parse::<f64>(text).expect("right");
        let values: Vec<f64> = flat.var_names().iter().map(|name| float(name).expect("given")).collect();
        (flat, values)
    });
    let limits = Limits::default();
    vec![
        contender(
            "quorate, exact",
            each(read(), move |expression| expression.evaluate(exact).expect("a value")),
        ),
        contender(
            "quorate, exact, by its plan",
            each(plans, move |plan| plan.evaluate(exact, &limits).expect("a value")),
        ),
        contender(
            "quorate, f64",
            each(read(), move |expression| expression.evaluate_f64(float).expect("a value")),
        ),
        contender(
            "fasteval, compiled",
            each(slabs, move |(compiled, slab)| compiled.eval(slab, &mut namespace).expect("a value")),
        ),
        contender(
            "evalexpr",
            each(trees.to_vec(), move |tree| tree.eval_with_context(&context).expect("a value")),
        ),
        contender("exmex", each(flats.to_vec(), |(flat, values)| flat.eval(values).expect("a value"))),
    ]
}

fn evalexpr_context() -> HashMapContext {
    let mut context = HashMapContext::new();
    for (name, value) in GIVEN {
        context.set_value(name.into(), evalexpr::Value::Float(value)).expect("a new name");
    }
    context
}

fn meval_context() -> impl meval::ContextProvider {
    GIVEN
}
