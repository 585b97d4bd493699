//! A server's admin API: where it is, as whom it is called, and the calls themselves.
//!
//! **Invariant:** a secret or a token is read from a file, and is neither an argument nor part of any message.

use std::fmt::Write as _;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::ArgMatches;
use clap::Args;
use clap::Command;
use clap::FromArgMatches;
use clap::parser::ValueSource;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header::AUTHORIZATION;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http::header::RETRY_AFTER;
use http_body_util::Full;
use rustls::ClientConfig;
use serde_json::Value;
use serde_json::json;

use super::REFUSED;
use super::answer::Answer;
use super::complain;
use super::failure::CallError;
use super::obstacles::quoted;
use crate::rig::client;
use crate::rig::client::ClientError;

/// Where the admin API is, and as whom it is called. An option that is typed counts before exported variables: where one says
/// who calls, those for other ways to say it are not looked at.
#[derive(Debug)]
pub(super) struct ServerArgs(Options);

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Options {
    /// The admin listener.
    #[arg(long, env = "PORTCULLIS_SERVER", default_value = "https://localhost:9443", value_name = "URL",
        value_parser = server)]
    server: Uri,
    /// The authority that vouches for the server (PEM).
    #[arg(long, env = "PORTCULLIS_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The administrator's certificate (PEM). A secret or a token counts before it: then it is not used.
    #[arg(long, env = "PORTCULLIS_CLIENT_CERT", value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "PORTCULLIS_CLIENT_KEY", value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// A file with an access token. A secret counts before it.
    #[arg(long, env = "PORTCULLIS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with an administrator's secret, for which the server gives a token.
    #[arg(long, env = "PORTCULLIS_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// What the audit ties this call to: an incident, a ticket (1 to 128 printable ASCII characters).
    #[arg(long, env = "PORTCULLIS_CORRELATION_ID", value_name = "ID", value_parser = correlation)]
    correlation_id: Option<String>,
    /// Print the server's document as it is.
    #[arg(long)]
    pub(super) json: bool,
}

impl std::ops::Deref for ServerArgs {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.0
    }
}

impl Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Options::from_arg_matches(matches)?;
        options.prefer_typed(matches);
        Ok(Self(options))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)?;
        self.0.prefer_typed(matches);
        Ok(())
    }
}

impl Options {
    /// Forgets the exported ways to say who calls if one is typed. A certificate that is typed may have an exported key.
    fn prefer_typed(&mut self, matches: &ArgMatches) {
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let by_certificate = is_typed("client_cert") || is_typed("client_key");
        let (by_token, by_secret) = (is_typed("token_file"), is_typed("secret_file"));
        if !(by_certificate || by_token || by_secret) {
            return;
        }
        if !by_secret {
            self.secret_file = None;
        }
        if !by_token {
            self.token_file = None;
        }
        if !by_certificate {
            (self.client_cert, self.client_key) = (None, None);
        }
    }
}

