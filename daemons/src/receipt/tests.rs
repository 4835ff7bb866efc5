//! Receipts that real replicas' keys have signed, and every way to change one.

use super::*;
use quorate_dag::{Costs, Evaluation};
use quorate_pbft::{
    crypto::{Domain, Kind},
    group::{ClientId, Incarnation, Sequence, Timestamp},
    history::History,
    message::{Ending, Leaf},
    receipt::Signers,
};
use serde_json::Value as Json;
use std::sync::{Arc, LazyLock};

/// Digits that values may have in these tests.
const DIGITS_MAX: u32 = 100;

/// The replicas of one set.
struct Set {
    name: &'static str,
    signers: Signers,
}

impl Set {
    fn new(name: &'static str, seed: u8) -> Self {
        Self { name, signers: Signers::new(seed) }
    }

    fn chain(&self) -> Bytes {
        Chain::new(self.signers.configuration.clone()).to_bytes()
    }

    /// What three replicas sign after executing an operation as the first of their history.
    fn sign(&self, operation: &[u8], answer: &[u8]) -> Vec<u8> {
        let scope = self.signers.configuration.scope();
        let leaf = Leaf {
            sequence: Sequence(1),
            client: ClientId(0),
            incarnation: Incarnation(1),
            timestamp: Timestamp(1),
            ending: Ending::Done,
            operation: scope.digest(Domain::new(Kind::Operation, 0), &[operation]),
            result: scope.digest(Domain::new(Kind::Outcome, 0), &[answer]),
        };
        let mut history = History::new(scope);
        let position = history.append(leaf.digest(&scope));
        self.signers.receipt((position, leaf), &history, Sequence(1), &[0, 1, 3]).to_bytes()
    }
}

static SETS: LazyLock<[Set; 3]> =
    LazyLock::new(|| [Set::new("add-0", 1), Set::new("mul-0", 2), Set::new("div-0", 3)]);

fn set_of(function: Function) -> &'static Set {
    match function {
        Function::Add | Function::Sub => &SETS[0],
        Function::Mul => &SETS[1],
        Function::Div => &SETS[2],
    }
}

fn keys() -> Keys {
    let hex =
        |set: &Set| set.signers.configuration.replicas.iter().map(|key| hex::encode(&key.to_der())).collect();
    Keys { sets: SETS.iter().map(|set| (set.name.to_owned(), hex(set))).collect() }
}

/// The receipt of an expression that was computed here and signed by the sets.
fn receipt(expression: &str, parameters: &[(&str, &str)], digits: Option<u32>) -> ExpressionReceipt {
    let limits = limits(DIGITS_MAX);
    let request = Request {
        expression: expression.into(),
        parameters: parameters.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect(),
        digits,
        receipt: true,
    };
    let values: Parameters = parameters
        .iter()
        .map(|(name, text)| (*name, Value::parse(text, &limits).expect("a number")))
        .collect();
    let plan = Arc::new(Expression::parse(expression).expect("an expression").plan());
    let mut run = Evaluation::new(Arc::clone(&plan), &values, &Costs::default()).expect("all is named");
    let mut proofs = BTreeMap::new();
    while let Some(node) = run.start_next() {
        let call = run.call(node).expect("it was started");
        let value = call.apply(&limits).expect("a value");
        let (left, right) = (call.left.to_bytes(), call.right.to_bytes());
        let operation =
            Operation { function: call.function, digits_max: DIGITS_MAX, left: &left, right: &right };
        let answer = Answer::Value(value.to_bytes().into());
        let set = set_of(call.function);
        let receipt = set.sign(&operation.to_bytes(), &answer.to_bytes());
        proofs.insert(node.get(), (value.clone(), set, set.chain(), receipt));
        run.complete(node, value).expect("it was started");
    }
    let result = run.outcome().expect("it is done").expect("a result");
    let result = digits.map_or_else(|| result.to_string(), |digits| result.to_decimal(digits as usize));
    ExpressionReceipt::assemble(&request, &plan, DIGITS_MAX, &result, |node| {
        let (value, set, chain, receipt) = proofs.get(&node.get())?;
        Some(Evidence { value, set: set.name, chain, receipt })
    })
    .expect("every operation is signed")
}

fn example() -> ExpressionReceipt {
    receipt("a*(b+1)/4 + (b+1)", &[("a", "2"), ("b", "1/3"), ("unused", "7")], Some(6))
}

