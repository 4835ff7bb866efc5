//! Who works on a data folder: locks that end with the process that has them, however it ends.
//!
//! `quorate up` has a folder for itself: what others announced in its database is of a former life, and
//! the pods are its own. Daemons that run by themselves share one with each other and with no `up`. One of
//! them alone is the cluster service: two would start every pod twice, and two lives of a replica over one
//! journal contradict each other.

use crate::control::Daemon;
use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Whoever looks whether a platform runs has its lock for a moment; it is tried again so often, after
/// each such pause.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// A right to work on a data folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Hold {
    _files: Vec<File>,
}

/// Why a data folder can't be worked on.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Others do.
    #[error("the data in {} is in use by {by}; use that platform, or choose another --data", data.display())]
    Held {
        /// The folder.
        data: PathBuf,
        /// Who they are, for a person.
        by: String,
    },
    /// It can't be written.
    #[error("the data folder can't be used: can't write {}: {source}", path.display())]
    Unusable {
        /// The folder, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// By one alone.
    Alone,
    /// By several who take it so.
    Together,
}

impl Hold {
    /// For a platform that has the folder for itself.
    ///
    /// # Errors
    /// When others work on it, or it can't be written.
    pub fn alone(data: &Path) -> Result<Self, HoldError> {
        let me = format!("quorate up (process {})", std::process::id());
        Ok(Self { _files: vec![lock(data, &platform(data), Share::Alone, &me)?] })
    }

    /// For a daemon that runs by itself.
    ///
    /// # Errors
    /// When a platform has the folder for itself, this is the second cluster service, or the folder can't
    /// be written.
    pub fn shared(data: &Path, daemon: Daemon) -> Result<Self, HoldError> {
        let mut files = Vec::new();
        if daemon == Daemon::Cluster {
            let me = format!("quorate cluster (process {})", std::process::id());
            files.push(lock(data, &data.join("cluster.lock"), Share::Alone, &me)?);
        }
        // Which they are changes while the lock is held; that there are some does not.
        files.push(lock(data, &platform(data), Share::Together, "daemons that run by themselves")?);
        Ok(Self { _files: files })
    }

    /// Whether a platform has the folder for itself.
    #[must_use]
    pub fn is_alone(data: &Path) -> bool {
        let Ok(file) = File::open(platform(data)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// Makes sure that a data folder can be worked on, whoever else does: it is made if need be, and written.
///
/// # Errors
/// When it can't be.
pub fn check(data: &Path) -> Result<(), HoldError> {
    std::fs::create_dir_all(data)
        .and_then(|()| tempfile::tempfile_in(data))
        .map(drop)
        .map_err(|source| HoldError::Unusable { path: data.to_owned(), source })
}

fn platform(data: &Path) -> PathBuf {
    data.join("up.lock")
}

fn lock(data: &Path, path: &Path, share: Share, me: &str) -> Result<File, HoldError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        |source| HoldError::Unusable { path, source }
    };
    std::fs::create_dir_all(data).map_err(unusable(data))?;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(unusable(path))?;
    for left in (0..TRIES).rev() {
        let locked = match share {
            Share::Alone => file.try_lock(),
            Share::Together => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => {
                file.set_len(0).and_then(|()| file.write_all(me.as_bytes())).map_err(unusable(path))?;
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) if left > 0 => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(source)) => return Err(unusable(path)(source)),
        }
    }
    let mut by = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut by));
    if read.is_err() || by.is_empty() {
        by = "another process".into();
    }
    Err(HoldError::Held { data: data.to_owned(), by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(held: Result<Hold, HoldError>, data: &Path, by: &str) {
        let error = held.expect_err("refused").to_string();
        assert!(error.contains(data.to_str().unwrap()) && error.contains(by), "{error}");
    }

    #[test]
    fn a_platform_has_its_folder_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("made");
        assert!(!Hold::is_alone(&data));
        let up = Hold::alone(&data).unwrap();
        assert!(Hold::is_alone(&data));
        let by = format!("quorate up (process {})", std::process::id());
        refused(Hold::alone(&data), &data, &by);
        for daemon in Daemon::ALL {
            refused(Hold::shared(&data, daemon), &data, &by);
        }
        drop(up);
        assert!(!Hold::is_alone(&data));
        Hold::alone(&data).unwrap();
    }

    #[test]
    fn daemons_share_a_folder_and_one_of_them_is_the_cluster_service() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let all = Daemon::ALL.map(|daemon| Hold::shared(data, daemon).unwrap());
        let gateway = Hold::shared(data, Daemon::Gateway).unwrap();
        refused(Hold::shared(data, Daemon::Cluster), data, "quorate cluster (process ");
        refused(Hold::alone(data), data, "daemons that run by themselves");
        assert!(!Hold::is_alone(data), "they are no platform that has told where it is");
        drop(all);
        refused(Hold::alone(data), data, "daemons that run by themselves");
        let cluster = Hold::shared(data, Daemon::Cluster).unwrap();
        drop((gateway, cluster));
        Hold::alone(data).unwrap();
    }

    #[test]
    fn a_folder_that_can_t_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        refused(Hold::alone(&file), &file, "can't write");
    }
}