impl ServerArgs {
    /// Certificate and key of the caller; `None` where a secret or a token says who calls. Beside those a certificate could only
    /// keep the caller out: it may be the one that was revoked, and exported to the environment.
    fn certificate(&self) -> Result<Option<(&Path, &Path)>, CallError> {
        let usage = |text: &str| Err(CallError::Usage(text.to_owned()));
        if self.secret_file.is_some() || self.token_file.is_some() {
            return Ok(None);
        }
        match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (Some(_), None) => {
                usage("--client-key is missing: the private key of the certificate in --client-cert")
            }
            (None, Some(_)) => {
                usage("--client-cert is missing: the certificate of the private key in --client-key")
            }
            (None, None) => usage(
                "nothing says who is calling: give --client-cert and --client-key, --token-file or --secret-file",
            ),
        }
    }

    /// The file of the caller's certificate, where that says who calls.
    pub(super) fn own_certificate(&self) -> Option<&Path> {
        self.certificate().ok().flatten().map(|(cert, _)| cert)
    }

    /// The option that says who calls, to be repeated in another command; empty where a certificate does.
    pub(super) fn credential(&self) -> String {
        match (&self.secret_file, &self.token_file) {
            (Some(file), _) => format!(" --secret-file {}", quoted(&file.display().to_string())),
            (None, Some(file)) => format!(" --token-file {}", quoted(&file.display().to_string())),
            (None, None) => String::new(),
        }
    }

    /// An error of a file, with the option that names the file.
    fn named(&self, error: ClientError) -> ClientError {
        let (file, reason) = match error {
            ClientError::File(file, reason) => (file, reason),
            ClientError::OtherKey(key, cert) => {
                return ClientError::OtherKey(format!("--client-key {key}"), format!("--client-cert {cert}"));
            }
            other => return other,
        };
        let all = [
            ("--cacert", &self.cacert),
            ("--client-cert", &self.client_cert),
            ("--client-key", &self.client_key),
        ];
        let is_it =
            |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.display().to_string() == file);
        let options: Vec<&str> = all.iter().filter(|(_, path)| is_it(path)).map(|(name, _)| *name).collect();
        ClientError::File(format!("{} {file}", options.join(", ")).trim().to_owned(), reason)
    }
}

/// A server that can be called.
pub(super) struct Server<'a> {
    args: &'a ServerArgs,
    tls: Arc<ClientConfig>,
    token: Option<HeaderValue>,
    /// How long an answer is waited for.
    patience: Duration,
}

/// How often one call waits because the server asks for it.
const WAITS: usize = 10;
/// The longest time that one wait takes, seconds.
const LONGEST: u64 = 60;

impl<'a> Server<'a> {
    /// Reads the files that are named, and logs in if one of them is a secret.
    pub(super) async fn open(args: &'a ServerArgs) -> Result<Self, CallError> {
        let Some(cacert) = &args.cacert else {
            let text = "--cacert is missing: the file of the authority that vouches for the server";
            return Err(CallError::Usage(text.to_owned()));
        };
        let tls =
            client::config_from_files(cacert, args.certificate()?).map_err(|error| args.named(error))?;
        let tls = Arc::new(tls);
        let mut server = Self { args, tls, token: None, patience: client::ANSWER };
        match (&args.secret_file, &args.token_file) {
            (Some(file), _) => server.log_in(file).await?,
            (None, Some(file)) => {
                let token = bearer(&read("--token-file", file)?);
                server.token =
                    Some(token.ok_or_else(|| unfit("--token-file", file, "holds no access token"))?);
            }
            (None, None) => {}
        }
        Ok(server)
    }

