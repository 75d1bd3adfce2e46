//! The bytes of a put: from the request into a log entry, out of it, and into the store. Pure.
//!
//! The formats are described where they belong: entries in proto/internal/log.proto, stored values
//! in src/dfs/store/layout.py. Python decides what a put does; this is the part of it that every
//! member pays for every put. Tests in Python compare it with the generated code and layout.py.
pub mod entry;
pub mod file;
pub mod gets;
#[cfg(feature = "python")]
pub mod seam;

/// Flag of a current version: its content stands beside it.
const INLINE: u8 = 1;
const KIND_FILE: u8 = 0;
const CHECKSUM_BYTES: usize = 8;
/// Of the head of a current version.
const HEAD_BYTES: usize = 58;

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

/// The reverse of `path_of`, encoded.
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

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
