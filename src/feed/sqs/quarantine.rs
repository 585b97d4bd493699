//! Where messages go that nobody understands, if their queue has nowhere to put them: one line of JSON each.
//!
//! **Invariant:** a message is deleted from the queue only when its line is on disk.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use serde::Serialize;

use crate::clock::Timestamp;

const NAME: &str = "quarantine.jsonl";
/// Of the whole file, bytes: strangers may be able to send, and must not fill the disk under the journal.
const MOST: u64 = 64 << 20;

/// The file; one writer at a time.
#[derive(Clone, Debug)]
pub(super) struct Quarantine {
    path: PathBuf,
    writing: Arc<Mutex<()>>,
}

/// What is kept of a message.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) time: Timestamp,
    pub(super) message_id: String,
    pub(super) receives: u32,
    pub(super) kind: &'static str,
    pub(super) reason: String,
    /// Of the body, hexadecimal.
    pub(super) sha256: String,
    pub(super) body: String,
}

impl Entry {
    pub(super) fn new(time: Timestamp, body: String) -> Self {
        let sha256 =
            digest(&SHA256, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { time, message_id: String::new(), receives: 0, kind: "", reason: String::new(), sha256, body }
    }
}

impl Quarantine {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join(NAME), writing: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line. When this returns `Ok` it is on disk.
    pub(super) async fn keep(&self, entry: Entry) -> io::Result<()> {
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || this.append(&entry, MOST)).await;
        // It panicked, which the runtime has reported; or the process ends.
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn append(&self, entry: &Entry, most: u64) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !self.path.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let length = file.metadata()?.len();
        if !ends_whole(&mut file, length)? {
            // A line that was torn by a crash must not swallow this one.
            line.insert(0, b'\n');
        }
        if length + line.len() as u64 > most {
            return Err(io::Error::other(format!("it would grow past {most} bytes: move it away")));
        }
        if let Err(error) = file.write_all(&line).and_then(|()| file.sync_all()) {
            // What is half a line, or not on disk, will come again.
            let _ = file.set_len(length);
            return Err(error);
        }
        if is_new && let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn ends_whole(file: &mut File, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Value;

    use super::*;

    fn entry(body: &str) -> Entry {
        let entry = Entry::new(Timestamp::from_secs(1_792_000_000), body.to_owned());
        Entry { message_id: "m".into(), receives: 5, kind: "not_json", reason: "line 1".into(), ..entry }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
    }

    #[test]
    fn each_message_is_a_line_for_the_owners_eyes_only() {
        let directory = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(directory.path());
        quarantine.append(&entry("a\n\0b"), MOST).unwrap();
        quarantine.append(&entry("c"), MOST).unwrap();
        let lines = lines(quarantine.path());
        assert_eq!((lines.len(), &lines[0]["body"], &lines[1]["body"]), (2, &"a\n\0b".into(), &"c".into()));
        assert_eq!(lines[1]["sha256"], "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6");
        let mode = std::fs::metadata(quarantine.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_line_swallows_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(directory.path());
        std::fs::write(quarantine.path(), "{\"time\":").unwrap();
        quarantine.append(&entry("c"), MOST).unwrap();
        let lines = lines(quarantine.path());
        assert_eq!((lines.len(), &lines[1]["body"]), (2, &"c".into()));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(directory.path());
        quarantine.append(&entry("a"), 1000).unwrap();
        let error = quarantine.append(&entry(&"b".repeat(1000)), 1000).unwrap_err();
        assert!(error.to_string().contains("move it away"), "{error}");
        quarantine.append(&entry("c"), 1000).unwrap();
        assert_eq!(lines(quarantine.path()).len(), 2);
    }
}
