//! An admin API that answers what it was told to, and keeps what it was asked.

use std::collections::VecDeque;
use std::io::Read;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;

use portcullis::clock::Clock;
use portcullis::rig::pki::Pki;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// How one request is answered.
pub(crate) enum Reply {
    /// A status and a document.
    Json(u16, Value),
    /// A status, further header lines and a document.
    With(u16, &'static str, Value),
    /// Every change of the batch is done.
    All,
    /// Every change of the batch is refused.
    None,
    /// Read to the end, and never answered.
    HangUp,
    /// Read, and kept waiting until the client goes away.
    Stall,
}

/// A problem document.
pub(crate) fn problem(status: u16, code: &str, error: &str) -> Value {
    json!({"type": format!("urn:portcullis:error:{code}"), "title": "t", "status": status, "error": error, "code": code,
        "detail": error, "request_id": "r1"})
}

/// What a dry run says of a target.
pub(crate) fn radius(includes_caller: bool) -> Value {
    json!({"dry_run": true, "action": "revoke", "level": "trust_domain", "target": "lab.test", "would_change": true,
        "known": true, "sessions": 12, "certificates": 9, "principals": ["spiffe://lab.test/agent/a"],
        "principals_total": 7, "includes_caller": includes_caller})
}

/// A stub that runs until it has given all its answers, with the files of those who call it.
pub(crate) struct Stub {
    directory: TempDir,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    left: Arc<Mutex<VecDeque<Reply>>>,
    /// One for each request.
    heard: mpsc::Receiver<()>,
}

impl Stub {
    pub(crate) fn start(replies: Vec<Reply>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Clock::system().now()).unwrap();
        pki.server().unwrap();
        pki.client("admin", "admin/ops").unwrap();
        let config = Arc::new(server_config(&directory));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, left) = (Arc::default(), Arc::new(Mutex::new(VecDeque::from(replies))));
        let (hear, heard) = mpsc::sync_channel(64);
        let stub = Self { directory, address, asked: Arc::clone(&asked), left: Arc::clone(&left), heard };
        std::thread::spawn(move || {
            while !left.lock().unwrap().is_empty() {
                serve(
                    listener.accept().unwrap().0,
                    &config,
                    &Talk { asked: &asked, left: &left, hear: &hear },
                );
            }
        });
        stub
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `portcullis ...` in the directory of the files, with the authority and the server; who calls is not said.
    pub(crate) fn nameless(&self, line: &str) -> Command {
        let mut program = program();
        program.args(line.split_whitespace()).current_dir(self.directory.path());
        program
            .env("PORTCULLIS_SERVER", format!("https://{}", self.address))
            .env("PORTCULLIS_CACERT", "ca.pem");
        program
    }

    /// The same, as the administrator.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut program = self.nameless(line);
        program.env("PORTCULLIS_CLIENT_CERT", "admin.pem").env("PORTCULLIS_CLIENT_KEY", "admin.key");
        program
    }

    /// Runs a command line; everything that came of it, as text to be compared.
    pub(crate) fn run(&self, line: &str) -> String {
        self.seen(line, &ended(self.command(line)))
    }

    pub(crate) fn seen(&self, line: &str, ended: &Ended) -> String {
        let asked = self.asked.lock().unwrap().join("\n");
        let told = format!("$ portcullis {line}\n{}--- asked\n{asked}\n", ended.shown());
        self.masked(&told)
    }

    /// Waits until something is asked.
    pub(crate) fn hears(&self) {
        self.heard.recv().unwrap();
    }

    /// What was asked, one request a line.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn masked(&self, text: &str) -> String {
        let directory = self.directory.path().display().to_string();
        text.replace(&directory, "[DIR]").replace(&self.address.to_string(), "[ADDRESS]")
    }

    /// The address, with nobody behind it any more.
    pub(crate) fn close(&self) {
        self.left.lock().unwrap().clear();
        // Wakes the thread that waits for a connection; what comes of it is nothing.
        drop(TcpStream::connect(self.address));
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.close();
    }
}

