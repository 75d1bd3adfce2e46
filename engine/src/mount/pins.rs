//! Open files: each keeps the content of its version to the end, whatever happens to the tree or to
//! the local file's name. What becomes of those that are closed stands in `ready.rs`.
use super::device::Device;
use super::node::Node;
use super::part::{Chunks, Part};
use super::ready::{Local, Ready};
use super::reply::Opened;
use super::table::{Left, Row, Shared};
use crate::contents::seal::is_sealed;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// So many files that were replaced are kept as open where nobody says which are: each has a row of
/// the table, 2 MiB in all, and a descriptor once it is read.
pub const HELD_MAX: usize = 4_096;

/// Why content cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no local file.
    Absent,
    /// The local file is not as it was committed, or is no file.
    Damaged,
    /// Some of these chunks of it are not here.
    Lacking(Arc<Part>, Chunks),
    Failed(i32),
}

/// Where an open file is read.
#[derive(Clone)]
enum Source {
    Whole(Arc<File>),
    Part(Arc<Part>),
}

/// An open file, or one that is ready: then with 0 opens.
pub struct Pin {
    opens: u32,
    served: Opened,
    /// Through the page cache: where from. None for empty files, for content that was not here at a
    /// take-over, and while nobody has read what is only held.
    source: Option<Source>,
    /// What the kernel reads by itself, if that may stay ready when it is closed.
    pub(super) local: Option<Local>,
    slot: u32,
}

#[derive(Default)]
struct State {
    pins: HashMap<u64, Pin>,
    ready: Ready,
    table: Shared,
    /// The kernel or our privileges do not allow passthrough: not asked again.
    forbidden: bool,
    /// Files that the kernel would not read itself.
    refused: u64,
}

#[derive(Default)]
pub struct Pins(Mutex<State>);

impl Pins {
    /// From here on the open files are written to `table`.
    pub fn begin(&self, table: Shared) {
        self.0.lock().table = table;
    }

    /// Goes on with the open files of a former process; returns their ids.
    pub fn resume(&self, table: Shared, left: &[Left]) -> Vec<u64> {
        let mut state = self.0.lock();
        state.table = table;
        let rows = left.iter().filter(|(_, row, ..)| row.opens > 0);
        let nodes = rows.clone().map(|(_, row, ..)| row.node).collect();
        let pins = rows.map(|(slot, row, ..)| (row.node, Pin::left(*slot, *row)));
        state.pins.extend(pins);
        nodes
    }

    /// Opens again what a former process had open for reads that it answered: who has a file open
    /// keeps its content. If that cannot be had now, the next read finds out.
    pub fn reopen(&self, node: &Node) {
        let mut state = self.0.lock();
        if let Some(pin) = state.pins.get_mut(&node.id)
            && pin.served == Opened::Cached
            && node.size > 0
        {
            pin.source = Source::of(node).ok();
        }
    }

