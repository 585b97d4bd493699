//! HTTP/2 frames, counted below hyper: those that carry no work have a budget for each connection.
//!
//! hyper reads PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM of closed streams and frames of unknown types as fast as
//! they come, millions a second (CVE-2019-9512, -9515, -9518). Requests and data of requests are work: they are free here,
//! and have limits of their own. What clients get back for them pays for the frames that they send because of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

/// Bytes of a frame's header (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// Frames that a connection may send at once.
const BURST: u32 = 10_000;
/// Frames that it may send in a second beyond that, for nothing.
const PER_SECOND: u64 = 1000;
/// Frames that a request pays for: its end, its reset, its priority, its window.
const PER_REQUEST: u32 = 16;
/// Frames that a piece of an answer pays for: gRPC libraries send two WINDOW_UPDATEs and a PING for each message.
const PER_PIECE: u32 = 8;
/// Bytes that pay for a frame, once the client has taken them. Libraries open a window by 4 KiB at least.
const BYTES: u64 = 1024;
/// Bytes of an idle frame's payload that cost as much as one more frame.
const PAYLOAD: u32 = 256;
/// The largest payload that the gate allows (RFC 9113, section 4.2); hyper refuses a larger one.
const MOST: u32 = 16 << 10;
/// The least data that is work: a message of gRPC has as many bytes before its first, a client's WebSocket frame one more.
const DATA_LEAST: u32 = 5;
/// The most padding that a frame may have, its length included (RFC 9113, section 6.1).
const PADDING: u32 = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;

/// The header of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of its payload.
    pub length: u32,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
}

impl FrameHead {
    fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        // The first bit of the stream is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    /// Frames that it costs.
    fn cost(self) -> u32 {
        match self.kind {
            DATA => {
                let padding = if self.flags & PADDED == 0 { 0 } else { PADDING };
                u32::from(self.length.saturating_sub(padding) < DATA_LEAST)
            }
            // `header_bytes` bounds their payload.
            HEADERS | CONTINUATION => 1,
            _ => 1 + self.length.min(MOST) / PAYLOAD,
        }
    }
}

/// Reads frame headers out of a stream of bytes, whatever pieces it comes in. It copies no payload.
#[derive(Debug, Default)]
pub struct FrameReader {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes of the current payload that are yet to come.
    payload: usize,
}

impl FrameReader {
    /// Takes bytes off the front of `bytes` up to the end of the next header; `None` once all are taken.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.payload.min(bytes.len());
        self.payload -= skipped;
        *bytes = &bytes[skipped..];
        let (taken, rest) = bytes.split_at((HEAD - self.have).min(bytes.len()));
        *bytes = rest;
        self.head[self.have..self.have + taken.len()].copy_from_slice(taken);
        self.have += taken.len();
        if self.have < HEAD {
            return None;
        }
        let head = FrameHead::parse(self.head);
        (self.have, self.payload) = (0, head.length as usize);
        Some(head)
    }
}

/// Frames that the requests of a connection have paid for, until its budget takes them.
///
/// One thread alone uses it; hyper wants the socket, which holds the budget, to be `Send`.
#[derive(Debug, Default)]
pub(super) struct FrameCredit(AtomicU32);

impl FrameCredit {
    /// A request is taken on.
    pub(super) fn request(&self) {
        self.add(PER_REQUEST);
    }

    /// A piece of an answer is on its way.
    pub(super) fn piece(&self) {
        self.add(PER_PIECE);
    }

    fn add(&self, frames: u32) {
        let credit = self.0.load(Ordering::Relaxed);
        self.0.store(credit.saturating_add(frames), Ordering::Relaxed);
    }

    fn take(&self) -> u32 {
        let credit = self.0.load(Ordering::Relaxed);
        self.0.store(0, Ordering::Relaxed);
        credit
    }
}

/// A client sent more idle frames than its connection has a budget for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyFrames;

/// The budget of one connection for frames that carry no work.
#[derive(Debug)]
pub(super) struct FrameBudget {
    reader: FrameReader,
    left: u32,
    credit: Arc<FrameCredit>,
    /// When it was refilled last, and the bytes that the client had taken by then.
    refilled: Instant,
    taken: u64,
    /// The latest stream that the client opened.
    latest: u32,
}

impl FrameBudget {
    /// A full budget at `now`, which `credit` refills. The preface (RFC 9113, section 3.4) is not read by it.
    pub(super) fn new(credit: Arc<FrameCredit>, now: Instant) -> Self {
        let reader = FrameReader::default();
        Self { reader, left: BURST, credit, refilled: now, taken: 0, latest: 0 }
    }

