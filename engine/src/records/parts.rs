//! The entry of a transaction, taken apart: its regular puts, and all else as it is encoded.
use super::entry::{Entry, SHA256_BYTES, plain_key, text};
use super::{current_key, put_varint};
use crate::contents::sha256::digests;
use crate::protobuf::{Value, field};

/// Of the format, at the begin of an entry.
const FORMAT_BYTES: usize = 2;
const REQUEST_ID_BYTES: usize = 16;
/// Number of the operation in an entry.
const TRANSACTION: u64 = 24;
/// Tags in a Record.
const UID_TAG: u64 = 17 << 3;
const GID_TAG: u64 = 18 << 3;

/// The bounds of src/dfs/limits.py that a regular put keeps.
pub struct Rules {
    pub data_bytes_max: usize,
    pub mode_max: u32,
    pub owner_max: u32,
}

impl Rules {
    pub fn new(data_bytes_max: usize, mode_max: u32, owner_max: u32) -> Rules {
        Rules {
            data_bytes_max,
            mode_max,
            owner_max,
        }
    }

    /// For what has been found to keep them.
    pub const NONE: Rules = Rules {
        data_bytes_max: usize::MAX,
        mode_max: u32::MAX,
        owner_max: u32::MAX,
    };
}

/// A put of content under a plain key that may name a revision to replace, mode, mtime and owner,
/// each once, and nothing else. It breaks no rule that can be told without the state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RegularPut<'a> {
    pub key: &'a str,
    pub data: &'a [u8],
    pub base: Option<u64>,
    pub mode: Option<u32>,
    pub mtime_ns: Option<i64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl<'a> RegularPut<'a> {
    /// `None`: it is something else, and whoever knows all forms has to look at it.
    pub fn read(body: &'a [u8], rules: &Rules) -> Option<RegularPut<'a>> {
        let (mut key, mut data, mut named) = (None, None, false);
        let mut put = RegularPut::default();
        let mut rest = body;
        while !rest.is_empty() {
            match field(&mut rest)? {
                (1, Value::Bytes(bytes)) => text(&mut key, bytes)?,
                (2, Value::Bytes(bytes)) if data.is_none() => data = Some(bytes),
                (3, Value::Bytes(metadata)) if !named => {
                    named = true;
                    put.describe(metadata, rules)?;
                }
                (4, Value::Varint(base)) if put.base.is_none() => put.base = Some(base),
                _ => return None,
            }
        }
        put.key = key.filter(|key| plain_key(key))?;
        put.data = data.unwrap_or(b"");
        (put.data.len() <= rules.data_bytes_max).then_some(put)
    }

    /// Takes over what a Metadata names.
    fn describe(&mut self, metadata: &[u8], rules: &Rules) -> Option<()> {
        let mut rest = metadata;
        while !rest.is_empty() {
            let (into, most, number) = match field(&mut rest)? {
                (1, Value::Varint(mode)) => (&mut self.mode, rules.mode_max, mode),
                (3, Value::Varint(uid)) => (&mut self.uid, rules.owner_max, uid),
                (4, Value::Varint(gid)) => (&mut self.gid, rules.owner_max, gid),
                (2, Value::Fixed64(mtime)) if self.mtime_ns.is_none() => {
                    self.mtime_ns = Some(mtime as i64);
                    continue;
                }
                _ => return None,
            };
            let number = u32::try_from(number).ok().filter(|n| *n <= most)?;
            if into.replace(number).is_some() {
                return None;
            }
        }
        Some(())
    }

    /// The fields of its Record behind the request id, encoded.
    pub fn tail(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, owner) in [(UID_TAG, self.uid), (GID_TAG, self.gid)] {
            if let Some(owner) = owner {
                put_varint(&mut out, tag);
                put_varint(&mut out, owner.into());
            }
        }
        out
    }

    /// Where its current version stands.
    pub fn store_key(&self) -> Vec<u8> {
        current_key(self.key.as_bytes())
    }
}

/// An operation of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The request of a regular put, else the whole Operation; encoded.
    pub encoded: &'a [u8],
    /// Of a regular put.
    pub put: Option<RegularPut<'a>>,
    /// Of the content of any put; else empty.
    pub sha256: &'a [u8],
}

/// The entry of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    pub time_ns: u64,
    pub node: &'a str,
    pub principal: &'a str,
    /// 16 bytes, or none.
    pub request_id: &'a [u8],
    /// One at least.
    pub parts: Vec<Part<'a>>,
}

