//! What a signed revocation list costs from its bytes to where it denies, beside `openssl crl -noout`, which neither verifies
//! nor indexes, and the owned list of rustls-webpki, which indexes and verifies later, on every handshake.
//!
//! Each reads the same file in a process of its own, round by round: its peak, and its CPU time, of which openssl's, as it
//! does not tell, includes reading the file (some 10 ns an entry).

use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use portcullis::clock::Clock;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Verified;
use rustls::pki_types::CertificateDer;
use webpki::OwnedCertRevocationList;

use super::Report;

#[path = "../../tests/crl/forge.rs"]
#[expect(dead_code, reason = "only large lists are made here")]
mod forge;

const PORTCULLIS: &str = "portcullis";
const WEBPKI: &str = "rustls-webpki";
const OPENSSL: &str = "openssl";

/// One round of all.
pub(crate) fn measure(report: &mut Report) {
    let directory = tempfile::tempdir().expect("a directory");
    let [list, ca] = ["list.crl", "ca.crt"].map(|name| directory.path().join(name));
    let authority = forge::Ca::root("A");
    fs::write(&list, forge::large(&authority, report.entries)).expect("room for the list");
    fs::write(&ca, &authority.der).expect("room for a certificate");
    let this = std::env::current_exe().expect("this program");
    for subject in [PORTCULLIS, WEBPKI] {
        let mut command = Command::new(&this);
        command.arg("--ingest").arg(subject).arg(&list).arg(&ca);
        cost_of(report, subject, &mut command);
    }
    let mut command = Command::new("openssl");
    command.args(["crl", "-noout", "-inform", "DER", "-in"]).arg(&list);
    cost_of(report, OPENSSL, &mut command);
}

/// What the other process does.
pub(crate) fn ingest(subject: &str, list: &Path, ca: &Path) {
    let list = fs::read(list).expect("the list");
    let started = own_cpu();
    if subject == WEBPKI {
        let owned = OwnedCertRevocationList::from_der(&list).expect("a good list");
        println!("{}", own_cpu() - started);
        drop(owned);
        return;
    }
    let engine = Engine::in_memory(&Config::default(), Clock::manual(forge::now())).expect("an engine");
    let mut issuers = Issuers::new();
    issuers.add_anchor(&CertificateDer::from(fs::read(ca).expect("the authority"))).expect("an authority");
    let verified = Verified::read(&Bytes::from(list), &issuers, &Limits::default(), forge::now());
    let outcome = engine.take_in(verified.expect("a good list")).expect("a new list");
    println!("{}", own_cpu() - started);
    drop(outcome);
}

/// Nanoseconds that this thread has run (proc(5)).
fn own_cpu() -> u64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").expect("/proc");
    told.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn cost_of(report: &mut Report, subject: &'static str, command: &mut Command) {
    let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else {
        eprintln!("{subject}: not installed");
        return;
    };
    let (cpu, peak) = watch(child);
    let per_entry = |figure: f64| figure / report.entries as f64;
    let (cpu, peak) = (per_entry(cpu), per_entry(peak));
    report.put("crl_ingest_ns_per_entry", subject, "value", cpu);
    report.put("crl_ingest_peak_bytes_per_entry", subject, "value", peak);
}

/// Nanoseconds of CPU and the largest resident memory, bytes, of a process that runs to its end (proc(5)).
fn watch(child: Child) -> (f64, f64) {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).expect("/proc");
    let mut peak = 0.0_f64;
    loop {
        let status = read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let held = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = peak.max(held.unwrap_or_default() * 1024.0);
        let stat = read("stat");
        // Behind the name: the state, and from the twelfth field on the time in user and in kernel mode, hundredths.
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        if fields[0] == "Z" {
            let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
            let whole = (ticks(11) + ticks(12)) * 1e7;
            let output = child.wait_with_output().expect("its end");
            assert!(output.status.success(), "it failed");
            let told = String::from_utf8(output.stdout).expect("text");
            return (told.trim().parse().unwrap_or(whole), peak);
        }
        thread::park_timeout(Duration::from_millis(2));
    }
}
