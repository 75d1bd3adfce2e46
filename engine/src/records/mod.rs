//! The bytes of a put: out of a log entry, and into the store. Pure.
//!
//! The formats are described where they belong: entries in proto/internal/log.proto, stored values
//! in src/dfs/store/layout.py. Python decides what a put does; this is the part of it that every
//! member pays for every put. Tests in Python compare it with the generated code and layout.py.
#[cfg(feature = "python")]
pub mod seam;

use crate::protobuf::{Value, field};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

const FORMAT: &[u8] = &[0x08, 1];
const SHA256_BYTES: usize = 32;
/// Flag of a current version: its content stands beside it.
const INLINE: u8 = 1;
const KIND_FILE: u8 = 0;
const NO_REQUEST: [u8; 16] = [0; 16];

/// A Put that asks for nothing but content, with the entry's fields that matter.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainPut<'a> {
    pub time_ns: u64,
    pub node: &'a str,
    pub principal: &'a str,
    pub sha256: &'a [u8],
    pub key: &'a str,
    pub data: &'a [u8],
}

/// Text that has not been seen before.
fn text<'a>(into: &mut Option<&'a str>, bytes: &'a [u8]) -> Option<()> {
    match into.replace(std::str::from_utf8(bytes).ok()?) {
        None => Some(()),
        Some(_) => None,
    }
}

/// Reads an entry that is a plain Put in the usual form. `None`: it is something else, or unusual,
/// and whoever knows all forms has to look at it.
pub fn plain_put(payload: &[u8], data_bytes_max: usize) -> Option<PlainPut<'_>> {
    let mut rest = payload.strip_prefix(FORMAT)?;
    let (mut time_ns, mut node, mut principal) = (None, None, None);
    let (mut sha256, mut body) = (None, None);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (2, Value::Fixed64(time)) if time_ns.is_none() => time_ns = Some(time),
            (3, Value::Bytes(bytes)) => text(&mut node, bytes)?,
            (4, Value::Bytes(bytes)) => text(&mut principal, bytes)?,
            (5, Value::Bytes(bytes)) if sha256.is_none() => sha256 = Some(bytes),
            (16, Value::Bytes(bytes)) if body.is_none() => body = Some(bytes),
            _ => return None,
        }
    }
    let (mut key, mut data) = (None, None);
    let mut rest = body?;
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Value::Bytes(bytes)) => text(&mut key, bytes)?,
            (2, Value::Bytes(bytes)) if data.is_none() => data = Some(bytes),
            _ => return None,
        }
    }
    let put = PlainPut {
        time_ns: time_ns?,
        node: node.unwrap_or(""),
        principal: principal.unwrap_or(""),
        sha256: sha256.filter(|s| s.len() == SHA256_BYTES)?,
        key: key.filter(|k| !k.is_empty() && !k.contains('\0'))?,
        data: data.unwrap_or(b""),
    };
    (put.data.len() <= data_bytes_max).then_some(put)
}

/// How a key stands in store keys.
pub fn path_of(key: &str) -> Vec<u8> {
    let mut path = key.as_bytes().to_vec();
    for byte in &mut path {
        if *byte == b'/' {
            *byte = 0;
        }
    }
    path
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number);
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// A new version of a file: what is stored of it, and what it replaces.
pub struct File<'a> {
    pub revision: u64,
    pub sub: u32,
    pub path: &'a [u8],
    pub created: u64,
    pub number: u64,
    /// Where the version before has its event; 0, 0 = there was none.
    pub previous: u64,
    pub previous_sub: u32,
    pub time_ns: u64,
    pub mode: u32,
    pub mtime_ns: i64,
    pub node: &'a str,
    pub principal: &'a str,
    pub sha256: &'a [u8],
    /// 16 bytes, or none.
    pub request_id: &'a [u8],
    pub data: &'a [u8],
    /// The content stands in the current version too, not in history alone.
    pub inline: bool,
}

/// The store's records of one version, keys and values, and what else its writer wants to know.
#[derive(Debug, PartialEq, Eq)]
pub struct Packed {
    pub current_key: Vec<u8>,
    pub current: Vec<u8>,
    pub history_key: Vec<u8>,
    pub history: Vec<u8>,
    pub index_key: Vec<u8>,
    pub record: Vec<u8>,
    /// Its part of the state hash.
    pub digest: [u8; 16],
}

