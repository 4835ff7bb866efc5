//! Receipts: what a platform signs can be checked without it, and nothing in it can be changed.

use quorate_tests::{BYZANTINE, Data, NONE, Platform};
use serde_json::Value;
use std::fs;

const EXPRESSION: &str = "a*(b+1)/4";
const PARAMETERS: [&str; 4] = ["-p", "a=2", "-p", "b=1/3"];

/// A receipt, the keys to check it with, and the folder in which they lie.
async fn made() -> (Data, String, String) {
    let platform = Platform::up(BYZANTINE).await;
    let receipt = platform.data.place("r.json");
    let mut arguments = vec!["eval", EXPRESSION, "--receipt", &receipt];
    arguments.extend(PARAMETERS);
    assert_eq!(platform.data.answer(&arguments).await, "2/3");
    let keys = platform.data.answer(&["keys", "show", "--json"]).await;
    // Checked when the platform is gone: a receipt needs none.
    let data = platform.stop().await;
    let keys = data.file("keys.json", &keys).to_str().expect("is UTF-8").to_owned();
    (data, receipt, keys)
}

#[tokio::test]
async fn a_receipt_verifies_offline() {
    let (data, receipt, keys) = made().await;
    let said = data.run(&["verify", &receipt, "--keys", &keys]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("2/3"), "{said:?}");
    let said = data.run(&["verify", &receipt]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(text.contains("consisten"), "says that without keys it is only consistent with itself: {text}");
}

#[tokio::test]
async fn a_receipt_in_which_anything_was_changed_is_refused() {
    let (data, receipt, keys) = made().await;
    let genuine: Value =
        serde_json::from_str(&fs::read_to_string(&receipt).expect("was written")).expect("is JSON");
    let mut leaves = Vec::new();
    collect(&genuine, String::new(), &mut leaves);
    assert!(leaves.len() >= 12, "expression, result and three nodes: {leaves:?}");
    for leaf in leaves {
        let mut forged = genuine.clone();
        let value = forged.pointer_mut(&leaf).expect("was found there");
        let before = value.clone();
        *value = changed(value);
        let forged = data.file("forged.json", &forged.to_string());
        let said = data.run(&["verify", forged.to_str().expect("is UTF-8"), "--keys", &keys]).await;
        assert_eq!(said.code, Some(1), "{leaf} was {before}: {said:?}");
        assert!(!said.stderr.trim().is_empty(), "{leaf}: says what is wrong");
    }
}

#[tokio::test]
async fn a_receipt_under_other_keys_is_refused() {
    let (data, receipt, keys) = made().await;
    let mut other: Value =
        serde_json::from_str(&fs::read_to_string(&keys).expect("was written")).expect("is JSON");
    let sub = other["sets"]["sub-0"].clone();
    for set in ["add-0", "mul-0", "div-0"] {
        other["sets"][set] = sub.clone();
    }
    let other = data.file("other.json", &other.to_string());
    let said = data.run(&["verify", &receipt, "--keys", other.to_str().expect("is UTF-8")]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
}

#[tokio::test]
async fn what_is_no_receipt_is_refused() {
    let data = Data::empty();
    let text = data.file("text.json", "not a receipt");
    let said = data.run(&["verify", text.to_str().expect("is UTF-8")]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    let said = data.run(&["verify", &data.place("missing.json")]).await;
    assert!(matches!(said.code, Some(1 | 2)), "{said:?}");
    assert!(said.stderr.contains("missing.json"), "{said:?}");
}

#[tokio::test]
async fn a_plain_worker_signs_nothing_and_a_receipt_of_it_is_not_pretended() {
    let platform = Platform::up(NONE).await;
    let receipt = platform.data.place("r.json");
    let said = platform.data.run(&["eval", "1+2", "--receipt", &receipt]).await;
    if said.code == Some(0) {
        // Written all the same: then it must not verify as if replicas had signed it.
        let keys = platform.data.answer(&["keys", "show", "--json"]).await;
        let keys = platform.data.file("keys.json", &keys);
        let verified =
            platform.data.run(&["verify", &receipt, "--keys", keys.to_str().expect("is UTF-8")]).await;
        let text = format!("{}{}", verified.stdout, verified.stderr);
        assert!(
            verified.code == Some(1) || text.contains("no receipt") || text.contains("unreplicated"),
            "{text}"
        );
    } else {
        assert!(said.stderr.contains("receipt") || said.stderr.contains("replica"), "{said:?}");
    }
    platform.stop().await;
}

/// JSON pointers to all strings and numbers.
fn collect(value: &Value, at: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), leaves);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect(value, format!("{at}/{index}"), leaves);
            }
        }
        Value::String(_) | Value::Number(_) => leaves.push(at),
        Value::Bool(_) | Value::Null => {}
    }
}

/// Another value of the same form: one digit or letter in the middle differs.
fn changed(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_u64().unwrap_or_default() + 1),
        Value::String(text) => {
            let mut characters: Vec<char> = text.chars().collect();
            let middle = characters.len() / 2;
            match characters.get_mut(middle) {
                Some(c) => *c = if *c == '1' { '2' } else { '1' },
                None => characters.push('1'),
            }
            Value::from(characters.into_iter().collect::<String>())
        }
        other => other.clone(),
    }
}
