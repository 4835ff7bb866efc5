use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{Damage, Owner, encode_header, encode_record, recover};
use crate::replica::{JournalPosition, Record};

/// A segment is closed when it has grown to this many bytes.
const SEGMENT_BYTES: u64 = 1 << 23;
/// The last segment is filled with zeros up to a multiple of this many bytes: a sync that finds the file as
/// long as before leaves its inode alone, which is half of its work. Zeros are no record, so that to
/// recovery they are a torn tail. Space that was only reserved would not do: its first use is written down
/// in the inode, too.
const ZEROS_BYTES: u64 = 1 << 18;
const EXTENSION: &str = "journal";

/// What "durable" means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// On the disk: survives a crash of the machine (`fdatasync`). The default.
    #[default]
    Data,
    /// With the operating system: survives a crash of the process only. The faults that a group
    /// tolerates then count crashed machines that come back, too.
    Process,
}

/// Where a replica keeps its journal.
#[derive(Clone, Debug)]
pub struct JournalSetup {
    /// The directory of the segments.
    pub path: PathBuf,
    /// What durable means.
    pub sync: SyncPolicy,
    /// Whether to begin a journal when there is none: on the very first start of this replica
    /// only. Later a missing journal is a lost one, and the replica must not vote again.
    pub create: bool,
}

/// Why a journal can't be opened or written.
#[derive(Debug, Error)]
pub enum JournalFailed {
    /// There is none.
    #[error("no journal in {path}: if it is lost, this replica must be replaced, not restarted")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A segment doesn't read.
    #[error("{path}: {source}")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        source: Damage,
    },
    /// A segment is missing between two others.
    #[error("{path}: begins with record {found}, but record {expected} is next", found = found.0, expected = expected.0)]
    Gap {
        /// The segment behind the gap.
        path: PathBuf,
        /// Its first record.
        found: JournalPosition,
        /// What should be.
        expected: JournalPosition,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A journal in a directory of segments, one writer.
///
/// [`append`](Journal::append) only collects; [`commit`](Journal::commit) writes and syncs all of
/// it at once, however many records there are. After an error nothing more may be written: what
/// is on the disk is unknown.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    owner: Owner,
    sync: SyncPolicy,
    /// Older segments with their first positions, the oldest first.
    closed: VecDeque<(JournalPosition, PathBuf)>,
    current: Current,
    /// Records since the last commit.
    pending: Vec<u8>,
    next: JournalPosition,
    durable: JournalPosition,
    bytes: u64,
}

#[derive(Debug)]
struct Current {
    first: JournalPosition,
    path: PathBuf,
    /// Stands where the next record goes.
    file: File,
    /// Bytes of its records and its header.
    bytes: u64,
    /// Bytes of the file: zeros come behind the records.
    length: u64,
}

impl Journal {
    /// Opens the journal and reads it; a torn tail is cut.
    ///
    /// Gives the position of the first record beside the records.
    ///
    /// # Errors
    /// When it is missing, damaged, or somebody else's.
    pub fn open(
        setup: &JournalSetup,
        owner: Owner,
    ) -> Result<(Self, JournalPosition, Vec<Record>), JournalFailed> {
        let directory = setup.path.clone();
        let mut paths = segments(&directory)?;
        if paths.is_empty() {
            if !setup.create {
                return Err(JournalFailed::Missing { path: directory });
            }
            create_directory(&directory)?;
            paths.push(begin_segment(&directory, &owner, JournalPosition(1))?);
        }
        let mut records = Vec::new();
        let mut closed = VecDeque::new();
        let (mut start, mut end, mut total) = (None, None, 0);
        let last = paths.len() - 1;
        for (index, path) in paths.into_iter().enumerate() {
            let bytes = fs::read(&path).map_err(io_at(&path))?.into();
            let segment = recover(&bytes, &owner, index == last)
                .map_err(|source| JournalFailed::Damaged { path: path.clone(), source })?;
            let (found, expected) = (segment.first, end.unwrap_or(segment.first));
            if found != expected {
                return Err(JournalFailed::Gap { path, found, expected });
            }
            start.get_or_insert(found);
            end = Some(segment.end());
            total += segment.valid_bytes as u64;
            closed.push_back((found, path, segment.valid_bytes as u64));
            records.extend(segment.records);
        }
        // What is left of a journal always holds a copy of the state that it begins with.
        if let (Some(found), true, Some((_, path, _))) = (start, records.is_empty(), closed.front())
            && found > JournalPosition(1)
        {
            let (path, expected) = (path.clone(), JournalPosition(1));
            return Err(JournalFailed::Gap { path, found, expected });
        }
        let (first, path, valid) = closed.pop_back().expect("there is a segment");
        let file = open_at(&path, valid)?;
        file.set_len(valid).and_then(|()| file.sync_all()).map_err(io_at(&path))?;
        let next = end.expect("there is a segment");
        let journal = Self {
            directory,
            owner,
            sync: setup.sync,
            closed: closed.into_iter().map(|(first, path, _)| (first, path)).collect(),
            current: Current { first, path, file, bytes: valid, length: valid },
            pending: Vec::new(),
            next,
            durable: JournalPosition(next.0 - 1),
            bytes: total,
        };
        Ok((journal, start.expect("there is a segment"), records))
    }

