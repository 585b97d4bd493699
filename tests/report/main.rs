//! The report in the hands of its readers: the program makes it, a browser opens it, and nobody is asked for anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod browser;
mod mistakes;
mod oddities;
mod samples;
mod tags;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use portcullis::rig::findings::Findings;
use portcullis::rig::report;

use browser::Visit;

/// What a report of ordinary findings may weigh, in bytes.
const LIGHT: usize = 2_000_000;

/// Where pictures of the report are left: `target/report`.
fn gallery() -> PathBuf {
    let gallery = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("report");
    fs::create_dir_all(&gallery).unwrap();
    gallery
}

/// Has the program make a report of these, and returns its path.
fn made(runs: &[Findings], name: &str) -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let out = gallery().join(name);
    command.arg("report").arg("--out").arg(&out);
    for (at, run) in runs.iter().enumerate() {
        let path = folder.path().join(format!("{at}.json"));
        fs::write(&path, serde_json::to_vec(run).unwrap()).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"");
    out
}

fn assert_silent(visit: &Visit) {
    assert_eq!(visit.console(), [""; 0], "{}", visit.log);
    assert_eq!(visit.requests, [""; 0], "{}", visit.log);
}

/// Takes a picture `size` large.
fn photographed(page: &Path, name: &str, size: (u32, u32), more: &[&str]) -> Visit {
    let picture = gallery().join(name);
    let _ = fs::remove_file(&picture);
    let mut wanted = vec![
        format!("--screenshot={}", picture.display()),
        format!("--window-size={},{}", size.0, size.1),
        "--virtual-time-budget=2000".to_owned(),
    ];
    wanted.extend(more.iter().map(|&option| option.to_owned()));
    let visit = browser::open(page, &wanted);
    assert!(fs::metadata(&picture).is_ok_and(|file| file.len() > 20_000), "{name}: {}", visit.log);
    visit
}

#[test]
fn a_browser_shows_it_without_a_complaint_and_without_a_request() {
    let everything = made(&samples::all(), "report.html");
    assert_silent(&photographed(&everything, "report-light.png", (1200, 9000), &[]));
    assert_silent(&photographed(&everything, "report-dark.png", (1200, 9000), &["--force-dark-mode"]));
    assert_silent(&photographed(&everything, "report-narrow.png", (420, 9000), &[]));
    let light = fs::read(gallery().join("report-light.png")).unwrap();
    assert!(light != fs::read(gallery().join("report-dark.png")).unwrap(), "dark is as light");
    for (at, run) in samples::all().iter().enumerate() {
        let page = made(std::slice::from_ref(run), &format!("report-{at}.html"));
        assert_silent(&photographed(&page, &format!("report-{at}.png"), (1200, 3200), &[]));
    }
}

#[test]
fn it_can_be_printed() {
    let page = made(&samples::all(), "printed.html");
    let paper = gallery().join("report.pdf");
    let _ = fs::remove_file(&paper);
    let visit = browser::open(
        &page,
        &[format!("--print-to-pdf={}", paper.display()), "--no-pdf-header-footer".to_owned()],
    );
    assert_silent(&visit);
    assert!(fs::read(&paper).unwrap().starts_with(b"%PDF-"));
}

/// The harness itself: what it is to notice is noticed, and the policy of the page is what prevents it.
#[test]
fn what_a_page_asks_for_is_noticed_unless_its_policy_forbids_it() {
    let page = report::html(&samples::drills());
    let planted = "<img src=\"http://planted.test/a.png\" alt=\"\"></body>";
    let planted = page.replacen("</body>", planted, 1);
    let policy = planted.lines().find(|line| line.contains("Content-Security-Policy")).unwrap();
    let free = planted.replacen(policy, "", 1);
    let folder = tempfile::tempdir().unwrap();
    let visited = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        browser::open(&path, &["--dump-dom".to_owned()])
    };
    let visit = visited("free.html", &free);
    assert!(
        visit.requests.iter().any(|line| line.contains("planted.test")),
        "{:?}\n{}",
        visit.requests,
        visit.log
    );
    let visit = visited("bound.html", &planted);
    assert_eq!(visit.requests, [""; 0]);
    assert!(visit.console().iter().any(|line| line.contains("Content Security Policy")), "{}", visit.log);
}

#[test]
fn it_holds_all_of_itself_and_no_script() {
    let page = report::html(&samples::all());
    assert_eq!(tags::fault(&page), None);
    assert!(page.len() < LIGHT, "{} bytes", page.len());
    for banned in
        ["<script", "javascript:", "http-equiv=\"refresh", " src=", " href=", "url(", "@import", " on"]
    {
        let found = page.match_indices(banned).map(|(at, _)| &page[at..at + 40]);
        let found: Vec<&str> = found.filter(|text| banned != " on" || is_handler(text)).collect();
        assert_eq!(found, [""; 0], "{banned}");
    }
    for needed in
        ["<html lang=\"en\">", "default-src 'none'", "<h1>", "@media print", "prefers-color-scheme: dark"]
    {
        assert!(page.contains(needed), "{needed}");
    }
    assert_eq!(page.matches("role=\"img\"").count(), page.matches("<desc id=").count());
}

/// Whether it begins like an attribute that holds a script.
fn is_handler(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, _)| name.len() > 3 && name.trim().chars().all(|c| c.is_ascii_lowercase()))
}

#[test]
fn it_opens_with_the_result() {
    let headline = |runs: &[Findings]| {
        let page = report::html(runs);
        page.split_once("<h1>").unwrap().1.split_once("</h1>").unwrap().0.to_owned()
    };
    let [ours, theirs, flapping] = samples::drills().try_into().unwrap();
    assert!(headline(&[ours]).ends_with(" after the revoke call; nothing after its answer."));
    assert_eq!(
        headline(&[theirs]),
        "Still served on an open HTTP/1.1 connection, an open HTTP/2 connection and 3 other kinds when the window ended, 10 s later."
    );
    assert!(headline(&[flapping]).ends_with("; refused and then served again on new connections."));
    let beside = headline(&samples::drills());
    assert!(beside.starts_with("Last request served after the revoke call: portcullis "), "{beside}");
    assert!(beside.contains("nginx, reload still served after 10 s"), "{beside}");
    assert!(headline(&[samples::fleets()]).contains("revocations on 16 gates"));
}
