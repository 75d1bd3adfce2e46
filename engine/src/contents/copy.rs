//! Copying a file while it is hashed, as a whole and by chunks; holes stay holes.
//!
//! ```text
//! reader:   read a piece, hash it ──► writer: write it
//!               ▲                        │
//!               └─── the empty buffer ───┘
//! ```
//! The two are threads: hashing takes most of the time, then writing. Where the file system can
//! share blocks between files (XFS, btrfs) nothing is copied: the target, which nobody changes, is
//! hashed.
use super::sha256::Hasher;
use super::{Digest, PIECE_BYTES, begin_writing, invalid};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Zeros of this size and alignment are not written: file systems keep blocks of up to 64 KiB.
const HOLE_BYTES: usize = 64 << 10;
/// Of a hole at a time, so that both threads are at it.
const HOLE_BYTES_MAX: u64 = 4 << 20;
/// Between the two threads: neither waits for the other at every piece.
const PIECES: usize = 8;
/// Behind so many bytes the disk begins to write them.
const WRITING_BYTES: u64 = 4 << 20;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// What has been copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Copied {
    pub size: u64,
    pub sha256: Digest,
    /// Of each chunk, one behind the other.
    pub chunks: Vec<u8>,
}

/// Copies all that `source` has now into `target`, which is empty; see `copy_and_hash` of the stub.
pub fn copy(source: &File, target: &File, chunk_bytes: u64) -> io::Result<Copied> {
    if chunk_bytes == 0 {
        return Err(invalid("a chunk has at least one byte".into()));
    }
    if !source.metadata()?.is_file() {
        return Err(invalid("only files are copied".into()));
    }
    if target.metadata()?.len() > 0 {
        return Err(invalid("the target of a copy must be empty".into()));
    }
    if shares(source, target)? {
        let mut reader = Reader::new(target, chunk_bytes)?;
        let mut buffer = Vec::new();
        while let Some(piece) = reader.next(buffer)? {
            buffer = piece.bytes;
        }
        return Ok(reader.finish());
    }
    let mut reader = Reader::new(source, chunk_bytes)?;
    match reader.end > chunk_bytes {
        true => side_by_side(&mut reader, target)?,
        false => alone(&mut reader, target)?,
    }
    let copied = reader.finish();
    if target.metadata()?.len() < copied.size {
        target.set_len(copied.size)?; // it ends with a hole
    }
    Ok(copied)
}

/// Has the target share all blocks of the source, until either is written; false: it has to be
/// copied.
fn shares(source: &File, target: &File) -> io::Result<bool> {
    let (from, to) = (source.as_raw_fd(), target.as_raw_fd());
    // SAFETY: a call on a descriptor that is open; it touches no memory.
    let flags = unsafe { libc::fcntl(to, libc::F_GETFL) };
    if flags & libc::O_ACCMODE != libc::O_RDWR {
        return Ok(false); // It could not be hashed.
    }
    // SAFETY: the same, of two descriptors.
    if unsafe { libc::ioctl(to, libc::FICLONE, from) } == 0 {
        return Ok(true);
    }
    if target.metadata()?.len() > 0 {
        target.set_len(0)?; // It has come to a part of it.
    }
    Ok(false)
}

/// A content of one chunk is not worth a thread.
fn alone(reader: &mut Reader, target: &File) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(piece) = reader.next(buffer)? {
        piece.write(target)?;
        buffer = piece.bytes;
    }
    Ok(())
}

fn side_by_side(reader: &mut Reader, target: &File) -> io::Result<()> {
    let (full, taken) = sync_channel::<Piece>(PIECES);
    let (empty, returned) = sync_channel::<Vec<u8>>(PIECES);
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new()
            .name("dfs-copy".into())
            .spawn_scoped(scope, move || write_all(taken, empty, target))?;
        let read = read_all(reader, full, returned);
        let written = writer.join().map_err(|_| io::Error::other("a bug"))?;
        read.and(written)
    })
}

/// Ends early when the writer has: that one says why.
fn read_all(
    reader: &mut Reader,
    full: SyncSender<Piece>,
    returned: Receiver<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let buffer = returned.try_recv().unwrap_or_default();
        let Some(piece) = reader.next(buffer)? else {
            return Ok(());
        };
        if full.send(piece).is_err() {
            return Ok(());
        }
    }
}

fn write_all(taken: Receiver<Piece>, empty: SyncSender<Vec<u8>>, target: &File) -> io::Result<()> {
    let mut begun = 0;
    for piece in taken {
        piece.write(target)?;
        let end = piece.at + piece.bytes.len() as u64 + piece.hole;
        if end - begun >= WRITING_BYTES {
            begin_writing(target, begun..end)?;
            begun = end;
        }
        let _ = empty.try_send(piece.bytes); // the reader makes another where it has none
    }
    Ok(())
}

