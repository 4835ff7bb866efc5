//! Replicas that lie under load: answers go on and are right, the liar is named with what speaks against
//! it, and its set is replaced. Nothing is probed: those who see it say so.

use quorate_tests::{BYZANTINE, Load, Mix, Platform, eventually};
use serde_json::Value;
use std::path::Path;

/// Requests that are outstanding at any time.
const OUTSTANDING: usize = 16;

/// Answers before the first look and after the last one.
const AROUND: u64 = 200;

/// A platform with a liar in its first set of `add`, and load on it.
async fn lying(how: &str) -> (Platform, Load) {
    let config = format!("{BYZANTINE}[timeouts]\nprobe_every = \"1h\"\n");
    let liar = Path::new(env!("CARGO_BIN_EXE_liar"));
    let platform = Platform::up_lying(&config, liar, &format!("add-0:{how}")).await;
    let mut load = Load::start(&platform, Mix::Only("add"), OUTSTANDING);
    load.answered(AROUND).await;
    (platform, load)
}

/// The fault of the liar, once it is convicted.
async fn convicted(platform: &Platform) -> Value {
    eventually("a convicted liar", || async {
        let faults: Vec<Value> = serde_json::from_str(&platform.get("/v1/faults").await.text).ok()?;
        faults.into_iter().find(|fault| fault["how"] == "lying" && fault["done"] == "replaced")
    })
    .await
}

/// Waits until the liar's set is replaced, and that everything was answered rightly. The liar's fault as
/// it is then.
async fn replaced(platform: &Platform, mut load: Load) -> Value {
    platform.find("a fresh set", |s| s.set.as_deref() == Some("add-1") && s.state == "ready").await;
    eventually("no set with a liar", || async {
        let left = platform.status().await.into_iter().any(|s| s.set.as_deref() == Some("add-0"));
        (!left).then_some(())
    })
    .await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    eventually("how long it took", || async {
        let fault = convicted(platform).await;
        fault["replaced_ms"].is_u64().then_some(fault)
    })
    .await
}

/// The pod that says of itself that it lies.
fn liar(platform: &Platform) -> String {
    let log = platform.log();
    let line = log.iter().find(|line| line.contains(" lies about ")).expect("says so when it starts");
    let words: Vec<_> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "lies").expect("was found");
    words[at - 1].to_owned()
}

#[tokio::test]
async fn a_backup_that_computes_wrong_results_is_named_by_the_worker_and_replaced() {
    let (platform, load) = lying("results").await;
    let fault = convicted(&platform).await;
    assert_eq!(
        (&fault["type"], fault["pod"].as_str()),
        (&Value::from(3), Some(&*liar(&platform))),
        "{fault}"
    );
    let accusers = fault["accusers"].as_array().expect("is a list");
    assert!(accusers.iter().any(|pod| pod == "add-0-worker"), "{fault}");
    assert!(
        fault["kinds"].as_array().expect("is a list").iter().any(|kind| kind == "wrong-answer"),
        "{fault}"
    );
    replaced(&platform, load).await;
    // For people: who, how, and what was done.
    let text = platform.data.answer(&["faults"]).await;
    for said in [&*liar(&platform), "lying", "wrong-answer", "set replaced in "] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    // The name is not used again: the next set that is wanted has another one.
    platform.data.answer(&["scale", "add", "2"]).await;
    platform.find("another fresh set", |s| s.set.as_deref() == Some("add-2") && s.state == "ready").await;
    platform.stop().await;
}

#[tokio::test]
async fn a_primary_that_tells_two_stories_is_named_by_f_plus_1_and_replaced() {
    let (platform, load) = lying("batches").await;
    let fault = replaced(&platform, load).await;
    assert_eq!(
        (&fault["type"], fault["pod"].as_str()),
        (&Value::from(2), Some(&*liar(&platform))),
        "{fault}"
    );
    let accusers = fault["accusers"].as_array().expect("is a list");
    assert!(accusers.len() >= 2 && accusers.iter().all(|pod| *pod != *liar(&platform)), "{fault}");
    assert_eq!(fault["kinds"], serde_json::json!(["conflicting-pre-prepares"]), "{fault}");
    platform.stop().await;
}

#[tokio::test]
async fn a_backup_that_signs_wrong_states_is_convicted_by_a_proof_that_anyone_can_check() {
    let (platform, load) = lying("states").await;
    let fault = replaced(&platform, load).await;
    assert_eq!(
        (&fault["type"], fault["pod"].as_str()),
        (&Value::from(3), Some(&*liar(&platform))),
        "{fault}"
    );
    assert!(fault["proven_by"].is_string(), "{fault}");
    let id = fault["id"].as_str().expect("has one");
    let proof = platform.data.answer(&["faults", "--proof", id]).await;
    let unknown = platform.data.run(&["faults", "--proof", "00000000-0000-0000-0000-000000000000"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""), "{unknown:?}");
    let keys = platform.data.answer(&["keys", "show", "--json"]).await;
    // Checked when the platform is gone.
    let named = liar(&platform);
    let data = platform.stop().await;
    let path = |name: &str, text: &str| data.file(name, text).to_str().expect("is UTF-8").to_owned();
    let (proof_file, keys_file) = (path("proof.json", &proof), path("keys.json", &keys));
    let said = data.answer(&["verify", "--fault", &proof_file, "--keys", &keys_file]).await;
    let index = named.rsplit('-').next().expect("ends in its index");
    assert!(said.starts_with(&format!("replica {index} of add-0 lied")), "{said}");
    let json: Value = serde_json::from_str(
        &data.answer(&["verify", "--fault", &proof_file, "--keys", &keys_file, "--json"]).await,
    )
    .expect("is JSON");
    assert_eq!(
        (&json["trusted"], &json["kind"]),
        (&Value::from(true), &Value::from("wrong-state")),
        "{json}"
    );

    let genuine: Value = serde_json::from_str(&proof).expect("is JSON");
    for field in ["set", "chain", "proof"] {
        let mut forged = genuine.clone();
        let text = forged[field].as_str().expect("is text").to_owned();
        let middle = text.len() / 2;
        let other = if text.as_bytes()[middle] == b'1' { "2" } else { "1" };
        forged[field] = format!("{}{other}{}", &text[..middle], &text[middle + 1..]).into();
        let forged = path("forged.json", &forged.to_string());
        let said = data.run(&["verify", "--fault", &forged, "--keys", &keys_file]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{field}: {said:?}");
    }
}
