//! The embedded engine does what every engine must.

use quorate::{
    clock::ManualClock,
    config::Durability,
    conformance::Subject,
    sqlite::{Options, SqliteEngine},
};
use std::sync::Arc;

async fn subject() -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let options = Options {
        clock: clock.clone(),
        record_bytes_max: 1 << 20,
        receipt_bytes_max: 2 << 20,
        changes_kept: 200,
        watch_capacity: 200,
        ..Options::new(Durability::Process)
    };
    let engine = SqliteEngine::open_with(&folder.path().join("quorate.db"), options).expect("it opens");
    Subject {
        engine,
        time: Box::new(clock),
        too_large: (2 << 20) + 1,
        changes_kept: 200,
        compact: None,
        keep: Box::new(folder),
    }
}

mod queue {
    quorate::queue_conformance!(super::subject());
}

mod records {
    quorate::records_conformance!(super::subject());
}

mod store {
    quorate::store_conformance!(super::subject());
}
