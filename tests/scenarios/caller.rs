//! One who calls the admin API: over HTTP/1.1 or HTTP/2, known by a certificate, by a token or not at all.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request;
use serde_json::Value;
use serde_json::json;

use crate::client::Answer;
use crate::client::Client;
use crate::client::H1;
use crate::client::H2;
use crate::lab::secret;
use crate::upstream::full;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

enum Connection {
    Http1(H1),
    Http2(H2),
}

/// One open connection to the admin listener.
pub(crate) struct Caller {
    connection: Connection,
    token: Option<String>,
}

impl Caller {
    pub(crate) async fn over(protocol: Protocol, client: &Client) -> Self {
        let connection = match protocol {
            Protocol::Http1 => Connection::Http1(client.h1().await),
            Protocol::Http2 => Connection::Http2(client.h2().await),
        };
        Self { connection, token: None }
    }

    pub(crate) async fn http1(client: &Client) -> Self {
        Self::over(Protocol::Http1, client).await
    }

    /// The same connection, with `Authorization: Bearer TOKEN` on every call.
    pub(crate) fn bearing(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    fn request(&self, method: &str, path: &str) -> request::Builder {
        let request = match &self.connection {
            Connection::Http1(connection) => connection.request(method, path),
            Connection::Http2(connection) => connection.request(method, path),
        };
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// One call, with more headers and any body; the error says how the connection ended instead.
    pub(crate) async fn try_send(
        &mut self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let request = headers
            .iter()
            .fold(self.request(method, path), |request, (name, value)| request.header(*name, *value));
        match &mut self.connection {
            Connection::Http1(connection) => {
                connection.exchange(request.body(full(body)).unwrap()).await.map_err(|e| e.to_string())
            }
            Connection::Http2(connection) => {
                let request = request.body(()).unwrap();
                connection.exchange_with(request, body.into()).await.map_err(|e| e.to_string())
            }
        }
    }

    pub(crate) async fn send(
        &mut self,
        call: (&str, &str),
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_send(call, headers, body).await.unwrap()
    }

    /// Posts a batch that takes longer than anything else that tests wait for. Over HTTP/1.1.
    pub(crate) async fn try_slowly(&mut self, batch: &Value) -> Result<Answer, String> {
        let request = self.request("POST", "/v1/revocations").header(JSON.0, JSON.1);
        let Connection::Http1(connection) = &mut self.connection else { panic!("HTTP/1.1 only") };
        connection.slowly(request.body(full(batch.to_string())).unwrap()).await.map_err(|e| e.to_string())
    }

    pub(crate) async fn slowly(&mut self, batch: &Value) -> Answer {
        self.try_slowly(batch).await.unwrap()
    }

    /// One call, with a JSON body if there is one.
    pub(crate) async fn try_call(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        match body {
            Some(body) => self.try_send((method, path), &[JSON], body.to_string()).await,
            None => self.try_send((method, path), &[], "").await,
        }
    }

    pub(crate) async fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, body).await.unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    /// What a GET that must be answered says.
    #[track_caller]
    pub(crate) fn read(&mut self, path: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.get(path).await;
            assert_eq!(answer.status, 200, "{path} at {caller}: {:?}", answer.body);
            answer.json()
        }
    }

    /// Posts one change, or a batch.
    pub(crate) async fn change(&mut self, change: &Value) -> Answer {
        self.call("POST", "/v1/revocations", Some(change)).await
    }

    /// Posts a change that must be done, and returns what came of it.
    #[track_caller]
    pub(crate) fn done(&mut self, change: &Value) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.change(change).await;
            assert_eq!(answer.status, 200, "{change} at {caller}: {:?}", answer.body);
            answer.json()
        }
    }
}

/// The content type of every body.
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// A token for the secret of that name.
pub(crate) async fn token(client: &Client, name: &str) -> String {
    let login = json!({"secret": secret(name)});
    let answer = Caller::http1(client).await.call("POST", "/v1/admin/auth", Some(&login)).await;
    answer.assert_ok();
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// `a=b&c=d`, each value escaped.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        let escaped = text.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        });
        escaped.collect::<String>()
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}

/// An address that nobody called from yet: how often an address calls is not what is asked here.
pub(crate) fn fresh_address() -> Ipv4Addr {
    static NEXT: [AtomicU8; 2] = [AtomicU8::new(1), AtomicU8::new(1)];
    let last = NEXT[1].fetch_add(1, Ordering::Relaxed);
    let middle = if last == u8::MAX {
        NEXT[0].fetch_add(1, Ordering::Relaxed)
    } else {
        NEXT[0].load(Ordering::Relaxed)
    };
    Ipv4Addr::new(127, 1, middle, last)
}
