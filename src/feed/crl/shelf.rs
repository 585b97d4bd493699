//! The lists that are in force, on disk, so that a start without a network refuses what was refused.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use super::series::Series;
use crate::clock::Timestamp;
use crate::feed::fetch::Url;
use crate::feed::fetch::Validators;
use crate::feed::fetch::read_capped;
use crate::feed::files::NEW;
use crate::feed::files::write_whole;

/// The directory `lists` in the state directory, shared by all feeds of revocation lists.
///
/// ```text
/// 9f86d0..0a08.crl  a list as it was fetched, DER or PEM, named by its digest, SHA-256 of what is signed
/// crl-2.json        what the feed of that name read last:
///                   {"version":1, "url":"https://pki.lab.test/agents.crl", "url_id":"2c26b4..",
///                    "of":{"issuer":"CN=A", "kind":"full", "scope":"all certificates", "scope_id":"6e340b.."},
///                    "list":"9f86d0..0a08", "read":"2026-10-14T17:46:40.000Z", "validators":{"etag":"\"7\""}}
/// .new-XXXXXX       in the making when the process ended; gone after the next start
/// ```
///
/// Each file is written under another name, synced, and renamed; a list before the record that names it. A list goes
/// when it is neither in force nor named by a record, and a newer one is safely here. Nothing here is believed: a
/// list is verified again when it is read, and a record says no more than how old a list is and how to ask for a
/// newer one.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    directory: PathBuf,
    /// Held by whoever writes: what one feed is about to name, no other takes away.
    turn: Arc<Mutex<()>>,
}

/// What identifies a list: [`Crl::digest`](crate::revocation::crl::Crl::digest).
pub(super) type Digest = [u8; 32];

/// What a feed read last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// Where it was, for who looks into the directory; without credentials.
    url: String,
    url_id: String,
    list: String,
    /// Which lists the feed is for; absent of what was written before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) of: Option<Series>,
    /// When it was read last.
    pub(super) read: Timestamp,
    /// What its server called it.
    pub(super) validators: Validators,
}

const VERSION: u32 = 1;
/// A record is never larger.
const MAX_RECORD: usize = 64 * 1024;

impl Record {
    pub(super) fn new(url: &Url, list: &Digest, of: Series, read: Timestamp, validators: Validators) -> Self {
        let (url_id, url) = (hex(&url.id()), url.to_string());
        Self { version: VERSION, url, url_id, list: hex(list), of: Some(of), read, validators }
    }

    fn is_of(&self, url: &Url) -> bool {
        self.url_id == hex(&url.id())
    }

    pub(super) fn names(&self, list: &Digest) -> bool {
        self.list == hex(list)
    }
}

impl Shelf {
    pub(super) fn new(state: &Path) -> Self {
        Self { directory: state.join("lists"), turn: Arc::default() }
    }

    /// Where a list is.
    pub(super) fn path(&self, list: &Digest) -> PathBuf {
        self.directory.join(format!("{}.crl", hex(list)))
    }

    /// Writes what a feed has read: the list, if it is not here yet, and the record, if it was the feed's own.
    /// `in_force` is asked once that is safe: what it does not name goes.
    pub(super) fn keep(
        &self,
        feed: &str,
        record: Option<&Record>,
        list: Option<(&Digest, &Bytes)>,
        in_force: impl FnOnce() -> Vec<Digest>,
    ) -> Result<(), String> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if let Some((digest, bytes)) = list {
            let path = self.path(digest);
            write_whole(&path, bytes).map_err(|e| failed(&path, &e))?;
        }
        if let Some(record) = record {
            let path = self.record_path(feed);
            let text = serde_json::to_vec(record).map_err(|e| failed(&path, &e))?;
            write_whole(&path, &text).map_err(|e| failed(&path, &e))?;
        }
        if list.is_some() {
            self.sweep(&in_force());
        }
        drop(turn);
        Ok(())
    }

    /// What was read last at this URL, by whatever feed: of another URL it is not known whether it has the same to say.
    pub(super) fn record(&self, url: &Url) -> Option<Record> {
        self.records().into_iter().map(|(_, record)| record).find(|record| record.is_of(url))
    }

    /// The lists that are here.
    pub(super) fn lists(&self) -> Vec<Digest> {
        let mut lists: Vec<Digest> = self.files().iter().filter_map(|path| digest_of(path)).collect();
        lists.sort_unstable();
        lists
    }

    /// The bytes of a list.
    pub(super) fn read(&self, list: &Digest, max_bytes: usize) -> Result<Bytes, String> {
        let read = File::open(self.path(list)).and_then(|file| read_capped(file, max_bytes));
        read.map_err(|e| e.to_string())?.ok_or_else(|| format!("over {max_bytes} bytes"))
    }

    /// Puts what was read at the URL of each of these feeds under its name, which may be new; forgets what others have
    /// read, and what was never finished.
    pub(super) fn tidy(&self, feeds: &[(&str, &Url)]) {
        // All are read before one is written: feeds may have exchanged their names.
        let records = self.records();
        for (feed, url) in feeds {
            let path = self.record_path(feed);
            let mut same = records.iter().filter(|(_, record)| record.is_of(url));
            let Some((_, record)) = same.clone().next().filter(|_| same.all(|(at, _)| *at != path)) else {
                continue;
            };
            if let Err(why) = self.keep(feed, Some(record), None, Vec::new) {
                tracing::warn!(feed, why, "what was read under another name stays there");
                return;
            }
        }
        let known: BTreeSet<PathBuf> = feeds.iter().map(|(feed, _)| self.record_path(feed)).collect();
        for path in self.files() {
            let is_new = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NEW));
            if is_new || (is_record(&path) && !known.contains(&path)) {
                remove(&path);
            }
        }
    }

    /// Where the record of a feed is.
    pub(super) fn record_path(&self, feed: &str) -> PathBuf {
        self.directory.join(format!("{feed}.json"))
    }

    fn records(&self) -> Vec<(PathBuf, Record)> {
        let mut records = Vec::new();
        for path in self.files().into_iter().filter(|path| is_record(path)) {
            match read_record(&path) {
                Ok(record) => records.push((path, record)),
                Err(why) => tracing::warn!(file = %path.display(), why, "what a feed read last is not known"),
            }
        }
        records
    }

    fn sweep(&self, in_force: &[Digest]) {
        let mut stay: BTreeSet<PathBuf> = in_force.iter().map(|list| self.path(list)).collect();
        stay.extend(
            self.records().iter().map(|(_, record)| self.directory.join(format!("{}.crl", record.list))),
        );
        let lists = self.files().into_iter().filter(|path| digest_of(path).is_some());
        lists.filter(|path| !stay.contains(path)).for_each(|path| remove(&path));
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => {
                // Before the first list was kept it is not there.
                if error.kind() != io::ErrorKind::NotFound {
                    let directory = self.directory.display();
                    tracing::error!(%directory, %error, "the lists that were kept cannot be read");
                }
                return Vec::new();
            }
        };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        files
    }
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?.strip_suffix(".crl")?;
    let mut digest = [0; 32];
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    (hex(&digest) == name).then_some(digest)
}

