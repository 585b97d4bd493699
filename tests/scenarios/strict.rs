//! An upstream that reads requests to the letter of RFC 9112, and nothing else: what it takes has one framing. It answers
//! with the target that it was asked for, or with the very bytes that a test gives it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// One whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// `METHOD TARGET`; or what is wrong with it.
    pub(crate) line: String,
    /// Lower-case names and their values, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Forwarded {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What to answer instead, and whether the connection is closed after it.
pub(crate) type Answers = HashMap<String, (Vec<u8>, bool)>;

pub(crate) struct Strict {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Forwarded>>>,
}

impl Strict {
    /// `answers` are by target.
    pub(crate) async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answers) = (Arc::<Mutex<Vec<Forwarded>>>::default(), Arc::new(answers));
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&noted), Arc::clone(&answers)));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn route(&self) -> String {
        format!("[[route]]\nupstream = [\"http://{}\"]", self.address)
    }

    /// What has come since the last time.
    pub(crate) fn take(&self) -> Vec<Forwarded> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn serve(mut socket: TcpStream, seen: Arc<Mutex<Vec<Forwarded>>>, answers: Arc<Answers>) {
    let mut buffer = Vec::new();
    loop {
        let (forwarded, length) = loop {
            match parse(&buffer) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) => {}
                Err(why) => {
                    let line = format!("{why}: {:?}", String::from_utf8_lossy(&buffer));
                    let wrong = Forwarded { line, headers: vec![], body: String::new(), trailers: vec![] };
                    seen.lock().unwrap().push(wrong);
                    return;
                }
            }
            match socket.read_buf(&mut buffer).await {
                Ok(1..) => {}
                // What is not whole by now never was.
                _ => return,
            }
        };
        buffer.drain(..length);
        let target = forwarded.line.split(' ').nth(1).unwrap().to_owned();
        let is_head = forwarded.line.starts_with("HEAD ");
        seen.lock().unwrap().push(forwarded);
        let (answer, closes) = answers.get(&target).cloned().unwrap_or_else(|| {
            let body = if is_head { "" } else { &target };
            (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", target.len()).into(), false)
        });
        if socket.write_all(&answer).await.is_err() || closes {
            return;
        }
    }
}

type Fields = Vec<(String, String)>;
/// A body, its trailers, and how long both were.
type Chunks = (Vec<u8>, Fields, usize);

/// The first request of what was read, and how long it is; `None` if there is more to come.
fn parse(bytes: &[u8]) -> Result<Option<(Forwarded, usize)>, &'static str> {
    let Some(head) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let (line, headers) = fields(&bytes[..head])?;
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(target), Some("HTTP/1.1"), None) if target.starts_with('/') || target == "*" => {}
        _ => return Err("a bad request line"),
    }
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() != 1 {
        return Err("not one Host");
    }
    let start = head + 4;
    let (body, trailers, end) = match (&*all("transfer-encoding"), &*all("content-length")) {
        ([], []) => (Vec::new(), Vec::new(), start),
        ([], [length]) if length.bytes().all(|b| b.is_ascii_digit()) => {
            let end = start + length.parse::<usize>().map_err(|_| "a bad length")?;
            let Some(body) = bytes.get(start..end) else { return Ok(None) };
            (body.to_vec(), Vec::new(), end)
        }
        (["chunked"], []) => match chunks(&bytes[start..])? {
            Some((body, trailers, length)) => (body, trailers, start + length),
            None => return Ok(None),
        },
        _ => return Err("not one framing"),
    };
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some((Forwarded { line, headers, body, trailers }, end)))
}

/// A first line, and fields; no bare CR, LF or NUL, no folding, no space before a colon.
fn fields(bytes: &[u8]) -> Result<(String, Fields), &'static str> {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err("a bare CR, LF or NUL");
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line without a colon")?;
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err("a bad name");
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok((first, headers))
}

/// Chunks without signs, spaces or extensions.
fn chunks(bytes: &[u8]) -> Result<Option<Chunks>, &'static str> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| "a bad chunk")?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("a bad chunk size");
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| "a bad chunk size")?;
        at += line + 2;
        if size == 0 {
            if bytes[at..].starts_with(b"\r\n") {
                return Ok(Some((body, Vec::new(), at + 2)));
            }
            let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
            let text = [b"trailers\r\n", &bytes[at..at + end]].concat();
            return Ok(Some((body, fields(&text)?.1, at + end + 4)));
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let data = chunk.strip_suffix(b"\r\n").ok_or("a chunk that does not end where it says")?;
        body.extend_from_slice(data);
        at += size + 2;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
