//! Servers that engines are checked against: each is started by the test that needs it, on a free port of
//! loopback, and ends with it. `tests/engines` installs them.

pub mod etcd;
pub mod moto;
pub mod proxy;

use std::path::{Path, PathBuf};

/// A program that `tests/engines` installs for this build.
///
/// # Panics
/// When it is not there: a check that can't run has not passed.
pub fn installed(program: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder of the target folder");
    let path = tools.join("tools").join(program);
    assert!(path.exists(), "{} is not there; tests/engines installs it", path.display());
    path
}
