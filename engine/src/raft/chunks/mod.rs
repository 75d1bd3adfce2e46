//! Chunks of contents, each transfer over a connection of its own.
//!
//! asker: an order · giver: 0, or 1 and why not · giver: the chunks in that order, each in frames
//! of BYTES, or up to where the disk has failed and then GONE; the next chunk follows.
//!
//! Nothing here waits in the runtime: a thread on each side does all by itself, so that heartbeats
//! and appends never stand behind content. The giver has the kernel send out of its file. Its disk
//! is not trusted, nor is the giver: only the digests that the asker knows decide what counts.
pub mod fetch;
pub mod give;

use super::codec::*;
use super::hello::{self, Frames, closed};
use super::shared::Shared;
use crate::contents::{Digest, Layout};
use bytes::{BufMut, Bytes, BytesMut};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Of one order: what the largest content has.
pub const CHUNKS_WANTED_MAX: usize = 16_384;
/// Given at once; each has a thread of its own. As many as six other members ask for, with
/// CONTENT_PULLS_MAX times CONTENT_FETCHES each: else they refuse each other.
pub const TRANSFERS_MAX: usize = 48;
/// An order of CHUNKS_WANTED_MAX, and what stands before.
const ORDER_BYTES_MAX: usize = 8 * CHUNKS_WANTED_MAX + 1_024;
/// Of one frame, and of the asker's buffer: with less, threads wake up for little.
const BYTES_MAX: usize = 1 << 20;
/// Length and kind of a frame.
const HEAD_BYTES: usize = 5;
const BYTES: u8 = 1;
const GONE: u8 = 2;
/// Behind the numbers of an order.
const UNFINISHED: u8 = 1;
/// How soon a thread that waits notices that its node is closed.
const NOTICE: Duration = Duration::from_millis(200);

/// What a node gives of.
pub struct Contents {
    /// Empty: of nothing.
    dir: PathBuf,
    places: Arc<Semaphore>,
}

impl Contents {
    pub fn new(dir: PathBuf) -> Contents {
        Contents {
            dir,
            places: Arc::new(Semaphore::new(TRANSFERS_MAX)),
        }
    }
}

/// Chunks of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    content: Digest,
    layout: Layout,
    numbers: Vec<u64>,
    /// Also of a file that is still filled, about which nobody has proved anything.
    unfinished: bool,
}

impl Order {
    /// `InvalidInput`: there are no such chunks.
    pub fn new(content: Digest, layout: Layout, numbers: Vec<u64>) -> io::Result<Order> {
        if numbers.len() > CHUNKS_WANTED_MAX {
            let text = format!("{} chunks, of {CHUNKS_WANTED_MAX} at most", numbers.len());
            return Err(crate::contents::invalid(text));
        }
        for number in &numbers {
            layout.chunk(*number)?;
        }
        Ok(Order {
            content,
            layout,
            numbers,
            unfinished: false,
        })
    }

    pub fn of_unfinished(self, unfinished: bool) -> Order {
        Order { unfinished, ..self }
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_slice(&self.content);
        out.put_u64(self.layout.size());
        out.put_u64(self.layout.chunk_bytes());
        for number in &self.numbers {
            out.put_u64(*number);
        }
        if self.unfinished {
            out.put_u8(UNFINISHED);
        }
        out
    }

    fn decode(mut b: Bytes) -> io::Result<Order> {
        let mut content = [0; 32];
        content.copy_from_slice(&take(&mut b, 32)?);
        let layout = Layout::new(get_u64(&mut b)?, get_u64(&mut b)?)?;
        let mut numbers = Vec::with_capacity(b.len() / 8);
        let unfinished = b.len() % 8 == 1 && b[b.len() - 1] == UNFINISHED;
        while b.len() > usize::from(unfinished) {
            numbers.push(get_u64(&mut b)?);
        }
        Ok(Order::new(content, layout, numbers)?.of_unfinished(unfinished))
    }
}

/// A connection whose thread waits itself.
struct Line<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    stall: Duration,
}