    /// Takes what the frames that begin in `bytes` cost. `taken` counts the bytes that the client has taken so far. `now` is
    /// asked only where the budget is spent.
    pub(super) fn spend(
        &mut self,
        mut bytes: &[u8],
        taken: u64,
        now: impl Fn() -> Instant,
    ) -> Result<(), TooManyFrames> {
        while let Some(head) = self.reader.next(&mut bytes) {
            if head.kind == HEADERS {
                self.latest = self.latest.max(head.stream);
            }
            let cost = head.cost();
            if cost > self.left {
                self.refill(now(), taken);
            }
            self.left = self.left.checked_sub(cost).ok_or(TooManyFrames)?;
        }
        Ok(())
    }

    #[cold]
    fn refill(&mut self, now: Instant, taken: u64) {
        let passed = now.saturating_duration_since(self.refilled);
        let frames = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_mul(PER_SECOND) / 1000;
        let bytes = taken.saturating_sub(self.taken) / BYTES;
        // What is too little for a frame counts the next time.
        if frames > 0 {
            self.refilled = now;
        }
        self.taken += bytes * BYTES;
        let more = frames.saturating_add(bytes).saturating_add(u64::from(self.credit.take()));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(BURST);
    }

    /// The GOAWAY that says ENHANCE_YOUR_CALM (RFC 9113, sections 6.8 and 7).
    pub(super) fn goodbye(&self) -> [u8; 17] {
        let [a, b, c, d] = self.latest.to_be_bytes();
        [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 11]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0x80, 0, 0, 3], &vec![9; payload]].concat()
    }

    /// A budget in a world where time passes only by hand.
    struct World {
        budget: FrameBudget,
        credit: Arc<FrameCredit>,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let (credit, now) = (Arc::<FrameCredit>::default(), Instant::now());
            Self { budget: FrameBudget::new(Arc::clone(&credit), now), credit, now }
        }

        /// Frames of this kind that the budget lets through, of a million.
        fn most(&mut self, one: &[u8], taken: u64) -> usize {
            (0..1_000_000).take_while(|_| self.budget.spend(one, taken, || self.now).is_ok()).count()
        }
    }

    #[test]
    fn idle_frames_cost_by_number_and_size() {
        for (kind, flags, payload, expected) in [
            (6, 0, 8, 10_000),
            (4, 1, 0, 10_000),
            (DATA, 0, 0, 10_000),
            (DATA, 0, 4, 10_000),
            (DATA, PADDED, 260, 10_000),
            (HEADERS, 0, 16_384, 10_000),
            (99, 0, 255, 10_000),
            (99, 0, 256, 5000),
            (4, 0, 16_380, 156),
            // hyper refuses it: the budget must not be the first.
            (99, 0, 1 << 20, 153),
            (DATA, 0, 5, 1_000_000),
            (DATA, PADDED, 261, 1_000_000),
        ] {
            assert_eq!(World::new().most(&frame(kind, flags, payload), 0), expected, "{kind}, {payload}");
        }
    }

    #[test]
    fn time_requests_pieces_and_bytes_refill_it() {
        let mut world = World::new();
        // Without a payload: the budget reads no further than the frame that is one too many.
        let settings = frame(4, 0, 0);
        assert_eq!(world.most(&settings, 1023), 10_000);
        world.now += Duration::from_millis(2500);
        assert_eq!(world.most(&settings, 1023), 2500);
        world.credit.request();
        world.credit.piece();
        assert_eq!(world.most(&settings, 1023), 24);
        assert_eq!(world.most(&settings, 4096), 4);
        world.now += Duration::from_secs(3600);
        assert_eq!(world.most(&settings, u64::MAX), 10_000);
    }

    #[test]
    fn the_goodbye_names_the_latest_stream() {
        let World { mut budget, now, .. } = World::new();
        budget.spend(&frame(HEADERS, 5, 3), 0, || now).unwrap();
        let goodbye = budget.goodbye();
        let mut goodbye = &goodbye[..];
        let head = FrameReader::default().next(&mut goodbye).unwrap();
        assert_eq!(head, FrameHead { length: 8, kind: 7, flags: 0, stream: 0 });
        assert_eq!(goodbye, [0, 0, 0, 3, 0, 0, 0, 11]);
    }
}