impl File<'_> {
    /// The public Record, as protobuf encodes it.
    fn record(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put_number(&mut out, 0x10, self.revision);
        put_number(&mut out, 0x18, self.created);
        put_number(&mut out, 0x20, self.number);
        put_number(&mut out, 0x28, self.data.len() as u64);
        put_bytes(&mut out, 0x32, self.sha256);
        put_number(&mut out, 0x38, self.mode.into());
        if self.mtime_ns != 0 {
            out.push(0x41);
            out.extend_from_slice(&self.mtime_ns.to_le_bytes());
        }
        put_bytes(&mut out, 0x52, self.node.as_bytes());
        put_bytes(&mut out, 0x5a, self.principal.as_bytes());
        if self.time_ns != 0 {
            out.push(0x61);
            out.extend_from_slice(&self.time_ns.to_le_bytes());
        }
        put_bytes(&mut out, 0x6a, self.request_id);
        out
    }

    fn place(&self, mut key: Vec<u8>) -> Vec<u8> {
        key.extend_from_slice(&self.revision.to_be_bytes());
        key.extend_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// The value in `n`: head, record, and the content if it is inline.
    fn current(&self, key: &[u8], record: &[u8], digest: &[u8; 16]) -> Vec<u8> {
        let data = if self.inline { self.data } else { b"" };
        sealed(key, 62 + record.len() + data.len(), |out| {
            out.extend_from_slice(&[KIND_FILE, if self.inline { INLINE } else { 0 }]);
            out.extend_from_slice(&self.sub.to_le_bytes());
            for number in [
                self.revision,
                self.created,
                self.number,
                self.data.len() as u64,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(digest);
            out.extend_from_slice(&(record.len() as u32).to_le_bytes());
            out.extend_from_slice(record);
            out.extend_from_slice(data);
        })
    }

    /// The value in `h`: head, path, record, content.
    fn event(&self, key: &[u8], record: &[u8]) -> Vec<u8> {
        let length = 43 + self.path.len() + record.len() + self.data.len();
        sealed(key, length, |out| {
            out.push(0);
            out.extend_from_slice(&self.previous_sub.to_le_bytes());
            out.extend_from_slice(&self.previous.to_le_bytes());
            out.extend_from_slice(&self.time_ns.to_le_bytes());
            let request_id = self.request_id;
            out.extend_from_slice(if request_id.is_empty() {
                &NO_REQUEST
            } else {
                request_id
            });
            out.extend_from_slice(&(self.path.len() as u16).to_le_bytes());
            out.extend_from_slice(&(record.len() as u32).to_le_bytes());
            out.extend_from_slice(self.path);
            out.extend_from_slice(record);
            out.extend_from_slice(self.data);
        })
    }

    pub fn pack(&self) -> Packed {
        let record = self.record();
        let mut current_key = Vec::with_capacity(1 + self.path.len());
        current_key.push(b'n');
        current_key.extend_from_slice(self.path);
        let digest = xxh3_128(&[&current_key[..], &record].concat()).to_be_bytes();
        let current = self.current(&current_key, &record, &digest);
        let history_key = self.place(vec![b'h']);
        let history = self.event(&history_key, &record);
        let mut index_key = Vec::with_capacity(self.path.len() + 15);
        index_key.push(b'i');
        index_key.extend_from_slice(self.path);
        index_key.extend_from_slice(b"\0\0");
        let index_key = self.place(index_key);
        Packed {
            current_key,
            current,
            history_key,
            history,
            index_key,
            record,
            digest,
        }
    }
}

/// A stored value: the checksum, seeded by its key, and the body that `write` makes.
fn sealed(key: &[u8], length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + length);
    out.extend_from_slice(&[0; 8]);
    write(&mut out);
    let checksum = xxh3_64_with_seed(&out[8..], xxh3_64(key));
    out[..8].copy_from_slice(&checksum.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &[u8]) -> Vec<u8> {
        let mut out = vec![0x08, 1, 0x1a, 1, b'a', 0x2a, 32];
        out.extend_from_slice(&[7; 32]);
        out.extend_from_slice(&[0x82, 0x01, body.len() as u8]);
        out.extend_from_slice(body);
        out.push(0x11);
        out.extend_from_slice(&5u64.to_le_bytes());
        out
    }

    #[test]
    fn a_plain_put_is_read() {
        let payload = entry(b"\x0a\x03k/x\x12\x02vv");
        let put = plain_put(&payload, 100).unwrap();
        let expected = PlainPut {
            time_ns: 5,
            node: "a",
            principal: "",
            sha256: &[7; 32],
            key: "k/x",
            data: b"vv",
        };
        assert_eq!(put, expected);
        assert_eq!(path_of(put.key), b"k\0x");
    }

    #[test]
    fn everything_unusual_is_left_to_others() {
        let bodies: [&[u8]; 9] = [
            b"",                       // no key
            b"\x0a\x00\x12\x01v",      // an empty key
            b"\x0a\x01\x00",           // a NUL
            b"\x0a\x01\xff",           // no UTF-8
            b"\x0a\x01k\x0a\x01k",     // twice
            b"\x0a\x01k\x1a\x00",      // metadata
            b"\x0a\x01k\x20\x00",      // a base revision
            b"\x0a\x01k\x2a\x01i",     // a request id
            b"\x0a\x01k\x12\x05vvvvv", // more than is allowed
        ];
        for body in bodies {
            assert_eq!(plain_put(&entry(body), 4), None, "{body:?}");
        }
        let good = entry(b"\x0a\x01k");
        assert!(plain_put(&good, 4).is_some());
        for cut in 0..good.len() {
            assert_eq!(plain_put(&good[..cut], 4), None, "{cut}");
        }
    }
}