impl<'a> Parts<'a> {
    /// Reads an entry whose format is known. `None`: it is none of a transaction in the usual
    /// form, in which each operation is one of those that are known here and each put has a digest.
    pub fn read(payload: &'a [u8], rules: &Rules) -> Option<Parts<'a>> {
        let entry = Entry::read(payload.get(FORMAT_BYTES..)?, TRANSACTION)?;
        let mut digests = entry.sha256.chunks(SHA256_BYTES);
        let digest = || digests.next().filter(|d| d.len() == SHA256_BYTES);
        let (request_id, parts) = operations(entry.body, rules, digest)?;
        if digests.next().is_some() {
            return None;
        }
        Some(Parts {
            time_ns: entry.time_ns,
            node: entry.node,
            principal: entry.principal,
            request_id,
            parts,
        })
    }
}

/// Digests of all contents of a TransactionRequest, one behind the other. `None`: it has something
/// else than regular puts, or is unusual.
pub fn put_digests(body: &[u8], rules: &Rules) -> Option<Vec<u8>> {
    let (_, parts) = operations(body, rules, || Some(b""))?;
    // All are looked at before the first is hashed: of the others the general way hashes each.
    let puts: Vec<_> = parts
        .into_iter()
        .map(|part| part.put)
        .collect::<Option<_>>()?;
    let data: Vec<&[u8]> = puts.iter().map(|put| put.data).collect();
    Some(digests(&data).concat())
}

/// Request id and operations of a TransactionRequest; each put takes the next `digest`.
fn operations<'a>(
    body: &'a [u8],
    rules: &Rules,
    mut digest: impl FnMut() -> Option<&'a [u8]>,
) -> Option<(&'a [u8], Vec<Part<'a>>)> {
    let (mut request_id, mut parts) = (None, Vec::new());
    let mut rest = body;
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Value::Bytes(operation)) => parts.push(part(operation, rules, &mut digest)?),
            (5, Value::Bytes(id)) if request_id.is_none() => request_id = Some(id),
            _ => return None,
        }
    }
    let request_id = request_id.unwrap_or(b"");
    let usual = [0, REQUEST_ID_BYTES].contains(&request_id.len()) && !parts.is_empty();
    usual.then_some((request_id, parts))
}

