//! Numbers of the kernel's FUSE protocol (`linux/fuse.h`, up to 7.45), as far as a read-only file
//! system needs them. The kernel never changes them.

/// Request codes.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

/// Codes of messages that we start (unique = 0, the code stands where a reply has its errno).
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const DELETE: i32 = 6;
    pub const RESEND: i32 = 7;
    pub const INC_EPOCH: i32 = 8;
}

/// Capabilities that are negotiated in INIT.
pub mod cap {
    pub const ASYNC_READ: u64 = 1;
    /// A directory's cached listing goes when its mtime changes.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const READDIRPLUS: u64 = 1 << 13;
    pub const NO_OPEN: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR: u64 = 1 << 24;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const HAS_RESEND: u64 = 1 << 39;
}

/// Flags of an OPEN reply.
pub mod fopen {
    /// Reads come here, whatever the size is said to be.
    pub const DIRECT_IO: u32 = 1;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PASSTHROUGH: u32 = 1 << 7;
}

pub const MAJOR: u32 = 7;
/// Newest minor version that we know.
pub const MINOR: u32 = 45;
/// Oldest that we serve (Linux 5.4): all structs have today's size from here on.
pub const MINOR_MIN: u32 = 31;
/// From here on INC_EPOCH invalidates every cached name with one message.
pub const MINOR_EPOCH: u32 = 44;

/// Set in `unique` of a request that the kernel hands out again; to be echoed.
pub const UNIQUE_RESEND: u64 = 1 << 63;
pub const ROOT: u64 = 1;
pub const HEADER: usize = 40;
pub const REPLY_HEADER: usize = 16;
/// Largest READ or READDIR; the receive buffer must hold it plus a header (the kernel insists).
pub const TRANSFER: usize = 1 << 20;

pub const S_IFDIR: u32 = 0o040_000;
pub const S_IFREG: u32 = 0o100_000;
pub const S_IFLNK: u32 = 0o120_000;

/// `_IOW(229, 1, struct fuse_backing_map)`
pub const IOCTL_BACKING_OPEN: u64 = 0x4010_e501;
/// `_IOW(229, 2, u32)`
pub const IOCTL_BACKING_CLOSE: u64 = 0x4004_e502;
