//! What every store must do, and what stands on it: locks, leaders, announcements.

use super::{
    Change, Entry, LeaseId, Revision, Store, StoreError, Watch,
    announce::announce,
    election::{LEADERS, Leadership, leader},
    lock::{LOCKS, Lock, LockError},
};
use crate::{
    conformance::{Subject, refused, soon},
    set::DaemonRecord,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const TTL: Duration = Duration::from_secs(5);

/// Longer than any check takes: for what must not end by itself.
const LONG: Duration = Duration::from_secs(3600);

/// A test for each check.
#[doc(hidden)]
#[macro_export]
macro_rules! store_conformance {
    ($subject:expr) => {
        $crate::conformance_tests!(store, $subject;
            an_unknown_key_has_no_value,
            a_key_holds_what_was_put_last,
            revisions_grow_with_every_change,
            a_deleted_key_is_gone,
            deleting_what_is_not_there_changes_nothing,
            list_gives_the_keys_of_a_prefix_in_order,
            list_of_nothing_lists_everything,
            a_swap_needs_the_revision_that_stands,
            a_swap_from_nothing_creates_once,
            a_swap_to_nothing_removes,
            a_swap_of_a_deleted_key_conflicts,
            of_many_swaps_one_wins,
            a_leased_key_goes_when_its_lease_ends,
            a_renewed_lease_lasts_from_then_on,
            a_lease_that_ended_can_be_neither_renewed_nor_used,
            a_revoked_lease_takes_its_keys_along,
            revoking_twice_is_harmless,
            a_key_put_anew_without_its_lease_stays,
            a_key_put_anew_goes_with_its_last_lease,
            a_watch_tells_every_change_of_its_prefix_in_order,
            a_watch_from_the_past_catches_up,
            a_watch_after_a_list_misses_nothing,
            a_watch_from_the_future_waits_for_it,
            a_watch_tells_of_keys_whose_lease_ended,
            a_watch_from_before_what_is_kept_is_compacted,
            a_slow_watch_is_compacted_and_holds_up_nobody,
            a_dropped_watch_is_forgotten,
            watches_see_what_many_write_as_one_order,
            a_lock_is_held_by_one,
            a_released_lock_passes_to_who_waits_with_a_greater_token,
            a_dropped_lock_is_released,
            a_lock_whose_lease_was_taken_away_is_lost,
            a_lock_whose_holder_is_gone_is_free_after_its_time,
            a_lock_is_not_waited_for_longer_than_asked,
            one_campaigner_leads_and_the_next_follows,
            leadership_is_lost_with_its_lease,
            a_campaign_that_is_dropped_leaves_nothing,
            an_announcement_stays_until_it_is_withdrawn,
            an_announcement_that_the_store_lost_comes_again,
            an_instance_is_announced_once,
        );
    };
}

fn store(subject: &Subject) -> &dyn Store {
    subject.engine.store()
}

async fn put(subject: &Subject, key: &str, value: &'static str) -> Revision {
    store(subject).put(key, value.into(), None).await.expect("put")
}

async fn put_leased(subject: &Subject, key: &str, lease: LeaseId) -> Revision {
    store(subject).put(key, "v".into(), Some(lease)).await.expect("put")
}

async fn value(subject: &Subject, key: &str) -> Option<Bytes> {
    store(subject).get(key).await.expect("got").map(|entry| entry.value)
}

async fn keys(subject: &Subject, prefix: &str) -> Vec<String> {
    let (entries, _) = store(subject).list(prefix).await.expect("listed");
    entries.into_iter().map(|entry| entry.key).collect()
}

async fn next(watch: &mut Watch) -> Change {
    soon(watch.recv()).await.expect("the watch lives").expect("a change")
}

fn changed(key: &str, value: &'static str, revision: Revision) -> Change {
    Change::Put(Entry { key: key.into(), value: value.into(), revision })
}

async fn swap(
    subject: &Subject,
    key: &str,
    seen: Option<Revision>,
    value: Option<&'static str>,
) -> Result<Revision, StoreError> {
    store(subject).compare_and_swap(key, seen, value.map(Bytes::from), None).await
}

async fn conflicts(subject: &Subject, key: &str, seen: Option<Revision>) {
    let error = refused(swap(subject, key, seen, Some("x")).await);
    assert!(matches!(&error, StoreError::Conflict { key: named } if named == key), "{error}");
    let error = refused(swap(subject, key, seen, None).await);
    assert!(matches!(&error, StoreError::Conflict { key: named } if named == key), "{error}");
}

pub async fn an_unknown_key_has_no_value(subject: &Subject) {
    assert_eq!(store(subject).get("a").await.expect("got"), None);
}

pub async fn a_key_holds_what_was_put_last(subject: &Subject) {
    put(subject, "a", "1").await;
    let revision = put(subject, "a", "2").await;
    let entry = Entry { key: "a".into(), value: "2".into(), revision };
    assert_eq!(store(subject).get("a").await.expect("got"), Some(entry));
}

pub async fn revisions_grow_with_every_change(subject: &Subject) {
    let mut seen = vec![put(subject, "a", "1").await, put(subject, "b", "1").await];
    store(subject).delete("b").await.expect("deleted");
    seen.push(swap(subject, "a", Some(seen[0]), Some("2")).await.expect("swapped"));
    seen.push(put(subject, "b", "2").await);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert_eq!(store(subject).list("").await.expect("listed").1, seen[3]);
}

pub async fn a_deleted_key_is_gone(subject: &Subject) {
    put(subject, "a", "1").await;
    assert!(store(subject).delete("a").await.expect("deleted"));
    assert_eq!(value(subject, "a").await, None);
}

pub async fn deleting_what_is_not_there_changes_nothing(subject: &Subject) {
    let revision = put(subject, "a", "1").await;
    assert!(!store(subject).delete("b").await.expect("nothing to delete"));
    assert_eq!(store(subject).list("").await.expect("listed").1, revision);
}

pub async fn list_gives_the_keys_of_a_prefix_in_order(subject: &Subject) {
    for key in ["sets/b", "sets/a", "setsx", "set", "sets0", "sets/é", "sets/\u{10ffff}x", "sets/"] {
        put(subject, key, "1").await;
    }
    let listed = keys(subject, "sets/").await;
    assert_eq!(listed, ["sets/", "sets/a", "sets/b", "sets/é", "sets/\u{10ffff}x"]);
    assert_eq!(keys(subject, "sets/é").await, ["sets/é"]);
    assert_eq!(keys(subject, "sets/\u{10ffff}").await, ["sets/\u{10ffff}x"]);
    assert!(keys(subject, "sets//").await.is_empty());
}

pub async fn list_of_nothing_lists_everything(subject: &Subject) {
    assert_eq!(store(subject).list("").await.expect("listed").0, []);
    put(subject, "b", "1").await;
    put(subject, "a", "1").await;
    assert_eq!(keys(subject, "").await, ["a", "b"]);
}

pub async fn a_swap_needs_the_revision_that_stands(subject: &Subject) {
    let first = put(subject, "a", "1").await;
    let second = swap(subject, "a", Some(first), Some("2")).await.expect("swapped");
    conflicts(subject, "a", Some(first)).await;
    conflicts(subject, "a", None).await;
    conflicts(subject, "a", Some(second.next())).await;
    assert_eq!(value(subject, "a").await, Some("2".into()));
}

pub async fn a_swap_from_nothing_creates_once(subject: &Subject) {
    swap(subject, "a", None, Some("1")).await.expect("created");
    conflicts(subject, "a", None).await;
    assert_eq!(value(subject, "a").await, Some("1".into()));
}

pub async fn a_swap_to_nothing_removes(subject: &Subject) {
    let revision = put(subject, "a", "1").await;
    let removed = swap(subject, "a", Some(revision), None).await.expect("removed");
    assert!(removed > revision);
    assert_eq!(value(subject, "a").await, None);
}

pub async fn a_swap_of_a_deleted_key_conflicts(subject: &Subject) {
    let revision = put(subject, "a", "1").await;
    store(subject).delete("a").await.expect("deleted");
    conflicts(subject, "a", Some(revision)).await;
    // Made anew it has a newer revision: what was seen before is not taken for it.
    put(subject, "a", "1").await;
    conflicts(subject, "a", Some(revision)).await;
}

pub async fn of_many_swaps_one_wins(subject: &Subject) {
    let seen = put(subject, "a", "0").await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..16 {
        let engine = Arc::clone(&subject.engine);
        running.spawn(async move {
            let value = Some(Bytes::from(number.to_string()));
            engine.store().compare_and_swap("a", Some(seen), value, None).await.is_ok()
        });
    }
    let won = soon(running.join_all()).await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
}

pub async fn a_leased_key_goes_when_its_lease_ends(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    let (_, from) = store(subject).list("").await.expect("listed");
    let mut watch = store(subject).watch("b", from.next()).await.expect("watching");
    put_leased(subject, "a", lease).await;
    swap(subject, "stays", None, Some("1")).await.expect("created");
    let created = store(subject).compare_and_swap("b", None, Some("v".into()), Some(lease)).await;
    created.expect("created");
    subject.time.pass(TTL / 2).await;
    assert_eq!(keys(subject, "").await, ["a", "b", "stays"]);
    subject.time.pass(TTL).await;
    next(&mut watch).await;
    assert!(matches!(next(&mut watch).await, Change::Deleted { .. }));
    assert_eq!(keys(subject, "").await, ["stays"]);
}

pub async fn a_renewed_lease_lasts_from_then_on(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    put_leased(subject, "a", lease).await;
    for _ in 0..3 {
        subject.time.pass(TTL * 2 / 3).await;
        store(subject).renew(lease).await.expect("renewed");
    }
    assert!(value(subject, "a").await.is_some());
}

pub async fn a_lease_that_ended_can_be_neither_renewed_nor_used(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    subject.time.pass(TTL * 2).await;
    for lease in [lease, LeaseId(u64::MAX), LeaseId(987_654)] {
        let error = refused(store(subject).renew(lease).await);
        assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
        let error = refused(store(subject).put("a", "1".into(), Some(lease)).await);
        assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
        let error = refused(store(subject).compare_and_swap("a", None, Some("1".into()), Some(lease)).await);
        assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
    }
    assert_eq!(value(subject, "a").await, None);
}

pub async fn a_revoked_lease_takes_its_keys_along(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    put_leased(subject, "a", lease).await;
    put(subject, "b", "1").await;
    store(subject).revoke(lease).await.expect("revoked");
    assert_eq!(keys(subject, "").await, ["b"]);
    assert!(matches!(refused(store(subject).renew(lease).await), StoreError::LeaseGone(_)));
}

pub async fn revoking_twice_is_harmless(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    store(subject).revoke(lease).await.expect("revoked");
    store(subject).revoke(lease).await.expect("nothing to revoke");
}

pub async fn a_key_put_anew_without_its_lease_stays(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    put_leased(subject, "a", lease).await;
    put(subject, "a", "mine").await;
    store(subject).revoke(lease).await.expect("revoked");
    assert_eq!(value(subject, "a").await, Some("mine".into()));
}

pub async fn a_key_put_anew_goes_with_its_last_lease(subject: &Subject) {
    let first = store(subject).grant(TTL).await.expect("granted");
    let second = store(subject).grant(TTL).await.expect("granted");
    put_leased(subject, "a", first).await;
    put_leased(subject, "a", second).await;
    store(subject).revoke(first).await.expect("revoked");
    assert!(value(subject, "a").await.is_some());
    store(subject).revoke(second).await.expect("revoked");
    assert!(value(subject, "a").await.is_none());
}

pub async fn a_watch_tells_every_change_of_its_prefix_in_order(subject: &Subject) {
    let mut watch = store(subject).watch("sets/", Revision(0)).await.expect("watching");
    let first = put(subject, "sets/a", "1").await;
    put(subject, "other", "1").await;
    let second = put(subject, "sets/a", "2").await;
    store(subject).delete("sets/a").await.expect("deleted");
    let third = put(subject, "sets/b", "3").await;
    assert_eq!(next(&mut watch).await, changed("sets/a", "1", first));
    assert_eq!(next(&mut watch).await, changed("sets/a", "2", second));
    let deleted = next(&mut watch).await;
    assert!(matches!(&deleted, Change::Deleted { key, .. } if key == "sets/a"), "{deleted:?}");
    assert!(second < deleted.revision() && deleted.revision() < third);
    assert_eq!(next(&mut watch).await, changed("sets/b", "3", third));
}

pub async fn a_watch_from_the_past_catches_up(subject: &Subject) {
    put(subject, "a", "1").await;
    let second = put(subject, "a", "2").await;
    let third = put(subject, "b", "3").await;
    let mut watch = store(subject).watch("", second).await.expect("watching");
    let fourth = put(subject, "a", "4").await;
    assert_eq!(next(&mut watch).await, changed("a", "2", second));
    assert_eq!(next(&mut watch).await, changed("b", "3", third));
    assert_eq!(next(&mut watch).await, changed("a", "4", fourth));
}

pub async fn a_watch_after_a_list_misses_nothing(subject: &Subject) {
    const CHANGES: u32 = 100;
    let engine = Arc::clone(&subject.engine);
    let writer = tokio::spawn(async move {
        for number in 0..CHANGES {
            engine.store().put("n", number.to_string().into(), None).await.expect("put");
        }
    });
    for _ in 0..10 {
        let (entries, revision) = store(subject).list("n").await.expect("listed");
        let mut watch = store(subject).watch("n", revision.next()).await.expect("watching");
        let mut last: Option<u32> = entries.first().map(number);
        while last != Some(CHANGES - 1) {
            let Change::Put(entry) = next(&mut watch).await else { panic!("nothing is deleted") };
            let this = number(&entry);
            assert_eq!(this, last.map_or(0, |last| last + 1));
            last = Some(this);
        }
    }
    soon(writer).await.expect("no panic");
}

fn number(entry: &Entry) -> u32 {
    std::str::from_utf8(&entry.value).expect("text").parse().expect("a number")
}

pub async fn a_watch_from_the_future_waits_for_it(subject: &Subject) {
    let revision = put(subject, "a", "1").await;
    let mut watch = store(subject).watch("a", Revision(revision.0 + 3)).await.expect("watching");
    put(subject, "a", "2").await;
    put(subject, "a", "3").await;
    let fourth = put(subject, "a", "4").await;
    assert_eq!(next(&mut watch).await, changed("a", "4", fourth));
}

pub async fn a_watch_tells_of_keys_whose_lease_ended(subject: &Subject) {
    let lease = store(subject).grant(TTL).await.expect("granted");
    let put = put_leased(subject, "a", lease).await;
    let mut watch = store(subject).watch("a", put.next()).await.expect("watching");
    subject.time.pass(TTL * 2).await;
    let change = next(&mut watch).await;
    assert!(matches!(&change, Change::Deleted { key, .. } if key == "a"), "{change:?}");
    assert!(change.revision() > put);
}

/// Changes a key more often than any engine under test keeps changes or a watch may fall behind.
async fn change_often(subject: &Subject) -> Revision {
    let mut last = Revision(0);
    for _ in 0..subject.changes_kept + 10 {
        last = put(subject, "often", "1").await;
    }
    if let Some(compact) = &subject.compact {
        compact().await;
    }
    last
}

pub async fn a_watch_from_before_what_is_kept_is_compacted(subject: &Subject) {
    let first = put(subject, "a", "1").await;
    let last = change_often(subject).await;
    let mut watch = store(subject).watch("", first).await.expect("watching");
    let end = refused(soon(watch.recv()).await.expect("it is told why it ends"));
    assert!(matches!(end, StoreError::Compacted(revision) if revision == first), "{end}");
    assert!(soon(watch.recv()).await.is_none());
    let mut watch = store(subject).watch("", last).await.expect("watching");
    assert_eq!(next(&mut watch).await.revision(), last);
}

pub async fn a_slow_watch_is_compacted_and_holds_up_nobody(subject: &Subject) {
    let mut slow = store(subject).watch("often", Revision(0)).await.expect("watching");
    change_often(subject).await;
    let mut before = Revision(0);
    let end = loop {
        match soon(slow.recv()).await.expect("it is told why it ends") {
            Ok(change) => {
                assert!(before.0 == 0 || change.revision() == before.next(), "nothing is left out");
                before = change.revision();
            }
            Err(end) => break end,
        }
    };
    assert!(matches!(end, StoreError::Compacted(_)), "{end}");
    assert!(soon(slow.recv()).await.is_none());
}

pub async fn a_dropped_watch_is_forgotten(subject: &Subject) {
    let dropped = store(subject).watch("", Revision(0)).await.expect("watching");
    let mut kept = store(subject).watch("", Revision(0)).await.expect("watching");
    drop(dropped);
    let revision = put(subject, "a", "1").await;
    assert_eq!(next(&mut kept).await, changed("a", "1", revision));
}

pub async fn watches_see_what_many_write_as_one_order(subject: &Subject) {
    const EACH: u32 = 10;
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(store(subject).watch("k", Revision(0)).await.expect("watching"));
    }
    let mut running = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let engine = Arc::clone(&subject.engine);
        running.spawn(async move {
            for number in 0..EACH {
                let key = format!("k{}", (writer + number) % 4);
                engine.store().put(&key, format!("{writer}/{number}").into(), None).await.expect("put");
            }
        });
    }
    soon(running.join_all()).await;
    let mut told: Vec<Vec<Change>> = Vec::new();
    for mut watch in watches {
        let mut changes = Vec::new();
        for _ in 0..8 * EACH {
            changes.push(next(&mut watch).await);
        }
        told.push(changes);
    }
    assert!(told.iter().all(|one| *one == told[0]), "every watch was told the same");
    assert!(told[0].is_sorted_by(|a, b| a.revision() < b.revision()));
    // Replaying the changes gives what stands.
    let mut replayed = BTreeMap::new();
    for change in &told[0] {
        if let Change::Put(entry) = change {
            replayed.insert(entry.key.clone(), entry.clone());
        }
    }
    let (entries, _) = store(subject).list("k").await.expect("listed");
    assert_eq!(entries, replayed.into_values().collect::<Vec<_>>());
}

