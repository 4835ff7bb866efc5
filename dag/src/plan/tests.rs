use super::*;

/// A plan as its operations in order, and its depth.
fn check_with(text: &str, options: PlanOptions, expect: &str, depth: usize) {
    let expression = Expression::parse(text).expect("an expression");
    let plan = expression.plan_with(&options);
    let nodes: Vec<String> = plan
        .nodes()
        .map(|node| {
            let [left, right] = plan.operands(node);
            format!("{left}{}{right}@{}", plan.function(node).symbol(), plan.position(node))
        })
        .collect();
    let found = if nodes.is_empty() { plan.root().to_string() } else { nodes.join(" ") };
    assert_eq!(found, expect, "{text}");
    assert_eq!(plan.depth(), depth, "{text}");
}

fn check(text: &str, expect: &str, depth: usize) {
    check_with(text, PlanOptions::default(), expect, depth);
}

#[test]
fn what_is_low_stays_as_it_is_written() {
    check("((3+5)*(4/2))", "3+5@3 4/2@9 n0*n1@6", 2);
    check("a+(b+c)", "b+c@4 a+n0@1", 2);
    check("(a+b)-(c-d)", "a+b@2 c-d@8 n0-n1@5", 2);
    check("x/y/z", "x/y@1 n0/z@3", 2);
    check("5", "5", 0);
    check("a", "a", 0);
}

#[test]
fn what_is_low_beside_something_deep_stays_as_it_is_written() {
    // 2^70 terms of the lowest height would be as deep: more than a word counts.
    let deep = format!("{}x{}", "2*(1+".repeat(35), ")".repeat(35));
    let expression = Expression::parse(&format!("{deep}+(a-(b-c))")).expect("an expression");
    let plan = expression.plan();
    assert_eq!(plan.depth(), 71);
    let drawn = plan.to_string();
    assert!(drawn.starts_with("n72 = n69 + n71\n├─ n69 = 2 * n68\n"), "{drawn}");
    assert!(drawn.ends_with("\n└─ n71 = a - n70\n   └─ n70 = b - c\n"), "{drawn}");
}

#[test]
fn chains_become_balanced_trees() {
    check("a+b+c+d", "a+b@1 c+d@5 n0+n1@3", 2);
    check("a-b-c-d", "a-b@1 c+d@5 n0-n1@3", 2);
    check("a-(b-(c-d))", "a-b@1 c-d@7 n0+n1@4", 2);
    check("x/y/z/w", "x/y@1 z*w@5 n0/n1@3", 2);
    check("a*b/c*d", "a*b@1 d/c@5 n0*n1@3", 2);
    // The deepest term comes last to the tree, wherever it stands.
    check("a*b*c/(d+e)+f+g+h", "d+e@8 a*b@1 n1*c@3 n2/n0@5 f+g@13 n4+h@15 n3+n5@11", 4);
}

#[test]
fn a_divisor_is_not_opened() {
    check("a/(b/(c/d))", "c/d@7 b/n0@4 a/n1@1", 3);
    check("a/(b*c)/d", "b*c@4 a/d@7 n1/n0@1", 2);
}

#[test]
fn equal_subexpressions_are_one_node() {
    check("(a+1)*(a+1)", "a+1@2 n0*n0@5", 2);
    check("(a+b)*c+(a+b)", "a+b@2 n0*c@5 n1+n0@7", 3);
    check("2*3+2*3", "2*3@1 n0+n0@3", 2);
    // A chain finds what an operation written before it made.
    check("(a+b)*x+(a+b+c+d)", "a+b@2 n0*x@5 c+d@14 n0+n2@12 n1+n3@7", 3);
    // So does an operation that was written before a chain: its place is the first of both.
    check("a+b+c+d+e*(c+d)", "c+d@5 e*n0@9 a+b@1 n2+n0@3 n3+n1@7", 3);
    let apart = PlanOptions { share: false, ..PlanOptions::default() };
    check_with("2*3+2*3", apart, "2*3@1 2*3@5 n0+n1@3", 2);
}

