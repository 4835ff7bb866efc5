//! A megabyte of expression: balanced parentheses, numbers of three digits, four operators.

use std::hint::black_box;

use quorate_dag::{Expression, Limits};

use crate::report::{Effort, Report, Target, contender, median, processor_ns, take_turns, wall_ns};

/// Leaves of the tree, six bytes of text for each.
const LEAVES: usize = 174_000;

/// Marsaglia's xorshift64: the same text in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("48 bits fit a usize") % bound
    }
}

/// Recurses as deep as the tree is high, which is ⌈log₂ leaves⌉.
pub(crate) fn balanced(out: &mut String, leaves: usize, random: &mut Random) {
    if leaves == 1 {
        out.push_str(&(100 + random.below(900)).to_string());
        return;
    }
    out.push('(');
    balanced(out, leaves / 2, random);
    out.push(['+', '-', '*', '/'][random.below(4)]);
    balanced(out, leaves - leaves / 2, random);
    out.push(')');
}

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let mut text = String::new();
    balanced(&mut text, LEAVES, &mut Random::new());
    let megabytes = text.len() as f64 / 1e6;
    let rate = |ns: f64| megabytes / ns * 1e9;
    let limits = Limits::default();

    let tree = format!("{megabytes:.2} MB to the syntax tree");
    let mut own = [
        contender("quorate", || Expression::parse(black_box(&text)).expect("right")),
        contender("quorate, and the plan", || Expression::parse(black_box(&text)).expect("right").plan()),
    ];
    let took = take_turns(effort.samples, 1, &mut own);
    report.row(&tree, "quorate", rate(took[0]), "MB/s").target(Target::AtLeast(150.0));

    // A peer needs a deep stack for it, if it takes it at all.
    const SLOW: &str = "exmex"; // 50 s
    let peers: [(&str, fn(&str) -> bool); 4] = [
        ("fasteval", |text| {
            let parser = fasteval::Parser { expr_len_limit: usize::MAX, expr_depth_limit: usize::MAX };
            let mut slab = fasteval::Slab::with_capacity(4 * LEAVES);
            parser.parse(text, &mut slab.ps).is_ok()
        }),
        ("evalexpr", |text| evalexpr::build_operator_tree(text).is_ok()),
        (SLOW, |text| exmex::parse::<f64>(text).is_ok()),
        ("meval", |text| text.parse::<meval::Expr>().is_ok()),
    ];
    for (who, parse) in peers.into_iter().filter(|peer| effort.slow_peers || peer.0 != SLOW) {
        match on_a_deep_stack(&text, parse) {
            Some(ns) => _ = report.row(&tree, who, rate(ns), "MB/s"),
            None => _ = report.row(&tree, &format!("{who}: refuses it"), 0.0, "MB/s"),
        }
    }

    let plan = format!("{megabytes:.2} MB to the plan");
    report.row(&plan, "quorate", rate(took[1]), "MB/s").target(Target::AtLeast(50.0));

    // Wall-clock, one after the other in turns; both processors must be there for it.
    let threads = rayon::current_num_threads();
    let (mut alone, mut together, mut planned) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.samples {
        alone.push(wall_ns(3, || Expression::parse(black_box(&text)).expect("right")));
        together.push(wall_ns(3, || Expression::parse_parallel(black_box(&text), &limits).expect("right")));
        planned.push(wall_ns(3, || {
            Expression::parse_parallel(black_box(&text), &limits).expect("right").plan()
        }));
    }
    let [alone, together, planned] = [alone, together, planned].map(median);
    report.row(&tree, &format!("quorate, {threads} threads"), rate(together), "MB/s");
    report
        .row(&tree, &format!("{threads} threads ÷ one"), alone / together, "×")
        .target(Target::AtLeast(1.7));
    report.row(&plan, &format!("quorate, {threads} threads for the tree"), rate(planned), "MB/s");
}

/// One call, some of which take a minute; the median of three more when it is short. `None` when the
/// text is refused.
fn on_a_deep_stack(text: &str, parse: fn(&str) -> bool) -> Option<f64> {
    std::thread::scope(|scope| {
        let measured = std::thread::Builder::new().stack_size(1 << 30).spawn_scoped(scope, || {
            let start = processor_ns();
            let is_read = parse(text);
            let took = processor_ns() - start;
            if !is_read || took > 1e9 {
                return is_read.then_some(took);
            }
            let mut contenders = [contender("peer", || parse(black_box(text)))];
            Some(take_turns(3, 1, &mut contenders)[0])
        });
        measured.expect("a thread can be started").join().expect("a peer does not panic")
    })
}
