//! An upload that is under way when somebody is revoked, as the service behind the gate sees it.
//!
//! The service reads the header of the request and then rests, so that the body waits in two kernels: the gate's and its own.
//! Once the revoke call is answered, it reads on. What its own kernel had received it finds; what the gate's had not delivered
//! must not come, and the end of the upload neither.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use rustix::io::ioctl_fionread;
use serde_json::Value;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::time::timeout;

use super::client::Conversation;

/// Asks the sample upstream to rest before it reads the body.
pub(super) const HOLD: HeaderName = HeaderName::from_static("upload-held");
/// Bytes of the upload: more than a kernel receives before anybody reads, and no more than servers take.
const SIZE: usize = 512 * 1024;
/// Bytes that the service may have read together with the header.
const READ_AHEAD: u64 = 16 * 1024;
/// For the header to arrive, and for the end of the body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what has arrived.
const LOOK: Duration = Duration::from_millis(50);

/// An upload that waits in kernels.
pub struct Upload {
    held: HeldUpload,
    /// Sends what the gate takes, and waits for an answer.
    _client: JoinSet<()>,
}

/// What came of an upload after the revoke call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadSighting {
    /// Bytes that the service's kernel had received when the answer was there.
    pub arrived: u64,
    /// Bytes that the service read in all.
    pub read: u64,
    /// How it ended; absent if it has not.
    pub end: Option<UploadEnd>,
}

/// How an upload ended for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadEnd {
    /// With its last byte.
    Whole,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the last byte.
    Closed,
}

impl Upload {
    /// Begins to upload over `conversation`; returns when the service has the header, and no more of the body arrives there.
    /// `None` if nothing of it gets to the service.
    pub async fn begin(
        held: &HeldUploads,
        mut conversation: Conversation,
        request: request::Builder,
    ) -> Option<Self> {
        let request = request.header(HOLD, HeaderValue::from_static("1"));
        let request = request.body(Full::from(vec![b'.'; SIZE])).ok()?;
        let mut client = JoinSet::new();
        client.spawn(async move { drop(conversation.send(request).await) });
        let held = timeout(PATIENCE, held.next()).await.ok()?;
        let (mut before, mut looks) = (0, 0);
        loop {
            sleep(LOOK).await;
            let arrived = held.arrived();
            looks += 1;
            if arrived > 0 && arrived == before || looks > 40 {
                return Some(Self { held, _client: client });
            }
            before = arrived;
        }
    }

    /// Has the service read on. To be called when the revoke call is answered.
    pub async fn read_on(self) -> UploadSighting {
        let arrived = self.held.arrived();
        let Received { bytes: read, end } = self.held.read_on().await;
        UploadSighting { arrived, read, end }
    }
}

impl UploadSighting {
    /// What should not have been; `None` if nothing of the upload came after the answer.
    pub fn fault(&self) -> Option<String> {
        match self.end {
            None => Some("the upload has not ended for the service".into()),
            Some(UploadEnd::Whole) => Some("the upload came whole to the service after the answer".into()),
            Some(UploadEnd::Reset | UploadEnd::Closed) => {
                let late = self.read.saturating_sub(self.arrived + READ_AHEAD);
                (late > 0).then(|| format!("{late} bytes of the upload came to the service after the answer"))
            }
        }
    }

    /// What was seen, in a few words.
    pub fn words(&self) -> String {
        let end = match self.end {
            None => "then nothing",
            Some(UploadEnd::Whole) => "then its end",
            Some(UploadEnd::Reset) => "then a reset",
            Some(UploadEnd::Closed) => "then the connection was closed",
        };
        format!("the service read {} of {} KiB, {end}", self.read / 1024, SIZE / 1024)
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let end = self.end.map(|end| match end {
            UploadEnd::Whole => "whole",
            UploadEnd::Reset => "reset",
            UploadEnd::Closed => "closed",
        });
        json!({ "bytes": SIZE, "arrived_before_answer": self.arrived, "read": self.read, "end": end })
    }
}

/// The uploads that a service holds.
#[derive(Clone, Default)]
pub struct HeldUploads(Arc<Mutex<Vec<HeldUpload>>>);

/// An upload of which a service has read the header alone.
struct HeldUpload {
    socket: OwnedFd,
    go: oneshot::Sender<()>,
    received: oneshot::Receiver<Received>,
}

/// What a service read of an upload.
#[derive(Default)]
struct Received {
    bytes: u64,
    end: Option<UploadEnd>,
}

impl HeldUploads {
    /// The next upload that the service holds.
    async fn next(&self) -> HeldUpload {
        loop {
            if let Some(held) = self.lock().pop() {
                return held;
            }
            sleep(LOOK).await;
        }
    }

    /// Holds the body of a request that came over `socket` until it is to be read, then reads it to its end.
    pub(super) async fn hold(&self, socket: OwnedFd, mut body: Incoming) {
        let ((go, wait), (tell, received)) = (oneshot::channel(), oneshot::channel());
        self.lock().push(HeldUpload { socket, go, received });
        if wait.await.is_err() {
            // Nobody wants to know.
            return;
        }
        let mut bytes = 0;
        let end = loop {
            match body.frame().await {
                None => break UploadEnd::Whole,
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(error)) if is_reset(&error) => break UploadEnd::Reset,
                Some(Err(_)) => break UploadEnd::Closed,
            }
        };
        // Nobody may wait for it any more.
        let _ = tell.send(Received { bytes, end: Some(end) });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HeldUpload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldUpload {
    /// What the service's kernel has received of it, and the service has not read.
    fn arrived(&self) -> u64 {
        ioctl_fionread(&self.socket).unwrap_or_default()
    }

    async fn read_on(self) -> Received {
        if self.go.send(()).is_err() {
            return Received::default();
        }
        match timeout(PATIENCE, self.received).await {
            Ok(Ok(received)) => received,
            _ => Received::default(),
        }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes
        .into_iter()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_answer_is_a_fault() {
        let seen = |read, end| UploadSighting { arrived: 60_000, read, end };
        assert_eq!(seen(64_000, Some(UploadEnd::Reset)).fault(), None);
        assert_eq!(seen(64_000, Some(UploadEnd::Closed)).fault(), None);
        let late = seen(200_000, Some(UploadEnd::Reset)).fault().unwrap();
        assert!(late.starts_with("123616 bytes of the upload came"), "{late}");
        assert!(seen(SIZE as u64, Some(UploadEnd::Whole)).fault().unwrap().contains("whole"));
        assert!(seen(0, None).fault().unwrap().contains("has not ended"));
    }
}