#[test]
fn a_receipt_verifies_after_travelling() {
    let sent = example();
    let read = ExpressionReceipt::from_json(&sent.to_json()).expect("reads");
    assert_eq!(read, sent);
    let verified = read.verify(Some(&keys())).expect("proves");
    assert_eq!((verified.result.as_str(), verified.operations, verified.trusted), ("2.000000", 4, true));
    assert_eq!(verified.sets, ["add-0", "div-0", "mul-0"]);
    let parameters = [("a", "2"), ("b", "1/3")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(verified.parameters, BTreeMap::from(parameters), "those that the expression uses");
    assert!(!read.verify(None).expect("is consistent").trusted);
}

#[test]
fn an_expression_without_operations_has_nothing_to_sign() {
    let verified = receipt("a", &[("a", "1/3")], None).verify(Some(&keys())).expect("proves");
    assert_eq!((verified.result.as_str(), verified.operations), ("1/3", 0));
}

#[test]
fn an_operation_without_evidence_makes_no_receipt() {
    let request =
        Request { expression: "1+2".into(), parameters: BTreeMap::new(), digits: None, receipt: true };
    let plan = Expression::parse("1+2").expect("an expression").plan();
    assert_eq!(ExpressionReceipt::assemble(&request, &plan, DIGITS_MAX, "3", |_| None), None);
}

#[test]
fn keys_of_other_replicas_are_refused() {
    let receipt = example();
    let mut swapped = keys();
    let add = swapped.sets["add-0"].clone();
    swapped.sets.insert("mul-0".into(), add);
    assert!(matches!(receipt.verify(Some(&swapped)), Err(UnprovenReceipt::Keys(set)) if set == "mul-0"));
    let mut unknown = keys();
    unknown.sets.remove("div-0");
    assert!(matches!(receipt.verify(Some(&unknown)), Err(UnprovenReceipt::Keys(set)) if set == "div-0"));
}

#[test]
fn a_result_that_fits_an_operation_of_another_expression_is_refused() {
    let (sum, product) = (receipt("2+2", &[], None), receipt("2*2", &[], None));
    let forged = ExpressionReceipt { expression: "2*2".into(), ..sum.clone() };
    assert!(matches!(forged.verify(None), Err(UnprovenReceipt::Operation { field: "function", .. })));
    // The other's operation, signed, under this one's text.
    let forged = ExpressionReceipt { operations: product.operations, sets: product.sets, ..sum };
    assert!(matches!(forged.verify(None), Err(UnprovenReceipt::Operation { field: "function", .. })));
}

#[test]
fn whatever_is_changed_is_refused() {
    let genuine: Json = serde_json::from_slice(&example().to_json()).expect("JSON");
    let mut places = Vec::new();
    collect(&genuine, String::new(), &mut places);
    assert!(places.len() > 30, "{places:?}");
    for place in places {
        let mut forged = genuine.clone();
        let value = forged.pointer_mut(&place).expect("was found there");
        *value = changed(value);
        let verdict = ExpressionReceipt::from_json(forged.to_string().as_bytes())
            .and_then(|receipt| receipt.verify(Some(&keys())));
        assert!(verdict.is_err(), "{place} may be {value}", value = forged.pointer(&place).expect("there"));
    }
}

#[test]
fn whatever_is_left_out_or_added_is_refused() {
    let genuine: Json = serde_json::from_slice(&example().to_json()).expect("JSON");
    for field in genuine.as_object().expect("an object").keys() {
        let mut forged = genuine.clone();
        forged.as_object_mut().expect("an object").remove(field);
        let verdict = ExpressionReceipt::from_json(forged.to_string().as_bytes())
            .and_then(|receipt| receipt.verify(Some(&keys())));
        assert!(verdict.is_err(), "{field} may be missing");
    }
    for (place, extra) in [("", "note"), ("/parameters", "c"), ("/sets", "sub-0"), ("/operations/0", "note")]
    {
        let mut forged = genuine.clone();
        let object = forged.pointer_mut(place).and_then(Json::as_object_mut).expect("an object");
        object.insert(extra.into(), "1".into());
        let verdict = ExpressionReceipt::from_json(forged.to_string().as_bytes())
            .and_then(|receipt| receipt.verify(Some(&keys())));
        assert!(verdict.is_err(), "{place}/{extra} may be added");
    }
    let mut shorter = example();
    shorter.operations.pop();
    assert!(matches!(shorter.verify(None), Err(UnprovenReceipt::Operations { planned: 4, found: 3 })));
}

/// JSON pointers to all texts and numbers.
fn collect(value: &Json, at: String, places: &mut Vec<String>) {
    match value {
        Json::Object(fields) => {
            fields.iter().for_each(|(name, value)| collect(value, format!("{at}/{name}"), places));
        }
        Json::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{at}/{index}"), places));
        }
        _ => places.push(at),
    }
}

/// Another value of the same form: one character in the middle differs.
fn changed(value: &Json) -> Json {
    match value {
        Json::Number(number) => (number.as_u64().expect("whole") + 1).into(),
        Json::String(text) => {
            let mut characters: Vec<char> = text.chars().collect();
            let middle = characters.len() / 2;
            characters[middle] = if characters[middle] == '1' { '2' } else { '1' };
            characters.into_iter().collect::<String>().into()
        }
        other => panic!("{other}"),
    }
}
