//! The files of an audit: their names, their order, and a view of them that holds while one is put aside.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Seek as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use super::head::FILE;

/// The file that is written to.
pub(super) const CURRENT: &str = "audit.jsonl";

/// A file that was put aside: full, or found damaged. In the order of what they hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Aside {
    /// The sequence of its first line, as its name has it.
    pub(super) first: u64,
    /// 0, or a number where the name was taken.
    pub(super) copy: u32,
}

impl Aside {
    fn parse(name: &str) -> Option<Self> {
        let inner = name.strip_prefix("audit.")?.strip_suffix(".jsonl")?;
        let (first, copy) = inner.split_once('.').unwrap_or((inner, "0"));
        let aside = Self { first: first.parse().ok()?, copy: copy.parse().ok()? };
        (aside.name() == name).then_some(aside)
    }

    pub(super) fn name(&self) -> String {
        match self.copy {
            0 => format!("audit.{:020}.jsonl", self.first),
            copy => format!("audit.{:020}.{copy}.jsonl", self.first),
        }
    }
}

/// Returns whether a file of this name is part of an audit.
pub fn is_part(name: &str) -> bool {
    name == CURRENT || name == FILE || Aside::parse(name).is_some()
}

/// The files that were put aside, in order, and names that look like one of them but are none.
pub(super) fn list(directory: &Path) -> io::Result<(Vec<Aside>, Vec<String>)> {
    let (mut aside, mut foreign) = (Vec::new(), Vec::new());
    for entry in directory.read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        match Aside::parse(&name) {
            Some(file) => aside.push(file),
            None if name == CURRENT => {}
            None if name.starts_with("audit.") && name.ends_with(".jsonl") => foreign.push(name),
            None => {}
        }
    }
    aside.sort();
    foreign.sort();
    Ok((aside, foreign))
}

/// Puts the current file aside, under a name that nothing has. Its own name is then free.
pub(super) fn put_aside(directory: &Path, first: u64) -> io::Result<Aside> {
    for copy in 0..u32::MAX {
        let aside = Aside { first, copy };
        let path = directory.join(aside.name());
        match path.symlink_metadata() {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::rename(directory.join(CURRENT), path)?;
                return Ok(aside);
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Makes a new current file; there must be none.
pub(super) fn begin(directory: &Path) -> io::Result<File> {
    let path = directory.join(CURRENT);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    sync(directory)?;
    Ok(file)
}

/// Makes what was renamed and created in a directory last.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// `None` where there is no such file.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a path still leads to a file that was opened by it.
pub(super) fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let (there, own) = (found(path.metadata())?, file.metadata()?);
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())))
}

/// One file of a view.
pub(super) struct Source {
    /// Where it was when the view was taken.
    pub(super) path: PathBuf,
    /// What its name says; `None` of the current file.
    pub(super) aside: Option<Aside>,
    /// How long it was, bytes.
    pub(super) len: u64,
    file: Option<File>,
}

impl Source {
    /// From its beginning.
    pub(super) fn open(&self) -> io::Result<File> {
        match &self.file {
            Some(file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(file)
            }
            None => File::open(&self.path),
        }
    }
}

/// All files as they are at one moment, oldest first, and foreign names. Whoever writes may go on, and put the
/// current file aside: it is held open, and left out of those that were put aside.
pub(super) fn view(directory: &Path) -> io::Result<(Vec<Source>, Vec<String>)> {
    let path = directory.join(CURRENT);
    let current = found(File::open(&path))?;
    let opened = current.as_ref().map(File::metadata).transpose()?;
    let (aside, foreign) = list(directory)?;
    let mut sources = Vec::new();
    for aside in aside {
        let path = directory.join(aside.name());
        let Some(there) = found(path.metadata())? else { continue };
        if opened.as_ref().is_some_and(|own| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            break;
        }
        sources.push(Source { path, aside: Some(aside), len: there.len(), file: None });
    }
    if let Some(file) = current {
        let len = file.metadata()?.len();
        sources.push(Source { path, aside: None, len, file: Some(file) });
    }
    Ok((sources, foreign))
}
