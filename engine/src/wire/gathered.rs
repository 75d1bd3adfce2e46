//! A socket whose small writes can be held back to leave together.
//!
//! h2 hands larger frames to its socket one by one and flushes behind each. For messages to many
//! streams of one connection that would be a system call for each of them.
//!
//! The answer to a ping (a pong) waits for what is written next, or for a tick: gRPC clients that
//! measure the bandwidth (grpc-go) ping with every answer that they get, mostly beside their next
//! call. Alone such a pong costs as much as the answer to that call, on both sides.
use super::limits::GATHERED_BYTES;
use crate::ticks::{Tick, Ticks};
use bytes::{Buf, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Shared by the socket and its connection, which are polled by one task.
#[derive(Clone, Default)]
pub struct Hold(Arc<AtomicBool>);

impl Hold {
    /// From now on nothing has to leave at once.
    pub fn begin(&self) {
        self.0.store(true, Relaxed);
    }

    /// True when something may have been held back: the next flush sends it.
    pub fn end(&self) -> bool {
        self.0.swap(false, Relaxed)
    }

    fn holds(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// RFC 9113, section 6.7: a head of 9 bytes, with type and flags, before 8 that are given back.
const PONG_BYTES: usize = 17;
const PING_TYPE: u8 = 6;
const ACK: u8 = 1;

pub struct Gathered<T> {
    socket: T,
    hold: Hold,
    /// bounded: by GATHERED_BYTES
    waiting: BytesMut,
    ticks: Arc<Ticks>,
    /// Until when a pong that waits alone may do so; h2 flushes whenever its task is woken.
    pong: Option<Tick>,
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    pub fn new(socket: T, hold: Hold, ticks: Arc<Ticks>) -> Gathered<T> {
        Gathered {
            socket,
            hold,
            waiting: BytesMut::new(),
            ticks,
            pong: None,
        }
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pong = None;
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether `bytes` more are kept back. Makes room for them, or sends what is before them.
    fn poll_keep(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let gathers = self.hold.holds() || self.pong.take().is_some();
        let keep = gathers && bytes <= GATHERED_BYTES;
        if !keep || self.waiting.len() + bytes > GATHERED_BYTES {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(keep))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.as_mut()
            .poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.is_empty() && is_pong(slices, bytes) {
            self.pong = Some(self.ticks.next());
        } else if !ready!(self.poll_keep(bytes, cx))? {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pong = self.pong.as_mut();
        let early = pong.is_some_and(|tick| tick.as_mut().poll(cx).is_pending());
        if self.hold.holds() || early {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn is_pong(slices: &[IoSlice<'_>], bytes: usize) -> bool {
    let head = slices.iter().find(|slice| !slice.is_empty());
    bytes == PONG_BYTES
        && head.is_some_and(|head| head.len() > 4 && head[3] == PING_TYPE && head[4] & ACK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limits::PONG_WAIT;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn ticks() -> Arc<Ticks> {
        let ticks = Ticks::new(PONG_WAIT);
        tokio::spawn(ticks.clone().run());
        ticks
    }

    fn socket_and_hold() -> (Gathered<Writes>, Hold) {
        let hold = Hold::default();
        let socket = Gathered::new(Writes::default(), hold.clone(), ticks());
        (socket, hold)
    }

    /// Notes what each write brings.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_held_leaves_together_and_in_order() {
        let (mut socket, hold) = socket_and_hold();
        socket.write_all(b"at once").await.unwrap();
        hold.begin();
        for part in [b"1", b"2", b"3"] {
            socket.write_all(part).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(socket.socket.0, [b"at once"]);
        assert!(hold.end());
        assert!(!hold.end());
        socket.flush().await.unwrap();
        socket.write_all(b"after").await.unwrap();
        assert_eq!(socket.socket.0[1..], [b"123".to_vec(), b"after".to_vec()]);
        hold.begin();
        socket.write_all(b"a").await.unwrap();
        let large = vec![7; GATHERED_BYTES + 1];
        socket.write_all(&large).await.unwrap();
        assert_eq!(socket.socket.0[3..], [b"a".to_vec(), large]);
    }

    fn frame(kind: u8, flags: u8) -> Vec<u8> {
        [&[0, 0, 8, kind, flags, 0, 0, 0, 0], b"12345678".as_slice()].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_waits_for_what_is_written_next_or_for_a_tick() {
        let (mut socket, _hold) = socket_and_hold();
        let pong = frame(PING_TYPE, ACK);
        for (n, alone) in [frame(PING_TYPE, 0), frame(0, ACK)].iter().enumerate() {
            socket.write_all(alone).await.unwrap();
            assert_eq!(&socket.socket.0[n], alone, "it is no pong");
        }
        socket.socket.0.clear();
        socket.write_all(&pong).await.unwrap();
        socket.flush().await.unwrap();
        assert!(socket.socket.0.is_empty());
        socket.write_all(b"answer").await.unwrap();
        socket.flush().await.unwrap();
        assert_eq!(socket.socket.0, [[&pong, b"answer".as_slice()].concat()]);

        socket.socket.0.clear();
        let asked = tokio::time::Instant::now();
        socket.write_all(&pong).await.unwrap();
        poll_fn(|cx| {
            let _ = Pin::new(&mut socket).poll_flush(cx).map(Result::unwrap);
            match socket.socket.0.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        assert!(asked.elapsed() <= 2 * PONG_WAIT, "{:?}", asked.elapsed());
        assert_eq!(socket.socket.0, [pong.as_slice()]);

        socket.socket.0.clear();
        for _ in 0..3 {
            socket.write_all(&pong).await.unwrap();
        }
        socket.flush().await.unwrap();
        assert_eq!(socket.socket.0.concat(), pong.repeat(3), "one may wait");
    }

    #[tokio::test]
    async fn a_slow_socket_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let hold = Hold::default();
        let mut socket = Gathered::new(near, hold.clone(), ticks());
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            for (n, part) in sent.chunks(700).enumerate() {
                if n % 200 == 0 {
                    hold.begin();
                }
                socket.write_all(part).await.unwrap();
                if n % 200 == 199 {
                    hold.end();
                    socket.flush().await.unwrap();
                }
            }
            socket.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expected);
    }
}
