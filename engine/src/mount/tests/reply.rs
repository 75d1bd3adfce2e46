//! Messages to the kernel, byte by byte.
use super::*;

const ATTR: Attr = Attr {
    node: 0x1122_3344_5566_7788,
    size: 5_000,
    mtime_ns: 1_600_000_000_123_456_789,
    mode: 0o100_640,
    uid: 7,
    gid: 8,
};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn an_error_is_a_negative_errno_behind_the_header_and_echoes_the_id() {
    let mut message = Message::default();
    let bytes = message.error(5 | 1 << 63, libc::ENOENT).sealed();
    assert_eq!(
        bytes,
        [
            16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0x80
        ]
    );
}

#[test]
fn attributes_stand_where_the_kernel_reads_them() {
    let mut message = Message::default();
    let bytes = message
        .ok(3)
        .attr(&ATTR, Duration::from_millis(1_500))
        .sealed();
    assert_eq!(bytes.len(), 16 + 104);
    assert_eq!((u64_at(bytes, 16), u32_at(bytes, 24)), (1, 500_000_000));
    let attr = &bytes[32..];
    assert_eq!(
        (u64_at(attr, 0), u64_at(attr, 8), u64_at(attr, 16)),
        (ATTR.node, 5_000, 10)
    );
    for (seconds, rest) in [(24, 48), (32, 52), (40, 56)] {
        assert_eq!(u64_at(attr, seconds), 1_600_000_000);
        assert_eq!(u32_at(attr, rest), 123_456_789);
    }
    let tail: Vec<u32> = (60..88).step_by(4).map(|at| u32_at(attr, at)).collect();
    assert_eq!(tail, [0o100_640, 1, 7, 8, 0, 4096, 0]);
}

#[test]
fn times_before_1970_keep_their_nanoseconds_positive() {
    let mut message = Message::default();
    let old = Attr {
        mtime_ns: -1,
        ..ATTR
    };
    let bytes = message.ok(3).attr(&old, Duration::ZERO).sealed();
    assert_eq!(u64_at(bytes, 32 + 24), u64::MAX);
    assert_eq!(u32_at(bytes, 32 + 48), 999_999_999);
}

#[test]
fn an_entry_carries_node_lifetimes_and_attributes() {
    let mut message = Message::default();
    let bytes = message
        .ok(3)
        .entry(Some(&ATTR), Duration::from_secs(3_600))
        .sealed();
    assert_eq!(bytes.len(), 16 + 128);
    let words: Vec<u64> = (16..48).step_by(8).map(|at| u64_at(bytes, at)).collect();
    assert_eq!(words, [ATTR.node, 0, 3_600, 3_600]);
    assert_eq!(u64_at(bytes, 16 + 40), ATTR.node);
}

#[test]
fn a_missing_name_is_an_entry_without_node() {
    let mut message = Message::default();
    let bytes = message.ok(3).entry(None, Duration::from_secs(9)).sealed();
    assert_eq!(bytes.len(), 16 + 128);
    assert_eq!((u64_at(bytes, 16), u64_at(bytes, 32)), (0, 9));
}

#[test]
fn directory_entries_are_padded_and_stop_at_the_size_asked_for() {
    let mut message = Message::default();
    message.ok(3);
    assert!(message.dirent(64, 77, b"name", &ATTR, Plus::No));
    assert!(message.dirent(64, 78, b"eightchr", &ATTR, Plus::No));
    assert_eq!(message.carried(), 64);
    assert!(!message.dirent(64, 79, b"x", &ATTR, Plus::No));
    let bytes = message.sealed();
    assert_eq!((u64_at(bytes, 16), u64_at(bytes, 24)), (ATTR.node, 77));
    assert_eq!((u32_at(bytes, 32), u32_at(bytes, 36)), (4, 0o10));
    assert_eq!(&bytes[40..48], b"name\0\0\0\0");
    assert_eq!(bytes.len(), 16 + 64);
}

#[test]
fn entries_with_attributes_leave_those_of_dot_empty() {
    let mut message = Message::default();
    message.ok(3);
    let ttl = Duration::from_secs(2);
    assert!(message.dirent(1 << 20, 1, b".", &ATTR, Plus::Dot));
    assert!(message.dirent(1 << 20, 5, b"f", &ATTR, Plus::Yes(ttl)));
    let bytes = message.sealed();
    assert!(bytes[16..144].iter().all(|byte| *byte == 0));
    assert_eq!(u64_at(bytes, 144), ATTR.node); // Its number is known all the same.
    assert_eq!(u64_at(bytes, 176), ATTR.node);
    assert_eq!((u64_at(bytes, 192), u64_at(bytes, 304 + 8)), (2, 5));
}

