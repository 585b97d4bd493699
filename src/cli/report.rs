//! `portcullis report`: one HTML file of what was found.

use std::fs::Permissions;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::complain;
use super::output::write_out;
use crate::rig::findings::Findings;
use crate::rig::report;

/// Where findings come from that are piped in.
const STDIN: &str = "-";

/// What may become of a report, before the umask.
const MODE: u32 = 0o666;

/// What it is made of, and where it goes.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Write it to this file; without it, it is printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What `drill` and `bench` printed with --json; `-` is standard input. They are shown in this order.
    #[arg(required = true, value_name = "FINDINGS")]
    findings: Vec<PathBuf>,
}

impl ReportArgs {
    /// Reads all, writes, and returns the exit code; nothing is written unless all could be read.
    pub(super) fn run(self) -> u8 {
        let runs = match self.read() {
            Ok(runs) => runs,
            Err(faults) => {
                for fault in faults {
                    complain(&format_args!("report: {fault}"));
                }
                return USAGE;
            }
        };
        let page = report::html(&runs);
        let Some(out) = &self.out else {
            return write_out(page.as_bytes());
        };
        match write_report(out, &page) {
            Ok(()) => DONE,
            Err(error) => {
                complain(&format_args!("report: {}: {error}", out.display()));
                REFUSED
            }
        }
    }

    /// All findings, or every reason against them.
    fn read(&self) -> Result<Vec<Findings>, Vec<String>> {
        let mut faults = Vec::new();
        if self.findings.iter().filter(|path| is_stdin(path)).count() > 1 {
            faults.push("standard input can be read once only".to_owned());
        }
        let target = self.out.as_ref().and_then(|out| out.canonicalize().ok());
        let mut runs = Vec::new();
        for path in &self.findings {
            if target.is_some() && path.canonicalize().ok() == target {
                faults.push(format!("{}: --out would overwrite it", path.display()));
                continue;
            }
            match read(path) {
                Ok(run) => runs.push(run),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(runs) } else { Err(faults) }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

fn read(path: &Path) -> Result<Findings, String> {
    let name = if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let got = match is_stdin(path) {
        true => io::stdin().lock().read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    got.map_err(|error| format!("{name}: {error}"))?;
    report::read(&bytes).map_err(|error| format!("{name}: {error}"))
}

/// Writes a report to a file: all of it, or, at an error, nothing.
pub(super) fn write_report(path: &Path, page: &str) -> io::Result<()> {
    // A link stays, and a device is written to; only a file is replaced.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, page);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = Permissions::from_mode(MODE);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
    file.write_all(page.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
