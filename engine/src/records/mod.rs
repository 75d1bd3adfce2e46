//! The bytes of a put: from the request into a log entry, out of it, and into the store. Pure.
//!
//! The formats are described where they belong: entries in proto/internal/log.proto, stored values
//! in src/dfs/store/layout.py. Python decides what a put does; this is the part of it that every
//! member pays for every put. Tests in Python compare it with the generated code and layout.py.
pub mod entry;
pub mod file;
#[cfg(feature = "python")]
pub mod seam;

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
