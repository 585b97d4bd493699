//! A disk under the journal whose mood a test decides.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use portcullis::clock::Clock;
use portcullis::feed::sqs;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::site::Site;

/// What a disk does to whoever writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// A sync does not come back until it is well.
    Stuck,
    /// No space is left.
    Full,
}

/// A disk; well again when it is dropped, else the journal's thread would hang.
#[derive(Debug)]
pub(crate) struct Disk(Arc<(Mutex<Mood>, Condvar)>);

#[derive(Debug)]
struct Storage {
    mood: Arc<(Mutex<Mood>, Condvar)>,
    file: FileBackend,
}

impl Disk {
    /// A site whose journal is on a disk of this kind.
    pub(crate) fn with(config: sqs::Config) -> (Self, Site) {
        let state = Arc::new(tempfile::tempdir().unwrap());
        drop(Engine::open(state.path(), &Config::default(), Clock::system()).unwrap());
        let journal = state.path().join("revocations.redb");
        let mood = Arc::new((Mutex::new(Mood::Well), Condvar::new()));
        let disk = Self(Arc::clone(&mood));
        let storage = move || {
            let file = OpenOptions::new().read(true).write(true).open(&journal)?;
            Ok(Storage { mood: Arc::clone(&mood), file: FileBackend::new(file).map_err(io::Error::other)? })
        };
        let engine = Engine::on_storage(storage, &Config::default(), Clock::system()).unwrap();
        (disk, Site::on(engine, Clock::system(), config, state))
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.0.0.lock().unwrap() = mood;
        self.0.1.notify_all();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.set(Mood::Well);
    }
}

impl Storage {
    fn try_to_write(&self) -> io::Result<()> {
        match *self.mood.0.lock().unwrap() {
            Mood::Full => Err(io::ErrorKind::StorageFull.into()),
            Mood::Well | Mood::Stuck => Ok(()),
        }
    }
}

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.try_to_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mood = self.mood.0.lock().unwrap();
        drop(self.mood.1.wait_while(mood, |mood| *mood == Mood::Stuck).unwrap());
        self.try_to_write()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.try_to_write()?;
        self.file.write(offset, data)
    }
}
