//! Processes as the kernel knows them: who there is, how to end or stop one, when one has ended.

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open},
};
use std::{fs, net::SocketAddr, path::Path};

/// A process that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

/// All processes with `variable` in their environment or `word` on their command line. One that has
/// ended and was not waited for yet has neither.
#[must_use]
pub fn of(variable: &str, word: &str) -> Vec<Process> {
    let contains = |path: &Path, what: &str| {
        fs::read(path).is_ok_and(|bytes| bytes.split(|b| *b == 0).any(|part| part == what.as_bytes()))
    };
    let mentions = |path: &Path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(word.len()).any(|part| part == word.as_bytes()))
    };
    processes()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let folder = Path::new("/proc").join(pid.to_string());
            contains(&folder.join("environ"), variable) || mentions(&folder.join("cmdline"))
        })
        .map(|pid| Process { pid, command: command_line(pid) })
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// The state letter of a process: `R`, `S`, `T` for stopped, `Z` for ended and not waited for.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state follows the last one.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until a process has ended.
///
/// # Panics
/// When the kernel has no such descriptors (Linux before 5.3).
pub async fn ended(pid: u32) {
    let fd = match pidfd_open(id(pid), PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return,
        Err(error) => panic!("process {pid} can't be watched: {error}"),
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own, because the runtime would wait for one of its own when a test gives up.
    std::thread::spawn(move || {
        // Becomes readable when the process ends.
        while poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) == Err(Errno::INTR) {}
        let _ = tell.send(());
    });
    let _ = told.await;
}

/// `kill -9`, which may come too late.
pub fn kill(pid: u32) {
    let _ = kill_process(id(pid), Signal::KILL);
}

/// Sends a signal to a process that has to be there.
///
/// # Panics
/// When it is not.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(id(pid), signal).unwrap_or_else(|error| panic!("process {pid}: {error}"));
}

/// Sends a signal to a process group that has to be there, as a terminal does.
///
/// # Panics
/// When it is not.
pub fn signal_group(group: u32, signal: Signal) {
    kill_process_group(id(group), signal).unwrap_or_else(|error| panic!("group {group}: {error}"));
}

fn id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is a positive i32")
}

/// The addresses on which a process listens for TCP connections: what `ss -ltnp` shows.
#[must_use]
pub fn listening(pid: u32) -> Vec<SocketAddr> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has /proc/net/tcp");
    let listens = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // 0A is LISTEN; the tenth field is the socket's inode.
        let ours =
            *fields.get(3)? == "0A" && sockets.iter().any(|inode| Some(&inode.as_str()) == fields.get(9));
        let (address, port) = fields.get(1)?.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        ours.then_some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
    };
    table.lines().skip(1).filter_map(listens).collect()
}