    /// Opens the content of a node: by the kernel itself if `passthrough` and it agrees, else for
    /// reads that we answer. All open files of one node are served the same way. `path`: by which
    /// its content can be asked for.
    pub fn open(
        &self,
        node: &Arc<Node>,
        path: &str,
        device: &Device,
        passthrough: bool,
    ) -> Result<Opened, Trouble> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if let Some(pin) = state.ready.take(node.id) {
            if pin.local.as_ref().is_some_and(Local::is_in_place) {
                state.pins.insert(node.id, pin);
            } else {
                pin.end(&state.table, device);
            }
        }
        if let Some(pin) = state.pins.get_mut(&node.id) {
            pin.opens += 1;
            state.table.lock().set(pin.slot, pin.row(node.id));
            return Ok(pin.served);
        }
        let source = if node.size == 0 {
            None
        } else {
            Some(Source::of(node)?)
        };
        let backing = match &source {
            Some(Source::Whole(file)) if passthrough => state.backing(file, device),
            _ => None,
        };
        let (served, source, local) = match (backing, source) {
            (Some(id), Some(Source::Whole(file))) => {
                (Opened::Passthrough(id), None, Local::of(node, &file))
            }
            (_, source) => (Opened::Cached, source, None),
        };
        let mut pin = Pin {
            opens: 1,
            served,
            source,
            local,
            slot: 0,
        };
        pin.slot = state.table.lock().add(pin.row(node.id), node, path);
        state.pins.insert(node.id, pin);
        Ok(served)
    }

    /// A small file that is neither open nor ready, which the kernel may read itself.
    pub fn may_be_made_ready(&self, node: &Node) -> bool {
        self.0.lock().may_be_made_ready(node)
    }

    /// Has such a file ready, as one that was closed, if all of it is here and the kernel agrees.
    pub fn make_ready(&self, node: &Arc<Node>, path: &str, device: &Device) -> Result<(), Trouble> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if !state.may_be_made_ready(node) {
            return Ok(()); // Another thread has opened it meanwhile.
        }
        let Source::Whole(file) = Source::of(node)? else {
            return Ok(());
        };
        let Some(backing) = state.backing(&file, device) else {
            return Ok(());
        };
        let row = Row {
            node: node.id,
            backing,
            opens: 0,
        };
        let slot = state.table.lock().add(row, node, path);
        let mut pin = Pin::left(slot, row);
        pin.local = Local::of(node, &file);
        if let Some(pin) = state.ready.put(node.id, pin) {
            pin.end(&state.table, device);
        }
        Ok(())
    }

    /// Counts a file as open once, until `release`: its content stays to be had, here and by the
    /// next process. Not beyond `HELD_MAX`.
    pub fn hold(&self, node: &Node, path: &str) {
        let mut state = self.0.lock();
        if state.pins.len() >= HELD_MAX || state.pins.contains_key(&node.id) {
            return;
        }
        let row = Row {
            node: node.id,
            backing: 0,
            opens: 1,
        };
        let slot = state.table.lock().add(row, node, path);
        state.pins.insert(node.id, Pin::left(slot, row));
    }

    /// One open file of the node is closed.
    pub fn release(&self, id: u64, device: &Device) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        let Some(pin) = state.pins.get_mut(&id) else {
            return;
        };
        pin.opens = pin.opens.saturating_sub(1);
        state.table.lock().set(pin.slot, pin.row(id));
        if pin.opens == 0
            && let Some(pin) = state.pins.remove(&id)
            && let Some(pin) = state.ready.put(id, pin)
        {
            pin.end(&state.table, device);
        }
    }

    /// Some files are not to be ready any longer: `which` takes them out.
    pub fn let_go(&self, which: impl FnOnce(&mut Ready) -> Vec<Pin>, device: &Device) {
        let mut state = self.0.lock();
        let gone = which(&mut state.ready);
        let table = state.table.clone();
        drop(state); // They may be many: no open waits for them.
        gone.iter().for_each(|pin| pin.end(&table, device));
    }

    /// Fills `buffer` from `offset`, up to the committed size.
    pub fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let left = usize::try_from(node.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..length];
        let read = match self.source(node)? {
            Source::Whole(file) => file.read_exact_at(buffer, offset),
            Source::Part(part) => match part.lacking(offset, length) {
                Some(chunks) => return Err(Trouble::Lacking(part, chunks)),
                None => part.read(offset, buffer),
            },
        };
        match read {
            Ok(()) => Ok(length),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Trouble::Damaged)
            }
            Err(error) => Err(Trouble::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// That of the open file, or one for this read only.
    fn source(&self, node: &Node) -> Result<Source, Trouble> {
        let mut state = self.0.lock();
        let Some(pin) = state.pins.get_mut(&node.id) else {
            drop(state);
            return Source::of(node);
        };
        if pin.source.is_none() {
            pin.source = Some(Source::of(node)?);
        }
        pin.source.clone().ok_or(Trouble::Absent)
    }

    /// The content, or more of it, has come: an open file that waits for some of it is read there.
    pub fn renew(&self, node: &Node) {
        let mut state = self.0.lock();
        if let Some(pin) = state.pins.get_mut(&node.id)
            && matches!(&pin.source, Some(Source::Part(part)) if !part.whole())
            && let Ok(source) = Source::of(node)
        {
            pin.source = Some(source);
        }
    }

    /// Passthrough was refused for good.
    pub fn forbidden(&self) -> bool {
        self.0.lock().forbidden
    }

    /// Figures for the status.
    pub fn counts(&self) -> [(&'static str, u64); 6] {
        let state = self.0.lock();
        let direct = |pin: &&Pin| matches!(pin.served, Opened::Passthrough(_));
        let arriving = |pin: &&Pin| matches!(&pin.source, Some(Source::Part(p)) if !p.whole());
        [
            ("open", state.pins.len() as u64),
            (
                "open_passthrough",
                state.pins.values().filter(direct).count() as u64,
            ),
            (
                "open_arriving",
                state.pins.values().filter(arriving).count() as u64,
            ),
            ("passthrough_refused", state.refused),
            ("table_errors", state.table.lock().errors),
            ("ready", state.ready.count() as u64),
        ]
    }
}

impl State {
    fn may_be_made_ready(&self, node: &Node) -> bool {
        let known = self.pins.contains_key(&node.id) || self.ready.has(node.id);
        // Where it was refused for one file it is for others: on a file system stacked too high.
        !known && self.refused == 0 && node.size > 0 && Local::may_stay(node)
    }

    /// Asks the kernel to read the file itself. None: it will not (no privilege, an old kernel, a
    /// file system stacked too high).
    fn backing(&mut self, file: &File, device: &Device) -> Option<u32> {
        if self.forbidden {
            return None;
        }
        match device.backing_open(file) {
            Ok(id) if id > 0 => Some(id),
            Ok(_) => None,
            Err(error) => {
                self.refused += 1;
                self.forbidden = error.raw_os_error() != Some(libc::ELOOP);
                None
            }
        }
    }
}

impl Pin {
    /// What a row says: one that a former process has left, or one of what is held or made ready.
    pub fn left(slot: u32, row: Row) -> Pin {
        Pin {
            opens: row.opens,
            served: match row.backing {
                0 => Opened::Cached,
                id => Opened::Passthrough(id),
            },
            source: None,
            local: None,
            slot,
        }
    }

    /// Nobody has it open, and it is not ready any longer. The row goes last: should we die before,
    /// the next process finds it, and may close the backing once more.
    pub fn end(&self, table: &Shared, device: &Device) {
        if let Opened::Passthrough(backing) = self.served {
            device.backing_close(backing);
        }
        table.lock().remove(self.slot);
    }

    fn row(&self, node: u64) -> Row {
        let backing = match self.served {
            Opened::Passthrough(id) => id,
            Opened::Cached => 0,
        };
        Row {
            node,
            backing,
            opens: self.opens,
        }
    }
}

impl Source {
    /// The whole file of a node, or what is here of it.
    fn of(node: &Node) -> Result<Source, Trouble> {
        match open_place(node) {
            Ok(file) => Ok(Source::Whole(Arc::new(file))),
            Err(Trouble::Absent) => {
                let part = node.place.part();
                part.map(Source::Part).ok_or(Trouble::Absent)
            }
            Err(trouble) => Err(trouble),
        }
    }
}

/// Opens the local file of a node if it is what was committed; forgets it otherwise.
fn open_place(node: &Node) -> Result<File, Trouble> {
    let mut place = node.place.lock();
    let Some(path) = place.as_deref() else {
        return Err(Trouble::Absent);
    };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(flags).open(path_of(path));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            *place = None;
            return Err(Trouble::Absent);
        }
        Err(error) => return Err(Trouble::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
    };
    match file.metadata() {
        Ok(metadata) if metadata.is_file() && is_as_committed(node, &metadata) => Ok(file),
        Ok(_) => {
            *place = None;
            Err(Trouble::Damaged)
        }
        Err(error) => Err(Trouble::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// The file is of the size that was committed, and nobody has written to it since it was verified.
pub(super) fn is_as_committed(node: &Node, found: &Metadata) -> bool {
    found.len() == node.size && is_sealed(found)
}

pub(super) fn path_of(place: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(place.to_bytes()))
}

#[cfg(test)]
#[path = "tests/pins.rs"]
mod tests;