/// A part of a file.
struct Piece {
    at: u64,
    /// Empty for a hole.
    bytes: Vec<u8>,
    hole: u64,
}

impl Piece {
    /// Its bytes, in one part or many.
    fn each(&self, mut see: impl FnMut(&[u8])) {
        see(&self.bytes);
        let mut left = self.hole;
        while left > 0 {
            let n = left.min(HOLE_BYTES as u64);
            see(&ZEROS[..n as usize]);
            left -= n;
        }
    }

    /// Writes it, but for runs of zeros.
    fn write(&self, target: &File) -> io::Result<()> {
        let (mut from, mut to) = (0, 0); // not written yet
        let put = |from: usize, to: usize| {
            target.write_all_at(&self.bytes[from..to], self.at + from as u64)
        };
        while to < self.bytes.len() {
            let aligned = HOLE_BYTES - (self.at as usize + to) % HOLE_BYTES;
            let next = self.bytes.len().min(to + aligned);
            if self.bytes[to..next] == ZEROS[..] {
                put(from, to)?;
                from = next;
            }
            to = next;
        }
        put(from, to)
    }
}

/// Reads a file in order, up to the end that it had at first, and hashes all of it.
struct Reader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    /// Up to here there is no hole.
    data_end: u64,
    digests: Digests,
}

impl Reader<'_> {
    fn new(file: &File, chunk_bytes: u64) -> io::Result<Reader<'_>> {
        Ok(Reader {
            file,
            at: 0,
            end: file.metadata()?.len(),
            data_end: 0,
            digests: Digests::new(chunk_bytes),
        })
    }

    fn finish(self) -> Copied {
        let (sha256, chunks) = self.digests.finish();
        Copied {
            size: self.at,
            sha256,
            chunks,
        }
    }

    /// The next piece, in this buffer; `None` at the end, also where the file was cut meanwhile.
    fn next(&mut self, bytes: Vec<u8>) -> io::Result<Option<Piece>> {
        let mut piece = Piece {
            at: self.at,
            bytes,
            hole: 0,
        };
        if self.at == self.end {
            return Ok(None);
        }
        if self.at == self.data_end {
            let data = self.seek(libc::SEEK_DATA)?;
            piece.hole = HOLE_BYTES_MAX.min(data - self.at);
            self.data_end = match piece.hole {
                0 => self.seek(libc::SEEK_HOLE)?,
                n => self.at + n,
            };
        }
        if piece.hole > 0 {
            piece.bytes.clear();
        } else {
            let room = PIECE_BYTES as u64 - self.at % PIECE_BYTES as u64;
            piece
                .bytes
                .resize(room.min(self.data_end - self.at) as usize, 0);
            let n = fill(self.file, &mut piece.bytes, self.at)?;
            piece.bytes.truncate(n);
        }
        self.at += piece.hole + piece.bytes.len() as u64;
        piece.each(|bytes| self.digests.update(bytes));
        Ok((self.at > piece.at).then_some(piece))
    }

    /// Where data or a hole begins; the end if it does not.
    fn seek(&self, what: libc::c_int) -> io::Result<u64> {
        // SAFETY: lseek on a descriptor that `file` keeps open; it touches no memory.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), self.at as libc::off_t, what) };
        if found >= 0 {
            return Ok(self.end.min(found as u64));
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(self.end),
            e => Err(e),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], at + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Digests of bytes that come in order: of all of them, and of each chunk.
struct Digests {
    whole: Hasher,
    chunk_bytes: u64,
    /// Of the present chunk.
    left: u64,
    chunk: Hasher,
    chunks: Vec<u8>,
}

impl Digests {
    fn new(chunk_bytes: u64) -> Digests {
        Digests {
            whole: Hasher::default(),
            chunk_bytes,
            left: chunk_bytes,
            chunk: Hasher::default(),
            chunks: Vec::new(),
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.left.min(bytes.len() as u64);
            let (now, later) = bytes.split_at(n as usize);
            Hasher::update_both([&mut self.whole, &mut self.chunk], [now, now]);
            self.left -= n;
            bytes = later;
            if self.left == 0 {
                self.end_chunk();
            }
        }
    }

    fn end_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunks.extend_from_slice(&chunk.finish());
        self.left = self.chunk_bytes;
    }

    fn finish(mut self) -> (Digest, Vec<u8>) {
        if self.left < self.chunk_bytes {
            self.end_chunk();
        }
        (self.whole.finish(), self.chunks)
    }
}