    /// Asks for a document.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.call(&Method::GET, path, None).await
    }

    /// The same, where an answer may take so long.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Makes a call; waits where the server asks for it.
    pub(super) async fn call(
        &mut self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        let answer = self.patiently(method, path, body).await?;
        match &self.args.secret_file {
            // A token lasts five minutes, a long list of changes may last longer.
            Some(file) if answer.status == StatusCode::UNAUTHORIZED => {
                self.log_in(file).await?;
                self.patiently(method, path, body).await
            }
            _ => Ok(answer),
        }
    }

    async fn log_in(&mut self, file: &Path) -> Result<(), CallError> {
        let secret = read("--secret-file", file)?;
        if secret.is_empty() {
            return Err(unfit("--secret-file", file, "holds no secret"));
        }
        self.token = None;
        let body = json!({ "secret": secret });
        let answer = self.patiently(&Method::POST, "/v1/admin/auth", Some(&body)).await?;
        match bearer(answer.text("access_token")) {
            Some(token) if answer.is_done("access_token") => self.token = Some(token),
            _ => {
                let file = file.display().to_string();
                return Err(CallError::LogIn { file, status: answer.status, reason: answer.failure() });
            }
        }
        if answer.document["audit_durable"] == Value::Bool(false) {
            complain(&"WARNING: the audit line of the login is not on disk: it waits in the gate's memory");
        }
        Ok(())
    }

    async fn patiently(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        let mut waits = 0;
        loop {
            let answer = self.once(method, path, body).await?;
            if answer.status != StatusCode::TOO_MANY_REQUESTS || waits == WAITS {
                return Ok(answer);
            }
            waits += 1;
            let seconds = answer.retry_after.unwrap_or(1).min(LONGEST);
            complain(&format_args!("the server asks for patience: going on in {seconds} s"));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    async fn once(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, CallError> {
        let server = &self.args.server;
        let unreachable = |reason: &str| ClientError::Unreachable(server.to_string(), reason.to_owned());
        let authority = server.authority().ok_or_else(|| unreachable(SERVER))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let addresses = tokio::net::lookup_host((host.as_str(), authority.port_u16().unwrap_or(9443))).await;
        let addresses: Vec<SocketAddr> = addresses.map_err(|e| unreachable(&e.to_string()))?.collect();
        let mut failure = unreachable("no address");
        for address in addresses {
            let request = self.request(method, path, body).map_err(|e| unreachable(&e.to_string()))?;
            match client::call(&self.tls, address, &host, request, self.patience).await {
                Ok(answer) => return Ok(read_answer(answer)),
                // `localhost` may be two addresses of which one listens.
                Err(error @ (ClientError::Unreachable(..) | ClientError::Dropped(..))) => failure = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure.into())
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let host = self.args.server.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(id) = &self.args.correlation_id {
            request = request.header("x-correlation-id", id);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
    }
}

fn read_answer(answer: http::Response<Bytes>) -> Answer {
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (status, body) = (answer.status(), answer.into_body());
    Answer { status, document: serde_json::from_slice(&body).unwrap_or(Value::Null), body, retry_after }
}

fn read(option: &str, file: &Path) -> Result<String, CallError> {
    let text = std::fs::read_to_string(file).map_err(|error| unfit(option, file, &error.to_string()))?;
    Ok(text.trim().to_owned())
}

fn unfit(option: &str, file: &Path, reason: &str) -> CallError {
    CallError::Usage(format!("{option} {}: {reason}", file.display()))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut value = plain.then(|| HeaderValue::try_from(format!("Bearer {token}")).ok())??;
    value.set_sensitive(true);
    Some(value)
}

/// Runs a command that talks to a server, and returns its exit code.
pub(super) fn talk(conversation: impl Future<Output = u8>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(conversation),
        Err(error) => {
            complain(&error);
            REFUSED
        }
    }
}

/// The part of a URL behind the `?`, percent-encoded (RFC 3986, section 2.1), with the `?`; without what has no value.
pub(super) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given = pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    given.fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, "{}{name}={}", if text.is_empty() { '?' } else { '&' }, encoded(value));
        text
    })
}

/// A value as part of a path or a query: everything but RFC 3986's unreserved characters is percent-encoded.
pub(super) fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => text.push(char::from(byte)),
            false => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

/// What `--server` is.
const SERVER: &str = "https://HOST:PORT";

fn server(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| SERVER)?;
    let fits = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    if fits { Ok(uri) } else { Err(SERVER) }
}

fn correlation(text: &str) -> Result<String, &'static str> {
    let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err("1 to 128 printable ASCII characters") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_what_was_given() {
        let pairs =
            [("level", None), ("target", Some("spiffe://a/b c&d".to_owned())), ("limit", Some("1".into()))];
        assert_eq!(query(&pairs), "?target=spiffe%3A%2F%2Fa%2Fb%20c%26d&limit=1");
        assert_eq!(query(&[("level", None)]), "");
    }

    #[test]
    fn a_token_is_one_word_and_not_shown() {
        assert!(bearer("").is_none() && bearer("a b").is_none() && bearer("a\nb").is_none());
        assert_eq!(format!("{:?}", bearer("abc").unwrap()), "Sensitive");
    }
}
