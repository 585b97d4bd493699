//! Connections to an upstream are kept, and a request is never sent twice where that could do harm.

use std::sync::Arc;
use std::sync::Mutex;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::lab::Lab;
use crate::lab::Plan;
use crate::upstream::full;

/// The request lines that each connection carried.
type Lines = Arc<Mutex<Vec<Vec<String>>>>;

/// An upstream that answers, that closes a connection after it has answered `/last`, and without an answer to `/break`.
async fn upstream() -> (Plan, Lines) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = Lab::plan()
        .on_one_thread()
        .routes(&format!("[[route]]\nupstream = [\"http://{}\"]", listener.local_addr().unwrap()));
    let lines = Lines::default();
    let all = Arc::clone(&lines);
    tokio::spawn(async move {
        for i in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            all.lock().unwrap().push(Vec::new());
            tokio::spawn(answer(socket, i, Arc::clone(&all)));
        }
    });
    (plan, lines)
}

async fn answer(mut socket: TcpStream, i: usize, all: Lines) {
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = socket.read(&mut chunk).await {
        read.extend_from_slice(&chunk[..count]);
        if !read.windows(4).any(|end| end == b"\r\n\r\n") {
            continue;
        }
        let line = String::from_utf8_lossy(&read).lines().next().unwrap().to_owned();
        read.clear();
        all.lock().unwrap()[i].push(line.clone());
        if line.contains("/break") {
            return;
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        if line.contains("/last") {
            return;
        }
    }
}

#[tokio::test]
async fn for_one_request_after_the_other() {
    let (plan, lines) = upstream().await;
    let lab = plan.start().await;
    let client = lab.client(&lab.root.agent("a"));
    for path in ["/1", "/2", "/last"] {
        client.get(path).await.assert_ok();
    }
    // The kept connection is gone by now, or going: nobody notices.
    client.get("/4").await.assert_ok();
    let lines = lines.lock().unwrap();
    assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1], "{lines:?}");
}

#[tokio::test]
async fn and_what_may_have_been_sent_is_not_sent_again() {
    let (plan, lines) = upstream().await;
    let lab = plan.start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    connection.get("/1").await.assert_ok();
    let request = connection.request("POST", "/break").body(full("x")).unwrap();
    assert_eq!(connection.send(request).await.unwrap().status(), 502);
    let posts = lines.lock().unwrap().concat().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(posts, 1);
    connection.get("/2").await.assert_ok();
}

/// An upstream whose queue is full takes no connection: 504, in time.
#[tokio::test]
async fn unless_none_can_be_had() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Fills the queue; what does not fit waits in vain, as the gate will.
    let fill: Vec<_> = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    let routes = format!("[[route]]\nupstream = [\"http://{address}\"]");
    let lab = Lab::plan().routes(&routes).gate("timeouts = { upstream_connect = \"1s\" }").start().await;
    lab.client(&lab.root.agent("a")).get("/").await.assert_refused(504, "upstream_timeout");
    fill.iter().for_each(tokio::task::JoinHandle::abort);
}
