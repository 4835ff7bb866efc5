//! The checked-in gRPC code is what the `.proto` file generates.

use std::path::Path;

fn generate(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors =
        protox::compile(["quorate/v1/quorate.proto"], [root.join("proto")]).expect("the file compiles");
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(into)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .expect("code can be generated");
}

#[test]
fn checked_in_code_is_generated_from_the_proto_file() {
    let fresh = tempfile::tempdir().expect("a temporary folder");
    generate(fresh.path());
    let fresh = std::fs::read_to_string(fresh.path().join("quorate.v1.rs")).expect("generated");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto/quorate.v1.rs");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "src/proto/quorate.v1.rs is stale; UPDATE=1 cargo test -p quorate --test proto writes it"
    );
}
