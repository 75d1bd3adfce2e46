//! Decodes what the kernel asks. Every length is checked: a short or odd message is an error value,
//! never a panic, whatever the bytes are.
use super::abi::{HEADER, cap, op};

/// What every request begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
}

/// The part behind the header.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Lookup(&'a [u8]),
    Forget(u64),
    BatchForget(Forgets<'a>),
    GetAttr,
    ReadLink,
    Open,
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Release {
        handle: u64,
    },
    /// A size of 0 asks how long the value is.
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
        plus: bool,
    },
    ReleaseDir,
    StatFs,
    Interrupt(u64),
    Init {
        major: u32,
        minor: u32,
        readahead: u32,
        flags: u64,
    },
    Destroy,
    NotifyReply,
    Other,
}

/// A message that breaks the protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not even a header: it cannot be answered.
    Header,
    /// Can be answered with EINVAL.
    Body(Header),
}

/// (node, count) pairs of a BATCH_FORGET, still encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgets<'a>(&'a [u8]);

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let pair = (u64_at(self.0, 0)?, u64_at(self.0, 8)?);
        self.0 = &self.0[16..];
        Some(pair)
    }
}

/// Splits one message as read from /dev/fuse.
pub fn parse(message: &[u8]) -> Result<(Header, Request<'_>), Malformed> {
    let header = header(message).ok_or(Malformed::Header)?;
    let length = u32_at(message, 0).ok_or(Malformed::Header)? as usize;
    // Extensions (security context, groups) stand at the end; only creating calls carry them.
    let extensions = u16_at(message, 36).ok_or(Malformed::Header)? as usize * 8;
    let end = message
        .len()
        .checked_sub(extensions)
        .filter(|end| *end >= HEADER);
    let (Some(end), true) = (end, length == message.len()) else {
        return Err(Malformed::Body(header));
    };
    match body(header.opcode, &message[HEADER..end]) {
        Some(request) => Ok((header, request)),
        None => Err(Malformed::Body(header)),
    }
}

fn header(message: &[u8]) -> Option<Header> {
    if message.len() < HEADER {
        return None;
    }
    Some(Header {
        opcode: u32_at(message, 4)?,
        unique: u64_at(message, 8)?,
        node: u64_at(message, 16)?,
    })
}

fn body(opcode: u32, body: &[u8]) -> Option<Request<'_>> {
    Some(match opcode {
        op::LOOKUP => Request::Lookup(name(body)?),
        op::FORGET => Request::Forget(u64_at(body, 0)?),
        op::BATCH_FORGET => {
            let bytes = (u32_at(body, 0)? as usize).checked_mul(16)?;
            Request::BatchForget(Forgets(body.get(8..)?.get(..bytes)?))
        }
        op::GETATTR => Request::GetAttr,
        op::READLINK => Request::ReadLink,
        op::OPEN => Request::Open,
        op::READ => Request::Read {
            handle: u64_at(body, 0)?,
            offset: u64_at(body, 8)?,
            size: u32_at(body, 16)?,
        },
        op::RELEASE => Request::Release {
            handle: u64_at(body, 0)?,
        },
        op::GETXATTR => Request::GetXattr {
            name: name(body.get(8..)?)?,
            size: u32_at(body, 0)?,
        },
        op::LISTXATTR => Request::ListXattr {
            size: u32_at(body, 0)?,
        },
        op::OPENDIR => Request::OpenDir,
        op::READDIR | op::READDIRPLUS => Request::ReadDir {
            offset: u64_at(body, 8)?,
            size: u32_at(body, 16)?,
            plus: opcode == op::READDIRPLUS,
        },
        op::RELEASEDIR => Request::ReleaseDir,
        op::STATFS => Request::StatFs,
        op::INTERRUPT => Request::Interrupt(u64_at(body, 0)?),
        op::INIT => init(body)?,
        op::DESTROY => Request::Destroy,
        op::NOTIFY_REPLY => Request::NotifyReply,
        _ => Request::Other,
    })
}

fn init(body: &[u8]) -> Option<Request<'_>> {
    let low = u64::from(u32_at(body, 12)?);
    let high = if low & cap::INIT_EXT != 0 {
        u64::from(u32_at(body, 16)?)
    } else {
        0
    };
    Some(Request::Init {
        major: u32_at(body, 0)?,
        minor: u32_at(body, 4)?,
        readahead: u32_at(body, 8)?,
        flags: high << 32 | low,
    })
}

/// One NUL-terminated component.
fn name(body: &[u8]) -> Option<&[u8]> {
    let (last, name) = body.split_last()?;
    let clean = *last == 0 && !name.is_empty() && !name.iter().any(|b| *b == 0 || *b == b'/');
    clean.then_some(name)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..)?.get(..2)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..)?.get(..4)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..)?.get(..8)?.try_into().ok()?,
    ))
}

#[cfg(test)]
#[path = "tests/request.rs"]
mod tests;