async fn lock(subject: &Subject, holder: &str, wait: Duration) -> Result<Lock, LockError> {
    Lock::acquire(&subject.engine, "l", holder, LONG, wait).await
}

pub async fn a_lock_is_held_by_one(subject: &Subject) {
    let first = lock(subject, "first", TTL).await.expect("free");
    assert_eq!(value(subject, &format!("{LOCKS}l")).await, Some("first".into()));
    let mut running = tokio::task::JoinSet::new();
    let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
    for number in 0..4 {
        let (engine, inside) = (Arc::clone(&subject.engine), Arc::clone(&inside));
        running.spawn(async move {
            let lock = Lock::acquire(&engine, "l", &number.to_string(), LONG, LONG).await.expect("in turn");
            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "alone");
            tokio::task::yield_now().await;
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            lock.release().await;
        });
    }
    first.release().await;
    soon(running.join_all()).await;
}

pub async fn a_released_lock_passes_to_who_waits_with_a_greater_token(subject: &Subject) {
    let first = lock(subject, "first", TTL).await.expect("free");
    let token = first.token();
    let engine = Arc::clone(&subject.engine);
    let second = tokio::spawn(async move { Lock::acquire(&engine, "l", "second", LONG, LONG).await });
    first.release().await;
    let second = soon(second).await.expect("no panic").expect("released");
    assert!(second.token() > token);
    assert!(!second.is_lost());
}