fn server_config(directory: &TempDir) -> ServerConfig {
    let path = |name: &str| directory.path().join(name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(path("server.key")).unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
}

/// What is known of all requests.
struct Talk<'a> {
    asked: &'a Mutex<Vec<String>>,
    left: &'a Mutex<VecDeque<Reply>>,
    hear: &'a mpsc::SyncSender<()>,
}

fn serve(tcp: TcpStream, config: &Arc<ServerConfig>, talk: &Talk<'_>) {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), tcp);
    let Some((head, body)) = read(&mut stream) else { return };
    let Some(reply) = talk.left.lock().unwrap().pop_front() else { return };
    let who = stream.conn.peer_certificates().map(|_| " (certificate)").unwrap_or_default();
    let wanted = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| format!(" [{line}]")).unwrap_or_default()
    };
    let first = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
    let headers = wanted("authorization") + &wanted("x-correlation-id");
    talk.asked.lock().unwrap().push(format!("{first}{who}{headers} {body}").trim_end().to_owned());
    // A test that is over listens no more.
    let _ = talk.hear.send(());
    let count = || serde_json::from_str::<Value>(&body).unwrap().as_array().unwrap().len();
    let (status, headers, document) = match reply {
        Reply::Json(status, document) => (status, "", document),
        Reply::With(status, headers, document) => (status, headers, document),
        Reply::All => (200, "", batch(count(), 0)),
        Reply::None => (207, "", batch(0, count())),
        Reply::HangUp => return,
        Reply::Stall => {
            let _ = stream.read(&mut [0]);
            return;
        }
    };
    let document = if document.is_null() { String::new() } else { document.to_string() };
    let length = document.len();
    let answer = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{document}"
    );
    let _ = stream.write_all(answer.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
    // Until the client has read it all and closes.
    let _ = stream.read(&mut [0]);
}

fn batch(done: usize, refused: usize) -> Value {
    let result =
        json!({"id": "i", "action": "revoke", "sessions_ended": 1, "enforced": true, "generation": 7});
    let fine = std::iter::repeat_n(json!({"status": 200, "result": result}), done);
    let bad = json!({"status": 409, "problem": problem(409, "revoked", "it is revoked")});
    let all: Vec<Value> = fine.chain(std::iter::repeat_n(bad, refused)).collect();
    json!({"answers": all, "done": done, "refused": refused})
}

/// A request's head and body. `None` if the client went away.
fn read(stream: &mut impl Read) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(some) => bytes.extend_from_slice(&buffer[..some]),
        }
    }
}

/// The program, without anything that the environment would tell it.
pub(crate) fn program() -> Command {
    // Whoever runs the tests in the background may have them ignore Ctrl-C.
    let mut program = Command::new("env");
    program.args(["--default-signal=INT", env!("CARGO_BIN_EXE_portcullis")]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PORTCULLIS"))
    {
        program.env_remove(name);
    }
    program.env_remove("NO_COLOR").env("COLUMNS", "110");
    program
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// All of it, to be compared.
    pub(crate) fn shown(&self) -> String {
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        format!("exit code {code}\n--- out\n{}--- err\n{}", self.out, self.err)
    }

    /// Ended with `code`, said nothing on standard output, and each of `said` on standard error.
    pub(crate) fn said(&self, code: i32, said: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        for what in said {
            assert!(self.err.contains(what), "no `{what}` in {self:?}");
        }
    }
}

pub(crate) fn ended(program: Command) -> Ended {
    fed(program, "")
}

/// Runs a program with `input` on its standard input.
pub(crate) fn fed(mut program: Command, input: &str) -> Ended {
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What ends before it has read everything does not want it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    awaited(child)
}

/// What came of a program that was started with pipes.
pub(crate) fn awaited(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
