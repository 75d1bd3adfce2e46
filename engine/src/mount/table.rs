//! What must outlive this process, written where it does: the open files, and what the kernel knows
//! of the past.
//!
//! An inode that is open for passthrough can be opened again only with the same backing id, and an
//! inode that is open through the page cache not for passthrough at all: else the kernel answers
//! EIO. So whoever takes the connection over must know how each open file is served. The supervisor
//! keeps the table (a memfd) beside the connection.
//!
//! The next process is told the present tree anew, under the same ids; neither what was replaced
//! in it, nor what somebody had asked for of the past. So a row has its node, as the kernel may
//! come back to it by the id alone: an open file, or a directory of the past, where somebody may
//! stand.
use super::content::Place;
use super::node::{Kind, Node};
use super::tree::new;
use parking_lot::Mutex;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// One open file, one that was closed and is ready, or a directory of the past that the kernel
/// knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub node: u64,
    /// 0 = through the page cache.
    pub backing: u32,
    /// 0: a directory, or a file that was closed (`ready.rs`).
    pub opens: u32,
}

/// What a former process has left in a slot, and what that is about.
pub type Left = (u32, Row, Node);

/// Pins and tree write into one.
pub type Shared = Arc<Mutex<Table>>;

const ROW: usize = size_of::<Words>();
/// So many rows has the file at least: 16 KiB.
const ROWS_MIN: usize = 32;
/// Bytes of a row before the node.
const HEAD: usize = 16;
/// Bytes of it before the name.
const FIXED: usize = 64;
/// What the node is.
const FILE: u8 = 1;
const PAST_FILE: u8 = 2;
const PAST_DIRECTORY: u8 = 3;

/// A row as it is written. First its node, 0 in a free slot: it is written last, and goes first.
/// Then `backing` and `opens`, which change as one. So a row is whole or free, and its numbers fit
/// each other, whenever this process is killed. What orders the stores of one change against those
/// of the next is the lock around the table.
type Words = [AtomicU64; 64];

/// Rows by slot.
#[derive(Default)]
pub struct Table {
    file: Option<File>,
    mapped: Option<Mapped>,
    free: Vec<u32>,
    end: u32,
    /// Changes that could not be written.
    pub errors: u64,
}

impl Table {
    /// An empty table for a fresh connection.
    pub fn begin(file: File) -> io::Result<Table> {
        file.set_len(0)?;
        Ok(Table {
            file: Some(file),
            ..Table::default()
        })
    }

    /// What a former process has left.
    pub fn resume(file: File) -> io::Result<(Table, Vec<Left>)> {
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(u32::MAX as usize)];
        file.read_exact_at(&mut bytes, 0)?;
        let mut table = Table {
            file: Some(file),
            ..Table::default()
        };
        let mut rows = Vec::new();
        for chunk in bytes.chunks_exact(ROW) {
            match decode(chunk) {
                Some((row, node)) => rows.push((table.end, row, node)),
                None => table.free.push(table.end),
            }
            table.end += 1;
        }
        table.free.reverse(); // The first one is taken first.
        Ok((table, rows))
    }

    /// Writes a row and its node into a free slot.
    pub fn add(&mut self, row: Row, node: &Node) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        if let Some([at, numbers, rest @ ..]) = self.words(slot) {
            let mut bytes = Vec::with_capacity(ROW);
            describe(node, &mut bytes);
            bytes.resize(ROW - HEAD, 0);
            for (word, bytes) in rest.iter().zip(bytes.chunks_exact(8)) {
                word.store(long(bytes, 0).to_le(), Relaxed);
            }
            numbers.store(row.numbers(), Relaxed);
            at.store(row.node.to_le(), Release);
        }
        slot
    }

    /// Changes a row; its node stays.
    pub fn set(&mut self, slot: u32, row: Row) {
        if let Some([_, numbers, ..]) = self.words(slot) {
            numbers.store(row.numbers(), Relaxed);
        }
    }

    pub fn remove(&mut self, slot: u32) {
        if let Some([at, ..]) = self.words(slot) {
            at.store(0, Relaxed);
        }
        self.free.push(slot);
    }

    /// Where a row stands; None: nowhere.
    fn words(&mut self, slot: u32) -> Option<&Words> {
        let (file, slot) = (self.file.as_ref()?, slot as usize);
        let rows = self.mapped.as_ref().map_or(0, |mapped| mapped.rows);
        if slot >= rows {
            match Mapped::new(file, ROWS_MIN.max(2 * rows).max(slot + 1)) {
                Ok(mapped) => self.mapped = Some(mapped),
                Err(_) => {
                    self.errors += 1;
                    return None;
                }
            }
        }
        self.mapped.as_ref().map(|mapped| mapped.row(slot))
    }
}

