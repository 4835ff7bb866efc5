//! The harness of the end-to-end tests: the real binary, real processes, real sockets.
//!
//! [`Platform`] is a `quorate up` on a data folder of its own, [`Data`] the folder and the way to run
//! any other command on it, [`Load`] a closed loop of requests whose every answer is checked. Every
//! [`Platform`] that is stopped has proven that no process of it is left. [`trace`] is for tests of what happens in
//! which order.
//!
//! Nothing here waits without a deadline, and what the operating system or the platform announces is
//! awaited, not slept for.

mod binary;
#[cfg(feature = "engines")]
pub mod cloud;
mod data;
mod fleet;
pub mod history;
#[cfg(feature = "engines")]
pub mod kubernetes;
mod load;
mod platform;
pub mod process;
mod random;
#[cfg(feature = "engines")]
#[path = "../../daemons/tests/servers/installed.rs"]
pub mod servers;
pub mod trace;

pub use binary::binary;
pub use data::{Data, Output, keys};
pub use fleet::Fleet;
pub use load::{Load, Mix, Report};
pub use platform::{Platform, Response, Status};
pub use random::Random;

use std::{future::Future, time::Duration};

/// The README's code, compiled and run as whoever pastes it would.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The longest that anything takes that has to happen: far above what it takes, so that a busy machine
/// does not fail a test, and below the time-out of a test, so that the test can say what it waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds what it looks for, and says what that is.
///
/// # Panics
/// When it has not found it within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same for what may take longer.
///
/// # Panics
/// When it has not found it within `patience`.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(patience, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {patience:?} in vain: {what}"),
    }
}

/// The configuration of a platform whose functions run unreplicated.
pub const NONE: &str = "[functions.default]\nreplication = \"none\"\n";

/// The configuration of a platform on which four replicas agree on every result: the default, said.
pub const BYZANTINE: &str = "[functions.default]\nreplication = { f = 1 }\n";

/// The configuration of a platform with one function on four replicas, and the others as they are cheapest.
pub const MIXED: &str =
    "[functions.default]\nreplication = \"none\"\n[functions.mul]\nreplication = { f = 1 }\n";
