//! A server that answers as it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes, and then it hangs up.
    Raw(Vec<u8>),
    /// These bytes, and then one more ten times a second, until the client hangs up.
    Drip(Vec<u8>),
    /// This document under this entity tag, or 304 to who has it.
    Tagged(&'static str, Vec<u8>),
    /// This document, modified at the first time and sent at the second; or 304 to who has one of the first.
    Dated([&'static str; 2], Vec<u8>),
}

impl Reply {
    /// 200 with this body.
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::with("200 OK", &[], body)
    }

    pub(crate) fn status(status: &str) -> Self {
        Self::with(status, &[], b"")
    }

    /// 302 to there.
    pub(crate) fn redirect(to: &str) -> Self {
        Self::with("302 Found", &[("location", to)], b"")
    }

    pub(crate) fn with(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
        Self::Raw([head.as_bytes(), body].concat())
    }
}

#[derive(Default)]
struct Told {
    replies: HashMap<String, Reply>,
    requests: Vec<String>,
}

/// A server on loopback. What it was told nothing of is 404.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    told: Arc<Mutex<Told>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let told = Arc::<Mutex<Told>>::default();
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::clone(&told));
        let thread = std::thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        tokio::spawn(answer(stream, Arc::clone(&shared)));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, told, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn says(&self, path: &str, reply: Reply) {
        self.told.lock().unwrap().replies.insert(path.to_owned(), reply);
    }

    /// The last request for this path, in lower case.
    pub(crate) fn asked(&self, path: &str) -> Option<String> {
        let start = format!("get {path} ");
        let told = self.told.lock().unwrap();
        told.requests.iter().rev().find(|request| request.starts_with(&start)).cloned()
    }

    /// What was asked for so far, in lower case.
    pub(crate) fn paths(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.requests.iter().filter_map(|request| request.split(' ').nth(1)).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

async fn answer(mut stream: TcpStream, told: Arc<Mutex<Told>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let reply = {
        let mut told = told.lock().unwrap();
        told.requests.push(request.clone());
        told.replies.get(&path).cloned()
    };
    match reply.unwrap_or_else(|| Reply::status("404 Not Found")) {
        Reply::Raw(bytes) => drop(stream.write_all(&bytes).await),
        Reply::Drip(bytes) => {
            let mut written = stream.write_all(&bytes).await;
            while written.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                written = stream.write_all(b"0").await;
            }
        }
        Reply::Tagged(tag, _) if request.contains(&format!("if-none-match: {tag}\r\n")) => {
            drop(stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n").await);
        }
        Reply::Dated([modified, _], _)
            if request.contains(&format!("if-modified-since: {}\r\n", modified.to_ascii_lowercase())) =>
        {
            drop(stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n").await);
        }
        Reply::Dated([modified, date], body) => {
            let headers = [("last-modified", modified), ("date", date)];
            let Reply::Raw(bytes) = Reply::with("200 OK", &headers, &body) else { return };
            drop(stream.write_all(&bytes).await);
        }
        Reply::Tagged(tag, body) => {
            let Reply::Raw(bytes) = Reply::with("200 OK", &[("etag", tag)], &body) else { return };
            drop(stream.write_all(&bytes).await);
        }
    }
}
