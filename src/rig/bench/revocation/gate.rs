//! One gate: a process of its own in a directory of its own, from its start to its end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Error;

/// How long a gate may take until it is ready: a million entries take some seconds, on sixteen gates at once longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long it may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// How many lines of its log are shown where it has failed.
const SHOWN: usize = 5;
/// Clock ticks a second, in which `/proc` counts processor time; the same on every Linux that there is.
const TICKS: f64 = 100.0;

/// A running gate. Dropping it kills it.
pub(super) struct Gate {
    number: usize,
    directory: PathBuf,
    child: Child,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its admin listener.
    pub(super) admin: SocketAddr,
}

impl Gate {
    /// Starts `portcullis run` in `directory`, which holds `gate.toml`; it need not be up when this returns.
    pub(super) fn spawn(
        number: usize,
        portcullis: &Path,
        directory: PathBuf,
        own: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let failed = |error| Error::Start(portcullis.to_owned(), error);
        let log = File::create(directory.join("log")).map_err(failed)?;
        let mut command = Command::new(portcullis);
        command.arg("run").arg("--config").arg(directory.join("gate.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The environment of whoever measures is meant for another gate.
        let foreign = |name: &OsStr| name.as_encoded_bytes().starts_with(b"PORTCULLIS");
        std::env::vars_os().filter(|(name, _)| foreign(name)).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.envs(own.iter().copied());
        // Ctrl-C is for whoever measures, who then ends the gates.
        let child = command.process_group(0).spawn().map_err(failed)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self { number, directory, child, address: nowhere, admin: nowhere })
    }

    /// Waits until it is ready, and learns where it listens.
    pub(super) async fn ready(&mut self) -> Result<(), Error> {
        let until = Instant::now() + PATIENCE;
        let mut metrics = None;
        loop {
            self.check()?;
            if metrics.is_none() {
                metrics = self.find_addresses();
            }
            if let Some(metrics) = metrics
                && is_ready(metrics).await.unwrap_or_default()
            {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(self.failed("is not ready in time"));
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it still runs.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("has ended ({status})"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// The processor time that it has used, seconds.
    pub(super) fn processor(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        ticks(&text).unwrap_or_default() / TICKS
    }

    /// What it has in memory, bytes.
    pub(super) fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
    }

    /// How long its journal took for each revocation that it put on record, as its audit says.
    pub(super) fn commits(&self) -> Vec<Duration> {
        let mut found = Vec::new();
        let entries = fs::read_dir(self.directory.join("state")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"audit")) {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(text.lines().filter_map(commit));
        }
        found
    }

    /// Ends it, and waits for that.
    pub(super) async fn end(mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended.
            let _ = kill_process(pid, signal);
        }
    }

    fn failed(&self, what: &str) -> Error {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let told = lines.iter().rev().take(SHOWN).rev().fold(String::new(), |mut told, line| {
            let _ = write!(told, "\n  {line}");
            told
        });
        let told =
            if told.is_empty() { " it logged nothing".to_owned() } else { format!(" its log ends:{told}") };
        Error::Gate(self.number, format!("{what};{told}"))
    }

    /// Its log says where it listens, as soon as it is up: where the plain listener is.
    fn find_addresses(&mut self) -> Option<SocketAddr> {
        let log = fs::read_to_string(self.directory.join("log")).ok()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let up = lines.into_iter().find(|line| line["message"] == "portcullis is up")?;
        let address = |name: &str| up[name].as_str()?.parse::<SocketAddr>().ok();
        self.address = address("gate")?;
        self.admin = address("admin")?;
        address("metrics")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It has usually ended, and nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/readyz` says.
async fn is_ready(metrics: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(metrics).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

/// Processor time in a line of `/proc/PID/stat`, ticks: the fields 14 and 15 (proc(5)); the name of the process, which may
/// hold anything, is the second, in brackets.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
}

/// What the journal took for the revocation in a line of the audit: it is asked when the last session has ended.
fn commit(line: &str) -> Option<Duration> {
    let line: Value = serde_json::from_str(line).ok()?;
    let stamps = line.get("timeline").filter(|_| line["action"] == "revoke")?;
    let stamp = |name: &str| stamps.get(name).and_then(Value::as_u64);
    let before = stamp("enforced_us").or_else(|| stamp("effective_us"))?;
    Some(Duration::from_micros(stamp("durable_us")?.saturating_sub(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_whatever_the_process_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 500 0 0 0 250 50 0 0 20 0 9 0 100 0 0";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn a_commit_begins_when_the_last_session_has_ended() {
        let line = r#"{"action":"revoke","timeline":{"effective_us":5,"enforced_us":40,"durable_us":1040}}"#;
        assert_eq!(commit(line), Some(Duration::from_millis(1)));
        let advisory = r#"{"action":"revoke","timeline":{"effective_us":5,"durable_us":1005}}"#;
        assert_eq!(commit(advisory), Some(Duration::from_millis(1)));
        assert_eq!(commit(r#"{"action":"refresh"}"#), None);
        assert_eq!(commit(r#"{"action":"revoke","timeline":{"effective_us":5}}"#), None);
    }
}
