//! The first frame of every peer connection: who calls, whom, in which cluster, and what for.
//!
//! Frames are a u32 length and that many bytes. A mismatch is answered with a sentence and closed.
use super::codec::*;
use super::shared::Shared;
use crate::contents::hex;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAGIC: &[u8] = b"dfs-peer";
/// Of everything that peers say to each other.
pub const PROTOCOL: u16 = 1;
/// A hello is small; what is longer is no hello.
const HELLO_BYTES_MAX: usize = 4 << 10;
/// One append request or forwarded proposal: the largest value with room for what travels with it.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;
/// See `limit_unacked`.
const UNACKED_MAX: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A stream of append requests and, in the same order, their results.
    Append = b'S',
    /// One request, one answer: votes, heartbeats, leader transfer.
    Control = b'C',
    /// Proposals and read barriers from a follower to the leader, many at once.
    Forward = b'F',
    /// One snapshot.
    Snapshot = b'N',
    /// One question to Python; also from nodes that belong to no cluster yet.
    Ask = b'A',
    /// One snapshot for a node that has lost its state and asks for one before it starts.
    Fetch = b'G',
    /// Chunks of one content.
    Content = b'K',
}

impl Purpose {
    fn of(byte: u8) -> Option<Purpose> {
        use Purpose::*;
        [Append, Control, Forward, Snapshot, Ask, Fetch, Content]
            .into_iter()
            .find(|p| *p as u8 == byte)
    }
}

/// Who calls whom.
#[derive(Clone, Debug)]
pub struct Hello {
    pub purpose: Purpose,
    /// 16 bytes, or empty for a node that belongs to no cluster.
    pub cluster: Bytes,
    pub from_id: u64,
    pub from_name: String,
    /// 0 = whoever listens.
    pub to_id: u64,
}

impl Hello {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16(PROTOCOL);
        out.put_u8(self.purpose as u8);
        put_bytes(&mut out, &self.cluster);
        out.put_u64(self.from_id);
        out.put_u64(self.to_id);
        put_bytes(&mut out, self.from_name.as_bytes());
        out
    }

    fn decode(mut b: Bytes) -> io::Result<Hello> {
        if take(&mut b, MAGIC.len())? != MAGIC {
            return Err(bad(
                "this is the peer port of a dfs node; clients use its gRPC port",
            ));
        }
        let protocol = get_u16(&mut b)?;
        if protocol != PROTOCOL {
            let text = format!("this node speaks peer protocol {PROTOCOL}, the caller {protocol}");
            return Err(bad(text));
        }
        let purpose = Purpose::of(get_u8(&mut b)?).ok_or_else(|| bad("an unknown purpose"))?;
        let cluster = get_bytes(&mut b)?;
        let (from_id, to_id) = (get_u64(&mut b)?, get_u64(&mut b)?);
        Ok(Hello {
            purpose,
            cluster,
            from_id,
            from_name: get_string(&mut b)?,
            to_id,
        })
    }
}

/// 16 bytes as a UUID is written.
pub fn uuid(bytes: &[u8]) -> String {
    let hex = hex(bytes);
    match hex.len() {
        32 => [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-"),
        _ => "none".into(),
    }
}

/// Why this node does not talk to that caller; `None` = it does.
///
/// The caller's own id is not checked: a node that was away may not know yet who has become a
/// member and leader meanwhile, and learns it only by listening. What a lost data directory could
/// break is prevented by `to_id`: whoever has lost its own is another node, and nobody's promise is
/// asked of it.
fn objection(shared: &Shared, hello: &Hello) -> Option<String> {
    let own = shared.cluster();
    let me = &shared.me.name;
    if hello.to_id != 0 && hello.to_id != shared.id {
        return Some(format!(
            "{me} is not the node that the cluster knows under this address (its data directory \
             is another one): `dfs member replace {me}` lets it take that place"
        ));
    }
    let foreign = !hello.cluster.is_empty() && !own.is_empty() && hello.cluster != own;
    if foreign {
        let (ours, theirs) = (uuid(&own), uuid(&hello.cluster));
        return Some(format!(
            "{me} belongs to cluster {ours}, the caller to cluster {theirs}"
        ));
    }
    if hello.purpose == Purpose::Ask {
        return None;
    }
    if own.is_empty() || hello.cluster.is_empty() {
        let who = if own.is_empty() { me } else { &hello.from_name };
        return Some(format!("{who} belongs to no cluster yet"));
    }
    None
}

/// Settings of every peer connection.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    limit_unacked(stream, UNACKED_MAX)
}

/// Sent data that the peer's kernel does not acknowledge or has no room for so long breaks the
/// connection.
pub fn limit_unacked(stream: &impl AsRawFd, limit: Duration) -> io::Result<()> {
    let value = limit.as_millis() as libc::c_int;
    // SAFETY: the descriptor is open for as long as `stream` lives, and the option value is a
    // c_int that outlives the call.
    let rc = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what.to_string())
}

/// Connects and introduces this node. `InvalidData` = the other side has refused, with its reason.
pub async fn dial(
    shared: &Shared,
    addr: &str,
    to_id: u64,
    purpose: Purpose,
    limit: Duration,
) -> io::Result<Frames> {
    let work = async {
        let mut stream = TcpStream::connect(addr).await?;
        tune(&stream)?;
        let hello = Hello {
            purpose,
            cluster: shared.cluster(),
            from_id: shared.id,
            from_name: shared.me.name.clone(),
            to_id,
        };
        stream.write_all(&framed(&hello.encode())).await?;
        let mut frames = Frames::new(stream);
        let mut answer = frames.read(HELLO_BYTES_MAX).await?.ok_or_else(closed)?;
        match get_u8(&mut answer)? {
            0 => Ok(frames),
            _ => Err(bad(String::from_utf8_lossy(&answer))),
        }
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(timed_out("no connection in time")),
    }
}