impl Row {
    fn numbers(&self) -> u64 {
        (u64::from(self.opens) << 32 | u64::from(self.backing)).to_le()
    }
}

/// The file in memory: what is written there needs no system call, and outlives this process.
struct Mapped {
    first: NonNull<Words>,
    rows: usize,
}

// SAFETY: shared memory without an owner thread; all of it is atomics.
unsafe impl Send for Mapped {}

impl Mapped {
    fn new(file: &File, rows: usize) -> io::Result<Mapped> {
        let (fd, length) = (file.as_raw_fd(), rows * ROW);
        // SAFETY: a descriptor that is open. The pages are there from here on: else a lack of
        // memory would end the process when it writes to one.
        if unsafe { libc::fallocate(fd, 0, 0, length as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping, which touches no other.
        let at = unsafe { libc::mmap(anywhere, length, access, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(at.cast()) {
            Some(first) if at != libc::MAP_FAILED => Ok(Mapped { first, rows }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn row(&self, number: usize) -> &Words {
        assert!(number < self.rows);
        // SAFETY: within the mapping, which is aligned to pages and lives as long as `self`; only
        // atomics are ever made of it, and nobody cuts the file off while a process has it mapped.
        unsafe { self.first.add(number).as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which nothing is borrowed any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.rows * ROW) };
    }
}

/// Appends what `decode` reads. A place that does not fit is left out: then whoever goes on reading
/// waits for the content to be fetched.
fn describe(node: &Node, into: &mut Vec<u8>) {
    let place = node.place.lock().clone();
    let place = place.as_deref().map_or(&b""[..], |place| place.to_bytes());
    let fits = FIXED + node.name.len() + place.len() <= ROW;
    let place = if fits { place } else { b"" };
    for number in [node.parent, node.version(), node.size] {
        into.extend(number.to_le_bytes());
    }
    into.extend(node.mtime_ns.load(Relaxed).to_le_bytes());
    for number in [&node.mode, &node.uid, &node.gid] {
        into.extend(number.load(Relaxed).to_le_bytes());
    }
    into.push(match (node.past, node.kind) {
        (false, _) => FILE,
        (true, Kind::Directory) => PAST_DIRECTORY,
        (true, _) => PAST_FILE,
    });
    into.push(u8::try_from(node.name.len()).expect("255 bytes at most, as all names"));
    into.extend(u16::try_from(place.len()).expect("it fits").to_le_bytes());
    into.extend(&*node.name);
    into.extend(place);
}

/// A row and its node, which nobody knows yet. None: the slot is free.
fn decode(bytes: &[u8]) -> Option<(Row, Node)> {
    let row = Row {
        node: long(bytes, 0),
        backing: word(bytes, 8),
        opens: word(bytes, 12),
    };
    let kind = match bytes[60] {
        _ if row.node == 0 => return None,
        FILE | PAST_FILE => Kind::File,
        PAST_DIRECTORY => Kind::Directory,
        _ => return None,
    };
    let (name, rest) = bytes[FIXED..].split_at_checked(bytes[61].into())?;
    let place = rest.get(..usize::from(u16::from_le_bytes([bytes[62], bytes[63]])))?;
    let place = CString::new(place).ok().filter(|place| !place.is_empty());
    let mtime_ns = long(bytes, 40).cast_signed();
    let head = (row.node, kind, word(bytes, 48));
    let node = Node {
        version: long(bytes, 24).into(),
        size: long(bytes, 32),
        uid: word(bytes, 52).into(),
        gid: word(bytes, 56).into(),
        past: bytes[60] != FILE,
        orphan: true.into(),
        place: Place::of_one(place.map(Into::into)),
        ..new(head, long(bytes, 16), name, mtime_ns)
    };
    Some((row, node))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
