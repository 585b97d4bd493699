//! Chromium without a window, and a proxy that notices whatever it asks for.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

const NEEDED: &str = "a Chromium is needed (on Debian: apt-get install --no-install-recommends chromium)";

/// What it is called.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What keeps it from asking for things of its own, and lets it run as root and in a container.
const QUIET: [&str; 18] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,MediaRouter,Translate",
    "--allow-browser-signin=false",
    // What it cannot be talked out of goes to a name that is in no page.
    "--component-updater=url-source=http://own.invalid/",
    "--gaia-url=https://own.invalid/",
];

/// The ends of the hosts of requests that no page has caused. Some versions ask their maker's at the start, whatever their options.
const OWN: [&str; 4] = ["own.invalid", "google.com", "googleapis.com", "gstatic.com"];

/// What opening a page was like.
pub(crate) struct Visit {
    /// What Chromium logged.
    pub(crate) log: String,
    /// The first lines of the requests that it made, of whatever it is.
    pub(crate) requests: Vec<String>,
}

impl Visit {
    /// What the page has written to its console, errors among them.
    pub(crate) fn console(&self) -> Vec<&str> {
        self.log.lines().filter(|line| line.contains("CONSOLE")).collect()
    }
}

/// Opens a file; `wanted` are more options: what to make of it.
pub(crate) fn open(page: &Path, wanted: &[String]) -> Visit {
    let text = std::fs::read_to_string(page).unwrap();
    assert!(
        OWN.iter().all(|host| !text.contains(host)),
        "a page must not name a host that Chromium asks by itself"
    );
    let proxy = Proxy::start();
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command
        .args(QUIET)
        .args(["--enable-logging=stderr", "--v=0"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--proxy-server=http://{}", proxy.address))
        // Without this, what goes to this machine goes by the proxy.
        .arg("--proxy-bypass-list=<-loopback>")
        .args(wanted)
        .arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "chromium: {}\n{log}", output.status);
    Visit { log, requests: proxy.stop() }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = NAMES
        .iter()
        .find_map(|name| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()));
    found.expect(NEEDED)
}

/// An HTTP proxy that answers all with an error, and remembers what it was asked.
struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

/// What it is asked at the end.
const END: &str = "END";

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for stream in listener.incoming() {
                    match asked(&stream.unwrap()).as_str() {
                        END => return,
                        request => seen.lock().unwrap().push(request.to_owned()),
                    }
                }
            }
        });
        Self { address, seen, thread }
    }

    fn stop(self) -> Vec<String> {
        TcpStream::connect(self.address).unwrap().write_all(format!("{END}\n").as_bytes()).unwrap();
        self.thread.join().unwrap();
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|request| !OWN.iter().any(|own| host(request).ends_with(own))).cloned().collect()
    }
}

/// The first line; a connection without one counts, too.
fn asked(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut line = String::new();
    // Whoever says nothing is seen as an empty request.
    let _ = BufReader::new(stream).read_line(&mut line);
    let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    line.trim_end().to_owned()
}

/// Of `GET http://host:port/path HTTP/1.1` or `CONNECT host:port HTTP/1.1`.
fn host(request: &str) -> &str {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let behind = target.split_once("://").map_or(target, |(_, behind)| behind);
    behind.split([':', '/', '?']).next().unwrap_or_default()
}
