//! Requests as the kernel writes them, byte by byte.
use super::super::abi::op;
use super::*;

/// A request: the header is filled in, the body as given.
fn message(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]); // uid, gid, pid, extensions, padding
    bytes.extend(body);
    bytes
}

fn parsed(bytes: &[u8]) -> Request<'_> {
    parse(bytes).expect("a valid message").1
}

#[test]
fn a_lookup_byte_by_byte() {
    // stat("/mnt/x") as root: 42 bytes, opcode 1, unique 4, node 1, pid 0x1f3, "x\0".
    let bytes = [
        42, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 1, 0, 0, 0, 0, 0, 0, b'x', 0,
    ];
    let (header, request) = parse(&bytes).unwrap();
    assert_eq!(
        header,
        Header {
            opcode: op::LOOKUP,
            unique: 4,
            node: 1
        }
    );
    assert_eq!(request, Request::Lookup(b"x"));
}

#[test]
fn a_resent_request_keeps_the_bit_that_says_so() {
    let bytes = message(op::GETATTR, 6 | 1 << 63, 9, &[0; 16]);
    assert_eq!(parse(&bytes).unwrap().0.unique, 6 | 1 << 63);
}

#[test]
fn names_are_single_components() {
    let lookup = |name: &[u8]| parse(&message(op::LOOKUP, 2, 1, name)).is_ok();
    assert!(lookup(b"name\0"));
    assert!(lookup("gr\u{fc}n\0".as_bytes()));
    for bad in [&b""[..], b"\0", b"name", b"a/b\0", b"a\0b\0"] {
        assert!(!lookup(bad), "{bad:?}");
    }
}

#[test]
fn reads_name_offset_and_size() {
    let mut body = [0; 40];
    body[0..8].copy_from_slice(&(3u64 << 40).to_le_bytes());
    body[8..16].copy_from_slice(&(5u64 << 30).to_le_bytes());
    body[16..20].copy_from_slice(&131_072u32.to_le_bytes());
    let (handle, offset, size) = (3 << 40, 5 << 30, 131_072);
    let read = message(op::READ, 2, 7, &body);
    assert_eq!(
        parsed(&read),
        Request::Read {
            handle,
            offset,
            size
        }
    );
    let release = message(op::RELEASE, 2, 7, &body[..24]);
    assert_eq!(parsed(&release), Request::Release { handle });
    let listing = message(op::READDIR, 2, 7, &body);
    assert_eq!(
        parsed(&listing),
        Request::ReadDir {
            offset,
            size,
            plus: false
        }
    );
    let listing = message(op::READDIRPLUS, 2, 7, &body);
    assert_eq!(
        parsed(&listing),
        Request::ReadDir {
            offset,
            size,
            plus: true
        }
    );
}

#[test]
fn init_joins_both_halves_of_the_flags() {
    let mut body = Vec::new();
    for word in [7u32, 45, 1 << 20, 1 << 30 | 1, 1 << 5] {
        body.extend(word.to_le_bytes());
    }
    let flags = 1 << 37 | 1 << 30 | 1;
    let expected = Request::Init {
        major: 7,
        minor: 45,
        readahead: 1 << 20,
        flags,
    };
    assert_eq!(parsed(&message(op::INIT, 2, 0, &body)), expected);
    // Without INIT_EXT the second half is not there.
    body.truncate(16);
    body[12..16].copy_from_slice(&1u32.to_le_bytes());
    let expected = Request::Init {
        major: 7,
        minor: 45,
        readahead: 1 << 20,
        flags: 1,
    };
    assert_eq!(parsed(&message(op::INIT, 2, 0, &body)), expected);
}

#[test]
fn forgets_come_single_and_in_batches() {
    assert_eq!(
        parsed(&message(op::FORGET, 0, 5, &3u64.to_le_bytes())),
        Request::Forget(3)
    );
    let mut body = vec![2, 0, 0, 0, 0, 0, 0, 0];
    for number in [10u64, 1, 11, 4] {
        body.extend(number.to_le_bytes());
    }
    let bytes = message(op::BATCH_FORGET, 0, 0, &body);
    let Request::BatchForget(forgets) = parsed(&bytes) else {
        panic!("not a batch")
    };
    assert_eq!(forgets.collect::<Vec<_>>(), [(10, 1), (11, 4)]);
}

#[test]
fn a_batch_that_promises_more_than_it_has_is_refused() {
    for count in [2u32, 1 << 28, u32::MAX] {
        let mut body = count.to_le_bytes().to_vec();
        body.extend([0; 4 + 16]);
        let bytes = message(op::BATCH_FORGET, 0, 0, &body);
        assert!(matches!(parse(&bytes), Err(Malformed::Body(_))), "{count}");
    }
}

#[test]
fn the_stated_length_is_the_real_one() {
    let mut bytes = message(op::STATFS, 2, 1, &[]);
    assert_eq!(parsed(&bytes), Request::StatFs);
    bytes[0] += 1;
    assert!(matches!(parse(&bytes), Err(Malformed::Body(header)) if header.unique == 2));
}

#[test]
fn extensions_are_cut_off() {
    let mut bytes = message(op::LOOKUP, 2, 1, b"name\0\0\0\0\0\0\0\0\0");
    bytes[36] = 1; // Eight bytes of it.
    assert_eq!(parsed(&bytes), Request::Lookup(b"name"));
    bytes[36..38].copy_from_slice(&[0xff, 0xff]);
    assert!(matches!(parse(&bytes), Err(Malformed::Body(_))));
}

#[test]
fn extended_attributes_have_a_size_and_a_name() {
    let get = message(op::GETXATTR, 2, 1, b"\x01\x02\0\0\0\0\0\0user.dfs.x\0");
    let (name, size) = (&b"user.dfs.x"[..], 0x201);
    assert_eq!(parsed(&get), Request::GetXattr { name, size });
    let list = message(op::LISTXATTR, 2, 1, b"\x01\x02\0\0\0\0\0\0");
    assert_eq!(parsed(&list), Request::ListXattr { size });
    for short in [&b"\0\0\0\0\0\0\0\0"[..], b"\0\0\0\0\0\0\0\0user", b"\0"] {
        let get = message(op::GETXATTR, 2, 1, short);
        assert!(matches!(parse(&get), Err(Malformed::Body(_))), "{short:?}");
    }
}

#[test]
fn unknown_requests_are_no_error() {
    assert_eq!(parsed(&message(21, 2, 1, b"whatever")), Request::Other);
    assert_eq!(parsed(&message(4711, 2, 1, &[])), Request::Other);
}

#[test]
fn no_prefix_of_any_request_panics() {
    for opcode in 0..64 {
        let whole = message(opcode, 2, 1, &[0x11; 80]);
        for length in 0..whole.len() {
            let mut bytes = whole[..length].to_vec();
            let _ = parse(&bytes);
            if length >= 4 {
                bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
                let parsed = parse(&bytes);
                assert_eq!(
                    parsed == Err(Malformed::Header),
                    length < HEADER,
                    "{opcode} {length}"
                );
            }
        }
    }
}

#[test]
fn random_bytes_do_not_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut refused = 0;
    for _ in 0..200_000 {
        let length = (random() % 120) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        if length >= 8 && random() % 4 != 0 {
            bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
            bytes[4..8].copy_from_slice(&((random() % 50) as u32).to_le_bytes());
        }
        if length >= 38 && random() % 2 == 0 {
            bytes[36..38].copy_from_slice(&[0, 0]);
        }
        match parse(&bytes) {
            Ok((_, Request::BatchForget(forgets))) => assert!(forgets.count() < 8),
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10_000);
}