pub async fn a_dropped_lock_is_released(subject: &Subject) {
    drop(lock(subject, "first", TTL).await.expect("free"));
    soon(lock(subject, "second", LONG)).await.expect("released");
}

pub async fn a_lock_whose_lease_was_taken_away_is_lost(subject: &Subject) {
    let first = lock(subject, "first", TTL).await.expect("free");
    store(subject).delete(&format!("{LOCKS}l")).await.expect("deleted");
    soon(first.lost()).await;
    assert!(first.is_lost());
    let second = soon(lock(subject, "second", LONG)).await.expect("free");
    first.release().await;
    assert!(!second.is_lost(), "who has lost it releases nothing");
    assert_eq!(value(subject, &format!("{LOCKS}l")).await, Some("second".into()));
}

pub async fn a_lock_whose_holder_is_gone_is_free_after_its_time(subject: &Subject) {
    // As a holder leaves it that was killed: the key under a lease that nobody renews.
    let lease = store(subject).grant(TTL).await.expect("granted");
    put_leased(subject, &format!("{LOCKS}l"), lease).await;
    let engine = Arc::clone(&subject.engine);
    let waiter = tokio::spawn(async move { Lock::acquire(&engine, "l", "second", LONG, LONG).await });
    subject.time.pass(TTL * 2).await;
    soon(waiter).await.expect("no panic").expect("free");
}

