//! Large uploads and downloads pass in flat memory, however slow the reader is: what it does not take, nobody sends.
//!
//! `PORTCULLIS_LARGE` says how large, in MiB; 1024 is half a minute's work for an unoptimized gate.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::version::TLS13;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::Speaks;
use crate::upstream::feed;
use crate::upstream::full;

/// How much a gate may hold of a stream, at most: windows and buffers, on both of its sides. In kB.
const BOUND: u64 = 16 << 10;
/// What of a stream a dawdler leaves lying at first.
const DAWDLES: Duration = Duration::from_millis(500);
const CHUNK: usize = 64 << 10;

/// Waits for a stream, however slow the machine is: a second for each MiB, and some to begin with.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60 + u64::try_from(size() >> 20).unwrap());
    tokio::time::timeout(limit, future).await.expect("a stream stands still")
}

fn size() -> usize {
    let size = std::env::var("PORTCULLIS_LARGE").ok().map(|size| size.parse::<usize>().unwrap());
    size.unwrap_or(256) << 20
}

/// A download of that size from `/download`; of any other request, how large it was. Its reader dawdles as well.
async fn service(speaks: Speaks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = |request: http::Request<hyper::body::Incoming>| async move {
        if request.uri().path() != "/download" {
            tokio::time::sleep(DAWDLES).await;
            let mut count = 0;
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
            return Ok::<_, std::convert::Infallible>(Response::new(full(count.to_string())));
        }
        let (feeder, body) = feed();
        tokio::spawn(async move {
            let chunk = Bytes::from(vec![b'.'; CHUNK]);
            for _ in 0..size() / CHUNK {
                if feeder.send(Frame::data(chunk.clone())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(body))
    };
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (io, service) = (TokioIo::new(socket), service_fn(service));
            tokio::spawn(async move {
                let _ = match speaks {
                    Speaks::Http1 => http1::Builder::new().serve_connection(io, service).await,
                    Speaks::H2c => {
                        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                    }
                };
            });
        }
    });
    address
}

/// The most that the process ever held, kB.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn download1(client: Client) -> usize {
    let mut connection = client.h1().await;
    let request = connection.request("GET", "/download").body(full("")).unwrap();
    let mut body = connection.send(request).await.unwrap().into_body();
    tokio::time::sleep(DAWDLES).await;
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    count
}

async fn download2(client: Client) -> usize {
    let mut connection = client.h2().await;
    let mut body = within(connection.begin("/download").await).await.unwrap().into_body();
    tokio::time::sleep(DAWDLES).await;
    let mut count = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        count += chunk.len();
    }
    count
}

async fn upload1(client: Client) -> usize {
    let mut connection = client.h1().await;
    let (feeder, answer) = connection.begin("POST", "/upload");
    let answer = tokio::spawn(answer);
    let chunk = Bytes::from(vec![b'.'; CHUNK]);
    for _ in 0..size() / CHUNK {
        feeder.send(Frame::data(chunk.clone())).await.unwrap();
    }
    drop(feeder);
    let body = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    std::str::from_utf8(&body).unwrap().parse().unwrap()
}

async fn upload2(client: Client) -> usize {
    let mut connection = client.h2().await;
    let request = connection.request("POST", "/upload").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    let (chunk, mut left) = (Bytes::from(vec![b'.'; CHUNK]), size());
    while left > 0 {
        body.reserve_capacity(left.min(CHUNK));
        let capacity = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = chunk.slice(..capacity.min(left).min(CHUNK));
        left -= piece.len();
        body.send_data(piece, left == 0).unwrap();
    }
    let text = answer.await.unwrap().into_body().data().await.unwrap().unwrap();
    std::str::from_utf8(&text).unwrap().parse().unwrap()
}

/// Seen failing with windows as wide as the streams.
#[tokio::test]
async fn both_ways_at_once_over_every_pair_of_protocols() {
    for speaks in Speaks::ALL {
        let (site, address) = (Site::new(), service(speaks).await);
        let mut command = site.command("run");
        let route = format!("[{{ upstream = [\"{}://{address}\"] }}]", speaks.scheme());
        command.env("PORTCULLIS__ROUTE", route);
        let (process, at) = Process::start(command).await;
        let client = Client::new(&site.root, Some(&site.root.agent("a")), at.gate, &[&TLS13]);
        client.get("/").await.assert_ok();
        let before = peak(&process);
        let (first, second) =
            (tokio::spawn(download1(client.clone())), tokio::spawn(download2(client.clone())));
        let (third, fourth) = (tokio::spawn(upload1(client.clone())), tokio::spawn(upload2(client)));
        for count in [first, second, third, fourth] {
            assert_eq!(in_time(count).await.unwrap(), size(), "{speaks:?}");
        }
        let held = peak(&process) - before;
        println!("{speaks:?}: {} MiB each way, twice; {held} kB held at most", size() >> 20);
        assert!(held < BOUND, "{held} kB held, {speaks:?}");
    }
}