    /// Collects a record for the next commit.
    ///
    /// # Panics
    /// When `position` is not the next one.
    pub fn append(&mut self, position: JournalPosition, record: &Record) {
        assert_eq!(position, self.next, "records are appended in order");
        let durable = match self.sync {
            SyncPolicy::Data => self.durable,
            // What was handed to the operating system before counts as durable.
            SyncPolicy::Process => JournalPosition(position.0 - 1),
        };
        encode_record(&mut self.pending, position, durable, record);
        self.next = position.next();
    }

    /// Writes and syncs all that was appended; gives the last durable position.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn commit(&mut self) -> Result<JournalPosition, JournalFailed> {
        if !self.pending.is_empty() {
            let Current { file, path, bytes, length, .. } = &mut self.current;
            let added = self.pending.len() as u64;
            *bytes += added;
            self.bytes += added;
            // Who does not sync gains nothing by zeros.
            let zeros = match self.sync {
                SyncPolicy::Data if *bytes > *length => bytes.next_multiple_of(ZEROS_BYTES) - *bytes,
                SyncPolicy::Data | SyncPolicy::Process => 0,
            };
            let zeros_added = usize::try_from(zeros).expect("below ZEROS_BYTES");
            self.pending.resize(self.pending.len() + zeros_added, 0);
            file.write_all(&self.pending).map_err(io_at(path))?;
            if zeros > 0 {
                file.seek(SeekFrom::Start(*bytes)).map_err(io_at(path))?;
            }
            *length = (*length).max(*bytes + zeros);
            if self.sync == SyncPolicy::Data {
                file.sync_data().map_err(io_at(path))?;
            }
            self.pending.clear();
        }
        self.durable = JournalPosition(self.next.0 - 1);
        if self.current.bytes >= SEGMENT_BYTES {
            self.rotate()?;
        }
        Ok(self.durable)
    }

    /// Drops whole segments below `before`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn truncate(&mut self, before: JournalPosition) -> Result<(), JournalFailed> {
        while let Some((_, path)) = self.closed.front() {
            // A segment ends where the next one begins.
            let end = self.closed.get(1).map_or(self.current.first, |(first, _)| *first);
            if end > before {
                break;
            }
            let length = fs::metadata(path).map_err(io_at(path))?.len();
            // Synced one by one: a crash that undid a later removal and not an earlier one is
            // harmless, the other way round it would leave a gap.
            fs::remove_file(path)
                .and_then(|()| File::open(&self.directory)?.sync_all())
                .map_err(io_at(path))?;
            self.bytes = self.bytes.saturating_sub(length);
            self.closed.pop_front();
        }
        Ok(())
    }

    /// The bytes on the disk, without zeros that are written ahead.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The position of the next record.
    pub fn next(&self) -> JournalPosition {
        self.next
    }

    fn rotate(&mut self) -> Result<(), JournalFailed> {
        // All of a closed segment counts as durable, under either policy. Nothing comes behind its records.
        let Current { file, path, bytes, .. } = &self.current;
        file.set_len(*bytes).and_then(|()| file.sync_all()).map_err(io_at(path))?;
        let path = begin_segment(&self.directory, &self.owner, self.next)?;
        let bytes = fs::metadata(&path).map_err(io_at(&path))?.len();
        let file = open_at(&path, bytes)?;
        let fresh = Current { first: self.next, path, file, bytes, length: bytes };
        let old = std::mem::replace(&mut self.current, fresh);
        self.closed.push_back((old.first, old.path));
        self.bytes += bytes;
        Ok(())
    }
}

/// Makes a directory and those above it, as durable as what will be in it.
fn create_directory(directory: &Path) -> Result<(), JournalFailed> {
    let missing: Vec<_> = directory.ancestors().take_while(|above| !above.exists()).collect();
    fs::create_dir_all(directory).map_err(io_at(directory))?;
    for above in missing.iter().filter_map(|made| made.parent()) {
        // The parent of a relative path's first name is here.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        File::open(above).and_then(|above| above.sync_all()).map_err(io_at(above))?;
    }
    Ok(())
}

/// Makes a segment with its header, whole or not at all.
fn begin_segment(directory: &Path, owner: &Owner, first: JournalPosition) -> Result<PathBuf, JournalFailed> {
    let path = directory.join(format!("{:020}.{EXTENSION}", first.0));
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished).map_err(io_at(&unfinished))?;
    file.write_all(&encode_header(owner, first))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, &path))
        // The directory's entry must be as durable as the file.
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(io_at(&path))?;
    Ok(path)
}

/// Opens a segment to write at its end.
fn open_at(path: &Path, end: u64) -> Result<File, JournalFailed> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(io_at(path))?;
    file.seek(SeekFrom::Start(end)).map_err(io_at(path))?;
    Ok(file)
}

