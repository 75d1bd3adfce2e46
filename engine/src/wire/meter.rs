//! What a client's frames cost, against what they achieve.
//!
//! h2 answers pings and settings, and forgets streams, as fast as a client asks for it; a client
//! that does nothing else would keep a network thread busy, from which Raft's heartbeats are sent
//! as well. So every frame is counted as its head comes in, before h2 sees it. Calls, their content
//! and the answers that the client takes earn what frames cost: working clients never owe anything,
//! however fast they are. What is earned by time alone is enough for pings now and then.
use super::head::Head;
use super::limits::{FRAME_COST, HEADERS_EARN, METER_EARNED_MS, METER_SAVED_MAX, RESET_COST};
use super::pulse::now;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// Kinds and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What the meter tells the connection, which cannot reach it inside h2.
#[derive(Default)]
pub struct Verdict {
    exceeded: AtomicBool,
    /// Header blocks begun and ended: odd within one.
    blocks: AtomicU64,
}

impl Verdict {
    /// The client has used up what it earned. Nothing more is read from it.
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Relaxed)
    }

    /// The header block that is open now, if one is; the same one has the same number.
    pub fn open_block(&self) -> Option<u64> {
        let blocks = self.blocks.load(Relaxed);
        (blocks % 2 == 1).then_some(blocks)
    }
}

/// A socket whose frames are counted.
pub struct Metered<T> {
    socket: T,
    verdict: Arc<Verdict>,
    account: Account,
    /// Bytes up to the next head of a frame.
    skip: usize,
    head: Head<HEAD_BYTES>,
}

/// In bytes of content; see limits.rs.
struct Account {
    saved: i64,
    counted: Instant,
}

impl Account {
    fn earn(&mut self, bytes: i64) {
        self.saved = (self.saved + bytes).min(METER_SAVED_MAX);
    }

    /// False when there is not enough. The clock is looked at only then.
    fn pay(&mut self, cost: i64) -> bool {
        self.saved -= cost;
        if self.saved >= 0 {
            return true;
        }
        let now = now();
        let passed = now.saturating_duration_since(self.counted).as_millis();
        self.counted = now;
        self.earn(i64::try_from(passed).unwrap_or(i64::MAX / METER_EARNED_MS) * METER_EARNED_MS);
        self.saved >= 0
    }
}

impl<T> Metered<T> {
    pub fn new(socket: T) -> (Metered<T>, Arc<Verdict>) {
        let verdict = Arc::new(Verdict::default());
        let account = Account {
            saved: METER_SAVED_MAX,
            counted: now(),
        };
        let metered = Metered {
            socket,
            verdict: verdict.clone(),
            account,
            skip: PREFACE_BYTES,
            head: Head::default(),
        };
        (metered, verdict)
    }

    /// Looks through what was read. False when it costs too much.
    fn count(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return true;
            }
            if let Some(head) = self.head.take(&mut bytes)
                && !self.frame(head)
            {
                return false;
            }
        }
    }

    /// A head is complete.
    fn frame(&mut self, head: [u8; HEAD_BYTES]) -> bool {
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length as usize;
        let (earned, cost) = match kind {
            DATA => (i64::from(length), FRAME_COST),
            HEADERS => (HEADERS_EARN, FRAME_COST),
            RST_STREAM => (0, RESET_COST),
            _ => (0, FRAME_COST),
        };
        if matches!(kind, HEADERS | CONTINUATION) {
            let open = self.verdict.open_block().is_some();
            if open == (flags & END_HEADERS != 0) {
                self.verdict.blocks.fetch_add(1, Relaxed);
            }
        }
        self.account.earn(earned);
        self.account.pay(cost)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.exceeded() {
            return Poll::Pending; // the connection ends after this poll
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        if !this.count(&buffer.filled()[before..]) {
            this.verdict.exceeded.store(true, Relaxed);
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Metered<T> {
    fn written(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.account.earn(bytes as i64);
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.written(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PING: [u8; 17] = *b"\0\0\x08\x06\0\0\0\0\x0012345678";
    const RESET: [u8; 13] = *b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
    const CALL: [u8; 29] = *b"\0\0\x01\x01\x04\0\0\0\x01.\0\0\x0a\0\x01\0\0\0\x010123456789";

    fn metered() -> (Metered<()>, Arc<Verdict>) {
        let (mut metered, verdict) = Metered::new(());
        assert!(metered.count(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        (metered, verdict)
    }

    /// How often something is taken in a row, at most `most` times.
    fn taken(metered: &mut Metered<()>, bytes: &[u8], most: usize) -> usize {
        let taken = (0..most).position(|_| !metered.count(bytes));
        metered.skip = 0; // the rest of the one that was not
        taken.unwrap_or(most)
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_achieve_nothing_are_bounded_and_time_brings_some_back() {
        let (mut metered, _) = metered();
        assert_eq!(taken(&mut metered, &PING, 1 << 20), 10_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        let again = taken(&mut metered, &PING, 1 << 20);
        assert!((999..=1_001).contains(&again), "{again}");
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let rested = taken(&mut metered, &PING, 1 << 20);
        assert!(rested <= 10_001, "{rested}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_earn_what_goes_with_them() {
        let (mut metered, _) = metered();
        let busy = [&CALL[..], &PING, &PING].concat();
        assert_eq!(taken(&mut metered, &busy, 1 << 20), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_may_be_cancelled_at_once_but_not_without_end() {
        let (mut metered, _) = metered();
        let cancelled = [&CALL[..], &RESET].concat();
        let times = taken(&mut metered, &cancelled, 1 << 20);
        assert!((1_024..2_048).contains(&times), "{times}");
    }

    #[tokio::test(start_paused = true)]
    async fn heads_are_found_wherever_the_bytes_are_split() {
        let (mut metered, verdict) = metered();
        let begun = b"\0\0\x02\x01\0\0\0\0\x01..";
        let more = b"\0\0\x01\x09\0\0\0\0\x01.";
        let end = b"\0\0\0\x09\x04\0\0\0\x01";
        for byte in [&begun[..], more].concat() {
            assert!(metered.count(&[byte]));
        }
        assert_eq!(verdict.open_block(), Some(1));
        for byte in [&end[..], &CALL].concat() {
            assert!(metered.count(&[byte]));
        }
        assert_eq!(verdict.open_block(), None);
        assert!(metered.count(begun));
        assert_eq!(verdict.open_block(), Some(3), "not the same as before");
    }
}
