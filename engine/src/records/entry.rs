//! Puts of nothing but key and content: the head of their entry, and the entry read again.
use super::put_varint;
use crate::protobuf::{Value, field};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const FORMAT: &[u8] = &[0x08, 1];
pub(super) const SHA256_BYTES: usize = 32;
/// Number of the operation Put in an entry.
const PUT: u64 = 16;
const SHA256_TAG: u8 = 0x2a;
/// Up to here it is cheaper to hash a copy of everything in one piece.
const CHAIN_COPY_BYTES_MAX: usize = 8 << 10;
/// A longer key may have a component that is too long.
const PLAIN_KEY_BYTES_MAX: usize = 255;

/// A Put that asks for nothing but content, with the entry's fields that matter.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainPut<'a> {
    pub time_ns: u64,
    pub node: &'a str,
    pub principal: &'a str,
    pub sha256: &'a [u8],
    pub key: &'a str,
    pub data: &'a [u8],
}

/// What stands in an entry behind its format.
pub(super) struct Entry<'a> {
    pub time_ns: u64,
    pub node: &'a str,
    pub principal: &'a str,
    /// One digest, several, or none.
    pub sha256: &'a [u8],
    /// The request, encoded.
    pub body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `None`: it has another operation than that with this number, or is unusual.
    pub fn read(mut rest: &'a [u8], operation: u64) -> Option<Entry<'a>> {
        let (mut time_ns, mut node, mut principal) = (None, None, None);
        let (mut sha256, mut body) = (None, None);
        while !rest.is_empty() {
            match field(&mut rest)? {
                (2, Value::Fixed64(time)) if time_ns.is_none() => time_ns = Some(time),
                (3, Value::Bytes(bytes)) => text(&mut node, bytes)?,
                (4, Value::Bytes(bytes)) => text(&mut principal, bytes)?,
                (5, Value::Bytes(bytes)) if sha256.is_none() => sha256 = Some(bytes),
                (n, Value::Bytes(bytes)) if n == operation && body.is_none() => body = Some(bytes),
                _ => return None,
            }
        }
        Some(Entry {
            time_ns: time_ns?,
            node: node.unwrap_or(""),
            principal: principal.unwrap_or(""),
            sha256: sha256.unwrap_or(b""),
            body: body?,
        })
    }
}

/// Text that has not been seen before.
pub(super) fn text<'a>(into: &mut Option<&'a str>, bytes: &'a [u8]) -> Option<()> {
    match into.replace(std::str::from_utf8(bytes).ok()?) {
        None => Some(()),
        Some(_) => None,
    }
}

/// The key is one that breaks no rule of src/dfs/paths.py at first sight; of others that has to
/// judge.
pub(super) fn plain_key(key: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b' ');
    let component =
        |c: &str| !c.is_empty() && !c.starts_with(['.', ' ']) && c.bytes().all(|b| plain(&b));
    key.len() <= PLAIN_KEY_BYTES_MAX && key.split('/').all(component)
}

/// Key and content of a PutRequest that holds nothing else, in the usual form.
fn plain_request(body: &[u8], data_bytes_max: usize) -> Option<(&str, &[u8])> {
    let (mut key, mut data) = (None, None);
    let mut rest = body;
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Value::Bytes(bytes)) => text(&mut key, bytes)?,
            (2, Value::Bytes(bytes)) if data.is_none() => data = Some(bytes),
            _ => return None,
        }
    }
    let (key, data) = (key?, data.unwrap_or(b""));
    (plain_key(key) && data.len() <= data_bytes_max).then_some((key, data))
}

/// What comes before a plain request in its entry. `writer`: format, node and principal, encoded.
/// `None`: it is something else, or unusual, and whoever knows all forms has to look at it.
pub fn plain_head(body: &[u8], writer: &[u8], data_bytes_max: usize) -> Option<Vec<u8>> {
    let (_, data) = plain_request(body, data_bytes_max)?;
    let mut head = Vec::with_capacity(writer.len() + SHA256_BYTES + 16);
    head.extend_from_slice(writer);
    head.extend_from_slice(&[SHA256_TAG, SHA256_BYTES as u8]);
    head.extend_from_slice(&Sha256::digest(data));
    put_varint(&mut head, PUT << 3 | 2);
    put_varint(&mut head, body.len() as u64);
    Some(head)
}

