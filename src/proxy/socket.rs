//! Sockets: plain TCP, and the client's, which keeps its session in the table for as long as it is open.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::flight::Flights;
use super::frames::FrameBudget;
use super::frames::FrameCredit;
use super::frames::TooManyFrames;
use super::pace::Pace;
use super::reset::ResetHandle;
use crate::session::Guard;

/// How long a connection that was closed from this side is read from, so that its last answer arrives.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of a client's connection preface.
const PREFACE: usize = 24;

/// A TCP connection that sends one buffer with `send`: the kernel takes longer over a `writev` of one.
///
/// It counts what the kernel took.
pub(super) struct Tcp {
    pub(super) stream: TcpStream,
    taken: u64,
    /// By which a kill resets it, if it leads to an upstream.
    handle: Option<ResetHandle>,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, taken: 0, handle: None }
    }

    /// A connection that `handle` resets.
    pub(super) fn resettable(stream: TcpStream, handle: ResetHandle) -> Self {
        Self { stream, taken: 0, handle: Some(handle) }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.taken += *bytes as u64;
        }
        written
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.handle.iter().for_each(ResetHandle::release);
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.count(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let tcp = Pin::new(&mut this.stream);
        let written = match bufs {
            [one] => tcp.poll_write(cx, one),
            many => tcp.poll_write_vectored(cx, many),
        };
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The client's socket. Its fields go in this order: the socket is closed before its guard is given up.
pub(super) struct Socket {
    stream: TlsStream<Tcp>,
    guard: Option<Guard>,
    /// Since it was shut down for writing.
    lingers: Option<Pin<Box<Sleep>>>,
    /// How the client takes what is written, and how much of it it had taken at the last look.
    pace: Pace,
    taken: u64,
    /// What was read ahead.
    ahead: Vec<u8>,
    /// Of an HTTP/2 connection, from its preface on.
    frames: Option<FrameBudget>,
    /// The last write took all that it was offered: nothing of a frame is left behind.
    whole: bool,
    /// What it carries.
    flights: Arc<Flights>,
}

impl Socket {
    /// A socket that keeps `guard`'s session in the table, unless routes of both modes share it.
    pub(super) fn new(
        stream: TlsStream<Tcp>,
        guard: Option<Guard>,
        flights: Arc<Flights>,
        pace: Pace,
    ) -> Self {
        let (lingers, taken, ahead, frames) = (None, 0, Vec::new(), None);
        Self { stream, guard, lingers, pace, taken, ahead, frames, whole: true, flights }
    }

    /// Gives up on a client that does not read: what waits for it holds memory, a session and an upstream connection.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let taken = self.stream.get_ref().0.taken;
        let more = taken - std::mem::replace(&mut self.taken, taken);
        if written.is_ready() || more > 0 {
            self.pace.moved(more, 0);
        }
        match written {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => self.pace.poll_late(cx, 0).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Waits for a client's connection preface (RFC 9113, section 3.4), without taking it out of what is read: hyper itself
    /// waits for it without end. An error if the client breaks off first.
    pub(super) async fn preface(&mut self) -> io::Result<()> {
        let mut bytes = [0; PREFACE];
        let mut preface = ReadBuf::new(&mut bytes);
        while preface.remaining() > 0 {
            let before = preface.filled().len();
            poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut preface)).await?;
            if preface.filled().len() == before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.ahead = preface.filled().to_vec();
        Ok(())
    }

    /// Counts the frames of what is read from now on, after the preface. What comes back earns the budget its frames.
    pub(super) fn count_frames(&mut self) -> Arc<FrameCredit> {
        let credit = Arc::<FrameCredit>::default();
        self.frames = Some(FrameBudget::new(Arc::clone(&credit), Instant::now()));
        credit
    }

    /// An error where the client has sent too many frames; it is told so if that does not have to wait.
    fn spend(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let taken = self.stream.get_ref().0.taken;
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let Err(TooManyFrames) = frames.spend(bytes, taken, Instant::now) else { return Ok(()) };
        self.flights.flood();
        if self.whole {
            let goodbye = frames.goodbye();
            // Whoever does not read what it is told is told nothing.
            let _ = Pin::new(&mut self.stream).poll_write(cx, &goodbye);
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Throws away what the client still sends, until it is through or has had its time. A socket that is closed over
    /// unread bytes is reset, and takes along what was written to it: the refusal of an upload, for one.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingers = self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if lingers.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [0; 4096];
        loop {
            let mut rest = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(self.stream.get_mut().0).poll_read(cx, &mut rest));
            if read.is_err() || rest.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            guard.session().detach();
        }
        if self.flights.is_cut() || self.guard.as_ref().is_some_and(|guard| guard.cause().is_some()) {
            // Without it the kernel goes on to deliver what was written, megabytes perhaps, after the revocation.
            let _ = SockRef::from(&self.stream.get_ref().0.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let count = buf.remaining().min(this.ahead.len());
            buf.put_slice(&this.ahead[..count]);
            this.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.spend(cx, &buf.filled()[before..]))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.whole = is_whole(&written, buf.len());
        this.watch(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        match this.flights.is_tunnelled() || this.flights.is_hurried() {
            true => Poll::Ready(Ok(())),
            false => this.poll_linger(cx).map(Ok),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.whole = is_whole(&written, bufs.iter().map(|buf| buf.len()).sum());
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// True if a write took all that it was offered.
fn is_whole(written: &Poll<io::Result<usize>>, offered: usize) -> bool {
    matches!(written, Poll::Ready(Ok(bytes)) if *bytes == offered)
}
