//! A state directory with an audit in it, and ways to look at it and to meddle with it.

use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::authority::Audit;
use portcullis::authority::AuditConfig;
use portcullis::authority::AuditError;
use portcullis::authority::audit;
use portcullis::authority::audit::Entry;
use portcullis::authority::audit::Fault;
use portcullis::authority::audit::Head;
use portcullis::authority::audit::Receipt;
use portcullis::authority::audit::Report;
use portcullis::authority::audit::VerifyError;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const CURRENT: &str = "audit.jsonl";
pub(crate) const HEAD: &str = "audit.head";

/// A state directory, and the clock of whoever opens it.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    pub(crate) clock: Clock,
    pub(crate) max_bytes: u64,
}

impl Site {
    /// An empty one, whose files hold few lines.
    pub(crate) fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        Self { directory: tempfile::tempdir().unwrap(), clock, max_bytes: 4096 }
    }

    /// One that holds `count` lines, closed.
    pub(crate) fn with(count: usize) -> Self {
        let site = Self::new();
        let audit = site.open();
        append(&audit, count);
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn open(&self) -> Audit {
        // A test beside this one that starts a program has for a moment all files open twice, with their locks.
        let mut tries = (0..200).map(|_| {
            let opened = self.try_open();
            if matches!(opened, Err(AuditError::InUse(_))) {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            opened
        });
        tries.find(|opened| !matches!(opened, Err(AuditError::InUse(_)))).unwrap().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Audit, AuditError> {
        Audit::open(self.path(), &AuditConfig { max_bytes: self.max_bytes }, self.clock.clone())
    }

    /// The names of the files with lines, oldest first.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = self.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let names = entries.map(|name| name.into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".jsonl")).collect();
        // Digits sort before letters.
        names.sort();
        names
    }

    /// All lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let texts = self.files().into_iter().map(|name| std::fs::read_to_string(self.file(&name)).unwrap());
        texts.flat_map(|text| text.lines().map(read).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn verify(&self) -> Result<Report, VerifyError> {
        audit::verify(self.path(), None, &mut |_, _| {})
    }

    pub(crate) fn verify_from(&self, from: u64) -> Result<Report, VerifyError> {
        audit::verify_from(self.path(), from, None, &mut |_, _| {})
    }

    pub(crate) fn verify_with(&self, expected: &Head) -> Result<Report, VerifyError> {
        audit::verify(self.path(), Some(expected), &mut |_, _| {})
    }

    /// What is wrong first.
    pub(crate) fn fault(&self) -> Fault {
        fault(self.verify())
    }

    /// What is wrong first, as `FILE:LINE` without the directory, and why.
    pub(crate) fn named(&self) -> (String, String) {
        self.name(self.fault())
    }

    pub(crate) fn name(&self, fault: Fault) -> (String, String) {
        let file = fault.file.strip_prefix(self.path()).unwrap().display().to_string();
        (fault.line.map_or(file.clone(), |line| format!("{file}:{line}")), fault.reason)
    }

    /// Changes the content of a file.
    pub(crate) fn meddle(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        self.replace(name, &bytes);
    }

    /// Changes the lines of a file.
    pub(crate) fn meddle_lines(&self, name: &str, change: impl FnOnce(&mut Vec<String>)) {
        let text = std::fs::read_to_string(self.file(name)).unwrap();
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        change(&mut lines);
        self.replace(name, lines.concat().as_bytes());
    }

    /// At once: a writer that looks meanwhile sees the old content or the new.
    fn replace(&self, name: &str, content: &[u8]) {
        std::fs::write(self.file("new"), content).unwrap();
        std::fs::rename(self.file("new"), self.file(name)).unwrap();
    }

    pub(crate) fn cut(&self, name: &str, len: u64) {
        OpenOptions::new().write(true).open(self.file(name)).unwrap().set_len(len).unwrap();
    }
}

pub(crate) fn fault(verified: Result<Report, VerifyError>) -> Fault {
    match verified {
        Err(VerifyError::Broken(fault)) => *fault,
        other => panic!("no fault: {other:?}"),
    }
}

/// How many lines somebody asked for: every file but the first begins with one that nobody did.
pub(crate) fn asked(report: &Report) -> u64 {
    report.events + 1 - report.files as u64
}

pub(crate) fn read(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Waits for a thread of the audit; gives up after a minute.
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    runtime().block_on(async {
        let polling = async {
            let mut often = tokio::time::interval(Duration::from_millis(5));
            while !done() {
                often.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), polling).await.expect("it never came");
    });
}

/// The entry of a revocation of `agent-NUMBER`.
pub(crate) fn entry(number: usize) -> Entry {
    Entry {
        action: "revoke".into(),
        outcome: "applied".into(),
        actor: "spiffe://lab.test/admin/ops".into(),
        role: Some("admin".into()),
        address: "192.0.2.7:5555".into(),
        request_id: format!("request-{number}"),
        correlation_id: format!("request-{number}"),
        level: Some("principal".into()),
        target: Some(format!("agent-{number}")),
        ..Entry::default()
    }
}

pub(crate) fn try_append(audit: &Audit, entry: Entry) -> Result<Receipt, AuditError> {
    runtime().block_on(audit.append(entry))
}

/// Appends `count` lines, one after the other.
pub(crate) fn append(audit: &Audit, count: usize) -> Vec<Receipt> {
    (0..count).map(|number| try_append(audit, entry(number)).unwrap()).collect()
}