impl Line<'_> {
    fn new(shared: &Shared, frames: Frames) -> io::Result<Line<'_>> {
        let stall = Duration::from_millis(shared.options.stall_ms_max);
        let stream = frames.into_std()?;
        // The other side may be at its disk for so long, and its buffers full.
        hello::limit_unacked(&stream, stall)?;
        let notice = stall.min(NOTICE);
        stream.set_read_timeout(Some(notice))?;
        stream.set_write_timeout(Some(notice))?;
        Ok(Line {
            shared,
            stream,
            stall,
        })
    }

    /// Does something until it moves; `TimedOut` = it does not for the stall limit.
    fn moving(&self, mut work: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            if self.shared.stopping() {
                return Err(io::Error::other("the engine is closed"));
            }
            match work(&self.stream) {
                Ok(0) => return Err(closed()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if since.elapsed() >= self.stall {
                        let text = format!("nothing moved for {} ms", self.stall.as_millis());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                }
                done => return done,
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.moving(|mut stream| stream.read(buffer))
    }

    fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let n = self.read(buffer)?;
            buffer = &mut buffer[n..];
        }
        Ok(())
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = self.moving(|mut stream| stream.write(bytes))?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Sends what the file has there, out of the system's memory. Returns how many bytes that were:
    /// fewer when the disk fails or the file ends before, or when the connection has broken, which
    /// the next write tells.
    fn send_file(&self, file: &File, range: Range<u64>) -> io::Result<u64> {
        let mut at = range.start as libc::off_t;
        let mut left = range.end - range.start;
        while left > 0 {
            let sent = self.moving(|stream| {
                let (to, from) = (stream.as_raw_fd(), file.as_raw_fd());
                // SAFETY: both are open meanwhile, and the kernel moves nothing but `at`.
                match unsafe { libc::sendfile(to, from, &mut at, left as usize) } {
                    0 => Err(io::Error::from_raw_os_error(libc::EIO)), // the file ends
                    -1 => Err(io::Error::last_os_error()),
                    n => Ok(n as usize),
                }
            });
            match sent {
                Ok(n) => left -= n as u64,
                Err(e) if e.raw_os_error().is_some() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(range.end - range.start - left)
    }
}

/// The head of a frame with so many bytes behind its kind.
fn head(kind: u8, n: usize) -> [u8; HEAD_BYTES] {
    let mut head = [kind; HEAD_BYTES];
    head[..4].copy_from_slice(&(n as u32 + 1).to_be_bytes());
    head
}

/// Kind of a frame, and how many bytes follow.
fn head_of(head: [u8; HEAD_BYTES], bytes_max: u64) -> io::Result<(u8, usize)> {
    let n = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as u64;
    match (head[4], n) {
        (GONE, 1) => Ok((GONE, 0)),
        (BYTES, 2..) if n - 1 <= bytes_max => Ok((BYTES, n as usize - 1)),
        (kind, _) => Err(bad(format!(
            "a frame of kind {kind} with {n} bytes, where {bytes_max} are left of a chunk"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(size: u64, chunk_bytes: u64, numbers: &[u64]) -> io::Result<Order> {
        Order::new([7; 32], Layout::new(size, chunk_bytes)?, numbers.into())
    }

    #[test]
    fn an_order_comes_back_as_it_was_and_fits_into_its_bound() {
        let all: Vec<u64> = (0..CHUNKS_WANTED_MAX as u64).collect();
        for numbers in [&[][..], &[2, 0, 1, 1], &all] {
            let order = order(u64::MAX, 4 << 20, numbers).unwrap();
            for order in [order.clone(), order.of_unfinished(true)] {
                let bytes = order.encode().freeze();
                assert!(bytes.len() <= ORDER_BYTES_MAX);
                assert_eq!(Order::decode(bytes).unwrap(), order);
            }
        }
    }

    #[test]
    fn orders_of_what_cannot_be_are_refused() {
        assert!(order(9, 0, &[]).is_err(), "chunks of nothing");
        assert!(order(9, 4, &[3]).is_err(), "beyond the end");
        assert!(order(u64::MAX, 1, &[0; CHUNKS_WANTED_MAX + 1]).is_err());
        let whole = order(9, 4, &[0, 1, 2]).unwrap().encode().freeze();
        for cut in (0..whole.len()).filter(|n| *n < 48 || n % 8 != 0) {
            assert!(Order::decode(whole.slice(..cut)).is_err(), "{cut}");
        }
        let mut other = BytesMut::from(&whole[..]);
        other[32..40].copy_from_slice(&8u64.to_be_bytes());
        assert!(
            Order::decode(other.freeze()).is_err(),
            "no chunk 2 in 8 bytes"
        );
    }

    #[test]
    fn a_frame_never_has_more_than_its_chunk() {
        assert_eq!(head_of(head(BYTES, 5), 5).unwrap(), (BYTES, 5));
        assert_eq!(head_of(head(GONE, 0), 5).unwrap(), (GONE, 0));
        for (kind, n) in [(BYTES, 6), (BYTES, 0), (GONE, 1), (0, 1), (3, 0)] {
            assert!(head_of(head(kind, n), 5).is_err(), "{kind} {n}");
        }
        assert!(head_of([0, 0, 0, 0, GONE], 5).is_err());
    }
}