pub async fn a_lock_is_not_waited_for_longer_than_asked(subject: &Subject) {
    let _first = lock(subject, "first", TTL).await.expect("free");
    let error = soon(lock(subject, "second", Duration::from_millis(20))).await.err().expect("held");
    assert!(matches!(&error, LockError::Held { name, .. } if name == "l"), "{error}");
}

pub async fn one_campaigner_leads_and_the_next_follows(subject: &Subject) {
    assert_eq!(leader(&subject.engine, "e").await.expect("asked"), None);
    let first = Leadership::campaign(&subject.engine, "e", "first", LONG).await.expect("elected");
    assert_eq!(leader(&subject.engine, "e").await.expect("asked"), Some("first".into()));
    let engine = Arc::clone(&subject.engine);
    let second = tokio::spawn(async move { Leadership::campaign(&engine, "e", "second", LONG).await });
    let term = first.term();
    first.resign().await;
    let second = soon(second).await.expect("no panic").expect("elected");
    assert!(second.term() > term);
    assert_eq!(leader(&subject.engine, "e").await.expect("asked"), Some("second".into()));
}

pub async fn leadership_is_lost_with_its_lease(subject: &Subject) {
    let leadership = Leadership::campaign(&subject.engine, "e", "first", LONG).await.expect("elected");
    store(subject).delete(&format!("{LEADERS}e")).await.expect("deleted");
    soon(leadership.lost()).await;
    assert!(leadership.is_lost());
}