/// The segments of a directory by their first positions; none when there is no directory.
fn segments(directory: &Path) -> Result<Vec<PathBuf>, JournalFailed> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(directory)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_at(directory))?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort(); // names are positions of one width
    Ok(paths)
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> JournalFailed + use<> {
    let path = path.to_owned();
    move |source| JournalFailed::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{OWNER, record},
        *,
    };

    fn setup(path: &Path, create: bool) -> JournalSetup {
        JournalSetup { path: path.join("journal"), sync: SyncPolicy::Data, create }
    }

    fn append(journal: &mut Journal, count: u64) {
        for _ in 0..count {
            let position = journal.next();
            journal.append(position, &record(position.0));
        }
    }

    #[test]
    fn committed_records_come_back_and_uncommitted_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, first, records) = Journal::open(&setup(directory.path(), true), OWNER).unwrap();
        assert_eq!((first, records), (JournalPosition(1), vec![]));
        append(&mut journal, 3);
        assert_eq!(journal.commit().unwrap(), JournalPosition(3));
        append(&mut journal, 2);
        drop(journal);
        let (mut journal, _, records) = Journal::open(&setup(directory.path(), false), OWNER).unwrap();
        assert_eq!(records, [1, 2, 3].map(record));
        append(&mut journal, 1);
        assert_eq!(journal.commit().unwrap(), JournalPosition(4));
    }

    #[test]
    fn lost_journal_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Journal::open(&setup(directory.path(), false), OWNER);
        assert!(matches!(missing, Err(JournalFailed::Missing { .. })));
    }

    #[test]
    fn journal_goes_on_after_a_torn_tail() {
        let directory = tempfile::tempdir().unwrap();
        let setup = setup(directory.path(), true);
        let (mut journal, ..) = Journal::open(&setup, OWNER).unwrap();
        append(&mut journal, 3);
        journal.commit().unwrap();
        let (path, length) = (journal.current.path.clone(), journal.current.bytes);
        drop(journal);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        let (mut journal, _, records) = Journal::open(&setup, OWNER).unwrap();
        assert_eq!(records, [1, 2].map(record));
        append(&mut journal, 2);
        journal.commit().unwrap();
        drop(journal);
        let (_, _, records) = Journal::open(&setup, OWNER).unwrap();
        assert_eq!(records, [1, 2, 3, 4].map(record));
    }

    #[test]
    fn synced_file_grows_in_steps_and_its_zeros_are_no_records() {
        let directory = tempfile::tempdir().unwrap();
        let setup = setup(directory.path(), true);
        let (mut journal, ..) = Journal::open(&setup, OWNER).unwrap();
        let path = journal.current.path.clone();
        let length = || fs::metadata(&path).unwrap().len();
        append(&mut journal, 3);
        journal.commit().unwrap();
        let mut steps = vec![length()];
        while steps.len() < 3 {
            append(&mut journal, 100);
            journal.commit().unwrap();
            if steps.last() != Some(&length()) {
                steps.push(length());
            }
        }
        assert_eq!(steps, [1, 2, 3].map(|step| step * ZEROS_BYTES));
        let (next, bytes) = (journal.next(), journal.bytes());
        drop(journal);
        let (journal, _, records) = Journal::open(&setup, OWNER).unwrap();
        assert_eq!(records, (1..next.0).map(record).collect::<Vec<_>>());
        assert_eq!((journal.next(), journal.bytes(), length()), (next, bytes, bytes));
    }

    #[test]
    fn segments_rotate_and_truncation_drops_whole_ones() {
        for sync in [SyncPolicy::Process, SyncPolicy::Data] {
            rotate_and_truncate(sync);
        }
    }

    fn rotate_and_truncate(sync: SyncPolicy) {
        let directory = tempfile::tempdir().unwrap();
        let setup = JournalSetup { sync, ..setup(directory.path(), true) };
        let (mut journal, ..) = Journal::open(&setup, OWNER).unwrap();
        while journal.closed.len() < 3 {
            append(&mut journal, 10_000);
            journal.commit().unwrap();
        }
        let second = journal.closed[1].0;
        let bytes = journal.bytes();
        journal.truncate(JournalPosition(second.0 - 1)).unwrap();
        assert_eq!(journal.closed.len(), 3, "the first segment ends at {second:?}");
        journal.truncate(second).unwrap();
        assert_eq!(journal.closed.len(), 2);
        assert!(journal.bytes() < bytes);
        let next = journal.next();
        drop(journal);
        let (journal, first, records) = Journal::open(&setup, OWNER).unwrap();
        assert_eq!(first, second);
        assert_eq!(journal.next(), next);
        assert_eq!(records.len() as u64, next.0 - first.0);
        assert_eq!(records[0], record(first.0));
        // A segment missing in the middle is not overlooked.
        let path = journal.closed[1].1.clone();
        drop(journal);
        fs::remove_file(path).unwrap();
        assert!(matches!(Journal::open(&setup, OWNER), Err(JournalFailed::Gap { .. })));
    }
}
