//! Commands of the shell that revoke somebody, or let somebody in again.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::process::Command;
use tokio::time::timeout;

use super::means::SAID;
use super::means::Told;
use super::means::said;
use crate::rig::findings::Party;

/// Runs a command of the shell, with more in its environment than the victim's names. What it says goes to a file: the
/// end of a pipe may be held by what it leaves running. All of it is ended with whoever waits for it.
pub(super) async fn run(command: &str, victim: &Party, more: &[(&str, &str)], patience: Duration) -> Told {
    let sent = Instant::now();
    let failed = |words: String| Told { words, ..Told::nothing(sent, Some(Instant::now())) };
    let (files, shell) = match with_files(command) {
        Ok(made) => made,
        Err(error) => return failed(format!("cannot be started: {error}")),
    };
    let mut shell = Command::from(shell);
    shell.env("DRILL_SERIAL", &victim.serial).env("DRILL_PRINCIPAL", &victim.name);
    shell.envs(more.iter().copied());
    let sent = Instant::now();
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => return failed(format!("cannot be started: {error}")),
    };
    let mut group = Group(child.id());
    let ended = timeout(patience, child.wait()).await;
    let answered = Instant::now();
    match ended {
        Ok(Ok(status)) => {
            // What it has left running is meant to run.
            group.0 = None;
            let (words, said) = (status.to_string(), read(files));
            Told { succeeded: status.success(), words, said, ..Told::nothing(sent, Some(answered)) }
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => {
            let words = format!("has not ended within {patience:?}, and was told to end");
            Told { words, ..Told::nothing(sent, None) }
        }
    }
}

/// A shell whose output goes to files, standard error first.
fn with_files(command: &str) -> io::Result<([File; 2], std::process::Command)> {
    let files = [tempfile::tempfile()?, tempfile::tempfile()?];
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).process_group(0);
    shell.stderr(files[0].try_clone()?).stdout(files[1].try_clone()?);
    Ok((files, shell))
}

/// What a command said on standard error, else on standard output.
fn read(files: [File; 2]) -> String {
    let texts = files.into_iter().map(|mut file| {
        let mut bytes = Vec::new();
        // What cannot be read is not shown.
        let _ = file.rewind().and_then(|()| file.take(SAID as u64 * 4).read_to_end(&mut bytes));
        said(&bytes)
    });
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

/// A command and all that it started, which are ended when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // It may have ended.
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }
}
