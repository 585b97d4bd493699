//! The place of an open file in the file system, and the test that its path still leads there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

/// A file and the path that it was opened by.
///
/// It holds the file open, so that its inode number is not given to another file.
#[derive(Debug)]
pub(super) struct FilePlace {
    path: PathBuf,
    file: File,
}

impl FilePlace {
    /// Opens the file at `path`, without creating it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)? })
    }

    /// Returns whether the path leads to this file; one call of `stat` and one of `fstat`.
    pub(super) fn is_kept(&self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        match self.path.metadata() {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether an error says that nothing is at a path.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_removed_or_replaced_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a/file"), directory.path().join("other"));
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(&path, "1").unwrap();
        let place = FilePlace::of(&path).unwrap();
        assert!(place.is_kept().unwrap());
        std::fs::rename(&path, &other).unwrap();
        assert!(!place.is_kept().unwrap());
        std::fs::write(&path, "1").unwrap();
        assert!(!place.is_kept().unwrap());
        std::fs::rename(&other, &path).unwrap();
        assert!(place.is_kept().unwrap());
        std::fs::remove_dir_all(directory.path().join("a")).unwrap();
        assert!(!place.is_kept().unwrap());
        std::fs::write(directory.path().join("a"), "no directory").unwrap();
        assert!(!place.is_kept().unwrap());
    }
}
