//! The open files, written where they outlive this process.
//!
//! An inode that is open for passthrough can be opened again only with the same backing id, and an
//! inode that is open through the page cache not for passthrough at all: else the kernel answers
//! EIO. So whoever takes the connection over must know how each open file is served. The supervisor
//! keeps the table (a memfd) beside the connection.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// One open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub node: u64,
    /// 0 = through the page cache.
    pub backing: u32,
    pub opens: u32,
}

const ROW: usize = 16;

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
    pub fn resume(file: File) -> io::Result<(Table, Vec<(u32, Row)>)> {
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
                Some(row) => rows.push((table.end, row)),
                None => table.free.push(table.end),
            }
            table.end += 1;
        }
        Ok((table, rows))
    }

    /// Writes a row into a free slot.
    pub fn add(&mut self, row: Row) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.set(slot, row);
        slot
    }

    pub fn set(&mut self, slot: u32, row: Row) {
        let mut bytes = [0; ROW];
        bytes[..8].copy_from_slice(&row.node.to_le_bytes());
        bytes[8..12].copy_from_slice(&row.backing.to_le_bytes());
        bytes[12..].copy_from_slice(&row.opens.to_le_bytes());
        self.write(slot, &bytes);
    }

    pub fn remove(&mut self, slot: u32) {
        self.write(slot, &[0; ROW]);
        self.free.push(slot);
    }

    fn write(&mut self, slot: u32, bytes: &[u8; ROW]) {
        if let Some(file) = &self.file
            && file
                .write_all_at(bytes, u64::from(slot) * ROW as u64)
                .is_err()
        {
            self.errors += 1;
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Row> {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let node = u64::from(word(4)) << 32 | u64::from(word(0));
    (node != 0).then(|| Row {
        node,
        backing: word(8),
        opens: word(12),
    })
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
