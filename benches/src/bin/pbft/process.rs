//! Processes that are this program again, and what the kernel accounts to them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::Outcome;

/// A child that is told things line by line, and killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program again, in one of its roles.
    pub(crate) fn start(arguments: &[&str]) -> Outcome<Self> {
        Self::spawn(Command::new(std::env::current_exe()?).args(arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("the child's output is piped")?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a process of the benchmark ended early".into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn expect(&mut self, expected: &str) -> Outcome<()> {
        let line = self.line()?;
        if line == expected { Ok(()) } else { Err(format!("{line}, not {expected}").into()) }
    }

    pub(crate) fn tell(&mut self, text: &str) -> Outcome<()> {
        let stdin = self.stdin.as_mut().ok_or("already told to end")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// What the kernel accounts to it so far, all its threads included.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // Nanoseconds on a processor come first: proc(5), /proc/pid/schedstat.
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            total += stat.split(' ').next().ok_or("schedstat is empty")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Closes its input, which tells it to end, and waits for that.
    pub(crate) fn finish(mut self) -> Outcome<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a process ended with {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel accounts to the processes so far, all their threads included.
pub(crate) fn cpu(processes: &[Process]) -> Outcome<Duration> {
    processes.iter().map(Process::cpu).sum()
}

/// Waits until the parent closes our input: it is done, or dead.
pub(crate) fn wait_for_parent() -> Outcome<()> {
    while std::io::stdin().read_line(&mut String::new())? > 0 {}
    Ok(())
}

/// 32 bytes of the operating system's.
pub(crate) fn seed() -> Outcome<[u8; 32]> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}
