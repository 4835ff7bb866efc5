//! The supervisor over shell scripts in the place of the control plane.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use quorate::{
    backend::process::Program,
    config::Config,
    supervisor::{Platform, SupervisorError},
};
use std::{os::unix::fs::PermissionsExt, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);

/// Serves, ends, refuses once to start, and serves again until its input ends.
const REFUSES_ONCE: &str = r#"#!/bin/sh
read -r brief
echo x >>"$0.starts"
case $(wc -l <"$0.starts") in
  *1) echo '{"serving":{"url":"http://127.0.0.1:1"}}' ;;
  *2) echo '{"refused":{"reason":"the disk is full"}}' ;;
  *) echo '{"serving":{"url":"http://127.0.0.1:2"}}'; while read -r line; do :; done ;;
esac
"#;

/// Never serves.
const REFUSES: &str = r#"#!/bin/sh
read -r brief
echo '{"refused":{"reason":"the port is taken"}}'
"#;

fn platform(script: &str) -> (Platform, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("quorate");
    std::fs::write(&binary, script).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = Program { binary, arguments: Vec::new() };
    (Platform::start(program, Config::default(), folder.path()), folder)
}

#[tokio::test]
async fn a_control_plane_that_has_served_may_refuse_to_start_and_is_tried_again() {
    let (mut platform, _folder) = platform(REFUSES_ONCE);
    let again = async {
        while platform.url().await.unwrap() != "http://127.0.0.1:2" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("serves again");
    platform.stop().await.unwrap();
}

#[tokio::test]
async fn a_control_plane_that_never_served_and_refuses_ends_the_platform_with_its_reason() {
    let (mut platform, _folder) = platform(REFUSES);
    match tokio::time::timeout(PATIENCE, platform.url()).await.expect("ends") {
        Err(SupervisorError::Refused { reason }) => assert_eq!(reason, "the port is taken"),
        other => panic!("{other:?}"),
    }
}
