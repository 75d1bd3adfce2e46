//! A content of which only some chunks are here: each is read as soon as it is there. Whoever
//! fetches them has verified a chunk before it is marked.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

/// Chunks by number, from the first on up to the second.
pub type Chunks = (u64, u64);

#[derive(Debug)]
pub struct Part {
    /// Of the file for which it was begun: whoever fetches it knows it by that.
    pub path: String,
    pub version: u64,
    pub size: u64,
    /// Keeps what is there, whatever becomes of its name.
    file: File,
    chunk_bytes: u64,
    here: Box<[AtomicBool]>,
}

impl Part {
    /// `file` has its size already; of its chunks none counts as here.
    pub fn new(
        (path, version): (String, u64),
        file: File,
        size: u64,
        chunk_bytes: u64,
    ) -> io::Result<Part> {
        let chunks = size.checked_div(chunk_bytes).map(|whole| {
            let rest = u64::from(!size.is_multiple_of(chunk_bytes));
            whole + rest
        });
        let chunks = chunks.and_then(|chunks| usize::try_from(chunks).ok());
        let (Some(chunks), true) = (chunks, file.metadata()?.len() == size) else {
            let text = "the file has not the size that its content has";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        Ok(Part {
            path,
            version,
            size,
            file,
            chunk_bytes,
            here: (0..chunks).map(|_| AtomicBool::new(false)).collect(),
        })
    }

    /// A chunk is in the file, verified. False: there is none of that number.
    pub fn mark(&self, number: usize) -> bool {
        let chunk = self.here.get(number);
        chunk.inspect(|chunk| chunk.store(true, Release)).is_some()
    }

    /// All chunks are here.
    pub fn whole(&self) -> bool {
        self.here.iter().all(|chunk| chunk.load(Acquire))
    }

    /// The chunks that a range of the content covers, unless all of them are here.
    pub fn lacking(&self, offset: u64, length: usize) -> Option<Chunks> {
        let end = offset.saturating_add(length as u64).min(self.size);
        let chunks = (offset / self.chunk_bytes, end.div_ceil(self.chunk_bytes));
        (!self.has(chunks)).then_some(chunks)
    }

    pub fn has(&self, (first, upto): Chunks) -> bool {
        let chunks = self.here.get(first as usize..upto as usize);
        chunks.is_none_or(|chunks| chunks.iter().all(|chunk| chunk.load(Acquire)))
    }

    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// The same one, not an equal one.
impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Part {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn part(content: &[u8], chunk_bytes: u64) -> io::Result<Part> {
        let mut file = tempfile::tempfile()?;
        file.write_all(content)?;
        Part::new(("x".to_owned(), 1), file, 10, chunk_bytes)
    }

    #[test]
    fn a_range_is_here_when_all_chunks_that_it_touches_are() {
        let part = part(b"0123456789", 4).unwrap();
        assert_eq!(part.lacking(0, 1), Some((0, 1)));
        assert!(part.mark(0));
        assert_eq!(part.lacking(0, 4), None);
        assert_eq!(part.lacking(3, 2), Some((0, 2)));
        assert_eq!(part.lacking(9, 1 << 20), Some((2, 3)), "up to its end");
        assert!(part.mark(2) && !part.mark(3));
        assert_eq!(part.lacking(0, 10), Some((0, 3)), "one in the middle lacks");
        assert!(!part.whole() && part.mark(1) && part.whole());
        let mut buffer = [0; 3];
        part.read(7, &mut buffer).unwrap();
        assert_eq!(&buffer, b"789");
    }

    #[test]
    fn a_file_of_another_size_is_none() {
        assert!(part(b"012345678", 4).is_err());
        assert!(part(b"0123456789", 0).is_err());
    }
}
