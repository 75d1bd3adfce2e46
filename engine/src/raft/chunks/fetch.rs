//! The side that wants a content.
use super::super::codec::*;
use super::super::hello::{self, Purpose, framed, reason};
use super::super::node::Node;
use super::{BYTES_MAX, GONE, HEAD_BYTES, Line, Order, head_of};
use crate::contents::{Digest, begin_writing};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A refusal is a sentence.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// What ended a transfer.
#[derive(Debug)]
pub enum Fault {
    /// The other side or the way there; `InvalidData` = it has refused.
    Peer(io::Error),
    /// The file of here.
    Disk(io::Error),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Peer(e)
    }
}

/// Fetches what is ordered from the member at `addr` into the file at `path`; `digests` are those
/// of the order's chunks. Returns which of them are right; an error only when none is. Blocks.
pub fn fetch(
    node: &Node,
    addr: &str,
    order: &Order,
    digests: &[Digest],
    path: &Path,
    limit: Duration,
) -> Result<Vec<u64>, Fault> {
    let mut done = Vec::new();
    if order.numbers.is_empty() {
        return Ok(done);
    }
    let file = OpenOptions::new().write(true).open(path);
    let file = file.map_err(Fault::Disk)?;
    match take_all(node, addr, order, digests, &file, limit, &mut done) {
        // The caller asks again for what is missing, and hears then what is wrong, if it still is.
        Err(_) if !done.is_empty() => Ok(done),
        Err(Fault::Peer(e)) => {
            let text = format!("{addr}: {}", reason(&e));
            Err(Fault::Peer(io::Error::new(e.kind(), text)))
        }
        Err(fault) => Err(fault),
        Ok(()) => Ok(done),
    }
}

fn take_all(
    node: &Node,
    addr: &str,
    order: &Order,
    digests: &[Digest],
    file: &File,
    limit: Duration,
    done: &mut Vec<u64>,
) -> Result<(), Fault> {
    let shared = &node.shared;
    let frames = node.block(hello::dial(shared, addr, 0, Purpose::Content, limit));
    let frames = frames.unwrap_or_else(|| Err(io::Error::other("the engine is closed")))?;
    let line = Line::new(shared, frames)?;
    line.write_all(&framed(&order.encode()))?;
    admitted(&line)?;
    let mut buffer = vec![0; BYTES_MAX];
    for (number, digest) in order.numbers.iter().zip(digests) {
        let chunk = order.layout.chunk(*number)?;
        if take(&line, file, chunk, &mut buffer)? == Some(*digest) {
            done.push(*number);
        }
    }
    Ok(())
}

/// Reads whether the order is taken.
fn admitted(line: &Line) -> io::Result<()> {
    let mut length = [0; 4];
    line.read_exact(&mut length)?;
    let n = u32::from_be_bytes(length) as usize;
    if n == 0 || n > REFUSAL_BYTES_MAX {
        return Err(bad(format!("an answer of {n} bytes to an order")));
    }
    let mut answer = vec![0; n];
    line.read_exact(&mut answer)?;
    match answer[0] {
        0 => Ok(()),
        _ => Err(bad(String::from_utf8_lossy(&answer[1..]))),
    }
}

/// Takes one chunk to its place, and returns its digest; `None` = the giver has lost it.
fn take(
    line: &Line,
    file: &File,
    chunk: Range<u64>,
    buffer: &mut [u8],
) -> Result<Option<Digest>, Fault> {
    let (mut hasher, mut at) = (Sha256::new(), chunk.start);
    while at < chunk.end {
        let mut head = [0; HEAD_BYTES];
        line.read_exact(&mut head)?;
        let (kind, mut left) = head_of(head, (chunk.end - at).min(BYTES_MAX as u64))?;
        if kind == GONE {
            return Ok(None);
        }
        while left > 0 {
            let room = left.min(buffer.len());
            let n = line.read(&mut buffer[..room])?;
            hasher.update(&buffer[..n]);
            file.write_all_at(&buffer[..n], at).map_err(Fault::Disk)?;
            at += n as u64;
            left -= n;
        }
    }
    begin_writing(file, chunk).map_err(Fault::Disk)?;
    Ok(Some(hasher.finalize().into()))
}