#[test]
fn opens_say_who_reads() {
    let mut message = Message::default();
    let bytes = message.ok(3).opened(Opened::Passthrough(6)).sealed();
    assert_eq!(
        (u64_at(bytes, 16), u32_at(bytes, 24), u32_at(bytes, 28)),
        (0, 0b1010_0000, 6)
    );
    let bytes = message.ok(3).opened(Opened::Cached).sealed();
    assert_eq!(
        (u64_at(bytes, 16), u32_at(bytes, 24), u32_at(bytes, 28)),
        (0, 0b10_0010, 0)
    );
}

#[test]
fn init_has_64_bytes_and_a_stack_depth_for_passthrough() {
    let mut message = Message::default();
    let flags = cap::PASSTHROUGH | cap::INIT_EXT | cap::ASYNC_READ;
    let granted = Granted {
        minor: 45,
        readahead: 9,
        flags,
        transfer: 1 << 20,
    };
    let bytes = message.ok(3).init(&granted).sealed();
    assert_eq!(bytes.len(), 16 + 64);
    let body = &bytes[16..];
    assert_eq!(
        (u32_at(body, 0), u32_at(body, 4), u32_at(body, 8)),
        (7, 45, 9)
    );
    assert_eq!((u32_at(body, 12), u32_at(body, 32)), (1 << 30 | 1, 1 << 5));
    assert_eq!(
        (
            u32_at(body, 20),
            u32_at(body, 28) & 0xffff,
            u32_at(body, 36)
        ),
        (1 << 20, 256, 1)
    );
    let granted = Granted {
        flags: cap::ASYNC_READ,
        ..granted
    };
    assert_eq!(u32_at(message.ok(3).init(&granted).sealed(), 16 + 36), 0);
    assert_eq!(message.ok(3).init_major().sealed().len(), 16 + 64);
}

#[test]
fn statfs_has_80_bytes() {
    let mut message = Message::default();
    let totals = Totals {
        entries: 12,
        bytes: 4_097,
    };
    let bytes = message.ok(3).statfs(totals, 3 * 4_096 + 1).sealed();
    assert_eq!(bytes.len(), 16 + 80);
    // Blocks in all, free, available; entries in all, free.
    let figures: Vec<u64> = (0..5).map(|at| u64_at(bytes, 16 + 8 * at)).collect();
    assert_eq!(figures, [5, 3, 3, 15, 3]);
    assert_eq!((u32_at(bytes, 56), u32_at(bytes, 60)), (4_096, 255));
}

#[test]
fn what_is_made_is_read_here_by_its_handle() {
    let mut message = Message::default();
    let bytes = message.ok(3).opened_made(77).sealed();
    let mut expected = vec![32, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    // The handle; DIRECT_IO and NOFLUSH, never KEEP_CACHE; no backing.
    expected.extend([77, 0, 0, 0, 0, 0, 0, 0, 1 | 32, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes, expected);
    assert_eq!(
        message.ok(3).length(300).sealed()[16..],
        [44, 1, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn notices() {
    let mut message = Message::default();
    let entry = Notice::Entry {
        parent: 9,
        name: b"ab"[..].into(),
    };
    let bytes = message.notice(&entry).sealed();
    let mut expected = vec![35, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0];
    expected.extend([0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0]);
    assert_eq!(bytes, expected);
    let delete = Notice::Delete {
        parent: 9,
        child: 10,
        name: b"ab"[..].into(),
    };
    let bytes = message.notice(&delete).sealed();
    assert_eq!(
        (bytes.len(), u32_at(bytes, 4), u64_at(bytes, 24)),
        (43, 6, 10)
    );
    let bytes = message.notice(&Notice::Attributes(9)).sealed();
    assert_eq!(
        (bytes.len(), u32_at(bytes, 4), u64_at(bytes, 24)),
        (40, 2, u64::MAX)
    );
    let bytes = message.notice(&Notice::Resend).sealed();
    assert_eq!(bytes, [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(message.notice(&Notice::Epoch).sealed()[4], 8);
}

#[test]
fn a_failed_fill_leaves_nothing_behind() {
    let mut message = Message::default();
    let filled = message.ok(3).fill(100, |_| Err::<usize, i32>(5));
    assert_eq!((filled, message.carried()), (Err(5), 0));
    let filled = message.ok(3).fill(100, |into| {
        into[..3].copy_from_slice(b"abc");
        Ok::<usize, i32>(3)
    });
    assert_eq!((filled, &message.sealed()[16..]), (Ok(3), &b"abc"[..]));
}
