//! Files of contents: where their chunks are, digests of them, copies that are hashed on the way.
//!
//! SHA-256 is that of `sha2`, or of `sha256` for two inputs at a time. Both use the instructions
//! that processors have for it.
pub mod copy;
pub mod seal;
pub mod sha256;
pub mod small;

use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// A SHA-256.
pub type Digest = [u8; 32];

/// As digests and ids are written.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves
        .map(|half| char::from(DIGITS[usize::from(half)]))
        .collect()
}

/// Read, hashed and written at a time: it fits into a processor's second cache, so that memory is
/// passed over once.
pub const PIECE_BYTES: usize = 256 << 10;

pub fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Has the system begin to write a part of a file to the disk, and does not wait for that: a sync
/// at the end finds little left to do.
pub fn begin_writing(file: &File, range: Range<u64>) -> io::Result<()> {
    let (at, size) = (range.start as libc::off64_t, range.end - range.start);
    let what = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: a call on a descriptor that `file` keeps open; it touches no memory.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at, size as libc::off64_t, what) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How a content is cut: into chunks of the same size, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    chunk_bytes: u64,
}

impl Layout {
    /// `InvalidInput`: chunks of nothing.
    pub fn new(size: u64, chunk_bytes: u64) -> io::Result<Layout> {
        if chunk_bytes == 0 {
            return Err(invalid("a chunk has at least one byte".into()));
        }
        Ok(Layout { size, chunk_bytes })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Where a chunk is. `InvalidInput`: there is none with this number.
    pub fn chunk(&self, number: u64) -> io::Result<Range<u64>> {
        match number.checked_mul(self.chunk_bytes) {
            Some(start) if start < self.size => {
                Ok(start..self.size.min(start.saturating_add(self.chunk_bytes)))
            }
            _ => Err(invalid(format!(
                "{} bytes in chunks of {} have no chunk {number}",
                self.size, self.chunk_bytes
            ))),
        }
    }
}

/// The digest of each of these chunks. `InvalidInput`: the file ends before.
pub fn digests(file: &File, layout: Layout, numbers: &[u64]) -> io::Result<Vec<Digest>> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut digest = |number: &u64| {
        let chunk = layout.chunk(*number)?;
        let (mut hasher, mut at) = (Sha256::new(), chunk.start);
        while at < chunk.end {
            let piece = &mut buffer[..PIECE_BYTES.min((chunk.end - at) as usize)];
            file.read_exact_at(piece, at).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    invalid(format!("the file ends before chunk {number} does"))
                }
                _ => e,
            })?;
            hasher.update(&piece[..]);
            at += piece.len() as u64;
        }
        Ok(hasher.finalize().into())
    };
    numbers.iter().map(&mut digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_content_without_gaps() {
        for (size, chunk_bytes, ends) in [
            (0, 4, vec![]),
            (3, 4, vec![3]),
            (4, 4, vec![4]),
            (9, 4, vec![4, 8, 9]),
            (9, u64::MAX, vec![9]),
        ] {
            let layout = Layout::new(size, chunk_bytes).unwrap();
            let mut start = 0;
            for (number, end) in ends.iter().enumerate() {
                assert_eq!(layout.chunk(number as u64).unwrap(), start..*end);
                start = *end;
            }
            for beyond in [ends.len() as u64, u64::MAX] {
                let error = layout.chunk(beyond).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        }
        assert!(Layout::new(9, 0).is_err());
        let huge = Layout::new(u64::MAX, u64::MAX - 1).unwrap();
        assert_eq!(huge.chunk(1).unwrap(), u64::MAX - 1..u64::MAX);
    }
}
