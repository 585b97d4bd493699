//! The services behind the gate: each several endpoints, which restart and reset their connections now and then.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use socket2::Domain;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::upstream::AnyBody;
use crate::upstream::Speaks;
use crate::upstream::feed;
use crate::upstream::full;

/// How many events `/events` has.
pub(crate) const EVENTS: usize = 10;
/// How long after a disturbance its consequences may be met: the gate learns of each with the next packet.
const SLACK: Duration = Duration::from_millis(1000);

/// One service.
pub(crate) struct Service {
    endpoints: Mutex<Vec<Endpoint>>,
    speaks: Speaks,
    /// When it was last disturbed; in the future while it is.
    disturbed: Mutex<Option<Instant>>,
}

struct Endpoint {
    address: SocketAddr,
    listener: AbortHandle,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Endpoint {
    fn start(reserved: Socket, speaks: Speaks) -> Self {
        reserved.listen(1024).unwrap();
        reserved.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(reserved.into()).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let all = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                // Closed from here, it is reset: what was on its way is lost.
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                let io = TokioIo::new(socket);
                let task = tokio::spawn(async move {
                    let service = service_fn(answer);
                    // How it ends is the gate's affair, or that of a disturbance.
                    let _ = match speaks {
                        Speaks::Http1 => {
                            http1::Builder::new().serve_connection(io, service).with_upgrades().await
                        }
                        Speaks::H2c => {
                            http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                        }
                    };
                });
                let mut all = all.lock().unwrap();
                all.retain(|task| !task.is_finished());
                all.push(task.abort_handle());
            }
        });
        Self { address, listener: task.abort_handle(), connections }
    }

    fn reset(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

impl Service {
    pub(crate) async fn start(speaks: Speaks, count: usize) -> Self {
        let mut endpoints = Vec::new();
        for _ in 0..count {
            endpoints.push(Endpoint::start(reserve(([127, 0, 0, 1], 0).into()), speaks));
        }
        Self { endpoints: Mutex::new(endpoints), speaks, disturbed: Mutex::default() }
    }

    /// Its endpoints, as TOML.
    pub(crate) fn endpoints(&self) -> String {
        let endpoints = self.endpoints.lock().unwrap();
        let scheme = self.speaks.scheme();
        let urls = endpoints.iter().map(|endpoint| format!("\"{scheme}://{}\"", endpoint.address));
        format!("[{}]", urls.collect::<Vec<_>>().join(", "))
    }

    /// Whether what went wrong since then may be its fault.
    pub(crate) fn excuses(&self, begun: Instant) -> bool {
        self.disturbed.lock().unwrap().is_some_and(|until| until + SLACK >= begun)
    }

    /// Cuts every connection to an endpoint; `down`, nothing answers there for a while either.
    pub(crate) async fn disturb(&self, which: usize, down: bool) {
        const AWAY: Duration = Duration::from_millis(300);
        *self.disturbed.lock().unwrap() = Some(Instant::now() + 2 * AWAY);
        let reserved = {
            let endpoints = self.endpoints.lock().unwrap();
            let endpoint = &endpoints[which % endpoints.len()];
            // Before the port is given up, or one of the many connections of this machine is made from it.
            let reserved = down.then(|| reserve(endpoint.address));
            if down {
                endpoint.listener.abort();
            }
            endpoint.reset();
            reserved
        };
        if let Some(reserved) = reserved {
            tokio::time::sleep(AWAY).await;
            let again = Endpoint::start(reserved, self.speaks);
            let mut endpoints = self.endpoints.lock().unwrap();
            let which = which % endpoints.len();
            endpoints[which] = again;
        }
        *self.disturbed.lock().unwrap() = Some(Instant::now());
    }
}

/// A port that is nobody else's, and at which nobody answers yet.
fn reserve(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

/// `/echo` at the end of the request, `/stream` piece by piece, `/events`, `/ws`; each says whose request it was.
async fn answer(request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    let whose = request.headers()["x-portcullis-principal"].clone();
    let path = request.uri().path();
    let mut response = match path.rsplit('/').next().unwrap() {
        "echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(full(body.to_bytes())),
            // Nobody is there to be told.
            Err(_) => Response::new(full("")),
        },
        "stream" => {
            let (feeder, body) = feed();
            let mut source = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = source.frame().await {
                    if feeder.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            Response::new(body)
        }
        "events" => {
            let (feeder, body) = feed();
            tokio::spawn(async move {
                for number in 0..EVENTS {
                    let event = Frame::data(Bytes::from(format!("data: {number}\n\n")));
                    if feeder.send(event).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            Response::new(body)
        }
        _ => websocket(request),
    };
    response.headers_mut().insert("x-whose", whose);
    Ok(response)
}

fn websocket(mut request: Request<Incoming>) -> Response<AnyBody> {
    let accept = derive_accept_key(request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
    response
}
