//! `quorate status`: the processes of a platform and its queues.

use super::{At, Failure, Global, Settings, platform::Platform, print, print_json, table::table};
use crate::api::{ProcessStatus, QueueStatus};
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

impl Status {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let client = platform.client();
        let processes = client.status().await?;
        if global.json {
            return print_json(&processes);
        }
        let queues = client.queues().await?;
        print(&format!(
            "platform at {}\n\n{}\n{}",
            client.url(),
            of_processes(&processes),
            of_queues(&queues)
        ))
    }
}

fn of_processes(processes: &[ProcessStatus]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let rows: Vec<_> = processes
        .iter()
        .map(|process| {
            let daemon = match process.index {
                Some(index) => format!("{} {index}", process.daemon),
                None => process.daemon.clone(),
            };
            let view = match (process.view, process.primary) {
                (Some(view), Some(true)) => format!("{view} primary"),
                (Some(view), _) => view.to_string(),
                _ => String::new(),
            };
            [
                text(&process.set),
                daemon,
                process.state.clone(),
                process.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                text(&process.address),
                process.incarnation.map(|incarnation| incarnation.to_string()).unwrap_or_default(),
                view,
            ]
        })
        .collect();
    table(["SET", "PROCESS", "STATE", "PID", "ADDRESS", "INCARNATION", "VIEW"], &rows)
}

fn of_queues(queues: &[QueueStatus]) -> String {
    let rows: Vec<_> = queues
        .iter()
        .map(|queue| {
            [
                queue.queue.clone(),
                queue.waiting.to_string(),
                queue.in_flight.to_string(),
                queue
                    .oldest_ms
                    .filter(|_| queue.waiting > 0)
                    .map_or_else(String::new, |oldest| format!("{oldest} ms")),
                queue.dead.to_string(),
            ]
        })
        .collect();
    table(["QUEUE", "WAITING", "IN FLIGHT", "OLDEST", "DEAD"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_shown_by_set_with_the_primary_named() {
        let process = |daemon: &str, index, view, primary| ProcessStatus {
            daemon: daemon.into(),
            function: Some("add".into()),
            set: Some("add-0".into()),
            index,
            pid: Some(7),
            pod: None,
            address: Some("127.0.0.1:1".into()),
            state: "ready".into(),
            incarnation: Some(1),
            view,
            primary,
        };
        let shown = of_processes(&[
            process("worker", None, None, None),
            process("replica", Some(0), Some(0), Some(true)),
            process("replica", Some(1), Some(0), Some(false)),
        ]);
        assert_eq!(
            shown,
            "\
SET    PROCESS    STATE  PID  ADDRESS      INCARNATION  VIEW
add-0  worker     ready  7    127.0.0.1:1  1
add-0  replica 0  ready  7    127.0.0.1:1  1            0 primary
add-0  replica 1  ready  7    127.0.0.1:1  1            0
"
        );
    }
}
