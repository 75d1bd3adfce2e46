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
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One open file, or a directory of the past that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub node: u64,
    /// 0 = through the page cache.
    pub backing: u32,
    /// 0: a directory.
    pub opens: u32,
}

/// What a former process has left in a slot, what that is about, and the path it had; "" where it
/// did not fit.
pub type Left = (u32, Row, Node, String);

/// Pins and tree write into one.
pub type Shared = Arc<Mutex<Table>>;

/// A page has a whole number of them, so that no kill leaves a half of one.
const ROW: usize = 512;
/// Bytes of a row before the node.
const HEAD: usize = 16;
/// Bytes of it before the name.
const FIXED: usize = 64;
/// What the node is.
const FILE: u8 = 1;
const PAST_FILE: u8 = 2;
const PAST_DIRECTORY: u8 = 3;

/// Rows by slot; a slot is free when its node is 0. One write per change: a row is whole or free.
#[derive(Default)]
pub struct Table {
    file: Option<File>,
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
                Some((row, node, path)) => rows.push((table.end, row, node, path)),
                None => table.free.push(table.end),
            }
            table.end += 1;
        }
        Ok((table, rows))
    }

    /// Writes a row and its node into a free slot. `path`: of a file, to ask for its content by.
    pub fn add(&mut self, row: Row, node: &Node, path: &str) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        let mut bytes = Vec::with_capacity(ROW);
        bytes.extend(head(row));
        describe(node, path, &mut bytes);
        bytes.resize(ROW, 0);
        self.write(slot, &bytes);
        slot
    }

    /// Changes a row; its node stays.
    pub fn set(&mut self, slot: u32, row: Row) {
        self.write(slot, &head(row));
    }

    pub fn remove(&mut self, slot: u32) {
        self.write(slot, &[0; HEAD]);
        self.free.push(slot);
    }

    fn write(&mut self, slot: u32, bytes: &[u8]) {
        if let Some(file) = &self.file
            && file
                .write_all_at(bytes, u64::from(slot) * ROW as u64)
                .is_err()
        {
            self.errors += 1;
        }
    }
}

fn head(row: Row) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..8].copy_from_slice(&row.node.to_le_bytes());
    bytes[8..12].copy_from_slice(&row.backing.to_le_bytes());
    bytes[12..].copy_from_slice(&row.opens.to_le_bytes());
    bytes
}

/// Appends what `decode` reads. A place that does not fit is left out: then whoever goes on reading
/// waits for the content to be fetched. So is a path: then that is found by the directories, while
/// they are there.
fn describe(node: &Node, path: &str, into: &mut Vec<u8>) {
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
    if into.len() + 2 + path.len() <= ROW {
        into.extend(u16::try_from(path.len()).expect("it fits").to_le_bytes());
        into.extend(path.as_bytes());
    }
}

/// A row and its node, which nobody knows yet. None: the slot is free.
fn decode(bytes: &[u8]) -> Option<(Row, Node, String)> {
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
    let (place, rest) = rest.split_at_checked(u16::from_le_bytes([bytes[62], bytes[63]]).into())?;
    let path = match rest {
        [low, high, path @ ..] => path.get(..u16::from_le_bytes([*low, *high]).into())?,
        _ => b"",
    };
    let path = String::from_utf8_lossy(path).into_owned();
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
    Some((row, node, path))
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
