//! Servers that engines are checked against: each is started by the test that needs it, on a free port of
//! loopback, and ends with it. `tests/engines` installs them.

pub mod etcd;
pub mod moto;
pub mod proxy;

use std::{env, path::PathBuf};

/// A program that `tests/engines` installs for this build, in the target folder that this program lies in.
///
/// # Panics
/// When it is not there: a check that can't run has not passed.
pub fn installed(program: &str) -> PathBuf {
    let me = env::current_exe().expect("the kernel knows what it runs");
    let mut tools = me.ancestors().skip(1).map(|folder| folder.join("tools").join(program));
    tools
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("there is no {program}; tests/engines installs it"))
}