/// Reads an entry that is a plain Put. `None` as above.
pub fn plain_put(payload: &[u8], data_bytes_max: usize) -> Option<PlainPut<'_>> {
    let entry = Entry::read(payload.strip_prefix(FORMAT)?, PUT)?;
    let (key, data) = plain_request(entry.body, data_bytes_max)?;
    Some(PlainPut {
        time_ns: entry.time_ns,
        node: entry.node,
        principal: entry.principal,
        sha256: Some(entry.sha256).filter(|s| s.len() == SHA256_BYTES)?,
        key,
        data,
    })
}

/// How many operations an entry holds. `None`: it may write far more than it holds, as it moves or
/// copies, deletes a subtree, or is a transaction that does. What is no entry is one operation, and
/// applying it fails.
pub fn operations(payload: &[u8]) -> Option<usize> {
    let mut rest = payload;
    while let Some((number, value)) = field(&mut rest) {
        match (number, value) {
            (17, Value::Bytes(delete)) if is_recursive(delete) => return None,
            (22 | 23, _) => return None,
            (24, Value::Bytes(transaction)) => return operations_in(transaction),
            _ => {}
        }
    }
    Some(1)
}

/// How many times field 1 is in a request, up to so many: operations of a transaction; of all other
/// requests one, their key.
pub fn count_operations(request: &[u8], most: usize) -> usize {
    let mut rest = request;
    std::iter::from_fn(|| field(&mut rest))
        .filter(|(number, _)| *number == 1)
        .take(most)
        .count()
}

/// `None`: the transaction deletes a subtree, moves or copies.
fn operations_in(transaction: &[u8]) -> Option<usize> {
    let (mut rest, mut count) = (transaction, 0);
    while let Some((number, value)) = field(&mut rest) {
        let (1, Value::Bytes(mut operation)) = (number, value) else {
            continue;
        };
        match field(&mut operation) {
            Some((2, Value::Bytes(delete))) if is_recursive(delete) => return None,
            Some((5 | 6, _)) => return None,
            _ => count += 1,
        }
    }
    Some(count.max(1))
}

fn is_recursive(delete: &[u8]) -> bool {
    let mut rest = delete;
    while let Some((number, value)) = field(&mut rest) {
        if matches!((number, value), (2, Value::Varint(1..))) {
            return true;
        }
    }
    false
}

