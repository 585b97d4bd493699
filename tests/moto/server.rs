//! A moto server of its own for each test: on loopback, on a free port, gone when it is dropped.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;

use crate::tools::installed;

/// The one version: another is another cloud.
const REQUIREMENT: &str = "moto[server]==5.2.5";
/// Where everything is.
pub(crate) const REGION: &str = "eu-west-1";
/// Whose everything is: moto's own account.
pub(crate) const ACCOUNT: &str = "123456789012";

/// Amazon, as far as it is needed.
pub(crate) struct Moto {
    child: Child,
    /// A line for each call.
    log: Arc<Mutex<Vec<String>>>,
    /// Where it is: `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

impl Moto {
    /// Starts one, and waits until it listens.
    pub(crate) fn start() -> Self {
        let mut command = Command::new(installed("moto", REQUIREMENT).join("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1").stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| Some(line.split_once("Running on ")?.1.trim().to_owned()));
        let log = Arc::<Mutex<Vec<String>>>::default();
        let written = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| written.lock().unwrap().push(line)));
        let url = url.unwrap_or_else(|| panic!("moto ended before it listened: {:?}", child.wait()));
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self { child, log, url }
    }

    /// What the SDK's clients are made of. Every call ends.
    pub(crate) async fn config(&self) -> SdkConfig {
        let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(60));
        let loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(REGION));
        let loader = loader.endpoint_url(&self.url).timeout_config(timeouts.build());
        let keys = aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test");
        loader.credentials_provider(keys).load().await
    }

    /// The certificate at an address of SNS.
    pub(crate) fn certificate(&self, url: &str) -> Vec<u8> {
        let (host, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
        // By its scope, which nobody verifies, moto knows which of its services is meant.
        let scope =
            format!("AWS4-HMAC-SHA256 Credential=test/20261122/{REGION}/sns/aws4_request, Signature=0");
        self.call(&format!("GET /{path}"), &format!("Host: {host}\r\nAuthorization: {scope}\r\n"), b"")
    }

    /// Puts what everybody may read into a bucket of S3, or, without a body, makes the bucket.
    pub(crate) fn put(&self, path: &str, body: &[u8]) {
        let host = self.url.strip_prefix("http://").unwrap();
        self.call(&format!("PUT {path}"), &format!("Host: {host}\r\nx-amz-acl: public-read\r\n"), body);
    }

    /// How often a call was answered like this.
    pub(crate) fn calls(&self, call: &str, status: u16) -> usize {
        let (call, status) = (format!("{call} HTTP/1.1"), format!("\" {status} "));
        // There may be colours between the two.
        self.log.lock().unwrap().iter().filter(|line| line.contains(&call) && line.contains(&status)).count()
    }

    /// One call by hand, that must be answered with 200; the body of the answer.
    fn call(&self, call: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        let length = body.len();
        let head =
            format!("{call} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200 "), "{call}: {text}");
        text.split_once("\r\n\r\n").unwrap().1.as_bytes().to_vec()
    }

    /// The program, with credentials that moto takes, and none of whoever runs the tests.
    pub(crate) fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let foreign = |name: &str| name.starts_with("AWS_") || name.starts_with("PORTCULLIS");
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
            program.env_remove(name);
        }
        program.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        program.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        program
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
