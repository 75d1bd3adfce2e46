//! Encodes what we tell the kernel: replies and notices. Pure; one message is one buffer.
use super::abi::{REPLY_HEADER, cap, fopen, notify};
use super::notice::Notice;
use std::time::Duration;

/// Attributes as the kernel wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub node: u64,
    pub size: u64,
    pub mtime_ns: i64,
    /// File type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What we grant in INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub minor: u32,
    pub readahead: u32,
    pub flags: u64,
    pub transfer: u32,
}

/// How an open file is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The kernel reads the local file itself, by this backing id.
    Passthrough(u32),
    /// The kernel asks us and keeps what it got.
    Cached,
}

/// Figures for statfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    pub bytes: u64,
}

pub const BLOCK: u32 = 4096;

/// A message under construction; its buffer is reused.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Begins a successful reply; what it carries is appended.
    pub fn ok(&mut self, unique: u64) -> &mut Self {
        self.begin(unique, 0)
    }

    /// A whole reply that carries an errno only.
    pub fn error(&mut self, unique: u64, errno: i32) -> &mut Self {
        self.begin(unique, -errno)
    }

    /// The bytes to write, in one write.
    pub fn sealed(&mut self) -> &[u8] {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        &self.0
    }

    /// Bytes appended so far.
    pub fn carried(&self) -> usize {
        self.0.len() - REPLY_HEADER
    }

    fn begin(&mut self, unique: u64, code: i32) -> &mut Self {
        self.0.clear();
        self.u32(0).u32(code as u32).u64(unique)
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends `size` bytes that `fill` writes; returns its error, or keeps as many as it filled.
    pub fn fill<E>(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.0.len();
        self.zeros(size);
        let filled = fill(&mut self.0[start..]);
        self.0.truncate(start + *filled.as_ref().unwrap_or(&0));
        filled
    }

    /// `struct fuse_attr`, 88 bytes.
    fn attributes(&mut self, attr: &Attr) -> &mut Self {
        let seconds = attr.mtime_ns.div_euclid(1_000_000_000) as u64;
        let rest = attr.mtime_ns.rem_euclid(1_000_000_000) as u32;
        self.u64(attr.node)
            .u64(attr.size)
            .u64(attr.size.div_ceil(512));
        self.u64(seconds)
            .u64(seconds)
            .u64(seconds)
            .u32(rest)
            .u32(rest)
            .u32(rest);
        // One link: directories too, which tells tools not to count subdirectories by it.
        self.u32(attr.mode)
            .u32(1)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(0)
            .u32(BLOCK)
            .u32(0)
    }

    /// `struct fuse_entry_out`, 128 bytes. None = no such name, to be remembered for `ttl`.
    pub fn entry(&mut self, attr: Option<&Attr>, ttl: Duration) -> &mut Self {
        let (seconds, rest) = (ttl.as_secs(), ttl.subsec_nanos());
        self.u64(attr.map_or(0, |attr| attr.node)).u64(0);
        self.u64(seconds).u64(seconds).u32(rest).u32(rest);
        match attr {
            Some(attr) => self.attributes(attr),
            None => self.zeros(88),
        }
    }

    /// `struct fuse_attr_out`
    pub fn attr(&mut self, attr: &Attr, ttl: Duration) -> &mut Self {
        self.u64(ttl.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(0)
            .attributes(attr)
    }

    /// Appends one directory entry unless it would pass `size`; says whether it did. With `plus`
    /// the entry comes with attributes; for `.` and `..` they are left out (node 0), as the kernel
    /// expects.
    pub fn dirent(
        &mut self,
        size: usize,
        cookie: u64,
        name: &[u8],
        attr: &Attr,
        plus: Plus,
    ) -> bool {
        let padding = name.len().wrapping_neg() & 7;
        let entry = if matches!(plus, Plus::No) { 0 } else { 128 };
        if self.carried() + entry + 24 + name.len() + padding > size {
            return false;
        }
        match plus {
            Plus::No => {}
            Plus::Yes(ttl) => {
                self.entry(Some(attr), ttl);
            }
            Plus::Dot => {
                self.zeros(128);
            }
        }
        self.u64(attr.node)
            .u64(cookie)
            .u32(name.len() as u32)
            .u32(attr.mode >> 12);
        self.bytes(name).zeros(padding);
        true
    }

    /// `struct fuse_open_out` of a file.
    pub fn opened(&mut self, opened: Opened) -> &mut Self {
        let (flags, backing) = match opened {
            Opened::Passthrough(id) => (fopen::PASSTHROUGH | fopen::NOFLUSH, id),
            Opened::Cached => (fopen::KEEP_CACHE | fopen::NOFLUSH, 0),
        };
        self.u64(0).u32(flags).u32(backing)
    }

    /// `struct fuse_open_out` of a file whose content was made for this open. It is known by its
    /// handle, and its size is what comes.
    pub fn opened_made(&mut self, handle: u64) -> &mut Self {
        self.u64(handle)
            .u32(fopen::DIRECT_IO | fopen::NOFLUSH)
            .u32(0)
    }

    /// `struct fuse_getxattr_out`: how long a value is.
    pub fn length(&mut self, length: usize) -> &mut Self {
        self.u32(length as u32).u32(0)
    }

    /// `struct fuse_kstatfs`. There may be as many more entries as there are free blocks: none is
    /// smaller than one.
    pub fn statfs(&mut self, totals: Totals, free: u64) -> &mut Self {
        let block = u64::from(BLOCK);
        let (used, free) = (totals.bytes.div_ceil(block), free / block);
        self.u64(used.saturating_add(free))
            .u64(free)
            .u64(free)
            .u64(totals.entries.saturating_add(free))
            .u64(free);
        self.u32(BLOCK).u32(255).u32(BLOCK).zeros(28)
    }

    /// `struct fuse_init_out`, 64 bytes.
    pub fn init(&mut self, granted: &Granted) -> &mut Self {
        let stack = u32::from(granted.flags & cap::PASSTHROUGH != 0);
        self.u32(super::abi::MAJOR)
            .u32(granted.minor)
            .u32(granted.readahead);
        self.u32(granted.flags as u32)
            .u16(64)
            .u16(48)
            .u32(granted.transfer)
            .u32(1);
        self.u16((granted.transfer / BLOCK) as u16)
            .u16(0)
            .u32((granted.flags >> 32) as u32);
        self.u32(stack).zeros(24)
    }

    /// The answer to a kernel with a newer major version: it then asks again with ours.
    pub fn init_major(&mut self) -> &mut Self {
        self.u32(super::abi::MAJOR).u32(super::abi::MINOR).zeros(56)
    }

    /// A whole notice.
    pub fn notice(&mut self, notice: &Notice) -> &mut Self {
        match notice {
            Notice::Entry { parent, name } => {
                self.begin(0, notify::INVAL_ENTRY)
                    .u64(*parent)
                    .u32(name.len() as u32)
                    .u32(0);
                self.bytes(name).zeros(1)
            }
            Notice::Delete {
                parent,
                child,
                name,
            } => {
                self.begin(0, notify::DELETE).u64(*parent).u64(*child);
                self.u32(name.len() as u32).u32(0).bytes(name).zeros(1)
            }
            // A negative offset: attributes only, so that it never waits for a page.
            Notice::Attributes(node) => self
                .begin(0, notify::INVAL_INODE)
                .u64(*node)
                .u64(u64::MAX)
                .u64(0),
            Notice::Epoch => self.begin(0, notify::INC_EPOCH),
            Notice::Resend => self.begin(0, notify::RESEND),
        }
    }
}

/// Whether a directory entry carries attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    No,
    Yes(Duration),
    /// Room for them, left empty.
    Dot,
}

#[cfg(test)]
#[path = "tests/reply.rs"]
mod tests;