pub async fn a_campaign_that_is_dropped_leaves_nothing(subject: &Subject) {
    let first = Leadership::campaign(&subject.engine, "e", "first", LONG).await.expect("elected");
    let campaign = Leadership::campaign(&subject.engine, "e", "second", LONG);
    assert!(tokio::time::timeout(Duration::from_millis(20), campaign).await.is_err(), "the first leads");
    first.resign().await;
    assert_eq!(leader(&subject.engine, "e").await.expect("asked"), None);
}

fn daemon() -> DaemonRecord {
    DaemonRecord { daemon: "gateway".into(), instance: "a1".into(), address: None, pid: 7 }
}

pub async fn an_announcement_stays_until_it_is_withdrawn(subject: &Subject) {
    let announcement = announce(&subject.engine, &daemon(), LONG).await.expect("announced");
    let stands = value(subject, "daemons/gateway/a1").await.expect("announced");
    assert_eq!(serde_json::from_slice::<DaemonRecord>(&stands).expect("a record"), daemon());
    announcement.withdraw().await;
    assert_eq!(value(subject, "daemons/gateway/a1").await, None);
}

pub async fn an_announcement_that_the_store_lost_comes_again(subject: &Subject) {
    let _announcement = announce(&subject.engine, &daemon(), LONG).await.expect("announced");
    let (_, from) = store(subject).list("daemons/").await.expect("listed");
    let mut watch = store(subject).watch("daemons/", from.next()).await.expect("watching");
    store(subject).delete("daemons/gateway/a1").await.expect("deleted");
    assert!(matches!(next(&mut watch).await, Change::Deleted { .. }));
    assert!(matches!(next(&mut watch).await, Change::Put(_)));
}

pub async fn an_instance_is_announced_once(subject: &Subject) {
    let _announcement = announce(&subject.engine, &daemon(), LONG).await.expect("announced");
    let error = announce(&subject.engine, &daemon(), LONG).await.err().expect("refused");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}
