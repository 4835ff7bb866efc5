//! Where the binary under test is: built by cargo when it has to be, in the profile of the tests.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The `quorate` binary, as new as the sources.
///
/// # Panics
/// When it can't be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

/// `target/` and the name of the profile's folder in it.
pub(crate) fn target() -> (PathBuf, String) {
    let me = env::current_exe().expect("the kernel knows what it runs");
    // target/debug/deps/faults-0123456789abcdef, or target/release/eval for a benchmark.
    let folder = me.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("has a parent");
    let profile = folder.file_name().expect("is a folder of target/").to_string_lossy().into_owned();
    (folder.parent().expect("lies in target/").into(), profile)
}

fn build() -> PathBuf {
    let (target, folder) = target();
    let binary = target.join(&folder).join(format!("quorate{}", env::consts::EXE_SUFFIX));
    // Under nextest each test is a process: the first of a run asks cargo, the others rely on it.
    let run = env::var("NEXTEST_RUN_ID").ok();
    let stamp = target.join("tmp").join("quorate-built-for");
    let _alone = crate::data::lock(&target.join("tmp").join("quorate-build.lock"));
    if run.is_some() && fs::read_to_string(&stamp).ok() == run && binary.exists() {
        return binary;
    }
    let profile = if folder == "debug" { "dev" } else { &folder };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo
        .args(["build", "--quiet", "--bin", "quorate", "--profile", profile])
        .args(if cfg!(feature = "engines") { &["--features", "quorate-tests/engines"][..] } else { &[] })
        .arg("--target-dir")
        .arg(&target)
        // The root's default members, as in `cargo test`: the same features, so the same artefacts.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for (name, _) in env::vars_os() {
        // What cargo set for this process is not meant for that one: build scripts that watch these
        // variables would run again, and with them all that depends on them.
        let name = name.to_string_lossy().into_owned();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "NEXTEST", "OUT_DIR"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "CARGO_TARGET_TMPDIR" {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo built this test, so it is there");
    assert!(status.success(), "`quorate` does not build: {status}");
    assert!(binary.exists(), "cargo has built no {}", binary.display());
    if let Some(run) = run {
        fs::write(&stamp, run).expect("target/tmp is writable");
    }
    binary
}
