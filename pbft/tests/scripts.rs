//! Stories about the protocol, one a file in `scripts/`; `UPDATE=1` rewrites what happens in them.
#![cfg(feature = "sim")]

use std::path::Path;

use quorate_pbft::sim::script;

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name).with_extension("txt");
    let written = std::fs::read_to_string(&path).expect("the script is there");
    let now = script::rewrite(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(&path, now).expect("the script can be written");
    }
    for (line, (written, now)) in (1..).zip(written.lines().zip(now.lines())) {
        assert_eq!(written, now, "{name}, line {line}; UPDATE=1 rewrites it");
    }
    assert_eq!(written, now, "{name}; UPDATE=1 rewrites it");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )*

    #[test]
    fn every_script_is_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
        let mut found: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder is there")
            .map(|entry| entry.expect("a file").path().file_stem().expect("a name").to_owned())
            .collect();
        let mut known = vec![$(std::ffi::OsString::from(stringify!($name))),*];
        found.sort();
        known.sort();
        assert_eq!(found, known);
    }};
}

scripts! {
    normal_case,
    retransmission,
    checkpoint,
    killed_backup,
    killed_primary,
    lagging_replica,
    client_window,
    receipts,
    everybody_crashes,
    votes,
    doubted_requests,
    marked_client,
    marks_survive,
    equivocating_primary,
    lying_transfer,
    slow_transfer,
    transfer_moves_on,
    diverged,
    split,
    view_change,
    view_change_twice,
    view_change_alone,
    view_change_crash,
    view_change_gap,
    view_change_orphans,
    view_change_censor,
    view_change_scattered,
    view_change_doubt,
    view_change_fetched,
    replacement,
    big_request,
    big_request_missing,
    big_request_of_nobody,
    big_request_everybody_crashes,
    big_request_view_change,
}
