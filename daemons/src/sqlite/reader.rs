//! A thread that reads.

use super::{
    OpenError, Options,
    mailbox::{AbandonOnExit, Mailbox},
    schema,
};
use rusqlite::Connection;
use std::{path::Path, sync::Arc, thread::JoinHandle};

/// One thing to read, which answers by itself.
pub(super) type Read = Box<dyn FnOnce(&Connection) + Send>;

pub(super) fn spawn(
    path: &Path,
    options: &Options,
    mailbox: &Arc<Mailbox<Read>>,
) -> Result<JoinHandle<()>, OpenError> {
    let connection = schema::open_reader(path, options)?;
    let mailbox = Arc::clone(mailbox);
    let reads = move || {
        let mailbox = AbandonOnExit(mailbox);
        while let Some(read) = mailbox.0.take() {
            (read.item)(&connection);
        }
    };
    std::thread::Builder::new().name("sqlite-read".into()).spawn(reads).map_err(OpenError::Thread)
}
