//! Files that their owner alone can read, written whole or not at all.

use std::{
    io::{self, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// What is to become the file at `path`, in its folder, which is there.
pub(crate) fn draft(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = NamedTempFile::new_in(folder)?;
    draft.write_all(bytes)?;
    Ok(draft)
}
