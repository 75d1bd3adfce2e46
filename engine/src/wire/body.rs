//! The body of a hot call: exactly one gRPC message, perhaps compressed, never above the limit.
use super::frame::HEAD_BYTES;
use super::grpc::Encoding;
use super::head::Head;
use super::limits::{DISCARD, DISCARD_BYTES, INBOUND_BYTES, INBOUND_BYTES_OF_ONE};
use super::peer::Peer;
use super::shared::Shared;
use crate::call::Failure;
use bytes::{Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use futures::FutureExt;
use h2::RecvStream;
use std::io::{self, Read};
use std::sync::Arc;

/// Why a body is not taken. The text completes the sentence of its failure row.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    TooLarge(String),
    Malformed(&'static str),
    Overloaded(&'static str),
    /// The stream ended before the message did: nobody is there to be told.
    CallerGone,
}

impl Refusal {
    /// What the caller is told.
    pub fn failure(self, shared: &Shared) -> Failure {
        match self {
            Refusal::TooLarge(text) => shared.failure("too_large").with(text),
            Refusal::Malformed(text) => shared.failure("malformed").with(text),
            Refusal::Overloaded(text) => shared.failure("overloaded").with(text),
            Refusal::CallerGone => shared.failure("shutting_down"),
        }
    }
}

pub const NO_ENCODING: &str = "a compressed message without a grpc-encoding";

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub compressed: bool,
    pub body: Bytes,
}

/// Puts a message together from frames of any size. The usual one-frame message is not copied.
pub struct Gather {
    most: usize,
    single: Bytes,
    joined: BytesMut,
}

impl Gather {
    /// For messages of at most `most` bytes.
    pub fn new(most: usize) -> Gather {
        Gather {
            most,
            single: Bytes::new(),
            joined: BytesMut::new(),
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() {
            &self.single
        } else {
            &self.joined
        }
    }

    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Length and compression of the message, once its head is there.
    fn head(&self) -> Option<(usize, u8)> {
        let (head, _) = self.bytes().split_first_chunk::<HEAD_BYTES>()?;
        let [flag, length @ ..] = *head;
        Some((u32::from_be_bytes(length) as usize, flag))
    }

    pub fn push(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        if self.len() == 0 {
            self.single = chunk;
        } else {
            if self.joined.is_empty() {
                self.joined
                    .extend_from_slice(&std::mem::take(&mut self.single));
            }
            self.joined.extend_from_slice(&chunk);
        }
        let Some((length, flag)) = self.head() else {
            return Ok(());
        };
        if flag > 1 {
            return Err(Refusal::Malformed("the first byte of a message is 0 or 1"));
        }
        if length > self.most {
            return Err(too_large(length, self.most));
        }
        if self.len() > HEAD_BYTES + length {
            return Err(Refusal::Malformed("more than one message in a unary call"));
        }
        Ok(())
    }

    /// The stream has ended.
    pub fn finish(self) -> Result<Message, Refusal> {
        if self.len() == 0 {
            return Err(Refusal::Malformed("no message in a unary call"));
        }
        let Some((length, flag)) = self.head() else {
            return Err(Refusal::Malformed(
                "the call ended within the head of its message",
            ));
        };
        if self.len() < HEAD_BYTES + length {
            return Err(Refusal::Malformed("the call ended within its message"));
        }
        let all = if self.joined.is_empty() {
            self.single
        } else {
            self.joined.freeze()
        };
        Ok(Message {
            compressed: flag == 1,
            body: all.slice(HEAD_BYTES..),
        })
    }
}

fn too_large(bytes: usize, most: usize) -> Refusal {
    Refusal::TooLarge(format!(
        "a message of {bytes} bytes, at most {most} are taken"
    ))
}

/// Room for a body under way, given back when dropped.
struct Room {
    peer: Arc<Peer>,
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        if !self
            .peer
            .receive(bytes, INBOUND_BYTES, INBOUND_BYTES_OF_ONE)
        {
            return Err(Refusal::Overloaded("too many bytes of calls are under way"));
        }
        self.bytes += bytes;
        Ok(())
    }

    fn give_back(&mut self) {
        self.peer.received(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Follows the messages of a body that is passed on as it comes. Whoever gets it holds each message
/// until it is whole, so that what has come of it takes room here.
pub struct Follow {
    most: usize,
    head: Head<HEAD_BYTES>,
    left: usize,
    room: Room,
}

impl Follow {
    /// For messages of at most `most` bytes.
    pub fn new(most: usize, peer: Arc<Peer>) -> Follow {
        Follow {
            most,
            head: Head::default(),
            left: 0,
            room: Room { peer, bytes: 0 },
        }
    }

    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.room.take(taken)?;
                self.left -= taken;
                bytes = &bytes[taken..];
                if self.left == 0 {
                    self.room.give_back();
                }
                continue;
            }
            if let Some([_, length @ ..]) = self.head.take(&mut bytes) {
                self.left = u32::from_be_bytes(length) as usize;
                if self.left > self.most {
                    return Err(too_large(self.left, self.most));
                }
            }
        }
        Ok(())
    }
}

/// Takes what has come of a body without waiting. True when it has ended.
pub fn read_ready(gather: &mut Gather, stream: &mut RecvStream) -> Result<bool, Refusal> {
    while let Some(next) = stream.data().now_or_never() {
        let Some(chunk) = next else { return Ok(true) };
        take(gather, stream, chunk)?;
    }
    Ok(false)
}

fn take(
    gather: &mut Gather,
    stream: &mut RecvStream,
    chunk: Result<Bytes, h2::Error>,
) -> Result<usize, Refusal> {
    let chunk = chunk.map_err(|_| Refusal::CallerGone)?;
    let bytes = chunk.len();
    // An error means that the stream is over, which the next read says as well.
    let _ = stream.flow_control().release_capacity(bytes);
    gather.push(chunk)?;
    Ok(bytes)
}

/// Reads the rest of a body as it comes. Ends early when dropped.
pub async fn read(
    mut gather: Gather,
    mut stream: RecvStream,
    peer: Arc<Peer>,
) -> Result<Message, Refusal> {
    let mut room = Room { peer, bytes: 0 };
    room.take(gather.len())?;
    while let Some(chunk) = stream.data().await {
        let bytes = take(&mut gather, &mut stream, chunk)?;
        room.take(bytes)?;
    }
    gather.finish()
}

/// Lets a body end that nobody wants, if it is small and comes soon.
pub async fn discard(stream: &mut RecvStream) {
    let ended = async {
        let mut taken = 0;
        while taken < DISCARD_BYTES
            && let Some(Ok(chunk)) = stream.data().await
        {
            taken += chunk.len();
            let _ = stream.flow_control().release_capacity(chunk.len());
        }
    };
    let _ = tokio::time::timeout(DISCARD, ended).await;
}

/// Expands a compressed message; stops at the limit, whatever the message claims. Blocks: up to
/// about 50 ms for the largest.
pub fn inflate(message: &[u8], encoding: Encoding, most: usize) -> Result<Bytes, Refusal> {
    match encoding {
        Encoding::Gzip => expand(GzDecoder::new(message), most),
        Encoding::Deflate => expand(ZlibDecoder::new(message), most),
        Encoding::Identity => Err(Refusal::Malformed(NO_ENCODING)),
    }
}

fn expand(decoder: impl Read, most: usize) -> Result<Bytes, Refusal> {
    let mut expanded = Vec::new();
    let one_more = most as u64 + 1;
    match decoder.take(one_more).read_to_end(&mut expanded) {
        Ok(bytes) if bytes > most => Err(Refusal::TooLarge(format!(
            "a message of more than {most} bytes when expanded"
        ))),
        Ok(_) => Ok(Bytes::from(expanded)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Refusal::Malformed("the compressed message is cut short"))
        }
        Err(_) => Err(Refusal::Malformed("the message does not decompress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::Command;
    use crate::wire::shared::Totals;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;
    use std::sync::atomic::Ordering::Relaxed;

    fn framed(flag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn gather(chunks: &[&[u8]]) -> Result<Message, Refusal> {
        let mut gather = Gather::new(10);
        for chunk in chunks {
            gather.push(Bytes::copy_from_slice(chunk))?;
        }
        gather.finish()
    }

    #[test]
    fn a_message_is_the_same_wherever_it_is_split() {
        let bytes = framed(0, b"0123456789");
        let whole = Message {
            compressed: false,
            body: Bytes::from_static(b"0123456789"),
        };
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(gather(&parts).unwrap(), whole, "{first} {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(gather(&single).unwrap(), whole);
    }

    #[test]
    fn everything_that_is_not_one_message_is_refused() {
        let whole = framed(0, b"0123456789");
        for cut in 0..whole.len() {
            assert!(
                matches!(gather(&[&whole[..cut]]), Err(Refusal::Malformed(_))),
                "{cut}"
            );
        }
        let twice = [&whole[..], &whole[..]];
        assert!(matches!(gather(&twice), Err(Refusal::Malformed(_))));
        assert!(matches!(
            gather(&[&framed(2, b"x")]),
            Err(Refusal::Malformed(_))
        ));
        assert!(matches!(
            gather(&[&framed(0, b"0123456789a")]),
            Err(Refusal::TooLarge(_))
        ));
        let claim: &[u8] = &[0, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(gather(&[claim]), Err(Refusal::TooLarge(_))));
        let empty = Message {
            compressed: true,
            body: Bytes::new(),
        };
        assert_eq!(gather(&[&framed(1, b"")]).unwrap(), empty);
    }

    #[test]
    fn half_a_message_takes_room_until_it_is_whole() {
        let totals: Arc<Totals> = Arc::default();
        let peer = Arc::new(Peer::new(totals.clone(), Command::Serve));
        let held = || totals.inbound.load(Relaxed);
        let bytes = [framed(0, b"0123456789"), framed(0, b""), framed(1, b"abc")].concat();
        for step in 1..=bytes.len() {
            let mut follow = Follow::new(10, peer.clone());
            for chunk in bytes.chunks(step) {
                follow.pass(chunk).unwrap();
                assert!(held() < 10);
            }
            assert_eq!(held(), 0, "all are whole");
            follow.pass(&framed(0, b"0123456789")[..9]).unwrap();
            assert_eq!(held(), 4);
            drop(follow);
            assert_eq!(held(), 0);
        }
        let mut follow = Follow::new(9, peer.clone());
        assert!(matches!(follow.pass(&bytes), Err(Refusal::TooLarge(_))));

        let mut follow = Follow::new(usize::MAX, peer);
        follow.pass(&[0, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let mut passed = 0;
        while follow.pass(&[0; 1 << 20]).is_ok() {
            passed += 1 << 20;
        }
        assert_eq!(passed, INBOUND_BYTES_OF_ONE);
    }

    #[test]
    fn expansion_stops_at_the_limit() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert!(bomb.len() < 2_000);
        assert_eq!(
            inflate(&bomb, Encoding::Gzip, 1 << 20).unwrap().len(),
            1 << 20
        );
        let refused = inflate(&bomb, Encoding::Gzip, (1 << 20) - 1);
        assert!(matches!(refused, Err(Refusal::TooLarge(_))));
        let cut = inflate(&bomb[..bomb.len() / 2], Encoding::Gzip, 1 << 20);
        assert!(matches!(cut, Err(Refusal::Malformed(_))));

        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"some text").unwrap();
        let zlib = zlib.finish().unwrap();
        assert_eq!(inflate(&zlib, Encoding::Deflate, 9).unwrap(), "some text");
        let wrong = inflate(&zlib, Encoding::Gzip, 9);
        assert!(matches!(wrong, Err(Refusal::Malformed(_))));
        let none = inflate(&zlib, Encoding::Identity, 9);
        assert!(matches!(none, Err(Refusal::Malformed(_))));
    }
}
