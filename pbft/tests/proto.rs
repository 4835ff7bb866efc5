//! The checked-in wire types are what `proto/wire.proto` generates. `UPDATE=1` rewrites them.

use std::path::Path;

#[test]
fn wire_types_are_generated_from_the_schema() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = protox::compile(["wire.proto"], [root.join("proto")])?;
    let out = tempfile::tempdir()?;
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(schema)?;
    let fresh = std::fs::read_to_string(out.path().join("quorate.pbft.v1.rs"))?;
    let kept = root.join("src/message/wire/generated.rs");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&kept, &fresh)?;
    }
    assert!(
        std::fs::read_to_string(&kept)? == fresh,
        "{} is out of date: run UPDATE=1 cargo test -p quorate-pbft --test proto",
        kept.display()
    );
    Ok(())
}