fn read_record(path: &Path) -> Result<Record, String> {
    let bytes = File::open(path).and_then(|file| read_capped(file, MAX_RECORD)).map_err(|e| e.to_string())?;
    let bytes = bytes.ok_or_else(|| format!("over {MAX_RECORD} bytes"))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    match record.version {
        VERSION => Ok(record),
        other => Err(format!("of version {other}")),
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %error, "a list that is not needed any more cannot be removed");
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn record(at: &str, list: u8) -> Record {
        let validators = Validators { etag: Some(format!("\"{list}\"")), last_modified: None };
        let of = r#"{"issuer": "CN=A", "kind": "full", "scope": "all certificates", "scope_id": ""}"#;
        let of = serde_json::from_str(of).unwrap();
        Record::new(&url(at), &[list; 32], of, Timestamp::from_secs(1), validators)
    }

    fn keep(shelf: &Shelf, feed: &str, at: &str, list: u8, in_force: &[u8]) {
        let bytes = Bytes::from(vec![list; 9]);
        let in_force = || in_force.iter().map(|list| [*list; 32]).collect();
        shelf.keep(feed, Some(&record(at, list)), Some((&[list; 32], &bytes)), in_force).unwrap();
    }

    #[test]
    fn what_is_in_force_or_named_stays_and_the_rest_goes() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(state.path());
        keep(&shelf, "full", "http://a/full", 1, &[1]);
        keep(&shelf, "delta", "http://a/delta", 2, &[1, 2]);
        keep(&shelf, "part", "http://a/part", 3, &[1, 2, 3]);
        // The delta is in the new full list; its feed has not seen a newer one.
        keep(&shelf, "full", "http://a/full", 4, &[4, 3]);
        assert_eq!(shelf.lists(), [[2; 32], [3; 32], [4; 32]]);
        keep(&shelf, "delta", "http://a/delta", 5, &[3, 4, 5]);
        assert_eq!(shelf.lists(), [[3; 32], [4; 32], [5; 32]]);
        assert_eq!(shelf.read(&[5; 32], 9).unwrap(), vec![5; 9]);
        assert!(shelf.read(&[5; 32], 8).unwrap_err().contains("over 8 bytes"));
    }

    #[test]
    fn a_record_is_found_by_its_url_whoever_wrote_it() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(state.path());
        keep(&shelf, "crl", "http://a/1", 1, &[1]);
        keep(&shelf, "crl-2", "http://a/2", 2, &[1, 2]);
        assert!(shelf.record(&url("http://a/1")).unwrap().names(&[1; 32]));
        assert!(shelf.record(&url("http://a/2")).unwrap().names(&[2; 32]));
        assert!(shelf.record(&url("http://a/3")).is_none());
        fs::write(shelf.directory.join("crl-2.json"), "{\"version\":1").unwrap();
        fs::write(shelf.directory.join(".new-1"), "").unwrap();
        assert!(shelf.record(&url("http://a/2")).is_none());
        shelf.tidy(&[("crl", &url("http://a/1"))]);
        let names: Vec<_> = shelf.files().iter().map(|path| path.extension().unwrap().to_owned()).collect();
        assert_eq!(names, ["crl", "crl", "json"]);
    }
}