/// The hash chain behind one more entry.
pub fn chained(chain: &[u8], index: u64, payload: &[u8], scratch: &mut Vec<u8>) -> [u8; 16] {
    if payload.len() > CHAIN_COPY_BYTES_MAX {
        let mut hasher = Xxh3::new();
        hasher.update(chain);
        hasher.update(&index.to_le_bytes());
        hasher.update(payload);
        return hasher.digest128().to_be_bytes();
    }
    scratch.clear();
    scratch.extend_from_slice(chain);
    scratch.extend_from_slice(&index.to_le_bytes());
    scratch.extend_from_slice(payload);
    xxh3_128(scratch).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::current_key;
    use super::*;

    fn entry(body: &[u8]) -> Vec<u8> {
        let mut out = vec![0x08, 1, 0x1a, 1, b'a', 0x2a, 32];
        out.extend_from_slice(&[7; 32]);
        out.extend_from_slice(&[0x82, 0x01, body.len() as u8]);
        out.extend_from_slice(body);
        out.push(0x11);
        out.extend_from_slice(&5u64.to_le_bytes());
        out
    }

    #[test]
    fn a_plain_put_is_read() {
        let payload = entry(b"\x0a\x03k/x\x12\x02vv");
        let put = plain_put(&payload, 100).unwrap();
        let expected = PlainPut {
            time_ns: 5,
            node: "a",
            principal: "",
            sha256: &[7; 32],
            key: "k/x",
            data: b"vv",
        };
        assert_eq!(put, expected);
        assert_eq!(current_key(put.key.as_bytes()), b"nk\0x");
    }

    #[test]
    fn everything_unusual_is_left_to_others() {
        let bodies: [&[u8]; 12] = [
            b"",                       // no key
            b"\x0a\x00\x12\x01v",      // an empty key
            b"\x0a\x01\x00",           // a NUL
            b"\x0a\x01\xff",           // no UTF-8
            b"\x0a\x02\xc3\xbc",       // not ASCII
            b"\x0a\x02..",             // not allowed
            b"\x0a\x02k/",             // an empty component
            b"\x0a\x01k\x0a\x01k",     // twice
            b"\x0a\x01k\x1a\x00",      // metadata
            b"\x0a\x01k\x20\x00",      // a base revision
            b"\x0a\x01k\x2a\x01i",     // a request id
            b"\x0a\x01k\x12\x05vvvvv", // more than is allowed
        ];
        for body in bodies {
            assert_eq!(plain_put(&entry(body), 4), None, "{body:?}");
            assert_eq!(plain_head(body, b"", 4), None, "{body:?}");
        }
        let good = entry(b"\x0a\x01k");
        assert!(plain_put(&good, 4).is_some());
        for cut in 0..good.len() {
            assert_eq!(plain_put(&good[..cut], 4), None, "{cut}");
        }
    }

    #[test]
    fn a_head_and_its_request_are_an_entry() {
        let body = b"\x0a\x01k\x12\x02vv";
        let mut payload = plain_head(body, b"\x08\x01\x1a\x01a", 2).unwrap();
        payload.extend_from_slice(body);
        payload.push(0x11);
        payload.extend_from_slice(&9u64.to_le_bytes());
        let put = plain_put(&payload, 2).unwrap();
        assert_eq!((put.key, put.data, put.node), ("k", &b"vv"[..], "a"));
        assert_eq!(put.sha256, &Sha256::digest(b"vv")[..]);
    }

    /// An entry with that operation.
    fn operation(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0x08, 1, 0x1a, 1, b'a'];
        out.extend_from_slice(&[(number << 3 | 2) | 0x80, 0x01, body.len() as u8]);
        out.extend_from_slice(body);
        out.push(0x11);
        out.extend_from_slice(&5u64.to_le_bytes());
        out
    }

    #[test]
    fn what_may_write_subtrees_is_known() {
        let put = b"\x0a\x05\x0a\x03\x0a\x01k"; // operations: put k
        let delete = b"\x0a\x05\x12\x03\x0a\x01k";
        let recursive = b"\x0a\x07\x12\x05\x0a\x01k\x10\x01";
        let moved = b"\x0a\x08\x2a\x06\x0a\x01k\x12\x01l";
        let copied = b"\x0a\x08\x32\x06\x0a\x01k\x12\x01l";
        for (found, number, body) in [
            (Some(1), 16, &b"\x0a\x01k\x12\x02vv"[..]),
            (Some(1), 17, b"\x0a\x01k"),
            (Some(1), 17, b"\x0a\x01k\x10\x00"),
            (None, 17, b"\x0a\x01k\x10\x01"),
            (Some(1), 18, b"\x0a\x01k"),
            (Some(1), 19, b"\x0a\x01k\x12\x01l"),
            (Some(1), 21, b"\x0a\x01k"),
            (None, 22, b"\x0a\x01k\x12\x01l"),
            (None, 23, b"\x0a\x01k\x12\x01l"),
            (Some(2), 24, &[&put[..], &delete[..]].concat()),
            (None, 24, &[&put[..], &recursive[..]].concat()),
            (None, 24, &[&put[..], &moved[..]].concat()),
            (None, 24, &[&copied[..], &put[..]].concat()),
        ] {
            let payload = operation(number, body);
            assert_eq!(operations(&payload), found, "{number} {body:?}");
        }
        assert_eq!(operations(b""), Some(1));
        assert_eq!(operations(b"\xff"), Some(1));
        let three = [&put[..], &delete[..], &put[..]].concat();
        for (most, found) in [(0, 0), (2, 2), (3, 3), (9, 3)] {
            assert_eq!(count_operations(&three, most), found);
        }
        assert_eq!(count_operations(b"\x0a\x01k\x12\x02vv", 9), 1, "a put");
        assert_eq!(count_operations(b"\xff", 9), 0);
    }
}