/// Reads the hello of an accepted connection and answers it. An error has been told to the caller.
pub async fn welcome(shared: &Shared, stream: TcpStream) -> io::Result<(Hello, Frames)> {
    tune(&stream)?;
    let mut frames = Frames::new(stream);
    let first = frames.read(HELLO_BYTES_MAX).await?.ok_or_else(closed)?;
    let checked = Hello::decode(first).and_then(|hello| match objection(shared, &hello) {
        Some(text) => Err(bad(text)),
        None => Ok(hello),
    });
    match checked {
        Ok(hello) => {
            frames.write(&[0]).await?;
            Ok((hello, frames))
        }
        Err(error) => {
            refuse(&mut frames, &error.to_string()).await?;
            Err(error)
        }
    }
}

/// Sends a stranger away with a sentence, whatever it wanted.
pub async fn turn_away<T>(stream: TcpStream, text: &str) -> io::Result<T> {
    let mut frames = Frames::new(stream);
    let _ = frames.read(HELLO_BYTES_MAX).await?; // closing with unread data would lose the answer
    refuse(&mut frames, text).await?;
    Err(bad(text))
}

/// Tells the caller why not.
pub async fn refuse(frames: &mut Frames, text: &str) -> io::Result<()> {
    let mut answer = vec![1];
    answer.extend_from_slice(text.as_bytes());
    frames.write(&answer).await?;
    frames.stream.shutdown().await
}

/// An error as a sentence shows it, without the system's number.
pub fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = plain.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &plain[first.len_utf8()..])
        }
        _ => plain.to_string(),
    }
}

pub fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the peer closed the connection",
    )
}

/// A message with its length in front.
pub fn framed(message: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(4 + message.len());
    put_bytes(&mut out, message);
    out
}

/// Appends a message made by `encode`, with its length in front.
pub fn frame(out: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    encode(out);
    let n = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&n.to_be_bytes());
}

/// Reads the next frame of `source`; `None` at a clean end.
pub async fn read_frame<R: AsyncReadExt + Unpin>(
    source: &mut R,
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> io::Result<Option<Bytes>> {
    loop {
        if buffer.len() >= 4 {
            let n = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            if n > bytes_max {
                return Err(bad(format!(
                    "a frame of {n} bytes, at most {bytes_max} are taken"
                )));
            }
            if buffer.len() >= 4 + n {
                buffer.advance(4);
                return Ok(Some(buffer.split_to(n).freeze()));
            }
            buffer.reserve(4 + n - buffer.len());
        } else {
            buffer.reserve(READ_BYTES);
        }
        if source.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(closed())
            };
        }
    }
}

/// A connection that has been welcomed.
pub struct Frames {
    pub stream: TcpStream,
    pub buffer: BytesMut,
}

impl Frames {
    fn new(stream: TcpStream) -> Frames {
        Frames {
            stream,
            buffer: BytesMut::new(),
        }
    }

    pub async fn read(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        read_frame(&mut self.stream, &mut self.buffer, bytes_max).await
    }

    pub async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(&framed(message)).await
    }

    /// For a thread that waits itself; whatever comes now is its.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        if !self.buffer.is_empty() {
            return Err(bad("bytes that nobody has asked for"));
        }
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// Writes one message and reads one.
    pub async fn exchange(&mut self, message: &[u8]) -> io::Result<Bytes> {
        self.write(message).await?;
        self.read(FRAME_BYTES_MAX).await?.ok_or_else(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            purpose: Purpose::Control,
            cluster: Bytes::from_static(&[7; 16]),
            from_id: 5,
            from_name: "node1".into(),
            to_id: 6,
        }
    }

    #[test]
    fn a_hello_comes_back_as_it_was() {
        let back = Hello::decode(hello().encode().freeze()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", hello()));
    }

    #[test]
    fn other_versions_and_other_protocols_are_told_apart() {
        let mut other = hello().encode();
        other[MAGIC.len() + 1] += 1;
        let text = Hello::decode(other.freeze()).unwrap_err().to_string();
        assert!(
            text.contains("this node speaks peer protocol 1, the caller 2"),
            "{text}"
        );
        let http = Bytes::from_static(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let text = Hello::decode(http).unwrap_err().to_string();
        assert!(text.contains("clients use its gRPC port"), "{text}");
        let whole = hello().encode().freeze();
        for cut in 0..whole.len() {
            assert!(Hello::decode(whole.slice(..cut)).is_err());
        }
    }

    #[test]
    fn reasons_are_short() {
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(reason(&error), "connection refused");
        assert_eq!(reason(&bad("DFS is right")), "DFS is right");
    }

    #[tokio::test]
    async fn frames_are_bounded_and_cut_ones_are_errors() {
        let mut buffer = BytesMut::new();
        let mut good: &[u8] = b"\0\0\0\x02hi";
        let frame = read_frame(&mut good, &mut buffer, 2).await.unwrap();
        assert_eq!(frame.as_deref(), Some(&b"hi"[..]));
        let mut long: &[u8] = b"\0\0\0\x03hi!";
        assert!(read_frame(&mut long, &mut buffer, 2).await.is_err());
        let mut cut: &[u8] = b"\0\0\0\x02h";
        assert!(read_frame(&mut cut, &mut BytesMut::new(), 2).await.is_err());
        let mut end: &[u8] = b"";
        assert!(
            read_frame(&mut end, &mut BytesMut::new(), 2)
                .await
                .unwrap()
                .is_none()
        );
    }
}
