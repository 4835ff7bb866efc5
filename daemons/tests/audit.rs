//! `quorate audit` through the real binary, with receipts that lying replicas have signed.

use quorate::{
    function::{Answer, Operation},
    hex,
    receipt::{Evidence, ExpressionReceipt, Keys},
    records::Request,
};
use quorate_dag::{Expression, Function, Limits, Value};
use quorate_pbft::{
    ClientId, Incarnation, Sequence, Timestamp,
    crypto::{Domain, Kind},
    history::History,
    membership::Chain,
    message::{Ending, Leaf},
    receipt::Signers,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

const DIGITS_MAX: u32 = 100;

/// Four replicas that add; they sign what they are told to.
struct Set(Signers);

impl Set {
    /// The receipt of `left + right = sum`, the first operation of a history that these replicas sign when
    /// it has `size` of them, one a batch.
    fn receipt(&self, [left, right, sum]: [&str; 3], signers: [u32; 3], size: u64) -> ExpressionReceipt {
        let number = |text: &str| Value::parse(text, &Limits::default()).expect("a number");
        let [one, other, sum] = [left, right, sum].map(number);
        let (left_bytes, right_bytes) = (one.to_bytes(), other.to_bytes());
        let operation = Operation {
            function: Function::Add,
            digits_max: DIGITS_MAX,
            left: &left_bytes,
            right: &right_bytes,
        };
        let answer = Answer::Value(sum.to_bytes().into()).to_bytes();
        let scope = self.0.configuration.scope();
        let digest = |kind, bytes: &[u8]| scope.digest(Domain::new(kind, 0), &[bytes]);
        let leaf = Leaf {
            sequence: Sequence(1),
            client: ClientId(0),
            incarnation: Incarnation(1),
            timestamp: Timestamp(1),
            ending: Ending::Done,
            operation: digest(Kind::Operation, &operation.to_bytes()),
            result: digest(Kind::Outcome, &answer),
        };
        let mut history = History::new(scope);
        let position = history.append(leaf.digest(&scope));
        for later in 1..size {
            history.append(digest(Kind::Leaf, &later.to_be_bytes()));
        }
        let receipt = self.0.receipt((position, leaf), &history, Sequence(size), &signers).to_bytes();
        let request = Request {
            expression: format!("{left}+{right}"),
            parameters: BTreeMap::new(),
            digits: None,
            receipt: true,
        };
        let plan = Expression::parse(&request.expression).expect("an expression").plan();
        let chain = Chain::new(self.0.configuration.clone()).to_bytes();
        let evidence = Evidence { value: &sum, set: "add-0", chain: &chain, receipt: &receipt };
        ExpressionReceipt::assemble(&request, &plan, DIGITS_MAX, &sum.to_string(), |_| Some(evidence))
            .expect("every operation is signed")
    }

    fn keys(&self) -> Keys {
        let keys = self.0.configuration.replicas.iter().map(|key| hex::encode(&key.to_der()));
        Keys { sets: [("add-0".to_owned(), keys.collect())].into() }
    }
}

/// The exit code, standard output, and standard error.
fn audit(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.arg("audit").args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    let output = command.stdin(Stdio::null()).output().expect("the binary was just built");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn two_receipts_that_contradict_each_other_name_who_lied() {
    let set = Set(Signers::new(9));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    // More than f replicas: 1 and 3 signed one history for each.
    let mine = set.receipt(["1", "2", "3"], [0, 1, 3], 1);
    write("mine.json", &mine.to_json());
    write("yours.json", &set.receipt(["3", "4", "7"], [1, 2, 3], 1).to_json());
    write("again.json", &set.receipt(["1", "2", "3"], [1, 2, 3], 1).to_json());
    write("later.json", &set.receipt(["3", "4", "7"], [1, 2, 3], 5).to_json());
    write("keys.json", &serde_json::to_vec(&set.keys()).expect("plain"));
    let strangers = Keys { sets: [("add-0".to_owned(), vec![])].into() };
    write("strangers.json", &serde_json::to_vec(&strangers).expect("plain"));

    let both = ["mine.json", "yours.json", "--keys", "keys.json"];
    let lied = "replicas 1, 3 of add-0 lied: they signed two histories of 1 operation\n";
    assert_eq!(audit(folder.path(), &both), (0, lied.into(), String::new()));
    let later = ["later.json", "mine.json", "--keys", "keys.json"];
    let place = "at position 0 of their history";
    let lied_there =
        format!("replicas 1, 3 of add-0 lied: they signed two operations, or two results, {place}\n");
    assert_eq!(audit(folder.path(), &later), (0, lied_there, String::new()));
    let (code, out, _) = audit(folder.path(), &["mine.json", "yours.json", "--keys", "keys.json", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["contradictions"][0]["replicas"]), (0, &serde_json::json!([1, 3])));
    let (code, out, err) = audit(folder.path(), &["mine.json", "yours.json"]);
    assert_eq!((code, out.as_str()), (0, lied));
    assert!(err.contains("without --keys"), "{err}");

    let agree = ["mine.json", "again.json", "--keys", "keys.json"];
    let none = "no contradiction in what add-0 signed\n";
    assert_eq!(audit(folder.path(), &agree), (0, none.into(), String::new()));

    let foreign = ["mine.json", "yours.json", "--keys", "strangers.json"];
    let (code, out, err) = audit(folder.path(), &foreign);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("first receipt: set `add-0` is not made of the replicas"), "{err}");
    let mut wrong = String::from_utf8(mine.to_json().to_vec()).expect("text");
    wrong = wrong.replace("\"result\": \"3\"", "\"result\": \"4\"");
    write("wrong.json", wrong.as_bytes());
    let (code, out, err) = audit(folder.path(), &["mine.json", "wrong.json", "--keys", "keys.json"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("second receipt"), "{err}");
    assert_eq!(audit(folder.path(), &["mine.json", "missing.json"]).0, 2);
}
