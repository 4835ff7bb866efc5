//! The file: opening it, what it must be, and its tables.

use super::{OpenError, Options};
use crate::config::Durability;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;

/// `Qrat`: marks the file as ours, so that no other program's database is written to.
const APPLICATION_ID: i32 = 0x5172_6174;

/// The version of the tables. A file with a newer one is refused.
const VERSION: i32 = 1;

/// Pages of the WAL (4 KiB each) after which a commit copies it back into the database. SQLite's default
/// of 1,000 copies the same hot pages more often than this; four times that is still only 16 MiB.
const CHECKPOINT_PAGES: i32 = 4000;

/// Pages that a connection keeps in memory; negative, because it is in KiB.
const CACHE_SIZE: i32 = -16_384;

const TABLES: &str = "
CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- AUTOINCREMENT: the id of a deleted message is never given again, or a late handle would delete another.
-- visible_ms: when it may be received (next); lease_ms: how far after `now` that was set.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    visible_ms INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    receives INTEGER NOT NULL,
    sent_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
-- In the order in which messages became receivable: what lapses stands behind what waits already.
CREATE INDEX messages_in_turn ON messages (queue, visible_ms);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    receives INTEGER NOT NULL,
    sent_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX dead_letters_of ON dead_letters (queue);

-- A tombstone is a record without a request.
CREATE TABLE records (
    id BLOB PRIMARY KEY,
    accepted_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    request TEXT,
    outcome TEXT
) WITHOUT ROWID;
CREATE INDEX records_accepted ON records (accepted_ms) WHERE outcome IS NULL AND request IS NOT NULL;
CREATE INDEX records_expiring ON records (expires_ms);

CREATE TABLE receipts (id BLOB PRIMARY KEY, body BLOB NOT NULL);

-- Keys are bytes, so that a prefix is a range in the order of memcmp.
CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER)
    WITHOUT ROWID;
CREATE INDEX entries_leased ON entries (lease) WHERE lease IS NOT NULL;

-- The newest revision is the store's; a change without a value is a deletion.
CREATE TABLE changes (revision INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB);

CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ttl_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
);
CREATE INDEX leases_ending ON leases (expires_ms);
";

/// Opens the file for the writer, making it when there is none.
pub(super) fn open_writer(path: &Path, options: &Options, now_ms: i64) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = open(path, options, flags)?;
    let failed = |source| OpenError::of(path, source);
    identify(path, &mut connection)?;
    // WAL: readers see the last commit while the writer works on the next, and a commit is one append.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    let synchronous = match options.durability {
        // Each commit is synced with the WAL that holds it: an acknowledged write survives a power cut.
        Durability::Disk => "FULL",
        // What was handed to the system survives the end of this process, in order and whole. Only
        // checkpoints sync (the WAL before the database is touched), so that a power cut costs the last
        // commits and never the file, as OFF would.
        Durability::Process => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20).map_err(failed)?;
    if let Some(pages) = options.file_pages_max {
        connection.pragma_update(None, "max_page_count", pages).map_err(failed)?;
    }
    settle_clock(&connection, now_ms).map_err(failed)?;
    if options.durability == Durability::Disk {
        lengthen_log(&connection).map_err(failed)?;
    }
    Ok(connection)
}

/// Opens the file for reading.
pub(super) fn open_reader(path: &Path, options: &Options) -> Result<Connection, OpenError> {
    let connection = open(path, options, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "query_only", true).map_err(|source| OpenError::of(path, source))?;
    Ok(connection)
}

fn open(path: &Path, options: &Options, flags: OpenFlags) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::of(path, source);
    let connection =
        Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(options.busy_timeout).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(failed)?;
    connection.pragma_update(None, "cache_size", CACHE_SIZE).map_err(failed)?;
    Ok(connection)
}

/// Makes the tables in an empty file, and refuses one that is not ours or from a newer version.
fn identify(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let failed = |source| OpenError::of(path, source);
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let number = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application_id = number("application_id").map_err(failed)?;
    let version = number("user_version").map_err(failed)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (application_id, version) {
        (0, 0) if tables == 0 => {
            transaction.execute_batch(TABLES).map_err(failed)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
            transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        }
        (APPLICATION_ID, VERSION) => {}
        (APPLICATION_ID, version) => {
            return Err(OpenError::Version { path: path.into(), version, known: VERSION });
        }
        _ => return Err(OpenError::Foreign { path: path.into() }),
    }
    transaction.commit().map_err(failed)
}

/// Makes the WAL as long as it becomes between checkpoints. Syncing what overwrites a file is quicker than
/// syncing what lengthens it, which has the file system write its own journal too.
///
/// Pages that do not fit into the cache are written to the WAL before their transaction commits, and
/// stay there as nothing when it does not.
fn lengthen_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", 16)?;
    connection.execute_batch("BEGIN IMMEDIATE; CREATE TABLE length (bytes BLOB)")?;
    let bytes = i64::from(CHECKPOINT_PAGES) * 4096;
    let lengthened = connection.execute("INSERT INTO length VALUES (zeroblob(?1))", [bytes]);
    connection.execute_batch("ROLLBACK")?;
    connection.pragma_update(None, "cache_size", CACHE_SIZE)?;
    // Where the disk or the file may not grow so far, it goes on without.
    match lengthened {
        Err(error) if error.sqlite_error_code() != Some(ErrorCode::DiskFull) => Err(error),
        _ => Ok(()),
    }
}

/// A machine whose clock was set back finds leases that end later than they could: they end as if they
/// had been taken just now.
fn settle_clock(connection: &Connection, now_ms: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE messages SET visible_ms = ?1 + lease_ms WHERE visible_ms > ?1 + lease_ms",
        [now_ms],
    )?;
    connection
        .execute("UPDATE leases SET expires_ms = ?1 + ttl_ms WHERE expires_ms > ?1 + ttl_ms", [now_ms])?;
    Ok(())
}

impl OpenError {
    fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.into();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt { path },
            _ => Self::Failed { path, source },
        }
    }
}