#[test]
fn signs_fold_into_numbers_and_sums() {
    check("-5", "-5", 0);
    check("-a", "0-a@0", 1);
    check("-(-a)", "a", 0);
    check("-(-(a+b))+c+d", "a+b@5 c+d@11 n0+n1@9", 2);
    check("2+-a", "2-a@1", 1);
    check("-a+b", "b-a@2", 1);
    check("-a-b", "0-a@0 n0-b@2", 2);
    check("-(a+b)", "0-a@0 n0-b@3", 2);
    check("c*(-a-b)", "0-a@3 n0-b@5 c*n1@1", 3);
    // Signs that cancel use nothing: the sum has one user, and is opened.
    check("-(-(a+b+c))+d", "a+b@5 c+d@11 n0+n1@7", 2);
    check("-a*b", "0-a@0 n0*b@2", 2);
    check("3--5", "3--5@1", 1);
}

#[test]
fn folding_does_what_it_can_and_leaves_what_fails() {
    let fold = PlanOptions { fold: Some(Limits::default()), ..PlanOptions::default() };
    check_with("((3+5)*(4/2))", fold, "16", 0);
    check_with("a*(1+1)", fold, "a*2@1", 1);
    check_with("1/(2-2)", fold, "1/0@1", 1);
    let short = PlanOptions { fold: Some(Limits { digits: 1, ..Limits::default() }), ..fold };
    check_with("3*3+a", short, "9+a@3", 1);
    check_with("3*4+a", short, "3*4@1 n0+a@3", 2);
}

#[test]
fn source_order_is_kept_when_asked() {
    let source = PlanOptions { reassociate: false, ..PlanOptions::default() };
    check_with("a-b-c-d", source, "a-b@1 n0-c@3 n1-d@5", 3);
    check_with("-a+b", source, "0-a@0 n0+b@2", 2);
    check_with("-(-a)", source, "a", 0);
    check_with("0-a+b*-a", source, "0-a@1 b*n0@5 n0+n1@3", 3);
}

#[test]
fn a_sum_of_n_terms_takes_log_n_rounds() {
    for terms in [1usize, 2, 3, 4, 5, 100, 1023, 1024, 1025, 4096] {
        let names: Vec<String> = (0..terms).map(|term| format!("a{term}")).collect();
        for operator in ["+", "-", "*", "/"] {
            let plan = Expression::parse(&names.join(operator)).expect("a chain").plan();
            let rounds = terms.next_power_of_two().trailing_zeros();
            assert_eq!(plan.depth(), rounds as usize, "{terms} terms of {operator}");
            assert_eq!(plan.len(), terms - 1);
            let mut places: Vec<usize> = plan.nodes().map(|node| plan.position(node)).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), terms - 1, "each operator has its node");
        }
    }
}

#[test]
fn what_is_shared_is_drawn_once() {
    let draw = |text: &str| Expression::parse(text).expect("an expression").plan().to_string();
    assert_eq!(draw("(a+b)*(a+b)"), "n1 = n0 * n0\n└─ n0 = a + b\n");
    assert_eq!(
        draw("(a+b)*c/(a+b)"),
        "\
n2 = n1 / n0
├─ n1 = n0 * c
│  └─ n0 = a + b
└─ n0 (above)
"
    );
    assert_eq!(draw("a"), "a\n");
}

#[test]
fn what_is_deep_is_drawn_with_its_depth() {
    // Alternating, so that no chain can be balanced.
    let text = format!("{}a{}", "1+(2*(".repeat(25), "))".repeat(25));
    let drawn = Expression::parse(&text).expect("an expression").plan().to_string();
    let lines: Vec<&str> = drawn.lines().collect();
    assert_eq!(lines.len(), 50);
    assert_eq!(lines[40], format!("{}└─ n9 = 1 + n8", "   ".repeat(39)));
    assert_eq!(lines[41], "[41] └─ n8 = 2 * n7");
    assert_eq!(lines[49], "[49] └─ n0 = 2 * a");
}

#[test]
fn what_needs_no_operation_is_drawn_too() {
    for text in ["5", "a"] {
        let plan = Expression::parse(text).expect("an expression").plan();
        let dot = format!("digraph plan {{\n  rankdir=BT;\n  result [label=\"{text}\"];\n}}\n");
        assert_eq!(plan.to_dot(), dot);
        assert_eq!(plan.to_mermaid(), format!("flowchart BT\n  result[\"{text}\"]\n"));
    }
}
