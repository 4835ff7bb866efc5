//! Replicas whose journals are lost: each is replaced by another one in its set, whose worker and other
//! replicas work on.

use quorate_tests::{BYZANTINE, Load, Mix, Platform, Status, process};
use rustix::process::Signal;
use std::{fs, path::PathBuf};

/// Requests that are outstanding at any time.
const OUTSTANDING: usize = 8;

/// Answers before and after a loss.
const AROUND: u64 = 100;

/// Ends a replica and takes its journal away.
fn lose(platform: &Platform, replica: &Status) {
    let set = replica.set.as_deref().expect("is in a set");
    let pod = format!("{set}-replica-{}", replica.index.expect("is a replica"));
    let lives =
        fs::read_dir(platform.data.path().join("platform/sets").join(set)).expect("the set has files");
    let of_pod = |life: PathBuf| -> Vec<PathBuf> {
        let folders = fs::read_dir(life).expect("is a folder").map(|entry| entry.expect("is there").path());
        let name = |folder: &PathBuf| folder.file_name().expect("has one").to_string_lossy().into_owned();
        folders.filter(|folder| name(folder) == pod || name(folder).starts_with(&format!("{pod}."))).collect()
    };
    let folders: Vec<_> = lives.flat_map(|life| of_pod(life.expect("is there").path())).collect();
    assert!(!folders.is_empty(), "{pod} has a folder");
    for folder in folders {
        // Before the process ends: whoever looks for the journal afterwards must not find it.
        fs::remove_dir_all(folder).expect("can be removed");
    }
    process::signal(replica.process(), Signal::KILL);
}

/// What is left of a set besides one replica.
fn others(all: &[Status], lost: &Status) -> Vec<(Option<u32>, Option<u32>, Option<u64>)> {
    let of_set = all.iter().filter(|s| s.set == lost.set && s.index != lost.index);
    let mut others: Vec<_> = of_set.map(|s| (s.index, s.pid, s.incarnation)).collect();
    others.sort_unstable();
    others
}

#[tokio::test]
async fn lost_journals_cost_their_replicas_and_nobody_else() {
    let platform = Platform::up(BYZANTINE).await;
    let receipt = async |name: &str| {
        let file = platform.data.place(name);
        assert_eq!(platform.data.answer(&["eval", "6*7", "--receipt", &file]).await, "42");
        file
    };
    let before = receipt("before.json").await;
    let keys = platform.data.answer(&["keys", "show", "--json"]).await;
    let keys = platform.data.file("keys.json", &keys).to_str().expect("is UTF-8").to_owned();

    let mut load = Load::start(&platform, Mix::Only("mul"), OUTSTANDING);
    load.answered(AROUND).await;
    // A backup first, then one that leads: with f = 1 the second loss would be one too many, had nobody
    // taken the first one's place.
    let backup = platform.backup("mul").await;
    let primary = platform.primary("mul").await;
    for lost in [backup, primary] {
        let untouched = others(&platform.status().await, &lost);
        lose(&platform, &lost);
        let newcomer = platform.replaced(&lost).await;
        assert_eq!((&newcomer.set, newcomer.index), (&lost.set, lost.index));
        assert_eq!(others(&platform.status().await, &lost), untouched);
        load.answered(AROUND).await;
    }
    load.finish().await.assert_flawless();

    // Newcomers sign, and whoever knows the first members' keys needs no others.
    let after = receipt("after.json").await;
    for receipt in [&before, &after] {
        let said = platform.data.run(&["verify", receipt, "--keys", &keys]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let of = |path: &str| fs::read_to_string(path).expect("was written").len();
    assert!(of(&after) > of(&before), "it brings what proves the newcomers");

    // Another platform on the same files knows who they are.
    let data = platform.stop().await;
    let platform = Platform::up_on(data, BYZANTINE).await;
    let mut load = Load::start(&platform, Mix::Only("mul"), OUTSTANDING);
    load.answered(AROUND).await;
    let third = platform.backup("mul").await;
    lose(&platform, &third);
    platform.replaced(&third).await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_dies_meanwhile_goes_on_with_it() {
    let platform = Platform::up(BYZANTINE).await;
    let mut load = Load::start(&platform, Mix::Only("add"), OUTSTANDING);
    load.answered(AROUND).await;
    let lost = platform.backup("add").await;
    let control = platform.find("the control plane", |s| s.daemon == "gateway").await;
    lose(&platform, &lost);
    process::signal(control.process(), Signal::KILL);
    let newcomer = platform.replaced(&lost).await;
    assert_eq!(newcomer.set, lost.set);
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_set_of_which_too_many_lost_their_journals_is_replaced() {
    let platform = Platform::up(BYZANTINE).await;
    let mut load = Load::start(&platform, Mix::Only("sub"), OUTSTANDING);
    load.answered(AROUND).await;
    let replicas = platform.replicas("sub").await;
    for lost in &replicas[..2] {
        lose(&platform, lost);
    }
    let fresh = platform.find("a fresh set", |s| {
        s.daemon == "worker"
            && s.function.as_deref() == Some("sub")
            && s.set != replicas[0].set
            && s.state == "ready"
    });
    fresh.await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}
