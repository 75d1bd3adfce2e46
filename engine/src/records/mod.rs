//! The bytes of a put: from the request into a log entry, out of it, and into the store. Pure.
//!
//! The formats are described where they belong: entries in proto/internal/log.proto, stored values
//! in src/dfs/store/layout.py. Python decides what a put does; this is the part of it that every
//! member pays for every put. Tests in Python compare it with the generated code and layout.py.
pub mod entry;
pub mod events;
pub mod file;
pub mod gets;
pub mod lists;
pub mod parts;
#[cfg(feature = "python")]
pub mod seam;

/// Flag of a current version: its content stands beside it.
const INLINE: u8 = 1;
/// Flag of a current version: its content is a file of its own, beside the store.
const LARGE: u8 = 4;
const KIND_FILE: u8 = 0;
const CHECKSUM_BYTES: usize = 8;
/// Of the head of a current version.
const HEAD_BYTES: usize = 58;

/// Where the current version of a key stands.
pub fn current_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(b'n');
    out.extend(key.iter().map(|b| if *b == b'/' { 0 } else { *b }));
    out
}

/// The key with that path, encoded.
pub fn key_of(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|b| if *b == 0 { b'/' } else { *b })
        .collect()
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