/// Reads an Operation that holds one.
fn part<'a>(
    operation: &'a [u8],
    rules: &Rules,
    digest: &mut impl FnMut() -> Option<&'a [u8]>,
) -> Option<Part<'a>> {
    let mut rest = operation;
    let (number @ 1..=7, Value::Bytes(body)) = field(&mut rest)? else {
        return None;
    };
    if !rest.is_empty() {
        return None;
    }
    let (put, sha256) = match number {
        1 => (RegularPut::read(body, rules), digest()?),
        _ => (None, &b""[..]),
    };
    let encoded = if put.is_some() { body } else { operation };
    Some(Part {
        encoded,
        put,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    const RULES: Rules = Rules {
        data_bytes_max: 4,
        mode_max: 0o7777,
        owner_max: 200,
    };
    const ID: &[u8] = b"0123456789abcdef";

    /// A field that holds bytes.
    fn held(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(number) << 3 | 2);
        put_varint(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
        out
    }

    /// A TransactionRequest.
    fn request(operations: &[(u8, &[u8])]) -> Vec<u8> {
        let operations = operations.iter().map(|(n, body)| held(1, &held(*n, body)));
        let mut out = operations.collect::<Vec<_>>().concat();
        out.extend(held(5, ID));
        out
    }

    /// An entry with so many digests.
    fn entry(body: &[u8], digests: u8) -> Vec<u8> {
        let mut out = vec![0x08, 1, 0x1a, 1, b'a', 0x22, 1, b'p'];
        let digests: Vec<_> = (0..digests).map(|n| [n; SHA256_BYTES]).collect();
        out.extend(held(5, &digests.concat()));
        out.extend(held(24, body));
        out.push(0x11);
        out.extend_from_slice(&5u64.to_le_bytes());
        out
    }

    const ALL: &[u8] = b"\x0a\x03k/x\x12\x02vv\x1a\x11\x08\xa4\x03\x11\x09\0\0\0\0\0\0\0\
        \x18\0\x20\xc8\x01\x20\x07";

    #[test]
    fn a_regular_put_is_read() {
        let put = RegularPut::read(ALL, &RULES).unwrap();
        let expected = RegularPut {
            key: "k/x",
            data: b"vv",
            base: Some(7),
            mode: Some(0o644),
            mtime_ns: Some(9),
            uid: Some(0),
            gid: Some(200),
        };
        assert_eq!(put, expected);
        assert_eq!(put.store_key(), b"nk\0x");
        assert_eq!(put.tail(), b"\x88\x01\0\x90\x01\xc8\x01");
        let bare = RegularPut::read(b"\x0a\x01k", &RULES).unwrap();
        assert_eq!(
            (bare.data, bare.base, bare.tail()),
            (&b""[..], None, vec![])
        );
        for cut in 1..ALL.len() {
            let read = RegularPut::read(&ALL[..cut], &RULES);
            assert!(read.is_none_or(|put| put != expected), "{cut}");
        }
    }

    #[test]
    fn everything_unusual_is_left_to_others() {
        let bodies: [&[u8]; 15] = [
            b"",                                          // no key
            b"\x0a\x02..",                                // not allowed
            b"\x0a\x02\xc3\xbc",                          // not ASCII
            b"\x0a\x01k\x0a\x01k",                        // twice
            b"\x0a\x01k\x12\0\x12\0",                     // twice
            b"\x0a\x01k\x20\0\x20\0",                     // twice
            b"\x0a\x01k\x1a\0\x1a\0",                     // twice
            b"\x0a\x01k\x1a\x04\x18\0\x18\0",             // twice
            b"\x0a\x01k\x1a\x02\x30\x01",                 // no extended attributes
            b"\x0a\x01k\x1a\x02\x2a\0",                   // an extended attribute
            b"\x0a\x01k\x1a\x03\x08\x80\x20",             // a mode of 13 bits
            b"\x0a\x01k\x1a\x03\x18\xc9\x01",             // nobody
            b"\x0a\x01k\x1a\x06\x20\x80\x80\x80\x80\x10", // more than 32 bits
            b"\x0a\x01k\x2a\x00",                         // a request id
            b"\x0a\x01k\x12\x05vvvvv",                    // more than is allowed
        ];
        for body in bodies {
            assert_eq!(RegularPut::read(body, &RULES), None, "{body:?}");
            let payload = entry(&request(&[(1, b"\x0a\x01k"), (1, body)]), 2);
            let parts = Parts::read(&payload, &RULES).unwrap().parts;
            assert!(parts[0].put.is_some() && parts[1].put.is_none());
            assert_eq!(parts[1].encoded, held(1, body));
            assert_eq!(put_digests(&request(&[(1, body)]), &RULES), None);
        }
    }

    #[test]
    fn a_transaction_is_taken_apart() {
        let body = request(&[(2, b"\x0a\x01d"), (1, ALL), (1, b""), (4, b"\x0a\x01l")]);
        let payload = entry(&body, 2);
        let read = Parts::read(&payload, &RULES).unwrap();
        assert_eq!((read.time_ns, read.node, read.principal), (5, "a", "p"));
        assert_eq!(read.request_id, ID);
        let encoded: Vec<_> = read.parts.iter().map(|part| part.encoded).collect();
        let others = [(2, &b"\x0a\x01d"[..]), (1, b""), (4, b"\x0a\x01l")];
        let others = others.map(|(number, body)| held(number, body));
        assert_eq!(encoded, [&others[0][..], ALL, &others[1], &others[2]]);
        let digests: Vec<_> = read.parts.iter().map(|part| part.sha256).collect();
        assert_eq!(digests, [b"", &[0; 32][..], &[1; 32], b""]);
        assert_eq!(read.parts[1].put, RegularPut::read(ALL, &RULES));
    }

    #[test]
    fn an_unusual_transaction_is_left_to_others() {
        let good = request(&[(1, ALL)]);
        let payload = entry(&good, 1);
        assert!(Parts::read(&payload, &RULES).is_some());
        for cut in 0..payload.len() {
            assert_eq!(Parts::read(&payload[..cut], &RULES), None, "{cut}");
        }
        for digests in [0, 2] {
            assert_eq!(Parts::read(&entry(&good, digests), &RULES), None);
        }
        for more in [
            &[0x08, 1][..],
            &held(24, &good),
            &held(9, b""),
            &held(3, b"b"),
        ] {
            assert_eq!(Parts::read(&[&payload[..], more].concat(), &RULES), None);
        }
        let both = held(1, &[held(1, ALL), held(2, b"\x0a\x01k")].concat());
        let bodies = [
            vec![],                             // no operation
            held(1, b""),                       // one that is none
            request(&[(8, b"")]),               // one of a newer version
            both,                               // of two the last counts
            [&good[..], &held(5, ID)].concat(), // two ids
            [&held(5, b"short"), &good[..good.len() - 18]].concat(),
        ];
        for body in bodies {
            assert_eq!(Parts::read(&entry(&body, 1), &RULES), None, "{body:?}");
            assert_eq!(put_digests(&body, &RULES), None, "{body:?}");
        }
        let digest = Sha256::digest(b"vv");
        assert_eq!(put_digests(&good, &RULES).unwrap(), &digest[..]);
    }
}
